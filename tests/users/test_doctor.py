"""`postern doctor` reads the realm's settings and says which would break a promise."""

import json

import pytest
from gateway import CLIENT, MANAGER, Gateway
from postern import GATEWAY_SECRET


@pytest.fixture
def doctor(keycloak, upstream, streams, tmp_path):
    """What it says about a configuration that no gateway runs, and whether it is content."""

    def examine(client=CLIENT, secret=None, **settings):
        gateway = Gateway(tmp_path, upstream, settings.pop("keycloak", keycloak), streams=streams, client=client, **settings)
        (tmp_path / f"{client[0]}.pw").write_text(secret or client[1])
        # It asks a Keycloak that has just been started, once.
        config = tmp_path / "postern.toml"
        config.write_text(config.read_text().replace('timeout = "1s"', 'timeout = "10s"'))
        done = gateway.run("doctor", "-c", "postern.toml")
        text = done.stdout + done.stderr
        assert "panicked" not in text
        assert GATEWAY_SECRET not in text.split(), "the client's secret was told"
        return done.returncode == 0, text.lower()

    return examine


def test_it_is_content_with_the_test_realm(doctor):
    content, text = doctor()
    assert content, text


def test_it_names_a_role_that_the_service_account_lacks(doctor):
    content, text = doctor(client=("robot", "robot-secret"))
    assert not content
    assert "view-users" in text and "view-events" in text, text


def test_it_names_a_role_that_the_service_account_need_not_have_and_an_audience_that_tokens_lack(doctor):
    # `gateway-manager` is in no token's audience, so Keycloak would call each of them inactive.
    content, text = doctor(client=MANAGER)
    assert not content
    assert "manage-users" in text, text
    assert "aud" in text, text


def test_it_says_that_the_client_secret_is_wrong(doctor):
    content, text = doctor(secret="not-the-secret")
    assert not content
    assert "client" in text and ("secret" in text or "credentials" in text), text


def test_it_says_that_users_may_edit_their_own_namespace(doctor, keycloak):
    profile = keycloak.admin("GET", "/users/profile").json
    open_profile = json.loads(json.dumps(profile))
    for attribute in open_profile["attributes"]:
        if attribute["name"] == "namespace":
            attribute["permissions"]["edit"] = ["admin", "user"]
    keycloak.admin("PUT", "/users/profile", open_profile)
    try:
        content, text = doctor()
    finally:
        keycloak.admin("PUT", "/users/profile", profile)
    assert not content
    assert "namespace" in text, text


def test_it_says_that_no_user_event_of_a_kind_is_stored(doctor, keycloak):
    stored = keycloak.admin("GET", "/events/config").json
    kinds = [kind for kind in stored["enabledEventTypes"] if kind != "USER_DISABLED_BY_PERMANENT_LOCKOUT"]
    keycloak.admin("PUT", "/events/config", {**stored, "enabledEventTypes": kinds})
    try:
        content, text = doctor()
    finally:
        keycloak.admin("PUT", "/events/config", stored)
    assert not content
    assert "user_disabled_by_permanent_lockout" in text, text


def test_it_says_that_nobody_answers(doctor):
    class Nobody:
        url = "http://127.0.0.1:9/realms/demo"

    content, text = doctor(keycloak=Nobody())
    assert not content
    assert "127.0.0.1:9" in text, text
