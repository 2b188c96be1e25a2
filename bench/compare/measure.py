"""One measurement: a proxy started, warmed, loaded and ended, and what of its core it took."""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import free_port
from load import Load, load, warm
from scenarios import MAIN


@dataclass(frozen=True)
class Round:
    cpu: float  # microseconds of a request, user and system
    load: Load


def measure(stage, configured, scenario, seconds, rate=None, prefix=None):
    """`configured` makes the proxy's command line of (stage, scenario, port)."""
    with running(stage, configured, scenario, prefix) as (port, pid):
        warm(stage, scenario, port)
        return of_load(pid, lambda: load(stage, scenario, port, seconds, rate))


@contextmanager
def running(stage, configured, scenario=MAIN, prefix=None):
    """A proxy on its core: its port and its process."""
    port = free_port()
    child = stage.bench.start(configured(stage, scenario, port), port, prefix or stage.proxy)
    try:
        yield port, child.pid
    finally:
        stage.bench.stop(child)
        for log in stage.bench.work.glob("*access.log"):
            log.unlink()


def of_load(pid, load):
    before = cpu_seconds(pid)
    came = load()
    took = cpu_seconds(pid) - before
    if not took or not came.requests:
        raise RuntimeError(f"{came.requests} requests in {took} s of CPU time are too few to divide")
    return Round(took / came.requests * 1e6, came)


def cpu_seconds(pid):
    """User and system time of a process and of its children."""
    ticks, todo = 0, [str(pid)]
    while todo:
        process = Path("/proc", todo.pop())
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        for thread in (process / "task").iterdir():
            todo += (thread / "children").read_text().split()
    return ticks / os.sysconf("SC_CLK_TCK")
