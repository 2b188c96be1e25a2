"""Tokens in the Secrets of many users: how soon, how often, and that nobody ever reads one with too little life left.

Against a real API server and a real Keycloak, with two replicas of the token service, in real time: the life of a token cannot be
configured, since it is what is promised. So what happens here is minutes, of which a steady part is counted out for an hour; hours, and
clocks that are not right, are played by the simulation of replicas, which is the last part: real code, on a clock that a test moves.
"""

import argparse
import itertools
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
from types import SimpleNamespace

from harness import HERE, Bench, Score

ROOT = HERE.parent
sys.path[1:1] = [str(ROOT / "tests" / suite) for suite in ("scenario", "kubernetes", "keycloak")]
import web  # noqa: E402
from cluster import BASE, WEBHOOK, Cluster  # noqa: E402
from front import Front  # noqa: E402
from keycloak import Keycloak, User  # noqa: E402
from parts import BOUND, Gateway, TokenService, within  # noqa: E402
from upstream import Upstream  # noqa: E402
from watching import LEAST, MOST, Reader, Watch, let_read, life_of, outside  # noqa: E402

LEASE = "/apis/coordination.k8s.io/v1/namespaces/postern/leases/postern-token-service"
SOON, LATE = within(1.0), within(2.5)  # seconds: promised of what an event of Keycloak's tells, by the half of all and by each
SEEN = within(0.5)  # seconds: of a sign-in that the gateway sees
WRITES = 6.0  # an hour and user
PERIOD = 660  # seconds between two writes of a user: as long must be counted to have met each user once
MEMORY = 200  # MiB
START_UP = within(60.0)  # seconds
PEAK = 20.0  # writes a second
RESERVE = 300.0  # seconds in which nothing may be written, and nobody notices


@dataclass
class Plan:
    users: int
    read: int  # users whose Secrets are read each second
    steady: int  # seconds in which nothing happens but refills
    events: int  # users who are blocked, and as many who sign in, one after another
    keycloak_away: int  # seconds
    ceiling: int  # calls a second to Keycloak


SMOKE = Plan(1_000, 50, 120, 10, 20, 200)
FULL = Plan(10_000, 100, 700, 50, 120, 600)


def realm(folder, users):
    """The realm of the tests with so many users more; the database is kept for each number of them."""
    fields = json.loads((ROOT / "tests/keycloak/realm-demo.json").read_text())
    fields["users"] += [
        {
            "username": f"floor-{number:05}", "enabled": True, "firstName": "One", "lastName": "Ofmany",
            "email": f"floor-{number:05}@example.test", "emailVerified": True, "realmRoles": ["default-roles-demo", "reader"],
            "credentials": [{"type": "password", "value": "pw", "temporary": False}],
        }
        for number in range(users)
    ]  # fmt: skip
    file = folder / "realm-floor.json"
    file.write_text(json.dumps(fields))
    return file


class Stage:
    """Everything, and what is asked of all of it."""

    def __init__(self, plan, bench):
        self.plan, self.bench = plan, bench
        self.keycloak = Keycloak(realm(bench.work, plan.users))
        bench.callback(self.keycloak.remove)
        self.keycloak.start()
        self.cluster = Cluster(bench.work / "c", "--port", str(web.free_port()))
        bench.callback(self.cluster.stop)
        (bench.work / "c").mkdir()
        self.cluster.start()
        self._apply()
        self.front = Front(int(self.cluster.server.rpartition(":")[2]))
        self.upstream = Upstream()
        self.watch = Watch(self.cluster)
        self.users = []
        self.services, self.gateway = [], None
        self._new_parts()

    def _apply(self):
        self.cluster.admin.kubectl("apply", "-k", BASE)
        for name in ("postern-gateway", "postern-token-service"):
            self.cluster.await_account("postern", name)
        probe = self.cluster.account("postern", "postern-token-service")
        refused = lambda: "postern-webhook" in probe.merge(WEBHOOK, {"webhooks": []}, "dryRun=All").message  # noqa: E731
        web.eventually("the policies are in force", refused)

    def _new_parts(self):
        # Postern's connections go by a front that can cut them; those of readers do not.
        seen = SimpleNamespace(server=f"https://127.0.0.1:{self.front.port}", authority=self.cluster.authority)

        def new(kind, name, account, **settings):
            folder = self.bench.work / name
            folder.mkdir()
            caller = self.cluster.account("postern", account, expirationSeconds=12 * 3600)
            part = kind(folder, self.upstream, self.keycloak, name=name, cluster=seen, account=caller, level="info",
                        when_unknown='{ allow_for = "5m" }', ceiling=self.plan.ceiling, **settings)  # fmt: skip
            self.bench.callback(lambda: part.is_running() and part.kill())
            return part

        self.gateway = new(Gateway, "postern-gateway-0", "postern-gateway")
        self.services = [
            new(TokenService, f"postern-token-service-{number}", "postern-token-service", issuer=self.gateway.url, webhook=False,
                offboard_after=24 * 3600)
            for number in (0, 1)
        ]  # fmt: skip

    def start(self, *parts):
        for part in parts:
            part.start(until_ready=False)
        for part in parts:
            web.eventually(f"{part.name} is ready", lambda part=part: part.readiness() == 200, limit=120)

    def leader(self):
        def found():
            answer = self.cluster.admin.get(LEASE)
            holder = answer.status == 200 and answer.json["spec"].get("holderIdentity") or ""
            return next((each for each in self.services if each.name in holder), None)

        return web.eventually("somebody leads", found, limit=60)

    def filled(self, users):
        """How many of them have a token that is whole."""
        return sum(1 for user in users if (token := self.watch.now(user.name)) and life_of(token) >= LEAST)

    def writes_counted(self):
        """By the API server, {(resource, verb, status): how many}: writes of everything but the Lease."""
        text = self.cluster.admin.get("/metrics").body.decode()
        counted = Counter()
        for labels, value in re.findall(r"^apiserver_request_total\{(.*)\} (\S+)$", text, re.MULTILINE):
            has = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if has["verb"] in ("APPLY", "PATCH", "PUT", "POST", "DELETE") and has["resource"] != "leases":
                counted[has["resource"], has["verb"], has["code"]] += int(float(value))
        return counted

    def memory(self, part):
        """MiB resident, now and at most."""
        text = Path(f"/proc/{part.pid}/status").read_text()
        return [int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) / 1024 for name in ("VmRSS", "VmHWM")]

    def broken(self):
        """How often the replicas have themselves seen less than the floor."""
        return sum(each.metric("postern_floor_violations_total") for each in self.services if each.is_running())


def first_fill(stage, score):
    """All users get namespaces, sign in for the first time, and get tokens."""
    plan, keycloak, watch = stage.plan, stage.keycloak, stage.watch
    begun = time.monotonic()
    stage.start(*stage.services, stage.gateway)
    pages = itertools.takewhile(bool, (
        keycloak.admin("GET", f"/users?briefRepresentation=true&search=floor-&first={first}&max=500").json
        for first in itertools.count(0, 500)
    ))  # fmt: skip
    stage.users = [User(each["id"], each["username"], "pw", "") for page in pages for each in page]
    assert len(stage.users) == plan.users, len(stage.users)
    limit = 60 + plan.users / 5

    def all_there():
        return sum(1 for user in stage.users if watch.now(user.name) == "") == plan.users

    web.eventually("all have a namespace with an empty Secret", all_there, limit)
    took = time.monotonic() - begun
    print(f"namespaces of {plan.users} users made, with all that is in them: {took:.0f} s, {plan.users / took:.0f}/s", flush=True)
    begun = time.monotonic()
    keycloak.admin("GET", "/users/count")  # so that the threads find a token for the administration
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keycloak.login, stage.users))
    signed_in = time.monotonic()
    web.eventually("all have a token", lambda: stage.filled(stage.users) == plan.users, limit)
    took = time.monotonic() - begun
    print(
        f"all signed in within {signed_in - begun:.0f} s, and had a token {time.monotonic() - signed_in:.1f} s after the last: "
        f"{plan.users / took:.0f} first fills/s"
    )
    score.check(stage.filled(stage.users) == plan.users, f"{plan.users} users have a token")


class Readers:
    """Those who read each second, some users each, to the end of the bench."""

    def __init__(self, stage, users):
        self.users = users
        self.blocked = {}  # by namespace: [(since, until)], by when it was promised
        self.away = []  # [(since, until)] in which the API server was not there, or did not know yet who may read
        place = stage.cluster.new_namespace("notebooks")
        self.caller = let_read(stage.cluster, [user.name for user in users], place)
        path = f"/api/v1/namespaces/{users[-1].name}/secrets/access-token"
        self.may_read = lambda: self.caller.get(path).status == 200
        web.eventually("the reader may read", self.may_read)
        self._readers = [
            Reader(stage.cluster, self.caller, [user.name for user in users[begin : begin + 10]])
            for begin in range(0, len(users), 10)
        ]

    def judge(self, score):
        reads = [read for reader in self._readers for read in reader.stop()]
        unanswered = sum(reader.unanswered for reader in self._readers)
        tokens = [read for read in reads if read.token]
        lives = sorted(read.left for read in tokens)
        print(
            f"{len(reads)} reads of {len(self.users)} users' Secrets ({unanswered} unanswered while the API server was away): "
            f"life left {lives[0] / 60:.1f} to {lives[-1] / 60:.1f} min, median {median(lives) / 60:.1f}"
        )
        broken = outside(reads)
        low = [read for read in broken if read.left < LEAST]
        score.check(not low, f"reads below the floor of {LEAST // 60} min: {len(low)} {low[:3] or ''}")
        high = [read for read in broken if read.left > MOST]
        score.check(not high, f"reads above the ceiling of {MOST // 60} min: {len(high)} {high[:3] or ''}")
        expired = [read for read in tokens if read.left <= 0]
        score.check(not expired, f"reads of an expired token: {len(expired)}")
        late = [read for read in tokens if self._is_out(read)]
        score.check(not late, f"reads of a blocked user's token after the bound: {len(late)} {late[:3] or ''}")
        empty = [read for read in reads if read.status == 200 and not read.token and not self._may_be_empty(read)]
        score.check(not empty, f"reads of nothing by users who are in: {len(empty)} {empty[:3] or ''}")
        wrong = [read for read in reads if read.status != 200 and not self._was_away(read)]
        score.check(not wrong, f"reads that were refused: {len(wrong)} {wrong[:3] or ''}")

    def _was_away(self, read):
        return any(since <= read.got and read.sent <= until for since, until in self.away)

    def _is_out(self, read):
        return any(since + within(BOUND) < read.sent and read.got < until for since, until in self.blocked.get(read.namespace, ()))

    def _may_be_empty(self, read):
        return any(since <= read.got and read.sent <= until + within(BOUND) for since, until in self.blocked.get(read.namespace, ()))


def delays(stage, users, readers, score):
    """Some are blocked and sign in again, one after another, while everything works."""
    blocks, signs, seen = [], [], []
    for number, user in enumerate(users):
        time.sleep(number * 0.37 % 1)  # Postern asks each second: at any moment between
        since = stage.keycloak.set_enabled(user, False)
        blocks.append(max(0.0, stage.watch.emptied(user.name, since).at - since))
        stage.keycloak.set_enabled(user, True)
        time.sleep(3)  # the moment of the lift is known to a second or two, and the start of a session in whole seconds
        before = time.monotonic()
        token = stage.keycloak.login(user)
        readers.blocked.setdefault(user.name, []).append((since, before))
        by_gateway = number % 2 == 1
        sent = time.monotonic()
        if by_gateway:
            stage.gateway.call("/orders/1", token)
        delay = max(0.0, stage.watch.filled(user.name, before).at - sent)
        (seen if by_gateway else signs).append(delay)
    for what, found, half, most in (("block to emptied", blocks, None, LATE), ("sign-in at Keycloak alone to filled", signs, SOON, LATE),
                                    ("sign-in seen by the gateway to filled", seen, None, SEEN)):  # fmt: skip
        print(f"{what}: {len(found)} x, p50 {median(found):.2f} s, max {max(found):.2f} s", flush=True)
        if half:
            score.check(median(found) <= half, f"{what}: p50 {median(found):.2f} s, promised {half:g}")
        score.check(max(found) <= most, f"{what}: max {max(found):.2f} s, promised {most:g}")


def steady(stage, score):
    """Nothing happens but refills."""
    plan = stage.plan

    def nothing_but_tokens():
        before = stage.writes_counted()
        time.sleep(5)
        return all(verb == "APPLY" for _, verb, _ in stage.writes_counted() - before)

    # What replicas told one another of the sign-ins before is put away for a minute after them: much of a short sample, little of a whole period.
    if plan.steady < PERIOD:
        web.eventually("nothing but tokens is written", nothing_but_tokens, limit=300)
    before, begun = stage.writes_counted(), time.monotonic()
    time.sleep(plan.steady)
    writes, ended = stage.writes_counted() - before, time.monotonic()
    took = ended - begun
    moments = [change.at for changes in stage.watch.all() for change in changes if begun <= change.at < ended]
    seconds = Counter(int(at - begun) for at in moments)
    tens = Counter(int((at - begun) / 10) for at in moments if at - begun < took // 10 * 10)
    peak, mean = max(tens.values(), default=0) / 10, len(moments) / took
    hourly = writes.total() / plan.users / took * 3600
    kinds = ", ".join(f"{count} {' '.join(kind)}" for kind, count in writes.most_common())
    print(f"in {took:.0f} s without events: {len(moments)} refills; by the API server's count {kinds}: {hourly:.2f} an hour and user, counted out")
    print(f"refills: {mean:.1f}/s on average, {peak:.1f}/s in the busiest ten seconds, {max(seconds.values(), default=0)} in one second")
    score.check(len(moments) > 0, "tokens are refilled")
    # A part of a period is a sample: three deviations of its count may be by chance.
    chance = 0.0 if took >= PERIOD else 3 * hourly / max(1, len(moments)) ** 0.5
    within_chance = f" and {chance:.2f} by chance" if chance else ""
    score.check(hourly <= WRITES + chance, f"writes an hour and user: {hourly:.2f}, promised {WRITES:g}{within_chance}")
    score.check(peak <= PEAK, f"refills a second, over ten: {peak:.1f}, promised {PEAK:g}")


def faults(stage, users, readers, score):
    """What breaks, one after another; users are blocked and sign in while it is broken. Each must hold for the readers too."""
    turn = iter(users)

    def block(what, limit=LATE):
        user = next(turn)
        since = stage.keycloak.set_enabled(user, False)
        emptied = stage.watch.emptied(user.name, since).at - since
        readers.blocked.setdefault(user.name, []).append((since, float("inf")))
        score.check(emptied <= limit, f"{what}: block to emptied {emptied:.2f} s, promised {limit:g}")

    def sign_in(what, limit):
        """Of a user who was not there before, from the moment of the fault."""
        user, since = stage.keycloak.new_user(), time.monotonic()
        stage.keycloak.login(user)
        filled = stage.watch.filled(user.name, since, limit=120).at
        score.check(filled - since <= limit, f"{what}: a new user had a token after {filled - since:.1f} s, at most {limit:g}")

    for _ in range(5):
        stage.front.cut()
        time.sleep(0.5)
    block("watches dropped, five times")
    sign_in("watches dropped", within(10))

    leader = stage.leader()
    leader.kill()
    block("leader killed")
    sign_in("leader killed", within(15 + 5))
    stage.start(leader)

    leader = stage.leader()
    leader.signal(signal.SIGSTOP)
    block("leader paused")
    sign_in("leader paused", within(15 + 5))
    leader.signal(signal.SIGCONT)

    begun = time.monotonic()
    stage.cluster.stop()
    time.sleep(10)
    stage.cluster.start()
    print(f"API server away for {time.monotonic() - begun:.0f} s", flush=True)
    web.eventually("readers may read again", readers.may_read)
    readers.away.append((begun, time.monotonic()))
    sign_in("API server back", within(30))
    block("API server back", within(BOUND))

    begun = time.monotonic()
    stage.keycloak.stop()
    time.sleep(stage.plan.keycloak_away)
    stage.keycloak.start()
    away = time.monotonic() - begun
    print(f"Keycloak away for {away:.0f} s, of a reserve of {RESERVE:.0f}", flush=True)
    sign_in("Keycloak back", within(30))
    block("Keycloak back", within(BOUND))


def restart(stage, users, score):
    """Both replicas are down, and Secrets are damaged: how long until all are right."""
    for part in stage.services:
        part.kill()
    damaged = users[:: max(1, len(users) // 100)]
    for number, user in enumerate(damaged):
        path = f"/api/v1/namespaces/{user.name}/secrets/access-token"
        answer = stage.cluster.admin.delete(path) if number % 2 else stage.cluster.admin.merge(path, {"data": None})
        assert answer.status == 200, answer
    broken = [user for user in damaged if not stage.watch.now(user.name)]
    begun = time.monotonic()
    for part in stage.services:
        part.start(until_ready=False)
    web.eventually("all Secrets are right", lambda: stage.filled(users) == len(users), 180)
    took = time.monotonic() - begun
    print(f"started again with {len(users)} users, the Secrets of {len(damaged)} damaged meanwhile ({len(broken)} seen so): all right after {took:.1f} s")
    score.check(took <= START_UP, f"start-up to all Secrets right: {took:.1f} s, promised {START_UP:g}")
    for part in stage.services:
        web.eventually(f"{part.name} is ready", lambda part=part: part.readiness() == 200, limit=60)


def simulated(score):
    """Two hours and a half of 1,000 users, on a clock that the test moves: one test of tests/run simulation."""
    name = "the_same_holds_for_many_users_for_hours"
    command = ["cargo", "test", "--profile", "suite", "--quiet", "--test", "simulation", "--", "--nocapture", name]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    played = next((line for line in done.stdout.splitlines() if " users for " in line), None)
    print(played or done.stdout)
    score.check(done.returncode == 0 and played, "hours, in simulation: floor, ceiling, one writer, and blocked means empty")


def play(plan, score):
    with Bench() as bench:
        stage = Stage(plan, bench)
        first_fill(stage, score)
        read = stage.users[: plan.read]
        readers = Readers(stage, read)
        # Half of those who are blocked are read, half are not; and some whom nobody reads come later.
        events = [user for pair in zip(read, reversed(stage.users), strict=False) for user in pair][: plan.events]
        delays(stage, events, readers, score)
        steady(stage, score)
        faults(stage, [user for user in read if user not in events][:10], readers, score)
        said = [line for part in stage.services for line in part.log().splitlines() if "less left than is promised" in line]
        score.check(stage.broken() == 0, f"violations of the floor that the replicas counted: {stage.broken():.0f} {said[:3] or ''}")
        out = set(readers.blocked) - {user.name for user in events}
        remaining = [user for user in stage.users if user.name not in out]
        for part in stage.services:
            now, most = stage.memory(part)
            print(f"{part.name}: {now:.0f} MiB resident, {most:.0f} at most")
            score.check(most <= MEMORY, f"memory of {part.name}: {most:.0f} MiB, promised {MEMORY}")
        lost = len(remaining) - stage.filled(remaining)
        score.check(lost == 0, f"users who were lost: {lost} of {len(remaining)}")
        held = sum(1 for name in out if stage.watch.now(name))
        score.check(held == 0, f"blocked users who have a token: {held} of {len(out)}")
        readers.judge(score)
        restart(stage, remaining, score)
        held = sum(1 for name in out if stage.watch.now(name))
        score.check(held == 0, f"blocked users who have a token after the restart: {held} of {len(out)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="10,000 users instead of 1,000, and ten minutes of refills")
    parser.add_argument("--real-time-only", action="store_true", help="without the simulation")
    options = parser.parse_args()
    if "APISERVER" not in os.environ:
        sys.exit("APISERVER is not set: run this by bench/run floor")
    print(__doc__, flush=True)
    with Score() as score:
        play(FULL if options.full else SMOKE, score)
        if not options.real_time_only:
            simulated(score)


if __name__ == "__main__":
    main()
