"""Users that Keycloak has from a directory (LDAP): disabled there, and a directory that is gone or suddenly empty.

Measured with Keycloak 26.7.3 and OpenLDAP 2.5, with the mapper for Active Directory's `userAccountControl`:

- Who is disabled in the directory is `enabled:false` in Keycloak after a synchronisation and not before, whatever the cache
  policy. Then `/users?enabled=false` lists them and introspection says inactive; no event is about the user (by hand there is
  `ACTION REALM user-storage/ID/sync`, and nothing when it runs by itself).
- While the directory does not answer (stopped, hanging, or without the subtree), `GET /users/{id}` of every federated user
  that is not in Keycloak's cache is `200` with `"enabled":false`, otherwise the same as of a disabled user; introspection says
  `active:false`, a refresh `User disabled`; the sessions are still listed. `/users?enabled=false`, which asks the database, does
  **not** list them. So for a user with a `federationLink` the single read is no proof, and the list is.
- A directory that answers, but holds nobody: the user is removed from Keycloak when next looked at, `404 User not found`.
  When the people are back, the next sign-in makes a user with a new id.
"""

import os
import time

import directory as ldap
import jwt
import pytest
import web
from gateway import BOUND, LISTED
from keycloak import User

PATH = "/none/1"  # people of the directory have no namespace, so no namespace token


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    if not ldap.is_installed():
        reason = "slapd or ldap-utils is missing: nothing is known about users from a directory"
        if os.environ.get("CI") or os.environ.get("POSTERN_CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    server = ldap.Directory(tmp_path_factory.mktemp("directory"), ("lena", "max", "nora", "olof"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def federation(keycloak, directory):
    federation = ldap.Federation(keycloak, directory)
    yield federation
    federation.remove()


@pytest.fixture
def sign_in(gateway, keycloak, federation):
    """Signs a person of the directory in; the token, let in, and the user's id."""

    def sign_in(name):
        token = gateway.admitted(keycloak.login(name), PATH)
        subject = jwt.decode(str(token), options={"verify_signature": False})["sub"]
        return token, User(subject, name, f"{name}-pw", "")

    return sign_in


def test_who_is_disabled_in_the_directory_is_out_within_the_bound_of_its_synchronisation(
    gateway, keycloak, operator, directory, federation, sign_in, bystander
):
    token, user = sign_in("lena")
    directory.set_account_control("lena", ldap.DISABLED)
    federation.synchronise()
    since = time.monotonic()
    gateway.refuses("disabled in the directory, synchronised", token, since, BOUND, path=PATH)
    web.eventually("blocked", lambda: gateway.state(operator, user.id) == "blocked", limit=LISTED)
    directory.set_account_control("lena", ldap.NORMAL)
    federation.synchronise()
    gateway.stays_refused(token)
    web.eventually("a new sign-in passes", lambda: gateway.passes(keycloak.login("lena"), PATH))
    gateway.stays_refused(token, seconds=0.5)


@pytest.mark.parametrize("how", ["stopped", "hanging"])
def test_a_directory_that_does_not_answer_blocks_nobody(
    gateway, keycloak, operator, directory, federation, sign_in, bystander, how
):
    (_, in_use), idle = sign_in("max"), keycloak.login("nora")
    idle_user = jwt.decode(str(idle), options={"verify_signature": False})["sub"]
    local = gateway.admitted(keycloak.login("alice"))
    with silent(directory, how):
        federation.forget()
        said = keycloak.admin("GET", f"/users/{in_use.id}").json
        assert (said["enabled"], said["federationLink"] != "") == (False, True), "what Keycloak says has changed"
        # For long enough that tokens are asked about again and disabled users are listed.
        until = time.monotonic() + 1.5 * BOUND
        while time.monotonic() < until:
            assert gateway.passes(local), "a user of Keycloak's own"
            gateway.call(PATH, idle)
            time.sleep(0.2)
        for subject in (in_use.id, idle_user):
            assert gateway.state(operator, subject) not in ("blocked", "removed")
            assert gateway.blocks(subject) == []
    federation.forget()
    for name in ("max", "nora"):
        sign_in(name)
    for subject in (in_use.id, idle_user):
        assert gateway.state(operator, subject) in ("nothing_known", "active"), "as if there had been a block"


def test_a_directory_that_is_suddenly_empty_ends_what_keycloak_removes_and_nothing_else(
    gateway, keycloak, operator, directory, federation, sign_in, bystander
):
    """Keycloak itself removes each user of the directory that it looks at. Its own users must not notice."""
    token, user = sign_in("olof")
    directory.stop()
    directory.start("nobody")
    try:
        federation.forget()
        keycloak.admin("GET", f"/users/{user.id}", expect=(404,))
        gateway.refuses("removed with an empty directory", token, time.monotonic(), BOUND, path=PATH)
        web.eventually("removed", lambda: gateway.state(operator, user.id) == "removed", limit=LISTED)
    finally:
        directory.stop()
        directory.start()
    federation.forget()
    _, again = sign_in("olof")
    assert again.id != user.id
    gateway.stays_refused(token, seconds=0.5)


class silent:  # noqa: N801  reads as a statement
    """The directory does not answer for a while."""

    def __init__(self, directory, how):
        self._directory, self._how = directory, how

    def __enter__(self):
        self._directory.stop() if self._how == "stopped" else self._directory.freeze()

    def __exit__(self, *_):
        self._directory.start() if self._how == "stopped" else self._directory.thaw()
