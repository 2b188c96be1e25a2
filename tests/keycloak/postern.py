"""Postern itself: a configuration is written, the binary runs it, and its log is searched for secrets at the end."""

import os
import re
import signal
import subprocess
import urllib.parse
from contextlib import contextmanager
from pathlib import Path

import jwt

import web

BINARY = os.environ.get("POSTERN") or Path(__file__).resolve().parents[2] / "target/release/postern"
GATEWAY_SECRET = "gateway-secret"  # of the client `gateway` in realm-demo.json
API_KEY = "an-api-key-of-the-upstream"
BOUND = 2.0  # seconds: `user_status.introspection.bound`
REFRESH = 2.0  # seconds: `issuer.realm.keys.refresh`
LEEWAY = 1  # second
COARSE_CLOCK = 0.25  # seconds by which a deadline of Postern's may be late

# Every route that the suite asks for. The credential is the namespace token where nothing else is said.
ROUTES = """
[[route]]
name = "orders"
path = "/orders/**"
upstream = "orders"
headers = { x-auth-user = "sub", x-auth-username = "username", x-auth-namespace = "namespace" }

[[route]]
name = "with-roles"
path = "/with-roles/**"
upstream = "orders"
credential = { namespace-token = { audience = "billing-api", roles = ["read*"], groups = ["*"] } }

[[route]]
name = "readers"
path = "/readers/**"
upstream = "orders"
access = { any_role = ["reader", "librarian"] }

[[route]]
name = "pass"
path = "/pass/**"
upstream = "orders"
credential = "pass"

[[route]]
name = "none"
path = "/none/**"
upstream = "orders"
credential = "none"
headers = { x-auth-user = "sub" }

[[route]]
name = "secret"
path = "/secret/**"
upstream = "orders"
credential = { secret = { header = "x-api-key", value = { file = "api.key" } } }

[[route]]
name = "machines"
path = "/machines/**"
upstream = "orders"
access = { claims = { azp = "robot" } }
credential = { namespace-token = { target = "machines" } }
"""


def configuration(
    gateway, upstream, keycloak, *, lightweight=False, when_unknown='"deny"', further_issuer=None, drain_deadline="5s",
    more="",
):
    """The TOML file of one gateway."""
    issuers = [issuer("realm", keycloak.url, when_unknown, lightweight)]
    if further_issuer:
        issuers.append(issuer("further", further_issuer.url, when_unknown, False))
    return f"""version = 1

[server]
listen = "127.0.0.1:{gateway.port}"
drain_wait = "0s"
drain_deadline = "{drain_deadline}"

[admin]
listen = "127.0.0.1:{gateway.admin_port}"

[log]
level = "debug"
access = {{ file = "access.log" }}

[token_service]
issuer = "{gateway.url}"

[upstream.orders]
to = "{upstream.url}"
audience = "orders-api"
{"".join(issuers)}{ROUTES}{more}"""


def issuer(name, url, when_unknown, lightweight):
    return f"""
[issuer.{name}]
url = "{url}"
audience = "gateway"
leeway = "{LEEWAY}s"
lightweight = {str(lightweight).lower()}
keys = {{ refresh = "{REFRESH:g}s" }}

[issuer.{name}.user_status.introspection]
client_id = "gateway"
client_secret = {{ file = "client.pw" }}
bound = "{BOUND:g}s"
timeout = "1s"
when_unknown = {when_unknown}
"""


@contextmanager
def all_stopped():
    """Gives a list for gateways. In the end each is stopped, and its log searched for secrets."""
    gateways = []
    yield gateways
    problems = []
    for gateway in gateways:
        try:
            gateway.stop()
        except AssertionError as problem:
            problems.append(f"{gateway.folder}: {problem}")
    assert not problems, "\n".join(problems)


class Postern:
    """One gateway on free ports, in a folder of its own."""

    environment = {}  # what it has beside that of the suite

    def __init__(self, folder, upstream, keycloak, **settings):
        self.folder = folder
        self.port, self.admin_port = web.free_port(), web.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._upstream, self._keycloak = upstream, keycloak
        self._further_issuer = settings.get("further_issuer")
        (folder / "client.pw").write_text(GATEWAY_SECRET)
        (folder / "api.key").write_text(API_KEY)
        (folder / "postern.toml").write_text(self.configuration(upstream, keycloak, **settings))
        self._process = None

    def configuration(self, upstream, keycloak, **settings):
        """The TOML file; another suite has another."""
        return configuration(self, upstream, keycloak, **settings)

    def start(self, until_ready=True):
        with open(self.folder / "postern.log", "ab") as log:
            self._process = subprocess.Popen(
                [BINARY, "run", "-c", "postern.toml"], cwd=self.folder, env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wanted = (200,) if until_ready else (200, 503)
        web.eventually("the admin listener answers /readyz", lambda: self.readiness() in wanted)
        return self

    def readiness(self):
        """The status of /readyz; None while nothing listens."""
        if self._process.poll() is not None:
            raise AssertionError(f"postern ended with status {self._process.returncode}\n{self.log()[-3000:]}")
        try:
            return self.admin("/readyz").status
        except ConnectionRefusedError:
            return None

    def stop(self):
        """Ends it as an operator does. It must end by itself, with status 0 and without having told a secret."""
        if self._process.poll() is None:
            metrics = self.admin("/metrics").body.decode()
            self._process.send_signal(signal.SIGTERM)
            try:
                status = self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                raise AssertionError("postern did not end within 15 s of SIGTERM") from None
            assert status == 0, f"postern ended with status {status}\n{self.log()[-3000:]}"
            assert not (leaks := self.leaks(metrics)), leaks

    def call(self, path="/orders/1", token=None, method="GET", headers=None):
        """A request through the gateway, as a client sends it."""
        headers = dict(headers or {})
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        return web.send(method, self.url + path, headers=headers)

    def run(self, *arguments):
        """The binary with a command, in the gateway's folder."""
        return subprocess.run(
            [BINARY, *arguments], cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )

    def operate(self, token, *arguments, succeeds=True):
        """A command at the operator's address, as the holder of a token. Gives what it prints."""
        file = self.folder / "operator.token"
        file.touch(mode=0o600)
        file.write_text(str(token))

        def is_late(done):
            # To be refused for want of Keycloak's time is what a test waits for.
            return "refused with 503" in done.stderr and (succeeds or "what time it is" not in done.stderr)

        done = web.judged(lambda: self.run(*arguments, "-c", "postern.toml", "--token-file", "operator.token"), is_late=is_late)
        assert (done.returncode == 0) == succeeds, f"{arguments}: {done}"
        return done.stdout if succeeds else done.stdout + done.stderr

    def admin(self, path):
        return web.send("GET", f"http://127.0.0.1:{self.admin_port}{path}")

    def log(self):
        """The operator's log and the access log."""
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.log")))

    def leaks(self, *further_texts):
        """Where a token or a secret that this suite knows stands in a log (or in `further_texts`)."""
        text = "\n".join((self.log(), *further_texts))
        tokens = self._keycloak.issued | self._upstream.bearers
        if self._further_issuer:
            tokens |= self._further_issuer.issued
        # The header of a token is the same for thousands and tells nothing; its payload and signature must not be seen.
        parts = {part for token in tokens for part in token.split(".")[1:]} | {GATEWAY_SECRET, API_KEY}
        words = set(re.findall(r"[A-Za-z0-9_-]{12,}", text))
        return sorted(part for part in parts if part in words)

    def verify(self, token, audience):
        """Verifies a minted token as an upstream does: knowing nothing but Postern's URL. Gives header and claims."""
        discovery = web.send("GET", f"{self.url}/.well-known/openid-configuration").json
        assert discovery["issuer"] == self.url
        assert urllib.parse.urlsplit(discovery["jwks_uri"]).netloc == f"127.0.0.1:{self.port}"
        keys = jwt.PyJWKSet.from_dict(web.send("GET", discovery["jwks_uri"]).json)
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(
            token, keys[header["kid"]], algorithms=["ES256"], audience=audience, issuer=self.url,
            options={"require": ["exp", "iat", "nbf", "iss", "aud", "sub", "jti"]},
        )
        return header, claims


class Patient(Postern):
    """Asks again where Keycloak did not answer in time: that is no judgement."""

    def call(self, *arguments, **settings):
        ask = super().call
        return web.judged(lambda: ask(*arguments, **settings), is_late=lambda answer: answer.reason == "user_status_unknown")

    def short_lived(self, keycloak, user):
        """A token of three seconds that was let in while it was good."""

        def in_time():
            token = keycloak.login(user, "cli-short").access_token
            return self.call("/orders/1", token).status == 200 and token

        return web.eventually("it is let in while it is good", in_time)


def within_bound(ask, is_old, since, bound=BOUND):
    """Asks until the old state is gone, and holds the promise: nothing *sent* later than the bound may still show it.

    `since` is when Keycloak had acknowledged the change. Judging by when a request was sent, not by when it was
    answered, keeps the verdict the same on a slow machine. A 503 is no answer to the question, so it is asked again.
    Gives the first new answer.
    """

    def new():
        answer = ask()
        if answer.status == 503:
            return None
        if not is_old(answer):
            return answer
        late = answer.sent_at - since
        assert late <= bound + COARSE_CLOCK, f"{late:.2f} s after the change: {answer}"
        return None

    return web.eventually("the change is seen", new)


def refused_within_bound(gateway, token, since, path="/orders/1", status=401, bound=BOUND):
    """A token that was let in is refused within the bound, and stays so. Gives the first refusal."""
    first = within_bound(lambda: gateway.call(path, token), lambda answer: answer.status == 200, since, bound)
    assert first.status == status, first
    for _ in range(5):
        assert gateway.call(path, token).status == status, "refused, and then let in again"
    return first
