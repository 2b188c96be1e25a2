"""Connections that are open when their user is blocked or their session ends."""

import time

import figures
import pytest
from gateway import EVENT, within
from postern import COARSE_CLOCK
from streams import Events, WebSocket

LATEST = EVENT + COARSE_CLOCK + 0.5  # the workers look at their open streams once in a while


@pytest.fixture(autouse=True)
def fresh(streams):
    while not streams.closed.empty():
        streams.closed.get()


def test_a_websocket_is_closed_with_1008_both_ways_when_its_user_is_blocked(gateway, keycloak, streams, user, token):
    bobs = gateway.admitted(keycloak.login("bob"))
    with WebSocket(gateway, token) as socket, WebSocket(gateway, bobs) as other:
        disabled = keycloak.set_enabled(user, False)
        code, at = socket.closed()
        figures.record("user disabled: WebSocket closed", at - disabled)
        assert (code, at - disabled <= LATEST) == (1008, True), (code, at - disabled)
        assert streams.closed.get(timeout=6) == 1008, "the upstream was not told why"
        assert other.is_open(), "somebody else's was closed too"


def test_a_stream_of_events_is_cut_when_its_user_is_blocked(gateway, keycloak, user, token):
    bobs = gateway.admitted(keycloak.login("bob"))
    with Events(gateway, token) as events, Events(gateway, bobs) as other:
        disabled = keycloak.set_enabled(user, False)
        last = events.ended()
        figures.record("user disabled: event stream cut", max(0.0, last - disabled))
        assert last - disabled <= LATEST
        assert other.last(), "somebody else's was cut too"


def test_a_quick_disable_and_enable_closes_too(gateway, keycloak, user, token):
    with WebSocket(gateway, token) as socket:
        disabled = keycloak.set_enabled(user, False)
        keycloak.set_enabled(user, True)
        code, at = socket.closed()
        assert (code, at - disabled <= LATEST) == (1008, True), (code, at - disabled)


def test_an_ended_session_closes_its_own_streams_only(gateway, keycloak, user, token):
    another = gateway.admitted(keycloak.login(user))
    with WebSocket(gateway, token) as socket, WebSocket(gateway, another) as other:
        ended = keycloak.end_session(token.session)
        code, at = socket.closed()
        assert (code, at - ended <= LATEST) == (1008, True), (code, at - ended)
        assert other.is_open(), "another session's was closed too"


def test_a_block_by_hand_closes_at_once(gateway, operator, user, token):
    with WebSocket(gateway, token) as socket:
        gateway.operate(operator, "user", "block", "main", user.id, "--reason", "now")
        done = time.monotonic()
        code, at = socket.closed()
        assert (code, at - done <= within(1)) == (1008, True), (code, at - done)
