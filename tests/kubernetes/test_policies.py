"""What RBAC would allow and a policy refuses: whatever is no user's namespace, and whatever would outlive a block."""

import uuid

import pytest
import web
from cluster import BOUND, LABEL, RBAC, SUBJECT, WEBHOOK, Caller
from cluster import namespace, pod, refused, request_token, role_binding, secret, service_account, token_of


@pytest.fixture
def unmarked(cluster, admin):
    """Namespaces with no mark, or half of one, each with a Secret of the name that we write."""
    half = cluster.new_name("half")
    assert admin.create("/api/v1/namespaces", namespace(half, **{LABEL: "ualice"})).status == 201
    other_half = cluster.new_name("half")
    body = namespace(other_half)
    body["metadata"]["annotations"] = {SUBJECT: "alice"}
    assert admin.create("/api/v1/namespaces", body).status == 201
    names = [cluster.new_namespace(), half, other_half, "default", "kube-system", "postern"]
    for name in names:
        assert admin.create(f"/api/v1/namespaces/{name}/secrets", secret("access-token", AUTH_TOKEN="x")).status in (201, 409)
    return names


def test_only_a_users_namespace_is_deleted(cluster, admin, token_service, unmarked):
    for name in unmarked:
        # The API server itself keeps its own.
        words = () if name in ("default", "kube-system") else ("postern-namespaces", "mark")
        refused(token_service.delete(f"/api/v1/namespaces/{name}"), *words)
        assert admin.get(f"/api/v1/namespaces/{name}").json["status"]["phase"] == "Active"
    ours = cluster.new_namespace("leaver", mark="leaver")
    assert token_service.delete(f"/api/v1/namespaces/{ours}").status == 200


def test_no_namespace_is_taken(token_service, unmarked):
    """By setting the mark."""
    for name in unmarked:
        path, body = f"/api/v1/namespaces/{name}", namespace(name, mark="mallory")
        refused(token_service.apply(path, body, "&force=true"), "postern-namespaces", "mark")
        refused(token_service.merge(path, {"metadata": {"labels": {LABEL: "u1"}}}), "postern-namespaces", "mark")


def test_a_namespace_keeps_its_user_and_its_labels(token_service, home):
    path = f"/api/v1/namespaces/{home}"
    for change in ({"annotations": {SUBJECT: "mallory"}}, {"annotations": {SUBJECT: None}}, {"labels": {LABEL: "u2"}},
                   {"labels": {LABEL: None}}, {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}):  # fmt: skip
        refused(token_service.merge(path, {"metadata": change}), "postern-namespaces")
    noted = token_service.merge(path, {"metadata": {"annotations": {"postern.dev/condition": "fine"}}})
    assert noted.status == 200, noted


def test_no_namespace_is_made_without_a_mark_or_with_pods_that_may_do_anything(token_service):
    path, name = "/api/v1/namespaces?dryRun=All", f"new-{uuid.uuid4().hex[:8]}"
    refused(token_service.create(path, namespace(name)), "postern-namespaces", "mark")
    refused(token_service.create(path, namespace(name, **{LABEL: "u1"})), "postern-namespaces", "mark")
    open_to_all = namespace(name, mark="alice")
    open_to_all["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "privileged"
    refused(token_service.create(path, open_to_all), "postern-namespaces", "pod-security")
    assert token_service.create(path, namespace(name, mark="alice")).status == 201


def test_nothing_is_written_into_a_namespace_that_is_no_users(token_service, unmarked):
    for name in unmarked:
        if name == "postern":  # There RBAC decides.
            continue
        inside = f"/api/v1/namespaces/{name}"
        answers = [
            token_service.apply(f"{inside}/secrets/access-token", secret("access-token", AUTH_TOKEN="y"), "&force=true"),
            token_service.apply(f"{inside}/secrets/postern-session", secret("postern-session")),
            token_service.delete(f"{inside}/secrets/access-token"),
            token_service.apply(f"{inside}/serviceaccounts/postern-user", service_account("postern-user")),
            token_service.apply(
                f"{RBAC}/namespaces/{name}/rolebindings/postern-user",
                role_binding("postern-user", "postern-user", [(name, "postern-user")]),
            ),
        ]
        for answer in answers:
            refused(answer, "postern-objects", "mark")


def test_the_role_of_users_is_given_to_the_account_of_the_same_namespace_alone(token_service, home, foreign):
    path = f"{RBAC}/namespaces/{home}/rolebindings/postern-user"
    for subjects in ([(foreign, "postern-user")], [(home, "default")], [(home, "postern-user"), (foreign, "default")], []):
        body = role_binding("postern-user", "postern-user", subjects)
        refused(token_service.merge(path, {"subjects": body["subjects"]}), "postern-bindings")
    everybody = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}]
    refused(token_service.merge(path, {"subjects": everybody}), "postern-bindings")


def test_no_other_role_is_given(cluster, token_service):
    """In a user's namespace, by the name that may be written. RBAC asks for `bind`, or for all that the role holds."""
    place = cluster.new_namespace("bob", mark="bob")

    def bound(role):
        body = role_binding("postern-user", role, [(place, "postern-user")])
        return token_service.apply(f"{RBAC}/namespaces/{place}/rolebindings/postern-user", body)

    for role in ("cluster-admin", "edit"):
        assert "attempting to grant RBAC permissions" in refused(bound(role)).message
    refused(bound("postern-token-service"), "postern-bindings", "no role but postern-user")


def test_of_its_webhook_the_token_service_changes_the_authority_alone(admin, token_service):
    hook = admin.get(WEBHOOK).json["webhooks"][0]

    def change(**parts):
        return token_service.merge(WEBHOOK, {"webhooks": [{**hook, **parts}]}, "dryRun=All")

    authority = admin.get("/api/v1/namespaces/default/configmaps/kube-root-ca.crt").json["data"]["ca.crt"]
    bundle = {**hook["clientConfig"], "caBundle": secret("x", ca=authority)["data"]["ca"]}
    assert change(clientConfig=bundle).status == 200
    everything = [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*/*"], "scope": "*"}]
    for parts in (
        {"rules": everything},
        {"matchConditions": []},
        {"namespaceSelector": {}},
        {"objectSelector": {"matchLabels": {"a": "b"}}},
        {"failurePolicy": "Ignore"},
        {"matchPolicy": "Exact"},
        {"reinvocationPolicy": "Never"},
        {"timeoutSeconds": 30},
        {"sideEffects": "NoneOnDryRun"},
        {"admissionReviewVersions": ["v1", "v1beta1"]},
        {"clientConfig": {"url": "https://elsewhere.example.com/", "caBundle": bundle["caBundle"]}},
        {"clientConfig": {**bundle, "service": {**bundle["service"], "namespace": "default"}}},
        {"name": "other.postern.dev"},
    ):
        refused(change(**parts), "postern-webhook")
    refused(token_service.merge(WEBHOOK, {"webhooks": []}, "dryRun=All"), "postern-webhook")
    refused(token_service.merge(WEBHOOK, {"webhooks": [hook, {**hook, "name": "b.postern.dev"}]}), "postern-webhook")
    refused(token_service.delete(WEBHOOK))


def test_the_gateway_makes_tokens_that_end_with_the_session_in_users_namespaces_alone(gateway, home, foreign):
    made = request_token(gateway, home, "postern-user", boundObjectRef=BOUND)
    assert made.status == 201, made
    where = refused(request_token(gateway, foreign, "postern-user", boundObjectRef=BOUND), "postern-gateway-tokens")
    assert "mark" in where.message
    unbound = request_token(gateway, home, "postern-user")
    assert "bound" in refused(unbound, "postern-gateway-tokens").message
    to_another = request_token(gateway, home, "postern-user", boundObjectRef={**BOUND, "name": "access-token"})
    assert "bound" in refused(to_another, "postern-gateway-tokens").message
    long = request_token(gateway, home, "postern-user", boundObjectRef=BOUND, expirationSeconds=7200)
    assert "hour" in refused(long, "postern-gateway-tokens").message


def test_a_token_dies_with_the_session(cluster, gateway, token_service):
    place = cluster.new_namespace("carol", mark="carol")
    inside = f"/api/v1/namespaces/{place}"
    token_service.apply(f"{inside}/secrets/postern-session", secret("postern-session"))
    token_service.apply(f"{inside}/serviceaccounts/postern-user", service_account("postern-user"))
    caller = Caller(cluster, "carol", token_of(gateway, place, "postern-user", boundObjectRef=BOUND))
    assert caller.get(f"{inside}/pods").status == 403, "known, and without any right"
    assert token_service.delete(f"{inside}/secrets/postern-session").status == 200
    # The API server remembers a token for ten seconds.
    web.eventually("the token is dead", lambda: caller.get(f"{inside}/pods").status == 401)
    assert request_token(gateway, place, "postern-user", boundObjectRef=BOUND).status == 404


def test_no_pod_runs_as_the_account_of_a_users_kubectl(admin, user, home):
    path = f"/api/v1/namespaces/{home}/pods?dryRun=All"
    for caller in (admin, user):
        refused(caller.create(path, pod(account="postern-user")), "postern-user-pods")
    assert user.create(path, pod()).status == 201


def test_no_token_of_that_account_is_stored(admin, user, home):
    path = f"/api/v1/namespaces/{home}/secrets?dryRun=All"

    def stored(account):
        return secret("stored", "kubernetes.io/service-account-token", {"kubernetes.io/service-account.name": account})

    refused(admin.create(path, stored("postern-user")), "postern-stored-tokens")
    for account in ("postern-user", "default"):
        refused(user.create(path, stored(account)), "postern-stored-tokens")
    assert admin.create(path, stored("default")).status == 201


def test_a_user_does_not_write_what_the_token_service_writes(user, home):
    path = f"/api/v1/namespaces/{home}/secrets"
    for name in ("access-token", "postern-session"):
        refused(user.merge(f"{path}/{name}", {"data": {"AUTH_TOKEN": "eA=="}}), "postern-user-secrets")
        refused(user.delete(f"{path}/{name}"), "postern-user-secrets")
    assert user.create(path, secret("mine", a="b")).status == 201
    refused(user.delete(f"{path}?fieldSelector=metadata.name%3Daccess-token"), "postern-user-secrets")
    assert user.delete(f"{path}/mine").status == 200
