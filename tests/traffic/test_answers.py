"""Generated and mutated answers of an upstream, through Postern and through nginx: what Postern passes on as a whole answer, nginx passes
on as the same; what Postern refuses is 502; what it cuts off is seen to be cut off; and after either the connection to the upstream
carries nothing more.

The upstream gives the answers byte for byte, and notes which request came on which connection. Where a reader waits for more, the
upstream ends the connection: a slow machine makes that come early, which changes nothing but how many connections are used again."""

import http.client
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import servers
from answers import generate
from wire import PATIENCE, Wire

SEED = int(os.environ.get("POSTERN_SEED", 6))
BLOCK = 500
HERE = Path(__file__).resolve().parent


@dataclass
class Read:
    """What a client made of an answer. Of one that is not whole the body is what came of it."""

    status: int
    body: bytes
    is_whole: bool
    fields: dict

    @property
    def own(self):
        """The fields that no proxy sets or drops by itself; `Connection` may name `X-One`."""
        return {name: value for name, value in self.fields.items() if name.startswith("x-") and name not in ("x-one", "x-request-id")}


class Patient(Wire):
    """Reads an answer; whoever gives it is told to hang up when nothing comes for a while."""

    def __init__(self, proxy, hang_up):
        super().__init__(Wire.to(proxy).socket)
        self.hang_up = hang_up

    def _fill(self):
        if self.hang_up:
            self.socket.settimeout(0.05)
            try:
                return super()._fill()
            except TimeoutError:
                self.hang_up()
                self.hang_up = None
        self.socket.settimeout(PATIENCE)
        return super()._fill()


class Lane:
    """A proxy before an upstream of its own."""

    def __init__(self, upstream, proxy):
        self.upstream = upstream
        self.address, self.port, self.tls = "127.0.0.1", proxy.port, None

    def play(self, number, method):
        """What comes of one answer; None where no head comes. Whatever comes behind a whole answer is part of its body."""
        with Patient(self, lambda: self.upstream.hang_up(number)) as wire:
            wire.send(f"{method} /{number} HTTP/1.1\r\nHost: host.test\r\nConnection: close\r\n\r\n")
            try:
                line, fields = wire.head()
                status, body = int(line.split(" ")[1]), bytearray()
            except (AssertionError, OSError, ValueError, IndexError):
                return None
            is_whole = self._body(wire, method, status, fields, body)
            try:
                body += wire.rest()
            except OSError:
                is_whole = False
            return Read(status, bytes(body), is_whole, fields)

    @staticmethod
    def _body(wire, method, status, fields, body):
        """Adds to the body as it comes; whether it ends as it should."""
        try:
            if status < 200:
                return False  # nobody asked for it
            if method == "HEAD" or status in (204, 304):
                return True
            if "content-length" in fields:
                body += wire.exactly(int(fields["content-length"]))
                return True
            if "transfer-encoding" in fields:
                while piece := wire.chunk():
                    body += piece
                while wire.until(b"\r\n") != b"\r\n":
                    pass
                return True
            body += wire.rest()  # nobody can tell whether it is whole
        except (AssertionError, OSError, ValueError):
            pass
        return False


class Node:
    """Node's HTTP client."""

    def __init__(self, upstream):
        self.upstream = upstream
        self._process = subprocess.Popen(["node", HERE / "clients/read.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def play(self, number, method):
        self._process.stdin.write(f"{method} http://127.0.0.1:{self.upstream.port}/{number}\n")
        self._process.stdin.flush()
        read = json.loads(self._process.stdout.readline())
        return read and Read(read["status"], read["body"].encode("latin1"), read["whole"], {})

    def close(self):
        self._process.communicate(timeout=30)


# What Python's client raises at an answer that it does not take.
BAD = (http.client.HTTPException, OSError, ValueError, OverflowError)


class Python:
    """The HTTP client of Python's library."""

    def __init__(self, upstream):
        self.upstream = upstream

    def play(self, number, method):
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream.port, timeout=PATIENCE)
        try:
            connection.request(method, f"/{number}")
            answer = connection.getresponse()
        except BAD:
            connection.close()
            return None
        try:
            return Read(answer.status, answer.read(), True, {})
        except BAD:
            return Read(answer.status, b"", False, {})
        finally:
            connection.close()


# nginx 1.22 takes an interim answer for the answer, and passes it on as one.
INTERIM = re.compile(rb"\A(HTTP/1\.[01] 1(?!01)[0-9]{2}[^\r\n]*\r\n([^\r\n]+\r\n)*\r\n)+")


def without_interim(number):
    answer = generate(number)
    return replace(answer, sent=INTERIM.sub(b"", answer.sent))


@contextmanager
def behind_nginx(answer, ends=False):
    """A lane with nginx."""
    upstream = servers.Answering(answer, ends)
    with tempfile.TemporaryDirectory(prefix="postern-nginx-") as folder:
        proxy = servers.PlainNginx(Path(folder), upstream.port)
        try:
            yield Lane(upstream, proxy)
        finally:
            upstream.stop()
            proxy.stop()


@pytest.fixture(scope="module")
def lanes(start):
    upstream = servers.Answering(generate)
    postern = Lane(upstream, start({"answering": f'to = "http://127.0.0.1:{upstream.port}"'}, "answering"))
    with behind_nginx(without_interim) as nginx:
        yield postern, nginx
    upstream.stop()


def play(lanes, numbers):
    """By number: what came of the answer in each lane. The lanes run beside each other."""
    with ThreadPoolExecutor(len(lanes)) as pool:
        columns = pool.map(lambda lane: [lane.play(number, generate(number).method) for number in numbers], lanes)
        return list(zip(*columns, strict=True))


def is_refusal(read):
    return read.status == 502 and read.fields.get("content-type") == "application/problem+json"


# What nginx 1.22 reads otherwise, and wrongly: it does not know a tab for a blank (RFC 9110 §5.6.3), so such a framing is none to it.
OTHERWISE = re.compile(rb"(?i)\n(content-length|transfer-encoding):( *\t|[^\r\n]*\t *\r?\n)")


def differences(number, answer, ours, theirs, connection, counts):
    """What is wrong with what Postern made of an answer, held against nginx; nothing if all is well."""
    found, is_whole = [], ours is not None and ours.is_whole
    if ours is None:
        # The body failed before its head went out; without a head the answer is 502.
        counts["ended without a word"] += 1
        if b"\r\n\r\n" not in answer.sent:
            found.append("no head, and no refusal")
    elif is_refusal(ours):
        counts["refused"] += 1
        is_whole = False
    elif not is_whole:
        counts["cut off"] += 1
        if not {"content-length", "transfer-encoding"} & ours.fields.keys():
            found.append("cut off, and nobody can tell")
    else:
        counts["passed on"] += 1
        if theirs is None or not theirs.is_whole or (ours.status, ours.body, ours.own) != (theirs.status, theirs.body, theirs.own):
            if OTHERWISE.search(answer.sent):
                counts["passed on, and read otherwise by nginx"] += 1
            else:
                found.append("nginx passes on something else")
    if connection and (not is_whole or answer.has_surplus):
        if connection.numbers[-1] != number:
            found.append("its connection was used again")
        elif not connection.is_over.wait(PATIENCE):
            found.append("its connection was left open")
    if answer.meant:
        status, body, is_reusable = answer.meant
        if not is_whole or (ours.status, ours.body) != (status, body):
            found.append(f"not read as it was meant: {answer.meant}")
        if is_reusable:
            counts["connections that could be used again"] += 1
            counts["connections used again"] += bool(connection) and connection.numbers[-1] != number
    return found


COUNTS = Counter()


@pytest.mark.parametrize("block", [
    pytest.param(block, marks=[pytest.mark.full] if block >= 10 else []) for block in range(100)
])  # fmt: skip
def test_what_is_passed_on_is_what_nginx_passes_on(lanes, block):
    numbers = range(SEED * 1_000_000 + block * BLOCK, SEED * 1_000_000 + (block + 1) * BLOCK)
    upstream, wrong = lanes[0].upstream, []
    for number, (ours, theirs) in zip(numbers, play(lanes, numbers), strict=True):
        answer = generate(number)
        given = upstream.given[number]
        found = differences(number, answer, ours, theirs, given[-1] if given else None, COUNTS)
        if found:
            wrong.append(f"seed {number}: {found}\n  {answer}\n  Postern: {ours!r:.1000}\n  nginx: {theirs!r:.1000}")
    assert not wrong, "\n".join(wrong[:3]) + f"\n{len(wrong)} in all"


def test_without_postern_they_are_read_differently(record_figure):
    """The same answers, by nginx and by clients without Postern: that nothing was found above is not for want of looking."""
    numbers = range(SEED * 1_000_000, SEED * 1_000_000 + BLOCK)
    with behind_nginx(generate, ends=True) as nginx, closing(Node(servers.Answering(generate, ends=True))) as node:
        python = Python(servers.Answering(generate, ends=True))
        rows = play([nginx, node, python], numbers)
    for reader in (node, python):
        reader.upstream.stop()
    understood = [{(read.status, read.body) for read in row if read and read.is_whole and read.status != 502} for row in rows]
    differently = sum(len(each) > 1 for each in understood)
    by_some = sum(len({bool(read and read.is_whole and read.status != 502) for read in row}) > 1 for row in rows)
    record_figure(f"answers without Postern, of {BLOCK}: {differently} read differently by nginx, Node and Python, {by_some} taken by some of them only")
    assert differently > BLOCK / 100


def test_the_answers_were_of_all_kinds(record_figure):
    """A generator whose answers were all refused, or all passed on, would show nothing."""
    record_figure(f"answers, seed {SEED}: " + ", ".join(f"{count} {kind}" for kind, count in COUNTS.most_common()))
    total = sum(COUNTS[kind] for kind in ("passed on", "refused", "cut off", "ended without a word"))
    assert total >= 10 * BLOCK
    assert COUNTS["passed on"] >= total / 4 and COUNTS["refused"] >= total / 10
    assert COUNTS["cut off"] + COUNTS["ended without a word"] >= total / 100
    assert COUNTS["passed on, and read otherwise by nginx"] <= total / 200
    assert COUNTS["connections used again"] >= COUNTS["connections that could be used again"] / 10
