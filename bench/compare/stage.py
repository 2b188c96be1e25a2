"""What every contender stands between: an upstream and an issuer that answer at once, both nginx, and tokens of that issuer."""

import base64
import datetime
import ipaddress
import json
import os

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from harness import ANSWER, free_port
from issuer import CONNECT, REALM, Issuer
from scenarios import KIB, MIB

DISCOVERY, KEYS, INTROSPECTION = REALM + "/.well-known/openid-configuration", CONNECT + "/certs", CONNECT + "/token/introspect"
# What of a token's claims is its holder's own. The issuer is files, so its answers about tokens cannot say it.
PERSONAL = {"jti", "sub", "sid", "name", "namespace", "preferred_username", "given_name", "family_name", "email"}


class Stage:
    """The first core is the proxy's; upstream, issuer and load share the second."""

    def __init__(self, bench, fresh):
        """`fresh`: how many tokens there are of each kind that are seen but once."""
        self.bench = bench
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise RuntimeError("this takes two cores: one for the proxy, one for the load and the upstream")
        self.proxy, self.beside = (["taskset", "-c", str(core)] for core in cores[:2])
        self.both = ["taskset", "-c", f"{cores[0]},{cores[1]}"]
        self.ca, self.certificate, self.key = (bench.work / name for name in ("ca.pem", "server.pem", "server.key"))
        self.write_certificates()
        self.upstream, self.upstream_tls = free_port(), free_port()
        self.start_upstream()
        self.start_issuer()
        self.pools = {"tokens": ("RS256", 1000), "few": ("RS256", 8), "many": ("ES256", 100_000)}
        self.pools |= {"fresh-RS256": ("RS256", fresh), "fresh-ES256": ("ES256", fresh)}

    def pool(self, name):
        """A file of tokens of a thousand users, one a line, minted when they are first asked for."""
        file = self.bench.work / f"{name}.txt"
        if not file.exists():
            algorithm, count = self.pools[name]
            file.write_text("".join(self.issuer.mint(f"user-{number % 1000}", algorithm) + "\n" for number in range(count)))
        return file

    def tokens(self, name):
        return self.pool(name).read_text().split()

    def start_upstream(self):
        work = self.bench.work
        for name, size in ("100k", 100 * KIB), ("10m", 10 * MIB):
            (work / name).write_bytes(b"b" * size)
        server = (
            f"listen 127.0.0.1:{self.upstream_tls} ssl; ssl_certificate {self.certificate}; ssl_certificate_key {self.key}; "
            f"default_type application/json; client_max_body_size 0; client_body_buffer_size 16m; location / {{ return 200 '{ANSWER}'; }} "
            f"location = /api/100k {{ alias {work}/100k; }} location = /api/10m {{ alias {work}/10m; }} "
            # `return` would answer before the body has come; who passes a request on reads it first.
            f"location = /api/upload {{ proxy_pass http://127.0.0.1:{self.upstream}/; proxy_pass_request_body off; "
            'proxy_set_header Content-Length ""; }'
        )
        command = self.bench.nginx_command("upstream", self.upstream, server, "sendfile on;")
        self.bench.start(command, self.upstream, self.beside)

    def start_issuer(self):
        """It knows every token as active, and says as much about each as Keycloak does but for what is its holder's own."""
        port = free_port()
        self.issuer = Issuer(f"http://127.0.0.1:{port}")
        payload = self.issuer.mint("somebody", "RS256").split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        about = {name: value for name, value in claims.items() if name not in PERSONAL}
        about |= {"active": True, "client_id": claims["azp"], "token_type": "Bearer"}
        answers = {path: self.issuer.answer("GET", path, {}, "")[1] for path in (DISCOVERY, KEYS)}
        self.jwks = json.dumps(answers[KEYS])
        server = "default_type application/json; " + " ".join(
            f"location = {path} {{ return 200 '{json.dumps(answer)}'; }}"
            for path, answer in (answers | {INTROSPECTION: about}).items()
        )
        self.bench.start(self.bench.nginx_command("issuer", port, server), port, self.beside)
        for algorithm, key in self.issuer.keys.values():
            pem = key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            (self.bench.work / f"{algorithm}.pem").write_bytes(pem)

    def write_certificates(self):
        """An authority, and a certificate of it for 127.0.0.1."""
        authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
        self.ca.write_bytes(signed("bench authority", authority, authority, x509.BasicConstraints(True, None)))
        self.certificate.write_bytes(signed("localhost", server, authority, x509.BasicConstraints(False, None), names))
        self.key.write_bytes(server.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def signed(name, key, authority, *extensions):
    now = datetime.datetime.now(datetime.UTC)
    called = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])  # noqa: E731
    builder = (
        x509.CertificateBuilder()
        .subject_name(called(name))
        .issuer_name(called("bench authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(authority, SHA256()).public_bytes(Encoding.PEM)
