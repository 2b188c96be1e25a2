"""Pods that ask for the token: the real API server asks the real webhook, by a certificate that Postern made."""

import base64
import os
import time

import pytest
import web
from cluster import WEBHOOK, pod

ASKS = {"hpe-ezua/add-auth-token": "true"}

pytestmark = pytest.mark.skipif("APISERVER" not in os.environ, reason="a given cluster does not reach this machine")


@pytest.fixture(scope="module")
def home(keycloak, gateway, watch):
    user = keycloak.new_user()
    watch.emptied(user.name)
    gateway.admitted(keycloak.login(user))
    watch.filled(user.name)
    return user.name


@pytest.fixture(scope="module", autouse=True)
def trusted(admin, service):
    """The token service has written whom the API server is to trust."""

    def bundle():
        return admin.get(WEBHOOK).json["webhooks"][0]["clientConfig"].get("caBundle")

    return base64.b64decode(web.eventually("there is a caBundle", bundle, limit=30)).decode()


def made(admin, place, name, annotations, **more):
    body = {**pod(name), **more}
    body["metadata"]["annotations"] = annotations
    return admin.create(f"/api/v1/namespaces/{place}/pods", body)


def test_the_authority_is_the_one_that_the_replicas_share(admin, trusted):
    answer = admin.get("/api/v1/namespaces/postern/secrets/postern-webhook-tls")
    assert answer.status == 200 and trusted.startswith("-----BEGIN CERTIFICATE-----")
    shared = "".join(base64.b64decode(text).decode() for text in answer.json["data"].values())
    assert all(line in shared.replace("\\n", "\n") for line in trusted.splitlines())


def test_a_pod_that_asks_gets_the_mount(admin, home, service):
    answer = web.eventually(
        "the webhook is trusted", lambda: (it := made(admin, home, "asks", ASKS)).status != 500 and it, limit=30
    )
    assert answer.status == 201, answer
    spec = answer.json["spec"]
    [volume] = [each for each in spec["volumes"] if each.get("secret", {}).get("secretName") == "access-token"]
    assert volume["secret"]["items"] == [{"key": "AUTH_TOKEN", "path": ".auth_token"}]
    for container in spec["containers"]:
        [mount] = [each for each in container["volumeMounts"] if each["name"] == volume["name"]]
        assert mount["mountPath"] == "/etc/secrets/ezua" and mount["readOnly"] and "subPath" not in mount


def test_others_are_left_alone(admin, home):
    for name, annotations in (("asks-not", {}), ("asks-otherwise", {"hpe-ezua/add-auth-token": "false"})):
        answer = made(admin, home, name, annotations)
        assert answer.status == 201, answer
        assert not [each for each in answer.json["spec"]["volumes"] if "secret" in each]


def test_each_replica_answers_alone(admin, home, service, services):
    for number, replica in enumerate(services):
        service.targets = [replica.webhook_port]
        service.cut()
        # Its connection may still be the one that was cut; a pod that is refused is not there.
        answer = web.eventually(
            "it answers", lambda number=number: (one := made(admin, home, f"alone-{number}", ASKS)).status == 201 and one, limit=10
        )
        assert answer.status == 201 and "access-token" in str(answer.json["spec"]["volumes"]), answer
    service.targets = [replica.webhook_port for replica in services]


def test_while_nobody_answers_only_pods_that_ask_are_refused(admin, home, service):
    targets, service.targets = service.targets, []
    service.cut()
    try:
        assert made(admin, home, "asks-in-vain", ASKS).status == 500
        assert made(admin, home, "does-not-care", {}).status == 201
    finally:
        service.targets = targets
    answer = made(admin, home, "asks-again", ASKS)
    assert answer.status == 201, answer


def test_a_pod_that_cannot_have_the_token_is_refused_with_a_reason(admin, home):
    body = pod("taken")
    body["metadata"]["annotations"] = ASKS
    body["spec"]["volumes"] = [{"name": "mine", "emptyDir": {}}]
    body["spec"]["containers"][0]["volumeMounts"] = [{"name": "mine", "mountPath": "/etc/secrets/ezua"}]
    answer = admin.create(f"/api/v1/namespaces/{home}/pods", body)
    assert answer.status in (400, 403, 422) and "/etc/secrets/ezua" in answer.message, answer


def test_a_lost_authority_in_the_configuration_is_written_again(admin, home, trusted):
    hooks = admin.get(WEBHOOK).json["webhooks"]
    hooks[0]["clientConfig"]["caBundle"] = ""
    assert admin.merge(WEBHOOK, {"webhooks": hooks}).status == 200
    before = time.monotonic()

    def bundle():
        return admin.get(WEBHOOK).json["webhooks"][0]["clientConfig"].get("caBundle")

    written = base64.b64decode(web.eventually("it is there again", bundle, limit=90)).decode()
    print(f"after {time.monotonic() - before:.1f} s")
    assert written == trusted
