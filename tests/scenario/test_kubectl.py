"""kubectl with a Keycloak token, through the gateway: works in the user's own namespace, nowhere else, and not after a block."""

import base64
import json
import os
import subprocess
import time

import figures
import pytest
import web
from cluster import BOUND as SESSION
from cluster import Caller, token_of
from parts import EVENT

DEAD = 15.0  # seconds after a block: no credential that was made through Postern works


class Kubectl:
    """A user's own, with a kubeconfig that names the gateway and holds a token of Keycloak's."""

    def __init__(self, folder, secure, token, home):
        self.token = token
        self._file = folder / "kubeconfig"
        authority = (secure.folder / "server.pem").read_bytes()
        self._file.touch(0o600)
        self._file.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {
                "server": secure.url, "certificate-authority-data": base64.b64encode(authority).decode(),
            }}],
            "users": [{"name": "it", "user": {"token": str(token)}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": home}}],
        }))  # fmt: skip

    def run(self, *arguments, stdin=None):
        return subprocess.run(["kubectl", *arguments], **self._settings(), input=stdin, capture_output=True, timeout=60)

    def __call__(self, *arguments, stdin=None):
        """What it prints; it must succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {arguments}: {done.stderr}"
        return done.stdout

    def begin(self, *arguments):
        return subprocess.Popen(
            ["kubectl", *arguments], **self._settings(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def _settings(self):
        environment = {**os.environ, "KUBECONFIG": str(self._file), "HOME": str(self._file.parent)}
        return {"env": environment, "text": True}


CONFIG_MAP = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "%s"}, "data": {"a": "b"}}'


@pytest.fixture
def user(keycloak, gateway, watch):
    user = keycloak.new_user(namespace="somebody-elses")
    watch.emptied(user.name)
    user.session = gateway.admitted(keycloak.login(user))
    watch.filled(user.name)
    return user


@pytest.fixture
def kubectl(tmp_path, secure, user):
    kubectl = Kubectl(tmp_path, secure, user.session, user.name)
    web.eventually("kubectl works", lambda: kubectl.run("get", "configmaps").returncode == 0, limit=20)
    return kubectl


def test_it_works_in_the_users_namespace(kubectl, user):
    kubectl("apply", "-f", "-", stdin=CONFIG_MAP % "settings")
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=CONFIG_MAP % "settings")
    assert kubectl("get", "configmap", "settings", "-o", "jsonpath={.data.a}") == "b"
    kubectl("run", "shell", "--image=busybox", "--restart=Never")
    assert "shell" in kubectl("get", "pods")
    assert kubectl("auth", "can-i", "create", "pods").strip() == "yes"
    assert json.loads(kubectl("get", "--raw", f"/api/v1/namespaces/{user.name}/pods"))["items"]
    assert "gitVersion" in kubectl("get", "--raw", "/version")
    kubectl("delete", "pod", "shell", "--now")
    token = kubectl("get", "secret", "access-token", "-o", "jsonpath={.data.AUTH_TOKEN}")
    assert base64.b64decode(token).decode().count(".") == 2


def test_it_acts_as_the_account_of_the_namespace(kubectl, user):
    answer = json.loads(kubectl("auth", "whoami", "-o", "json"))
    assert answer["status"]["userInfo"]["username"] == f"system:serviceaccount:{user.name}:postern-user"


def test_it_is_confined(kubectl, cluster, user):
    other = cluster.new_namespace("foreign")
    for arguments in (("-n", other, "get", "pods"), ("get", "namespaces"), ("get", "nodes"), ("get", "pods", "-A"),
                      ("-n", "postern", "get", "secrets"), ("create", "token", "postern-user"), ("delete", "secret", "access-token"),
                      ("--as=admin", "get", "pods", "-A"), ("delete", "namespace", user.name)):  # fmt: skip
        done = kubectl.run(*arguments)
        assert done.returncode != 0, f"{arguments}: {done.stdout}"
    assert kubectl.run("auth", "can-i", "create", "rolebindings").stdout.strip() == "no"


def test_nobody_becomes_somebody_else_by_headers(secure, user):
    """They never reach the API server: what is asked for is done as the user."""
    for headers in ({"impersonate-user": "admin"}, {"impersonate-user": "admin", "impersonate-group": "system:masters"},
                    {"x-remote-user": "admin"}):  # fmt: skip
        answer = secure.call("/api/v1/nodes", user.session, headers=headers)
        assert answer.status in (400, 403), answer


def test_a_watch_is_told_what_happens(kubectl):
    begun = kubectl.begin("get", "configmaps", "--watch", "-o", "name")
    try:
        web.eventually("it began", lambda: "root-ca" in begun.stdout.readline())
        kubectl("apply", "-f", "-", stdin=CONFIG_MAP % "seen")
        assert "seen" in begun.stdout.readline()
    finally:
        begun.kill()
        begun.communicate()


def test_a_stream_that_is_upgraded_reaches_the_api_server(secure, user, kubectl):
    """There is no kubelet here: the API server itself answers, after it was asked for the upgrade, that the pod runs nowhere."""
    kubectl("run", "shell", "--image=busybox", "--restart=Never")
    for protocol in ("websocket", "SPDY/3.1"):
        headers = {"connection": "Upgrade", "upgrade": protocol, "sec-websocket-version": "13",
                   "sec-websocket-key": "AQIDBAUGBwgJCgsMDQ4PEA==", "sec-websocket-protocol": "v5.channel.k8s.io"}  # fmt: skip
        path = f"/api/v1/namespaces/{user.name}/pods/shell/exec?command=true&stdout=true&container=shell"
        method = "GET" if protocol == "websocket" else "POST"
        answer = secure.call(path, user.session, method, headers)
        assert answer.status in (400, 404, 500) and b"shell" in answer.body, answer


def test_a_block_ends_it(keycloak, cluster, gateway, secure, kubectl, user, parts, tmp_path):
    watching = kubectl.begin("get", "configmaps", "--watch", "-o", "name")
    web.eventually("it began", lambda: "root-ca" in watching.stdout.readline())
    # What the gateway itself holds for this user: a token with which it acts.
    account = cluster.account("postern", "postern-gateway")
    held = Caller(cluster, "held", token_of(account, user.name, "postern-user", boundObjectRef=SESSION))
    path = f"/api/v1/namespaces/{user.name}/configmaps"
    assert held.get(path).status == 200
    disabled = keycloak.set_enabled(user, False)
    gateway.refuses(user.session, disabled)
    secure.refuses(user.session, disabled, path="/version")
    done = kubectl.run("get", "configmaps")
    assert done.returncode != 0 and "provide credentials" in done.stderr, done
    watching.wait(EVENT + 7)  # a stream has a grace in which to end
    dead = web.eventually("the credential is dead", lambda: held.get(path).status == 401 and time.monotonic(), limit=60)
    figures.record("user disabled, the credential of kubectl is dead", dead - disabled)
    assert dead - disabled <= DEAD
    keycloak.set_enabled(user, True)
    time.sleep(3)
    assert kubectl.run("get", "configmaps").returncode != 0 and held.get(path).status == 401
    again = Kubectl(tmp_path, parts["secure"], keycloak.login(user), user.name)
    web.eventually("kubectl works again", lambda: again.run("get", "configmaps").returncode == 0, limit=20)
    assert held.get(path).status == 401, "what was made before the block"
