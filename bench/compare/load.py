"""Load on a proxy: wrk in a closed loop, h2load for HTTP/2, and an open loop of our own. All of it on the core that is not the proxy's."""

import json
import os
import re
import ssl
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

from drive import drive

SCRIPT = Path(__file__).with_name("wrk.lua")
H2_CONNECTIONS, H2_STREAMS = 8, 8  # 64 requests on their way, as elsewhere


@dataclass(frozen=True)
class Load:
    """What a load came to; times in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    failed: int

    @property
    def rate(self):
        return self.requests / self.seconds


def warm(stage, scenario, port):
    """Each token once, so that what is measured is not the first sight of any."""
    if scenario.http2:
        run(stage, h2load(stage, scenario, port) + ["-n1000"])
    elif not scenario.is_fresh:
        tls = ssl.create_default_context(cafile=stage.ca) if scenario.tls else None
        tokens = stage.tokens(scenario.pool)
        for _ in drive(port, "/api/hello", tokens, [len(tokens)], tls=tls):
            pass


def load(stage, scenario, port, seconds, rate):
    if scenario.is_open:
        return open_loop(stage, port, stage.pool(scenario.pool), rate, seconds, scenario.connections)
    if scenario.http2:
        return of_h2load(stage, scenario, port, seconds)
    scheme, manner = "https" if scenario.tls else "http", "close" if scenario.closes else "keep"
    method = "POST" if scenario.upload else "GET"
    said = run(
        stage,
        ["wrk", "-t1", f"-c{scenario.connections}", f"-d{seconds}s", "--timeout", "20s", "-s", SCRIPT]
        + [f"{scheme}://127.0.0.1:{port}{scenario.path}", "--", stage.pool(scenario.pool), method, str(scenario.upload), manner],
    )  # fmt: skip
    requests, took, p50, p99, failed = re.search(r"^FIGURES (\S+) (\S+) (\S+) (\S+) (\S+)$", said, re.M).groups()
    return Load(int(requests), float(took), float(p50), float(p99), int(failed))


def h2load(stage, scenario, port):
    """h2load sends the same header fields in every request, so there is one token."""
    header, url = f"authorization: Bearer {stage.tokens(scenario.pool)[0]}", f"http://127.0.0.1:{port}{scenario.path}"
    return ["h2load", f"-c{H2_CONNECTIONS}", f"-m{H2_STREAMS}", "-H", header, url]


def of_h2load(stage, scenario, port, seconds):
    """Its own summary has no percentiles; its log has the status and the microseconds of each request."""
    log = stage.bench.work / "h2load.log"
    log.unlink(missing_ok=True)
    run(stage, h2load(stage, scenario, port) + [f"-D{seconds}", f"--log-file={log}"])
    rows = [line.split() for line in log.read_text().splitlines()]
    took = statistics.quantiles((int(row[2]) / 1000 for row in rows), n=100)
    return Load(len(rows), seconds, took[49], took[98], sum(row[1] != "200" for row in rows))


def open_loop(stage, port, pool, rate, seconds, connections=64, expected=("200",)):
    """Requests at a fixed rate, whatever becomes of those before them."""
    return of_open_loop(start_open_loop(stage, port, pool, rate, seconds, connections), expected)


def start_open_loop(stage, port, pool, rate, seconds, connections=64):
    command = [os.environ["OPEN_LOOP"], port, "/api/hello", pool, connections, rate, seconds]
    child = subprocess.Popen([*stage.beside, *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    stage.bench.callback(stage.bench.stop, child)
    return child


def of_open_loop(child, expected=("200",)):
    said = json.loads(child.communicate(timeout=300)[0])
    unexpected = sum(count for status, count in said["statuses"].items() if status not in expected)
    return Load(said["requests"], said["seconds"], said["p50"], said["p99"], said["broken"] + unexpected)


def run(stage, command):
    return subprocess.run(
        [*stage.beside, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True, timeout=300
    ).stdout
