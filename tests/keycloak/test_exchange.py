"""Tokens that Keycloak makes for upstreams: a caller's exchanged (standard token exchange), and those of a client.

What Keycloak grants is held against what the route asks for: it drops scopes that the user may not have without a word.
"""

import jwt
import pytest
import web
from postern import Patient, all_stopped, configuration, refused_within_bound, within_bound

REPORTS_SECRET = "reports-secret"  # of the client `reports` in realm-demo.json


def route(name, credential):
    return f"""
[[route]]
name = "{name}"
path = "/{name}/**"
upstream = "orders"
credential = {{ {credential} }}
"""


def exchange(more):
    return f'exchange = {{ client_id = "gateway", client_secret = {{ file = "client.pw" }}, {more} }}'


def client(name, more=""):
    return f'client-credentials = {{ client_id = "{name}", client_secret = {{ file = "{name}.pw" }}{more} }}'


ROUTES = "".join([
    route("exchanged", exchange('audience = "upstream-a"')),
    route("scoped", exchange('audience = "upstream-a", scope = ["orders:read"]')),
    route("elsewhere", exchange('audience = "no-such-client"')),
    route("reports", client("reports", ', issuer = "realm"')),
    route("reports-by-url", client("reports", ', token_endpoint = "TOKEN_ENDPOINT"')),
    route("reports-scoped", client("reports", ', issuer = "realm", scope = ["orders:read"]')),
    route("too-wide", client("robot", ', issuer = "realm"')),
    route("wrong-secret", client("wrong", ', issuer = "realm"').replace('client_id = "wrong"', 'client_id = "reports"')),
])


class Exchanging(Patient):
    """A gateway whose routes' credentials Keycloak makes."""

    def configuration(self, upstream, keycloak, **settings):
        for name, secret in (("reports", REPORTS_SECRET), ("robot", "robot-secret"), ("wrong", "not-the-secret")):
            (self.folder / f"{name}.pw").write_text(secret)
        endpoint = f"{keycloak.url}/protocol/openid-connect/token"
        return configuration(self, upstream, keycloak, **settings) + ROUTES.replace("TOKEN_ENDPOINT", endpoint)

    def calls(self, credential, name, outcome):
        line = f'postern_credential_calls_total{{credential="{credential}",client="{name}",outcome="{outcome}"}} '
        metrics = self.admin("/metrics").body.decode().splitlines()
        return next(int(found.removeprefix(line)) for found in metrics if found.startswith(line))


@pytest.fixture(scope="module")
def exchanging(keycloak, upstream, tmp_path_factory):
    with all_stopped() as gateways:
        gateways.append(Exchanging(tmp_path_factory.mktemp("exchange"), upstream, keycloak))
        yield gateways[0].start()


def claims_of(keycloak, token, audience):
    """What an upstream reads that verifies the token by Keycloak's keys."""
    keys = jwt.PyJWKSet.from_dict(web.send("GET", f"{keycloak.url}/protocol/openid-connect/certs").json)
    key = keys[jwt.get_unverified_header(token)["kid"]]
    options = {} if audience else {"verify_aud": False}
    return jwt.decode(token, key, algorithms=["RS256"], audience=audience, issuer=keycloak.url, options=options)


def new_user(keycloak, roles):
    """A user who may use the client `upstream-a`."""
    user = keycloak.new_user(roles=roles)
    its_id = keycloak.admin("GET", "/clients?clientId=upstream-a").json[0]["id"]
    role = keycloak.admin("GET", f"/clients/{its_id}/roles/a-user").json
    keycloak.admin("POST", f"/users/{user.id}/role-mappings/clients/{its_id}", [role])
    return user


def test_the_callers_token_is_exchanged_for_one_that_the_upstream_verifies(exchanging, keycloak):
    token = keycloak.login("alice")
    own = jwt.decode(token.access_token, options={"verify_signature": False})
    before = exchanging.calls("exchange", "gateway", "ok")
    bearers = {exchanging.call(f"/exchanged/{number}", token).received.bearer for number in range(5)}
    assert len(bearers) == 1 and exchanging.calls("exchange", "gateway", "ok") == before + 1
    claims = claims_of(keycloak, bearers.pop(), "upstream-a")
    assert (claims["aud"], claims["azp"]) == ("upstream-a", "gateway")
    assert (claims["sub"], claims["sid"]) == (own["sub"], own["sid"])


def test_a_scope_that_keycloak_grants_is_in_the_exchanged_token(exchanging, keycloak):
    received = exchanging.call("/scoped/1", keycloak.login("alice")).received
    assert "orders:read" in claims_of(keycloak, received.bearer, "upstream-a")["scope"].split()


def test_a_scope_that_keycloak_drops_is_no_credential(exchanging, keycloak, upstream):
    token = keycloak.login(new_user(keycloak, roles=["reader"]))
    before, forwarded = exchanging.calls("exchange", "gateway", "insufficient"), upstream.requests
    answer = exchanging.call("/scoped/1", token)
    assert (answer.status, answer.reason) == (503, "credential_unavailable"), answer
    assert answer.headers["retry-after"]
    assert upstream.requests == forwarded
    assert exchanging.calls("exchange", "gateway", "insufficient") == before + 1
    # What is not scoped is not refused.
    assert exchanging.call("/exchanged/1", token).status == 200
    line = next(line for line in exchanging.log().splitlines() if "was not granted" in line)
    assert "orders:read" in line and "gateway" in line


@pytest.mark.parametrize("path", ["/exchanged/1", "/elsewhere/1"])
def test_an_exchange_that_keycloak_refuses_is_503(exchanging, keycloak, path):
    # bob has no role at `upstream-a`, and nobody has one at a client that is not there.
    answer = exchanging.call(path, keycloak.login("bob"))
    assert (answer.status, answer.reason) == (503, "credential_unavailable"), answer


def test_a_lost_role_drops_the_exchanged_token_within_the_bound(exchanging, keycloak):
    user = new_user(keycloak, roles=["reader", "writer"])
    token = keycloak.login(user)
    assert exchanging.call("/scoped/1", token).status == 200
    since = keycloak.remove_role(user, "writer")
    deadline_passed = within_bound_with_503(exchanging, token, since)
    assert deadline_passed.reason == "credential_unavailable"


def within_bound_with_503(gateway, token, since):
    """As `within_bound`, where the new answer is itself a 503."""

    def ask():
        answer = gateway.call("/scoped/1", token)
        if answer.reason == "credential_unavailable":
            answer.status = 599
        return answer

    return within_bound(ask, lambda answer: answer.status == 200, since)


def test_a_disabled_user_gets_no_exchanged_token(exchanging, keycloak):
    user = new_user(keycloak, roles=["reader"])
    token = keycloak.login(user)
    assert exchanging.call("/exchanged/1", token).status == 200
    answer = refused_within_bound(exchanging, token, keycloak.set_enabled(user, False), path="/exchanged/1")
    assert answer.reason == "user_inactive"


def test_two_sessions_of_a_user_have_exchanged_tokens_of_their_own(exchanging, keycloak):
    sessions = set()
    for token in (keycloak.login("alice"), keycloak.login("alice")):
        bearer = exchanging.call("/exchanged/1", token).received.bearer
        sessions.add(claims_of(keycloak, bearer, "upstream-a")["sid"])
        assert claims_of(keycloak, bearer, "upstream-a")["sid"] == token.session
    assert len(sessions) == 2


@pytest.mark.parametrize("path", ["/reports/1", "/reports-by-url/1"])
def test_the_token_of_a_client_serves_all_callers(exchanging, keycloak, path):
    bearers = {exchanging.call(path, keycloak.login(name)).received.bearer for name in ("alice", "bob")}
    assert len(bearers) == 1
    assert claims_of(keycloak, bearers.pop(), None)["azp"] == "reports"


def test_a_scope_that_the_client_may_not_have_is_no_credential(exchanging, keycloak):
    answer = exchanging.call("/reports-scoped/1", keycloak.login("alice"))
    assert (answer.status, answer.reason) == (503, "credential_unavailable"), answer


def test_a_clients_token_that_would_open_postern_itself_is_not_passed_on(exchanging, keycloak, upstream):
    forwarded = upstream.requests
    answer = exchanging.call("/too-wide/1", keycloak.login("alice"))
    assert (answer.status, answer.reason) == (503, "credential_unavailable"), answer
    assert upstream.requests == forwarded
    assert "which Postern itself accepts" in exchanging.log()


def test_a_client_whose_secret_is_wrong_gets_nothing(exchanging, keycloak):
    answer = exchanging.call("/wrong-secret/1", keycloak.login("alice"))
    assert (answer.status, answer.reason) == (503, "credential_unavailable"), answer
