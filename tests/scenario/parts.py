"""Postern in its two roles, as deploy/kubernetes runs it: each with the rights of its ServiceAccount, and nothing else."""

import http.client
import json
import os
import re
import ssl
import time
import urllib.parse

import postern
import web

BOUND = 4.0  # seconds: `user_status.keycloak.bound`
OFFBOARD_AFTER = 60.0  # seconds: the least that can be configured
TAKEOVER = 15.0  # seconds without a leader
CLIENT = ("gateway", postern.GATEWAY_SECRET)


def within(seconds):
    """A limit for what depends on the machine's speed too. CI's may stand still for a while: there it is three times as much, and of the bound
    at least."""
    return 3 * max(seconds, BOUND) if os.environ.get("CI") else seconds


# What Keycloak tells of by an event is acted on by then.
EVENT = within(2.5)

GATEWAY_ROUTES = """
[[route]]
name = "orders"
path = "/orders/**"
upstream = "orders"
headers = { x-auth-user = "sub", x-auth-namespace = "namespace" }

[[route]]
name = "own"
path = "/own/**"
upstream = "orders"
issuers = ["self"]
headers = { x-auth-user = "sub", x-auth-namespace = "namespace" }
"""

KUBERNETES_ROUTE = """
[[route]]
name = "kubernetes"
path = "/**"
upstream = "kubernetes"
credential = "service-account"
response_timeout = "1m"
"""


class Part(postern.Postern):
    """One process, in a folder of its own."""

    role = None

    def __init__(self, folder, upstream, keycloak, *, name, cluster, account, issuer=None, **settings):
        self.name, self._issuer = name, issuer
        self.environment = {"HOSTNAME": name}  # as a pod's: who leads is called by it
        self.tokens = set()  # tokens of Secrets that the suite has seen: none may show up in a log
        self._cluster, self._account = cluster, account
        super().__init__(folder, upstream, keycloak, **settings)

    def configuration(self, upstream, keycloak, **settings):
        self.operator_port = web.free_port()
        (self.folder / f"{CLIENT[0]}.pw").write_text(CLIENT[1])
        (self.folder / "kubeconfig").write_text(self._account.kubeconfig_text())
        return f"""version = 1

[server]
listen = "127.0.0.1:{self.port}"
drain_wait = "0s"
drain_deadline = "5s"
{settings.get("tls", "")}

[admin]
listen = "127.0.0.1:{self.admin_port}"

[operator]
listen = "127.0.0.1:{self.operator_port}"
access = {{ issuer = "main", role = "postern-operator", audience = "gateway" }}

[kubernetes]
role = "{self.role}"
kubeconfig = "kubeconfig"
namespace = "postern"

[state]
path = "state"

[log]
level = "{settings.get("level", "debug")}"
access = {{ file = "access.log" }}
audit = {{ file = "audit.log" }}

[issuer.main]
url = "{keycloak.url}"
audience = "gateway"
leeway = "{postern.LEEWAY}s"
keys = {{ refresh = "{postern.REFRESH:g}s" }}

[issuer.main.user_status.keycloak]
client_id = "{CLIENT[0]}"
client_secret = {{ file = "{CLIENT[0]}.pw" }}
bound = "{BOUND:g}s"
max_calls_per_second = {settings.get("ceiling", 200)}
when_unknown = {settings.get("when_unknown", '"deny"')}

[token_service]
issuer = "{self._issuer or self.url}"

{self.sections(upstream, **settings)}"""

    def sections(self, upstream, **settings):
        """What only this role has."""
        raise NotImplementedError

    @property
    def pid(self):
        return self._process.pid

    def is_running(self):
        return self._process is not None and self._process.poll() is None

    def kill(self):
        """As the machine does it: no clean end. `start` starts it again."""
        self._process.kill()
        self._process.wait()

    def signal(self, number):
        self._process.send_signal(number)

    def leaks(self, *further_texts):
        """Also the tokens of Secrets, and the part's own to the API server."""
        text = "\n".join((self.log(), *further_texts))
        parts = {part for token in self.tokens | {self._account.token} for part in token.split(".")[1:]}
        words = set(re.findall(r"[A-Za-z0-9_-]{12,}", text))
        return super().leaks(*further_texts) + sorted(parts & words)

    # Operators

    def listed(self, token, user):
        """What `postern user list` says of a user; None if it does not name them."""
        users = json.loads(self.operate(token, "user", "list"))
        return next((each for each in users if each["subject"] == user.id), None)

    def conditions(self, token, user):
        """The conditions that `postern user list` says."""
        return (self.listed(token, user) or {}).get("conditions", [])

    def metric(self, name, **labels):
        """The sum of a metric's values over all other labels; 0 where it has none."""
        total = 0.0
        for line in self.admin("/metrics").body.decode().splitlines():
            found = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name:
                has = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
                if labels.items() <= has.items():
                    total += float(found[3])
        return total


class TokenService(Part):
    """A replica of the token service."""

    role = "token-service"

    def sections(self, upstream, *, webhook=True, offboard_after=OFFBOARD_AFTER, **_):
        self.webhook_port = web.free_port()
        hook = f'[webhook]\nlisten = "127.0.0.1:{self.webhook_port}"\nnames = ["postern-webhook.postern.svc"]\n'
        return f"""[delivery]
issuer = "main"
namespace = "{{username}}"
offboard_after = "{offboard_after:g}s"

{hook if webhook else ""}"""


class Gateway(Part):
    """A gateway; `kubernetes` makes it the one that users' kubectl talks to, by TLS."""

    role = "gateway"

    def sections(self, upstream, *, kubernetes=False, **_):
        if not kubernetes:
            return f'[upstream.orders]\nto = "{upstream.url}"\naudience = "orders-api"\n{GATEWAY_ROUTES}'
        (self.folder / "cluster.pem").write_text(self._cluster.authority)
        to = f'[upstream.kubernetes]\nto = "{self._cluster.server}"\nupgrades = ["websocket", "spdy/3.1"]\n'
        return f'{to}tls = {{ ca = "cluster.pem" }}\n{KUBERNETES_ROUTE}'

    def judged(self, path, token):
        return web.judged(lambda: self.call(path, token), 2 * BOUND)

    def passes(self, token, path="/orders/1"):
        """The answer, if the token was let in; None otherwise."""
        answer = self.judged(path, token)
        return answer if answer.status == 200 else None

    def admitted(self, token, path="/orders/1"):
        """The token, which is let in."""
        web.eventually("the token is let in", lambda: self.passes(token, path), limit=10)
        return token

    def refuses(self, token, since, limit=EVENT, path="/orders/1"):
        """A token is refused within a limit, and within the bound however slow the machine is; and stays so."""
        return postern.refused_within_bound(self, token, since, path, bound=min(limit, BOUND))

    def stays_refused(self, *tokens, seconds, path="/orders/1"):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for token in tokens:
                answer = self.judged(path, token)
                assert answer.status == 401, f"refused, and then let in again: {answer}"
            time.sleep(0.2)


class SecureGateway(Gateway):
    """A gateway that is reached by TLS, as kubectl wants it before it sends a token."""

    def __init__(self, folder, upstream, keycloak, *, certificate, key, **settings):
        (folder / "server.pem").write_bytes(certificate)
        (folder / "server.key").write_bytes(key)
        self.trust = ssl.create_default_context(cadata=certificate.decode())
        tls = 'tls = { certificate = "server.pem", key = "server.key" }'
        super().__init__(folder, upstream, keycloak, tls=tls, kubernetes=True, **settings)
        self.url = f"https://127.0.0.1:{self.port}"

    def call(self, path="/version", token=None, method="GET", headers=None, body=None):
        headers = {**(headers or {}), **({"authorization": f"Bearer {token}"} if token else {})}
        parts = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=30, context=self.trust)
        try:
            sent_at = time.monotonic()
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return web.Answer(response.status, response.headers, response.read(), sent_at)
        finally:
            connection.close()
