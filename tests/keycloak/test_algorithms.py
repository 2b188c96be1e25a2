"""Every signature algorithm that a Keycloak client can choose, and those of a further issuer that it cannot."""

import jwt
import pytest

FROM_KEYCLOAK = ["RS256", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"]
FROM_THE_FURTHER_ISSUER = ["RS384", "PS384", "PS512", "ES384"]


@pytest.fixture(scope="module")
def tokens(keycloak):
    """One token of each client. Keycloak makes a key when its algorithm is first used, so they are all asked for first."""
    return {
        algorithm: keycloak.login("alice", f"cli-{algorithm.lower()}").access_token
        for algorithm in [*FROM_KEYCLOAK, "HS256"]
    }


@pytest.mark.parametrize("algorithm", FROM_KEYCLOAK)
def test_a_token_of_keycloak_is_accepted_whatever_its_algorithm(gateway, tokens, algorithm):
    assert jwt.get_unverified_header(tokens[algorithm])["alg"] == algorithm
    answer = gateway.call("/orders/1", tokens[algorithm])
    assert answer.status == 200, answer


def test_a_token_signed_with_a_shared_secret_is_refused(gateway, keycloak, tokens):
    assert jwt.get_unverified_header(tokens["HS256"])["alg"] == "HS256"
    assert keycloak.introspect(tokens["HS256"])["active"], "Keycloak itself stands by it"
    answer = gateway.call("/orders/1", tokens["HS256"])
    assert (answer.status, answer.reason) == (401, "invalid_token")


@pytest.mark.parametrize("algorithm", FROM_THE_FURTHER_ISSUER)
def test_a_token_of_the_further_issuer_is_accepted(gateway, further_issuer, algorithm):
    answer = gateway.call("/orders/1", further_issuer.token(algorithm))
    assert answer.status == 200, answer
    _, claims = gateway.verify(answer.received.bearer, audience="orders-api")
    assert (claims["orig_iss"], claims["sub"], claims["namespace"]) == (further_issuer.url, "f:1:erin", "team-e")


@pytest.mark.parametrize("algorithm", FROM_THE_FURTHER_ISSUER)
def test_one_changed_byte_of_a_signature_is_refused(gateway, further_issuer, algorithm):
    token = further_issuer.token(algorithm)
    at = token.rindex(".") + 20
    forged = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
    assert gateway.call("/orders/1", token).status == 200
    answer = gateway.call("/orders/1", forged)
    assert (answer.status, answer.reason) == (401, "invalid_token")


def test_a_key_of_one_issuer_never_verifies_a_token_of_another(gateway, keycloak, further_issuer):
    """The same key is published by the further issuer; only the claim `iss` says Keycloak."""
    foreign = further_issuer.token("RS256", iss=keycloak.url)
    answer = gateway.call("/orders/1", foreign)
    assert (answer.status, answer.reason) == (401, "invalid_token")
