"""The parts of a fault: backends, Postern between them and k6, and what is known afterwards."""

import base64
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "bench"))
sys.path.append(str(HERE.parent / "keycloak"))
from harness import POSTERN, Bench, descriptors, resident  # noqa: E402  bench/harness.py
from web import free_port  # noqa: E402  tests/keycloak/web.py

K6 = Path(sys.executable).with_name("k6")
# Who asks for what, unless a fault says something else.
MIX = {"get": 8, "post": 4, "upload": 2, "download": 2}
RETRY = 'retry = { max_retries = 2, per_try_timeout = "2s" }'
# An endpoint that failed is out for a second only, so that it fails again and again.
OUT = 'outlier_detection = { base_ejection_time = "1s", max_ejection_time = "1s" }'


def raise_limit():
    """As many descriptors as may be had, for this process and those it starts."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def until(what, holds, patience=30):
    """Waits until `holds()`; gives what it gave."""
    limit = time.monotonic() + patience
    while not (value := holds()):
        if time.monotonic() > limit:
            raise TimeoutError(f"not within {patience} s: {what}")
        time.sleep(0.02)
    return value


class Backend:
    """A backend.py that can be told to fail, killed and started again on its port."""

    def __init__(self, lab, name):
        self.port, self.journal = free_port(), lab.work / f"{name}.journal"
        self.lab, self.child = lab, None
        self.start()
        lab.callback(lambda: self.child.kill())

    def start(self):
        command = [sys.executable, HERE / "backend.py", str(self.port), self.journal]
        log = (self.lab.work / "processes.log").open("ab")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
        self.child = subprocess.Popen(command, text=True, bufsize=1, **pipes)
        if self.child.stdout.readline().strip() != "ready":
            raise RuntimeError(f"a backend does not listen on {self.port}")

    def kill(self):
        self.child.kill()
        self.child.wait()

    def become(self, mode, seconds=0.0):
        return self.ask({"mode": mode, "seconds": seconds})

    def counts(self):
        return self.ask({})

    def ask(self, command):
        self.child.stdin.write(json.dumps(command) + "\n")
        return Counter(json.loads(self.child.stdout.readline()))

    def effects(self):
        """What it took that is no GET, in order."""
        return self.journal.read_text().split()


class Gateway:
    """A Postern in front of the backends, on postern.toml.in with what is given."""

    def __init__(self, lab, **settings):
        self.lab, self.port, self.admin = lab, free_port(), free_port()
        self.scheme = "https" if "tls" in settings.get("SERVER", "") else "http"
        self.url, self.settings, self.child = f"{self.scheme}://127.0.0.1:{self.port}", settings, None
        self.config = lab.work / f"postern-{self.port}.toml"
        self.write()

    def write(self, **changes):
        self.settings |= changes
        values = {
            "PORT": self.port,
            "ADMIN": self.admin,
            "ISSUER": self.lab.issuer,
            "WORK": self.lab.work / f"gateway-{self.port}",
            "TO": ", ".join(f'"http://127.0.0.1:{backend.port}"' for backend in self.lab.backends),
            "UPSTREAM": f"{RETRY}\n{OUT}",
            "BOUND": "30s",
            "SERVER": "",
            "ROUTE": "",
            "MORE": "",
        } | self.settings
        values["WORK"].mkdir(exist_ok=True)
        text = (HERE / "postern.toml.in").read_text()
        text = re.sub(r"@([A-Z]+)@", lambda found: str(values[found[1]]), text)
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.rename(self.config)

    def start(self):
        self.child = self.lab.start([POSTERN, "run", "-c", str(self.config)], self.port)
        until("the gateway is ready", self.is_ready)
        return self

    def is_ready(self):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=5).status == 200
        except OSError:
            return False

    def metric(self, name, **labels):
        """The sum of a metric over all labels but those that are given."""
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=30).read().decode()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in text.splitlines() if re.match(name + r"[ {]", line) and all(one in line for one in wanted)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def reload(self, outcome="ok", **changes):
        """Changes the file, says so by SIGHUP and waits until it was read."""
        count = lambda: self.metric("postern_config_reloads_total", outcome=outcome)  # noqa: E731
        before = count()
        self.write(**changes)
        self.child.send_signal(signal.SIGHUP)
        until(f"a reload is {outcome}", lambda: count() > before)

    def descriptors(self):
        """All but connections to backends and issuer, which are kept for a while."""
        return descriptors(self.child.pid, {backend.port for backend in self.lab.backends} | {urlsplit(self.lab.issuer).port})

    def resident(self):
        """Bytes of memory that it holds."""
        return resident(self.child.pid)


class Lab(Bench):
    """An issuer, three backends, and as many gateways as are started."""

    def __init__(self, backends=3):
        super().__init__()
        self.issuer = self.start_issuer("tokens:ES256:64:16")
        self.backends = [Backend(self, f"backend-{number}") for number in range(backends)]

    def gateway(self, **settings):
        return Gateway(self, **settings).start()

    def token(self):
        return self.tokens("tokens")[0]

    def outsider(self, name):
        """A token of a user whom k6 does not play, and their `sub`."""
        url = f"{self.issuer}/protocol/openid-connect/token"
        with urllib.request.urlopen(url, f"grant_type=password&username={name}".encode(), timeout=30) as answer:
            token = json.load(answer)["access_token"]
        payload = token.split(".")[1]
        return token, json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]

    def effects_twice(self):
        """How many requests that are no GET reached backends more than once."""
        effects = [effect for backend in self.backends for effect in backend.effects()]
        return len(effects) - len(set(effects))

    def asked_twice(self, load):
        """Requests that k6 sent a second time by itself, by kind. Go does so with a GET whose kept connection ends before a byte of the
        answer; the access logs tell, since each request has a path of its own. They count as failed."""
        time.sleep(1)  # lines are buffered for half a second
        logs = "".join(log.read_text() for log in self.work.glob("gateway-*/access.log"))
        asked = Counter(re.findall(r'"path":"/api/(?:echo|big)/([a-z]+)-(\d+-\d+)"', logs))
        again = Counter()
        for (kind, _), count in asked.items():
            again[kind] += count - 1
        return {kind: again[kind] for kind in load.mix}

    @contextmanager
    def load(self, url, mix=None, phases=("load",), pause=0.01, fresh=False, environment=None):
        """k6 on `url` while the block runs; gives a `Load`, whose figures are there after the block."""
        load = Load(self, url, mix or MIX, phases, pause, fresh, environment or {})
        try:
            load.wait()
            yield load
            load.end()
            load.hidden = self.asked_twice(load)
        finally:
            load.close()


class Load:
    """A k6 and the phase that it is told."""

    def __init__(self, lab, url, mix, phases, pause, fresh, environment):
        self.phase, self.callers, self.count = phases[0], set(), sum(mix.values())
        self.mix, self.phases = mix, phases
        self.summary, self.log = (lab.work / f"k6-{time.monotonic_ns()}.{kind}" for kind in ("json", "log"))
        load = self

        class Control(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                load.callers.add(self.path)
                phase = load.phase.encode()
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(phase) + phase)

            def log_message(self, *_):
                pass

        self.control = ThreadingHTTPServer(("127.0.0.1", 0), Control)
        self.control.daemon_threads, self.control.handle_error = True, lambda *_: None
        Thread(target=self.control.serve_forever, daemon=True).start()
        settings = {
            "GATEWAY": url,
            "CONTROL": f"http://127.0.0.1:{self.control.server_address[1]}/",
            "TOKENS": lab.work / "tokens.txt",
            "SUMMARY": self.summary,
            "KINDS": ",".join(f"{kind}:{count}" for kind, count in mix.items()),
            "PHASES": ",".join(phases),
            "PAUSE": pause,
            "FRESH": "yes" if fresh else "no",
        }
        command = [K6, "run", "--quiet", "--no-usage-report", "--address", "127.0.0.1:0", "--log-output", f"file={self.log}", "--log-format", "raw"]
        for key, value in settings.items():
            command += ["-e", f"{key}={value}"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(lab.work)} | environment
        self.child = subprocess.Popen([*command, HERE / "load.js"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)

    def wait(self):
        until("all callers are at work", lambda: len(self.callers) == self.count or self.child.poll() is not None, 60)
        if self.child.poll() is not None:
            raise RuntimeError(f"k6 ended at once:\n{self.log.read_text()[-2000:]}")

    def tell(self, phase):
        """Changes the phase; what callers send from now on is in it, and nothing of the one before is under way."""
        self.phase = phase
        self.callers.clear()
        until("every caller knows the phase", lambda: len(self.callers) == self.count, 60)

    def go_on(self, seconds):
        """Lets the load run. k6 must be alive at the end of it."""
        time.sleep(seconds)
        if self.child.poll() is not None:
            raise RuntimeError("k6 ended in the middle of the load")

    def end(self):
        self.phase = "end"
        self.child.wait(120)
        metrics = json.loads(self.summary.read_text())["metrics"]
        values = {name: data["values"] for name, data in metrics.items()}
        of = lambda metric, kind: int(values.get(f"{metric}{{kind:{kind}}}", {}).get("count", 0))  # noqa: E731
        self.sent = {kind: of("sent", kind) for kind in self.mix}
        self.failed = {kind: of("failed", kind) for kind in self.mix}
        self.took = {phase: values.get(f"took{{phase:{phase}}}", {}) for phase in self.phases}
        self.failures = [line for line in self.log.read_text().splitlines() if line.split(" ")[0] in self.mix]

    def lost(self):
        """How many of each kind had no answer, or another than theirs."""
        return {kind: self.failed[kind] + self.hidden[kind] for kind in self.mix}

    def close(self):
        if self.child.poll() is None:
            self.child.kill()
            self.child.wait()
        self.control.shutdown()
        self.control.server_close()
