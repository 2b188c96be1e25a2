"""Who is not Postern: whoever may read a token, and the user whose kubectl acts behind Postern."""

import base64

import pytest
from cluster import RBAC, TOKEN, pod, refused, request_token, role_binding, secret


@pytest.fixture(scope="module")
def reader(cluster, admin, foreign, home):
    """A client of another namespace, given the reader's role in the namespace of one user."""
    made = admin.create(f"/api/v1/namespaces/{foreign}/serviceaccounts", {"metadata": {"name": "reader"}})
    assert made.status == 201, made
    admin.kubectl("-n", home, "create", "rolebinding", "reader", "--clusterrole=postern-token-reader",
                  f"--serviceaccount={foreign}:reader")  # fmt: skip
    return cluster.account(foreign, "reader")


def test_the_documented_command_reads_the_token(reader, home):
    got = reader.kubectl("-n", home, "get", "secret", "access-token", "-o", "jsonpath={.data.AUTH_TOKEN}")
    assert base64.b64decode(got.stdout).decode() == TOKEN


def test_a_reader_reads_nothing_else(reader, home, foreign):
    inside = f"/api/v1/namespaces/{home}"
    for path in (f"{inside}/secrets", f"{inside}/secrets?watch=1&timeoutSeconds=1", f"{inside}/secrets/postern-session",
                 f"{inside}/secrets?fieldSelector=metadata.name%3Daccess-token", f"{inside}/pods", f"{inside}/configmaps",
                 f"/api/v1/namespaces/{foreign}/secrets/access-token", "/api/v1/namespaces/postern/secrets/postern-users-0",
                 "/api/v1/secrets", inside):  # fmt: skip
        refused(reader.get(path))
    path = f"{inside}/secrets/access-token"
    refused(reader.apply(path, secret("access-token", AUTH_TOKEN="x")))
    refused(reader.merge(path, {"data": None}))
    refused(reader.delete(path))


def test_a_user_works_in_their_own_namespace(user, home):
    manifest = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "b"}}'
    user.kubectl("-n", home, "apply", "-f", "-", stdin=manifest)
    user.kubectl("-n", home, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest.replace('"b"', '"c"'))
    assert user.kubectl("-n", home, "get", "configmap", "settings", "-o", "jsonpath={.data.a}").stdout == "c"
    user.kubectl("-n", home, "run", "shell", "--image=busybox", "--restart=Never")
    assert user.get(f"/api/v1/namespaces/{home}/pods?watch=1&timeoutSeconds=1").status == 200
    got = user.kubectl("-n", home, "get", "secret", "access-token", "-o", "jsonpath={.data.AUTH_TOKEN}").stdout
    assert base64.b64decode(got).decode() == TOKEN
    user.kubectl("-n", home, "create", "deployment", "web", "--image=busybox")
    user.kubectl("-n", home, "create", "job", "once", "--image=busybox")
    user.kubectl("-n", home, "delete", "pod,deployment,job,configmap", "shell", "web", "once", "settings", "--ignore-not-found")


def test_a_user_is_confined_to_it(user, foreign):
    for path in (f"/api/v1/namespaces/{foreign}/pods", f"/api/v1/namespaces/{foreign}/secrets/access-token", "/api/v1/pods",
                 "/api/v1/namespaces", "/api/v1/nodes", "/api/v1/secrets", "/api/v1/namespaces/postern/secrets"):  # fmt: skip
        refused(user.get(path))


def test_a_user_makes_no_other_credential(user, home):
    inside = f"/api/v1/namespaces/{home}"
    for account in ("postern-user", "default"):
        refused(request_token(user, home, account))
    refused(user.get(f"{inside}/serviceaccounts"))
    refused(user.create(f"{inside}/serviceaccounts", {"metadata": {"name": "mine"}}))
    requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    refused(user.create(requests, {"metadata": {"name": "mine"}, "spec": {"signerName": "a/b", "request": "", "usages": []}}))


def test_a_user_gives_nobody_any_right(user, home):
    mine = role_binding("mine", "postern-user", [(home, "default")])
    refused(user.create(f"{RBAC}/namespaces/{home}/rolebindings", mine))
    refused(user.merge(f"{RBAC}/namespaces/{home}/rolebindings/postern-user", {"subjects": mine["subjects"]}))
    refused(user.create(f"{RBAC}/namespaces/{home}/roles", {"metadata": {"name": "mine"}, "rules": []}))
    refused(user.create(f"{RBAC}/clusterrolebindings", {**mine, "kind": "ClusterRoleBinding"}))


@pytest.mark.parametrize(
    "headers",
    [
        {"impersonate-user": "admin"},
        {"impersonate-user": "system:serviceaccount:postern:postern-token-service"},
        {"impersonate-user": "somebody", "impersonate-group": "system:masters"},
    ],
)
def test_a_user_is_nobody_else(user, home, headers):
    refused(user.call("GET", f"/api/v1/namespaces/{home}/pods", headers=headers))


def test_a_user_does_not_change_their_namespace(user, home):
    path = f"/api/v1/namespaces/{home}"
    refused(user.merge(path, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}))
    refused(user.delete(path))
    for name in ("resourcequotas", "limitranges"):
        refused(user.create(f"{path}/{name}", {"metadata": {"name": "mine"}}))
    refused(user.create(f"/apis/networking.k8s.io/v1/namespaces/{home}/networkpolicies", {"metadata": {"name": "mine"}}))


@pytest.mark.parametrize(
    "spec",
    [
        {"hostNetwork": True},
        {"hostPID": True},
        {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
        {"containers": [{"name": "main", "image": "busybox", "securityContext": {"privileged": True}}]},
    ],
)
def test_a_user_does_not_get_at_the_node(user, home, spec):
    answer = user.create(f"/api/v1/namespaces/{home}/pods?dryRun=All", pod(**spec))
    assert "PodSecurity" in refused(answer).message
