"""OpenID Connect Back-Channel Logout 1.0: Keycloak's own logout tokens, and such as nobody should believe."""

import time
import uuid

import jwt
import pytest
import web
from cryptography.hazmat.primitives.asymmetric import rsa
from gateway import EVENT, PATIENCE
from lab import BACKCHANNEL_LOGOUT

CLIENT = "cli-backchannel"


@pytest.fixture(scope="module")
def gateway(new_gateway, lab):
    """Also believes the logout tokens of one client of Keycloak's, and those of a client of the lab's."""
    return new_gateway(further=f'backchannel_logout = {{ clients = ["{CLIENT}"] }}', issuers=lab.issuer())


def post(gateway, token, issuer="main", **form):
    form = {"logout_token": token, **form}
    answer = web.send("POST", f"{gateway.url}/backchannel-logout/{issuer}", form=form)
    return answer


def accepted(answer):
    # Section 2.8: 200; 204 where a framework turns an empty 200 into it. Never cached.
    return answer.status in (200, 204) and "no-store" in answer.headers.get("cache-control", "")


@pytest.fixture
def captured(keycloak, upstream):
    """Gives a real logout token of a session, which went to the upstream instead of the gateway."""
    client_before = keycloak.admin("GET", f"/clients?clientId={CLIENT}").json[0]
    keycloak.set_client_attribute(CLIENT, "backchannel.logout.url", upstream.url)

    def capture(token):
        upstream.posted.clear()
        keycloak.end_session(token.session)
        posted = web.eventually("Keycloak posts", lambda: upstream.posted and upstream.posted[0])
        return posted.removeprefix("logout_token=")

    yield capture
    keycloak.admin("PUT", f"/clients/{client_before['id']}", client_before)


def test_keycloaks_own_post_ends_the_session_and_no_other(gateway, keycloak, operator, user):
    keycloak.set_client_attribute(CLIENT, "backchannel.logout.url", f"{gateway.url}/backchannel-logout/main")
    token, other = (gateway.admitted(keycloak.login(user, CLIENT)) for _ in range(2))
    gateway.refuses("back-channel logout", token, keycloak.end_session(token.session))
    gateway.stays_refused(token)
    assert gateway.passes(other)
    assert gateway.state(operator, user.id) != "blocked"


def test_keycloaks_token_is_accepted_once(gateway, keycloak, captured, user):
    token = gateway.admitted(keycloak.login(user, CLIENT))
    logout_token = captured(token)
    first = post(gateway, logout_token)
    assert accepted(first), first
    assert gateway.call("/orders/1", token).status == 401
    again = post(gateway, logout_token)
    assert accepted(again), "it says what was done already, and does nothing"
    assert gateway.passes(gateway.admitted(keycloak.login(user, CLIENT)))


def test_a_tampered_token_of_keycloaks_is_refused(gateway, keycloak, captured, user):
    other = gateway.admitted(keycloak.login(user, CLIENT))
    logout_token = captured(keycloak.login(user, CLIENT))
    header, payload, signature = logout_token.split(".")
    for forged in (
        f"{header}.{payload}.{signature[:-6]}AAAAAA", f"{header}.{payload}.", f"{header}.{payload}",
        f"eyJhbGciOiJub25lIn0.{payload}.", f"{header}.{payload[:-2]}AA.{signature}", "", "x" * 40_000,
    ):
        answer = post(gateway, forged)
        assert answer.status in (400, 413), answer
    assert gateway.passes(other)


def test_a_logout_token_for_a_client_that_is_not_listed_is_refused(gateway, keycloak, upstream, user):
    """The client `gateway` is a login client too, but its logout tokens are not for us."""
    keycloak.set_client_attribute("gateway", "backchannel.logout.url", upstream.url)
    try:
        upstream.posted.clear()
        token = keycloak.login(user, "gateway", "gateway-secret")
        keycloak.end_session(token.session)
        posted = web.eventually("Keycloak posts", lambda: upstream.posted and upstream.posted[0])
        answer = post(gateway, posted.removeprefix("logout_token="))
        assert answer.status == 400, answer
    finally:
        keycloak.set_client_attribute("gateway", "backchannel.logout.url", "")


@pytest.mark.parametrize("what", ["access_token", "id_token", "refresh_token"])
def test_another_token_of_keycloaks_is_no_logout_token(gateway, keycloak, user, what):
    token = gateway.admitted(keycloak.login(user, CLIENT))
    answer = post(gateway, getattr(token, what))
    assert answer.status == 400, answer
    assert gateway.passes(token)


# The lab stores no event and goes on to say that a token is active: what happens, happens by the logout token alone.


def test_a_logout_token_with_a_session_ends_that_session_at_once_and_for_good(gateway, lab):
    token, other = (gateway.admitted(lab.token(sid=uuid.uuid4().hex, sub=lab.SUBJECT)) for _ in range(2))
    sid = claims_of(token)["sid"]
    answer = post(gateway, lab.logout_token(sub=lab.SUBJECT, sid=sid), "lab")
    assert accepted(answer), answer
    gateway.stays_refused(token, seconds=PATIENCE)
    gateway.stays_refused(lab.token(sid=sid), seconds=0.2)
    assert gateway.passes(other)


def test_a_logout_token_with_a_user_only_ends_all_sessions_until_a_new_sign_in(gateway, lab):
    tokens = [gateway.admitted(lab.token(sub=lab.SUBJECT)) for _ in range(2)]
    somebody = "99999999-2222-4333-8444-555555555555"
    lab.users[somebody] = {}
    other = gateway.admitted(lab.token(sub=somebody))
    answer = post(gateway, lab.logout_token(sub=lab.SUBJECT), "lab")
    assert accepted(answer), answer
    gateway.stays_refused(*tokens)
    assert gateway.passes(other)
    assert gateway.blocks(lab.SUBJECT) == []


def claims_of(token):
    return jwt.decode(token, options={"verify_signature": False})


def forgeries(lab, sid):
    """Name: a logout token that must not be believed."""
    stranger = rsa.generate_private_key(65537, 2048)
    now = int(time.time())
    about = {"sub": lab.SUBJECT, "sid": sid}
    return {
        "signed by a stranger": lab.logout_token(key=stranger, **about),
        "an unknown key": lab.logout_token(key=stranger, header={"kid": "unknown"}, **about),
        "another issuer": lab.logout_token(iss="https://elsewhere.example.test", **about),
        "another client": lab.logout_token(aud="other", **about),
        "the gateway's own client": lab.logout_token(aud="gateway", **about),
        "expired": lab.logout_token(iat=now - 600, exp=now - 300, **about),
        "issued in the future": lab.logout_token(iat=now + 3600, exp=now + 7200, **about),
        "with a nonce": lab.logout_token(nonce="n", **about),
        "without events": lab.logout_token(without=["events"], **about),
        "with another event": lab.logout_token(events={"http://schemas.openid.net/event/other": {}}, **about),
        "with an event that is no object": lab.logout_token(events={BACKCHANNEL_LOGOUT: "yes"}, **about),
        "with events that are a list": lab.logout_token(events=[BACKCHANNEL_LOGOUT], **about),
        "without jti": lab.logout_token(without=["jti"], **about),
        "without iat": lab.logout_token(without=["iat"], **about),
        "without aud": lab.logout_token(without=["aud"], **about),
        "about nobody": lab.logout_token(),
        "about a number": lab.logout_token(sub=7, sid=7),
        "of another type": lab.logout_token(header={"typ": "at+jwt"}, **about),
        "with a critical extension": lab.logout_token(header={"crit": ["x"], "x": 1}, **about),
    }


def test_forged_logout_tokens_end_nothing(gateway, lab):
    token = gateway.admitted(lab.token(sub=lab.SUBJECT))
    believed = [
        f"{name}: {answer}"
        for name, forged in forgeries(lab, claims_of(token)["sid"]).items()
        if (answer := post(gateway, forged, "lab")).status != 400
    ]
    assert not believed, believed
    assert gateway.passes(token)


def test_a_logout_token_counts_at_its_own_issuer_only(gateway, lab):
    token = gateway.admitted(lab.token(sub=lab.SUBJECT))
    genuine = lab.logout_token(sub=lab.SUBJECT, sid=claims_of(token)["sid"])
    assert post(gateway, genuine, "main").status == 400
    assert post(gateway, genuine, "no-such-issuer").status == 404
    assert gateway.passes(token)


def test_a_request_that_is_no_logout_is_refused(gateway, lab):
    url = f"{gateway.url}/backchannel-logout/lab"
    sid = uuid.uuid4().hex
    token = lab.token(sub=lab.SUBJECT, sid=sid)
    gateway.admitted(token)
    genuine = lab.logout_token(sub=lab.SUBJECT, sid=sid)
    assert web.send("GET", f"{url}?logout_token={genuine}").status == 405
    assert web.send("POST", f"{url}?logout_token={genuine}", form={}).status == 400
    assert web.send("POST", url, body={"logout_token": genuine}).status in (400, 415)
    assert web.send("POST", url, form=[("logout_token", genuine), ("logout_token", genuine)]).status == 400
    assert web.send("POST", url, form={"logout_token": "x" * 1_000_000}).status in (400, 413)
    assert gateway.passes(token)


def test_a_flood_of_forged_logout_tokens_does_not_delay_a_block(gateway, keycloak, lab, user):
    token = gateway.admitted(keycloak.login(user))
    forged = lab.logout_token(key=rsa.generate_private_key(65537, 2048), sub=lab.SUBJECT)
    for _ in range(200):
        assert post(gateway, forged, "lab").status in (400, 429)
    gateway.refuses("user disabled", token, keycloak.set_enabled(user, False), EVENT)
