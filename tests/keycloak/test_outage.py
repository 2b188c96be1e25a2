"""Keycloak goes away and comes back, and Postern is not restarted.

The outage is played once, by the fixture; each test judges one promise by what was seen.
"""

import time
from types import SimpleNamespace

import pytest
import web
from postern import BOUND, COARSE_CLOCK, Postern


@pytest.fixture(scope="module")
def outage(keycloak, new_gateway):
    denying = new_gateway(kind=Postern)
    patient = new_gateway(kind=Postern, when_unknown='{ allow_for = "5m" }')
    seen = SimpleNamespace(known=keycloak.login("alice"), unseen=keycloak.login("bob"))
    for gateway in (denying, patient):
        assert gateway.call("/orders/1", seen.known).status == 200
    keycloak.stop()
    try:
        down = time.monotonic()
        seen.late, early = [], new_gateway(until_ready=False, kind=Postern)
        seen.first_denial = web.eventually(
            "a known token is no longer let in",
            lambda: next((answer for answer in [denying.call("/orders/1", seen.known)] if answer.status != 200), None),
        )
        while time.monotonic() < down + BOUND + COARSE_CLOCK or len(seen.late) < 5:
            answers = (denying.call("/orders/1", seen.known), patient.call("/orders/1", seen.known))
            if answers[0].sent_at > down + BOUND + COARSE_CLOCK:
                seen.late.append(answers)
        seen.unseen_answers = [gateway.call("/orders/1", seen.unseen) for gateway in (denying, patient)]
        seen.early = [early.admin(path) for path in ("/healthz", "/readyz")] + [early.call("/orders/1", seen.known)]
    finally:
        keycloak.start()
    seen.gateways = {"denying": denying, "patient": patient, "started-during-the-outage": early}
    return seen


def test_without_an_answer_within_the_bound_a_known_token_is_503_and_never_401(outage):
    answers = [outage.first_denial, *(denied for denied, _ in outage.late)]
    assert [(answer.status, answer.reason) for answer in answers] == [(503, "user_status_unknown")] * len(answers)
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)


def test_with_allow_for_a_known_token_passes_on(outage):
    assert [passed.status for _, passed in outage.late] == [200] * len(outage.late)


@pytest.mark.parametrize("when_unknown", [0, 1], ids=["deny", "allow_for"])
def test_a_user_never_seen_before_is_503_and_never_401(outage, when_unknown):
    answer = outage.unseen_answers[when_unknown]
    assert (answer.status, answer.reason) == (503, "user_status_unknown"), answer


def test_a_gateway_started_during_the_outage_lives_but_is_not_ready_and_answers_503(outage):
    health, readiness, answer = outage.early
    assert (health.status, readiness.status) == (200, 503)
    assert (answer.status, answer.reason) == (503, "keys_unavailable")


@pytest.mark.parametrize("name", ["denying", "patient", "started-during-the-outage"])
def test_when_keycloak_is_back_all_is_well_without_a_restart(outage, name):
    gateway = outage.gateways[name]
    web.eventually("ready", lambda: gateway.readiness() == 200, limit=60)
    for token in (outage.known, outage.unseen):
        web.eventually("the token passes again", lambda: gateway.call("/orders/1", token).status == 200, limit=60)
