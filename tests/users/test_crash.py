"""kill -9 at random moments: what was decided is there again, and what was missed meanwhile is caught up with.

The disabled users are enabled again at once. So nothing but Postern's own memory, and the events since the position that
it stored, can keep them out.
"""

import os
import random
import time

import pytest
import web
from gateway import BOUND, EVENT
from postern import COARSE_CLOCK


@pytest.fixture
def deaths(request):
    return 200 if request.config.getoption("full") else 20


def test_no_death_at_a_random_moment_forgets_a_block(new_gateway, keycloak, deaths):
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    gateway = new_gateway()
    out, pending = [], []
    for death in range(deaths):
        user = keycloak.new_user()
        token = gateway.admitted(keycloak.login(user))
        keycloak.set_enabled(user, False)
        keycloak.set_enabled(user, True)
        pending.append(token)
        until = time.monotonic() + moments.uniform(0, 1.2)
        while time.monotonic() < until:
            seen = [each for each in pending if gateway.call("/orders/1", each).status == 401]
            out += seen
            pending = [each for each in pending if each not in seen]
        gateway.kill()
        gateway.start()
        forgotten = [each for each in out[-10:] if gateway.call("/orders/1", each).status == 200]
        assert not forgotten, f"seed {seed}, death {death}: a user who was out is in again"
    deadline = time.monotonic() + (3 * EVENT if os.environ.get("CI") else EVENT) + COARSE_CLOCK
    while pending and time.monotonic() < deadline:
        pending = [each for each in pending if gateway.call("/orders/1", each).status != 401]
    assert not pending, f"seed {seed}: {len(pending)} of {deaths} disables were missed"
    gateway.stays_refused(*out[:5], seconds=BOUND)
    assert all(gateway.judged(each).status == 401 for each in out)


def test_a_user_disabled_while_the_gateway_was_dead_is_out_from_its_first_answer(new_gateway, keycloak, operator):
    gateway = new_gateway()
    stays, leaves, comes_back = (keycloak.new_user() for _ in range(3))
    tokens = {user.id: gateway.admitted(keycloak.login(user)) for user in (stays, leaves, comes_back)}
    gateway.kill()
    keycloak.set_enabled(leaves, False)
    keycloak.set_enabled(comes_back, False)
    keycloak.set_enabled(comes_back, True)
    gateway.start()
    assert gateway.judged(tokens[leaves.id]).status == 401, "Keycloak says that it is inactive"
    gateway.admitted(tokens[stays.id])
    gateway.refuses("disabled while the gateway was dead", tokens[comes_back.id], time.monotonic())
    assert gateway.state(operator, leaves.id) == "blocked"
    gateway.admitted(keycloak.login(comes_back))


def test_what_an_operator_decided_is_there_after_a_death(new_gateway, keycloak, operator, user):
    gateway = new_gateway()
    token = gateway.admitted(keycloak.login(user))
    gateway.operate(operator, "user", "block", "main", user.id, "--reason", "for good")
    gateway.kill()
    gateway.start()
    assert gateway.call("/orders/1", token).status == 401
    assert gateway.state(operator, user.id) == "blocked"
    gateway.operate(operator, "user", "unblock", "main", user.id, "--reason", "all is well")
    gateway.kill()
    gateway.start()
    assert gateway.state(operator, user.id) == "awaiting_sign_in"
    gateway.stays_refused(token, seconds=0.5)


def test_two_gateways_do_not_share_one_store(new_gateway):
    """The second says so and ends; the first goes on."""
    gateway = new_gateway()
    text = (gateway.folder / "postern.toml").read_text()
    for port in (gateway.port, gateway.admin_port, gateway.operator_port):
        text = text.replace(f":{port}", f":{web.free_port()}")
    (gateway.folder / "second.toml").write_text(text)
    second = gateway.run("run", "-c", "second.toml")
    assert second.returncode not in (0, None)
    assert "state" in second.stderr and "panicked" not in second.stderr, second
    assert gateway.readiness() == 200
