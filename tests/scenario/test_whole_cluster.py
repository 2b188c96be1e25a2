"""The switch for everybody. Comes last: whoever signed in before is out, the operator of the other cases too."""

import time

import figures
from parts import BOUND, within


def test_the_cluster_is_closed_and_each_must_sign_in_again(keycloak, gateway, services, watch, operator):
    users = [keycloak.new_user() for _ in range(3)]
    for user in users:
        watch.emptied(user.name)
        gateway.admitted(keycloak.login(user))
        watch.filled(user.name)
    since = time.monotonic()
    gateway.operate(operator, "cluster", "disable", "--reason", "a test")
    try:
        for user in users:
            emptied = watch.emptied(user.name, since).at
            figures.record("cluster closed, emptied", emptied - since)
            assert emptied - since <= within(BOUND)
    finally:
        # Their token is a user's too: operators come in by what the configuration names.
        gateway.operate(operator, "cluster", "enable", "--reason", "a test")
    time.sleep(2)
    assert not any(watch.now(user.name) for user in users)
    since = time.monotonic()
    for user in users:
        gateway.admitted(keycloak.login(user))
        assert watch.filled(user.name, since)
