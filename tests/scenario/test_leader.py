"""The replica that fills Secrets is killed or stands still: another takes over, and nobody who is out gets anything."""

import signal
import time

import figures
import pytest
import web
from parts import BOUND, EVENT, TAKEOVER, within

LOOK = 1.0  # seconds: how often who does not lead looks at the Lease


@pytest.fixture
def leader(services):
    """Leader and follower, once it is clear which is which. In the end both run again."""

    # Not by the Lease, which names one that was killed until its term is over.
    def found():
        return next((each for each in services if each.metric("postern_delivery_leads") == 1), None)

    leads = web.eventually("one of the two leads", found, limit=40)
    follows = next(each for each in services if each is not leads)
    yield leads, follows
    for each in services:
        if not each.is_running():
            each.start(until_ready=False)
        each.signal(signal.SIGCONT)
    for each in services:
        web.eventually(f"{each.name} is ready", lambda each=each: each.readiness() == 200, limit=60)


def user_with_token(keycloak, gateway, watch):
    user = keycloak.new_user()
    watch.emptied(user.name)
    token = gateway.admitted(keycloak.login(user))
    watch.filled(user.name)
    return user, token


def test_another_replica_fills_soon_after_the_leader_was_killed(keycloak, gateway, watch, leader, operator):
    leads, follows = leader
    waiting = keycloak.new_user()
    watch.emptied(waiting.name)
    earlier, _ = user_with_token(keycloak, gateway, watch)
    leads.kill()
    killed = time.monotonic()
    keycloak.login(waiting)
    filled = watch.filled(waiting.name, killed, limit=60).at
    figures.record("leader killed, another fills", filled - killed)
    assert filled - killed <= within(TAKEOVER)
    # Refills go on: a changed role is one that need not be waited for.
    changed = keycloak.add_role(earlier, "writer")
    assert watch.filled(earlier.name, changed).at - changed <= EVENT
    new = keycloak.new_user()
    created = time.monotonic()
    assert watch.emptied(new.name).at - created <= 15
    assert follows.listed(operator, new)


def test_a_leader_that_is_ended_leaves_at_once(keycloak, watch, leader):
    leads, _ = leader
    waiting = keycloak.new_user()
    watch.emptied(waiting.name)
    leads.stop()
    stopped = time.monotonic()
    keycloak.login(waiting)
    filled = watch.filled(waiting.name, stopped, limit=60).at
    figures.record("leader ended, another fills", filled - stopped)
    # Not the time that a Lease holds by itself.
    assert filled - stopped <= EVENT + 2 * LOOK


def test_a_follower_empties_at_once_while_nobody_leads(keycloak, gateway, watch, leader):
    leads, _ = leader
    user, token = user_with_token(keycloak, gateway, watch)
    leads.kill()
    disabled = keycloak.set_enabled(user, False)
    emptied = watch.emptied(user.name, disabled).at
    figures.record("leader killed, user disabled, emptied", emptied - disabled)
    assert emptied - disabled <= EVENT
    gateway.refuses(token, disabled)


def test_a_leader_that_stood_still_brings_nobody_back(keycloak, gateway, watch, leader):
    """It goes on where it was: with work begun for users who were disabled meanwhile, and for whom another wrote."""
    leads, _ = leader
    users = [user_with_token(keycloak, gateway, watch)[0] for _ in range(6)]
    for user in users:
        keycloak.add_role(user, "writer")
    leads.signal(signal.SIGSTOP)
    stopped = time.monotonic()
    disabled = [keycloak.set_enabled(user, False) for user in users]
    for user, since in zip(users, disabled, strict=True):
        emptied = watch.emptied(user.name, since).at
        figures.record("leader stopped, user disabled, emptied", emptied - since)
        assert emptied - since <= EVENT + 1
    waiting = keycloak.new_user()
    keycloak.login(waiting)
    assert watch.filled(waiting.name, stopped, limit=60).at - stopped <= within(TAKEOVER + BOUND)
    leads.signal(signal.SIGCONT)
    time.sleep(BOUND)
    for user, since in zip(users, disabled, strict=True):
        emptied = watch.emptied(user.name, since).at
        assert not [change for change in watch.of(user.name) if change.at > emptied and change.token], "filled again"
        assert watch.now(user.name) == ""


def test_both_replicas_started_again_change_nothing(keycloak, gateway, watch, services):
    user, _ = user_with_token(keycloak, gateway, watch)
    blocked, _ = user_with_token(keycloak, gateway, watch)
    watch.emptied(blocked.name, keycloak.set_enabled(blocked, False))
    keycloak.set_enabled(blocked, True)
    before = len(watch.of(user.name))
    for each in services:
        each.kill()
    for each in services:
        each.start(until_ready=False)
    for each in services:
        web.eventually(f"{each.name} is ready", lambda each=each: each.readiness() == 200, limit=60)
    time.sleep(TAKEOVER)
    assert len(watch.of(user.name)) <= before + 1 and all(change.token for change in watch.of(user.name)[before:])
    assert watch.now(blocked.name) == "", "what was known of the block is shared"
    since = time.monotonic()
    keycloak.login(blocked)
    watch.filled(blocked.name, since)
