"""Generated and mutated requests through Postern to nginx, Node and Go: what is forwarded is one request, the same to all of them; what
is refused reaches none.

Each server counts the requests that it read whole, and its answer says which number this one has. A request that was smuggled past
Postern shows as a number that nobody was told. The first pass is quick and has little patience with what does not answer; whatever
looks wrong in it is played again, alone and with patience, and once more with much of it, before it counts: a busy machine is no fault."""

import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from mutations import generate
from wire import PATIENCE, Wire

SEED = int(os.environ.get("POSTERN_SEED", 6))
BLOCK = 1000
# Fields that are new with every request, or that name the server that is asked, or frame the message anew. Go does not show `Trailer`.
# `Upgrade` is of nginx's connection too, behind which another server tells what was read.
OWN = {"x-request-id", "traceparent", "host", "content-length", "transfer-encoding", "connection", "upgrade", "trailer", "x-read-path"}
LAST = b"GET /last HTTP/1.1\r\nHost: host.test\r\nConnection: close\r\n\r\n"
# What a server may answer that refuses by itself what it was sent.
REFUSALS = {400, 405, 411, 413, 414, 417, 431, 501, 505}


class Lane:
    """A Postern before one kind of server."""

    def __init__(self, name, gateway):
        self.name, self.gateway, self.kept = name, gateway, None
        self.serial = self.play(generate(0), PATIENCE)[0][2]

    def close(self):
        if self.kept:
            self.kept.close()
        self.kept = None

    def play(self, request, patience):
        """The answers to these bytes, as (status, what the server read, its number)."""
        if request.meant:
            wire, self.kept = self.kept or Wire.to(self.gateway), None
            wire.send(request.sent)
            answers = [self._answer(wire, PATIENCE)]
            if answers[0] is not None:
                self.kept = wire
                return answers
            wire.close()
            return []
        # In two steps: nothing may be kept back because more could come.
        answers = []
        with Wire.to(self.gateway) as wire:
            for piece in (request.sent, LAST):
                try:
                    wire.send(piece)
                except OSError:
                    break
                is_head = piece.startswith(b"HEAD ")
                while (answer := self._answer(wire, patience, is_head)) is not None:
                    answers.append(answer)
                    is_head = False
                    if not wire.buffer and piece is not LAST:
                        break  # after the last one the connection ends
        return answers

    def _answer(self, wire, patience, is_head=False):
        """One answer, to HEAD or not; None if none comes, or the connection is over. One that has begun is waited for."""
        wire.socket.settimeout(patience)
        try:
            line, fields = wire.head()
            while line.split(" ")[1] == "100":  # after it nothing need come: it asks for a body
                line, fields = wire.head()
            wire.socket.settimeout(PATIENCE)
            status = int(line.split(" ")[1])
            serial = int(fields["x-serial"]) if "x-serial" in fields else None
            # The servers say whether there is a body. What Postern answers itself has one, but to HEAD.
            has_body = "x-body" in fields or serial is None and not is_head
            body = wire.body(fields) if has_body and status not in (204, 304) else b""
        except (OSError, AssertionError, ValueError, IndexError):
            return None
        return status, understood(json.loads(body), self.name) if serial is not None and body else None, serial

    def judged(self, request, patience):
        """The answers, and whether each request that the server read is accounted for."""
        answers = self.play(request, patience)
        serials = [serial for _, _, serial in answers if serial is not None]
        right = serials == list(range(self.serial + 1, self.serial + 1 + len(serials)))
        self.serial = serials[-1] if serials else self.serial
        return [answer[:2] + (answer[2] is not None,) for answer in answers], right

    def settle(self):
        """Asks for the number as it is now."""
        self.close()
        self.serial = self.play(generate(0), PATIENCE)[0][2]


def understood(read, lane):
    """What a server read, in terms that all share. nginx's reading of the path is told by a field that it sets itself."""
    read_path = [value for name, value in read["headers"] if name == "x-read-path"] if lane == "nginx" else []
    headers = sorted(((name, value) for name, value in read["headers"] if name not in OWN), key=lambda field: field[0])
    told = {name: read[name] for name in ("method", "target", "length", "digest")}
    return {**told, "path": read_path[0] if read_path else read["path"], "headers": headers, "trailers": sorted(map(tuple, read["trailers"]))}


def differences(request, judged, counts=None):
    """What is wrong with the answers of all lanes to one request; nothing if all is well."""
    found = []
    for name, (_, right) in judged.items():
        if not right:
            found.append(f"{name} read a request that nobody was answered")
    rows = [judged[name][0] for name in judged]
    # A server that refuses by itself what the others take may do so before it has the body, and then the connection ends.
    ended = [row and not row[-1][2] and row[-1][0] in REFUSALS for row in rows]
    if any(len(row) < max(map(len, rows)) and not end for row, end in zip(rows, ended, strict=True)):
        found.append("not as many answers from all")
    for answers in zip(*rows, strict=False):
        read = [answer for answer in answers if answer[2]]
        refused = [answer for answer in answers if not answer[2]]
        bodies = [{**answer[1], "trailers": None} for answer in read if answer[1]]
        if any(body != bodies[0] for body in bodies):
            found.append("read differently")
        # nginx drops trailers, so they are compared between the others.
        trailers = [answers[at][1]["trailers"] for at, name in enumerate(judged) if name != "nginx" and answers[at][1]]
        if any(each != trailers[0] for each in trailers):
            found.append("trailers read differently")
        if read and refused and not all(answer[0] in REFUSALS for answer in refused):
            found.append("forwarded to one, and to another not")
        if counts is not None:
            kind = "forwarded" if read and not refused else "refused" if not read else "forwarded, and refused by a server itself"
            counts[kind] += 1
    if request.meant and not any("answer" in each for each in found):
        for (answer, *_), _ in judged.values():
            if not answer[2] or answer[1] is not None and any(answer[1][name] != value for name, value in request.meant.items()):
                found.append(f"not read as it was meant: {request.meant}")
    return found


@pytest.fixture(scope="module")
def lanes(start, go, node, nginx):
    ports = {"nginx": nginx.port, "node": node.ports["http1"], "go": go.ports["http1"]}
    made = [Lane(name, start({name: f'to = "http://127.0.0.1:{port}"'}, name)) for name, port in ports.items()]
    yield made
    for lane in made:
        lane.close()


def play(lanes, requests, patience):
    """By request, by lane: the answers. The lanes run beside each other."""
    with ThreadPoolExecutor(len(lanes)) as pool:
        columns = list(pool.map(lambda lane: [lane.judged(request, patience) for request in requests], lanes))
    return [{lane.name: column[at] for lane, column in zip(lanes, columns, strict=True)} for at in range(len(requests))]


def play_alone(lanes, request, patience, counts):
    """The answers of all lanes to one request, and what is wrong with them."""
    for lane in lanes:
        lane.settle()
    judged = play(lanes, [request], patience)[0]
    before = {lane.name: lane.serial for lane in lanes}
    found = differences(request, judged, counts)
    for lane in lanes:  # what was read without an answer shows in the next number
        lane.settle()
        if lane.serial != before[lane.name] + 1:
            found.append(f"{lane.name} read {lane.serial - before[lane.name] - 1} requests that nobody was answered")
    return judged, found


COUNTS = Counter()


@pytest.mark.parametrize("block", [
    pytest.param(block, marks=[pytest.mark.full] if block >= 10 else []) for block in range(100)
])  # fmt: skip
def test_all_read_the_same_request(lanes, block):
    for lane in lanes:
        lane.settle()
    numbers = range(SEED * 1_000_000 + block * BLOCK, SEED * 1_000_000 + (block + 1) * BLOCK)
    requests = [generate(number) for number in numbers]
    doubted = []
    for number, request, judged in zip(numbers, requests, play(lanes, requests, 0.05), strict=True):
        counts = Counter()
        if differences(request, judged, counts):
            doubted.append((number, request))
        else:
            COUNTS.update(counts)
    COUNTS["played again"] += len(doubted)
    wrong = []
    for number, request in doubted:
        for patience in (1, 15):
            counts = Counter()
            judged, found = play_alone(lanes, request, patience, counts)
            if not found:
                break
        COUNTS.update(counts)
        if found:
            wrong.append(f"seed {number}: {found}\n  {request.sent!r}\n  " + "\n  ".join(f"{each!r:.2000}" for each in judged.items()))
    assert not wrong, "\n".join(wrong[:3]) + f"\n{len(wrong)} in all"


def test_without_postern_they_disagree(go, node, nginx, record_figure):
    """The same requests, straight to the servers: that nothing was found above is not for want of looking."""
    ports = {"nginx": nginx.port, "node": node.ports["http1"], "go": go.ports["http1"]}
    lanes = [Lane(name, SimpleNamespace(address="127.0.0.1", port=port, tls=None)) for name, port in ports.items()]
    requests = [generate(SEED * 1_000_000 + number) for number in range(BLOCK)]
    disagreed = sum(bool(differences(request, judged)) for request, judged in zip(requests, play(lanes, requests, 0.05), strict=True))
    for lane in lanes:
        lane.close()
    record_figure(f"differential without Postern: {disagreed} of {BLOCK} requests were not read by all as the same")
    assert disagreed > BLOCK / 50


def test_the_requests_were_of_all_kinds(record_figure):
    """A generator whose requests were all refused, or all forwarded, would show nothing."""
    record_figure(f"differential, seed {SEED}: " + ", ".join(f"{count} {kind}" for kind, count in COUNTS.most_common()))
    total = COUNTS["forwarded"] + COUNTS["refused"]
    assert total >= 10_000
    assert COUNTS["forwarded"] >= total / 4 and COUNTS["refused"] >= total / 10
