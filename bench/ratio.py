"""ratio.py [--budget 0.85] ROUNDS.json: Postern's CPU time of a request over nginx's, from what peers.py --json wrote."""

import argparse
import json
import statistics

from harness import Score

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--budget", type=float, help="the median of the rounds' ratios must not be above it")
parser.add_argument("rounds")
options = parser.parse_args()
with Score() as score:
    with open(options.rounds) as file:
        rounds = json.load(file)
    score.check(rounds.get("nginx") and rounds.get("GATEWAY"), "both were measured")
    for name, part in rounds.items():
        score.check(part and not any(r["err"] for r in part), f"{name}: no request failed")
    ratios = [ours["us"] / theirs["us"] for ours, theirs in zip(rounds["GATEWAY"], rounds["nginx"])]
    if ratios:
        median = statistics.median(ratios)
        spread = f"rounds {min(ratios):.2f} to {max(ratios):.2f}"
        if options.budget is None:
            print(f"CPU time of a request: {median:.2f} x nginx's ({spread})")
        else:
            score.check(median <= options.budget, f"CPU time: {median:.2f} x nginx's, at most {options.budget} ({spread})")
