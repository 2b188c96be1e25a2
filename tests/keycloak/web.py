"""HTTP as the suite speaks it: one connection a request, nothing hidden, and waiting with a limit."""

import http.client
import json
import random
import socket
import time
import urllib.parse
from dataclasses import dataclass


@dataclass
class Answer:
    """What came back, and when the request that brought it was sent."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    sent_at: float  # time.monotonic()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def reason(self):
        """The reason code of a refusal; None where the body is no problem document."""
        if self.headers.get_content_type() != "application/problem+json":
            return None
        return self.json["reason"]

    @property
    def received(self):
        """What the echo upstream received, as it reported it."""
        return Received(**self.json)

    def __repr__(self):
        return f"{self.status} {self.body[:300]!r}"


@dataclass
class Received:
    """A request as it reached the upstream."""

    method: str
    path: str
    headers: list

    def header(self, name):
        """The value of a header that was sent at most once; None where it was not sent."""
        values = [value for key, value in self.headers if key.lower() == name]
        assert len(values) <= 1, f"`{name}` was sent {len(values)} times"
        return values[0] if values else None

    @property
    def bearer(self):
        """The token in `Authorization`."""
        scheme, _, token = (self.header("authorization") or "").partition(" ")
        assert scheme == "Bearer" and token, f"no bearer token among {self.headers}"
        return token


def send(method, url, *, headers=None, form=None, body=None, timeout=15, source=None):
    """One request on a connection of its own, from the address `source`. `form` is sent URL-encoded, `body` as JSON."""
    parts = urllib.parse.urlsplit(url)
    headers = dict(headers or {})
    payload = None
    if form is not None:
        payload = urllib.parse.urlencode(form)
        headers["content-type"] = "application/x-www-form-urlencoded"
    elif body is not None:
        payload = json.dumps(body)
        headers["content-type"] = "application/json"
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(
        parts.hostname, parts.port, timeout=timeout, source_address=(source, 0) if source else None
    )
    try:
        sent_at = time.monotonic()
        connection.request(method, path, payload, headers)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read(), sent_at)
    finally:
        connection.close()


def eventually(what, check, limit=30.0):
    """Calls `check` until it gives something true, and returns that; fails after `limit` seconds."""
    deadline = time.monotonic() + limit
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {limit:g} s")
        time.sleep(0.1)


def judged(ask, limit=15.0, is_late=lambda answer: answer.status == 503):
    """The first answer of `ask` that is a judgement. Where Keycloak did not answer in time there is none (503): then it is asked again, for
    `limit` seconds."""
    until = time.monotonic() + limit
    while is_late(answer := ask()) and time.monotonic() < until:
        time.sleep(0.1)
    return answer


_given = set()


def free_port():
    """A port for a server that must be told one. Below the ephemeral range, so that no client takes it meanwhile; each is given once, since
    its server may not have begun to listen yet."""
    while True:
        port = random.randrange(20000, 30000)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
