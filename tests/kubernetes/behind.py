"""Postern before the API server, and the issuer of those who call it."""

import datetime
import ipaddress
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from postern import Postern

ROBOT = "robot.example"  # the host of a route whose credential is stored in Kubernetes


class Behind(Postern):
    """The API server as its callers see it through Postern; to `Caller` it is a cluster."""

    def __init__(self, folder, cluster, gateway, issuer):
        self._cluster = cluster
        super().__init__(folder, None, issuer)
        self.server = f"https://127.0.0.1:{self.port}"
        key = ec.generate_private_key(ec.SECP256R1())
        self.authority = certificate(key)
        self.trust = ssl.create_default_context(cadata=self.authority)
        (folder / "server.pem").write_text(self.authority)
        (folder / "server.key").write_text(pem(key))
        (folder / "signing.pem").write_text(pem(ec.generate_private_key(ec.SECP256R1())))
        (folder / "cluster-ca.pem").write_text(cluster.authority)
        (folder / "gateway.kubeconfig").touch(0o600)
        (folder / "gateway.kubeconfig").write_text(gateway.kubeconfig_text())

    def configuration(self, _upstream, issuer):
        return f"""version = 1

[server]
listen = "127.0.0.1:{self.port}"
tls = {{ certificate = "server.pem", key = "server.key" }}
drain_wait = "0s"
drain_deadline = "1s"

[admin]
listen = "127.0.0.1:{self.admin_port}"

[log]
level = "debug"
access = {{ file = "access.log" }}

[kubernetes]
role = "gateway"
kubeconfig = "gateway.kubeconfig"
namespace = "postern"

[token_service]
issuer = "https://postern.example.com"
signing_keys = {{ files = ["signing.pem"] }}

[issuer.main]
url = "{issuer.url}"
audience = "gateway"
user_status = "none"

[upstream.kubernetes]
to = "{self._cluster.server}"
tls = {{ ca = "cluster-ca.pem" }}
protocol = "http1"
upgrades = ["websocket", "spdy/3.1"]
idle_timeout = "1h"

[[route]]
name = "kubernetes"
path = "/**"
upstream = "kubernetes"
credential = {{ service-account = {{ namespace = "claimed" }} }}

[[route]]
name = "robot"
host = "{ROBOT}"
path = "/**"
upstream = "kubernetes"
credential = {{ secret = {{ kubernetes = {{ secret = "robot", key = "token" }}, prefix = "Bearer " }} }}

[[route]]
name = "recorded"
host = "recorded.example"
path = "/**"
upstream = "kubernetes"
credential = "service-account"
"""

    def leaks(self, *further_texts):
        """Whatever looks like a token: the header of each begins like this."""
        text = "\n".join((self.log(), *further_texts))
        return ["a JWT"] if "eyJhbGciOi" in text else []


def pem(key):
    encoding, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    return key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, no_password).decode()


def certificate(key):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "postern")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
