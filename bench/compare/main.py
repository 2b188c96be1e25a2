"""Postern beside nginx, HAProxy, Envoy and Caddy: what a request costs, on one core each, in interleaved rounds.

A round starts each contender anew, shows it each token once (but for tokens that are to be new), and measures it under load. What
counts is the CPU time of a request, user and system, of all its processes, over nginx's in the same round. nginx passes everything
on unchecked; Postern verifies the token, knows its user's status within 30 s, and injects a token of its own.
"""

import argparse
import resource
import statistics
from dataclasses import dataclass

import contenders
import own
import report
from harness import Bench, Score
from measure import measure
from scenarios import MAIN, SCENARIOS
from stage import Stage

# What is promised: CPU time of a request over nginx's, under saturation and at half load, and Envoy's with its cache over Postern's.
OF_NGINX, OF_NGINX_AT_HALF, OF_ENVOY = 0.85, 1.0, 3.5


@dataclass(frozen=True)
class Plan:
    is_full: bool
    rounds: int
    seconds: int  # of most scenarios
    main_seconds: int  # of the main scenario, at half load, and of Postern by itself

    @property
    def fresh(self):
        """More tokens than anybody verifies meanwhile on one core, and as many as are shown in an open loop."""
        return max(25_000 * self.seconds, own.SIGHTS * self.main_seconds)


SMOKE = Plan(is_full=False, rounds=1, seconds=1, main_seconds=1)
FULL = Plan(is_full=True, rounds=9, seconds=1, main_seconds=4)


def play(stage, scenario, plan, rate, score):
    """The rounds of each contender, by its name. In a round they follow one another, a different one first each time."""
    taking_part = contenders.of(scenario)
    seconds = plan.main_seconds if scenario == MAIN or scenario.is_open else plan.seconds
    rounds = {contender.name: [] for contender in taking_part}
    for number in range(plan.rounds):
        first = number % len(taking_part)
        for contender in taking_part[first:] + taking_part[:first]:
            try:
                rounds[contender.name].append(measure(stage, contender.command, scenario, seconds, rate))
            except own.ERRORS as e:
                score.check(False, f"{scenario.name}: {contender.name}: {e}")
    # Ratios are of rounds, so whoever missed one has none.
    return {name: part for name, part in rounds.items() if len(part) == plan.rounds}


def judge(scenario, rounds, plan, score):
    failed = {name: count for name, part in rounds.items() if (count := sum(one.load.failed for one in part))}
    score.check(not failed, f"{scenario.name}: no request failed {failed or ''}")
    if scenario.is_fresh:
        most = max((one.load.requests for name, part in rounds.items() if name != "nginx" for one in part), default=0)
        score.check(most <= plan.fresh, f"{scenario.name}: no token came twice: {most:,} requests at most, {plan.fresh:,} tokens")
    if scenario == MAIN and plan.is_full and rounds.keys() >= {"nginx", contenders.WITH_STATUS}:
        of_nginx = report.ratio(rounds, contenders.WITH_STATUS, "nginx")
        score.check(of_nginx.median <= OF_NGINX, f"CPU time of a request: {of_nginx} × nginx's, promised ≤ {OF_NGINX}")
        if contenders.ENVOY_CACHED in rounds:
            of_envoy = report.ratio(rounds, contenders.ENVOY_CACHED, contenders.WITH_STATUS)
            score.check(of_envoy.median >= OF_ENVOY, f"Envoy's with its cache: {of_envoy} × Postern's, promised ≥ {OF_ENVOY}")
    if scenario.is_open and plan.is_full and rounds.keys() >= {"nginx", contenders.WITH_STATUS}:
        of_nginx = report.ratio(rounds, contenders.WITH_STATUS, "nginx")
        score.check(of_nginx.median <= OF_NGINX_AT_HALF, f"CPU time at half load: {of_nginx} × nginx's, promised ≤ {OF_NGINX_AT_HALF}")
        p50 = report.ratio(rounds, contenders.WITH_STATUS, "nginx", lambda one: one.load.p50)
        score.check(p50.median <= 1, f"p50 at half load: {p50} × nginx's, promised ≤ 1")


def half_of_nginx(stage, results, plan):
    """Half of the requests a second that go through nginx in the main scenario."""
    rounds = results.get(MAIN, {}).get("nginx") or [measure(stage, contenders.nginx, MAIN, plan.main_seconds)]
    return int(statistics.median(one.load.rate for one in rounds) / 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="9 rounds, and what is promised is asserted; writes bench/RESULTS.md")
    parser.add_argument("--write", action="store_true", help="writes bench/RESULTS.md without --full, too")
    parser.add_argument("--only", choices=[one.name for one in SCENARIOS] + ["own"], help="one part of it; writes nothing")
    options = parser.parse_args()
    plan = FULL if options.full else SMOKE
    # For a thousand connections, each with its other side.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with Score() as score, Bench() as bench:
        print(f"{report.machine()}\n{report.versions()}", flush=True)
        stage, results, facts = Stage(bench, plan.fresh), {}, []
        for scenario in SCENARIOS:
            if options.only in (None, scenario.name):
                rate = half_of_nginx(stage, results, plan) if scenario.is_open else None
                results[scenario] = play(stage, scenario, plan, rate, score)
                print(f"\n{report.heading(scenario, rate)}\n{report.as_text(results[scenario])}", flush=True)
                judge(scenario, results[scenario], plan, score)
        if options.only in (None, "own"):
            print("\nPostern by itself")
            for fact in own.facts(stage, plan, half_of_nginx(stage, results, plan)):
                fact.tell(score)
                facts.append(fact)
        if (options.full or options.write) and not options.only:
            report.write(results, facts, plan)


if __name__ == "__main__":
    main()
