"""A user is disabled, deleted or locked out: out within the bound, and still out when enabled again.

Every test makes its own users, so that none disturbs another.
"""

import time

import pytest
import web
from gateway import BOUND, EVENT, PATIENCE


def test_a_disabled_user_is_out_in_one_decision_with_one_audit_record(
    gateway, keycloak, operator, user, token, bystander
):
    other_session = gateway.admitted(keycloak.login(user))
    gateway.refuses("user disabled", token, keycloak.set_enabled(user, False))
    # Introspection of this token may have been first; the decision about the user follows.
    web.eventually("blocked", lambda: gateway.state(operator, user.id) == "blocked", limit=BOUND)
    assert gateway.judged(other_session).status == 401, "one session was refused, and another was not"
    records = gateway.blocks(user.id)
    assert len(records) == 1, records
    assert "cause" in records[0], records[0]


def test_a_block_that_an_event_told_of_is_recorded_with_its_delay(gateway, keycloak, operator):
    """The list of disabled users may be first, which does not tell since when. Then another user is disabled."""

    def was_told():
        user = keycloak.new_user()
        keycloak.set_enabled(user, False)
        web.eventually("blocked", lambda: gateway.state(operator, user.id) == "blocked")
        return "delay_ms" in gateway.blocks(user.id)[0]

    web.eventually("an event was first", was_told)


def test_enabling_alone_lets_nobody_in_and_a_new_sign_in_does(gateway, keycloak, operator, user, token, bystander):
    never_used = keycloak.login(user)
    gateway.refuses("user disabled", token, keycloak.set_enabled(user, False))
    keycloak.set_enabled(user, True)
    web.eventually("the lift is seen", lambda: gateway.state(operator, user.id) == "awaiting_sign_in")
    # Keycloak itself would let all of them in again.
    refreshed = keycloak.refresh(token)
    old = (token, never_used, refreshed)
    assert all(keycloak.introspect(str(each))["active"] for each in old)
    gateway.stays_refused(*old, seconds=PATIENCE)
    assert gateway.state(operator, user.id) == "awaiting_sign_in"

    new = gateway.admitted(keycloak.login(user))
    assert gateway.state(operator, user.id) == "active"
    assert gateway.passes(keycloak.refresh(new)), "a refreshed token of the new session"
    gateway.stays_refused(*old)
    gateway.stays_refused(keycloak.refresh(never_used), seconds=0.5)


def test_a_disable_and_enable_between_two_polls_is_not_missed(gateway, keycloak, user, token, bystander):
    changed = keycloak.set_enabled(user, False)
    keycloak.set_enabled(user, True)
    # Keycloak tells the start of a session in whole seconds; that this one began after the lift, in the same second,
    # can be seen by the LOGIN event alone.
    new = keycloak.login(user)
    gateway.refuses("user disabled and enabled at once", token, changed)
    gateway.admitted(new)
    gateway.stays_refused(token, seconds=PATIENCE)
    assert gateway.passes(new)


def test_a_sign_in_a_while_after_the_lift_is_let_in_at_its_first_request(gateway, keycloak, operator, user, token):
    gateway.refuses("user disabled", token, keycloak.set_enabled(user, False))
    lifted = keycloak.set_enabled(user, True)
    # The moment of the lift is known to a second or two, and the start of a session in whole seconds.
    web.eventually("three seconds have passed", lambda: time.monotonic() > lifted + 3)
    web.eventually("the lift is seen", lambda: gateway.state(operator, user.id) == "awaiting_sign_in")
    answer = gateway.judged(keycloak.login(user))
    assert answer.status == 200, answer


def test_a_second_block_ends_what_the_first_sign_in_began(gateway, keycloak, user, token):
    for _ in range(2):
        gateway.refuses("user disabled", token, keycloak.set_enabled(user, False))
        keycloak.set_enabled(user, True)
        old, token = token, gateway.admitted(keycloak.login(user))
        assert gateway.judged(old).status == 401
    assert len(gateway.blocks(user.id)) == 2


def test_a_user_without_a_token_in_use_is_blocked_too(gateway, keycloak, operator, user):
    token = keycloak.login(user)
    keycloak.set_enabled(user, False)
    web.eventually("blocked", lambda: gateway.state(operator, user.id) == "blocked", limit=BOUND)
    keycloak.set_enabled(user, True)
    gateway.stays_refused(token)


def test_a_token_without_a_session_needs_to_be_issued_after_the_lift(gateway, keycloak, operator):
    """Tokens of service accounts have no `sid`, and `iat` is in whole seconds."""

    def sign_in():
        return keycloak.client_credentials("robot", "robot-secret")

    client = keycloak.admin("GET", "/clients?clientId=robot").json[0]["id"]
    account = keycloak.admin("GET", f"/clients/{client}/service-account-user").json["id"]
    token = gateway.admitted(sign_in(), "/machines/1")
    keycloak.admin("PUT", f"/users/{account}", {"enabled": False})
    gateway.refuses("service account disabled", token, time.monotonic(), path="/machines/1")
    keycloak.admin("PUT", f"/users/{account}", {"enabled": True})
    web.eventually("a new token passes", lambda: gateway.passes(sign_in(), "/machines/1"), limit=10)
    assert gateway.call("/machines/1", token).status == 401


def test_a_deleted_user_is_out(gateway, keycloak, operator, user, token, bystander):
    gateway.refuses("user deleted", token, keycloak.delete_user(user))
    assert gateway.state(operator, user.id) in ("blocked", "removed")
    gateway.stays_refused(token)
    assert len(gateway.blocks(user.id)) == 1


def test_a_user_who_was_deleted_and_is_there_again_must_sign_in(gateway, keycloak, user, token):
    gateway.refuses("user deleted", token, keycloak.delete_user(user))
    keycloak.admin("POST", "/partialImport", {"ifResourceExists": "FAIL", "users": [{
        "id": user.id, "username": user.name, "enabled": True, "firstName": "New", "lastName": "User",
        "email": f"{user.name}@example.test", "emailVerified": True, "attributes": {"namespace": [user.namespace]},
    }]})
    password = {"type": "password", "value": user.password, "temporary": False}
    keycloak.admin("PUT", f"/users/{user.id}/reset-password", password)
    web.eventually("a new sign-in passes", lambda: gateway.passes(keycloak.login(user)), limit=3 * BOUND)
    assert gateway.judged(token).status == 401


def test_wrong_passwords_that_lock_a_user_out_for_good_block_the_user(gateway, keycloak, operator, user, token):
    protection = {
        "bruteForceProtected": True, "permanentLockout": True, "failureFactor": 3, "maxTemporaryLockouts": 0,
        "quickLoginCheckMilliSeconds": 0,
    }
    keycloak.admin("PUT", "", protection)
    try:
        form = {"grant_type": "password", "client_id": "cli", "username": user.name, "password": "wrong"}

        def locked_out():
            # The third one locks, if Keycloak counts each; it counts later than it answers, and now and then loses one. Seen once: the
            # user read as disabled and was not, by the list, by introspection or by an event. The event is proof.
            web.send("POST", f"{keycloak.url}/protocol/openid-connect/token", form=form)
            return keycloak.admin("GET", f"/events?type=USER_DISABLED_BY_PERMANENT_LOCKOUT&user={user.id}").json

        web.eventually("locked out", locked_out, limit=10)  # no admin event tells
        locked = time.monotonic()
        gateway.refuses("locked out by wrong passwords", token, locked)
        web.eventually("blocked", lambda: gateway.state(operator, user.id) == "blocked", limit=BOUND)
        keycloak.set_enabled(user, True)
        gateway.stays_refused(token)
        gateway.admitted(keycloak.login(user))
    finally:
        keycloak.admin("PUT", "", {"bruteForceProtected": False, "permanentLockout": False})


@pytest.mark.parametrize("enabled", [False, True], ids=["disabled", "enabled"])
def test_a_user_who_is_overwritten_by_an_import_is_out_within_the_bound(gateway, keycloak, user, token, enabled):
    """No USER event tells of an import, and it ends the sessions without an event of their own."""
    fields = keycloak.admin("GET", f"/users/{user.id}").json
    overwrite = {"ifResourceExists": "OVERWRITE", "users": [{**fields, "enabled": enabled}]}
    keycloak.admin("POST", "/partialImport", overwrite)
    gateway.refuses("user overwritten by an import", token, time.monotonic(), BOUND)
    gateway.stays_refused(token)


def test_old_sessions_are_ended_at_keycloak_where_that_is_asked_for(new_gateway, keycloak, user):
    """By a second client, which may manage users; the gateway's own may not."""
    manager = '{ client_id = "gateway-manager", client_secret = { file = "gateway-manager.pw" } }'
    gateway = new_gateway(further=f"end_sessions = true\nend_sessions_client = {manager}")
    token = gateway.admitted(keycloak.login(user))
    gateway.refuses("user disabled", token, keycloak.set_enabled(user, False))

    def sessions():
        return keycloak.admin("GET", f"/users/{user.id}/sessions").json

    web.eventually("Keycloak has no session of the user", lambda: not sessions(), limit=EVENT)
    keycloak.set_enabled(user, True)
    new = gateway.admitted(keycloak.login(user))
    gateway.stays_refused(token)
    assert gateway.passes(new), "ended as if it were an old one"
    assert [session["id"] for session in sessions()] == [new.session]
