"""What was found, as text, as bench/RESULTS.md and as bench/results.svg."""

import datetime
import os
import platform
import re
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

import contenders
from chart import chart
from harness import HERE, POSTERN

COLUMNS = ("", "CPU µs", "× nginx", "rounds", "requests/s", "p50 ms", "p99 ms")


@dataclass(frozen=True)
class Ratio:
    """Of one contender's figure over another's, round by round."""

    median: float
    least: float
    most: float

    def __str__(self):
        return f"{self.median:.2f} (rounds {self.least:.2f} to {self.most:.2f})"


def ratio(rounds, name, base, of=lambda one: one.cpu):
    ratios = [of(one) / of(other) for one, other in zip(rounds[name], rounds[base], strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def heading(scenario, rate):
    return scenario.title + (f": {rate:,} requests a second" if rate else "")


def rows(rounds):
    """By contender what COLUMNS say."""
    for name, part in rounds.items():
        median = lambda of: statistics.median(of(one) for one in part)  # noqa: B023, E731
        beside = ("", "")
        if "nginx" in rounds:
            found = ratio(rounds, name, "nginx")
            beside = f"{found.median:.2f}", f"{found.least:.2f} to {found.most:.2f}"
        times = (f"{median(lambda one: one.load.p50):.2f}", f"{median(lambda one: one.load.p99):.2f}")
        yield name, f"{median(lambda one: one.cpu):.1f}", *beside, f"{median(lambda one: one.load.rate):,.0f}", *times


def as_text(rounds):
    shape = "{:26}{:>10}{:>9}{:>15}{:>12}{:>9}{:>9}"
    return "\n".join(shape.format(*row) for row in (COLUMNS, *rows(rounds)))


def as_markdown(rows, columns):
    ruler = "|---|" + "---:|" * (len(columns) - 1)
    return "\n".join([f"| {' | '.join(columns)} |", ruler, *(f"| {' | '.join(row)} |" for row in rows)])


def write(results, facts, plan):
    """Beside the README of the benches."""
    commit = subprocess.run(["git", "-C", HERE, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    parts = [
        "# Results of `bench/run compare`",
        f"{datetime.date.today()}, commit {commit}. {machine()}. {versions()}. Postern is `{os.path.relpath(POSTERN, HERE.parent)}`.",
        f"Medians of {plan.rounds} rounds of {plan.seconds} s, {plan.main_seconds} s in the first scenario and at half load; one core for the proxy, "
        "one for load and upstream; access logs in files. `× nginx` is the median of the rounds' ratios of CPU time of a request, `rounds` "
        "the least and the most of them. What is measured how: [README.md](README.md#how-compare-measures).",
    ]
    if not plan.is_full:
        parts.append("**A smoke: it shows that everything runs, and its figures carry no weight.**")
    parts.append("![CPU time of a request over nginx's](results.svg)")
    parts += [f"## Postern by itself\n\n{as_markdown([(f.what, f.figure, f.promise) for f in facts], ('', 'found', 'promised'))}"]
    parts += [f"## {scenario.title}\n\n{as_markdown(rows(rounds), COLUMNS)}" for scenario, rounds in results.items()]
    (HERE / "results.svg").write_text(chart(results))
    (HERE / "RESULTS.md").write_text("\n\n".join(parts) + "\n")
    print(f"written: {HERE.name}/RESULTS.md, {HERE.name}/results.svg")


def machine():
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    kernel = ".".join(platform.release().split(".")[:2])
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), {gib:.0f} GiB, kernel {kernel}"


def versions():
    """Of all who take part, and who is left out."""
    lines, left_out = {}, []
    for contender in contenders.CONTENDERS:
        if contender.program:
            lines.setdefault(contender.program, f"{contender.name.split(' ')[0]} {contender.version_line()}")
        else:
            left_out.append(contender.name)
    return ", ".join(lines.values()) + (f"; left out, since not installed: {', '.join(left_out)}" if left_out else "")
