"""A second Keycloak, whose realm is changed as a whole, whose events are off, and which goes away and comes back.

Both servers start from the same database: their users have the same ids. (One Keycloak cannot hold an id twice, in
whatever realm.)
"""

import time
from types import SimpleNamespace

import jwt
import pytest
import web
from conftest import running
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gateway import BOUND, EVENT, LISTED, PATIENCE, issuer
from keycloak import Keycloak
from postern import COARSE_CLOCK


@pytest.fixture(scope="module")
def twin():
    yield from running(Keycloak())


@pytest.fixture(scope="module")
def twin_gateway(new_gateway, twin):
    return new_gateway(keycloak=twin)


@pytest.fixture(scope="module")
def twin_operator(twin):
    return twin.login(twin.new_user(roles=["postern-operator"]))


def blocked(gateway, operator, user):
    return gateway.state(operator, user.id) in ("blocked", "removed")


def a_second_later(token):
    """Keycloak compares not-before with `iat` in whole seconds: a token of the same second would not be older."""
    issued = jwt.decode(str(token), options={"verify_signature": False})["iat"]
    web.eventually("another second", lambda: time.time() >= issued + 2)


def test_a_user_of_one_issuer_is_blocked_and_the_same_sub_of_another_is_not(new_gateway, keycloak, twin, operator):
    gateway = new_gateway(issuers=issuer("twin", twin.url))
    here, there = (gateway.admitted(server.login("alice")) for server in (keycloak, twin))
    subjects = {jwt.decode(str(token), options={"verify_signature": False})["sub"] for token in (here, there)}
    assert len(subjects) == 1, "not the same user id"
    subject = subjects.pop()
    twin.admin("PUT", f"/users/{subject}", {"enabled": False})
    gateway.refuses("user disabled", there, time.monotonic())
    gateway.stays_refused(there)
    assert gateway.passes(here)
    states = {name: gateway.state(operator, subject, name) for name in ("main", "twin")}
    assert states["twin"] == "blocked" and states["main"] != "blocked", states
    twin.admin("PUT", f"/users/{subject}", {"enabled": True})
    gateway.admitted(twin.login("alice"))
    assert gateway.judged(there).status == 401


def test_a_not_before_of_the_realm_ends_older_tokens_for_good(twin_gateway, twin):
    user = twin.new_user()
    token = twin_gateway.admitted(twin.login(user))
    a_second_later(token)
    # The gateway's account does not see the realm's `notBefore`; the event does, and so does `not-before-policy` in the
    # answer to its own grant. The gateway's own token ends as well.
    twin.admin("PUT", "", {"notBefore": int(time.time())})
    twin_gateway.refuses("not-before of the realm", token, time.monotonic(), BOUND)
    twin_gateway.admitted(twin.login(user))
    twin.admin("PUT", "", {"notBefore": 0})
    assert twin.introspect(str(token))["active"], "Keycloak itself would let it in again"
    twin_gateway.stays_refused(token, seconds=PATIENCE)


def test_a_logout_of_the_whole_realm_ends_all_tokens_and_blocks_nobody_who_signs_in(
    twin_gateway, twin, twin_operator
):
    users = [twin.new_user() for _ in range(3)]
    tokens = [twin_gateway.admitted(twin.login(user)) for user in users]
    a_second_later(tokens[-1])
    twin.admin("POST", "/logout-all")
    since = time.monotonic()
    for token in tokens:
        twin_gateway.refuses("logout of the whole realm", token, since, BOUND)
    twin.admin("PUT", "", {"notBefore": 0})
    for user in users:
        twin_gateway.admitted(twin.login(user))
    twin_gateway.stays_refused(*tokens)
    again = twin.login("alice")  # the operator's own token ended too
    assert twin_gateway.passes(again)


def test_a_disabled_signing_key_ends_its_tokens_and_blocks_nobody(twin_gateway, twin):
    private = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    user, key = twin.new_user(), twin.add_key(private.decode(), 300)
    try:
        token = twin.login(user)
        twin_gateway.admitted(token)
        since = twin.disable_key(key)
        twin_gateway.refuses("signing key disabled", token, since, BOUND, reasons=("user_inactive", "invalid_token"))
        twin_gateway.admitted(twin.login(user))
        twin_gateway.stays_refused(token)
        assert twin_gateway.blocks(user.id) == []
    finally:
        twin.delete_key(key)


def test_events_that_are_not_stored_are_said_and_the_bound_holds_without_them(twin_gateway, twin):
    operator = twin.login(twin.new_user(roles=["postern-operator"]))
    in_use, idle = twin.new_user(), twin.new_user()
    token = twin_gateway.admitted(twin.login(in_use))
    stored = twin.admin("GET", "/events/config").json
    before = len(twin_gateway.log())
    twin.admin("PUT", "/events/config", {**stored, "adminEventsEnabled": False, "eventsEnabled": False})
    try:
        web.eventually("the log says so", lambda: "events" in twin_gateway.log()[before:].lower(), limit=2 * BOUND)
        doctor = twin_gateway.run("doctor", "-c", "postern.toml")
        assert doctor.returncode != 0 and "events" in (doctor.stdout + doctor.stderr).lower(), doctor
        since = twin.set_enabled(in_use, False)
        twin.set_enabled(idle, False)
        twin_gateway.refuses("user disabled, no events stored", token, since, BOUND)
        web.eventually(
            "the user without a token in use is blocked", lambda: blocked(twin_gateway, operator, idle), limit=LISTED
        )
        web.eventually("and so is the other", lambda: blocked(twin_gateway, operator, in_use), limit=LISTED)
        twin.set_enabled(in_use, True)
        twin_gateway.stays_refused(token)
        # No LOGIN event tells of this one: the session list must, which is in whole seconds.
        web.eventually(
            "a new sign-in passes", lambda: twin_gateway.passes(twin.login(in_use))
        )
    finally:
        twin.admin("PUT", "/events/config", stored)


def test_events_without_details_are_enough_of_a_reason(twin_gateway, twin):
    user = twin.new_user()
    token = twin_gateway.admitted(twin.login(user))
    stored = twin.admin("GET", "/events/config").json
    twin.admin("PUT", "/events/config", {**stored, "adminEventsDetailsEnabled": False})
    try:
        twin_gateway.refuses("user disabled, events without details", token, twin.set_enabled(user, False))
    finally:
        twin.admin("PUT", "/events/config", stored)


@pytest.fixture(scope="module")
def outage(twin, new_gateway):
    """Keycloak is gone for longer than the bound. Played once; each test judges one promise by what was seen."""
    denying = new_gateway(keycloak=twin)
    patient = new_gateway(keycloak=twin, when_unknown='{ allow_for = "5m" }')
    both = (denying, patient)
    seen = SimpleNamespace(user=twin.new_user(), barred=twin.new_user(), late_user=twin.new_user())
    seen.known, seen.out, seen.later = (twin.login(user) for user in (seen.user, seen.barred, seen.late_user))
    seen.unseen = twin.login("bob")
    for gateway in both:
        for token in (seen.known, seen.out, seen.later):
            gateway.admitted(token)
    disabled = twin.set_enabled(seen.barred, False)
    for gateway in both:
        gateway.refuses("user disabled", seen.out, disabled)
    twin.stop()
    try:
        down = time.monotonic()
        seen.first_denial = web.eventually(
            "a known token is no longer let in",
            lambda: next((answer for answer in [denying.call("/orders/1", seen.known)] if answer.status != 200), None),
        )
        web.eventually("longer than the bound", lambda: time.monotonic() > down + BOUND + COARSE_CLOCK)
        ask = lambda token: [gateway.call("/orders/1", token) for gateway in both]  # noqa: E731
        seen.late, seen.blocked, seen.unknown = ask(seen.known), ask(seen.out), ask(seen.unseen)
        seen.slowest = max(time.monotonic() - answer.sent_at for answer in seen.unknown[1:])
    finally:
        twin.start()
    for gateway in both:
        web.eventually("ready", lambda: gateway.readiness() == 200, limit=60)
    seen.gateways = {"deny": denying, "allow_for": patient}
    return seen


def test_beyond_the_bound_a_known_token_is_503_and_never_401(outage):
    for answer in (outage.first_denial, outage.late[0]):
        assert (answer.status, answer.reason) == (503, "user_status_unknown"), answer
        assert int(answer.headers["retry-after"]) > 0


def test_with_allow_for_a_known_token_passes_on(outage):
    assert outage.late[1].status == 200, outage.late[1]


@pytest.mark.parametrize("policy", ["deny", "allow_for"])
def test_a_blocked_user_stays_blocked_in_an_outage(outage, policy):
    answer = outage.blocked[list(outage.gateways).index(policy)]
    assert (answer.status, answer.reason) == (401, "user_inactive"), answer


@pytest.mark.parametrize("policy", ["deny", "allow_for"])
def test_an_unseen_token_is_503_in_an_outage(outage, policy):
    answer = outage.unknown[list(outage.gateways).index(policy)]
    assert (answer.status, answer.reason) == (503, "user_status_unknown"), answer


def test_an_unseen_token_does_not_wait_long_for_a_keycloak_that_fails(outage):
    assert outage.slowest <= 0.5 + COARSE_CLOCK


@pytest.mark.parametrize("policy", ["deny", "allow_for"])
def test_after_an_outage_nobody_needs_to_sign_in_again_and_changes_are_seen(outage, twin, policy):
    gateway = outage.gateways[policy]
    for token in (outage.known, outage.unseen):
        web.eventually("the token passes again", lambda: gateway.passes(token), limit=30)
    assert gateway.blocks(outage.user.id) == []
    assert gateway.call("/orders/1", outage.out).status == 401
    user = twin.new_user()
    token = gateway.admitted(twin.login(user))
    gateway.refuses("user disabled, after an outage", token, twin.set_enabled(user, False), EVENT + 1)
