"""What each account may do, held against a written list; and what it must not, tried."""

import re
from pathlib import Path

import pytest
import web
from cluster import RBAC, namespace, pod, refused, request_token, role_binding, secret, service_account

LIST = Path(__file__).with_name("rights.txt")
BY_NAME = "fieldSelector=metadata.name%3Daccess-token"


def listed(caller, place):
    """The lines of `kubectl auth can-i --list`, as `resource/name verb verb`."""
    lines = set()
    for line in caller.kubectl("-n", place, "auth", "can-i", "--list").stdout.splitlines()[1:]:
        columns = re.fullmatch(r"(\S*)\s+\[(.*)\]\s+\[(.*)\]\s+\[(.*)\]", line)
        assert columns, line
        resource, urls, names, verbs = columns.groups()
        for name in names.split() or [""]:
            what = resource + (f"/{name}" if name else "") or urls
            lines.add(" ".join([what, *sorted(verbs.split())]))
    return lines


def written(section):
    """The lines of a section of rights.txt; none if it is not there."""
    sections = re.split(r"^\[(.+)\]$", LIST.read_text(), flags=re.M)[1:]
    text = dict(zip(sections[::2], sections[1::2], strict=True)).get(section, "")
    return {line for line in text.splitlines() if line}


@pytest.fixture(scope="module")
def everybody(cluster, foreign):
    """What a ServiceAccount may that nobody gave any right."""
    return listed(cluster.account(foreign, "default"), foreign)


@pytest.fixture(scope="module")
def places(home, foreign):
    return {"postern": "postern", "home": home, "elsewhere": foreign}


SECTIONS = [(who, where) for who in ("gateway", "token_service", "user") for where in ("postern", "home", "elsewhere")]


@pytest.mark.parametrize(("who", "where"), SECTIONS)
def test_each_account_has_the_rights_that_are_written_down_and_no_more(request, everybody, places, who, where):
    caller = request.getfixturevalue(who)
    assert listed(caller, places[where]) - everybody == written(f"{who} anywhere") | written(f"{who} in {where}")


def test_the_token_service_watches_all_tokens_by_their_name_and_no_other_secret(token_service, home):
    answer = token_service.get(f"/api/v1/secrets?{BY_NAME}")
    assert answer.status == 200, answer
    assert home in [item["metadata"]["namespace"] for item in answer.json["items"]]
    watch = f"/api/v1/secrets?{BY_NAME}&watch=1&timeoutSeconds=1&resourceVersion=0"
    web.eventually("a watch tells of them", lambda: b'"type":"ADDED"' in token_service.get(watch).body)
    for path in ("/api/v1/secrets", f"/api/v1/namespaces/{home}/secrets", "/api/v1/secrets?watch=1&timeoutSeconds=1"):
        refused(token_service.get(path))
    refused(token_service.get("/api/v1/secrets?fieldSelector=metadata.name%3Dother"))
    refused(token_service.get("/api/v1/secrets?labelSelector=a%3Db"))


def test_the_token_service_makes_no_secret_of_another_name(token_service, home):
    path = f"/api/v1/namespaces/{home}/secrets"
    refused(token_service.apply(f"{path}/other", secret("other")))
    refused(token_service.create(path, secret("access-token")))  # a name in a body is no name in the request
    refused(token_service.create(path, secret("other")))


def test_the_token_service_leads_by_a_lease_of_its_own_namespace_alone(token_service, home):
    def leases(place):
        return f"/apis/coordination.k8s.io/v1/namespaces/{place}/leases"

    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "postern-token-service"}}
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 10, "renewTime": "2026-01-01T00:00:00.000000Z"}
    made = token_service.create(leases("postern"), {**lease, "spec": spec})
    assert made.status == 201, made
    ours = f"{leases('postern')}/postern-token-service"
    renewal = {**made.json, "spec": {**spec, "renewTime": "2026-01-01T00:00:05.000000Z"}}
    assert token_service.call("PUT", ours, renewal).status == 200
    late = {**made.json, "spec": {**spec, "holderIdentity": "b"}}
    assert token_service.call("PUT", ours, late).status == 409
    refused(token_service.create(leases(home), {**lease, "spec": spec}))
    refused(token_service.get(f"{leases('kube-system')}/postern-token-service"))
    refused(token_service.delete(ours))


@pytest.mark.parametrize("who", ["gateway", "token_service"])
def test_neither_role_reads_the_secrets_of_the_other(request, admin, who):
    """The namespace holds them all: client secrets and the keys of TLS."""
    caller, path = request.getfixturevalue(who), "/api/v1/namespaces/postern/secrets"
    for name in ("postern-gateway-keycloak", "postern-token-service-keycloak", "postern-gateway-tls"):
        assert admin.create(path, secret(name, key="x")).status in (201, 409)
        refused(caller.get(f"{path}/{name}"))
    refused(caller.get(path))


def test_both_roles_change_the_state_of_users_by_its_version(gateway, token_service):
    path = "/api/v1/namespaces/postern/secrets/postern-users-7"
    made = gateway.apply(path, secret("postern-users-7", state="1"))
    assert made.status in (200, 201), made
    changed = token_service.call("PUT", path, {**made.json, "data": {"state": "Mg=="}})
    assert changed.status == 200, changed
    late = gateway.call("PUT", path, {**made.json, "data": {"state": "Mw=="}})
    assert late.status == 409, late
    refused(gateway.delete(path))
    refused(token_service.delete(path))


def test_the_gateway_changes_neither_keys_nor_what_was_delivered(gateway, token_service):
    for name in ("postern-signing-keys", "postern-delivery-0"):
        path = f"/api/v1/namespaces/postern/secrets/{name}"
        assert token_service.apply(path, secret(name, a="b")).status in (200, 201)
        assert gateway.get(path).status == 200
        refused(gateway.apply(path, secret(name, a="c")))
        refused(gateway.merge(path, {"data": None}))


def test_the_gateway_sees_nothing_of_users(gateway, home):
    inside = f"/api/v1/namespaces/{home}"
    for path in (f"{inside}/secrets/access-token", f"{inside}/secrets/postern-session", f"/api/v1/secrets?{BY_NAME}",
                 "/api/v1/namespaces", inside, f"{inside}/pods", f"{inside}/serviceaccounts/postern-user"):  # fmt: skip
        refused(gateway.get(path))
    refused(gateway.apply(f"{inside}/secrets/access-token", secret("access-token")))
    refused(gateway.delete(f"{inside}/secrets/postern-session"))
    refused(gateway.delete(inside))


def test_the_gateway_makes_tokens_of_one_account_alone(gateway, home):
    for account in ("default", "postern-gateway"):
        refused(request_token(gateway, home, account))
    refused(request_token(gateway, "postern", "postern-token-service"))
    refused(request_token(gateway, "postern", "postern-gateway"))


@pytest.mark.parametrize("who", ["gateway", "token_service"])
def test_neither_role_makes_itself_anybody_else(request, home, who):
    caller = request.getfixturevalue(who)
    as_admin = {"impersonate-user": "admin", "impersonate-group": "system:masters"}
    refused(caller.call("GET", "/api/v1/namespaces", headers=as_admin))
    mine = ("postern", f"postern-{who.replace('_', '-')}")
    binding = role_binding("mine", "cluster-admin", [mine])
    refused(caller.create(f"{RBAC}/clusterrolebindings", {**binding, "kind": "ClusterRoleBinding"}))
    refused(caller.create(f"{RBAC}/namespaces/{home}/rolebindings", binding))
    refused(caller.merge(f"{RBAC}/clusterroles/{mine[1]}", {"rules": []}))
    refused(caller.create(f"/api/v1/namespaces/{home}/pods", pod()))
    refused(caller.delete("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/postern-objects"))


def test_the_token_service_makes_no_tokens_and_takes_no_other_account(token_service, home):
    refused(request_token(token_service, home, "postern-user"))
    path = f"/api/v1/namespaces/{home}/serviceaccounts"
    refused(token_service.apply(f"{path}/other", service_account("other")))
    refused(token_service.merge(f"{path}/default", {"secrets": []}))


def test_the_token_service_gives_the_role_of_users_and_no_other(token_service, home):
    """By name it may write the RoleBinding; what is in it, `bind` decides."""
    path = f"{RBAC}/namespaces/{home}/rolebindings"
    fresh = role_binding("other", "postern-user", [(home, "postern-user")])
    refused(token_service.apply(f"{path}/other", fresh))
    refused(token_service.delete(f"{path}/postern-user"))


def test_a_namespace_is_neither_replaced_nor_deleted_with_others(token_service, home):
    refused(token_service.call("PUT", f"/api/v1/namespaces/{home}", namespace(home, mark="alice")))
    refused(token_service.call("PUT", f"/api/v1/namespaces/{home}/finalize", namespace(home, mark="alice")))
