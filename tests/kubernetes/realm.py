"""Users and their tokens without a Keycloak, and Postern before the API server: what the suite about callers and consumers needs."""

import datetime
import glob
import http.client
import ipaddress
import json
import re
import ssl
import sys
import time
import urllib.parse
import uuid
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "users"))  # behind this folder, which has a conftest too

import web  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cluster import BASE  # noqa: E402
from lab import Lab  # noqa: E402
from postern import Postern  # noqa: E402

CLIENTS = {"orders": "orders-secret", "billing": "billing-secret"}  # of Postern's introspection; each sees its audience
FAKETIME = next(iter(glob.glob("/usr/lib*/*/faketime/libfaketimeMT.so.1")), None)  # of Debian's package `faketime`
API_AUDIENCE = "kubernetes"  # what the API server takes tokens for

ROUTES = """
[[route]]
path = "/orders/**"
upstream = "orders"
issuers = ["main"]

[[route]]
path = "/billing/**"
upstream = "billing"
issuers = ["main"]

[[route]]
path = "/target/**"
upstream = "billing"
issuers = ["main"]
access = { any_role = ["shopper"] }
credential = { namespace-token = { target = "shop", audience = "shop-api" } }

[[route]]
path = "/target-kubernetes/**"
upstream = "kubernetes-echo"
issuers = ["main"]
access = { any_role = ["shopper"] }
credential = { namespace-token = { target = "shop" } }

[[route]]
path = "/as-kubernetes/**"
upstream = "kubernetes-echo"
issuers = ["main"]

[[route]]
path = "/pods/**"
upstream = "orders"
issuers = ["cluster"]
headers = { x-auth-user = "sub", x-auth-namespace = "namespace", x-auth-groups = "groups" }

[[route]]
path = "/plain/**"
upstream = "orders"
issuers = ["cluster"]
credential = "none"
"""
# What kubectl asks for; elsewhere the API has a host of its own.
ROUTES += "".join(
    f'\n[[route]]\npath = "{path}"\nupstream = "kubernetes"\nissuers = ["main"]\n'
    for path in ("/api", "/api/**", "/apis", "/apis/**", "/openapi/**", "/version")
)


class Realm(Lab):
    """An issuer like a Keycloak realm with a few users, each called like their namespace."""

    def new_user(self, namespace, **fields):
        subject = str(uuid.uuid4())
        self.users[subject] = {"username": namespace, "email": f"{namespace}@example.test", **fields}
        self.admin_event(operationType="CREATE", resourcePath=f"users/{subject}", representation=json.dumps(self.user(subject)))
        return subject

    def login(self, subject, **claims):
        fields = self.user(subject)
        return self.token(
            sub=subject, preferred_username=fields["username"], email=fields.get("email", ""),
            realm_access={"roles": ["shopper"]}, namespace=fields["username"], **claims,
        )  # fmt: skip

    def disable(self, subject):
        self.users[subject]["enabled"] = False
        self.admin_event(resourcePath=f"users/{subject}", representation=json.dumps(self.user(subject)))
        return time.monotonic()

    def administration(self, path, query):
        match path:
            case ["users"] if "enabled" not in query:
                first, most = int(query.get("first", 0)), int(query.get("max", 100))
                return 200, [self.user(each) for each in self.users][first : first + most]
            case ["users", subject, "role-mappings", "realm", "composite"] if subject in self.users:
                return 200, [{"id": "r1", "name": "shopper"}]
            case ["users", subject, "groups"] if subject in self.users:
                return 200, []
        return super().administration(path, query)


def certificate(folder):
    """A certificate for this machine, which is its own authority: `server.pem` and `server.key`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name.from_rfc4514_string("CN=postern"), datetime.datetime.now(datetime.UTC)
    addresses = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=5)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(addresses, critical=False).add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "server.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.key").write_bytes(pem)


def authentication(postern, realm):
    """What deploy/kubernetes says for an API server that takes Postern's tokens, with the URLs and the authority of this run."""
    text = (BASE / "authentication-configuration.yaml").read_text()
    block = "\n".join(" " * 8 + line for line in postern.authority.strip().splitlines())
    text = re.sub(r" {8}-----BEGIN.*-----END CERTIFICATE-----", lambda _: block, text, flags=re.S)
    for sample, ours in (("https://postern.example.com", postern.url), ("https://keycloak.example.com/realms/demo", realm.url)):
        assert text.count(sample) == 1, f"{sample} stands {text.count(sample)} times in the sample"
        text = text.replace(sample, ours)
    return text


def whoami(caller):
    """Who the API server says that somebody is."""
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    return caller.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)


class Gateway(Postern):
    """Postern over TLS, which takes tokens of the realm and of the cluster, and keeps users' tokens."""

    def configuration(
        self, upstream, realm, *, cluster, token, namespaces=(), accounts=("*",), audience="postern", ahead=None, more="",
    ):
        if ahead:  # its wall clock is wrong by so much
            self.environment = {"LD_PRELOAD": FAKETIME, "FAKETIME": ahead, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        self.url = f"https://127.0.0.1:{self.port}"
        certificate(self.folder)
        self.authority = (self.folder / "server.pem").read_text()
        self.trust = ssl.create_default_context(cadata=self.authority)
        (self.folder / "cluster.pem").write_text(cluster.authority)
        (self.folder / "cluster.token").write_text(token)
        for name, secret in CLIENTS.items():
            (self.folder / f"{name}.pw").write_text(secret)
        discovery = cluster.admin.get("/.well-known/openid-configuration").json
        keys = urllib.parse.urlsplit(discovery["jwks_uri"])
        # A route for each namespace that takes what Postern keeps for its user.
        own = "".join(
            f'\n[[route]]\npath = "/own/{name}/**"\nupstream = "orders"\nissuers = ["self"]\naccess = {{ namespace = "{name}" }}\n'
            for name in namespaces
        )
        clients = "".join(
            f'[token_service.clients.{name}]\nsecret = {{ file = "{name}.pw" }}\naudience = "{name}-api"\n\n' for name in CLIENTS
        )
        upstreams = "".join(
            f'[upstream.{name}]\nto = "{upstream.url}"\naudience = "{audience}"\n\n'
            for name, audience in (("orders", "orders-api"), ("billing", "billing-api"), ("kubernetes-echo", API_AUDIENCE))
        )
        return f"""version = 1

[server]
listen = "127.0.0.1:{self.port}"
tls = {{ certificate = "server.pem", key = "server.key" }}
drain_wait = "0s"

[admin]
listen = "127.0.0.1:{self.admin_port}"

[state]
path = "state"

[log]
level = "debug"
access = {{ file = "access.log" }}
audit = {{ file = "audit.log" }}

[token_service]
issuer = "{self.url}"

{clients}[delivery]
issuer = "main"

[issuer.main]
url = "{realm.url}"
audience = "gateway"

[issuer.main.user_status.keycloak]
client_id = "gateway"
client_secret = {{ file = "client.pw" }}
admin_url = "{realm.url}/admin"
bound = "4s"

[issuer.cluster]
kind = "kubernetes"
url = "{discovery["issuer"]}"
address = "{cluster.server}"
endpoint_origins = ["{keys.scheme}://{keys.netloc}"]
ca = "cluster.pem"
token = {{ file = "cluster.token" }}
audience = "{audience}"
leeway = "1s"
user_status = "none"
user_tokens = {json.dumps(list(accounts))}

{upstreams}[upstream.kubernetes]
to = "{cluster.server}"
tls = {{ ca = "cluster.pem" }}
audience = "{API_AUDIENCE}"

{ROUTES}{own}{more}"""

    def call(self, path="/orders/1", token=None, method="GET", headers=None, form=None):
        """A request over TLS, on a connection of its own."""
        headers = {**(headers or {}), **({"authorization": f"Bearer {token}"} if token is not None else {})}
        body = None
        if form is not None:
            body, headers["content-type"] = urllib.parse.urlencode(form), "application/x-www-form-urlencoded"
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=15, context=self.trust)
        try:
            sent_at = time.monotonic()
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return web.Answer(response.status, response.headers, response.read(), sent_at)
        finally:
            connection.close()

    def judged(self, path, token):
        return web.judged(lambda: self.call(path, token), 8)

    def given(self, path, token):
        """The token that an upstream is given for a caller."""
        answer = self.judged(path, token)
        assert answer.status == 200, answer
        return self.note(answer.received.bearer)

    def own(self, token):
        """The user token that is kept, for a Keycloak token or that of a pod."""
        answer = self.judged("/token", token)
        assert answer.status == 200, answer
        return self.note(answer.json["access_token"])

    def note(self, token):
        """It must show up in no log."""
        self._keycloak.issued.add(token)
        return token

