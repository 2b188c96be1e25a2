"""What an operator decides at one process counts in all."""

import time

import figures
import web
from parts import BOUND, EVENT


def test_an_operators_block_at_a_gateway_empties_the_secret_and_an_unblock_does_not_fill_it(
    keycloak, gateway, secure, services, watch, operator
):
    user = keycloak.new_user()
    watch.emptied(user.name)
    token = gateway.admitted(keycloak.login(user))
    kept = watch.filled(user.name).token
    since = time.monotonic()
    gateway.operate(operator, "user", "block", "main", user.id, "--reason", "a test")
    emptied = watch.emptied(user.name, since).at
    figures.record("blocked by an operator at a gateway, emptied", emptied - since)
    assert emptied - since <= EVENT
    assert gateway.judged("/orders/1", token).status == 401 and gateway.judged("/own/1", kept).status == 401

    def refused():
        return secure.judged("/version", token).status == 401

    web.eventually("the other gateway refuses too", refused, limit=EVENT)
    for replica in services:
        web.eventually(
            "each replica knows", lambda replica=replica: replica.listed(operator, user)["state"] == "blocked", limit=EVENT
        )
    # At another process than the one that blocked.
    services[1].operate(operator, "user", "unblock", "main", user.id, "--reason", "a test")
    web.eventually(
        "the lift is known", lambda: services[0].listed(operator, user)["state"] == "awaiting_sign_in", limit=10
    )
    time.sleep(BOUND)
    assert watch.now(user.name) == "" and gateway.judged("/orders/1", token).status == 401
    since = time.monotonic()
    gateway.admitted(keycloak.login(user))
    assert watch.filled(user.name, since)


def test_a_session_that_ends_at_keycloak_leaves_the_secret(keycloak, gateway, watch):
    """A logout is about a session, not about the user."""
    user = keycloak.new_user()
    watch.emptied(user.name)
    session = keycloak.login(user)
    gateway.admitted(session)
    watch.filled(user.name)
    ended = keycloak.end_session(session.session)
    gateway.refuses(session, ended, BOUND)
    assert watch.now(user.name) and gateway.passes(watch.now(user.name), "/own/1")


def test_the_metrics_of_the_token_service_say_how_it_stands(services):
    for replica in services:
        assert replica.metric("postern_floor_violations_total") == 0
        assert replica.metric("postern_offboarding_open") == 1
    assert max(replica.metric("postern_delivery_users", token="filled") for replica in services) > 0
