"""A small issuer for the algorithms that the realm's clients do not offer: discovery, keys, introspection."""

import json
import threading
import time
import urllib.parse
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


class Issuer:
    """Listens on a free port of loopback; `self.url` is its `iss`."""

    def __init__(self):
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                documents = {"/.well-known/openid-configuration": issuer.discovery, "/keys": issuer.key_set}
                document = documents.get(self.path)
                self.reply(200 if document else 404, document() if document else {})

            def do_POST(self):
                form = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                self.reply(200, issuer.introspection(urllib.parse.parse_qs(form)["token"][0]))

            def reply(self, status, document):
                payload = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.keys = {}
        self.issued = set()
        rsa_key = rsa.generate_private_key(65537, 2048)
        for algorithm in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"):
            self.keys[algorithm] = rsa_key
        for algorithm, curve in CURVES.items():
            self.keys[algorithm] = ec.generate_private_key(curve())
        self.keys["EdDSA"] = ed25519.Ed25519PrivateKey.generate()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

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
