"""Upstreams that ask (RFC 7662) and that listen (RFC 8936): about the tokens that Postern gave them, and no others."""

import base64
from concurrent.futures import ThreadPoolExecutor

import figures
import jwt
import pytest
import web
from gateway import CALLERS, EVENT
from postern import within_bound

ACCOUNT_DISABLED = "https://schemas.openid.net/secevent/risc/event-type/account-disabled"
SESSION_REVOKED = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"


def basic(name, secret=None):
    pair = f"{name}:{CALLERS[name] if secret is None else secret}"
    return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def introspect(gateway, token, headers=None):
    return web.send("POST", f"{gateway.url}/introspect", headers=headers or basic("orders"), form={"token": token})


def poll(gateway, caller="orders", **body):
    """One poll that does not wait: `sets` of the answer, verified, and which of them there are more of."""
    body = {"maxEvents": 100, "returnImmediately": True, **body}
    answer = web.send("POST", f"{gateway.url}/events/poll", headers=basic(caller), body=body)
    assert answer.status == 200, answer
    assert answer.headers.get_content_type() == "application/json"
    keys = jwt.PyJWKSet.from_dict(web.send("GET", f"{gateway.url}/.well-known/jwks.json").json)
    sets = {}
    for identifier, text in answer.json["sets"].items():
        header = jwt.get_unverified_header(text)
        assert header["typ"] == "secevent+jwt", header  # RFC 8417 section 2.3
        claims = jwt.decode(
            text, keys[header["kid"]], algorithms=[header["alg"]], issuer=gateway.url, audience=f"{caller}-api",
            options={"require": ["iss", "iat", "jti", "aud"]},
        )
        assert claims["jti"] == identifier
        assert "exp" not in claims, "RFC 8417 section 2.2: not recommended; a SET tells what happened"
        sets[identifier] = claims
    return sets


def about(sets, user, event):
    """Those of the sets that tell of an event about a user."""
    return {key: claims for key, claims in sets.items() if event in claims["events"] and user.id in str(claims)}


@pytest.fixture(autouse=True)
def drained(gateway):
    """Nothing is left of what the tests before have caused."""
    while sets := poll(gateway):
        poll(gateway, ack=list(sets))


@pytest.fixture
def minted(gateway, token):
    """What the upstream `orders` was given for the user."""
    return gateway.call("/orders/1", token).received.bearer


def test_a_minted_token_is_active_for_its_own_audience(gateway, user, minted):
    answer = introspect(gateway, minted)
    assert (answer.status, answer.json["active"]) == (200, True), answer
    assert answer.json["sub"] == user.id
    assert answer.json["iss"] == gateway.url
    assert answer.json["aud"] in ("orders-api", ["orders-api"])
    assert "no-store" in answer.headers.get("cache-control", "")


def test_nobody_learns_about_the_token_of_another_audience(gateway, minted):
    answer = introspect(gateway, minted, basic("billing"))
    assert (answer.status, answer.json) == (200, {"active": False})


@pytest.mark.parametrize("what", ["garbage", "", "a.b.c"])
def test_what_is_no_token_of_ours_is_inactive(gateway, what):
    answer = introspect(gateway, what)
    assert (answer.status, answer.json) == (200, {"active": False}) or (what == "" and answer.status == 400)


def test_a_token_of_keycloaks_is_inactive_here(gateway, token):
    assert introspect(gateway, str(token)).json == {"active": False}


def test_a_caller_that_nobody_knows_is_refused(gateway, minted):
    for headers in (basic("orders", "wrong"), basic("billing", CALLERS["orders"]), {"x": "y"},
                    {"authorization": "Bearer " + minted}, {"authorization": "Basic !"}):
        for path in ("introspect", "events/poll"):
            answer = web.send("POST", f"{gateway.url}/{path}", headers=headers, form={"token": minted})
            assert answer.status == 401, f"{path} with {headers}: {answer}"
            assert "www-authenticate" in answer.headers


def test_a_blocked_users_minted_token_is_inactive_within_the_bound(gateway, keycloak, user, minted):
    disabled = keycloak.set_enabled(user, False)
    answer = within_bound(lambda: introspect(gateway, minted), lambda answer: answer.json["active"], disabled, EVENT)
    assert answer.json == {"active": False}, answer
    figures.record("user disabled: own introspection", answer.sent_at - disabled)
    keycloak.set_enabled(user, True)
    for _ in range(10):
        assert introspect(gateway, minted).json == {"active": False}, "enabling alone"


def test_an_ended_session_leaves_what_was_minted_for_its_user(gateway, keycloak, user, token, minted):
    """A minted token is the user's, and serves all their sessions and jobs: only what ends the user ends it."""
    keycloak.end_session(token.session)
    web.eventually("refused", lambda: gateway.call("/orders/1", token).status == 401)
    assert introspect(gateway, minted).json["active"]
    disabled = keycloak.set_enabled(user, False)
    answer = within_bound(lambda: introspect(gateway, minted), lambda answer: answer.json["active"], disabled, EVENT)
    assert answer.json == {"active": False}, answer


def test_a_block_is_told_and_is_told_until_it_is_acknowledged(gateway, keycloak, user, minted):
    keycloak.set_enabled(user, False)
    told = web.eventually("told", lambda: about(poll(gateway), user, ACCOUNT_DISABLED))
    assert len(told) == 1, told
    assert about(poll(gateway), user, ACCOUNT_DISABLED).keys() == told.keys(), "not acknowledged, so told again"
    assert about(poll(gateway, ack=list(told)), user, ACCOUNT_DISABLED) == {}


def test_an_ended_session_is_told(gateway, keycloak, user, token, minted):
    keycloak.end_session(token.session)
    told = web.eventually("told", lambda: about(poll(gateway), user, SESSION_REVOKED))
    assert about(poll(gateway), user, ACCOUNT_DISABLED) == {}, "a session's end is no block"
    poll(gateway, ack=list(told))


def test_nobody_acknowledges_for_another(gateway, keycloak, user, minted):
    keycloak.set_enabled(user, False)
    told = web.eventually("told", lambda: about(poll(gateway), user, ACCOUNT_DISABLED))
    poll(gateway, "billing", ack=list(told))
    assert about(poll(gateway), user, ACCOUNT_DISABLED).keys() == told.keys()
    poll(gateway, ack=list(told))


def test_a_poll_may_wait_and_is_answered_by_the_event(gateway, keycloak, user, minted):
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(poll, gateway, returnImmediately=False)
        keycloak.set_enabled(user, False)
        assert about(waiting.result(timeout=15), user, ACCOUNT_DISABLED)


def test_a_poll_asks_for_no_more_than_it_wants(gateway, keycloak, upstream):
    users = [keycloak.new_user() for _ in range(3)]
    for user in users:
        gateway.admitted(keycloak.login(user))
    for user in users:
        keycloak.set_enabled(user, False)
    web.eventually("all told", lambda: all(about(poll(gateway), user, ACCOUNT_DISABLED) for user in users))
    body = {"maxEvents": 2, "returnImmediately": True}
    answer = web.send("POST", f"{gateway.url}/events/poll", headers=basic("orders"), body=body).json
    assert (len(answer["sets"]), answer["moreAvailable"]) == (2, True)
    for malformed in ({"maxEvents": "many"}, {"ack": "x"}, []):
        assert web.send("POST", f"{gateway.url}/events/poll", headers=basic("orders"), body=malformed).status == 400
