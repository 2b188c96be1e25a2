"""A user is disabled, deleted, logged out or loses a role, while a token of theirs is in use.

Every test makes its own users, so that none disturbs another.
"""

import pytest
from postern import refused_within_bound, within_bound


@pytest.fixture
def user(keycloak, round):
    return keycloak.new_user(roles=["reader"])


@pytest.fixture
def token(gateway, keycloak, user):
    """A token of the user that has been let in."""
    token = keycloak.login(user)
    assert gateway.call("/orders/1", token).status == 200
    return token


@pytest.fixture
def bystander(gateway, keycloak):
    """Somebody else, who must not notice anything."""
    token = keycloak.login("bob")
    yield token
    answer = gateway.call("/orders/1", token)
    assert answer.status == 200, f"somebody else was refused: {answer}"


def test_a_disabled_user_is_refused_within_the_bound(gateway, keycloak, user, token, bystander):
    answer = refused_within_bound(gateway, token, keycloak.set_enabled(user, False))
    assert answer.reason == "user_inactive"
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_a_deleted_user_is_refused_within_the_bound(gateway, keycloak, user, token, bystander):
    answer = refused_within_bound(gateway, token, keycloak.delete_user(user))
    assert answer.reason == "user_inactive"


def test_a_session_that_ended_is_refused_within_the_bound_and_another_of_the_same_user_is_not(
    gateway, keycloak, user, token, bystander
):
    other = keycloak.login(user)
    assert other.session != token.session
    answer = refused_within_bound(gateway, token, keycloak.end_session(token.session))
    assert answer.reason == "user_inactive"
    assert gateway.call("/orders/1", other).status == 200


def test_a_token_first_seen_after_its_user_was_disabled_is_refused_at_once(gateway, keycloak, user, bystander):
    token = keycloak.login(user)
    keycloak.set_enabled(user, False)
    answer = gateway.call("/orders/1", token)
    assert (answer.status, answer.reason) == (401, "user_inactive")


def test_a_role_that_is_removed_while_the_token_lives_is_missed_within_the_bound(
    gateway, keycloak, user, token, bystander
):
    assert gateway.call("/readers/1", token).status == 200
    removed = keycloak.remove_role(user, "reader")
    answer = refused_within_bound(gateway, token, removed, path="/readers/1", status=403)
    assert answer.reason == "role_missing"
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert gateway.call("/orders/1", token).status == 200, "only the route that wants the role refuses"


def test_a_role_that_is_added_while_the_token_lives_counts_within_the_bound(gateway, keycloak, round):
    user = keycloak.new_user()
    token = keycloak.login(user)
    assert gateway.call("/readers/1", token).status == 403
    added = keycloak.add_role(user, "reader")
    answer = within_bound(lambda: gateway.call("/readers/1", token), lambda answer: answer.status == 403, added)
    assert answer.status == 200, answer


def test_a_removed_role_leaves_the_minted_token_within_the_bound(gateway, keycloak, user, token):
    def roles(answer):
        _, claims = gateway.verify(answer.received.bearer, audience="billing-api")
        return claims.get("roles", [])

    assert roles(gateway.call("/with-roles/1", token)) == ["reader"]
    removed = keycloak.remove_role(user, "reader")
    answer = within_bound(
        lambda: gateway.call("/with-roles/1", token), lambda answer: roles(answer) == ["reader"], removed
    )
    assert roles(answer) == []
