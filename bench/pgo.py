"""Counts what the gateway does under load, by which release builds are laid out (profile-guided optimization).

Built with counters, driven through every kind of traffic of `compare` and what is refused; what was counted is written beside the
source, where each release build finds it. Then a request is counted with a build that uses it and one that does not: the first must
need fewer instructions.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent / "compare")]

import contenders  # noqa: E402
import harness  # noqa: E402
import own  # noqa: E402
from harness import HERE, Bench, Score, free_port  # noqa: E402
from instructions import PROFILED_BY, Subject, compiler  # noqa: E402
from load import load, open_loop, warm  # noqa: E402
from measure import running  # noqa: E402
from scenarios import MAIN, SCENARIOS  # noqa: E402
from stage import Stage  # noqa: E402

ROOT = HERE.parent
OUT = (ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "pgo").resolve()
COUNTED = ROOT / ".cargo/release.profdata"
SECONDS, RATE = 3, 5000
FRESH = 25_000 * SECONDS


def build(folder, **environment):
    """The binary of a release build; `.cargo/rustc.sh` reads the environment. Cargo does not, so each is built anew."""
    shutil.rmtree(OUT / folder, ignore_errors=True)
    command = ["cargo", "build", "--release", "--locked", "--target-dir", str(OUT / folder)]
    inherited = {name: value for name, value in os.environ.items() if name not in ("POSTERN_COUNT", "CARGO_BUILD_TARGET")}
    wrapper = {"RUSTC_WRAPPER": str(ROOT / ".cargo/rustc.sh")}
    subprocess.run(command, cwd=ROOT, env=inherited | wrapper | environment, check=True)
    return OUT / folder / "release/postern"


def profdata():
    """The tool of the compiler's own LLVM: another version does not read its counters."""
    tell = ["rustc", "--print", "sysroot"]
    sysroot = Path(subprocess.run(tell, capture_output=True, text=True, check=True).stdout.strip())
    found = sorted(sysroot.glob("lib/rustlib/*/bin/llvm-profdata"))
    if not found:
        raise RuntimeError("llvm-profdata is missing: rustup component add llvm-tools")
    return found[0]


def train(stage, score):
    """Every kind of traffic, on a binary with counters, which it writes when it ends."""
    for scenario in SCENARIOS:
        command = contenders.postern_without_status if scenario.is_fresh else contenders.postern
        with running(stage, command, scenario) as (port, _):
            warm(stage, scenario, port)
            came = load(stage, scenario, port, SECONDS, RATE)
        score.check(came.requests and not came.failed, f"{scenario.name}: {came.requests:,} requests, {came.failed} failed")
    good = stage.tokens("tokens")[0]
    head, payload, signature = good.split(".")
    refused = stage.bench.work / "refused.txt"
    refused.write_text(f"{head}.{payload}.{signature[::-1]}\n{head}.{head}.{signature}\nabc\n")
    with running(stage, own.without_limit) as (port, _):
        came = open_loop(stage, port, refused, RATE, SECONDS, expected=("401",))
    score.check(came.requests and not came.failed, f"bad tokens: {came.requests:,} requests, {came.failed} not refused")


def count(stage, binary):
    """User instructions of a request in the main scenario."""
    port = free_port()
    command = [str(binary), *contenders.postern(stage, MAIN, port)[1:]]
    return Subject(binary.name, port, command).instructions(stage.bench, stage.tokens("few"), (1000, 5000))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the same")
    parser.parse_args()
    with Score() as score:
        tool, raw = profdata(), OUT / "counted"
        shutil.rmtree(raw, ignore_errors=True)
        harness.POSTERN = str(build("counting", POSTERN_COUNT=str(raw)))
        with Bench() as bench:
            train(Stage(bench, FRESH), score)
        if score.failed:
            return  # What was there stays.
        subprocess.run([tool, "merge", "-o", COUNTED, *sorted(raw.glob("*.profraw"))], check=True)
        PROFILED_BY.write_text(compiler())
        without, made = build("without", RUSTC_WRAPPER=""), build("made")
        with Bench() as bench:
            stage = Stage(bench, FRESH)
            before, after = (count(stage, binary) for binary in (without, made))
        score.check(after < before, f"{after:,.0f} user instructions a request, {before:,.0f} without ({after / before:.2f} x)")
        print(f"written: {COUNTED}\nthe binary: {made}")


if __name__ == "__main__":
    main()
