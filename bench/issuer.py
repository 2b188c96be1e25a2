"""A small issuer shaped like Keycloak, for load: discovery, keys, introspection, the password grant, and controls.

    issuer.py --work DIR [--port 0] [--pool NAME:ALG:TOKENS:USERS]...

A pool is a file DIR/NAME.txt of tokens, one a line, spread over USERS users, minted before the issuer answers. When it
is ready it prints its URL. Controls, all POST:

    /control/rotate                    a new signing key at once; the one before stays published, older ones go
    /control/disable?user=NAME&at=MS   from that moment (Unix milliseconds; default now) introspection says inactive
    /control/counts                    how often each path was asked for
"""

import argparse
import asyncio
import base64
import json
import time
import uuid
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

REALM = "/realms/demo"
CONNECT = REALM + "/protocol/openid-connect"
CLIENT = ("gateway", "gateway-secret")
LIFETIME = 10 * 3600


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def unsigned(number):
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def now_ms():
    return time.time_ns() // 1_000_000


class RsaKey:
    def __init__(self, kid):
        self.kid, self.private = kid, rsa.generate_private_key(65537, 2048)
        self.public = self.private.public_key()

    def sign(self, message):
        return self.private.sign(message, padding.PKCS1v15(), SHA256())

    def verify(self, signature, message):
        self.public.verify(signature, message, padding.PKCS1v15(), SHA256())

    def jwk(self):
        n = self.public.public_numbers()
        return {"kty": "RSA", "n": encode(unsigned(n.n)), "e": encode(unsigned(n.e))}


class EcKey:
    def __init__(self, kid):
        self.kid, self.private = kid, ec.generate_private_key(ec.SECP256R1())
        self.public = self.private.public_key()

    def sign(self, message):
        r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def verify(self, signature, message):
        r, s = (int.from_bytes(part, "big") for part in (signature[:32], signature[32:]))
        self.public.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))

    def jwk(self):
        n = self.public.public_numbers()
        return {
            "kty": "EC",
            "crv": "P-256",
            "x": encode(n.x.to_bytes(32, "big")),
            "y": encode(n.y.to_bytes(32, "big")),
        }


KINDS = {"RS256": RsaKey, "ES256": EcKey}


class Issuer:
    """The realm: its keys, whom it has disabled, and what it answers."""

    def __init__(self, base):
        self.url, self.generation = base + REALM, 0
        self.keys = {}  # kid: (algorithm, key), oldest first
        self.disabled = {}  # user name: from when, in ms
        self.counts = Counter()
        self.rotate()

    def rotate(self):
        """Keys of a new generation, which sign from now on. The generation before stays published."""
        self.generation += 1
        old = f"-{self.generation - 2}"
        self.keys = {kid: key for kid, key in self.keys.items() if not kid.endswith(old)}
        for algorithm, kind in KINDS.items():
            kid = f"{algorithm}-{self.generation}"
            self.keys[kid] = (algorithm, kind(kid))

    def mint(self, user, algorithm):
        now = int(time.time())
        subject = str(uuid.uuid5(uuid.NAMESPACE_URL, user))
        kid = f"{algorithm}-{self.generation}"
        claims = {
            "exp": now + LIFETIME,
            "iat": now,
            "jti": "onrtro:" + str(uuid.uuid4()),
            "iss": self.url,
            "aud": ["api", "account"],
            "sub": subject,
            "typ": "Bearer",
            "azp": "cli",
            "sid": str(uuid.uuid4()),
            "acr": "1",
            "allowed-origins": ["http://localhost:3000"],
            "realm_access": {"roles": ["offline_access", "uma_authorization", "default-roles-demo"]},
            "resource_access": {"account": {"roles": ["manage-account", "manage-account-links", "view-profile"]}},
            "scope": "openid profile email",
            "email_verified": True,
            "name": f"Load {user}",
            "namespace": user,
            "preferred_username": user,
            "given_name": "Load",
            "family_name": user,
            "email": f"{user}@example.com",
        }
        header = {"alg": algorithm, "typ": "JWT", "kid": kid}
        text = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
        return text + "." + encode(self.keys[kid][1].sign(text.encode()))

    def introspect(self, token):
        """RFC 7662: the claims of a token that is good and whose user is enabled, else only that it is not active."""
        try:
            text, _, signature = token.rpartition(".")
            head, payload = (json.loads(decode(part)) for part in text.split("."))
            self.keys[head["kid"]][1].verify(decode(signature), text.encode())
        except (ValueError, KeyError, InvalidSignature):
            return {"active": False}
        user = payload["preferred_username"]
        if payload["exp"] <= time.time() or now_ms() >= self.disabled.get(user, now_ms() + 1):
            return {"active": False}
        return payload | {"active": True, "client_id": payload["azp"], "username": user, "token_type": "Bearer"}

    def answer(self, method, target, headers, body):
        """Status and JSON of the answer to one request."""
        parts = urlsplit(target)
        query, form = dict(parse_qsl(parts.query)), parse_qs(body)
        self.counts[parts.path] += 1
        match method, parts.path:
            case "GET", path if path == REALM + "/.well-known/openid-configuration":
                return 200, {
                    "issuer": self.url,
                    "jwks_uri": self.endpoint("/certs"),
                    "token_endpoint": self.endpoint("/token"),
                    "introspection_endpoint": self.endpoint("/token/introspect"),
                }
            case "GET", path if path == CONNECT + "/certs":
                published = [
                    key.jwk() | {"kid": kid, "alg": algorithm, "use": "sig"}
                    for kid, (algorithm, key) in self.keys.items()
                ]
                return 200, {"keys": published}
            case "POST", path if path == CONNECT + "/token/introspect":
                if not is_client(headers, form):
                    return 401, {"error": "unauthorized_client"}
                return 200, self.introspect(form.get("token", [""])[0])
            case "POST", path if path == CONNECT + "/token":
                return 200, {
                    "access_token": self.mint(form["username"][0], "ES256"),
                    "token_type": "Bearer",
                    "expires_in": LIFETIME,
                }
            case "POST", "/control/rotate":
                self.rotate()
                return 200, {"generation": self.generation}
            case "POST", "/control/disable":
                at = int(query.get("at", now_ms()))
                self.disabled[query["user"]] = at
                return 200, {"at": at}
            case "POST", "/control/counts":
                return 200, self.counts
        return 404, {"error": "not_found"}

    def endpoint(self, path):
        return self.url.removesuffix(REALM) + CONNECT + path


def is_client(headers, form):
    """Whether the caller is Postern's client, by HTTP Basic or by form (RFC 6749 section 2.3.1)."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        return decode(value.strip().replace("+", "-").replace("/", "_").rstrip("=")).decode() == ":".join(CLIENT)
    return (form.get("client_id"), form.get("client_secret")) == tuple([value] for value in CLIENT)


async def serve(issuer, reader, writer):
    """The requests of one connection, one after another."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = head[0].split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            body = (await reader.readexactly(int(headers.get("content-length", 0)))).decode()
            status, answer = issuer.answer(method, target, headers, body)
            data = json.dumps(answer).encode()
            top = f"HTTP/1.1 {status} Answer\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
            writer.write(top.encode() + data)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--pool", action="append", default=[])
    options = parser.parse_args()
    server = await asyncio.start_server(
        lambda r, w: serve(issuer, r, w), "127.0.0.1", options.port, backlog=1024, start_serving=False
    )
    issuer = Issuer("http://127.0.0.1:%d" % server.sockets[0].getsockname()[1])
    for pool in options.pool:
        name, algorithm, tokens, users = pool.split(":")
        with (options.work / f"{name}.txt").open("w") as file:
            for i in range(int(tokens)):
                file.write(issuer.mint(f"user-{i % int(users)}", algorithm) + "\n")
    async with server:
        await server.start_serving()
        print(issuer.url, flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
