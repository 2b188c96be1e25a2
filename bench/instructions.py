"""User instructions and system calls of a request, counted: Postern beside nginx that proxies without any checks.

Each figure is the difference of two runs of different length, divided by the difference of their lengths, so that
start-up, first sights of tokens and the end fall out. Instructions are callgrind's, user side, all threads; system calls
are strace's, all threads. 8 keep-alive connections, 200 distinct RS256 tokens in rotation, each seen before what is
counted; the token verified (cached), its user's status from introspection, a namespace token injected. `bound` is 10
minutes here: re-introspection is work of the control plane by time, and under callgrind time runs thirty times slower.

The budget leaves the access log's line aside: it is held against a run with the log off. The run with the log in a file
stands beside it, so the difference is what the line costs. Then the stages of a decision, one by one (stages.py).
"""

import argparse
import json
import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import stages
from drive import drive
from harness import HERE, Bench, Score, free_port

# What is promised for a request, log line aside.
BUDGET, MAX_CALLS = 22_000, 4.5
# What is left of it by the profile that release builds are laid out by. More says that the profile fits no longer: `bench/run pgo` counts anew.
WITH_PROFILE = 19_500
# The compiler that it was counted by, which alone builds with it.
PROFILED_BY = HERE.parent / ".cargo/release.by"
# And for the check of the user's status alone, where the answer is young.
STATUS_BUDGET = 300
CONNECTIONS, TOKENS = 8, 200
CALLGRIND_PATIENCE = 180


class Subject:
    """A proxy under count."""

    def __init__(self, name, port, command):
        self.name, self.port, self.command = name, port, command

    def run(self, bench, prefix, tokens, length):
        child = bench.start(self.command, self.port, prefix, CALLGRIND_PATIENCE)
        for _ in drive(self.port, "/api/hello", tokens, (len(tokens), length), CONNECTIONS):
            pass
        bench.stop(child)

    def instructions(self, bench, tokens, lengths):
        totals = []
        for length in lengths:
            out = bench.work / "callgrind.out"
            prefix = ["valgrind", "--tool=callgrind", "--fair-sched=yes", f"--callgrind-out-file={out}"]
            self.run(bench, prefix, tokens, length)
            totals.append(int(re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.M)[1]))
            out.unlink()
        return (totals[1] - totals[0]) / (lengths[1] - lengths[0])

    def calls(self, bench, tokens, lengths):
        """System calls a request, by name."""
        counts = []
        for length in lengths:
            out = bench.work / "strace.out"
            self.run(bench, ["strace", "-f", "-c", "-o", str(out)], tokens, length)
            counts.append(strace_counts(out))
        span = lengths[1] - lengths[0]
        return {name: (counts[1][name] - counts[0].get(name, 0)) / span for name in counts[1]}


def strace_counts(path: Path):
    """{name: calls} of the table that `strace -c` writes; its columns are time, seconds, usecs/call, calls, errors, name."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return {row[-1]: int(row[3]) for row in rows if len(row) in (5, 6) and row[3].isdigit() and row[-1] != "total"}


def ask(port, token=None):
    """Status and body of GET /api/echo."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/api/echo", headers=headers), timeout=10
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def check_work(bench, score, postern, token):
    """What is counted must be the whole job: refusing without a token, and a token of our own upstream."""
    child = bench.start(postern.command, postern.port)
    score.check(ask(postern.port)[0] == 401, "a request without a token is refused")
    status, body = ask(postern.port, token)
    carried = json.loads(body).get("authorization", "") if status == 200 else ""
    score.check(
        carried.startswith("Bearer ") and token not in carried, "the upstream is given a token, and not the caller's"
    )
    bench.stop(child)


def compiler():
    """What the compiler here says that it is."""
    return subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="longer runs")
    parser.add_argument("--write", action="store_true", help="write down what the stages cost, and expect that from now on")
    options = parser.parse_args()
    full = options.full
    callgrind_lengths, strace_lengths = ((2000, 22000), (2000, 42000)) if full else ((1000, 5000), (1000, 9000))
    with Score() as score, Bench() as bench:
        upstream = bench.start_upstream()
        issuer = bench.start_issuer(f"tokens:RS256:{TOKENS}:{TOKENS}")
        tokens = bench.tokens("tokens")

        def postern(name, bound="10m", access_log=False):
            port = free_port()
            return Subject(name, port, bench.postern_command(port, upstream, issuer, bound, access_log))

        port = free_port()
        nginx = bench.nginx_command(
            "nginx",
            port,
            'location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; }',
            f"upstream up {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}",
            "master_process off;",
        )
        aside = postern("Postern, log line aside")
        without_status = postern("Postern, and no user status", bound=None)
        logging = postern("Postern, access log in a file", access_log=True)
        subjects = [aside, without_status, logging, Subject("nginx, no checks, no log", port, nginx)]
        check_work(bench, score, aside, tokens[0])
        print(f"\n{'a request':32}{'user instructions':>18}{'system calls':>14}")
        figures = {}
        for subject in subjects:
            instructions = subject.instructions(bench, tokens, callgrind_lengths)
            calls = subject.calls(bench, tokens, strace_lengths)
            figures[subject] = instructions, sum(calls.values())
            print(f"{subject.name:32}{instructions:18,.0f}{sum(calls.values()):14.2f}", flush=True)
            shown = sorted((item for item in calls.items() if item[1] >= 0.005), key=lambda item: -item[1])
            print("    " + ", ".join(f"{name} {count:.2f}" for name, count in shown), flush=True)
        print()
        instructions, calls = figures[aside]
        score.check(instructions < BUDGET, f"{instructions:,.0f} user instructions, fewer than {BUDGET:,}")
        if compiler() == PROFILED_BY.read_text():
            score.check(instructions < WITH_PROFILE, f"{instructions:,.0f} with the profile of .cargo, fewer than {WITH_PROFILE:,}")
        score.check(calls <= MAX_CALLS, f"{calls:.2f} system calls, at most {MAX_CALLS}")
        of_status = stages.gate(score, bench.work, options.write)["user status"]
        score.check(of_status <= STATUS_BUDGET, f"{of_status} instructions for the user's status, at most {STATUS_BUDGET}")


if __name__ == "__main__":
    main()
