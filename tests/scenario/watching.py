"""What becomes of the Secrets: by a watch, so that each write is seen when it was made, and by readers, who see what they are given."""

import base64
import contextlib
import http.client
import json
import socket
import threading
import time
import urllib.parse
from collections import defaultdict
from dataclasses import dataclass

import web

ALL = "/api/v1/secrets?fieldSelector=metadata.name%3Daccess-token"
LEAST, MOST = 600, 1800  # seconds that a token lives when it is read


def claims_of(token):
    """The claims of a token, unverified."""
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


def life_of(token):
    """Seconds that a token lives on by this machine's clock; 0 for what is none."""
    try:
        return claims_of(token)["exp"] - time.time()
    except (ValueError, IndexError, KeyError):
        return 0.0


def token_in(secret):
    """What a Secret gives its readers: a token, or an empty text. None where the member is missing."""
    value = (secret.get("data") or {}).get("AUTH_TOKEN")
    return None if value is None else base64.b64decode(value).decode()


def connect(cluster, timeout):
    parts = urllib.parse.urlsplit(cluster.server)
    return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=cluster.trust)


@dataclass
class Change:
    """A state of a Secret, and when it was seen to begin."""

    at: float  # time.monotonic()
    token: str | None  # None: there is no such Secret
    secret: dict


class Watch:
    """Every change of every user's Secret, by the name of its namespace."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._changes = defaultdict(list)
        self._is_stopped = False
        self._connection = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def of(self, namespace):
        return list(self._changes[namespace])

    def all(self):
        return [list(changes) for changes in list(self._changes.values())]

    def now(self, namespace):
        """What the Secret of a namespace gives now; None while there is none."""
        changes = self._changes[namespace]
        return changes[-1].token if changes else None

    def writes(self):
        """How many there were, of all Secrets."""
        return sum(map(len, self.all()))

    def until(self, namespace, is_so, since, what, limit=30.0):
        """Waits for the Secret to be so, and gives the first such change after `since`."""

        def found():
            return next((each for each in self.of(namespace) if each.at >= since and is_so(each.token)), None)

        return web.eventually(f"{what}: {namespace}", found, limit)

    def filled(self, namespace, since=0.0, limit=30.0):
        return self.until(namespace, bool, since, "the Secret is filled", limit)

    def emptied(self, namespace, since=0.0, limit=30.0):
        return self.until(namespace, lambda token: token == "", since, "the Secret is emptied", limit)

    def stop(self):
        self._is_stopped = True
        if self._connection and self._connection.sock:
            # Not `close`, which would wait for whoever reads.
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def _run(self):
        version = None
        while not self._is_stopped:
            try:
                version = self._list() if version is None else self._watch(version)
            except (OSError, http.client.HTTPException, ValueError, AttributeError):  # also of a connection closed meanwhile
                version = None
                time.sleep(0.2)

    def _ask(self, path):
        self._connection = connect(self._cluster, 3600)
        self._connection.request("GET", path, headers={"authorization": f"Bearer {self._cluster.admin.token}"})
        return self._connection.getresponse()

    def _list(self):
        listed = json.loads(self._ask(ALL).read())
        there = {}
        for secret in listed["items"]:
            there[secret["metadata"]["namespace"]] = secret
        for namespace, changes in list(self._changes.items()):
            if namespace not in there and changes[-1].token is not None:
                self._note(namespace, None, {})
        for namespace, secret in there.items():
            changes = self._changes[namespace]
            version = secret["metadata"]["resourceVersion"]
            if not changes or changes[-1].secret.get("metadata", {}).get("resourceVersion") != version:
                self._note(namespace, token_in(secret), secret)
        return listed["metadata"]["resourceVersion"]

    def _watch(self, version):
        response = self._ask(f"{ALL}&watch=1&resourceVersion={version}")
        for line in response:
            event = json.loads(line)
            if event["type"] == "ERROR":
                return None
            secret = event["object"]
            version = secret["metadata"]["resourceVersion"]
            is_gone = event["type"] == "DELETED"
            self._note(secret["metadata"]["namespace"], None if is_gone else token_in(secret), secret)
        return version

    def _note(self, namespace, token, secret):
        self._changes[namespace].append(Change(time.monotonic(), token, secret))


@dataclass
class Read:
    """One read of a Secret."""

    namespace: str
    sent: float  # time.monotonic()
    got: float
    status: int
    token: str | None
    left: float | None  # seconds that the token lived on when the answer was there

    def __repr__(self):
        return f"{self.namespace} at {self.sent:.2f}: {self.status}, {self.left} s left"


class Reader:
    """Reads Secrets, each once in `every` seconds, with the token of a ServiceAccount that may do nothing else."""

    def __init__(self, cluster, caller, namespaces, every=1.0):
        self.reads, self.unanswered = [], 0
        self._cluster, self._caller = cluster, caller
        self._namespaces, self._every = list(namespaces), every
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self):
        self._is_stopped.set()
        self._thread.join(30)
        return self.reads

    def _run(self):
        connection, turn = None, time.monotonic()
        while not self._is_stopped.is_set():
            for namespace in self._namespaces:
                if self._is_stopped.is_set():
                    break
                try:
                    connection = connection or connect(self._cluster, 5)
                    self.reads.append(self._read(connection, namespace))
                except (OSError, http.client.HTTPException):
                    self.unanswered += 1
                    connection = None
                    self._is_stopped.wait(0.05)
            turn = max(turn + self._every, time.monotonic() - self._every)
            self._is_stopped.wait(max(0.0, turn - time.monotonic()))

    def _read(self, connection, namespace):
        path = f"/api/v1/namespaces/{namespace}/secrets/access-token"
        sent = time.monotonic()
        connection.request("GET", path, headers={"authorization": f"Bearer {self._caller.token}"})
        response = connection.getresponse()
        body = response.read()
        got = time.monotonic()
        token = token_in(json.loads(body)) if response.status == 200 else None
        return Read(namespace, sent, got, response.status, token, life_of(token) if token else None)


def outside(reads):
    """Those that got a token with less life than is promised, or more."""
    return [read for read in reads if read.left is not None and not LEAST <= read.left <= MOST]


def let_read(cluster, namespaces, place, name="reader"):
    """A caller that may read the Secrets of these namespaces, and nothing else, as docs/kubernetes.md says it is given."""
    made = cluster.admin.create(f"/api/v1/namespaces/{place}/serviceaccounts", {"metadata": {"name": name}})
    assert made.status in (201, 409), made
    caller = cluster.account(place, name, expirationSeconds=12 * 3600)
    for namespace in namespaces:
        allow(cluster, namespace, place, name)
    return caller


def allow(cluster, namespace, place, name="reader"):
    bound = cluster.admin.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", {
        "metadata": {"name": f"{place}-{name}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "postern-token-reader"},
        "subjects": [{"kind": "ServiceAccount", "namespace": place, "name": name}],
    })  # fmt: skip
    assert bound.status in (201, 409), bound
