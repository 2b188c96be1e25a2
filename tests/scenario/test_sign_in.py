"""How soon a sign-in fills the Secret of a user who had nothing."""

import time

import figures
import pytest
import web
from parts import BOUND, within


def newcomers(keycloak, watch, count):
    """Users whose Secrets are there, and empty."""
    users = [keycloak.new_user() for _ in range(count)]
    for user in users:
        watch.emptied(user.name)
    return users


@pytest.fixture
def count(request):
    return 100 if request.config.getoption("full") else 20


def test_a_sign_in_at_keycloak_alone_is_seen_within_a_second_or_two(keycloak, watch, parts, count):
    delays = []
    for number, user in enumerate(newcomers(keycloak, watch, count)):
        time.sleep(number * 0.37 % 1)  # Postern asks each second: at any moment between
        keycloak.login(user)
        signed_in = time.monotonic()
        delays.append(max(0.0, watch.filled(user.name).at - signed_in))
        figures.record("signed in at Keycloak alone, filled", delays[-1])
    assert figures.median(delays) <= within(1.0), delays
    assert max(delays) <= within(2.5), delays


def test_a_sign_in_that_the_gateway_sees_is_acted_on_at_once(keycloak, gateway, watch, count):
    delays = []
    for user in newcomers(keycloak, watch, count // 2):
        token = keycloak.login(user)
        sent = time.monotonic()
        gateway.call("/orders/1", token)
        delays.append(max(0.0, watch.filled(user.name).at - sent))
        figures.record("sign-in seen by the gateway, filled", delays[-1])
    assert max(delays) <= within(0.5), delays


def test_users_who_sign_in_together_do_not_wait_for_each_other(keycloak, watch, parts):
    users = newcomers(keycloak, watch, 10)
    for user in users:
        keycloak.login(user)
    signed_in = time.monotonic()
    latest = max(watch.filled(user.name).at for user in users)
    assert latest - signed_in <= within(2.5)


def test_from_a_moment_after_their_creation_a_user_acts_in_the_recorded_namespace(keycloak, gateway, parts):
    """Until it is recorded, the issuer's claim says which it is."""
    user = keycloak.new_user(namespace="claimed")
    token = keycloak.login(user)

    def namespace():
        answer = gateway.passes(token)
        return answer and answer.received.header("x-auth-namespace")

    assert namespace() in (None, "claimed", user.name)
    web.eventually("the recorded namespace counts", lambda: namespace() == user.name, limit=15)


def test_a_notebook_needs_no_more_than_the_secret(keycloak, gateway, watch):
    """The gateway has never seen a token of Keycloak's for this user, and sees none."""
    [user] = newcomers(keycloak, watch, 1)
    keycloak.login(user)
    token = watch.filled(user.name).token
    web.eventually("let in", lambda: gateway.passes(token, "/own/1"), limit=10)
    until = time.monotonic() + 3 * BOUND
    while time.monotonic() < until:
        answer = gateway.judged("/own/1", token)
        assert answer.status == 200, answer
        time.sleep(0.5)
    disabled = keycloak.set_enabled(user, False)
    gateway.refuses(token, disabled, BOUND, "/own/1")
