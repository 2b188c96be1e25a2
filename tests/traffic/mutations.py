"""Requests of HTTP/1.1 for the differential: well-formed ones, and what becomes of them when somebody is clumsy or means harm.

Everything is drawn from one seed. A request is bytes; what was meant is kept where nothing was changed afterwards."""

import hashlib
import random
from dataclasses import dataclass, field

METHODS = ["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT", "SEARCH"]
WORDS = ["orders", "7", "a", "b-c", "x_y", "v1.2", "~home", "a,b", "k=v", "at@host", "star*", "(x)", "plus+", "dollar$", "it's", "a:b", "!"]
ENCODED = ["%20", "%C3%A9", "%E2%82%AC", "%25", "%3F", "%23", "%5B", "%22", "%3C", "%40", "%2C", "%3A", "%26"]
# What servers are known to read in two ways.
ODD_SEGMENTS = [
    ".", "..", "...", "%2e", "%2e%2e", "..%2f", "%2f", "%5c", "\\", ";x=1", "a;b", "%3b", "%00", "%0a", "%0d%0a", "%", "%zz", "%u002f", "%c0%af",
    "%252e", "%25%32%65", "", "%ef%bc%8f", "\x7f", "\xe9", "#x", "a b", "a\tb", "%09", "[x]", "{x}", "|", "^", "`", '"', "<", "%E2%80%8B", "..;",
]  # fmt: skip
FIELDS = [
    "Accept: */*", "Accept: text/html;q=0.8, */*", "User-Agent: suite", "X-One: 1", "X-One: 2", "X-Empty:", "X-Spaces:   both   ",
    "X-Tab:\ta\tb\t", "X-Bytes: caf\xe9 \x80\xff", "Cookie: a=1; b=2", "Cookie: c=3", "X-Long: " + "l" * 3000, "x_under: score", "X.Dot: dot",
    "X!#$%&'*+^`|~: odd", "Accept-Encoding: gzip, br", "Range: bytes=0-1", "If-None-Match: \"x\"", "Date: Sun, 06 Nov 1994 08:49:37 GMT",
    "Content-Type: application/json", "Content-Encoding: identity", "Cache-Control: no-cache", "Origin: null", "Referer: http://a/b?c",
    "Via: 1.1 somebody", "Max-Forwards: 3", "Upgrade-Insecure-Requests: 1", "DNT: 1", "X-Quoted: \"a, b\"; c", "Link: <a>; rel=b, <c>",
]  # fmt: skip
ODD_FIELDS = [
    "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding : chunked", "Transfer-Encoding:\x0bchunked", "Transfer-Encoding: xchunked", "Transfer_Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding:chunked\t", "TE: trailers",
    "TE: chunked, trailers", "Content-Length: 0", "Content-Length: 3", "Content-Length: +3", "Content-Length: -1", "Content-Length: 3, 3",
    "Content-Length: 3\r\nContent-Length: 4", "Content-Length: 0x3", "Content-Length: 3 3", "Content-Length : 3", "Content_Length: 3",
    "Content-Length: 99999999999999999999", "Content-Length:", "Content-Length: 03", "Connection: close", "Connection: keep-alive",
    "Connection: x-one, accept", "Connection: content-length", "Connection: transfer-encoding", "Connection: host, cookie", "Connection: Upgrade",
    "Upgrade: h2c", "Upgrade: websocket", "HTTP2-Settings: AAMAAABkAAQAAP__", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive",
    "Expect: 100-continue", "Expect: 100-Continue, x", "Expect:", "Trailer: x-sum", "Host: second.test", "Host:", "Host: a b", "Host: a@b", "Host: a/b",
    "Host : c.test", "X-Forwarded-For: 6.6.6.6", "X_Forwarded_For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Original-URL: /admin",
    "X-HTTP-Method-Override: DELETE", "X-Auth-User: root", "x_auth_user: root", "Authorization: Bearer forged", "X-Real-IP: 6.6.6.6",
    " X-Folded: a", "\tX-Folded: b", "X-Fold: a\r\n b", "X-Fold: a\r\n\tContent-Length: 5", "X-Null: a\x00b", "X-Bare: a\rb", "X-Line: a\nX-Hidden: b",
    "X-Space : a", "NoColon", ": no name", "X-Del: \x7f", "X-Esc: \x1b[0m", "X(Paren): a", "X-\xe9: a", "X-Comma,: a", "X-Read-Path: /forged",
]  # fmt: skip
LINES = [
    "{method}  {target} HTTP/1.1", "{method} {target}  HTTP/1.1", "{method}\t{target}\tHTTP/1.1", " {method} {target} HTTP/1.1", "{method} {target} HTTP/1.0",
    "{method} {target} HTTP/1.2", "{method} {target} HTTP/2.0", "{method} {target} HTTP/01.1", "{method} {target} http/1.1", "{method} {target}",
    "{method} {target} HTTP/1.1 x", "{method} {target} HTTP/1.1 ", "\r\n{method} {target} HTTP/1.1", "\n\n{method} {target} HTTP/1.1", "{lower} {target} HTTP/1.1",
    "{method} http://other.test{target} HTTP/1.1", "{method} http://host.test{target} HTTP/1.1", "{method} http://u:p@host.test{target} HTTP/1.1",
    "{method} * HTTP/1.1", "{method} //host.test{target} HTTP/1.1", "{method} host.test:443 HTTP/1.1", "{method} ?q HTTP/1.1", "CONNECT host.test:443 HTTP/1.1",
    "TRACE {target} HTTP/1.1", "PRI * HTTP/2.0", "{method} https://host.test{target} HTTP/1.1", "{method} {target} HTTP/1.1\r", "G\x00T {target} HTTP/1.1",
    "M-SEARCH {target} HTTP/1.1", "FROB {target} HTTP/1.1", "X'Y {target} HTTP/1.1", "{method} {target}#frag HTTP/1.1", "{method} {target}?a b HTTP/1.1",
    "{method} {target}?\xe9 HTTP/1.1", "{method} {target}?a=%00&b=%0d%0a HTTP/1.1", "{method} {target}?x=<>\"{{}}|\\^` HTTP/1.1", "{method} {target}?? HTTP/1.1",
]  # fmt: skip
ODD_CHUNKS = [
    "{size:X}\r\n", "0{size:x}\r\n", "{size:x};ext\r\n", "{size:x};a=\"b;c\"\r\n", "{size:x} \r\n", " {size:x}\r\n", "{size:x}\n", "0x{size:x}\r\n", "+{size:x}\r\n",
    "{size:x};\x00\r\n", "{size:x}\r\r\n", "{size:x};a\nb\r\n", "10000000000000000{size:x}\r\n", "\r\n", "-{size:x}\r\n", "{size:x}\t;x\r\n", "{size:x},\r\n",
]  # fmt: skip
ODD_ENDS = [
    "0\r\nX-Sum: 1\r\n\r\n", "0\r\nContent-Length: 9\r\n\r\n", "0\r\nX-Auth-User: root\r\nX_Auth_User: root\r\n\r\n", "00000\r\n\r\n", "0;x\r\n\r\n", "0\n\n", "0\r\n",
    "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: s.test\r\n\r\n", "0\r\nX-Fold: a\r\n b\r\n\r\n", "0\r\nX Y: a\r\n\r\n", "", "0\r\n: a\r\n\r\n", "0\r\nno colon\r\n\r\n",
]  # fmt: skip


@dataclass
class Request:
    """What is sent, and what was meant by it, where nobody touched it afterwards."""

    sent: bytes
    meant: dict = field(default_factory=dict)


def _segment(draw):
    return draw.choice(WORDS) if draw.random() < 0.8 else draw.choice(WORDS) + draw.choice(ENCODED) + draw.choice(WORDS)


def _target(draw):
    path = "/" + "/".join(_segment(draw) for _ in range(draw.randint(1, 4)))
    if draw.random() < 0.1:
        path += "/"
    query = "?" + "&".join(f"{draw.choice('abc')}={draw.choice(WORDS + ENCODED)}" for _ in range(draw.randint(0, 3))) if draw.random() < 0.4 else ""
    return path, query


def chunks(draw, body, odd=False):
    out, at = "", 0
    text = body.decode("latin1")
    strange = draw.randrange(4) if odd else -1
    number = 0
    while at < len(text):
        size = min(draw.randint(1, max(1, len(text) // 2)), len(text) - at)
        form = draw.choice(ODD_CHUNKS) if number == strange else "{size:x}\r\n"
        piece = text[at : at + size]
        end = draw.choice(["\n", "", "\r", "x\r\n"]) if odd and draw.random() < 0.05 else "\r\n"
        out += form.format(size=size) + piece + end
        at += size
        number += 1
    return out + (draw.choice(ODD_ENDS) if odd and draw.random() < 0.5 else "0\r\n\r\n")


def generate(seed):
    """The request of one seed; 0 is a plain one. Two in five are as they should be; the others have one to three things wrong with them."""
    if seed == 0:
        return Request(b"GET /plain HTTP/1.1\r\nHost: host.test\r\n\r\n", {"method": "GET", "target": "/plain", "length": 0})
    draw = random.Random(seed)
    wrong = [] if draw.random() < 0.4 else draw.sample(["line", "path", "field", "fields", "framing", "chunks", "bytes", "end"], draw.choice([1, 1, 1, 2, 3]))
    method = draw.choice(METHODS)
    path, query = _target(draw)
    if "path" in wrong:
        path = path.rstrip("/") + "/" + draw.choice(ODD_SEGMENTS) + draw.choice(["", "/", "/x", "x"])
    body = bytes(draw.randrange(256) for _ in range(draw.choice([0, 1, 10, 300, 2000]))) if method in ("POST", "PUT", "PATCH", "REPORT") else b""
    line = "{method} {target} HTTP/1.1"
    if "line" in wrong:
        line = draw.choice(LINES)
    line = line.format(method=method, lower=method.lower(), target=path + query)
    fields = draw.sample(FIELDS, draw.randint(0, 6))
    host = "host.test"
    fields.insert(draw.randint(0, len(fields)), f"{draw.choice(['Host', 'host', 'HOST'])}:{draw.choice([' ', '', '  '])}{host}")
    if "field" in wrong:
        fields.insert(draw.randint(0, len(fields)), draw.choice(ODD_FIELDS))
    if "fields" in wrong:
        for each in draw.sample(ODD_FIELDS, 2):
            fields.insert(draw.randint(0, len(fields)), each)
    chunked = bool(body) and draw.random() < 0.5 or "chunks" in wrong
    if "chunks" in wrong:
        body = body or b"some body"
    payload = chunks(draw, body, "chunks" in wrong) if chunked else body.decode("latin1")
    framing = ["Transfer-Encoding: chunked"] if chunked else ([f"Content-Length: {len(body)}"] if body or draw.random() < 0.1 else [])
    if "framing" in wrong:
        framing = draw.choice([
            [], framing * 2, [*framing, draw.choice(ODD_FIELDS[:26])], [f"Content-Length: {max(0, len(payload) + draw.choice([-3, -1, 1, 5]))}"],
            ["Transfer-Encoding: chunked", f"Content-Length: {len(payload)}"], [f"Content-Length: {len(payload)}", "Transfer-Encoding: chunked"],
        ])  # fmt: skip
    for each in framing:
        fields.insert(draw.randint(0, len(fields)), each)
    end = "\r\n"
    if "end" in wrong:
        end = draw.choice(["\n", "\r", "\r\n \r\n", "\r\r\n", "\n\r\n", "\r\n\x00"])
    text = f"{line}\r\n" + "".join(f"{each}\r\n" for each in fields[:-1]) + f"{fields[-1]}{end if 'end' in wrong and draw.random() < 0.5 else chr(13) + chr(10)}"
    text += end + payload
    sent = text.encode("latin1")
    if "bytes" in wrong:
        sent = disturb(draw, sent)
    if wrong:
        return Request(sent)
    return Request(sent, {
        "method": method, "target": path + query, "length": len(body), "digest": hashlib.sha256(body).hexdigest(),
    })  # fmt: skip


def disturb(draw, sent):
    """One to three bytes changed, dropped or doubled, or a piece moved, most often in the head."""
    data = bytearray(sent)
    head = max(1, sent.find(b"\r\n\r\n") + 4)
    for _ in range(draw.randint(1, 3)):
        if not data:
            break
        at = draw.randrange(min(head, len(data))) if draw.random() < 0.8 else draw.randrange(len(data))
        match draw.randrange(5):
            case 0:
                data[at] = draw.randrange(256)
            case 1:
                del data[at]
            case 2:
                data.insert(at, data[at])
            case 3:
                data[at:at] = draw.choice([b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b";", b"\xff", b"\x0b", b"%", b"/", b".."])
            case 4:
                to = min(len(data), at + draw.randint(1, 12))
                piece = data[at:to]
                del data[at:to]
                where = draw.randrange(len(data) + 1)
                data[where:where] = piece
    return bytes(data)
