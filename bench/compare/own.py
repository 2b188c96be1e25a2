"""What is measured of Postern alone: size, memory, start, a first sight, a second worker, good callers beside forged tokens."""

import os
import statistics
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from contenders import postern, postern_without_status
from drive import Connection, DriveError, drive, request
from harness import POSTERN, free_port, resident
from issuer import encode
from load import of_open_loop, open_loop, start_open_loop, warm
from measure import measure, of_load, running
from scenarios import MAIN, MIB

SIZE, IDLE, HELD = 20, 30, 60  # MiB: of the binary; resident, idle and with a thousand connections
CACHED = 200  # MiB that 100,000 tokens take
SIGHT = 35  # microseconds of CPU time over a token seen before
START = 50  # milliseconds
TWO_WORKERS, SLOWED = 1.1, 1.5
FLOOD = 2000  # forged tokens a second, from the address of the good callers
SIGHTS = 5000  # a second, about a third of a core
ASKED_SIGHTS = 400  # a second, fewer than Postern asks an issuer for the sake of tokens not seen before
# What goes wrong in a measurement, and is told as one that failed.
ERRORS = (RuntimeError, OSError, DriveError, subprocess.SubprocessError)


@dataclass(frozen=True)
class Fact:
    what: str
    figure: str
    promise: str = ""
    holds: bool | None = None  # None: nothing is promised, or it is not asserted in this run

    def tell(self, score):
        text = f"{self.what}: {self.figure}" + (f", promised {self.promise}" if self.promise else "")
        if self.holds is None:
            print(f"       {text}", flush=True)
        else:
            score.check(self.holds, text)


def facts(stage, plan, rate):
    """`rate`: half of the requests a second that go through nginx."""
    for part in size, memory, tokens, start, first_sight, workers, flood:
        try:
            yield from part(stage, plan, rate)
        except ERRORS as e:
            yield Fact(part.__name__, f"not measured: {e}", holds=False)


def timed(plan, value, most):
    """Time is asserted where there are rounds enough."""
    return value <= most if plan.is_full else None


def size(stage, _plan, _rate):
    stripped = stage.bench.work / "stripped"
    subprocess.run(["strip", "-o", stripped, POSTERN], check=True)
    mib = stripped.stat().st_size / MIB
    yield Fact("Binary, stripped", f"{mib:.1f} MiB", f"≤ {SIZE} MiB", mib <= SIZE)


def memory(stage, _plan, _rate):
    with running(stage, postern) as (port, pid):
        time.sleep(1)
        idle = resident(pid) / MIB
        # It yields while its connections are open.
        for _ in drive(port, "/api/hello", stage.tokens("tokens"), [3000], connections=1000):
            held = resident(pid) / MIB
    yield Fact("Memory, idle", f"{idle:.1f} MiB", f"≤ {IDLE} MiB", idle <= IDLE)
    yield Fact("Memory, 1,000 connections, 1,000 tokens", f"{held:.1f} MiB", f"≤ {HELD} MiB", held <= HELD)


def tokens(stage, _plan, _rate):
    """What is held of each token that was verified."""
    with running(stage, postern_without_status) as (port, pid):
        shown = stage.tokens("many")
        before = None
        for _ in drive(port, "/api/hello", shown, [8, len(shown)]):
            before = before or resident(pid) / MIB
        held = resident(pid) / MIB - before
    yield Fact(f"Memory of {len(shown):,} cached tokens", f"{held:.0f} MiB", f"≤ {CACHED} MiB", held <= CACHED)


def start(stage, plan, _rate):
    """From the start of the process to its first answer. Its signing keys are there from the runs before; the issuer's are fetched."""
    token, took = stage.tokens("tokens")[0], []
    for _ in range(11):
        port = free_port()
        command = postern(stage, MAIN, port)
        begun = time.perf_counter()
        child = stage.bench.spawn(command, stage.proxy)
        while not is_answered(port, token):
            if time.perf_counter() - begun > 30:
                raise RuntimeError("no answer within 30 s")
            time.sleep(0.0005)
        took.append((time.perf_counter() - begun) * 1000)
        stage.bench.stop(child)
    median = statistics.median(took)
    text = f"{median:.0f} ms (of {len(took)}: {min(took):.0f} to {max(took):.0f})"
    yield Fact("Start to the first answer", text, f"≤ {START} ms", timed(plan, median, START))


def is_answered(port, token):
    try:
        connection = Connection(port)
        connection.send(request(port, "/api/hello", token))
        while connection.receive() is None:
            pass
        return True
    except (OSError, DriveError):
        return False


def first_sight(stage, plan, _rate):
    """What a token costs that was never seen: its signature, and where its user's status counts a question to the issuer."""
    for configured, what, rate, most in (
        (postern_without_status, "no user status", SIGHTS, SIGHT),
        (postern, "with introspection", ASKED_SIGHTS, None),
    ):
        differences = []
        for _ in range(plan.rounds):
            cpu = {}
            for pool in "tokens", "fresh-RS256":
                with running(stage, configured) as (port, pid):
                    warm(stage, MAIN, port)
                    cpu[pool] = of_load(pid, partial(open_loop, stage, port, stage.pool(pool), rate, plan.main_seconds)).cpu
            differences.append(cpu["fresh-RS256"] - cpu["tokens"])
        more = statistics.median(differences)
        text = f"{more:.0f} µs of CPU time over a token seen before, at {rate:,} a second ({min(differences):.0f} to {max(differences):.0f})"
        yield Fact(f"First sight of an RS256 token, {what}", text, f"≤ {most} µs" if most else "", most and timed(plan, more, most))


def workers(stage, plan, _rate):
    """One and two have both cores, and share them with the load and the upstream."""
    ratios = []
    for _ in range(plan.rounds):
        one, two = (
            measure(stage, partial(postern, workers=count), MAIN, plan.main_seconds, prefix=stage.both).cpu for count in (1, 2)
        )  # fmt: skip
        ratios.append(two / one)
    holds = timed(plan, statistics.median(ratios), TWO_WORKERS)
    yield Fact("CPU time of a request, two workers", f"{spread(ratios)} × that of one", f"≤ {TWO_WORKERS} ×", holds)


def flood(stage, plan, rate):
    """p99 of good callers in an open loop beside a flood of forged tokens, over what it is without."""
    forged = forge(stage, FLOOD * plan.main_seconds)
    limited, unlimited = [], []
    for _ in range(plan.rounds):
        quiet = p99(stage, plan, rate, postern)
        limited.append(p99(stage, plan, rate, postern, forged) / quiet)
        unlimited.append(p99(stage, plan, rate, without_limit, forged) / quiet)
    what, holds = f"p99 of {rate:,} good requests a second beside {FLOOD:,} forged tokens", timed(plan, statistics.median(limited), SLOWED)
    yield Fact(what, f"{spread(limited)} × that without them", f"≤ {SLOWED} ×", holds)
    yield Fact("The same with no limit of failed authentications", f"{spread(unlimited)} ×")


def p99(stage, plan, rate, configured, forged=None):
    with running(stage, configured) as (port, _):
        warm(stage, MAIN, port)
        flood = start_open_loop(stage, port, forged, FLOOD, plan.main_seconds, connections=16) if forged else None
        good = open_loop(stage, port, stage.pool("tokens"), rate, plan.main_seconds)
        if good.failed or flood and of_open_loop(flood, ("401", "429")).failed:
            raise RuntimeError("a good request failed beside forged tokens, or a forged one was not refused")
        return good.p99


def without_limit(stage, scenario, port):
    """As if each forged token came from another address."""
    command = postern(stage, scenario, port)
    with Path(command[-1]).open("a") as config:
        config.write('\n[limits]\nfailed_authentications = "off"\n')
    return command


def forge(stage, count):
    """A file of tokens whose signatures are noise; each differs from all others."""
    text, file = stage.tokens("tokens")[0].rpartition(".")[0], stage.bench.work / "forged.txt"
    file.write_text("".join(f"{text}.{encode(os.urandom(256))}\n" for _ in range(count)))
    return file


def spread(ratios):
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
