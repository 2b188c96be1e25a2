"""Roles, groups and attributes that change while a token lives: what Keycloak says now counts, not what the token says."""

import time
import uuid

import pytest
from gateway import BOUND, EVENT
from postern import within_bound

import figures


@pytest.fixture
def crew(keycloak):
    """A group of the realm, for this test alone."""
    name = f"crew-{uuid.uuid4().hex[:8]}"
    answer = keycloak.admin("POST", "/groups", {"name": name})
    return answer.headers["location"].rsplit("/", 1)[1]


def minted(gateway, token, path="/orders/1", audience="orders-api"):
    """The claims of the token that the upstream is given; None while the answer is no 200."""
    answer = gateway.call(path, token)
    claims = gateway.verify(answer.received.bearer, audience)[1] if answer.status == 200 else {}
    return answer, claims


def test_a_removed_role_is_missed(gateway, keycloak, user, token, bystander):
    assert gateway.call("/readers/1", token).status == 200
    removed = keycloak.remove_role(user, "reader")
    answer = gateway.refuses("realm role removed", token, removed, path="/readers/1", status=403)
    assert answer.reason == "role_missing"
    assert gateway.passes(token), "only the route that wants the role refuses"


def test_a_removed_role_leaves_the_minted_token(gateway, keycloak, user, token):
    def roles(answer_and_claims):
        return answer_and_claims[1].get("roles", [])

    assert roles(minted(gateway, token, "/with-roles/1", "billing-api")) == ["reader"]
    removed = keycloak.remove_role(user, "reader")

    def ask():
        answer, claims = minted(gateway, token, "/with-roles/1", "billing-api")
        answer.claims = claims
        return answer

    answer = within_bound(ask, lambda answer: answer.claims.get("roles") == ["reader"], removed, EVENT)
    figures.record("realm role removed", answer.sent_at - removed)
    assert answer.status == 200 and not answer.claims.get("roles"), answer


def test_a_left_group_is_missed(gateway, keycloak, user):
    parent = keycloak.admin("GET", "/groups?search=teams&exact=true").json[0]["id"]
    group = next(
        group["id"] for group in keycloak.admin("GET", f"/groups/{parent}/children").json if group["name"] == "team-a"
    )
    keycloak.admin("PUT", f"/users/{user.id}/groups/{group}")
    token = gateway.admitted(keycloak.login(user), "/grouped/1")
    keycloak.admin("DELETE", f"/users/{user.id}/groups/{group}")
    left = time.monotonic()
    answer = gateway.refuses("group left", token, left, path="/grouped/1", status=403)
    assert answer.reason == "group_missing"


def test_a_role_that_came_by_a_deleted_group_is_missed_within_the_bound(gateway, keycloak, crew):
    """The event is about the group: no user is named in it."""
    role = keycloak.admin("GET", "/roles/reader").json
    keycloak.admin("POST", f"/groups/{crew}/role-mappings/realm", [role])
    user = keycloak.new_user()
    keycloak.admin("PUT", f"/users/{user.id}/groups/{crew}")
    token = gateway.admitted(keycloak.login(user), "/readers/1")
    keycloak.admin("DELETE", f"/groups/{crew}")
    deleted = time.monotonic()
    gateway.refuses("group deleted", token, deleted, BOUND, path="/readers/1", status=403)


def test_a_changed_namespace_is_in_the_next_minted_token(gateway, keycloak, user, token):
    _, claims = minted(gateway, token)
    assert claims["namespace"] == user.namespace
    changed = keycloak.set_namespace(user, "moved")

    def ask():
        answer, claims = minted(gateway, token)
        answer.claims = claims
        return answer

    answer = within_bound(ask, lambda answer: answer.claims.get("namespace") == user.namespace, changed, EVENT)
    figures.record("namespace changed", answer.sent_at - changed)
    assert (answer.status, answer.claims.get("namespace")) == (200, "moved"), answer


def test_a_role_that_is_given_counts_within_the_bound(gateway, keycloak):
    user = keycloak.new_user()
    token = gateway.admitted(keycloak.login(user))
    assert gateway.call("/readers/1", token).status == 403
    added = keycloak.add_role(user, "reader")
    answer = within_bound(lambda: gateway.call("/readers/1", token), lambda answer: answer.status == 403, added, BOUND)
    assert answer.status == 200, answer
