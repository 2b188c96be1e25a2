"""What others do to a user's Secret and namespace is put right, soon, and says nothing to Postern."""

import base64
import time

import figures
import pytest
import web
from cluster import LABEL, secret
from parts import within
from watching import MOST, claims_of, life_of


@pytest.fixture
def home(keycloak, gateway, watch):
    """A namespace whose user has a token."""
    user = keycloak.new_user()
    watch.emptied(user.name)
    gateway.admitted(keycloak.login(user))
    watch.filled(user.name)
    return user.name


@pytest.fixture
def path(home):
    return f"/api/v1/namespaces/{home}/secrets/access-token"


def put_right(watch, gateway, home, since, what, limit=within(5.0)):
    """A whole token of the user is there again."""

    def is_right(token):
        return token and life_of(token) > MOST - 300 and claims_of(token)["namespace"] == home

    change = watch.until(home, is_right, since, what)
    figures.record(what, change.at - since)
    assert change.at - since <= limit
    web.eventually("the gateway takes it", lambda: gateway.passes(change.token, "/own/1"), limit=10)
    return change


def text(token):
    return base64.b64encode(token.encode()).decode()


def test_an_edited_text_is_put_right(watch, gateway, admin, home, path):
    edited = admin.merge(path, {"data": {"AUTH_TOKEN": text("x")}})
    assert edited.status == 200, edited
    put_right(watch, gateway, home, edited.sent_at, "Secret edited, put right")


def test_somebody_who_insists_on_the_field_is_put_right(watch, gateway, admin, home, path):
    edited = admin.call(
        "PATCH", f"{path}?fieldManager=insistent&force=true", secret("access-token", AUTH_TOKEN="x"),
        "application/apply-patch+yaml",
    )  # fmt: skip
    assert edited.status == 200, edited
    put_right(watch, gateway, home, edited.sent_at, "field taken by another manager, put right")


def test_a_token_of_somebody_else_is_put_right(keycloak, watch, gateway, admin, home, path):
    other = keycloak.new_user()
    watch.emptied(other.name)
    gateway.admitted(keycloak.login(other))
    theirs = watch.filled(other.name).token
    edited = admin.merge(path, {"data": {"AUTH_TOKEN": text(theirs)}})
    assert edited.status == 200, edited
    put_right(watch, gateway, home, edited.sent_at, "token of another user put there, put right")


def test_a_deleted_secret_is_made_again(watch, gateway, admin, home, path):
    deleted = admin.delete(path)
    assert deleted.status == 200, deleted
    put_right(watch, gateway, home, deleted.sent_at, "Secret deleted, made again")


def test_a_stripped_mark_is_put_right(watch, gateway, admin, home, path):
    stripped = admin.merge(path, {"metadata": {"labels": None, "annotations": None}})
    assert stripped.status == 200, stripped
    web.eventually("the mark is there again", lambda: LABEL in (admin.get(path).json["metadata"].get("labels") or {}))
    assert watch.now(home)


def test_a_secret_that_was_made_immutable_is_made_again(watch, gateway, admin, home, path):
    fixed = admin.merge(path, {"immutable": True, "data": {"AUTH_TOKEN": text("x")}})
    assert fixed.status == 200, fixed
    put_right(watch, gateway, home, fixed.sent_at, "Secret made immutable, made again", limit=within(10.0))
    assert not admin.get(path).json.get("immutable")


def test_further_members_do_no_harm(watch, gateway, admin, home, path):
    edited = admin.merge(path, {"data": {"OTHER": text("mine")}, "metadata": {"labels": {"mine": "too"}}})
    assert edited.status == 200, edited
    time.sleep(2)
    assert watch.now(home) and gateway.passes(watch.now(home), "/own/1")


def test_an_emptied_secret_is_filled_again(watch, gateway, admin, home, path):
    edited = admin.merge(path, {"data": None})
    assert edited.status == 200, edited
    put_right(watch, gateway, home, edited.sent_at, "data removed, put right")


def test_the_key_of_an_empty_secret_comes_back(keycloak, watch, admin):
    user = keycloak.new_user()
    watch.emptied(user.name)
    path = f"/api/v1/namespaces/{user.name}/secrets/access-token"
    edited = admin.merge(path, {"data": None})
    assert edited.status == 200, edited
    web.eventually("the key is there, and empty", lambda: admin.get(path).json.get("data") == {"AUTH_TOKEN": ""})


def test_nothing_that_stands_there_brings_a_blocked_user_back(keycloak, watch, gateway, admin):
    user = keycloak.new_user()
    watch.emptied(user.name)
    gateway.admitted(keycloak.login(user))
    token = watch.filled(user.name).token
    watch.emptied(user.name, keycloak.set_enabled(user, False))
    path = f"/api/v1/namespaces/{user.name}/secrets/access-token"
    edited = admin.merge(path, {"data": {"AUTH_TOKEN": text(token)}})
    assert edited.status == 200, edited
    assert watch.emptied(user.name, edited.sent_at).at - edited.sent_at <= within(5.0)
    deleted = admin.delete(path)
    web.eventually("the Secret is made again, empty", lambda: watch.now(user.name) == "" and admin.get(path).status == 200)
    assert not [change for change in watch.of(user.name) if change.at > deleted.sent_at and change.token]


def test_a_namespace_that_was_deleted_by_hand_is_made_again(watch, gateway, admin, home):
    old = admin.get(f"/api/v1/namespaces/{home}").json["metadata"]["uid"]
    deleted = admin.delete(f"/api/v1/namespaces/{home}")
    assert deleted.status == 200, deleted

    def is_new():
        answer = admin.get(f"/api/v1/namespaces/{home}")
        return answer.status == 200 and answer.json["metadata"]["uid"] != old

    web.eventually("there is a namespace again", is_new, limit=60)
    put_right(watch, gateway, home, deleted.sent_at, "namespace deleted, all made again", limit=40)
    for missing in ("secrets/postern-session", "serviceaccounts/postern-user"):
        path = f"/api/v1/namespaces/{home}/{missing}"
        web.eventually(f"{missing} is there", lambda path=path: admin.get(path).status == 200)
