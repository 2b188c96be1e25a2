"""A Keycloak that answers wrongly, or somebody before it who does: nothing is lost, and nobody is admitted by it."""

import time
import uuid

import jwt
import pytest
import web
from gateway import BOUND, EVENT, LISTED
from lab import HTML, TOKENS


@pytest.fixture(scope="module")
def gateway(new_gateway, lab):
    return new_gateway(issuers=lab.issuer())


@pytest.fixture
def person(lab):
    """A user of the lab's own for this test; what the lab does wrong ends with it."""
    subject = str(uuid.uuid4())
    lab.users[subject] = {}
    yield subject
    lab.faults.clear()
    lab.introspected_as.clear()


def disable(lab, subject, **event):
    lab.users[subject]["enabled"] = False
    return lab.admin_event(resourcePath=f"users/{subject}", representation='{"enabled":false}', **event)


def test_the_lab_is_like_keycloak(gateway, lab, operator, person):
    token = gateway.admitted(lab.token(sub=person))
    gateway.refuses("user disabled, at the test issuer", token, disable(lab, person))
    assert gateway.state(operator, person, "lab") == "blocked"
    lab.users[person]["enabled"] = True
    gateway.stays_refused(token)


def test_an_unblock_waits_for_the_issuer_to_say_what_time_it_is(gateway, lab, operator, person):
    """It asks for sign-ins that begin after it; a guess could be before the old ones."""
    token = gateway.admitted(lab.token(sub=person))
    gateway.operate(operator, "user", "block", "lab", person, "--reason", "suspicious")
    lab.faults[TOKENS] = lambda: (503, {})
    unblock = ("user", "unblock", "lab", person, "--reason", "all is well")
    assert "does not say what time it is" in gateway.operate(operator, *unblock, succeeds=False)
    assert gateway.state(operator, person, "lab") == "blocked"
    lab.faults.clear()
    gateway.operate(operator, *unblock)
    assert gateway.state(operator, person, "lab") == "awaiting_sign_in"
    gateway.stays_refused(token)


STRANGE = {
    "unknown types": {"operationType": "FROBNICATE", "resourceType": "MOON"},
    "no type": {"operationType": ..., "resourceType": ...},
    "no path": {"resourcePath": ...},
    "no id": {"id": ...},
    "no time": {"time": ...},
    "a time that is a text": {"time": "yesterday"},
    "a time in the far future": {"time": 2**62},
    "a negative time": {"time": -1},
    "a path of another thing": {"resourcePath": "users"},
    "a path with odd characters": {"resourcePath": "users/..%2F..%2F\u0000\n'\"<x>/groups"},
    "a representation that is no JSON": {"representation": "{"},
    "a representation that is no object": {"representation": "[false]"},
    "a representation that is a number": {"representation": 7},
    "a representation of another type": {"representation": '{"enabled":"false"}'},
    "a null": {"resourceType": None, "resourcePath": None},
}


def test_a_strange_event_blocks_nobody_and_hides_none(gateway, lab):
    """All of them at once, each beside a disable of a user of its own."""
    subjects = {name: str(uuid.uuid4()) for name in STRANGE}
    lab.users.update({subject: {} for subject in subjects.values()})
    tokens = {name: gateway.admitted(lab.token(sub=subject)) for name, subject in subjects.items()}
    other = gateway.admitted(lab.token())
    for fields in STRANGE.values():
        lab.admin_event(**fields)
    for subject in subjects.values():
        disabled = disable(lab, subject)
    for name in STRANGE:
        gateway.refuses("user disabled, after strange events", tokens[name], disabled)
    assert gateway.passes(other)
    lab.admin_events.clear()


ODD = ("f:9a:erin", "o'neil", "\u00fcn\u00ef c\u00f6d\u00e9", "a/b", "a%2Fb", "..", "<b>", "a\nb", "x" * 200)


def test_a_user_id_with_odd_characters_is_blocked_like_any_other(gateway, lab):
    subjects = [f"{odd}{uuid.uuid4().hex[:4]}" for odd in ODD]
    lab.users.update({subject: {} for subject in subjects})
    tokens = {subject: gateway.admitted(lab.token(sub=subject)) for subject in subjects}
    for subject in subjects:
        disable(lab, subject)
    since = time.monotonic()
    for token in tokens.values():
        gateway.refuses("user disabled, odd id", token, since, LISTED)


def html():
    return 200, HTML


def hang():
    time.sleep(BOUND)
    return 200, {}


def broken():
    return 502, {"error": "bad gateway"}


WRONG = {"html": html, "hanging": hang, "502": broken}


def unmoved(gateway, operator, subjects_and_tokens):
    """For as long as an event would need to count, nobody is refused."""
    until = time.monotonic() + EVENT
    while time.monotonic() < until:
        for subject, token in subjects_and_tokens:
            answer = gateway.call("/orders/1", token)
            assert answer.status in (200, 503), f"{subject}: {answer}"
        time.sleep(0.2)
    for subject, _ in subjects_and_tokens:
        assert gateway.state(operator, subject, "lab") not in ("blocked", "removed"), subject


@pytest.mark.parametrize("wrong", WRONG)
def test_an_administration_that_answers_wrongly_blocks_nobody(gateway, lab, operator, person, wrong):
    token = gateway.admitted(lab.token(sub=person))
    lab.faults["/admin/"] = WRONG[wrong]
    # A reason to read the user again, which then cannot be.
    lab.admin_event(resourcePath=f"users/{person}", representation="{}")
    unmoved(gateway, operator, [(person, token)])
    lab.faults.clear()
    gateway.refuses("user disabled, after wrong answers", token, disable(lab, person), EVENT + 1)


def test_a_404_that_is_not_exactly_keycloaks_is_no_proof_of_deletion(gateway, lab, operator, person):
    answers = [
        (404, HTML), (404, {"error": "HTTP 404 Not Found"}), (404, {}), (404, {"error": "Realm not found."}),
        (404, {"error": "User not found", "more": 1}), (403, {"error": "User not found"}), (200, {}), (200, []),
    ]
    asked = []
    for answer in answers:
        subject = str(uuid.uuid4())
        lab.users[subject] = {}
        asked.append((subject, gateway.admitted(lab.token(sub=subject))))
        lab.faults[f"/admin/users/{subject}"] = lambda answer=answer: answer
        lab.admin_event(resourcePath=f"users/{subject}", representation="{}")
    unmoved(gateway, operator, asked)


@pytest.mark.parametrize("wrong", [html, broken, lambda: (200, {"active": "true"}), lambda: (200, [])])
def test_an_introspection_that_answers_wrongly_admits_nobody(gateway, lab, person, wrong):
    lab.faults["/introspect"] = wrong
    answer = gateway.call("/orders/1", lab.token(sub=person))
    assert (answer.status, answer.reason) == (503, "user_status_unknown"), answer


@pytest.mark.parametrize("difference", [
    {"sub": "somebody-else"}, {"iss": "https://elsewhere.example.test"}, {"aud": "other"}, {"aud": []},
    {"typ": "Refresh"}, {"typ": "ID"},
])
def test_an_introspection_about_something_else_admits_nobody(gateway, lab, operator, person, difference):
    lab.introspected_as.update(difference)
    answer = gateway.call("/orders/1", lab.token(sub=person))
    assert answer.status in (401, 503), answer
    assert gateway.state(operator, person, "lab") not in ("blocked", "removed")


def test_refused_credentials_are_503_and_never_user_inactive(gateway, lab, operator, person):
    lab.faults["/introspect"] = lambda: (401, {"error": "invalid_client"})
    token = lab.token(sub=person)
    answer = gateway.call("/orders/1", token)
    assert (answer.status, answer.reason) == (503, "user_status_unknown"), answer
    lab.faults.clear()
    gateway.admitted(token)


def test_a_session_list_of_somebody_else_is_no_proof_of_a_sign_in(gateway, lab, operator, person):
    token = gateway.admitted(lab.token(sub=person))
    gateway.refuses("user disabled, at the test issuer", token, disable(lab, person))
    lab.users[person]["enabled"] = True
    lab.admin_event(resourcePath=f"users/{person}", representation='{"enabled":true}')
    web.eventually("the lift is seen", lambda: gateway.state(operator, person, "lab") == "awaiting_sign_in")
    new = lab.token(sub=person)
    claims = jwt.decode(new, options={"verify_signature": False})
    started = int(time.time() * 1000) + 60_000
    lab.faults[f"/admin/users/{person}/sessions"] = lambda: (
        200, [{"id": claims["sid"], "userId": "somebody-else", "start": started}]
    )
    answers, until = [], time.monotonic() + EVENT
    while time.monotonic() < until:
        answers.append(gateway.call("/orders/1", new))
        assert answers[-1].status in (401, 503), f"let in by a session of somebody else: {answers[-1]}"
        time.sleep(0.1)
    assert answers[-1].reason == "user_status_unknown", f"a list that was looked at says nothing: {answers[-1]}"
    lab.faults[f"/admin/users/{person}/sessions"] = lambda: (
        200, [{"id": claims["sid"], "userId": person, "start": started}]
    )
    gateway.admitted(new)
    gateway.stays_refused(token, seconds=0.5)
