"""User instructions of each stage of a decision: counted under callgrind, held against those in stages.expected.

bench/stages.rs says what is run. callgrind begins anew at each call of `measured`, so that nothing of what was prepared is counted,
and writes down what it came to at its end, in the order of the names that the program prints. Cryptography counts as the processor that
valgrind shows does it, which is the same on every machine with AVX2."""

import json
import re
import subprocess

from harness import HERE

EXPECTED = HERE / "stages.expected"
# How often `measured` runs an operation.
TIMES = 64
# What may be added without a word: so much, or a handful of instructions. Comparisons of bytes take more or fewer by how they are aligned.
TOLERANCE, HANDFUL = 0.02, 60
HEAD = """\
# User instructions by stage, of the profile `suite`. bench/run instructions fails where one is more than 2 % above, and
# --write writes what it counted: a commit that raises a figure says why.
"""


def build():
    """The program, of this checkout."""
    command = ["cargo", "bench", "--profile", "suite", "--bench", "stages", "--no-run", "--message-format=json"]
    lines = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    made = [json.loads(line) for line in lines if '"executable":"' in line]
    return next(one["executable"] for one in made if one["target"]["name"] == "stages")


def count(work):
    """{stage: instructions}."""
    out = work / "stages.out"
    command = ["valgrind", "--tool=callgrind", "--zero-before=stages::measured", "--dump-after=stages::measured"]
    command += [f"--callgrind-out-file={out}", build(), "--count"]
    names = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout
    figures = {}
    for number, name in enumerate(names.splitlines(), 1):
        dump = out.with_name(f"{out.name}.{number}").read_text()
        figures[name] = round(int(re.search(r"^(?:totals|summary): (\d+)", dump, re.M)[1]) / TIMES)
    return figures


def read_expected():
    rows = [line.rsplit(None, 1) for line in EXPECTED.read_text().splitlines() if line and not line.startswith("#")]
    return {name: int(figure.replace(",", "")) for name, figure in rows}


def write_expected(figures):
    EXPECTED.write_text(HEAD + "".join(f"{name:28}{figure:12,}\n" for name, figure in figures.items()))


def gate(score, work, write):
    """Counts, shows, and holds each stage against what is expected of it; or writes that down. Gives the figures."""
    figures = count(work)
    if write:
        write_expected(figures)
    expected = read_expected()
    print(f"\n{'a stage':28}{'instructions':>14}{'expected':>12}")
    for name, figure in figures.items():
        known = expected.get(name)
        print(f"{name:28}{figure:14,}{known if known is None else format(known, ','):>12}")
    print()
    score.check(set(figures) == set(expected), "stages.expected names the stages that there are")
    above = [name for name in figures if figures[name] > more(expected.get(name, 0))]
    score.check(not above, f"no stage costs more than 2 % above what is expected{''.join(f', but {name}' for name in above)}")
    lower = [name for name in figures if more(figures[name]) < expected.get(name, 0)]
    if lower:
        print(f"stages.expected could be lowered for {', '.join(lower)}")
    return figures


def more(figure):
    return max(figure * (1 + TOLERANCE), figure + HANDFUL)
