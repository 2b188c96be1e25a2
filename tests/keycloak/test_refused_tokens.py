"""What Keycloak signs besides access tokens for this gateway, and must not open it."""

import time
import urllib.parse

import jwt
import pytest
import web
from postern import LEEWAY, refused_within_bound


def assert_refused(gateway, upstream, token, reason, status=401):
    """Refused with that reason, as RFC 6750 wants it, and nothing was forwarded."""
    forwarded = upstream.requests
    answer = gateway.call("/orders/1", token)
    assert (answer.status, answer.reason) == (status, reason), answer
    error = "insufficient_scope" if status == 403 else "invalid_token"
    assert f'error="{error}"' in answer.headers["www-authenticate"]
    assert upstream.requests == forwarded


def claims(token):
    return jwt.decode(token, options={"verify_signature": False})


def test_a_request_without_a_token_is_refused(gateway, upstream):
    forwarded = upstream.requests
    answer = gateway.call("/orders/1")
    assert (answer.status, answer.reason) == (401, "missing_token")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert upstream.requests == forwarded


def test_an_id_token_is_refused_though_its_issuer_signature_and_audience_are_right(gateway, upstream, keycloak):
    token = keycloak.login("alice", "gateway", "gateway-secret").id_token
    assert (claims(token)["aud"], claims(token)["typ"]) == ("gateway", "ID")
    assert keycloak.introspect(token)["active"], "introspection alone would let it in"
    assert_refused(gateway, upstream, token, "invalid_token")


@pytest.mark.parametrize("scope, kind", [("openid", "Refresh"), ("openid offline_access", "Offline")])
def test_a_refresh_token_is_refused(gateway, upstream, keycloak, scope, kind):
    token = keycloak.login("alice", scope=scope).refresh_token
    assert claims(token)["typ"] == kind
    assert_refused(gateway, upstream, token, "invalid_token")


def test_a_logout_token_is_refused_though_its_issuer_signature_and_audience_are_right(gateway, upstream, keycloak):
    keycloak.set_client_attribute("gateway", "backchannel.logout.url", f"{upstream.url}/logout")
    user = keycloak.new_user()
    login = keycloak.login(user, "gateway", "gateway-secret")
    keycloak.end_session(login.session)
    forms = web.eventually("Keycloak posts a logout token", lambda: [
        form for form in map(urllib.parse.parse_qs, upstream.posted) if claims(form["logout_token"][0])["sub"] == user.id
    ])
    token = forms[0]["logout_token"][0]
    keycloak.issued.add(token)
    assert (claims(token)["aud"], claims(token)["typ"]) == ("gateway", "Logout")
    assert_refused(gateway, upstream, token, "invalid_token")


def test_a_token_without_the_gateways_audience_is_refused(gateway, upstream, keycloak):
    token = keycloak.login("alice", "cli-noaud").access_token
    assert "gateway" not in claims(token)["aud"]
    assert_refused(gateway, upstream, token, "wrong_audience")


def test_a_token_with_one_audience_as_a_string_is_accepted(gateway, keycloak):
    token = keycloak.login("alice", "cli-narrow").access_token
    assert claims(token)["aud"] == "gateway"
    assert gateway.call("/orders/1", token).status == 200


def test_a_token_with_the_header_type_at_jwt_is_accepted(gateway, keycloak):
    token = keycloak.login("alice", "cli-at-jwt").access_token
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    assert gateway.call("/orders/1", token).status == 200


def test_an_expired_token_is_refused_after_the_leeway_though_it_was_cached(gateway, upstream, keycloak):
    token = gateway.short_lived(keycloak, "alice")
    dead = claims(token)["exp"] + LEEWAY

    def refused():
        sent = time.time()
        answer = gateway.call("/orders/1", token)
        if answer.status == 200:
            assert sent <= dead + 1, "an expired token passed"
        return sent > dead + 1 and answer.status != 200

    web.eventually("the token is refused", refused)
    assert_refused(gateway, upstream, token, "token_expired")


def test_a_service_account_has_no_namespace_and_is_refused_where_one_is_needed(gateway, upstream, keycloak):
    token = keycloak.client_credentials("robot", "robot-secret").access_token
    assert "namespace" not in claims(token)
    assert_refused(gateway, upstream, token, "namespace_missing", status=403)


def test_a_service_account_passes_where_none_is_needed(gateway, keycloak):
    token = keycloak.client_credentials("robot", "robot-secret").access_token
    answer = gateway.call("/none/1", token)
    assert answer.status == 200
    assert answer.received.header("authorization") is None
    assert answer.received.header("x-auth-user") == claims(token)["sub"]


def test_a_service_account_gets_the_namespace_that_a_route_names(gateway, keycloak):
    token = keycloak.client_credentials("robot", "robot-secret").access_token
    answer = gateway.call("/machines/1", token)
    assert answer.status == 200, answer
    _, minted = gateway.verify(answer.received.bearer, audience="orders-api")
    assert (minted["namespace"], minted["namespace_kind"], minted["azp"]) == ("machines", "target", "robot")


def test_a_route_for_machines_refuses_users(gateway, keycloak):
    answer = gateway.call("/machines/1", keycloak.login("alice"))
    assert (answer.status, answer.reason) == (403, "claim_missing")


def test_a_revoked_token_is_refused_within_the_bound(gateway, keycloak):
    token = keycloak.login("alice").access_token
    assert gateway.call("/orders/1", token).status == 200
    revoked = keycloak.revoke(token)
    assert refused_within_bound(gateway, token, revoked).reason == "user_inactive"
