"""HTTP/1.1 and HTTP/2 in all combinations, in clear text and TLS on both sides, and what passes through each."""

import hashlib
import json
import os
import socket
import ssl

import httpx
import pytest
from wire import Http2, Wire

FRONTS = ["http1", "http2", "https1", "https2"]
BACKS = ["go-http1", "go-h2c", "go-https1", "go-https2"]


@pytest.fixture(scope="module", params=FRONTS)
def client(request, clear, secure):
    """A client of httpx that speaks one protocol only."""
    gateway = secure if "https" in request.param else clear
    context = secure.tls.context()
    http2 = request.param.endswith("2")
    with httpx.Client(http1=not http2, http2=http2, base_url=gateway.url, verify=context, timeout=60) as client:
        client.spoken = "HTTP/2" if http2 else "HTTP/1.1"
        yield client


@pytest.fixture(params=BACKS)
def back(request):
    return request.param


def ask(client, method, path, back, **settings):
    answer = client.request(method, path, headers={"host": f"{back}.test", **settings.pop("headers", {})}, **settings)
    assert answer.http_version == client.spoken
    return answer


def spoken_by(back):
    return "HTTP/1.1" if back.endswith("1") else "HTTP/2.0"


def test_a_request_is_spoken_in_the_protocol_of_each_side(client, back):
    read = ask(client, "GET", "/a/b%20c?d=e%2Ff&g", back).json()
    assert read["protocol"] == spoken_by(back)
    assert (read["method"], read["target"], read["path"]) == ("GET", "/a/b%20c?d=e%2Ff&g", "/a/b c")


def test_a_body_with_a_length_arrives_whole(client, back):
    body = os.urandom(1 << 20)
    read = ask(client, "PUT", "/x", back, content=body).json()
    assert (read["length"], read["digest"]) == (len(body), hashlib.sha256(body).hexdigest())


def test_a_body_without_a_length_arrives_whole(client, back):
    pieces = [os.urandom(n) for n in (1, 100_000, 7, 65536)]
    read = ask(client, "POST", "/x", back, content=iter(pieces)).json()
    assert read["digest"] == hashlib.sha256(b"".join(pieces)).hexdigest()


def test_an_answer_of_16_MiB_comes_whole(client, back):
    answer = ask(client, "GET", f"/bytes/{16 << 20}", back)
    assert hashlib.sha256(answer.content).digest() == hashlib.sha256(b"0123456789abcdef" * (1 << 20)).digest()


def test_a_body_comes_back_while_it_is_sent(client, back):
    body = os.urandom(4 << 20)
    assert ask(client, "POST", "/stream", back, content=body).content == body


@pytest.mark.parametrize("status", [204, 205, 304, 404, 418, 500, 503, 599])
def test_statuses_pass_as_they_are(client, back, status):
    assert ask(client, "GET", f"/status/{status}", back).status_code == status


def test_head_has_a_length_and_no_body(client, back):
    answer = ask(client, "HEAD", "/x", back)
    assert (answer.status_code, answer.content) == (200, b"") and int(answer.headers["content-length"]) > 0


def test_fields_given_more_than_once_stay_apart_and_in_order(client, back):
    fields = [("host", f"{back}.test"), ("x-many", "1"), ("x-many", "2, 3"), ("x-many", ""), ("x-bytes", b"caf\xe9")]
    read = client.request("GET", "/x", headers=fields).json()
    assert [value for name, value in read["headers"] if name == "x-many"] == ["1", "2, 3", ""]
    assert ["x-bytes", "caf\xe9"] in read["headers"]


def test_the_upstream_is_told_who_asked_and_how(client, back):
    read = dict(map(tuple, ask(client, "GET", "/x", back, headers={"x-forwarded-for": "10.1.1.1"}).json()["headers"]))
    assert read["x-forwarded-for"] == "127.0.0.1"
    assert read["x-forwarded-proto"] == str(client.base_url.scheme)
    assert read["x-forwarded-host"] == f"{back}.test"


def test_trailers_of_an_answer_arrive(clear, secure, back):
    for gateway in (clear, secure):
        with Http2(gateway) as http2:
            scheme = "https" if gateway.tls else "http"
            status, fields, body, trailers = http2.request(path="/trailers", host=f"{back}.test", scheme=scheme)
        assert sorted(word.strip().lower() for word in fields["trailer"].split(",")) == ["x-late", "x-sum"]
        assert (status, body, trailers) == (200, b"body", {"x-sum": "of the body", "x-late": "yes"})
        with Wire.to(gateway) as wire:
            wire.send(f"GET /trailers HTTP/1.1\r\nHost: {back}.test\r\nTE: trailers\r\nConnection: TE\r\n\r\n")
            _, fields = wire.head()
            body, trailers = wire.chunked()
        assert sorted(word.strip().lower() for word in fields["trailer"].split(",")) == ["x-late", "x-sum"]
        assert (body, sorted(line.lower() for line in trailers)) == (b"body", ["x-late: yes", "x-sum: of the body"])


@pytest.mark.parametrize("back", [*BACKS, "node-http1", "node-h2c"])
def test_trailers_of_a_request_arrive(clear, back):
    with Wire.to(clear) as wire:
        wire.send(
            f"POST /x HTTP/1.1\r\nHost: {back}.test\r\nTrailer: X-Sum, X-Auth-User\r\nTransfer-Encoding: chunked\r\n\r\n"
            "4\r\nbody\r\n0\r\nX-Sum: of the body\r\nAuthorization: Bearer forged\r\nX-Auth-User: forged\r\n\r\n"
        )
        _, fields = wire.head()
        read = json.loads(wire.body(fields))
    assert (read["length"], read["trailers"]) == (4, [["x-sum", "of the body"]])


def test_trailers_of_a_request_over_http2_are_refused(either):
    """They may hide pseudo-header fields, which the library drops in silence: docs/security.md."""
    with Http2(either) as http2:
        stream = http2.begin(method="POST", path="/x", end=False, scheme="https" if either.tls else "http")
        http2.data(stream, b"body")
        http2.state.send_headers(stream, [("x-sum", "1")], end_stream=True)
        http2.flush()
        status, _, body, _ = http2.answer(stream)
    assert status == 400 and b"malformed_request" in body


def test_many_streams_of_one_connection_are_answered_each_by_itself(clear, back):
    with Http2(clear) as http2:
        streams = [http2.begin(path=f"/n/{n}", host=f"{back}.test") for n in range(90)]
        bodies = {stream: b"" for stream in streams}
        open_streams = set(streams)
        while open_streams:
            for event in http2.events():
                stream = getattr(event, "stream_id", None)
                if type(event).__name__ == "DataReceived":
                    bodies[stream] += event.data
                elif type(event).__name__ == "StreamEnded":
                    open_streams.discard(stream)
        for number, stream in enumerate(streams):
            assert f'"target":"/n/{number}"'.encode() in bodies[stream]


# TLS


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda version: version.name)
@pytest.mark.parametrize("offered, chosen", [
    (["h2", "http/1.1"], "h2"), (["http/1.1", "h2"], "h2"), (["http/1.1"], "http/1.1"), (["http/1.0"], "http/1.0"), (None, None),
], ids=str)  # fmt: skip
def test_the_protocol_is_negotiated(secure, version, offered, chosen):
    with Wire.to(secure, alpn=offered, version=version) as wire:
        assert wire.socket.version() == version.name.replace("_", ".")
        assert wire.socket.selected_alpn_protocol() == chosen
        if chosen != "h2":
            wire.send("GET /x HTTP/1.1\r\nHost: default.test\r\n\r\n")
            assert wire.head()[0] == "HTTP/1.1 200 OK"


def test_a_client_that_offers_only_what_is_not_spoken_is_refused(secure):
    with pytest.raises(ssl.SSLError, match="(?i)no.application.protocol"):
        Wire.to(secure, alpn=["spdy/3"])


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_old_versions_of_tls_are_refused(secure, version):
    context = secure.tls.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with socket.create_connection((secure.address, secure.port)) as connection, pytest.raises(OSError):
        context.wrap_socket(connection, server_hostname="localhost")


def test_clear_text_to_a_port_of_tls_is_no_request(secure):
    with socket.create_connection((secure.address, secure.port), timeout=60) as connection:
        connection.sendall(b"GET /x HTTP/1.1\r\nHost: default.test\r\n\r\n")
        try:
            answer = connection.recv(100)
        except ConnectionResetError:
            answer = b""
    assert not answer.startswith(b"HTTP/")


def test_an_upstream_with_the_certificate_of_somebody_else_gets_no_request(start, go, tls):
    # By the host's own authorities, which do not know the suite's; and under a name that is not in the certificate.
    upstreams = {
        "untrusted": f'to = "https://127.0.0.1:{go.ports["https1"]}"',
        "misnamed": f'to = "https://127.0.0.1:{go.ports["https1"]}"\ntls = {{ ca = "{tls.ca}", server_name = "elsewhere.test" }}',
    }
    gateway = start(upstreams, "untrusted")
    for name in upstreams:
        answer = httpx.get(gateway.url + "/x", headers={"host": f"{name}.test"})
        assert (answer.status_code, answer.json()["reason"]) == (502, "upstream_unreachable")
