"""Postern under the acceptance kit: writes the configuration that the kit's generic.toml asks for, and starts it.

The binary is $POSTERN, or the checkout's release build. $POSTERN_KIT_LOG, if set, is a file that its log goes to."""

import os
import shutil
from pathlib import Path

from adapters import Process

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
version = 1

[server]
listen = "127.0.0.1:{gateway}"
header_timeout = "{header_timeout}s"
drain_wait = "0s"
drain_deadline = "1s"

[issuer.main]
{issuer_main}

[issuer.other]
{issuer_other}

[upstream.kit]
to = "http://127.0.0.1:{upstream}"
response_timeout = "{response_timeout}s"

[[route]]
name = "public"
path = "/public/**"
upstream = "kit"
access = "public"

[[route]]
name = "api"
path = "/api/**"
upstream = "kit"
issuers = ["main"]
headers = {{ {identity} = "sub" }}

[[route]]
name = "admin"
path = "/admin/**"
upstream = "kit"
issuers = ["main"]
access = {{ any_role = ["admin"] }}
headers = {{ {identity} = "sub" }}

[[route]]
name = "other"
path = "/other/**"
upstream = "kit"
issuers = ["other"]
headers = {{ {identity} = "sub" }}

[token_service]
issuer = "http://127.0.0.1:{gateway}"
signing_keys = {{ directory = "signing-keys" }}

[log]
access = {{ file = "access.log" }}

[admin]
listen = "off"

[limits]
failed_authentications = "off"
"""
# All its callers, good and bad, have one address; limits by address have tests of their own.
# The kit's users own a namespace of their own name, so every token can be traded for a namespace token.
# A first sight must not wait longer than the second that the kit allows while the issuer hangs.
ISSUER = """\
url = "http://127.0.0.1:{port}/realms/{realm}"
audience = "{audience}"
algorithms = {algorithms}
leeway = "{leeway}s"
roles_claims = ["roles"]
namespace_claim = "sub"
keys = {{ refresh = "{refresh}s", timeout = "2s" }}
user_status = {{ introspection = {{ client_id = "gateway", client_secret = {{ file = "client-secret" }}, bound = "{bound}s", timeout = "500ms", when_unknown = {{ allow_for = "5m" }} }} }}"""


class Gateway(Process):
    features = {"identity", "inject", "h2c", "websocket", "roles", "jwks", "discovery", "users", "restart", "pid"}

    def argv(self):
        (self.work / "client-secret").write_text("gateway-secret\n")
        path = self.work / "postern.toml"
        path.write_text(self.config())
        build = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/postern"
        return [os.environ.get("POSTERN", str(build)), "run", "-c", str(path)]

    def stop(self):
        super().stop()
        if "POSTERN_KIT_LOG" in os.environ:
            shutil.copy(self.work / "gateway.log", os.environ["POSTERN_KIT_LOG"])

    def config(self):
        s = self.s
        return CONFIG.format(
            gateway=s["gateway_port"],
            upstream=s["upstream_port"],
            header_timeout=s["listen"]["header_timeout_s"],
            response_timeout=s["upstream"]["timeout_s"],
            identity=s["headers"]["identity"],
            issuer_main=self.issuer("main"),
            issuer_other=self.issuer("other"),
        )

    def issuer(self, realm):
        s, main = self.s, self.s["issuer"]["main"]
        return ISSUER.format(
            port=s["issuer_port"],
            realm=realm,
            audience=s["issuer"][realm]["audience"],
            algorithms=str(main["algorithms"]).replace("'", '"'),
            leeway=main["leeway_s"],
            refresh=s["jwks"]["cache_s"],
            bound=s["users"]["users_s"] // 3,
        )
