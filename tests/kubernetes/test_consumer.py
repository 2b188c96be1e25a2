"""The API server takes Postern's namespace tokens, by structured authentication configuration: deploy/kubernetes/authentication-configuration.yaml."""

import base64

import jwt
import pytest
from cluster import Caller, refused
from postern import within_bound
from realm import API_AUDIENCE, whoami

def given(postern, realm, people, which, path="/as-kubernetes/1"):
    """What an upstream is given for one of the people; by default the one that is said to be the API server."""
    return postern.given(path, realm.login(list(people.values())[which]))


@pytest.fixture(scope="module")
def places(people):
    """Two users' namespaces."""
    return list(people)[:2]


@pytest.fixture(scope="module")
def user(consumer, admin, postern, realm, people, places):
    """Somebody with a namespace token for the API server, and the role of users in their namespace."""
    for place in places:
        admin.kubectl("-n", place, "create", "rolebinding", "by-namespace", "--clusterrole=postern-user",
                      f"--group=postern:namespace:{place}")  # fmt: skip
    return Caller(consumer, "user", given(postern, realm, people, 0))


def test_a_namespace_token_is_its_user(user, people, places):
    answer = whoami(user)
    assert answer.status == 201, answer
    says = answer.json["status"]["userInfo"]
    subject, claims = people[places[0]], jwt.decode(user.token, options={"verify_signature": False})
    assert says["username"] == f"postern:{subject}" and says["uid"] == subject
    assert set(says["groups"]) == {f"postern:namespace:{places[0]}", "system:authenticated"}
    assert says["extra"]["postern.dev/jti"] == [claims["jti"]] and says["extra"]["postern.dev/username"] == [places[0]]
    assert claims["aud"] == API_AUDIENCE and claims["exp"] - claims["iat"] <= 1830


def test_kubectl_with_it_works_in_its_namespace(user, places):
    manifest = '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {"a": "b"}}'
    user.kubectl("-n", places[0], "apply", "-f", "-", stdin=manifest)
    assert user.kubectl("-n", places[0], "get", "configmap", "mine", "-o", "jsonpath={.data.a}").stdout == "b"
    assert user.kubectl("-n", places[0], "auth", "can-i", "create", "pods").stdout.strip() == "yes"
    assert places[0] in user.kubectl("auth", "whoami").stdout


def test_kubectl_with_it_is_confined_to_it(user, places, foreign):
    for place in (places[1], foreign, "postern", "default", "kube-system"):
        refused(user.get(f"/api/v1/namespaces/{place}/configmaps"))
        done = user.kubectl("-n", place, "auth", "can-i", "create", "pods", check=False)
        assert done.stdout.strip() == "no", (place, done)
    for path in ("/api/v1/secrets", "/api/v1/nodes", "/api/v1/namespaces"):
        refused(user.get(path))
    refused(user.call("GET", f"/api/v1/namespaces/{places[0]}/configmaps", headers={"impersonate-user": "admin"}))


def test_a_token_for_another_upstream_is_refused(consumer, postern, realm, people):
    for path in ("/orders/1", "/billing/1"):
        answer = whoami(Caller(consumer, "other", given(postern, realm, people, 0, path)))
        assert answer.status == 401, f"{path}: {answer}"


def test_what_is_kept_for_the_user_is_refused(consumer, postern, realm, people):
    """The token of the Secret is for Postern."""
    kept = postern.own(realm.login(next(iter(people.values()))))
    assert whoami(Caller(consumer, "kept", kept)).status == 401


def test_a_token_for_a_namespace_that_a_route_targets_is_refused(consumer, postern, realm, people):
    token = given(postern, realm, people, 0, "/target-kubernetes/1")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["aud"], claims["namespace_kind"]) == (API_AUDIENCE, "target")
    assert whoami(Caller(consumer, "target", token)).status == 401


def test_a_token_of_the_realm_is_refused(consumer, realm, people):
    """Whoever has it must come through Postern."""
    assert whoami(Caller(consumer, "direct", realm.login(next(iter(people.values()))))).status == 401


def test_a_changed_token_is_refused(consumer, user):
    head, payload, signature = user.token.split(".")
    fields = base64.urlsafe_b64decode(payload + "==").replace(b'"own"', b'"own" ')
    other = base64.urlsafe_b64encode(fields).rstrip(b"=").decode()
    for forged in (f"{head}.{other}.{signature}", f"{head}.{payload}.{'A' * len(signature)}"):
        assert whoami(Caller(consumer, "forged", forged)).status == 401


def test_kubectl_through_postern_is_the_same_user(user, postern, realm, people, places):
    """With the token of the realm: what the API server is given, nobody else sees."""
    behind = Behind(user, postern, realm.login(people[places[0]]))
    assert behind.kubectl("-n", places[0], "get", "configmaps", "-o", "name").returncode == 0
    behind.kubectl("-n", places[0], "create", "configmap", "through", "--from-literal=a=b")
    assert user.get(f"/api/v1/namespaces/{places[0]}/configmaps/through").status == 200
    assert "Forbidden" in behind.kubectl("-n", places[1], "get", "configmaps", check=False).stderr
    # What would make it somebody else is taken away on the way, and is not refused.
    answer = postern.call(f"/api/v1/namespaces/{places[1]}/configmaps", behind.token, headers={
        "impersonate-user": "system:admin", "impersonate-group": "system:masters", "x-remote-user": "admin",
    })  # fmt: skip
    assert answer.status == 403, answer


def test_after_a_block_kubectl_through_postern_is_refused(cluster, realm, postern, user):
    """A token that somebody holds themselves is good until it ends: the API server asks nobody."""
    name = cluster.new_namespace("frank", mark="frank")
    subject = realm.new_user(name)
    behind = Behind(user, postern, realm.login(subject))
    held = Caller(cluster, "held", postern.given("/as-kubernetes/1", behind.token))
    assert "Forbidden" in behind.kubectl("-n", name, "get", "configmaps", check=False).stderr
    since, path = realm.disable(subject), f"/api/v1/namespaces/{name}/configmaps"
    refusal = within_bound(lambda: postern.call(path, behind.token), lambda answer: answer.status == 403, since, 4.0)
    assert refusal.status == 401, refusal
    assert behind.kubectl("-n", name, "get", "configmaps", check=False).returncode != 0
    assert whoami(held).status == 201, "as docs/kubernetes.md says"


class Behind(Caller):
    """Somebody whose kubectl is told that Postern is the API server."""

    def __init__(self, user, postern, token):
        super().__init__(Door(user._cluster.folder, postern), "behind", token)


class Door:
    def __init__(self, folder, postern):
        self.folder, self.server, self.authority, self.trust = folder, postern.url, postern.authority, postern.trust
