"""Keycloak's lightweight tokens have no `sub`, no `aud` and no roles; introspection supplies them, where it is allowed to."""

import jwt
import pytest
from postern import refused_within_bound


@pytest.fixture(scope="module")
def lightweight_gateway(new_gateway):
    return new_gateway(lightweight=True)


@pytest.fixture
def token(keycloak):
    token = keycloak.login("alice", "cli-light")
    assert not {"sub", "aud", "realm_access"} & jwt.decode(token.access_token, options={"verify_signature": False}).keys()
    return token


def test_a_lightweight_token_is_refused_where_the_issuer_does_not_allow_it(gateway, token):
    answer = gateway.call("/orders/1", token)
    assert answer.status == 401
    assert answer.reason in ("invalid_token", "wrong_audience")


def test_a_lightweight_token_is_accepted_where_the_issuer_allows_it(lightweight_gateway, keycloak, token):
    answer = lightweight_gateway.call("/readers/1", token)
    assert answer.status == 200, answer
    _, claims = lightweight_gateway.verify(answer.received.bearer, audience="orders-api")
    full = keycloak.introspect(token.access_token)
    assert (claims["sub"], claims["namespace"], claims["email"]) == (full["sub"], "team-a", "alice@example.test")


def test_an_ordinary_token_is_accepted_there_too(lightweight_gateway, keycloak):
    assert lightweight_gateway.call("/orders/1", keycloak.login("alice")).status == 200


def test_a_forged_lightweight_token_is_refused_before_anybody_is_asked(lightweight_gateway, token):
    forged = token.access_token[:-20] + "A" * 20
    answer = lightweight_gateway.call("/orders/1", forged)
    assert (answer.status, answer.reason) == (401, "invalid_token")


def test_a_disabled_user_with_a_lightweight_token_is_refused_within_the_bound(lightweight_gateway, keycloak):
    user = keycloak.new_user()
    token = keycloak.login(user, "cli-light")
    assert lightweight_gateway.call("/orders/1", token).status == 200
    refused_within_bound(lightweight_gateway, token, keycloak.set_enabled(user, False))
