"""WebSockets through Postern. The cases are those of Autobahn's suite by its groups; each is played directly to the server too, and
what comes back must be the same."""

import re

import h2.settings
import pytest
from sockets import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Peer, PeerOfHttp2, frame
from wire import Http2

DONE = frame(CLOSE, (1000).to_bytes(2, "big") + b"done")


def code(number, reason=b""):
    return frame(CLOSE, number.to_bytes(2, "big") + reason)


def pieces(opcode, *payloads):
    """A message in fragments."""
    last = len(payloads) - 1
    return [frame(CONTINUATION if n else opcode, piece, fin=n == last) for n, piece in enumerate(payloads)]


LENGTHS = [0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20]
GREETING = "Hello-µ@ßöäüàá-UTF-8!!".encode()
BAD_TEXTS = {
    "lone-continuation": b"\x80",
    "overlong-slash": b"\xc0\xaf",
    "surrogate": b"\xed\xa0\x80",
    "above-unicode": b"\xf4\x90\x80\x80",
    "cut-off": b"\xce\xba\xe1\xbd",
    "in-the-middle": b"good" + b"\xff" + b"good",
}
GOOD_TEXTS = {
    "greek": "κόσμε".encode(),
    "first-of-four": b"\xf0\x90\x80\x80",
    "last-of-unicode": b"\xf4\x8f\xbf\xbf",
    "not-a-character": b"\xef\xbf\xbf",
}

CASES = {
    **{f"1-text-of-{n}": [frame(TEXT, b"*" * n)] for n in LENGTHS},
    **{f"1-binary-of-{n}": [frame(BINARY, b"\xfe" * n)] for n in LENGTHS},
    "2-ping": [frame(PING)],
    "2-ping-with-text": [frame(PING, b"Hello")],
    "2-ping-with-bytes": [frame(PING, b"\x00\xff\xfe\xfd")],
    "2-ping-of-125": [frame(PING, b"\xfe" * 125)],
    "2-ping-of-126": [frame(PING, b"\xfe" * 126)],
    "2-pong-nobody-asked-for": [frame(PONG, b"x"), frame(PING, b"y")],
    "2-ten-pings": [frame(PING, b"%d" % n) for n in range(10)],
    **{f"3-reserved-{n}": [frame(TEXT, b"Hello", reserved=n)] for n in range(1, 8)},
    "3-reserved-after-a-message": [frame(TEXT, b"Hello"), frame(TEXT, b"Hello", reserved=2)],
    **{f"4-opcode-{n}": [frame(n, b"x")] for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "5-ping-in-fragments": pieces(PING, b"a", b"b"),
    "5-pong-in-fragments": pieces(PONG, b"a", b"b"),
    "5-text-in-fragments": pieces(TEXT, b"frag", b"ment", b"ed"),
    "5-ping-between-fragments": [frame(TEXT, b"a", fin=False), frame(PING, b"now"), frame(CONTINUATION, b"b")],
    "5-continuation-of-nothing": [frame(CONTINUATION, b"x")],
    "5-open-continuation-of-nothing": [frame(CONTINUATION, b"x", fin=False)],
    "5-text-within-a-message": [frame(TEXT, b"a", fin=False), frame(TEXT, b"b")],
    "5-empty-fragments": pieces(TEXT, b"", b"", b""),
    **{f"6-good-{name}": [frame(TEXT, text)] for name, text in GOOD_TEXTS.items()},
    **{f"6-bad-{name}": [frame(TEXT, text)] for name, text in BAD_TEXTS.items()},
    "6-byte-by-byte": pieces(TEXT, *(GREETING[n : n + 1] for n in range(len(GREETING)))),
    "6-character-across-fragments": pieces(TEXT, b"\xce", b"\xba"),
    "6-bad-across-fragments": pieces(TEXT, b"good\xce", b"good"),
    "7-close-without-a-code": [frame(CLOSE)],
    "7-close-of-one-byte": [frame(CLOSE, b"\x03")],
    "7-close-with-a-long-reason": [code(1000, b"*" * 123)],
    "7-close-with-a-reason-too-long": [code(1000, b"*" * 124)],
    "7-close-with-a-bad-reason": [code(1000, b"\xce\xba\xff")],
    "7-message-after-close": [code(1000), frame(TEXT, b"too late")],
    "7-ping-after-close": [code(1000), frame(PING, b"too late")],
    **{f"7-close-{n}": [code(n)] for n in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)},
    **{f"7-bad-close-{n}": [code(n)] for n in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535)},
    **{f"9-text-of-{n}-MiB": [frame(TEXT, b"*" * (n << 20))] for n in (4, 16)},
    **{f"9-binary-of-{n}-MiB": [frame(BINARY, b"\x00" * (n << 20))] for n in (4, 16)},
    **{f"9-fragments-of-{n}": pieces(BINARY, *[b"\xfe" * n] * ((1 << 20) // n)) for n in (1024, 65536)},
    "9-a-thousand-messages": [frame(TEXT, b"*" * (n % 200)) for n in range(1000)],
    "10-fragments-that-do-not-fit": pieces(TEXT, *[b"*" * 1300] * 50, b"*" * 36),
}


# Cases in which nothing is wrong, so that every message must come back.
SOUND = re.compile("1-|2-ten|5-(text-in|ping-between|empty)|6-(good|byte|character)|9-|10-")


def transcript(peer, case):
    """What comes back. Pongs have no place among the messages, so they are told apart."""
    frames, came = CASES[case], []
    try:
        peer.send(*frames)
        if SOUND.match(case):  # a server may drop what it has not answered when a Close comes
            messages = sum(bool(each[0] & 0x80 and each[0] & 0xF < CLOSE) for each in frames)
            while sum(bool(first & 0x80 and first & 0xF < CLOSE) for first, _ in came) < messages:
                came.append(peer.frame())
        if not case.startswith("6-bad"):  # these the server ends itself, if it has read the message by the time that a Close comes
            peer.send(DONE)
    except OSError:
        pass  # the other side has had enough
    came += peer.all()
    pongs = [each for each in came if isinstance(each[0], int) and each[0] & 0xF == PONG]
    return [each for each in came if each not in pongs], pongs


@pytest.mark.parametrize("case", CASES)
def test_what_comes_back_is_what_the_server_says(case, clear, websockets):
    with Peer("127.0.0.1", websockets.port, "websocket.test") as direct:
        expected = transcript(direct, case)
    with Peer(clear.address, clear.port, "websocket.test") as peer:
        assert peer.status == 101 and peer.fields["upgrade"].lower() == "websocket"
        assert transcript(peer, case) == expected
    assert expected[0], "the server said nothing, so the case shows nothing"


SOME = ["1-text-of-65536", "5-ping-between-fragments", "6-bad-surrogate", "7-close-4999", "9-binary-of-4-MiB"]


@pytest.mark.parametrize("case", SOME)
def test_the_same_over_tls(case, secure, websockets):
    with Peer("127.0.0.1", websockets.port, "websocket.test") as direct:
        expected = transcript(direct, case)
    with Peer(secure.address, secure.port, "websocket.test", context=secure.tls) as peer:
        assert transcript(peer, case) == expected


@pytest.mark.parametrize("number", [1000, 1001, 1008, 1011, 3000, 4001, 4999])
def test_a_close_of_the_server_reaches_the_client_with_code_and_reason(either, number):
    with Peer(either.address, either.port, "websocket.test", context=either.tls) as peer:
        peer.send(frame(TEXT, f"close {number} because".encode()))
        assert peer.frame() == (0x88, number.to_bytes(2, "big") + b"because")
        peer.send(frame(CLOSE, number.to_bytes(2, "big")))
        assert peer.wire.rest() == b""


def test_a_server_that_drops_the_connection_is_not_made_to_say_goodbye(clear):
    with Peer(clear.address, clear.port, "websocket.test") as peer:
        peer.send(frame(TEXT, b"first"), frame(TEXT, b"drop"))
        assert peer.frame() == (0x81, b"first")
        assert peer.all() == [("cut", b"")]


def test_a_frame_that_comes_byte_by_byte_is_passed_on(clear):
    with Peer(clear.address, clear.port, "websocket.test") as peer:
        for byte in frame(TEXT, b"slowly"):
            peer.send(bytes([byte]))
        assert peer.frame() == (0x81, b"slowly")


def test_extensions_and_subprotocols_are_negotiated_between_the_ends(clear):
    with Peer(clear.address, clear.port, "websocket.test", extensions="permessage-deflate", protocols="nobody, other") as peer:
        assert "permessage-deflate" in peer.fields["sec-websocket-extensions"]
        assert peer.fields["sec-websocket-protocol"] == "other"
        # An empty message, deflated (RFC 7692 §7.2.3.6), with RSV1: what comes back is deflated too.
        peer.send(frame(TEXT, bytes.fromhex("f248cdc9c90700"), reserved=4))
        first, payload = peer.frame()
        assert first == 0xC1 and payload, "the answer is not compressed"


def test_a_handshake_that_the_server_refuses_is_no_tunnel(clear):
    with Peer(clear.address, clear.port, "go-http1.test") as peer:
        assert peer.status == 200 and b'"serial"' in peer.wire.body(peer.fields)


def test_two_hundred_sockets_at_once_do_not_mix(clear):
    peers = [Peer(clear.address, clear.port, "websocket.test") for _ in range(200)]
    for number, peer in enumerate(peers):
        peer.send(frame(TEXT, b"%d" % number))
    assert [int(peer.frame()[1]) for peer in reversed(peers)] == list(range(199, -1, -1))
    for peer in peers:
        peer.wire.close()


def test_extended_connect_is_offered(clear):
    with Http2(clear) as http2:
        http2.request()
        assert http2.state.remote_settings.get(h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL) == 1


@pytest.mark.parametrize("case", SOME)
def test_the_same_over_http2(case, either, websockets):
    with Peer("127.0.0.1", websockets.port, "websocket.test") as direct:
        expected = transcript(direct, case)
    with PeerOfHttp2(either, "websocket.test") as peer:
        assert peer.status == 200
        assert transcript(peer, case) == expected
