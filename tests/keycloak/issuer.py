"""A small issuer for the algorithms that the realm's clients do not offer: discovery, keys, introspection."""

import json
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from upstream import Server

CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


class Issuer(Server):
    """Listens on a free port of loopback; `self.url` is its `iss`."""

    def __init__(self):
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                length = int(self.headers.get("content-length", 0))
                form = dict(urllib.parse.parse_qsl(self.rfile.read(length).decode()))
                status, document = issuer.answer(self.command, self.path, form)
                # A document is JSON; bytes are HTML, as a broken proxy before an issuer sends it.
                is_html = isinstance(document, bytes)
                payload = document if is_html else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-type", "text/html" if is_html else "application/json")
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_):
                pass

        self.keys = {}
        self.issued = set()
        rsa_key = rsa.generate_private_key(65537, 2048)
        for algorithm in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"):
            self.keys[algorithm] = rsa_key
        for algorithm, curve in CURVES.items():
            self.keys[algorithm] = ec.generate_private_key(curve())
        self.keys["EdDSA"] = ed25519.Ed25519PrivateKey.generate()
        super().__init__(Handler)

    def answer(self, method, path, form):
        """Status and document of an answer."""
        if path == "/.well-known/openid-configuration":
            return 200, self.discovery()
        if path == "/keys":
            return 200, self.key_set()
        if path == "/introspect" and method == "POST":
            return 200, self.introspection(form["token"])
        return 404, {}

    def discovery(self):
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "introspection_endpoint": f"{self.url}/introspect",
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": sorted(self.keys),
        }

    def key_set(self):
        keys = []
        for algorithm, key in self.keys.items():
            jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
            jwk.pop("key_ops", None)
            keys.append({**jwk, "kid": algorithm, "alg": algorithm, "use": "sig"})
        return {"keys": keys}

    def introspection(self, token):
        if token not in self.issued:
            return {"active": False}
        return {"active": True, **jwt.decode(token, options={"verify_signature": False})}

    def token(self, algorithm, **claims):
        """An access token for the gateway. `claims` override the defaults; `iss` among them."""
        now = int(time.time())
        payload = {
            "iss": self.url, "aud": "gateway", "sub": "f:1:erin", "iat": now, "exp": now + 600, "jti": uuid.uuid4().hex,
            "typ": "Bearer", "azp": "cli", "preferred_username": "erin", "namespace": "team-e", **claims,
        }
        token = jwt.encode(payload, self.keys[algorithm], algorithm=algorithm, headers={"kid": algorithm})
        self.issued.add(token)
        return token
