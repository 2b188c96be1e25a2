"""A real Kubernetes API server, and those who call it: each with a token, by kubectl or by plain requests."""

import base64
import http.client
import json
import os
import ssl
import subprocess
import time
import urllib.parse
import uuid
from pathlib import Path

import web

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "deploy/kubernetes"
NO_ISSUER = '{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": []}'
ISSUER_OF_ACCOUNTS = "https://kubernetes.default.svc.cluster.local"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"

RBAC = "/apis/rbac.authorization.k8s.io/v1"
WEBHOOK = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/postern"

# The mark of a user's namespace: a label that can be selected, and annotations that say whose it is.
LABEL, ISSUER, SUBJECT = "postern.dev/user", "postern.dev/issuer", "postern.dev/subject"

# What lies in one: a token, as readers find it, and what the tokens of a user's kubectl are bound to.
TOKEN = "the-token-of-alice"
BOUND = {"apiVersion": "v1", "kind": "Secret", "name": "postern-session"}


class Answer(web.Answer):
    """What the API server answered."""

    @property
    def message(self):
        """Why it refused."""
        return self.json.get("message", "")


class Cluster:
    """The API server of tests/apiserver, started for this run; where APISERVER is not set, the cluster of KUBECONFIG."""

    def __init__(self, folder, *flags):
        self.folder = folder
        self.admin = None
        self._flags = flags  # of the API server
        self._authentication = folder / "authentication.yaml"
        self.kubelet_port = None  # of a node that runs nothing, where the API server is our own
        self._process = None
        self._namespaces = []

    def start(self):
        if "APISERVER" in os.environ:
            self._start_own()
        else:
            self._take_given()
        return self

    def _start_own(self):
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        with open(self.folder / "log", "wb") as log:
            # Its standard input ends when this process does, however that ends.
            # As in most clusters, the issuer's name is not where it is reached. Nobody else's tokens are taken yet.
            self.set_authentication(NO_ISSUER)
            command = [os.environ["APISERVER"], "--dir", self.folder, "--exit-with-stdin", "--issuer", ISSUER_OF_ACCOUNTS,
                       *self._flags, *([] if "--" in self._flags else ["--"]), f"--authentication-config={self._authentication}"]  # fmt: skip
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)

        def is_ready():
            status = self._process.poll()
            assert status is None, f"the API server ended: {status}\n{(self.folder / 'log').read_text()[-3000:]}"
            return ready.exists()

        web.eventually("the API server is ready", is_ready, limit=120)
        facts = json.loads(ready.read_text())
        self._connect(facts["server"], Path(facts["ca"]).read_text())
        self.kubelet_port = facts["kubelet_port"]
        self.admin = Caller(self, "admin", facts["admin_token"])

    def set_authentication(self, text):
        """Whose tokens the API server takes beside its own: a file that it reads again when it changes."""
        new = self._authentication.with_suffix(".new")
        new.write_text(text)
        new.rename(self._authentication)

    @property
    def is_own(self):
        """Whether it was started here, so that its flags can be chosen."""
        return self._process is not None

    def _take_given(self):
        def kubectl(*arguments):
            return subprocess.run(["kubectl", *arguments], check=True, capture_output=True, text=True).stdout

        view = json.loads(kubectl("config", "view", "--minify", "--raw", "--flatten", "-o", "json"))
        given = view["clusters"][0]["cluster"]
        self._connect(given["server"], base64.b64decode(given["certificate-authority-data"]).decode())
        name = f"suite-{uuid.uuid4().hex[:8]}"
        kubectl("-n", "postern-disposable", "create", "serviceaccount", name)
        kubectl("create", "clusterrolebinding", name, "--clusterrole=cluster-admin",
                f"--serviceaccount=postern-disposable:{name}")  # fmt: skip
        token = kubectl("-n", "postern-disposable", "create", "token", name, "--duration=4h").strip()
        self.admin = Caller(self, name, token)

    def _connect(self, server, authority):
        self.server, self.authority = server, authority
        self.trust = ssl.create_default_context(cadata=authority)

    def stop(self):
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        elif self.admin:  # In somebody else's cluster the base is left, and an account without rights.
            self.admin.kubectl("delete", "namespace", "--wait=false", "--ignore-not-found", "none", *self._namespaces)
            self.admin.kubectl("delete", "clusterrolebinding", self.admin.name)

    def account(self, namespace, name, **spec):
        """A caller with a token of a ServiceAccount, made by the administrator. `spec` is that of the TokenRequest."""
        return Caller(self, name, token_of(self.admin, namespace, name, **spec))

    def new_name(self, prefix):
        """A name for a namespace that nobody had before. Deleting one takes five seconds, so none is used again."""
        name = f"{prefix}-{uuid.uuid4().hex[:8]}"
        self._namespaces.append(name)
        return name

    def new_namespace(self, prefix="other", mark=None):
        """A namespace that the administrator makes. It is complete: pods can be made in it."""
        name = self.new_name(prefix)
        answer = self.admin.create("/api/v1/namespaces", namespace(name, mark))
        assert answer.status == 201, answer
        self.await_account(name, "default")
        return name

    def await_account(self, namespace, name):
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}"
        web.eventually(f"{namespace} has the ServiceAccount {name}", lambda: self.admin.get(path).status == 200)


class Caller:
    """Somebody with a token."""

    def __init__(self, cluster, name, token):
        self.name, self.token = name, token
        self._cluster = cluster
        self._kubeconfig = cluster.folder / f"{name}-{uuid.uuid4().hex[:8]}.kubeconfig"

    def __repr__(self):
        return self.name

    def environment(self, **more):
        """Of a kubectl that is this caller, with nothing of this machine's own settings."""
        if not self._kubeconfig.exists():
            self._write_kubeconfig()
        return {**os.environ, "KUBECONFIG": str(self._kubeconfig), "HOME": str(self._cluster.folder), **more}

    def kubectl(self, *arguments, check=True, stdin=None, **environment):
        """Runs kubectl as this caller."""
        done = subprocess.run(
            ["kubectl", *map(str, arguments)], env=self.environment(**environment), input=stdin, capture_output=True, text=True,
            timeout=300,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"kubectl {arguments}: {done.stderr}"
        return done

    def _write_kubeconfig(self):
        self._kubeconfig.touch(0o600)
        self._kubeconfig.write_text(self.kubeconfig_text())

    def kubeconfig_text(self):
        """How a client connects as this caller."""
        authority = base64.b64encode(self._cluster.authority.encode()).decode()
        cluster = {"server": self._cluster.server, "certificate-authority-data": authority}
        text = {  # JSON is YAML.
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }  # fmt: skip
        return json.dumps(text)

    def call(self, method, path, body=None, content_type="application/json", headers=None):
        """One request on a connection of its own, over HTTP/1.1: over HTTP/2 the body of a 401 may be cut short."""
        parts = urllib.parse.urlsplit(self._cluster.server)
        headers = {"authorization": f"Bearer {self.token}", **(headers or {})}
        if body is not None:
            headers["content-type"] = content_type
            body = json.dumps(body)
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=30, context=self._cluster.trust)
        try:
            sent_at = time.monotonic()
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read(), sent_at)
        finally:
            connection.close()

    def get(self, path):
        return self.call("GET", path)

    def create(self, path, body):
        return self.call("POST", path, body)

    def delete(self, path):
        return self.call("DELETE", path)

    def apply(self, path, body, query=""):
        """Server-side apply, unforced: the one way of making an object that RBAC can hold to a name."""
        return self.call("PATCH", f"{path}?fieldManager=suite{query}", body, APPLY)

    def merge(self, path, body, query=""):
        return self.call("PATCH", f"{path}?{query}", body, MERGE)


def token_of(caller, namespace, name, **spec):
    """A token of a ServiceAccount, made by somebody who may."""
    answer = request_token(caller, namespace, name, **spec)
    assert answer.status == 201, answer
    return answer.json["status"]["token"]


def request_token(caller, namespace, name, **spec):
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600, **spec}}
    return caller.create(f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token", body)


def namespace(name, mark=None, **labels):
    """A Namespace; `mark` is the subject whose it is, with pods held to `baseline`, as Postern makes it."""
    metadata = {"name": name, "labels": {**labels}, "annotations": {}}
    if mark:
        metadata["labels"] |= {LABEL: f"u{mark}", "pod-security.kubernetes.io/enforce": "baseline"}
        metadata["annotations"] |= {ISSUER: "main", SUBJECT: mark}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def secret(name, kind="Opaque", annotations=None, **data):
    """A Secret; the values of `data` are texts."""
    return {
        "apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": {"name": name, "annotations": annotations or {}},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }  # fmt: skip


def pod(name="pod", account="default", **spec):
    container = {"name": "main", "image": "busybox"}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"serviceAccountName": account, "containers": [container], **spec},
    }  # fmt: skip


def service_account(name):
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}, "automountServiceAccountToken": False}


def role_binding(name, role, subjects):
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "namespace": place, "name": account} for place, account in subjects],
    }  # fmt: skip


def refused(answer, *words):
    """The API server knows who asks, and says no; by a policy where `words` of its message are given."""
    assert answer.status in (403, 422) if words else answer.status == 403, answer
    assert answer.json["reason"] in ("Forbidden", "Invalid"), answer
    for word in words:
        assert word in answer.message, answer.message
    if not words:
        assert "ValidatingAdmissionPolicy" not in answer.message, "RBAC should refuse, not only a policy"
    return answer
