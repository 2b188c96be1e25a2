"""Processes, configurations and the score of a bench. Everything it starts is on loopback and ends with it."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
POSTERN = os.environ.get("POSTERN", "")
ECHO = '{"authorization":"$http_authorization"}'
ANSWER = '{"ok":true,"padding":"%s"}' % ("x" * 104)  # 128 bytes
NGINX = """\
daemon off;
pid {work}/{name}.pid;
error_log {work}/{name}.err warn;
worker_processes 1;
{top}
events {{ worker_connections 4096; }}
http {{
    access_log {access_log};
    keepalive_requests 100000000;
    large_client_header_buffers 8 32k;
    client_body_temp_path {work}/{name}-body;
    proxy_temp_path {work}/{name}-proxy;
    fastcgi_temp_path {work}/{name}-fastcgi;
    uwsgi_temp_path {work}/{name}-uwsgi;
    scgi_temp_path {work}/{name}-scgi;
    {http}
    server {{ listen 127.0.0.1:{port}; {server} }}
}}
"""


class Score:
    """Counts what was asserted, says so as it goes, and ends the program: `with Score() as score`."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, holds, what):
        self.passed, self.failed = self.passed + bool(holds), self.failed + (not holds)
        print(f"{'ok    ' if holds else 'FAILED'} {what}", flush=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind and issubclass(kind, Exception):
            traceback.print_exception(error)
            self.check(False, "the bench itself came to its end")
        elif kind:
            return
        print(f"{self.passed} passed, {self.failed} failed, 0 skipped")
        sys.exit(1 if self.failed or not self.passed else 0)


class Trial:
    """What a `Score` would count, kept until it is known whether it counts."""

    def __init__(self):
        self.checks = []

    def check(self, holds, what):
        self.checks.append((holds, what))


# A machine that does not run a thread for so long, in seconds, stood still.
STANDSTILL = 0.5


class Standstill(threading.Thread):
    """For how long at the most no thread ran: `with Standstill() as still`, then `still.longest`, in seconds."""

    def __init__(self):
        super().__init__(daemon=True)
        self.longest, self._over = 0.0, threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join()

    def run(self):
        last = time.monotonic()
        while not self._over.wait(0.02):
            now = time.monotonic()
            last, self.longest = now, max(self.longest, now - last)


def steadily(score, name, play):
    """Gives what `play(trial)` gives. Where something failed while the machine stood still, which measures nothing, it is played once more, and
    at most twice."""
    for tries_left in (2, 1, 0):
        trial = Trial()
        with Standstill() as still:
            result = play(trial)
        if not tries_left or still.longest < STANDSTILL or all(holds for holds, _ in trial.checks):
            for holds, what in trial.checks:
                score.check(holds, what)
            return result
        print(f"{name}: the machine stood still for {still.longest:.1f} s, so it is played again", flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def resident(pid):
    """Bytes of memory that a process holds."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024


def descriptors(pid, without):
    """How many descriptors a process has open, but for connections to these ports."""
    process = Path(f"/proc/{pid}")
    rows = [line.split() for line in (process / "net/tcp").read_text().splitlines()[1:]]
    left_out = {f"socket:[{row[9]}]" for row in rows if int(row[2].split(":")[1], 16) in without}
    count = 0
    for entry in os.listdir(process / "fd"):
        try:
            count += os.readlink(process / "fd" / entry) not in left_out
        except FileNotFoundError:
            pass
    return count


class Bench(ExitStack):
    """A scratch folder and the processes that run in it."""

    def __init__(self):
        super().__init__()
        # A caller's time limit ends the bench by SIGTERM: what it started must end too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
        self.work = Path(self.enter_context(tempfile.TemporaryDirectory(prefix="postern-bench-")))
        self.work.chmod(0o755)  # nginx reads it as another user

    def start(self, command, port, prefix=(), patience=30):
        """A process that listens on `port`; it is ended with the bench if `stop` did not end it before."""
        child = self.spawn(command, prefix)
        limit = time.monotonic() + patience
        while time.monotonic() < limit:
            if child.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return child
            except OSError:
                time.sleep(0.05)
        tail = (self.work / "processes.log").read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{command[0]} does not listen on {port}:\n{tail}")

    def spawn(self, command, prefix=()):
        """A process that nobody waits for; it is ended as one of `start` is."""
        with (self.work / "processes.log").open("ab") as log:
            child = subprocess.Popen([*prefix, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.work)
        self.callback(self.stop, child)
        return child

    @staticmethod
    def stop(child, patience=60):
        """Ends a process by SIGTERM: the traced one, where it is strace that was started."""
        if child.poll() is not None:
            return
        traced = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        is_strace = Path(f"/proc/{child.pid}/comm").read_text().strip() == "strace"
        os.kill(int(traced[0]) if is_strace and traced else child.pid, signal.SIGTERM)
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise RuntimeError("a process did not end on SIGTERM") from None

    def nginx_command(self, name, port, server, http="", top="", access_log="off"):
        conf = self.work / f"{name}.conf"
        conf.write_text(
            NGINX.format(
                work=self.work, name=name, port=port, server=server, http=http, top=top, access_log=access_log
            )
        )
        return ["nginx", "-c", str(conf)]

    def start_upstream(self):
        """nginx as the upstream: 128 bytes at any path, and at /api/echo the Authorization that it was given."""
        port = free_port()
        server = (
            "default_type application/json; "
            f"location = /api/echo {{ return 200 '{ECHO}'; }} location / {{ return 200 '{ANSWER}'; }}"
        )
        self.start(self.nginx_command("upstream", port, server), port)
        return port

    def start_issuer(self, *pools):
        """The issuer's URL. A pool NAME:ALG:TOKENS:USERS is afterwards in NAME.txt."""
        command = [sys.executable, str(HERE / "issuer.py"), "--work", str(self.work)]
        for pool in pools:
            command += ["--pool", pool]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.callback(self.stop, child)
        url = child.stdout.readline().strip()
        if not url:
            raise RuntimeError("the issuer did not start")
        return url

    def tokens(self, pool):
        return (self.work / f"{pool}.txt").read_text().split()

    def postern_command(self, port, upstream, issuer, bound="30s", access_log=True):
        """Postern on bench/postern.toml.in; the benches differ in the access log and in `bound`, None for no user status."""
        text = (HERE / "postern.toml.in").read_text()
        values = {
            "LISTEN": f"127.0.0.1:{port}",
            "UPSTREAM": f"http://127.0.0.1:{upstream}",
            "ISSUER": issuer,
            "WORK": str(self.work),
        }
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        if bound:
            text = text.replace('bound = "30s"', f'bound = "{bound}"')
        else:
            text = re.sub(r"^user_status = .*$", 'user_status = "none"', text, flags=re.M)
        if not access_log:
            text = re.sub(r"^access = .*$", 'access = "off"', text, flags=re.M)
        config = self.work / f"postern-{port}.toml"
        config.write_text(text)
        return [POSTERN, "run", "-c", str(config)]
