"""Names that cannot be had: a condition of the user, and nothing is touched, bent or taken."""

import hashlib
import time
import uuid

import pytest
import web
from cluster import LABEL
from keycloak import User


def named(keycloak, name):
    """A user of this name."""
    answer = keycloak.admin("POST", "/users", {
        "username": name, "enabled": True, "firstName": "New", "lastName": "User", "email": f"{uuid.uuid4().hex}@example.test",
        "emailVerified": True, "credentials": [{"type": "password", "value": "pw", "temporary": False}],
    })  # fmt: skip
    return User(answer.headers["location"].rsplit("/", 1)[1], name, "pw", "")


def has(services, operator, user, condition):
    web.eventually(
        f"the condition is `{condition}`", lambda: condition in services[0].conditions(operator, user), limit=20
    )


@pytest.mark.parametrize(
    ("name", "condition"),
    [("{}.surname", "name_invalid"), ("{}_x", "name_invalid"), ("kube-{}", "name_of_system"), ("postern-{}", "name_of_system")],
)
def test_a_name_that_no_namespace_of_a_user_has_is_said(keycloak, gateway, services, operator, admin, name, condition):
    user = named(keycloak, name.format(f"user-{uuid.uuid4().hex[:8]}"))
    gateway.call("/orders/1", keycloak.login(user))
    has(services, operator, user, condition)
    listed = services[0].listed(operator, user)
    assert listed["namespace"] is None and listed["seconds_left"] is None, listed
    names = [each["metadata"]["name"] for each in admin.get("/api/v1/namespaces").json["items"]]
    assert not [each for each in names if user.name[:13] in each], "something was made from the name"


def test_a_namespace_that_others_made_is_not_taken(keycloak, cluster, watch, services, operator, admin):
    home = cluster.new_namespace("theirs")
    path = f"/api/v1/namespaces/{home}"
    secret = {"metadata": {"name": "access-token"}, "data": {"AUTH_TOKEN": "dGhlaXJz"}}
    assert admin.create(f"{path}/secrets", secret).status == 201
    before = [admin.get(each).json["metadata"]["resourceVersion"] for each in (path, f"{path}/secrets/access-token")]
    user = named(keycloak, home)
    keycloak.login(user)
    web.eventually("a condition is said", lambda: services[0].conditions(operator, user), limit=20)
    time.sleep(3)
    after = [admin.get(each).json["metadata"]["resourceVersion"] for each in (path, f"{path}/secrets/access-token")]
    assert after == before, "it was touched"
    assert LABEL not in admin.get(path).json["metadata"].get("labels", {})
    for missing in ("secrets/postern-session", "serviceaccounts/postern-user"):
        assert admin.get(f"{path}/{missing}").status == 404


def test_a_namespace_that_an_administrator_hands_over_is_used(keycloak, cluster, watch, services, operator, admin):
    home = cluster.new_namespace("given")
    user = named(keycloak, home)
    web.eventually("a condition is said", lambda: services[0].conditions(operator, user), limit=20)
    assert admin.merge(f"/api/v1/namespaces/{home}", {"metadata": {
        "labels": {LABEL: mark_label("main", user.id), "pod-security.kubernetes.io/enforce": "baseline"},
        "annotations": {"postern.dev/issuer": "main", "postern.dev/subject": user.id},
    }}).status == 200  # fmt: skip
    watch.until(home, lambda token: token == "", 0, "the Secret is there", limit=60)
    keycloak.login(user)
    watch.filled(home)
    web.eventually("no condition is left", lambda: not services[0].conditions(operator, user), limit=20)


def mark_label(issuer, subject):
    """The label is derived from the two annotations: a subject may be any text, a label may not."""
    return "u" + hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()[:32]


def test_a_renamed_user_keeps_the_namespace_and_a_newcomer_does_not_get_it(
    keycloak, gateway, watch, services, operator
):
    user = keycloak.new_user()
    home = user.name
    watch.emptied(home)
    gateway.admitted(keycloak.login(user))
    filled = watch.filled(home).at
    keycloak.admin("PUT", "", {"editUsernameAllowed": True})
    try:
        keycloak.admin("PUT", f"/users/{user.id}", {"username": f"{home}-x"})
    finally:
        keycloak.admin("PUT", "", {"editUsernameAllowed": False})
    has(services, operator, user, "renamed")
    newcomer = named(keycloak, home)
    keycloak.login(newcomer)
    has(services, operator, newcomer, "name_taken")
    listed = services[0].listed(operator, newcomer)
    assert listed["namespace"] is None and listed["seconds_left"] is None, listed
    assert services[0].listed(operator, user)["namespace"] == home
    assert all(change.token for change in watch.of(home) if change.at >= filled), "the Secret of the first is as it was, or newer"
