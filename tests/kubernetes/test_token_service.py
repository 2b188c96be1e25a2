"""The token service as it runs in a cluster: the keys that it shares, and pods that ask for the token."""

import base64
import re
import time

import pytest
import web
from cluster import WEBHOOK, pod
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from replica import GATEWAY, TOKEN_SERVICE, Replica, authorities, mounted

KEYS = "/api/v1/namespaces/postern/secrets/postern-signing-keys"
TLS = "/api/v1/namespaces/postern/secrets/postern-webhook-tls"
WANTED = {"hpe-ezua/add-auth-token": "true"}


@pytest.fixture(scope="module")
def hooked(admin, base):
    """The webhook, registered by URL while these tests run: there is no network of pods here."""
    before = admin.get(WEBHOOK).json["webhooks"]

    def register(url):
        hook = {key: value for key, value in before[0].items() if key != "clientConfig"}
        bundle = admin.get(WEBHOOK).json["webhooks"][0]["clientConfig"].get("caBundle")
        config = {"url": url} | ({"caBundle": bundle} if bundle and register.has_begun else {})
        register.has_begun = True
        answer = admin.merge(WEBHOOK, {"webhooks": [hook | {"clientConfig": config}]})
        assert answer.status == 200, answer

    register.has_begun = False
    yield register
    assert admin.merge(WEBHOOK, {"webhooks": before}).status == 200


@pytest.fixture(scope="module")
def replicas(tmp_path_factory, admin, token_service, hooked):
    """Two of them, with Secrets that nobody has made. (Other tests try who may write them.)"""
    for secret in (KEYS, TLS):
        admin.delete(secret)
    folder = tmp_path_factory.mktemp("replicas")
    with (
        Replica(folder / "a", token_service, TOKEN_SERVICE) as a,
        Replica(folder / "b", token_service, TOKEN_SERVICE) as b,
    ):
        hooked(a.hook)
        for each in (a, b):
            web.eventually("it has what it shares", lambda each=each: is_complete(each), limit=90)
        yield a, b


def is_complete(replica):
    return not re.search("signing keys|certificate|everything", replica.waits_for())


def made(admin, home, annotations=WANTED):
    body = pod(f"pod-{time.monotonic_ns()}")
    body["metadata"]["annotations"] = annotations
    return admin.create(f"/api/v1/namespaces/{home}/pods?dryRun=All", body)


def is_served(admin, home):
    answer = made(admin, home)
    return answer.status == 201 and mounted(answer) == (True, True)


def bundle(admin):
    return admin.get(WEBHOOK).json["webhooks"][0]["clientConfig"].get("caBundle", "")


def kinds(admin):
    """What lies in the Secret of the certificates."""
    return sorted(admin.get(TLS).json["data"])


def test_replicas_of_both_roles_publish_the_one_key_of_the_secret(admin, gateway, replicas, tmp_path):
    with Replica(tmp_path / "gateway", gateway, GATEWAY) as follower:
        web.eventually("the gateway has the keys", lambda: follower.keys(), limit=90)
        assert len(follower.keys()) == 1
        assert follower.keys() == replicas[0].keys() == replicas[1].keys()
        assert len(admin.get(KEYS).json["data"]) == 1

        # One that is published ahead, as it is before a rotation.
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        ahead = f"{int(time.time()) + 86_400}.pem"
        everybody = (follower, *replicas)
        assert admin.merge(KEYS, {"data": {ahead: base64.b64encode(key).decode()}}).status == 200
        web.eventually("all publish both", lambda: all(len(each.keys()) == 2 for each in everybody))
        assert admin.merge(KEYS, {"data": {ahead: None}}).status == 200
        web.eventually("all publish one", lambda: all(len(each.keys()) == 1 for each in everybody))


def test_a_damaged_secret_leaves_the_keys_in_force_and_a_deleted_one_is_written_again(admin, replicas):
    before, keys = admin.get(KEYS).json["data"], replicas[0].keys()
    failures = replicas[0].metric("postern_key_maintenance_failures_total")
    damaged = {name: base64.b64encode(b"no key").decode() for name in before}
    assert admin.merge(KEYS, {"data": damaged}).status == 200
    web.eventually("it is counted", lambda: replicas[0].metric("postern_key_maintenance_failures_total") > failures)
    assert replicas[0].keys() == replicas[1].keys() == keys
    web.eventually("it is said", lambda: "postern-signing-keys" in replicas[0].log)
    assert admin.get(KEYS).json["data"] == damaged
    assert admin.delete(KEYS).status == 200
    web.eventually("it is written again", lambda: admin.get(KEYS).json.get("data") == before)
    assert replicas[0].keys() == replicas[1].keys() == keys


def test_a_pod_that_asks_gets_the_token_from_either_replica_and_others_are_left_alone(admin, home, hooked, replicas):
    for replica in replicas:
        hooked(replica.hook)
        web.eventually("a pod gets the token", lambda: is_served(admin, home), limit=60)
        for annotations in ({}, {"hpe-ezua/add-auth-token": "false"}):
            assert mounted(made(admin, home, annotations)) == (False, False)
        assert replica.metric("postern_webhook_certificate_expires_timestamp_seconds") > time.time() + 20 * 86_400


def test_a_bundle_that_was_taken_away_is_put_back(admin, home, replicas):
    right = bundle(admin)
    assert authorities(right) == 1
    hooks = admin.get(WEBHOOK).json["webhooks"]
    del hooks[0]["clientConfig"]["caBundle"]
    assert admin.merge(WEBHOOK, {"webhooks": hooks}).status == 200
    web.eventually("it is there again", lambda: bundle(admin) == right, limit=60)
    web.eventually("pods get the token", lambda: is_served(admin, home), limit=60)


def test_certificates_are_replaced_while_pods_are_made(admin, home, hooked, replicas):
    """By an authority that is said to be old a second one is made; when the first is gone, the second signs."""
    [authority, serving] = kinds(admin)
    old = f"authority-{int(time.time()) - 340 * 86_400}.pem"
    assert admin.merge(TLS, {"data": {old: admin.get(TLS).json["data"][authority], authority: None}}).status == 200
    web.eventually("both are trusted", lambda: authorities(bundle(admin)) == 2, limit=60)
    for replica in replicas:
        hooked(replica.hook)
        web.eventually("pods get the token", lambda: is_served(admin, home), limit=60)
    assert serving in kinds(admin)

    assert admin.merge(TLS, {"data": {old: None}}).status == 200
    web.eventually("the new one has signed", lambda: serving not in kinds(admin) and len(kinds(admin)) == 2, limit=60)
    web.eventually("it alone is trusted", lambda: authorities(bundle(admin)) == 1, limit=60)
    for replica in replicas:
        hooked(replica.hook)
        web.eventually("pods get the token", lambda: is_served(admin, home), limit=60)


def test_replicas_that_start_again_take_what_is_shared(admin, home, hooked, replicas, tmp_path, token_service):
    keys, right = replicas[0].keys(), bundle(admin)
    with Replica(tmp_path / "late", token_service, TOKEN_SERVICE) as late:
        web.eventually("it has what is shared", lambda: is_complete(late), limit=90)
        assert late.keys() == keys
        hooked(late.hook)
        web.eventually("a pod gets the token", lambda: is_served(admin, home), limit=60)
        assert bundle(admin) == right
