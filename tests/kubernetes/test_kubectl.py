"""kubectl behind Postern: with a token of the user's issuer, as the ServiceAccount of the user's own namespace."""

import base64
import json
import os
import select
import socket
import subprocess
import time

import pytest
import web
from behind import ROBOT, Behind
from cluster import RBAC, Caller, pod, refused, request_token, secret, service_account
from conftest import make_home
from issuer import Issuer

# How long a credential may work after its user's block, in seconds.
DEATH = 15.0
SPDY = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"}
WEBSOCKET = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "true", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "true"}
PROTOCOLS = [pytest.param(WEBSOCKET, id="websocket"), pytest.param(SPDY, id="spdy")]
REVIEW = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


@pytest.fixture(scope="module")
def issuer():
    issuer = Issuer()
    yield issuer
    issuer.close()


@pytest.fixture(scope="module")
def behind(cluster, gateway, issuer, tmp_path_factory):
    postern = Behind(tmp_path_factory.mktemp("behind"), cluster, gateway, issuer).start()
    yield postern
    postern.stop()


@pytest.fixture(scope="module")
def alice(behind, issuer, home):
    return caller(behind, issuer, "alice", home)


def caller(behind, issuer, user, namespace):
    return Caller(behind, user, issuer.token("ES256", sub=user, namespace=namespace))


def name_of(caller, **headers):
    """Who the API server takes a caller for."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = caller.call("POST", REVIEW, review, headers=headers)
    return answer.json["status"]["userInfo"]["username"] if answer.status == 201 else answer.status


@pytest.fixture(scope="module")
def echo(cluster, admin, home):
    """A pod of the user that can be spoken with."""
    if cluster.kubelet_port is None:
        pytest.skip("a node that runs nothing comes with our own API server only")
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "nothing"}}
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": cluster.kubelet_port}},
    }
    assert admin.create("/api/v1/nodes", node).status == 201
    assert admin.merge("/api/v1/nodes/nothing/status", {"status": status}).status == 200
    assert admin.create(f"/api/v1/namespaces/{home}/pods", pod("echo", nodeName="nothing")).status == 201
    running = admin.merge(f"/api/v1/namespaces/{home}/pods/echo/status", {"status": {"phase": "Running"}})
    assert running.status == 200, running
    yield "echo"
    admin.kubectl("-n", home, "delete", "pod", "echo", "--grace-period=0", "--force")
    admin.kubectl("delete", "node", "nothing")


def test_a_user_is_the_account_of_their_own_namespace_whoever_they_say_they_are(alice, home):
    expected = f"system:serviceaccount:{home}:postern-user"
    assert name_of(alice) == expected
    for headers in ({"impersonate-user": "admin"}, {"impersonate-user": "a", "impersonate-group": "system:masters"},
                    {"impersonate-uid": "1"}, {"impersonate-extra-scopes": "x"},
                    {"x-remote-user": "admin", "x-remote-group": "system:masters"}):  # fmt: skip
        assert name_of(alice, **headers) == expected, headers
    assert expected in alice.kubectl("auth", "whoami").stdout
    assert expected in alice.kubectl("--as=admin", "--as-group=system:masters", "auth", "whoami").stdout


def test_a_user_works_in_it(alice, home):
    manifest = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "through"}, "data": {"a": "b"}}'
    alice.kubectl("-n", home, "apply", "-f", "-", stdin=manifest)
    alice.kubectl("-n", home, "apply", "-f", "-", stdin=manifest.replace('"b"', '"c"'))
    server_side = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    alice.kubectl("-n", home, *server_side, stdin=manifest.replace('"b"', '"d"'))
    assert alice.kubectl("-n", home, "get", "configmap", "through", "-o", "jsonpath={.data.a}").stdout == "d"
    alice.kubectl("-n", home, "run", "through", "--image=busybox", "--restart=Never")
    assert "through" in alice.kubectl("-n", home, "get", "pods").stdout
    raw = alice.kubectl("get", "--raw", f"/api/v1/namespaces/{home}/configmaps/through").stdout
    assert json.loads(raw)["data"] == {"a": "d"}
    assert alice.kubectl("-n", home, "auth", "can-i", "create", "pods").stdout.strip() == "yes"
    assert alice.kubectl("-n", home, "auth", "can-i", "create", "rolebindings", check=False).stdout.strip() == "no"
    alice.kubectl("-n", home, "delete", "pod,configmap", "through", "--grace-period=0", "--force")


def test_a_user_is_confined_to_it(alice, foreign):
    for path in (f"/api/v1/namespaces/{foreign}/pods", f"/api/v1/namespaces/{foreign}/secrets/access-token", "/api/v1/pods",
                 "/api/v1/namespaces", "/api/v1/nodes", "/api/v1/namespaces/postern/secrets/postern-users-0"):  # fmt: skip
        refused(alice.get(path))
    failed = alice.kubectl("-n", foreign, "get", "pods", check=False)
    assert failed.returncode != 0 and "Forbidden" in failed.stderr
    assert alice.kubectl("-n", foreign, "auth", "can-i", "get", "pods", check=False).stdout.strip() == "no"
    refused(request_token(alice, foreign, "postern-user"))


def test_who_has_no_record_has_no_token(behind, alice):
    """What the issuer claims is no record of the token service."""
    answer = alice.call("GET", "/api/v1/namespaces", headers={"host": "recorded.example"})
    assert (answer.status, answer.reason) == (403, "namespace_missing")
    assert Caller(behind, "nobody", "no-token").get("/api").status == 401


def test_a_watch_tells_as_it_happens(alice, home):
    watch = ["kubectl", "-n", home, "get", "configmaps", "--watch-only", "-o", "name"]
    with subprocess.Popen(watch, env=alice.environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            for number in range(3):
                # The watch may begin after the first.
                path = f"/api/v1/namespaces/{home}/configmaps/told-{number}"
                web.eventually("it is made", lambda path=path: alice.apply(path, config_map(path)).status in (200, 201))
                if number == 0:
                    wait_for_output(process, lambda path=path: alice.merge(path, {"data": {"at": str(time.time())}}))
                assert process.stdout.readline().startswith("configmap/told-")
        finally:
            process.kill()


def config_map(path):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": path.rsplit("/", 1)[1]}}


def wait_for_output(process, stir):
    """Stirs until a line can be read."""
    def has_come():
        stir()
        return select.select([process.stdout], [], [], 0.2)[0]

    web.eventually("something is told", has_come)


def test_logs_come_and_go_on(alice, home, echo):
    assert alice.kubectl("-n", home, "logs", echo).stdout == "line 1 of echo\n"
    follow = ["kubectl", "-n", home, "logs", "--follow", echo]
    with subprocess.Popen(follow, env=alice.environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            # The kubelet writes without end, so nothing here waits for the end.
            assert [process.stdout.readline() for _ in range(3)] == [f"line {number} of echo\n" for number in (1, 2, 3)]
        finally:
            process.kill()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_exec_passes_both_ways_and_tells_how_it_ended(alice, home, echo, protocol):
    said = alice.kubectl("-n", home, "exec", "-i", echo, "--", "cat", "-", stdin="to and fro\n", **protocol)
    assert said.stdout == "exec echo: cat -\nto and fro\n"
    failed = alice.kubectl("-n", home, "exec", echo, "--", "false", check=False, **protocol)
    assert failed.returncode == 3, failed.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_attach_passes_both_ways(alice, home, echo, protocol):
    said = alice.kubectl("-n", home, "attach", "-i", echo, stdin="to and fro\n", **protocol)
    assert said.stdout == "attach echo\nto and fro\n"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ports_are_forwarded(alice, home, echo, protocol):
    command = ["kubectl", "-n", home, "port-forward", echo, ":8080"]
    environment = alice.environment(**protocol)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            port = int(line.split("127.0.0.1:")[1].split(" ")[0])
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                    stream = client.makefile("rwb")
                    assert stream.readline() == b"port 8080 of echo\n"
                    stream.write(b"to and fro\n")
                    stream.flush()
                    assert stream.readline() == b"to and fro\n"
        finally:
            process.kill()


def test_a_second_token_in_a_websocket_is_not_seen(behind, admin, alice, home, foreign):
    """The API server takes a bearer token as a subprotocol, too."""
    bearer = "base64url.bearer.authorization.k8s.io." + base64.urlsafe_b64encode(admin.token.encode()).decode().rstrip("=")
    headers = {
        "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "origin": behind.server,
        "sec-websocket-key": base64.b64encode(os.urandom(16)).decode(),
        "sec-websocket-protocol": f"{bearer}, base64.binary.k8s.io",
    }  # fmt: skip
    watch = "pods?watch=1&timeoutSeconds=1"
    assert alice.call("GET", f"/api/v1/namespaces/{home}/{watch}", headers=headers).status == 101
    refused(alice.call("GET", f"/api/v1/namespaces/{foreign}/{watch}", headers=headers))
    stranger = Caller(behind, "nobody", "no-token")
    assert stranger.call("GET", f"/api/v1/namespaces/{home}/{watch}", headers=headers).status == 401


def test_a_block_ends_every_credential_and_a_new_session_makes_others(cluster, behind, issuer, gateway, token_service):
    """The token service deletes the Secret `postern-session` when it blocks somebody; here it is done by hand."""
    place = make_home(cluster, token_service, "bob")
    bob = caller(behind, issuer, "bob", place)
    expected = f"system:serviceaccount:{place}:postern-user"
    assert name_of(bob) == expected
    # As the gateway makes them, but where we can hold it against the API server itself.
    bound = {"apiVersion": "v1", "kind": "Secret", "name": "postern-session"}
    made = request_token(gateway, place, "postern-user", boundObjectRef=bound).json["status"]["token"]
    kept = Caller(cluster, "kept", made)
    assert name_of(kept) == expected

    session = f"/api/v1/namespaces/{place}/secrets/postern-session"
    assert token_service.delete(session).status == 200
    since = time.monotonic()
    for who in (bob, kept):
        web.eventually(f"{who} is out", lambda who=who: name_of(who) in (401, 503))
        assert time.monotonic() - since <= DEATH, who
    for _ in range(20):
        assert name_of(bob) in (401, 503) and name_of(kept) == 401
        time.sleep(0.2)
    made = request_token(gateway, place, "postern-user", boundObjectRef=bound)
    assert made.status in (404, 409), made

    assert token_service.apply(session, secret("postern-session")).status == 201
    web.eventually("a new session is another credential", lambda: name_of(bob) == expected)
    assert name_of(kept) == 401, "the old token is bound to what is gone"


def test_a_credential_is_what_stands_in_its_secret(admin, alice):
    """Of type kubernetes.io/service-account-token: the API server fills it."""
    host = {"host": ROBOT}
    answer = alice.call("GET", "/api", headers=host)
    assert (answer.status, answer.reason) == (503, "credential_unavailable")
    inside = "/api/v1/namespaces/postern"
    # The right to read it, which the gateway has of nothing else.
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"], "resourceNames": ["robot"]}
    role = {"metadata": {"name": "postern-robot"}, "rules": [rule]}
    assert admin.create(f"{RBAC}/namespaces/postern/roles", role).status == 201
    binding = {
        "metadata": {"name": "postern-robot"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "postern-robot"},
        "subjects": [{"kind": "ServiceAccount", "namespace": "postern", "name": "postern-gateway"}],
    }
    assert admin.create(f"{RBAC}/namespaces/postern/rolebindings", binding).status == 201
    assert admin.create(f"{inside}/serviceaccounts", service_account("robot")).status == 201
    stored = secret("robot", "kubernetes.io/service-account-token", {"kubernetes.io/service-account.name": "robot"})
    assert admin.create(f"{inside}/secrets", stored).status == 201
    try:
        expected = "system:serviceaccount:postern:robot"
        web.eventually("the credential is there", lambda: name_of(alice, **host) == expected)
        assert admin.delete(f"{inside}/secrets/robot").status == 200
        web.eventually("it is gone", lambda: name_of(alice, **host) == 503)
    finally:
        for path in (f"{RBAC}/namespaces/postern/rolebindings/postern-robot", f"{RBAC}/namespaces/postern/roles/postern-robot",
                     f"{inside}/serviceaccounts/robot"):  # fmt: skip
            admin.delete(path)
