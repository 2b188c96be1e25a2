"""What ends one token or one session, and nothing else: the user is not blocked by it."""

import time

import web
from gateway import BOUND, EVENT, PATIENCE


def not_blocked(gateway, operator, user):
    assert gateway.state(operator, user.id) not in ("blocked", "removed")
    assert gateway.blocks(user.id) == []


def log_out(keycloak, token, client="cli"):
    """As the user's own application does it."""
    form = {"client_id": client, "refresh_token": token.refresh_token}
    answer = web.send("POST", f"{keycloak.url}/protocol/openid-connect/logout", form=form)
    assert answer.status == 204, answer
    return time.monotonic()


def test_a_logout_ends_its_own_session_only(gateway, keycloak, operator, user, token, bystander):
    other, refreshed = gateway.admitted(keycloak.login(user)), gateway.admitted(keycloak.refresh(token))
    gateway.refuses("logout by the user", token, log_out(keycloak, refreshed))
    gateway.stays_refused(token, refreshed)
    assert gateway.passes(other)
    not_blocked(gateway, operator, user)


def test_a_session_that_an_administrator_ends_is_refused_and_another_is_not(
    gateway, keycloak, operator, user, token, bystander
):
    # The event names the session and no user.
    other = gateway.admitted(keycloak.login(user))
    gateway.refuses("session ended by an administrator", token, keycloak.end_session(token.session))
    gateway.stays_refused(token, seconds=PATIENCE)
    assert gateway.passes(other)
    not_blocked(gateway, operator, user)


def test_a_logout_by_an_administrator_ends_all_sessions_and_the_user_may_sign_in(
    gateway, keycloak, operator, user, token, bystander
):
    # It also sets the user's not-before, and is the only thing that does: `PUT users/{id}` ignores `notBefore`.
    other = gateway.admitted(keycloak.login(user))
    keycloak.admin("POST", f"/users/{user.id}/logout")
    since = time.monotonic()
    gateway.refuses("all sessions ended by an administrator", token, since)
    gateway.refuses("all sessions ended by an administrator", other, since)
    gateway.admitted(keycloak.login(user))
    gateway.stays_refused(token, other)
    assert gateway.state(operator, user.id) not in ("blocked", "removed")


def test_a_revoked_token_is_refused_within_the_bound_and_its_session_lives(gateway, keycloak, operator, user, token):
    other = gateway.admitted(keycloak.refresh(token))
    gateway.refuses("token revoked (RFC 7009)", token, keycloak.revoke(token.access_token), BOUND)
    assert gateway.passes(other)
    not_blocked(gateway, operator, user)


def test_a_lost_audience_mapper_refuses_new_tokens_and_blocks_nobody(gateway, keycloak, operator, user, bystander):
    """Of a token in use Keycloak goes on to tell the audience that stands in it; a refreshed one has none."""
    token = gateway.admitted(keycloak.login(user, "cli-mapper"))
    with keycloak.without_audience_mapper("cli-mapper"):
        refreshed = keycloak.refresh(token, "cli-mapper")
        answer = gateway.call("/orders/1", refreshed)
        assert (answer.status, answer.reason) == (401, "wrong_audience"), answer
        assert gateway.passes(token), "Keycloak says that it is active"
    not_blocked(gateway, operator, user)
    gateway.admitted(keycloak.login(user, "cli-mapper"))


def test_a_login_client_that_is_disabled_ends_tokens_and_blocks_nobody(gateway, keycloak, operator, user, bystander):
    token = gateway.admitted(keycloak.login(user, "cli-es256"))
    client = keycloak.admin("GET", "/clients?clientId=cli-es256").json[0]
    keycloak.admin("PUT", f"/clients/{client['id']}", {**client, "enabled": False})
    since = time.monotonic()
    try:
        gateway.refuses("login client disabled", token, since, BOUND)
    finally:
        keycloak.admin("PUT", f"/clients/{client['id']}", {**client, "enabled": True})
    assert gateway.passes(keycloak.login(user)), "another client's token"
    not_blocked(gateway, operator, user)


def test_a_new_password_ends_nothing(gateway, keycloak, operator, user, token):
    password = {"type": "password", "value": "another", "temporary": False}
    keycloak.admin("PUT", f"/users/{user.id}/reset-password", password)
    until = time.monotonic() + EVENT
    while time.monotonic() < until:
        assert gateway.passes(token), "Keycloak says that it is active"
        time.sleep(0.2)
    not_blocked(gateway, operator, user)
