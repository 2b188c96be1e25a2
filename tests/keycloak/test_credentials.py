"""The credentials other than the namespace token."""

from postern import API_KEY


def test_pass_forwards_the_callers_own_token(gateway, keycloak):
    token = keycloak.login("alice")
    assert gateway.call("/pass/1", token).received.bearer == token.access_token


def test_none_forwards_no_credential_at_all(gateway, keycloak):
    token = keycloak.login("alice")
    received = gateway.call("/none/1", token).received
    assert received.header("authorization") is None
    assert token.access_token.rsplit(".", 1)[1] not in str(received.headers)
    assert received.header("x-auth-user"), "identity headers are added all the same"


def test_secret_adds_the_configured_header_and_drops_the_callers_token(gateway, keycloak):
    received = gateway.call("/secret/1", keycloak.login("alice")).received
    assert received.header("x-api-key") == API_KEY
    assert received.header("authorization") is None


def test_a_client_cannot_bring_its_own_value_of_the_secret_header(gateway, keycloak):
    received = gateway.call("/secret/1", keycloak.login("alice"), headers={"x-api-key": "forged"}).received
    assert received.header("x-api-key") == API_KEY


def test_a_token_is_needed_whatever_the_credential(gateway, upstream):
    forwarded = upstream.requests
    for path in ("/pass/1", "/none/1", "/secret/1", "/machines/1"):
        assert gateway.call(path).status == 401, path
    assert upstream.requests == forwarded
