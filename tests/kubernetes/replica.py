"""Postern in a cluster: the binary in one of its roles, with the rights of that role's ServiceAccount and no others."""

import base64
import os
import re
import subprocess

import web

TOKEN_SERVICE = """version = 1

[kubernetes]
role = "token-service"
kubeconfig = "kubeconfig"
namespace = "postern"

[server]
listen = "127.0.0.1:{server}"
drain_wait = "0s"

[admin]
listen = "127.0.0.1:{admin}"

[webhook]
listen = "127.0.0.1:{webhook}"
names = ["127.0.0.1"]

[issuer.main]
url = "http://127.0.0.1:9/realms/demo"
audience = "gateway"
user_status = {{ keycloak = {{ client_id = "a", client_secret = {{ file = "secret" }} }} }}

[delivery]
issuer = "main"

[token_service]
issuer = "http://127.0.0.1:{server}"
"""

GATEWAY = """version = 1

[kubernetes]
role = "gateway"
kubeconfig = "kubeconfig"
namespace = "postern"

[server]
listen = "127.0.0.1:{server}"
drain_wait = "0s"

[admin]
listen = "127.0.0.1:{admin}"

[issuer.main]
url = "http://127.0.0.1:9/realms/demo"
audience = "gateway"
user_status = "none"

[upstream.orders]
to = "http://127.0.0.1:9"

[[route]]
path = "/orders/**"
upstream = "orders"
"""


class Replica:
    """One process. No issuer is there, which is not what is looked at here."""

    def __init__(self, folder, account, text):
        self._folder = folder
        self.ports = {name: web.free_port() for name in ("server", "admin", "webhook")}
        folder.mkdir()
        (folder / "secret").write_text("secret")
        (folder / "kubeconfig").touch(0o600)
        (folder / "kubeconfig").write_text(account.kubeconfig_text())
        (folder / "postern.toml").write_text(text.format(**self.ports))

    def __enter__(self):
        with open(self._folder / "log", "ab") as log:
            command = [os.environ["POSTERN"], "run", "-c", "postern.toml"]
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        return self

    def __exit__(self, *_):
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert "PRIVATE KEY" not in self.log

    @property
    def log(self):
        return (self._folder / "log").read_text()

    @property
    def hook(self):
        return f"https://127.0.0.1:{self.ports['webhook']}/mutate"

    def waits_for(self):
        """What `/readyz` says is missing."""
        status = self._process.poll()
        assert status is None, f"it ended: {status}\n{self.log[-3000:]}"
        try:
            return web.send("GET", f"http://127.0.0.1:{self.ports['admin']}/readyz").body.decode()
        except OSError:
            return "everything"

    def keys(self):
        """The ids of the keys that it publishes; none while it has none."""
        try:
            answer = web.send("GET", f"http://127.0.0.1:{self.ports['server']}/.well-known/jwks.json")
        except OSError:
            return []
        return sorted(key["kid"] for key in answer.json["keys"]) if answer.status == 200 else []

    def metric(self, name):
        text = web.send("GET", f"http://127.0.0.1:{self.ports['admin']}/metrics").body.decode()
        return float(re.search(rf"^{name} (\S+)$", text, re.M)[1])


def authorities(bundle):
    """How many certificates a `caBundle` holds."""
    return base64.b64decode(bundle).count(b"BEGIN CERTIFICATE")


def mounted(answer):
    """The paths at which each container of a made pod has the token, and whether the volume is there."""
    spec = answer.json["spec"]
    volumes = [volume["name"] for volume in spec.get("volumes", [])]
    mounts = [mount["mountPath"] for each in spec["containers"] for mount in each.get("volumeMounts", [])]
    return "postern-auth-token" in volumes, "/etc/secrets/ezua" in mounts
