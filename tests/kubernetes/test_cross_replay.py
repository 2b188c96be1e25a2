"""Every token that Postern makes, shown wherever any of them is taken: it is taken where it was made for, and nowhere else."""

import base64
import itertools
from collections import Counter
from dataclasses import dataclass

import jwt
import pytest
from cluster import Caller, token_of
from realm import API_AUDIENCE, CLIENTS

SHOP = "shop"  # the namespace that a route targets


@dataclass(frozen=True)
class Made:
    """A token, and what it was made for."""

    kind: str
    namespace: str  # whose user asked
    audience: str
    text: str

    @property
    def said_namespace(self):
        return SHOP if self.kind == "target" else self.namespace

    def __repr__(self):
        return f"{self.kind} of {self.namespace} for {self.audience}"


@dataclass(frozen=True)
class Use:
    """A place where tokens are taken: who takes them, and what it takes."""

    name: str
    accepts: object  # of a Made, whether it may pass
    shows: object  # of a Made, whether it does


@pytest.fixture(scope="module")
def made(cluster, admin, postern, realm, people):
    tokens = []
    for namespace, subject in people.items():
        login = realm.login(subject)
        tokens += [
            Made("own", namespace, "orders-api", postern.given("/orders/1", login)),
            Made("own", namespace, "billing-api", postern.given("/billing/1", login)),
            Made("own", namespace, API_AUDIENCE, postern.given("/as-kubernetes/1", login)),
            Made("target", namespace, "shop-api", postern.given("/target/1", login)),
            Made("target", namespace, API_AUDIENCE, postern.given("/target-kubernetes/1", login)),
            Made("kept", namespace, postern.url, postern.own(login)),
            # Not Postern's, but what callers show it: none is good anywhere else.
            Made("realm", namespace, "gateway", login),
            Made("pod", namespace, "postern", postern.note(token_of(admin, namespace, "default", audiences=["postern"]))),
        ]
    assert len({token.text for token in tokens}) == len(tokens)
    return tokens


@pytest.fixture(scope="module")
def places(consumer, admin, people):
    """Each user may work in their own namespace."""
    for name in people:
        admin.kubectl("-n", name, "create", "rolebinding", "cross", "--clusterrole=postern-user",
                      f"--group=postern:namespace:{name}")  # fmt: skip


def at_postern(postern, path, statuses=(401, 403)):
    def shows(token):
        answer = postern.judged(path, token.text)
        assert answer.status in (200, 404, *statuses), f"{token} at {path}: {answer}"
        return answer.status == 200

    return shows


def introspected_by(postern, client):
    def shows(token):
        basic = base64.b64encode(f"{client}:{CLIENTS[client]}".encode()).decode()
        answer = postern.call("/introspect", method="POST", headers={"authorization": f"Basic {basic}"}, form={"token": token.text})
        assert answer.status == 200, answer
        return answer.json["active"]

    return shows


def verified_alone(postern, audience, namespace, kind):
    """An upstream that knows nothing but Postern's URL, and whose it is."""
    keys = jwt.PyJWKSet.from_dict(postern.call("/.well-known/jwks.json").json)

    def shows(token):
        try:
            key = keys[jwt.get_unverified_header(token.text)["kid"]]
            claims = jwt.decode(token.text, key, algorithms=["ES256"], audience=audience, issuer=postern.url)
        except (KeyError, jwt.InvalidTokenError):
            return False
        return (claims["namespace"], claims["namespace_kind"]) == (namespace, kind)

    return shows


def at_the_api_server(consumer, namespace):
    def shows(token):
        answer = Caller(consumer, "cross", token.text).get(f"/api/v1/namespaces/{namespace}/configmaps")
        assert answer.status in (200, 401, 403), f"{token}: {answer}"
        return answer.status == 200

    return shows


def uses(postern, consumer, people):
    """All places. Each says by what it was made for which tokens it takes, without looking into them."""

    def is_made_for(kind, audience, namespace=None):
        return lambda token: (token.kind, token.audience) == (kind, audience) and namespace in (None, token.namespace)

    for path in ("/orders/1", "/billing/1", "/target/1", "/as-kubernetes/1"):
        yield Use(f"route {path}", is_made_for("realm", "gateway"), at_postern(postern, path))
    yield Use("route /pods", is_made_for("pod", "postern"), at_postern(postern, "/pods/1"))
    yield Use("GET /token", lambda token: token.kind in ("realm", "pod"), at_postern(postern, "/token"))
    for client in CLIENTS:
        yield Use(f"introspection by {client}", is_made_for("own", f"{client}-api"), introspected_by(postern, client))
    for name in people:
        yield Use(f"route of {name} for `self`", is_made_for("kept", postern.url, name), at_postern(postern, f"/own/{name}/x"))
        yield Use(f"API server in {name}", is_made_for("own", API_AUDIENCE, name), at_the_api_server(consumer, name))
        for audience in ("orders-api", "billing-api"):
            accepts = is_made_for("own", audience, name)
            yield Use(f"upstream {audience} of {name}", accepts, verified_alone(postern, audience, name, "own"))
    yield Use("upstream of the shop", lambda token: token.audience == "shop-api", verified_alone(postern, "shop-api", SHOP, "target"))


@pytest.mark.usefixtures("places")
def test_every_foreign_use_is_refused(postern, consumer, people, made, record_figure):
    counted, wrong = Counter(), []
    everywhere = list(uses(postern, consumer, people))
    for use, token in itertools.product(everywhere, made):
        may, does = use.accepts(token), use.shows(token)
        counted["own" if may else "foreign"] += 1
        if may != does:
            wrong.append(f"{use.name}: {token} is {'taken' if does else 'refused'}")
    assert not wrong, "\n".join(wrong)
    assert len(people) >= 5 and counted["own"] >= len(people) * 10
    record_figure(
        f"cross-replay: {len(people)} namespaces, {len(made)} tokens of {len({token.kind for token in made})} kinds for "
        f"{len({token.audience for token in made})} audiences, {len(everywhere)} places: {counted['foreign']} foreign uses, all refused; "
        f"{counted['own']} own uses, all taken"
    )
