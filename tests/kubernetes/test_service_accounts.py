"""ServiceAccount tokens of a real API server as callers' tokens: issuers of kind `kubernetes`."""

import base64
import os
import time

import jwt
import pytest
import web
from cluster import ISSUER_OF_ACCOUNTS, pod, request_token, secret, token_of
from realm import FAKETIME

AUDIENCE = "postern"


@pytest.fixture(scope="module")
def team(cluster):
    return cluster.new_namespace("team")


@pytest.fixture(scope="module")
def builder(admin, team):
    """The name of an account of the team's."""
    made = admin.create(f"/api/v1/namespaces/{team}/serviceaccounts", {"metadata": {"name": "builder"}})
    assert made.status == 201, made
    return "builder"


@pytest.fixture
def new_token(admin, postern, team, builder):
    def new(name=builder, **spec):
        return postern.note(token_of(admin, team, name, **{"audiences": [AUDIENCE], **spec}))

    return new


def read(token):
    return jwt.decode(token, options={"verify_signature": False})


def test_a_service_account_is_let_in_as_whom_the_api_server_names(admin, postern, new_token, team):
    token = new_token()
    assert read(token)["iss"] == ISSUER_OF_ACCOUNTS and read(token)["aud"] == [AUDIENCE]
    answer = postern.call("/pods/1", token)
    assert answer.status == 200, answer
    received = answer.received
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": [AUDIENCE]}}
    says = admin.create("/apis/authentication.k8s.io/v1/tokenreviews", review).json["status"]["user"]
    assert received.header("x-auth-user") == says["username"] == f"system:serviceaccount:{team}:builder"
    assert received.header("x-auth-namespace") == team
    groups = received.header("x-auth-groups").split(",")
    assert set(groups) == set(says["groups"]) - {"system:authenticated"}
    minted = read(postern.note(received.bearer))
    assert (minted["sub"], minted["namespace"], minted["orig_iss"]) == (says["username"], team, ISSUER_OF_ACCOUNTS)


def test_one_of_several_audiences_is_enough(postern, new_token):
    assert postern.call("/pods/1", new_token(audiences=["https://elsewhere.example", AUDIENCE])).status == 200


@pytest.mark.parametrize("audiences", [["https://elsewhere.example"], ["postern2", "gateway"], []])
def test_a_token_for_others_is_refused(postern, new_token, audiences):
    """Without audiences it is for the API server: what every pod has at `/var/run/secrets`."""
    answer = postern.call("/pods/1", new_token(audiences=audiences))
    assert (answer.status, answer.reason) == (401, "wrong_audience"), answer


def test_it_opens_no_route_of_other_issuers(postern, new_token):
    answer = postern.call("/orders/1", new_token())
    assert (answer.status, answer.reason) == (401, "wrong_issuer"), answer


def test_a_token_that_never_expires_is_refused(admin, postern, team, builder):
    """Kept in a Secret, signed by the same key."""
    path = f"/api/v1/namespaces/{team}/secrets"
    kept = secret("kept", "kubernetes.io/service-account-token", {"kubernetes.io/service-account.name": builder})
    assert admin.create(path, kept).status == 201

    def filled():
        return admin.get(f"{path}/kept").json.get("data", {}).get("token")

    token = postern.note(base64.b64decode(web.eventually("the Secret is filled", filled)).decode())
    claims, header = read(token), jwt.get_unverified_header(token)
    assert claims["iss"] == "kubernetes/serviceaccount" and "exp" not in claims
    assert header["kid"] == jwt.get_unverified_header(admin.token if admin.token.count(".") == 2 else token)["kid"]
    answer = postern.call("/pods/1", token)
    assert answer.status == 401 and answer.reason in ("invalid_token", "wrong_issuer"), answer


def test_a_token_that_was_extended_to_a_year_is_held_to_warnafter(admin, cluster, new_postern, team, builder):
    """The API server extends what pods mount: bound to a pod, for 3607 s, for itself. So Postern has its audience here."""
    made = admin.create(f"/api/v1/namespaces/{team}/pods", pod("extended", builder))
    assert made.status == 201, made
    bound = {"apiVersion": "v1", "kind": "Pod", "name": "extended", "uid": made.json["metadata"]["uid"]}
    token = token_of(admin, team, builder, expirationSeconds=3607, boundObjectRef=bound)
    claims = read(token)
    warned = claims["kubernetes.io"]["warnafter"]
    assert claims["exp"] - claims["iat"] > 300 * 86400 and 3600 <= warned - claims["iat"] <= 3610, claims
    audience = claims["aud"][0]
    now = new_postern(audience=audience)
    assert now.call("/plain/1", now.note(token)).status == 200
    if FAKETIME is None:
        assert not os.environ.get("CI"), "Debian's package `faketime` is missing"
        pytest.skip("Debian's package `faketime` is missing: no other time can be tried")
    # Fifty minutes from now it is good still, and 70 are after its hour; the API server would take it for a year.
    for ahead, outcome in (("+50m", (200, None)), ("+70m", (401, "token_expired"))):
        then = new_postern(audience=audience, ahead=ahead)
        answer = then.call("/plain/1", token)
        assert (answer.status, answer.reason) == outcome, f"{ahead}: {answer}"


def test_a_token_outlives_its_service_account_until_it_ends(admin, postern, new_token, team):
    """The limit of keys alone, as docs/service-accounts.md says it: ten minutes at best."""
    accounts = f"/api/v1/namespaces/{team}/serviceaccounts"
    assert admin.create(accounts, {"metadata": {"name": "gone"}}).status == 201
    token = new_token("gone", expirationSeconds=600)
    claims = read(token)
    assert claims["exp"] - claims["iat"] == 600
    assert admin.delete(f"{accounts}/gone").status == 200
    assert request_token(admin, team, "gone", audiences=[AUDIENCE]).status == 404
    assert postern.call("/pods/1", token).status == 200, "nothing but `exp` ends it"


def test_a_changed_byte_is_refused(postern, new_token):
    head, payload, signature = new_token().split(".")
    for forged in (f"{head}.{payload}.{signature[:-8]}{'A' * 8}", f"{head}.{payload[:-4]}AAAA.{signature}"):
        assert postern.call("/pods/1", forged).status == 401


def test_the_token_for_discovery_is_read_anew(admin, cluster, new_postern, new_token):
    """As the kubelet replaces it. The first is good for nothing."""
    postern = new_postern(token="no token at all", until_ready=False)
    assert postern.readiness() == 503
    (postern.folder / "cluster.token").write_text(cluster.account("postern", "postern-gateway").token)
    web.eventually("the keys are there", lambda: postern.readiness() == 200)
    token = new_token()
    assert postern.call("/pods/1", token).status == 200 and read(token)["exp"] > time.time()
