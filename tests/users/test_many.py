"""A realm of 10,000 users of whom 500 are disabled. Only with --full: the first time its import takes minutes."""

import json
import time
from pathlib import Path

import keycloak as shared
import pytest
import web
from conftest import running
from gateway import BOUND, EVENT

USERS, EVERY = 10_000, 20  # each twentieth is disabled

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Imported once: start.sh keeps the database for each content of the file, and the content is always the same."""
    realm = json.loads(Path(shared.__file__).with_name("realm-demo.json").read_text())
    realm["users"] += [
        {
            "username": f"crowd-{number:05}", "enabled": number % EVERY != 0, "firstName": "One", "lastName": "Ofmany",
            "email": f"crowd-{number:05}@example.test", "emailVerified": True,
            "attributes": {"namespace": [f"ns-{number:05}"]}, "realmRoles": ["default-roles-demo"],
        }
        for number in range(USERS)
    ]
    file = tmp_path_factory.mktemp("realm") / "realm-crowd.json"
    file.write_text(json.dumps(realm))
    yield from running(shared.Keycloak(file))


@pytest.fixture(scope="module")
def crowded(new_gateway, crowd):
    return new_gateway(keycloak=crowd)


@pytest.fixture(scope="module")
def crowd_operator(crowd):
    return crowd.login(crowd.new_user(roles=["postern-operator"]))


def test_who_was_disabled_before_the_start_is_found_by_the_sweep(crowded, crowd, crowd_operator):
    page = crowd.admin("GET", "/users?enabled=false&briefRepresentation=true&first=0&max=1000").json
    disabled = [user["id"] for user in page if user["username"].startswith("crowd-")]
    assert len(disabled) == USERS // EVERY
    for subject in (disabled[0], disabled[len(disabled) // 2], disabled[-1]):  # first, middle and last page
        web.eventually("blocked", lambda: crowded.state(crowd_operator, subject) == "blocked", limit=2 * BOUND)


def test_the_delay_is_what_it_is_in_a_small_realm(crowded, crowd):
    for _ in range(5):
        user = crowd.new_user()
        token = crowded.admitted(crowd.login(user))
        crowded.refuses("user disabled, 10,000 users", token, crowd.set_enabled(user, False), EVENT)


def test_the_sweep_alone_holds_the_bound_for_users_without_a_token(crowded, crowd, crowd_operator):
    stored = crowd.admin("GET", "/events/config").json
    crowd.admin("PUT", "/events/config", {**stored, "adminEventsEnabled": False})
    try:
        user = crowd.new_user()
        since = crowd.set_enabled(user, False)
        web.eventually("blocked", lambda: crowded.state(crowd_operator, user.id) == "blocked", limit=2 * BOUND)
        assert time.monotonic() - since <= BOUND + 1
    finally:
        crowd.admin("PUT", "/events/config", stored)
