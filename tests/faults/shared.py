"""A Redis that replicas share through: killed, ended, standing still, and back with nothing, under load."""

import json
import signal
import subprocess
import urllib.request

from ends import Balancer
from lab import Lab, free_port, until
from upstreams import status


class Redis:
    """A redis-server on a socket in the lab's folder. Nothing is written to the disk: it comes back empty."""

    def __init__(self, lab):
        self.lab, self.socket, self.child = lab, lab.work / "redis.sock", None
        self.start()

    def start(self):
        command = ["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "", "--appendonly", "no"]
        log = (self.lab.work / "processes.log").open("ab")
        self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.lab.work)
        self.lab.callback(self.child.kill)
        until("Redis listens", self.socket.exists)

    def away(self, how):
        self.child.send_signal(how)
        if how != signal.SIGSTOP:
            self.child.wait(30)
            self.socket.unlink(missing_ok=True)

    def back(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
        else:
            self.start()


class Replica:
    """A gateway that shares through the Redis, and takes orders of operators."""

    def __init__(self, lab, name, redis):
        self.operators = free_port()
        more = (
            f'[redis]\nurl = "unix:{redis.socket}"\n[state]\npath = "{lab.work}/state-{name}"\n[operator]\nlisten = "127.0.0.1:{self.operators}"\n'
            'access = { issuer = "main", role = "offline_access", audience = "account" }'
        )
        self.lab, self.gateway = lab, lab.gateway(MORE=more)

    def block(self, subject):
        body = json.dumps({"issuer": "main", "subject": subject, "reason": "the suite"}).encode()
        fields = {"Authorization": f"Bearer {self.lab.token()}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.operators}/v1/user/block", body, fields)
        urllib.request.urlopen(request, timeout=30).close()

    def lets_in(self, token):
        return status(self.gateway, token) == 200

    def is_alone(self):
        return self.gateway.metric("postern_users_alone") == 1


WAYS = {"killed": signal.SIGKILL, "ended": signal.SIGTERM, "standing still": signal.SIGSTOP}


def redis(report, full):
    """the Redis of two replicas is killed, ended, or stands still, and comes back, empty but for the last; a user is blocked meanwhile"""
    with Lab() as lab:
        server = Redis(lab)
        one, other = replicas = [Replica(lab, name, server) for name in ("one", "other")]
        balancer = Balancer([replica.gateway for replica in replicas])
        told, times = {}, 10 if full else 1
        with lab.load(f"http://127.0.0.1:{balancer.port}") as load:
            for way, how in list(WAYS.items()) * times:
                load.go_on(1)
                token, subject = lab.outsider(f"outsider-{len(told)}")
                before = one.lets_in(token) and other.lets_in(token)
                server.away(how)
                until("both say that they are alone", lambda: one.is_alone() and other.is_alone())
                ready = one.gateway.is_ready() and other.gateway.is_ready()
                one.block(subject)
                alone = not one.lets_in(token) and other.lets_in(token)
                load.go_on(1)
                server.back()
                until("both share again", lambda: not one.is_alone() and not other.is_alone())
                until("the other knows who is blocked", lambda: not other.lets_in(token))  # noqa: B023
                told[f"{way} {len(told)}"] = before and ready and alone and not one.lets_in(token)
        report.row(f"Redis away {len(told)} times", load, why="each replica goes on with what it knows")
        wrong = [name for name, holds in told.items() if not holds]
        report.check(not wrong, f"a block holds at once where it is made, and at the other once Redis is back: {wrong or f'{len(told)} times'}")
