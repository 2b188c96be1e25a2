"""Users who are gone: what was theirs is removed when it is time, only with their mark, and never given to a namesake before."""

import json
import time
from types import SimpleNamespace

import figures
import pytest
import web
from cluster import LABEL, SUBJECT
from keycloak import User
from parts import EVENT, OFFBOARD_AFTER

pytestmark = pytest.mark.story


@pytest.fixture(scope="module")
def told(keycloak, gateway, watch):
    """Two users with tokens."""
    leaver, unmarked = keycloak.new_user(), keycloak.new_user()
    for user in (leaver, unmarked):
        watch.emptied(user.name)
        gateway.admitted(keycloak.login(user))
        watch.filled(user.name)
    return SimpleNamespace(leaver=leaver, unmarked=unmarked, home=leaver.name, token=watch.now(leaver.name))


def offboarding(services, operator):
    return json.loads(services[0].operate(operator, "offboard", "--dry-run"))


def test_a_deleted_users_secret_is_emptied_at_once(keycloak, gateway, watch, told):
    told.session = keycloak.login(told.leaver)
    told.deleted = keycloak.delete_user(told.leaver)
    emptied = watch.emptied(told.home, told.deleted).at
    figures.record("user deleted, emptied", emptied - told.deleted)
    assert emptied - told.deleted <= EVENT
    gateway.refuses(told.session, told.deleted)
    gateway.refuses(told.token, told.deleted, path="/own/1")


def test_a_namespace_without_the_mark_is_nobodys(keycloak, watch, admin, told):
    """Another user goes, whose namespace an administrator has taken away from Postern before."""
    path = f"/api/v1/namespaces/{told.unmarked.name}"
    assert admin.merge(path, {"metadata": {"labels": {LABEL: None}}}).status == 200
    keycloak.delete_user(told.unmarked)


def test_the_dry_run_shows_who_is_gone(services, operator, told):
    gone = web.eventually(
        "both are gone",
        lambda: (answer := offboarding(services, operator))
        and {told.leaver.id, told.unmarked.id} <= {each["subject"] for each in answer["gone"]}
        and answer["gone"],
        limit=40,
    )
    [mine] = [each for each in gone if each["subject"] == told.leaver.id]
    assert mine["namespace"] == told.home and "gone" in mine["conditions"], mine
    assert mine["gone_seconds"] <= time.monotonic() - told.deleted + 1
    assert offboarding(services, operator)["held"] is None, "three may always go"


def test_a_new_user_of_the_same_name_is_not_given_the_namespace(keycloak, gateway, watch, services, operator, told):
    answer = keycloak.admin("POST", "/users", {
        "username": told.home, "enabled": True, "firstName": "New", "lastName": "User", "email": f"{told.home}@example.test",
        "emailVerified": True, "credentials": [{"type": "password", "value": "pw", "temporary": False}],
    })  # fmt: skip
    told.namesake = User(answer.headers["location"].rsplit("/", 1)[1], told.home, "pw", "")
    since = time.monotonic()
    token = keycloak.login(told.namesake)
    gateway.call("/orders/1", token)
    web.eventually("it is said", lambda: "name_taken" in services[0].conditions(operator, told.namesake), limit=20)
    listed = services[0].listed(operator, told.namesake)
    assert listed["namespace"] is None, listed
    answer = gateway.passes(token)
    assert not answer or answer.received.header("x-auth-namespace") != told.home
    assert not [change for change in watch.of(told.home) if change.at > since and change.token], "filled for somebody else"


def test_the_namespace_is_there_until_it_is_time_and_is_removed_then(admin, told):
    path = f"/api/v1/namespaces/{told.home}"

    def is_going():
        answer = admin.get(path)
        return answer.status == 404 or answer.json["metadata"].get("deletionTimestamp") or of(answer) != told.leaver.id

    def of(answer):
        return answer.json["metadata"]["annotations"][SUBJECT]

    web.eventually("it is removed", is_going, limit=2 * OFFBOARD_AFTER + 30)
    removed = time.monotonic() - told.deleted
    figures.record(f"user deleted, off-boarded (after {OFFBOARD_AFTER:g})", removed)
    assert removed >= OFFBOARD_AFTER


def test_then_the_namesake_gets_it_and_it_is_marked_for_them(gateway, watch, admin, services, operator, told):
    path = f"/api/v1/namespaces/{told.home}"

    def is_theirs():
        answer = admin.get(path)
        return answer.status == 200 and answer.json["metadata"]["annotations"][SUBJECT] == told.namesake.id

    web.eventually("it is made for the namesake", is_theirs, limit=60)
    # They have signed in by now, so it may have been filled already.
    token = watch.filled(told.home, told.deleted).token
    answer = web.eventually("let in", lambda: gateway.passes(token, "/own/1"), limit=15)
    assert answer.received.header("x-auth-user") == told.namesake.id
    web.eventually("no condition is left", lambda: not services[0].conditions(operator, told.namesake), limit=20)
    assert gateway.judged("/own/1", told.token).status == 401, "the token of the one who left"


def test_the_namespace_without_the_mark_is_left(admin, told):
    time.sleep(10)
    answer = admin.get(f"/api/v1/namespaces/{told.unmarked.name}")
    assert answer.status == 200 and "deletionTimestamp" not in answer.json["metadata"]
