"""How long a disabled user gets through, measured against a real Keycloak under load, and what the watching costs.

Three runs, each with a gateway and users of its own: some are disabled at random moments, the others must not notice. Then
many tokens in use at once. Keycloak is reached through an nginx that writes down each call, so what is said about calls does
not rest on Postern's own word.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness import HERE, POSTERN, Bench, Score, free_port, steadily

sys.path.insert(0, str(HERE.parent / "tests" / "keycloak"))
import web  # noqa: E402
from keycloak import Keycloak  # noqa: E402

K6 = Path(sys.executable).with_name("k6")
RUNS = 3


@dataclass
class Plan:
    victims: int
    others: int
    bound: int  # seconds
    ceiling: int  # calls a second about users
    seconds: int
    rate: int  # requests a second of the others
    tokens: int  # in use at once, in the last part
    tokens_bound: int
    tokens_ceiling: int
    tokens_seconds: int


SMOKE = Plan(5, 20, 5, 100, 15, 40, tokens=500, tokens_bound=10, tokens_ceiling=120, tokens_seconds=25)
FULL = Plan(50, 200, 30, 100, 90, 200, tokens=5000, tokens_bound=30, tokens_ceiling=400, tokens_seconds=90)


def configuration(bench, port, admin, upstream, front, keycloak, bound, ceiling):
    return f"""version = 1

[server]
listen = "127.0.0.1:{port}"
workers = 1
drain_wait = "0s"

[admin]
listen = "127.0.0.1:{admin}"

[limits]
failed_authentications = "off" # all callers have one address here, and disabled users go on to ask

[state]
path = "{bench.work}/state-{port}"

[log]
access = {{ file = "{bench.work}/access-{port}.log" }}
audit = {{ file = "{bench.work}/audit-{port}.log" }}

[token_service]
issuer = "http://127.0.0.1:{port}"
signing_keys = {{ directory = "{bench.work}/signing-keys" }}

[issuer.main]
url = "{keycloak.url}"
address = "http://127.0.0.1:{front}"
audience = "gateway"

[issuer.main.user_status.keycloak]
client_id = "gateway"
client_secret = {{ file = "client.pw" }}
bound = "{bound}s"
max_calls_per_second = {ceiling}

[upstream.api]
to = "http://127.0.0.1:{upstream}"

[[route]]
name = "api"
path = "/api/**"
upstream = "api"
"""


class Gateway:
    """Postern before the real Keycloak, what it has counted, and what it has asked."""

    def __init__(self, bench, keycloak, bound, ceiling):
        self.port, self.admin = free_port(), free_port()
        self._keycloak = keycloak
        self._calls = bench.work / f"calls-{self.port}.log"
        upstream, front = bench.start_upstream(), free_port()
        http = (
            "log_format call '$msec $request_method $uri $status'; "
            f"upstream keycloak {{ server 127.0.0.1:{keycloak.port}; keepalive 64; keepalive_requests 1000000; }}"
        )
        server = (
            f"access_log {self._calls} call; location / {{ proxy_pass http://keycloak; proxy_http_version 1.1; "
            f"proxy_set_header Connection ''; proxy_set_header Host 127.0.0.1:{keycloak.port}; }}"
        )
        bench.start(bench.nginx_command(f"front-{self.port}", front, server, http=http), front)
        (bench.work / "client.pw").write_text("gateway-secret")
        file = bench.work / f"postern-{self.port}.toml"
        file.write_text(configuration(bench, self.port, self.admin, upstream, front, keycloak, bound, ceiling))
        bench.start([POSTERN, "run", "-c", str(file)], self.port)
        web.eventually("ready", lambda: self._get("/readyz").status == 200)

    def _get(self, path):
        return web.send("GET", f"http://127.0.0.1:{self.admin}{path}")

    def waited(self):
        """Requests that waited for an introspection."""
        text = self._get("/metrics").body.decode()
        found = re.findall(r'^postern_user_status_total\{[^}]*outcome="waited"[^}]*\} (\S+)$', text, re.MULTILINE)
        return sum(float(value) for value in found)

    def warm(self, tokens):
        """Each token is seen for the first time, which is the only time that a request may wait."""

        def see(token):
            url, headers = f"http://127.0.0.1:{self.port}/api/echo", {"authorization": f"Bearer {token}"}
            return web.eventually("let in", lambda: web.send("GET", url, headers=headers).status == 200, limit=60)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(see, tokens))

    def calls(self, begin, end):
        """How many calls about users there were between two moments, by the second, and how many introspections."""
        seconds, introspections = Counter(), 0
        for line in self._calls.read_text().splitlines():
            at, _, path, _ = line.split(" ")
            introspection = path.endswith("/token/introspect")
            if begin <= float(at) < end and (introspection or "/users" in path):
                seconds[int(float(at) - begin)] += 1
                introspections += introspection
        return sum(seconds.values()), max(seconds.values(), default=0), introspections


def java_of(keycloak):
    """The process that Keycloak is."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"java") and f"--http-port={keycloak.port}".encode() in words:
            return folder
    raise RuntimeError("Keycloak's process was not found")


def cpu(process):
    """Seconds of CPU that a process has used."""
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def new_users(keycloak, count):
    """Users that are signed in: [(user, token)]."""
    keycloak.admin("GET", "/users/count")  # so that the threads find a token for the administration

    def new(_):
        user = keycloak.new_user()
        return user, keycloak.login(user).access_token

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(new, range(count)))


def k6(bench, script, seconds, **environment):
    """Runs a script; its metrics, or None where it left none."""
    summary = bench.work / f"{script}-{time.monotonic_ns()}.json"
    environment |= {"SUMMARY": summary, "SECONDS": seconds, "ISSUER": ""}
    command = [K6, "run", "--quiet", "--no-usage-report", "--address", "127.0.0.1:0"]
    for key, value in environment.items():
        command += ["-e", f"{key}={value}"]
    subprocess.run(
        [*command, HERE / "k6" / f"{script}.js"],
        stdin=subprocess.DEVNULL,
        timeout=seconds + 120,
        env={"PATH": os.environ["PATH"], "HOME": str(bench.work)},
    )
    return json.loads(summary.read_text())["metrics"] if summary.exists() else None


def judge(name, metrics, score):
    """What had to hold in a script; one line each."""
    for metric, data in sorted(metrics.items()):
        for threshold, outcome in data.get("thresholds", {}).items():
            values = ", ".join(f"{key} {value:.6g}" for key, value in data["values"].items() if key in threshold)
            score.check(outcome["ok"], f"{name}: {metric} {threshold} ({values})")


@dataclass
class Measured:
    """What one run has shown."""

    metrics: dict
    waited: float
    introspections: float  # a second
    calls: float  # a second
    peak: int  # calls in one second
    keycloak: float  # cores
    p50: float = 0.0  # ms
    most: float = 0.0  # ms


def measure(gateway, keycloak, load, seconds, score, name):
    """Runs the load, and what went on beside it."""
    java = java_of(keycloak)
    waited, begin, used = gateway.waited(), time.time(), cpu(java)
    metrics = load()
    end, used = time.time(), cpu(java) - used
    if metrics is None:
        score.check(False, f"{name}: k6 left no summary")
        return None
    judge(name, metrics, score)
    calls, peak, introspections = gateway.calls(begin, end)
    took = end - begin
    return Measured(metrics, gateway.waited() - waited, introspections / took, calls / took, peak, used / took)


def delays(plan, keycloak, others, number, score):
    """One run: users are disabled among others."""
    name = f"run {number}"
    with Bench() as bench:
        gateway = Gateway(bench, keycloak, plan.bound, plan.ceiling)
        victims = new_users(keycloak, plan.victims)
        (bench.work / "victims.json").write_text(json.dumps([{"id": u.id, "token": t} for u, t in victims]))
        (bench.work / "tokens.txt").write_text("\n".join(token for _, token in others))
        gateway.warm([token for _, token in victims + others])
        administration = keycloak.client_credentials("test-driver", "test-driver-secret").access_token
        measured = measure(gateway, keycloak, lambda: k6(
            bench, "block-delay", plan.seconds, GATEWAY=f"http://127.0.0.1:{gateway.port}",
            TOKENS=bench.work / "tokens.txt", VICTIMS=bench.work / "victims.json", BOUND_MS=plan.bound * 1000,
            RATE=plan.rate, ADMIN=keycloak.admin_api, ADMIN_TOKEN=administration,
        ), plan.seconds, score, name)
    if measured:
        trend = measured.metrics["block_delay_ms"]["values"]
        measured.p50, measured.most = trend["med"], trend["max"]
        print(f"{name}: block delay p50 {measured.p50:.0f} ms, max {measured.most:.0f} ms; {costs(measured, plan.ceiling)}")
        score.check(measured.waited == 0, f"{name}: requests that waited for an introspection: {measured.waited:.0f}")
    return measured


def costs(measured, ceiling):
    return (
        f"{measured.introspections:.1f} introspections/s, {measured.calls:.1f} calls/s (most in one second "
        f"{measured.peak}, ceiling {ceiling}), Keycloak {measured.keycloak:.2f} cores"
    )


def in_use(plan, keycloak, score):
    """Many tokens in use at once: each of several sessions of some users."""
    users = new_users(keycloak, max(1, plan.tokens // 20))
    sessions = [user for user, _ in users for _ in range(20)][: plan.tokens]
    with ThreadPoolExecutor(4) as pool:
        tokens = list(pool.map(lambda user: keycloak.login(user).access_token, sessions))
    rate = 2 * plan.tokens // plan.tokens_bound  # so each token is used twice within the bound
    name = f"{len(tokens)} tokens"
    with Bench() as bench:
        gateway = Gateway(bench, keycloak, plan.tokens_bound, plan.tokens_ceiling)
        (bench.work / "tokens.txt").write_text("\n".join(tokens))
        gateway.warm(tokens)
        measured = measure(gateway, keycloak, lambda: k6(
            bench, "active", plan.tokens_seconds, GATEWAY=f"http://127.0.0.1:{gateway.port}",
            TOKENS=bench.work / "tokens.txt", BOUND_MS=plan.tokens_bound * 1000, RATE=rate,
        ), plan.tokens_seconds, score, name)
    if not measured:
        return
    took = measured.metrics["http_req_duration{to:gateway}"]["values"]
    print(
        f"{name} in use, bound {plan.tokens_bound} s: {costs(measured, plan.tokens_ceiling)}; "
        f"requests p50 {took['med']:.2f} ms, p99 {took['p(99)']:.2f} ms"
    )
    score.check(measured.waited == 0, f"{name}: requests that waited for an introspection: {measured.waited:.0f}")
    score.check(measured.introspections >= plan.tokens / plan.tokens_bound * 0.9, f"{name}: each is asked about in time")
    score.check(measured.calls <= plan.tokens_ceiling, f"{name}: calls stay under the ceiling")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="ten times as many, and the figures are held to the promise")
    options = parser.parse_args()
    plan = FULL if options.full else SMOKE
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # Keycloak must end too
    keycloak = Keycloak()
    with Score() as score:
        try:
            keycloak.start()
            others = new_users(keycloak, plan.others)
            runs = [
                steadily(score, f"run {number}", lambda trial, number=number: delays(plan, keycloak, others, number, trial))
                for number in range(1, RUNS + 1)
            ]
            if all(runs):
                p50, most = median(run.p50 for run in runs), median(run.most for run in runs)
                worst = max(run.most for run in runs)
                print(
                    f"\nmedians of {RUNS} runs, {plan.victims} of {plan.victims + plan.others} users disabled, bound "
                    f"{plan.bound} s: block delay p50 {p50:.0f} ms, max {most:.0f} ms (worst of all {worst:.0f} ms); "
                    f"{median(run.introspections for run in runs):.1f} introspections/s, "
                    f"Keycloak {median(run.keycloak for run in runs):.2f} cores"
                )
                if options.full:
                    score.check(p50 <= 1500, f"block delay p50 {p50:.0f} ms, promised 1500")
                    score.check(worst <= 2500, f"block delay max {worst:.0f} ms, promised 2500")
            steadily(score, "tokens in use", lambda trial: in_use(plan, keycloak, trial))
        finally:
            keycloak.remove()


if __name__ == "__main__":
    main()
