"""What upstreams do: one of three is killed, slow, answers with garbage, closes, refuses; then all of them are gone."""

import time
import urllib.error
import urllib.request

from lab import OUT, RETRY, Lab, until

PHASES = ("well", "dying", "dead", "back")
AGAIN = "a GET is sent again, to another"


def rounds(full):
    return 10 if full else 1


def one_fails(lab, load, full, modes, seconds=0.0):
    """The first backend is in each of the modes for a while, and well between them; gives what it counted since."""
    bad = lab.backends[0]
    before = bad.counts()
    for mode in modes * rounds(full):
        asked = bad.counts()["requests"]
        until("the bad one is asked", lambda: bad.counts()["requests"] > asked)  # noqa: B023
        bad.become(mode, seconds)
        load.go_on(2.2)
        bad.become("good")
        load.go_on(1.2)
    after = bad.counts()
    return after - before


def writes(spoiled):
    """As many of the kinds that are no GET as the backend spoiled: took, or began to take."""
    return {"post upload": spoiled["spoiled_POST"]}


def booked(report, lab, gateway):
    """What holds and is said after every fault of one backend."""
    report.check(lab.effects_twice() == 0, "no request that is no GET was sent twice")
    retries = {outcome: int(gateway.metric("postern_upstream_retries_total", outcome=outcome)) for outcome in ("sent", "denied")}
    ejections = int(gateway.metric("postern_upstream_ejections_total"))
    report.say(f"{retries['sent']} requests sent again, {retries['denied']} not because of the budget, {ejections} ejections")


def killed(report, full):
    """one of three is killed by SIGKILL, stays away for a moment, and comes back"""
    with Lab() as lab:
        gateway = lab.gateway()
        bad, kills = lab.backends[0], 3 * rounds(full)
        with lab.load(gateway.url) as load:
            for _ in range(kills):
                load.go_on(0.5)
                bad.kill()
                load.go_on(0.7)
                bad.start()
                load.go_on(1.5)
        # A caller has one request under way, so that each kill meets one of each caller at most.
        allowed = {kind: kills * load.mix[kind] for kind in ("post", "upload", "download")}
        why = "what a caller had under way there: a POST it may have seen is not sent twice, and half of a download was passed on"
        report.row(f"an upstream killed {kills} times", load, allowed, f"{AGAIN}; for each kill {why}")
        booked(report, lab, gateway)


def slow(report, full):
    """one of three takes half a second longer than a try may, then says nothing at all"""
    with Lab() as lab:
        gateway = lab.gateway()
        with lab.load(gateway.url) as load:
            one_fails(lab, load, full, ["slow"], 2.5)
        report.row("an upstream slow", load, why=f"{AGAIN}, and a POST is waited for")
        booked(report, lab, gateway)
    with Lab() as lab:
        gateway = lab.gateway(UPSTREAM=f'{RETRY}\n{OUT}\nresponse_timeout = "6s"')
        with lab.load(gateway.url) as load:
            spoiled = one_fails(lab, load, full, ["mute"])
            load.go_on(4)  # until `response_timeout` of what it took last
        why = f"{AGAIN}; a POST that it took may not be, and is never answered: as many as it took"
        report.row("an upstream mute", load, writes(spoiled), why)
        booked(report, lab, gateway)


def garbage(report, full):
    """one of three answers with what is no HTTP, or with a head that can be read in two ways"""
    with Lab() as lab:
        spoils(report, lab, full, "an upstream's garbage", ["garbage", "two-lengths"])


def half_closed(report, full):
    """one of three ends its side of connections: when they are made, before an answer, within its head; or resets them"""
    with Lab() as lab:
        modes = ["half-closed-at-once", "half-closed", "half-head", "reset"]
        closes_all(report, lab, spoils(report, lab, full, "an upstream half-closed", modes))


def spoils(report, lab, full, what, modes):
    """One of three spoils what it takes, in each of the modes; gives the gateway in front."""
    gateway = lab.gateway()
    with lab.load(gateway.url) as load:
        spoiled = one_fails(lab, load, full, modes)
    why = f"{AGAIN}; a POST that it took may not be: as many as it took"
    report.row(what, load, writes(spoiled), why)
    booked(report, lab, gateway)
    return gateway


def closes_all(report, lab, gateway):
    """Postern keeps no connection whose other side has ended."""
    bad = lab.backends[0]
    bad.become("half-closed")
    until("Postern has let go of half-closed connections", lambda: bad.counts()["peers"] == 0, 90)
    report.check(True, "Postern keeps no half-closed connection")


def cut(report, full):
    """one of three ends in the middle of bodies"""
    with Lab() as lab:
        gateway = lab.gateway(UPSTREAM=RETRY + '\noutlier_detection = "off"')
        with lab.load(gateway.url, mix={"get": 6, "download": 4}) as load:
            spoiled = one_fails(lab, load, full, ["cut", "cut-chunked"])
        cuts, failed = spoiled["spoiled_GET"], sum(load.lost().values())
        why = f"its head and half of it were passed on: the {cuts} that it cut"
        report.row("an upstream's bodies cut", load, {"get download": cuts}, why)
        report.check(failed == cuts, f"whoever was sent half a body knows it: {cuts} cut, {failed} failed")


def refusing(report, full):
    """one of three takes no more connections, and ends those it has after their next answer"""
    with Lab() as lab:
        gateway = lab.gateway()
        with lab.load(gateway.url) as load:
            one_fails(lab, load, full, ["refuse"])
        report.row("an upstream refusing", load, why="no connection was made, so whatever it is goes to another")
        booked(report, lab, gateway)


def all_dead(report, full):
    """no endpoint takes connections nor refuses them; each request must be answered with 503 at once"""
    check = 'health_check = { path = "/healthz", interval = "500ms", timeout = "400ms" }'
    with Lab() as lab:
        gateway = lab.gateway(UPSTREAM=f"{RETRY}\n{OUT}\n{check}")
        dead = lambda: gateway.metric("postern_upstream_endpoints", state="unhealthy") == 3  # noqa: E731
        with lab.load(gateway.url, mix={"get": 4, "post": 4}, phases=PHASES) as load:
            load.go_on(1)
            for _ in range(3 if full else 1):
                load.tell("dying")
                for backend in lab.backends:
                    backend.become("hole")
                until("all endpoints are known to be dead", dead)
                load.tell("dead")
                tries, asked = gateway.metric("postern_upstream_connect_failures_total"), time.monotonic()
                statuses = [status(gateway, lab.token()) for _ in range(200)]
                took = time.monotonic() - asked
                load.go_on(2)
                tried = gateway.metric("postern_upstream_connect_failures_total") - tries
                load.tell("dying")
                for backend in lab.backends:
                    backend.become("good")
                until("the endpoints are back", lambda: gateway.metric("postern_upstream_endpoints", state="healthy") == 3)
                load.tell("back")
                load.go_on(1.5)
        lines = [line.split(" ") for line in load.failures]
        phase_of = {phase: [line for line in lines if phase in line[2:-1]] for phase in PHASES}
        refused = [line for line in phase_of["dead"] if line[1] == "503" and line[2] == "upstream_unavailable"]
        count, usual = int(load.took["dead"]["count"]), load.took["dead"]["med"]
        report.row("all upstreams dead", load, dict(load.sent), "there is nobody to answer; what counts is how soon that is said")
        report.check(len(refused) == count > 0, f"while all were dead {count} requests were sent, and {len(refused)} answered with 503 `upstream_unavailable`")
        report.check(set(statuses) == {503} and tried == 0, f"200 more met {set(statuses)}; {tried:.0f} connections were tried for them")
        report.check(usual < 200, f"a 503 takes {usual:.1f} ms (p99 {load.took['dead']['p(99)']:.1f} ms); `connect_timeout` is 2 s")
        report.check(not phase_of["back"] and not phase_of["well"], "before and after them no request failed")
        report.say(f"200 in a row took {took * 1000:.0f} ms; between the fault and its being known {len(phase_of['dying'])} requests failed")


def status(gateway, token):
    request = urllib.request.Request(f"{gateway.url}/api/echo/alone", headers={"Authorization": f"Bearer {token}"})
    try:
        return urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code
