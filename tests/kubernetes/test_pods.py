"""A pod trades the token of its ServiceAccount for the user token of its own namespace: `GET /token`."""

import json
import os
import time

import jwt
import pytest
import web
from cluster import secret, token_of


@pytest.fixture(scope="module")
def alice(cluster, realm):
    """The namespace of a user who signs in, and her id."""
    name = cluster.new_namespace("alice", mark="alice")
    return name, realm.new_user(name)


@pytest.fixture(scope="module")
def signed_in(postern, realm, alice):
    """Her own token, which she got by showing hers."""
    return postern.own(realm.login(alice[1]))


def pod_token(admin, postern, namespace, account="default", audience="postern"):
    return postern.note(token_of(admin, namespace, account, audiences=[audience]))


def read(token):
    return jwt.decode(token, options={"verify_signature": False})


def traded(postern, token):
    """The status, and the reason if there is one."""
    answer = postern.call("/token", token)
    assert answer.headers["cache-control"] == "no-store"
    return answer.status, answer.json.get("reason")


def test_a_pod_gets_the_token_of_its_namespaces_user(admin, postern, signed_in, alice):
    name, subject = alice
    answer = postern.call("/token", pod_token(admin, postern, name))
    assert answer.status == 200, answer
    body = answer.json
    assert (body["token_type"], body["namespace"]) == ("Bearer", name) and 600 <= body["expires_in"] <= 1800
    claims = read(postern.note(body["access_token"]))
    assert (claims["sub"], claims["namespace"], claims["namespace_kind"]) == (subject, name, "own")
    assert claims["exp"] >= time.time() + 600 and claims["preferred_username"] == name
    assert body["access_token"] == signed_in, "it is the one that she gets herself"


def test_it_opens_what_is_open_to_the_user_and_only_that(admin, cluster, realm, new_postern, postern, alice, signed_in, people):
    token = postern.own(pod_token(admin, postern, alice[0]))
    for name in people:
        answer = postern.call(f"/own/{name}/x", token)
        assert (answer.status, answer.reason) == (403, "namespace_missing"), answer


def test_another_namespace_gives_nothing(admin, cluster, postern, signed_in, foreign):
    """Of nobody, of Postern, and the cluster's: each with a good token of its own."""
    for namespace in (foreign, "postern", "default", "kube-system"):
        assert traded(postern, pod_token(admin, postern, namespace)) == (403, "no_user_of_namespace"), namespace


def test_a_pod_of_another_users_namespace_gets_that_users(admin, cluster, realm, postern, alice, signed_in):
    name = cluster.new_namespace("bob", mark="bob")
    subject = realm.new_user(name)
    postern.own(realm.login(subject))
    claims = read(postern.own(pod_token(admin, postern, name)))
    assert (claims["sub"], claims["namespace"]) == (subject, name)


def test_before_the_first_sign_in_there_is_nothing(admin, cluster, realm, postern):
    name = cluster.new_namespace("carol", mark="carol")
    subject = realm.new_user(name)

    def asked():
        """With a token of its own each time: one from before Postern knew whose the namespace is, is refused."""
        return traded(postern, pod_token(admin, postern, name))

    web.eventually("the user is known", lambda: asked() == (403, "never_signed_in"))
    postern.own(realm.login(subject))
    assert asked() == (200, None)


def test_a_blocked_users_pods_get_nothing(admin, cluster, realm, postern):
    name = cluster.new_namespace("dave", mark="dave")
    subject = realm.new_user(name)
    postern.own(realm.login(subject))
    token = pod_token(admin, postern, name)
    assert traded(postern, token) == (200, None)
    since = realm.disable(subject)
    limit = 15 if os.environ.get("CI") else 5  # CI's machine may stand still for a while
    web.eventually("it is refused", lambda: traded(postern, token) == (403, "blocked"), limit - (time.monotonic() - since))
    # What it holds opens nothing here either.
    assert traded(postern, token) == (403, "blocked")


def test_the_account_whose_tokens_postern_makes_obtains_none(admin, postern, alice, signed_in):
    """What kubectl behind Postern acts as: no token of ours obtains another."""
    path = f"/api/v1/namespaces/{alice[0]}/serviceaccounts"
    assert admin.create(path, {"metadata": {"name": "postern-user"}}).status == 201
    assert traded(postern, pod_token(admin, postern, alice[0], "postern-user")) == (403, "account_not_listed")


def test_no_token_of_ours_obtains_another(postern, realm, alice, signed_in):
    for token in (signed_in, postern.given("/orders/1", realm.login(alice[1]))):
        answer = postern.call("/token", token)
        assert answer.status == 401 and "access_token" not in answer.json, answer


@pytest.mark.parametrize("audience", ["gateway", "orders-api", "https://kubernetes.default.svc.cluster.local"])
def test_a_token_for_others_obtains_nothing(admin, postern, alice, signed_in, audience):
    assert postern.call("/token", pod_token(admin, postern, alice[0], audience=audience)).status == 401


def test_which_accounts_may_is_configurable(admin, postern, new_postern, realm, cluster):
    name = cluster.new_namespace("erin", mark="erin")
    subject = realm.new_user(name)
    choosy = new_postern(accounts=("build-*",))
    choosy.own(realm.login(subject))
    accounts = f"/api/v1/namespaces/{name}/serviceaccounts"
    assert admin.create(accounts, {"metadata": {"name": "build-7"}}).status == 201
    assert traded(choosy, pod_token(admin, choosy, name, "build-7")) == (200, None)
    assert traded(choosy, pod_token(admin, choosy, name)) == (403, "account_not_listed")


def test_each_trade_is_audited(admin, postern, realm, alice, signed_in):
    postern.own(pod_token(admin, postern, alice[0]))
    traded(postern, pod_token(admin, postern, "default"))

    def lines():
        found = [json.loads(line) for line in (postern.folder / "audit.log").read_text().splitlines()]
        return [line for line in found if line.get("grant") == "service_account"]

    web.eventually("a line is there", lambda: alice[1] in [line["subject"] for line in lines()])
    [line, *_] = [line for line in lines() if line["subject"] == alice[1]]
    assert (line["event"], line["outcome"], line["issuer"]) == ("token_issue", "issued", "main")
    assert line["client"] == f"system:serviceaccount:{alice[0]}:default"
    assert {line["outcome"] for line in lines()} == {"issued"}, "any pod could fill the log"


def test_what_the_secret_says_is_never_read(admin, postern, alice, signed_in):
    """What lies in a user's namespace is output. A text there is nobody's token."""
    made = admin.create(f"/api/v1/namespaces/{alice[0]}/secrets", secret("access-token", AUTH_TOKEN="of somebody else"))
    assert made.status == 201, made
    assert postern.own(pod_token(admin, postern, alice[0])) == signed_in
