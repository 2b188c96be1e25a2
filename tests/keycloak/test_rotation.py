"""The realm's signing keys change while tokens are in use."""

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from postern import REFRESH, within_bound

# A key that is gone is noticed by a fetch of the keys (a bad token) or by an introspection (an inactive one).
WHICHEVER_TELLS_FIRST = ("invalid_token", "user_inactive")


@pytest.fixture
def new_key(keycloak):
    """Makes the realm sign with a further key. Afterwards the realm has the keys that it had."""
    keys = []

    def make(priority):
        pem = rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        keys.append(keycloak.add_key(pem.decode(), priority))
        return keys[-1]

    yield make
    for key in keys:
        keycloak.delete_key(key)


@pytest.fixture
def fresh_gateway(new_gateway, keycloak):
    """A gateway whose early key fetches nobody has used up; it knows the keys of before the rotation."""
    gateway = new_gateway()
    assert gateway.call("/orders/1", keycloak.login("alice")).status == 200
    yield gateway
    gateway.stop()


def kid(token):
    return jwt.get_unverified_header(token.access_token)["kid"]


def test_a_token_of_a_new_key_is_accepted_at_once_and_one_of_the_old_key_still(
    fresh_gateway, keycloak, new_key, round
):
    before = keycloak.login("alice")
    assert fresh_gateway.call("/orders/1", before).status == 200
    for priority in (200, 300):
        new_key(priority)
        after = keycloak.login("alice")
        assert kid(after) != kid(before)
        answer = fresh_gateway.call("/orders/1", after)
        assert answer.status == 200, f"the very first request with the new key: {answer}"
        assert fresh_gateway.call("/orders/1", before).status == 200, "the old key is still published"
        before = after


def test_tokens_of_a_disabled_key_are_refused_after_the_next_fetch(fresh_gateway, keycloak, new_key, round):
    key = new_key(200)
    old = keycloak.login("alice")
    assert fresh_gateway.call("/orders/1", old).status == 200
    new_key(300)
    new = keycloak.login("alice")
    disabled = keycloak.disable_key(key)
    answer = within_bound(
        lambda: fresh_gateway.call("/orders/1", old), lambda answer: answer.status == 200, disabled + REFRESH
    )
    assert answer.status == 401 and answer.reason in WHICHEVER_TELLS_FIRST, answer
    assert fresh_gateway.call("/orders/1", new).status == 200


def test_a_token_of_a_disabled_key_that_was_never_seen_is_refused(fresh_gateway, keycloak, new_key):
    key = new_key(200)
    unseen = keycloak.login("alice")
    keycloak.disable_key(key)
    answer = fresh_gateway.call("/orders/1", unseen)
    assert answer.status == 401 and answer.reason in WHICHEVER_TELLS_FIRST, answer


def test_many_unknown_key_ids_do_not_keep_a_known_one_out(fresh_gateway, keycloak):
    good = keycloak.login("alice")
    private_key = rsa.generate_private_key(65537, 2048)
    claims = jwt.decode(good.access_token, options={"verify_signature": False})
    for number in range(50):
        forged = jwt.encode(claims, private_key, algorithm="RS256", headers={"kid": f"unknown-{number}"})
        assert fresh_gateway.call("/orders/1", forged).status == 401
    assert fresh_gateway.call("/orders/1", good).status == 200
