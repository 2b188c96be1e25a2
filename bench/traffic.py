"""Load by k6: steady traffic, tokens never seen before, key rotation and a disabled user. The scripts are bench/k6/*.js.

Each script has issuer, upstream (which tells what Authorization it was given) and gateway to itself. What must hold are
the thresholds in the scripts; each counts as one test.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from harness import HERE, Bench, Score, free_port, steadily

K6 = Path(sys.executable).with_name("k6")
# script: (pool of tokens, bound of the gateway in seconds, seconds of load), for a smoke and for --full
SCRIPTS = {
    "steady": (("RS256:500:500", 30, 5), ("RS256:1000:1000", 30, 60)),
    "churn": (("ES256:4000:400", 30, 60), ("ES256:100000:10000", 30, 300)),
    "rotation": (("ES256:8:8", 30, 6), ("ES256:8:8", 30, 30)),
    "disable": (("ES256:64:8", 2, 6), ("ES256:64:8", 30, 45)),
}


def run(name, pool, bound, seconds, score):
    with Bench() as bench:
        upstream = bench.start_upstream()
        issuer = bench.start_issuer(f"tokens:{pool}")
        port = free_port()
        bench.start(bench.postern_command(port, upstream, issuer, f"{bound}s"), port)
        summary = bench.work / "summary.json"
        environment = {
            "GATEWAY": f"http://127.0.0.1:{port}",
            "ISSUER": issuer,
            "TOKENS": bench.work / "tokens.txt",
            "SUMMARY": summary,
            "BOUND_MS": bound * 1000,
            "SECONDS": seconds,
        }
        command = [K6, "run", "--quiet", "--no-usage-report", "--address", "127.0.0.1:0"]
        for key, value in environment.items():
            command += ["-e", f"{key}={value}"]
        # A k6 that hangs is ended well after its load should have been.
        status = subprocess.run(
            [*command, HERE / "k6" / f"{name}.js"],
            stdin=subprocess.DEVNULL,
            timeout=seconds + 120,
            env={"PATH": os.environ["PATH"], "HOME": str(bench.work)},
        ).returncode
        if not summary.exists():
            score.check(False, f"{name}: k6 ended with status {status} and no summary")
            return
        report(name, json.loads(summary.read_text())["metrics"], score)


def report(name, metrics, score):
    """One line of figures, then what had to hold."""
    requests = metrics.get("http_reqs{to:gateway}", {}).get("values", {})
    took = metrics.get("http_req_duration{to:gateway}", {}).get("values", {})
    times = ", ".join(f"{label} {took.get(key, 0):.2f} ms" for label, key in (("p50", "med"), ("p95", "p(95)"), ("p99", "p(99)")))
    print(f"\n{name}: {requests.get('count', 0):.0f} requests, {requests.get('rate', 0):.0f}/s, {times}")
    for metric, data in sorted(metrics.items()):
        for threshold, outcome in data.get("thresholds", {}).items():
            values = ", ".join(f"{key} {value:.6g}" for key, value in data["values"].items() if key in threshold)
            score.check(outcome["ok"], f"{name}: {metric} {threshold} ({values})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="minutes instead of seconds")
    parser.add_argument("--only", choices=SCRIPTS, help="one script")
    options = parser.parse_args()
    with Score() as score:
        for name, variants in SCRIPTS.items():
            if options.only in (None, name):
                steadily(score, name, lambda trial, name=name, how=variants[options.full]: run(name, *how, trial))
        print()


if __name__ == "__main__":
    main()
