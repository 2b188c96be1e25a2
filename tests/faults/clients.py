"""Clients in great numbers: slow ones, and idle ones."""

import json
import subprocess
import sys

from lab import HERE, Lab, until

ROUNDS = 6


class Crowd:
    """Clients in a process of their own, crowd.py. They are there once this returns, until the block ends."""

    def __init__(self, lab, gateway, kind, count, seconds=0):
        command = [sys.executable, HERE / "crowd.py", kind, str(count), str(gateway.port), str(seconds)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.child = subprocess.Popen(command, text=True, bufsize=1, **pipes)
        self.child.stdin.write(lab.token() + "\n")
        if self.child.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{count} {kind} clients could not be connected")

    def __enter__(self):
        return self

    def counts(self):
        self.child.stdin.write("\n")
        return json.loads(self.child.stdout.readline())

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.child.stdin.close()
        self.child.stdout.close()


def slow_clients(report, full):
    """slow clients send heads and bodies, and read answers, a few bytes a second, beside normal ones"""
    count = 1000 if full else 100
    phases = [f"{name}{number}" for number in range(ROUNDS) for name in ("before", "with")]
    with Lab() as lab:
        # By default a head that is not there within ten seconds is the end of a connection; these are to stay.
        gateway = lab.gateway(SERVER='header_timeout = "2m"')
        fewest, broken = count, 0
        with lab.load(gateway.url, mix={"get": 4}, phases=("start", *phases), pause=0.005) as load:
            load.go_on(2)
            for number in range(ROUNDS):
                load.tell(f"before{number}")
                load.go_on(2.5)
                load.tell("start")
                with Crowd(lab, gateway, "slow", count) as crowd:
                    load.go_on(0.5)
                    load.tell(f"with{number}")
                    load.go_on(2.5)
                    load.tell("start")
                    counts = crowd.counts()
                    fewest, broken = min(fewest, counts["open"]), broken + counts["broken"]
                until("the slow ones are gone", lambda: gateway.metric("postern_connections") <= 8)
        before, during = ([load.took[f"{name}{number}"]["p(99)"] for number in range(ROUNDS)] for name in ("before", "with"))
        report.row(f"{count} slow clients", load)
        report.check(fewest == count and broken == 0, f"{fewest} slow clients were there throughout, {broken} were cut off")
        report.check(min(during) <= 2 * min(before), f"p99 of normal ones {min(during):.2f} ms, without slow ones {min(before):.2f} ms: the best of {ROUNDS} rounds in turn")
        each = lambda values: " ".join(f"{value:.1f}" for value in values)  # noqa: E731
        report.say(f"p99 in ms, without: {each(before)}; with: {each(during)}")


def idle_connections(report, full):
    """connections that have carried one request and now carry none"""
    count = 10_000 if full else 1000
    with Lab() as lab:
        gateway = lab.gateway()
        with lab.load(gateway.url, mix={"get": 4, "post": 2}, phases=("before", "with", "after")) as load:
            # A first few, so that what is made once is there before.
            with Crowd(lab, gateway, "idle", count // 10):
                load.go_on(2)
            until("the first are gone", lambda: gateway.metric("postern_connections") <= 8)
            load.go_on(1)
            memory, descriptors = gateway.resident(), gateway.descriptors()
            with Crowd(lab, gateway, "idle", count, seconds=count / 300) as crowd:
                load.tell("with")
                load.go_on(3)
                held, open_now = gateway.resident() - memory, gateway.metric("postern_connections")
                counts = crowd.counts()
            load.tell("after")
            until("the idle ones are gone", lambda: gateway.metric("postern_connections") <= 8)
            load.go_on(2)
            left = gateway.descriptors() - descriptors
        report.row(f"{count:,} idle connections", load)
        report.check(open_now >= count == counts["open"] and counts["broken"] == 0, f"all of them were open at once: {open_now:.0f}, with those of k6")
        each = held / count / 1024
        report.check(each <= 12, f"{each:.2f} KiB of resident memory for each, HTTP/1.1 without TLS ({held / 1048576:.1f} MiB in all); at most 12")
        report.check(left <= 16, f"{left} descriptors more than before, once they are gone")
