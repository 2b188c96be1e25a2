"""Postern between clients and servers that were made elsewhere: every host of its routes is an upstream of the suite."""

import os
import signal
import subprocess
from pathlib import Path

import web

BINARY = os.environ.get("POSTERN") or Path(__file__).resolve().parents[2] / "target/release/postern"

# A route that names no methods takes only the first seven.
METHODS = 'methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT", "SEARCH", "M-SEARCH", "FROB"]'

# Beside an upstream for each host: what only a few tests need.
ROUTES = """
[[route]]
name = "small"
host = "small.test"
path = "/**"
upstream = "{default}"
access = "public"
max_body_bytes = "1KiB"

[[route]]
name = "closed"
host = "closed.test"
path = "/**"
upstream = "{default}"
issuers = ["self"]
"""


class Gateway:
    """One Postern on free ports. `upstreams` are lines of `[upstream.NAME]` by name; each is reached at the host NAME.test, and `default`
    at every other. `at` stands before its command, and before curl's; `server` is one more line of `[server]`."""

    def __init__(self, folder, upstreams, default, tls=None, address="127.0.0.1", at=(), server=""):
        self.folder, self.tls = folder, tls
        self.port, self.admin_port = web.free_port(), web.free_port()
        self.address, self._at = address, at
        host = f"[{address}]" if ":" in address else address
        self.url = f"http{'s' if tls else ''}://{host}:{self.port}"
        self._process = None
        parts = [f'version = 1\n\n[server]\nlisten = "{host}:{self.port}"\nworkers = 1\ndrain_wait = "0s"\ndrain_deadline = "2s"\n{server}']
        if tls:
            parts.append(f'[server.tls]\ncertificate = "{tls.certificate}"\nkey = "{tls.key}"')
        parts.append(f'[admin]\nlisten = "127.0.0.1:{self.admin_port}"')
        parts.append('[log]\nlevel = "info,postern=debug"\naccess = { file = "access.log" }')
        parts.append(f'[token_service]\nissuer = "{self.url if tls else "http://127.0.0.1:1"}"')
        for name, lines in upstreams.items():
            parts.append(f"[upstream.{name}]\n{lines}")
            parts.append(f'[[route]]\nname = "{name}"\nhost = "{name}.test"\npath = "/**"\nupstream = "{name}"\naccess = "public"\n{METHODS}')
        parts.append(f'[[route]]\nname = "default"\npath = "/**"\nupstream = "{default}"\naccess = "public"\n{METHODS}')
        parts.append(ROUTES.format(default=default))
        (folder / "postern.toml").write_text("\n\n".join(parts))

    def start(self):
        with open(self.folder / "postern.log", "ab") as log:
            self._process = subprocess.Popen(
                [*self._at, BINARY, "run", "-c", "postern.toml"], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        web.eventually("the admin listener answers /readyz", self._is_ready, 120)
        return self

    def _is_ready(self):
        assert self._process.poll() is None, f"postern ended\n{self.log()[-3000:]}"
        return self.ask("/readyz") is not None

    def ask(self, path):
        """What the admin listener answers; None if it does not, or not with 200."""
        command = [*self._at, "curl", "--silent", "--fail", "--max-time", "15", f"http://127.0.0.1:{self.admin_port}{path}"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        return told.stdout if told.returncode == 0 else None

    def log(self):
        return (self.folder / "postern.log").read_text()

    def stop(self):
        """It must end by itself, and must not have panicked."""
        if self._process is None:
            return
        assert self._process.poll() is None, f"postern ended by itself\n{self.log()[-3000:]}"
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError("postern did not end within 60 s of SIGTERM") from None
        assert status == 0 and "panicked" not in self.log(), f"postern ended with status {status}\n{self.log()[-3000:]}"
