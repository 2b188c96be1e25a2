"""Postern with the source `keycloak`: its configuration, its command line as an operator uses it, and its audit log."""

import http.client
import json
import os
import re
import time

import figures
import postern
import web

BOUND = 4.0  # seconds: `user_status.keycloak.bound`


def within(seconds):
    """A limit, in seconds, for what depends on the machine's speed too: in CI, whose machine may stand still for a while, the bound at least,
    which Postern keeps on any machine."""
    return max(seconds, BOUND) if os.environ.get("CI") else seconds


EVENT = within(2.5)  # seconds: what an event of Keycloak's tells is acted on by then
# Seconds: by then is acted on what the list of disabled users tells, and introspection does not.
LISTED = 2 * BOUND if os.environ.get("CI") else BOUND
PATIENCE = BOUND + 0.5  # seconds
CLIENT = ("gateway", postern.GATEWAY_SECRET)
MANAGER = ("gateway-manager", "gateway-manager-secret")
CALLERS = {"orders": "orders-secret-of-the-introspecting-upstream", "billing": "billing-secret-of-the-other-upstream"}

# Beside the routes of tests/keycloak.
ROUTES = """
[[route]]
name = "grouped"
path = "/grouped/**"
upstream = "orders"
access = { any_group = ["/teams/team-a", "/crew"] }

[[route]]
name = "streams"
path = "/streams/**"
upstream = "streams"
"""


def issuer(name, url, *, client=CLIENT, when_unknown='"deny"', further="", **settings):
    """An `[issuer]` with the source `keycloak`. `further` are lines of `user_status`, `settings` lines of the issuer."""
    lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
    return f"""
[issuer.{name}]
url = "{url}"
audience = "gateway"
leeway = "{postern.LEEWAY}s"
keys = {{ refresh = "{postern.REFRESH:g}s" }}
{lines}
[issuer.{name}.user_status.keycloak]
client_id = "{client[0]}"
client_secret = {{ file = "{client[0]}.pw" }}
bound = "{BOUND:g}s"
timeout = "1s"
when_unknown = {when_unknown}
{further}
"""


class Gateway(postern.Postern):
    """One gateway on free ports, in a folder of its own, with its state in it."""

    def configuration(self, upstream, keycloak, *, streams, issuers="", lightweight=False, cluster="", **settings):
        self.operator_port = web.free_port()
        for name, secret in (CLIENT, MANAGER, *CALLERS.items()):
            (self.folder / f"{name}.pw").write_text(secret)
        if lightweight:
            settings["lightweight"] = "true"
        clients = "".join(
            f'[token_service.clients.{name}]\nsecret = {{ file = "{name}.pw" }}\naudience = "{name}-api"\n\n'
            for name in CALLERS
        )
        return f"""version = 1

[server]
listen = "127.0.0.1:{self.port}"
drain_wait = "0s"
drain_deadline = "5s"

[admin]
listen = "127.0.0.1:{self.admin_port}"

[operator]
listen = "127.0.0.1:{self.operator_port}"
access = {{ issuer = "main", role = "postern-operator", audience = "gateway" }}

[state]
path = "state"

[log]
level = "debug"
access = {{ file = "access.log" }}
audit = {{ file = "audit.log" }}

{cluster}
[token_service]
issuer = "{self.url}"

{clients}[upstream.orders]
to = "{upstream.url}"
audience = "orders-api"

[upstream.billing]
to = "{upstream.url}"
audience = "billing-api"

[upstream.streams]
to = "{streams.url}"
audience = "streams-api"
{issuer("main", keycloak.url, **settings)}{issuers}{postern.ROUTES}{ROUTES}"""

    # Requests

    def call(self, *arguments, **settings):
        """As everywhere. An answer that is cut off under way, as that of a user who is out by then, is asked for again."""
        try:
            return super().call(*arguments, **settings)
        except http.client.IncompleteRead as cut:
            answer = super().call(*arguments, **settings)
            assert answer.status in (401, 503), f"an answer was cut off ({cut}), and yet its user is in: {answer}"
            return answer

    def admitted(self, token, path="/orders/1"):
        """The token, which was let in."""
        answer = web.eventually("the token is let in", lambda: self.passes(token, path), limit=10)
        assert answer.status == 200
        return token

    def judged(self, token, path="/orders/1"):
        return web.judged(lambda: self.call(path, token), BOUND)

    def passes(self, token, path="/orders/1"):
        """The answer, if the token was let in; None otherwise."""
        answer = self.judged(token, path)
        return answer if answer.status == 200 else None

    def refuses(self, what, token, since, bound=EVENT, path="/orders/1", status=401, reasons=("user_inactive",)):
        """A token that was let in is refused within the bound, and stays so. `what` is its name among the figures."""
        answer = postern.refused_within_bound(self, token, since, path, status, bound)
        figures.record(what, max(0.0, answer.sent_at - since))
        if status == 401:
            assert answer.reason in reasons, answer
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        return answer

    def stays_refused(self, *tokens, seconds=1.0):
        """For a while; `PATIENCE` is longer than everything takes that Postern asks again by itself."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for token in tokens:
                answer = self.judged(token)
                assert answer.status == 401, f"refused, and then let in again: {answer}"
            time.sleep(0.1)

    # Operators

    def leaks(self, *further_texts):
        """Also the secrets of the other clients, here and at Keycloak."""
        text = "\n".join((self.log(), *further_texts))
        secrets = (MANAGER[1], *CALLERS.values())
        return super().leaks(*further_texts) + [secret for secret in secrets if secret in text]

    def state(self, operator, user_id, issuer="main"):
        """Where a user stands, as `postern user show` says: `nothing_known`, `active`, `blocked`, `awaiting_sign_in`, …"""
        return json.loads(self.operate(operator, "user", "show", issuer, user_id))["user"]["state"]

    # What it leaves behind

    def audit(self, user_id):
        """The audit records in which a user is named."""
        file = self.folder / "audit.log"
        lines = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
        records = [json.loads(line) for line in lines]
        return [record for record in records if user_id in json.dumps(record)]

    def blocks(self, user_id):
        """Those of them that say that the user was blocked."""
        return [record for record in self.audit(user_id) if record["event"] == "user_block"]

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

    # Faults

    def kill(self):
        """As the machine does it: no clean end. `start` starts it again, on the same state."""
        self._process.kill()
        self._process.wait()

    def is_down(self):
        return self._process.poll() is not None
