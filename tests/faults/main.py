"""Faults under load: what is done to Postern while k6 sends requests through it, and how many of them fail.

Each fault prints a row: how many requests there were, how many failed, how many may, and why. A request has failed if its
answer is no 200, is not whole, or is not the answer to it. No request may fail but where the fault makes it
impossible to answer; where that is so the bound is a count, of what a backend did or of who was there, never a share.
"""

import argparse
import time
import traceback

import clients
import ends
import reloads
import shared
import upstreams
from lab import raise_limit
from harness import Score

FAULTS = [
    reloads.reloads,
    reloads.certificates,
    upstreams.killed,
    upstreams.slow,
    upstreams.garbage,
    upstreams.half_closed,
    upstreams.cut,
    upstreams.refusing,
    upstreams.all_dead,
    ends.sigterm,
    shared.redis,
    clients.slow_clients,
    clients.idle_connections,
]


class Report:
    """The rows, and the score."""

    def __init__(self, score):
        self.score, self.rows = score, []

    def row(self, fault, load, allowed=None, why="nothing about it keeps an answer from coming"):
        """Counts a load's failures. `allowed` is how many may fail, of a kind or of several together ("post upload"); none of others."""
        allowed, lost = allowed or {}, load.lost()
        sent, failed = sum(load.sent.values()), sum(lost.values())
        self.rows.append((fault, sent, failed, sum(allowed.values()), why))
        named = " ".join(allowed).split()
        good = all(sum(lost[kind] for kind in kinds.split()) <= count for kinds, count in allowed.items())
        good = good and not any(count for kind, count in lost.items() if kind not in named)
        text = ", ".join(f"{count} {kind}" for kind, count in lost.items() if count) or "none"
        may = ", ".join(f"{count} {kinds.replace(' ', ' or ')}" for kinds, count in allowed.items() if count) or "none"
        self.score.check(good and sent > 0, f"{fault}: {sent} requests, failed: {text}; may fail: {may}, because {why}")
        if not good:
            print("\n".join(f"         {line}" for line in load.failures[:10]), flush=True)
            self.say(f"of these k6 sent again by itself: {load.hidden}")

    def check(self, holds, what):
        self.score.check(holds, what)

    def say(self, what):
        print(f"       {what}", flush=True)

    def table(self):
        print("\n| fault | requests | failed | allowed | why |\n|---|---|---|---|---|")
        for fault, sent, failed, allowed, why in self.rows:
            print(f"| {fault} | {sent:,} | {failed} | {allowed} | {why} |")
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="ten times as much")
    parser.add_argument("--only", choices=[fault.__name__ for fault in FAULTS], action="append", help="one fault")
    options = parser.parse_args()
    raise_limit()
    with Score() as score:
        report = Report(score)
        for fault in FAULTS:
            if not options.only or fault.__name__ in options.only:
                print(f"\n{fault.__name__}: {fault.__doc__.splitlines()[0]}", flush=True)
                began = time.monotonic()
                try:
                    fault(report, options.full)
                except Exception as error:  # the other faults are still worth knowing
                    traceback.print_exception(error)
                    report.check(False, f"{fault.__name__} came to its end")
                report.say(f"took {time.monotonic() - began:.0f} s")
        report.table()


if __name__ == "__main__":
    main()
