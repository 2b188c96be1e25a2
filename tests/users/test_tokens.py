"""Tokens that need Keycloak to be understood: lightweight ones, and opaque ones of an issuer that says so."""

import time

import jwt
import pytest
import web
from gateway import BOUND


@pytest.fixture(scope="module")
def lightweight_gateway(new_gateway, lab):
    return new_gateway(lightweight=True, issuers=lab.issuer(opaque="true"))


@pytest.fixture
def token(lightweight_gateway, keycloak, user):
    token = keycloak.login(user, "cli-light")
    assert not {"sub", "aud", "realm_access"} & jwt.decode(str(token), options={"verify_signature": False}).keys()
    return lightweight_gateway.admitted(token)


def test_a_lightweight_token_of_a_disabled_user_is_out_and_stays_out(lightweight_gateway, keycloak, user, token):
    lightweight_gateway.refuses("user disabled, lightweight token", token, keycloak.set_enabled(user, False))
    keycloak.set_enabled(user, True)
    lightweight_gateway.stays_refused(token)
    lightweight_gateway.admitted(keycloak.login(user, "cli-light"))


def test_a_role_that_is_lost_is_missed_by_a_lightweight_token(lightweight_gateway, keycloak, user, token):
    lightweight_gateway.admitted(token, "/readers/1")
    removed = keycloak.remove_role(user, "reader")
    lightweight_gateway.refuses("role removed, lightweight token", token, removed, path="/readers/1", status=403)


def test_a_lost_audience_mapper_ends_lightweight_tokens_and_blocks_nobody(
    lightweight_gateway, keycloak, operator, user
):
    """Keycloak then says `active:false`, exactly as if the user were disabled."""
    client = "cli-mapper-light"
    token = lightweight_gateway.admitted(keycloak.login(user, client))
    with keycloak.without_audience_mapper(client):
        lightweight_gateway.refuses("audience mapper removed", token, time.monotonic(), BOUND)
        assert lightweight_gateway.state(operator, user.id) not in ("blocked", "removed")
        assert lightweight_gateway.passes(keycloak.login(user)), "another client's token"
    lightweight_gateway.admitted(keycloak.login(user, client))
    assert lightweight_gateway.blocks(user.id) == []


def test_an_opaque_token_is_judged_by_introspection(lightweight_gateway, lab):
    token = lab.opaque(preferred_username="opal", namespace="team-o")
    answer = lightweight_gateway.judged(token)
    assert answer.status == 200, answer
    _, claims = lightweight_gateway.verify(answer.received.bearer, "orders-api")
    assert (claims["sub"], claims["namespace"], claims["preferred_username"]) == (lab.SUBJECT, "team-o", "opal")


def test_an_opaque_token_that_the_issuer_ends_is_out_within_the_bound(lightweight_gateway, lab):
    token = lightweight_gateway.admitted(lab.opaque())
    lab.issued.discard(token)
    lightweight_gateway.refuses("opaque token ended", token, time.monotonic(), BOUND)


def test_an_opaque_token_nobody_issued_is_refused(lightweight_gateway):
    answer = lightweight_gateway.call("/orders/1", "c2VjcmV0LW9mLW5vYm9keQ")
    assert answer.status == 401, answer


def test_an_opaque_token_is_refused_where_no_issuer_says_so(gateway, lab):
    answer = gateway.call("/orders/1", lab.opaque())
    assert (answer.status, answer.reason) == (401, "invalid_token"), answer


def test_random_tokens_do_not_eat_the_calls_of_good_ones(lightweight_gateway, lab, keycloak, user):
    """Each of them needs a call; users with tokens in use, at other addresses, must not notice."""

    def flood(number):
        headers = {"authorization": f"Bearer flood-{number:06}"}
        return web.send("GET", f"{lightweight_gateway.url}/orders/1", headers=headers, source="127.0.0.2").status

    good = lightweight_gateway.admitted(keycloak.login(user, "cli-light"))
    opaque = lightweight_gateway.admitted(lab.opaque())
    until, number = time.monotonic() + 1.5 * BOUND, 0
    failed = lambda: lightweight_gateway.metric("postern_user_status_total", outcome="failed")  # noqa: E731
    while time.monotonic() < until:
        before = failed()
        for _ in range(20):
            number += 1
            assert flood(number) in (401, 429, 503)
        for token in (good, opaque):
            answer = lightweight_gateway.call("/orders/1", token)
            if answer.status == 503 and failed() > before:  # the issuer did not answer, which is not the flood's doing
                answer = lightweight_gateway.judged(token)
            assert answer.status == 200, f"after {number} random tokens: {answer}"
    lightweight_gateway.admitted(keycloak.login("alice", "cli-light"))  # a first sight after the flood
