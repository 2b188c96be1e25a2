"""Answers of HTTP/1.1 for `test_answers.py`: well-formed ones, and what becomes of them when an upstream is clumsy or means harm.

Everything is drawn from one seed. An answer is bytes; what was meant is kept where nothing was changed afterwards."""

import random
from dataclasses import dataclass

from mutations import ODD_FIELDS, chunks, disturb

STATUSES = [200] * 6 + [201, 204, 206, 299, 301, 304, 404, 418, 500, 503, 599]
FIELDS = [
    "Server: other", "Date: Sun, 06 Nov 1994 08:49:37 GMT", "Content-Type: text/plain", "Set-Cookie: a=1", "Set-Cookie: b=2; Path=/", "ETag: \"x\"",
    "X-One: 1", "X-One: 2", "X-Empty:", "X-Spaces:   both   ", "X-Tab:\ta\tb\t", "X-Bytes: caf\xe9 \x80\xff", "X-Long: " + "l" * 3000, "x_under: score",
    "X.Dot: dot", "X!#$%&'*+^`|~: odd", "Cache-Control: no-store", "Location: /other", "Vary: *", "Keep-Alive: timeout=5", "Trailer: x-sum",
    "Content-Encoding: identity", "Link: <a>; rel=b, <c>", "Accept-Ranges: none", "WWW-Authenticate: Basic", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT",
]  # fmt: skip
# Beside those that requests can have as well.
MORE_ODD_FIELDS = [
    "Transfer-Encoding: chunked, gzip", "Transfer-Encoding: , chunked", "Transfer-Encoding: chunked,", "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding: Chunked", "Transfer-Encoding: chunked;x", "Transfer-Encoding: \x00chunked", "Transfer-Encoding: chunked\x0b", "Transfer-Encoding:",
    "Content-Length: 3;", "Content-Length:\t3 ", "Content-Length: 3\x0b", "Content-Length: 3,", "Content-Length: 1e1", "Content-Length: 18446744073709551619",
    "Content-Length:\r\n 3", "Connection: upgrade\r\nUpgrade: websocket", "Connection: keep-alive, close", "Connection: keep-alive\r\nConnection: close",
    "Proxy-Authenticate: Basic", "Content-Range: bytes 0-2/9", "Trailer: content-length", "Connection: x-one\r\nX-One: 9", "Status: 500",
]  # fmt: skip
LINES = [
    "HTTP/1.0 {status} {reason}", "HTTP/1.1 {status}", "HTTP/1.1 {status} ", "HTTP/1.1  {status} {reason}", "HTTP/1.1\t{status}\t{reason}",
    "HTTP/1.2 {status} {reason}", "HTTP/2.0 {status} {reason}", "HTTP/2 {status}", "HTTP/0.9 {status} {reason}", "http/1.1 {status} {reason}",
    "HTTP/01.1 {status} {reason}", "HTTP/1.10 {status} {reason}", "HTTP/1 {status} {reason}", " HTTP/1.1 {status} {reason}", "\r\nHTTP/1.1 {status} {reason}",
    "\nHTTP/1.1 {status} {reason}", "HTTP/1.1 0{status} {reason}", "HTTP/1.1 {status}0 {reason}", "HTTP/1.1 20 {reason}", "HTTP/1.1 099 {reason}",
    "HTTP/1.1 000 {reason}", "HTTP/1.1 600 {reason}", "HTTP/1.1 999 {reason}", "HTTP/1.1 2e2 {reason}", "HTTP/1.1 -200 {reason}", "HTTP/1.1 +200 {reason}",
    "HTTP/1.1 {status}{reason}", "HTTP/1.1 {status}\t{reason}", "HTTP/1.1 {status} a\rb", "HTTP/1.1 {status} a\x00b", "HTTP/1.1 {status} \xe9\xff",
    "HTTP/1.1 {status} a:b", "HTTP/1.1 {status} {reason}\r", "ICY {status} {reason}", "HTTP/1.1", "HTTP/1.1 {reason}", "<html>", "HTTP/1.1:{status} {reason}",
    "HTTP/1.1 101 Switching Protocols", "HTTP/1.1 100 Continue", "HTTP/1.1 199 {reason}", "\x16\x03\x01HTTP/1.1 {status} {reason}", "{status} {reason}",
]  # fmt: skip
INTERIM = [
    "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 102 Processing\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "HTTP/1.1 100\r\n\r\n",
    "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0 100 Continue\r\n\r\n",
    "HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\n", "HTTP/1.1 100 Continue\n\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n", "HTTP/1.1 100 Continue\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n" * 20,
]  # fmt: skip
SURPLUS = ["HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled", "\r\n", "x", "\x00", "0\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n"]


@dataclass
class Answer:
    """What is asked for, and what is sent in answer; afterwards the connection stays open or ends."""

    method: str
    sent: bytes
    stays: bool
    # Status, body, and whether another answer may come on the connection, where nobody touched it afterwards.
    meant: tuple = None
    # Whether something comes behind an answer that is otherwise as it should be and says itself where it ends.
    has_surplus: bool = False


def generate(seed):
    """The answer of one seed. A third are as they should be; the others have one to three things wrong with them."""
    draw = random.Random(seed)
    kinds = ["line", "field", "field", "fields", "framing", "framing", "chunks", "bytes", "end", "cut", "surplus", "interim", "body"]
    wrong = {} if draw.random() < 0.33 else dict.fromkeys(draw.sample(kinds, draw.choice([1, 1, 1, 2, 3])))
    method = "HEAD" if draw.random() < 0.2 else "GET"
    status = draw.choice(STATUSES)
    has_body = method == "GET" and status not in (204, 304)
    body = bytes(draw.randrange(256) for _ in range(draw.choice([0, 1, 3, 10, 300, 2000])))
    line = draw.choice(LINES) if "line" in wrong else "HTTP/1.1 {status} {reason}"
    fields = draw.sample(FIELDS, draw.randint(0, 6))
    kind = "chunked" if "chunks" in wrong else draw.choice(["length", "length", "chunked", "close"])
    if kind == "chunked" and "chunks" in wrong:
        body = body or b"some body"
    payload = chunks(draw, body, "chunks" in wrong) if kind == "chunked" else body.decode("latin1")
    length = f"Content-Length: {len(body)}"
    framing = {"length": [length], "chunked": ["Transfer-Encoding: chunked"], "close": []}[kind]
    if status == 204:
        framing = []  # it may have none (RFC 9110 §8.6, RFC 9112 §6.1)
    if "framing" in wrong:
        framing = draw.choice([
            [], framing * 2, [*framing, draw.choice(ODD_FIELDS[:26] + MORE_ODD_FIELDS[:16])], [draw.choice(ODD_FIELDS[:26] + MORE_ODD_FIELDS[:16])],
            [f"Content-Length: {max(0, len(payload) + draw.choice([-3, -1, 1, 5]))}"], ["Transfer-Encoding: chunked", f"Content-Length: {len(payload)}"],
            [f"Content-Length: {len(payload)}", "Transfer-Encoding: chunked"], [f"Content-Length: 0{len(payload)}"], [length, "Content-Length: 0"],
        ])  # fmt: skip
    odd = draw.sample(ODD_FIELDS + MORE_ODD_FIELDS, 2 if "fields" in wrong else 1 if "field" in wrong else 0)
    ends = kind == "close" and has_body or draw.random() < 0.1
    for each in [*framing, *odd, *(["Connection: close"] if ends and draw.random() < 0.5 else [])]:
        fields.insert(draw.randint(0, len(fields)), each)
    is_last = "Connection: close" in fields or kind == "close" and has_body
    if not has_body and "body" not in wrong:
        payload = ""
    end = draw.choice(["\n", "\r", "\r\n \r\n", "\r\r\n", "\n\r\n", "\r\n\x00"]) if "end" in wrong else "\r\n"
    text = "".join(f"{each}\r\n" for each in [line.format(status=status, reason=draw.choice(["OK", "Not So", "", "Any: thing"])), *fields])
    text += end + payload
    if "interim" in wrong:
        text = draw.choice(INTERIM) + text
    if "surplus" in wrong:
        text += draw.choice(SURPLUS)
    sent = text.encode("latin1")
    if "bytes" in wrong:
        sent = disturb(draw, sent)
    if "cut" in wrong:
        sent = sent[: draw.randrange(len(sent))]
    stays = not (kind == "close" and has_body) and draw.random() < 0.7
    meant = (status, body if has_body else b"", stays and not is_last) if not wrong else None
    return Answer(method, sent, stays, meant, has_surplus=list(wrong) == ["surplus"] and not (kind == "close" and has_body))
