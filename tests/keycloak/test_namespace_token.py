"""A Keycloak token goes in, a fresh namespace token comes out, and an independent library verifies it."""

import time

import jwt
import pytest
from postern import within_bound

MINUTE = 60


def minted(gateway, token, path="/orders/1"):
    answer = gateway.call(path, token)
    assert answer.status == 200, answer
    return answer.received.bearer


def test_an_independent_library_verifies_the_namespace_token_through_discovery(gateway, keycloak):
    token = keycloak.login("alice")
    header, claims = gateway.verify(minted(gateway, token), audience="orders-api")
    login = jwt.decode(token.access_token, options={"verify_signature": False})
    assert header["typ"] == "at+jwt"
    assert claims["iss"] == gateway.url
    assert claims["sub"] == login["sub"]
    assert claims["aud"] == "orders-api"
    assert claims["orig_iss"] == keycloak.url
    assert claims["azp"] == "cli"
    assert claims["preferred_username"] == "alice"
    assert claims["email"] == "alice@example.test"
    assert claims["jti"] not in ("", login["jti"])


@pytest.mark.parametrize("user, namespace", [("alice", "team-a"), ("bob", "team-b")])
def test_the_namespace_is_the_users_own(gateway, keycloak, user, namespace):
    _, claims = gateway.verify(minted(gateway, keycloak.login(user)), audience="orders-api")
    assert (claims["namespace"], claims["namespace_kind"]) == (namespace, "own")


def test_a_fresh_token_is_back_dated_ten_seconds_and_lives_ten_to_thirty_minutes(gateway, keycloak):
    token = keycloak.login(keycloak.new_user())
    before = time.time()
    _, claims = gateway.verify(minted(gateway, token), audience="orders-api")
    after = time.time()
    assert before - 11 <= claims["iat"] <= after - 9
    assert claims["nbf"] == claims["iat"]
    assert after + 10 * MINUTE <= claims["exp"] <= after + 30 * MINUTE


def test_its_lifetime_does_not_depend_on_that_of_the_callers_token(gateway, keycloak):
    token = gateway.short_lived(keycloak, keycloak.new_user())
    _, claims = gateway.verify(minted(gateway, token), audience="orders-api")
    assert claims["exp"] >= time.time() + 10 * MINUTE


def test_a_user_without_email_gets_an_empty_email_claim(gateway, keycloak):
    _, claims = gateway.verify(minted(gateway, keycloak.login("carol-no-email")), audience="orders-api")
    assert claims["email"] == ""
    assert claims["namespace"] == "team-c"


def test_the_callers_token_never_reaches_the_upstream(gateway, keycloak):
    token = keycloak.login("alice")
    received = gateway.call("/orders/1?q=2", token).received
    assert received.bearer != token.access_token
    signature = token.access_token.rsplit(".", 1)[1]
    assert signature not in str(received.headers) + received.path


def test_identity_headers_tell_who_calls_and_a_clients_own_are_dropped(gateway, keycloak):
    token = keycloak.login("alice")
    forged = {"x-auth-user": "mallory", "x-auth-namespace": "kube-system", "X_Auth_Username": "root"}
    received = gateway.call("/orders/1", token, headers=forged).received
    login = jwt.decode(token.access_token, options={"verify_signature": False})
    assert received.header("x-auth-user") == login["sub"]
    assert received.header("x-auth-username") == "alice"
    assert received.header("x-auth-namespace") == "team-a"
    assert not {"mallory", "kube-system", "root"} & {value for _, value in received.headers}


def test_a_route_chooses_audience_roles_and_groups(gateway, keycloak):
    token = minted(gateway, keycloak.login("alice"), "/with-roles/1")
    _, claims = gateway.verify(token, audience="billing-api")
    assert claims["roles"] == ["reader"], "`writer` does not match `read*`"
    assert claims["groups"] == ["/teams/team-a"]


def test_two_users_never_share_a_namespace_token(gateway, keycloak):
    first, second = (minted(gateway, keycloak.login(user)) for user in ("alice", "bob"))
    assert first != second


def test_a_changed_namespace_shows_in_the_next_token_within_the_bound(gateway, keycloak):
    user = keycloak.new_user(namespace="before")
    token = keycloak.login(user)
    assert gateway.call("/orders/1", token).received.header("x-auth-namespace") == "before"
    moved = keycloak.set_namespace(user, "after")


    def namespace(answer):
        _, claims = gateway.verify(answer.received.bearer, audience="orders-api")
        assert claims["namespace"] == answer.received.header("x-auth-namespace")
        return claims["namespace"]

    answer = within_bound(lambda: gateway.call("/orders/1", token), lambda answer: namespace(answer) == "before", moved)
    assert namespace(answer) == "after"


def test_a_minted_token_opens_no_route_of_the_gateway_itself(gateway, keycloak):
    token = minted(gateway, keycloak.login("alice"))
    answer = gateway.call("/orders/1", token)
    assert answer.status == 401 and answer.reason == "wrong_audience", answer
