"""A long time at half load: no request fails, memory stays flat, and no descriptor is leaked.

First k6 finds out how much goes through; then it sends half of that, while the configuration is reloaded every few seconds and
other clients come and go without manners: half a head, a request whose answer is not waited for, a reset.
"""

import argparse
import json
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import time
import urllib.request
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

from harness import HERE, Bench, Score, descriptors, free_port, resident
from instructions import ask
from traffic import K6

TOKENS = 500
RELOAD_EVERY = 4  # seconds
# What the last quarter may hold more than the second: the allocator's own movements.
GROWTH, SLACK = 0.03, 1024 * 1024


class Gateway:
    """Postern on postern.toml.in, with its metrics."""

    def __init__(self, bench, upstream, issuer):
        self.port, self.admin, self.issuer = free_port(), free_port(), issuer
        command = bench.postern_command(self.port, upstream, issuer, "30s")
        self.config = Path(command[-1])
        self.text = self.config.read_text().replace('listen = "off"', f'listen = "127.0.0.1:{self.admin}"')
        self.config.write_text(self.text)
        self.child = bench.start(command, self.port)
        # It listens before all of its threads are there.
        limit = time.monotonic() + 30
        while not self.serves():
            if time.monotonic() > limit:
                raise RuntimeError("the gateway does not serve")
            time.sleep(0.05)

    def serves(self):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=30)
        except OSError:
            return False
        return ask(self.port)[0] == 401

    def reload(self, number):
        """The bound changes, so that the issuer and all that hangs on it is made anew."""
        new = self.config.with_suffix(".new")
        new.write_text(self.text.replace('bound = "30s"', f'bound = "{30 if number % 2 else 31}s"'))
        new.replace(self.config)
        self.child.send_signal(signal.SIGHUP)

    def metric(self, line):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics", timeout=30).read().decode()
        found = re.search(rf"^{re.escape(line)} (\S+)", text, re.M)
        return float(found[1]) if found else 0.0

    def memory(self):
        return resident(self.child.pid)

    def descriptors(self):
        """All but connections to the issuer, which come and go with the questions about users."""
        return descriptors(self.child.pid, {urlsplit(self.issuer).port})


class Rude(Thread):
    """Clients without manners, some thirty a second."""

    def __init__(self, gateway, token):
        super().__init__(daemon=True)
        self.gateway, self.token, self.ended, self.count = gateway, token, Event(), 0
        self.start()

    def run(self):
        head = f"GET /api/large HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer {self.token}\r\n\r\n".encode()
        upload = head.replace(b"GET", b"POST").replace(b"\r\n\r\n", b"\r\nContent-Length: 1000\r\n\r\n")
        says = [head[:40], head, upload, b"", b"\x16\x03\x01", head * 3]
        while not self.ended.wait(0.03):
            self.count += 1
            try:
                with socket.create_connection(("127.0.0.1", self.gateway.port), 10) as client:
                    if self.count % 2:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.sendall(says[self.count // 2 % len(says)])
                    if self.count % 3:
                        time.sleep(0.005)
            except OSError:
                pass


def k6(bench, gateway, seconds, **settings):
    """A k6 on soak.js, and where its figures will be."""
    summary = bench.work / f"summary-{time.monotonic_ns()}.json"
    environment = {
        "GATEWAY": f"http://127.0.0.1:{gateway.port}",
        "TOKENS": bench.work / "tokens.txt",
        "SUMMARY": summary,
        "SECONDS": seconds,
    } | settings
    command = [K6, "run", "--quiet", "--no-usage-report", "--address", "127.0.0.1:0", "--log-format", "raw"]
    for key, value in environment.items():
        command += ["-e", f"{key}={value}"]
    surroundings = {"PATH": os.environ["PATH"], "HOME": str(bench.work)}
    child = subprocess.Popen([*command, HERE / "k6" / "soak.js"], stdin=subprocess.DEVNULL, env=surroundings)
    bench.callback(bench.stop, child)
    return child, summary


def figures(child, summary):
    status = child.wait(300)
    if not summary.exists():
        raise RuntimeError(f"k6 ended with status {status} and no summary")
    return {name: data["values"] for name, data in json.loads(summary.read_text())["metrics"].items()}


def soak(bench, seconds, score):
    (bench.work / "large").write_bytes(b"l" * 256 * 1024)
    upstream = free_port()
    server = (
        "default_type application/json; "
        "location = /api/echo { return 200 '{\"authorization\":\"$http_authorization\"}'; } "
        f"location = /api/large {{ alias {bench.work}/large; }} location / {{ return 200 ok; }}"
    )
    nginx = bench.start(bench.nginx_command("upstream", upstream, server), upstream)
    gateway = Gateway(bench, upstream, bench.start_issuer(f"tokens:ES256:{TOKENS}:{TOKENS}"))
    before = gateway.descriptors()

    most = figures(*k6(bench, gateway, 6, MOST="yes"))["http_reqs{to:gateway}"]["rate"]
    rate = max(int(most / 2), 1)
    print(f"{most:.0f} requests a second go through; {rate} a second for {seconds} s, a reload every {RELOAD_EVERY} s", flush=True)

    child, summary = k6(bench, gateway, seconds, RATE=rate)
    rude = Rude(gateway, bench.tokens("tokens")[0])
    samples, began, reloads = [], time.monotonic(), 0
    while child.poll() is None:
        samples.append((time.monotonic() - began, gateway.memory(), gateway.descriptors()))
        if samples[-1][0] > (reloads + 1) * RELOAD_EVERY:
            reloads += 1
            gateway.reload(reloads)
        time.sleep(0.5)
    rude.ended.set()
    rude.join()
    judge(figures(child, summary), samples, score)
    taken = gateway.metric('postern_config_reloads_total{outcome="ok"}')
    score.check(taken >= reloads - 1 and reloads > 0, f"{taken:.0f} of {reloads} reloads were taken; {rude.count} rude clients came and went")

    # With the upstream its connections end, and k6's are gone: what is left then was leaked.
    bench.stop(nginx)
    limit = time.monotonic() + 90
    while gateway.descriptors() > before and time.monotonic() < limit:
        time.sleep(0.5)
    left = gateway.descriptors()
    score.check(left <= before, f"{before} descriptors before the load, {left} after it")


def judge(metrics, samples, score):
    requests, failed = metrics["http_reqs{to:gateway}"]["count"], metrics["http_req_failed{to:gateway}"]
    wrong, took = metrics["checks"]["fails"], metrics["http_req_duration{to:gateway}"]
    score.check(failed["passes"] == 0 and wrong == 0, f"{requests:.0f} requests, {failed['passes']} failed, {wrong} were not answered as they should be")
    print(f"       p50 {took['med']:.2f} ms, p99 {took['p(99)']:.2f} ms, max {took['max']:.0f} ms; {metrics.get('dropped_iterations', {}).get('count', 0):.0f} not sent for want of time")
    end = samples[-1][0]
    quarter = lambda number, what: [one[what] for one in samples if end * number / 4 <= one[0] <= end * (number + 1) / 4]  # noqa: E731
    # What it never falls below: a burst comes and goes, what is leaked stays.
    early, late = (min(quarter(number, 1)) for number in (1, 3))
    print("       MiB by quarter: " + ", ".join(f"{statistics.median(quarter(number, 1)) / 1048576:.1f}" for number in range(4)))
    print("       descriptors at most, by quarter: " + ", ".join(str(max(quarter(number, 2))) for number in range(4)))
    score.check(late <= early * (1 + GROWTH) + SLACK, f"memory is flat: {early / 1048576:.1f} MiB in the second quarter, {late / 1048576:.1f} MiB in the last")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="ten minutes instead of one")
    options = parser.parse_args()
    with Score() as score, Bench() as bench:
        soak(bench, 600 if options.full else 60, score)


if __name__ == "__main__":
    main()
