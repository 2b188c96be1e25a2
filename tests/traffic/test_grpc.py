"""gRPC with a client and a server of gRPC's own library: all kinds of calls, metadata, statuses, deadlines, refusals."""

import queue

import grpc
import pytest
from rpc import SERVICE, Client
from wire import PATIENCE, Http2



@pytest.fixture(params=["clear-to-clear", "tls-to-clear", "clear-to-tls", "tls-to-tls"])
def client(request, clear, secure):
    front, _, back = request.param.split("-")
    gateway = clear if front == "clear" else secure
    with Client(gateway, "grpc.test" if back == "clear" else "grpc-tls.test") as client:
        yield client


def test_a_unary_call_is_answered_with_the_metadata_of_both_ends(client):
    answer, call = client.unary("Echo").with_call(b"hello", timeout=PATIENCE)
    assert answer == b"hello"
    first, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert (first["x-first"], first["x-bytes-bin"]) == ("head", b"\x00\xff\x01")
    assert (last["x-last"], last["x-end-bin"]) == ("trailer", b"\xfe\x00")
    assert call.code() == grpc.StatusCode.OK


def test_a_stream_of_the_client_is_joined(client):
    assert client.joining()((str(n).encode() for n in range(1000)), timeout=PATIENCE) == ",".join(map(str, range(1000))).encode()


def test_a_stream_of_the_server_comes_in_order(client):
    assert [int(n) for n in client.counting()(b"1000", timeout=PATIENCE)] == list(range(1000))


def test_both_talk_and_no_message_waits_for_the_next(client):
    messages = queue.Queue()
    answers = client.talking()(iter(messages.get, None), timeout=PATIENCE)
    for word in (b"one", b"two", b"three"):
        messages.put(word)  # the next is not sent before this one was answered
        assert next(answers) == word.upper()
    messages.put(None)
    assert list(answers) == [] and answers.code() == grpc.StatusCode.OK


def test_a_stream_that_fails_in_the_middle_keeps_what_came_and_says_why(client):
    answers = client.talking()(iter([b"one", b"fail", b"two"]), timeout=PATIENCE)
    assert next(answers) == b"ONE"
    with pytest.raises(grpc.RpcError) as error:
        next(answers)
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.DATA_LOSS, "in the middle")


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code != grpc.StatusCode.OK], ids=lambda code: code.name)
def test_each_status_arrives_with_its_details_and_metadata(clear, code):
    with Client(clear, "grpc.test") as client, pytest.raises(grpc.RpcError) as error:
        client.unary("Fail")(f"{code.value[0]} größer, 100 %".encode(), timeout=PATIENCE)
    assert (error.value.code(), error.value.details()) == (code, "größer, 100 %")
    assert ("x-why", "on purpose") in error.value.trailing_metadata()


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 65535, 65536, 8 << 20])
def test_messages_of_any_size_pass(clear, size):
    with Client(clear, "grpc.test") as client:
        message = bytes(range(256)) * (size // 256 + 1)
        assert client.unary("Echo")(message[:size], timeout=PATIENCE) == message[:size]


def test_a_hundred_calls_at_once_share_a_connection(clear):
    with Client(clear, "grpc.test") as client:
        calls = [client.unary("Echo").future(str(n).encode(), timeout=PATIENCE) for n in range(100)]
        assert [int(call.result()) for call in calls] == list(range(100))


def test_a_deadline_reaches_the_server_and_metadata_with_it(client):
    told = client.unary("Told")(b"", timeout=PATIENCE, metadata=[("x-own", "value"), ("x-own-bin", b"\x00\x01")]).decode()
    remaining = float(told.split("\n")[0].partition("=")[2])
    assert 0 < remaining <= PATIENCE + 0.1, "gRPC's client rounds what it says up to tenths of a second"
    assert "x-own='value'" in told and "x-own-bin=b'\\x00\\x01'" in told


def test_a_call_past_its_deadline_ends_at_both_ends(client, grpc_server):
    grpc_server.begun.clear()
    grpc_server.cancelled.clear()
    for deadline in (0.5, 3, 20):  # on a slow machine a call may end before it is at the server
        with pytest.raises(grpc.RpcError) as error:
            client.unary("Wait")(b"", timeout=deadline)
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        if grpc_server.begun.is_set():
            break
    assert grpc_server.cancelled.wait(PATIENCE), "the server was not told"


def test_a_call_that_its_client_cancels_is_cancelled_at_the_server(clear, grpc_server):
    with Client(clear, "grpc.test") as client:
        grpc_server.begun.clear()
        call = client.unary("Wait").future(b"", timeout=PATIENCE)
        assert grpc_server.begun.wait(PATIENCE), "the call did not arrive"
        grpc_server.cancelled.clear()
        call.cancel()
        with pytest.raises(grpc.FutureCancelledError):
            call.result()
        assert grpc_server.cancelled.wait(PATIENCE), "the server was not told"


def test_a_call_without_a_token_is_unauthenticated(either):
    with Client(either, "closed.test") as client, pytest.raises(grpc.RpcError) as error:
        client.unary("Echo")(b"", timeout=PATIENCE)
    assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED


HEADERS = [("content-type", "application/grpc"), ("te", "trailers")]


def test_a_refusal_has_the_shape_of_grpc(clear):
    with Http2(clear) as http2:
        status, fields, _, trailers = http2.request(
            method="POST", path=f"/{SERVICE}/Echo", host="closed.test", headers=HEADERS
        )
    assert (status, {**fields, **trailers}.get("grpc-status")) == (200, "16"), fields


def test_postern_ends_a_call_past_its_deadline_itself(clear, scripted):
    with Http2(clear, timeout=30) as http2:
        stream = http2.begin(
            method="POST", path=f"/{SERVICE}/Wait", host="scripted.test", headers=[*HEADERS, ("grpc-timeout", "500m")], end=False
        )
        http2.data(stream, b"\0\0\0\0\0", end=True)
        with scripted.accept():  # which does not answer
            status, fields, _, trailers = http2.answer(stream)
    assert {**fields, **trailers}.get("grpc-status") == "4", (status, fields)
