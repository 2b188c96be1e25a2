"""Reloads of the configuration and changes of the certificate, under load."""

import datetime
import ipaddress
import signal
import socket
import ssl
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from held import Events, KeptConnection, Upload, WebSocket
from lab import OUT, RETRY, Lab, until

# What a reload may change, taken in turn: the pipeline, the endpoints, the issuer with all that is known of it, the token service.
VARIANTS = [
    {"ROUTE": 'headers = { x-user = "sub" }'},
    {"UPSTREAM": f'{RETRY}\n{OUT}\nresponse_timeout = "29s"'},
    {"BOUND": "31s"},
    {"TO": "last"},
    {"UPSTREAM": f'{RETRY}\n{OUT}\nhealth_check = {{ path = "/healthz" }}\nslow_start = "1s"'},
    {"ROUTE": 'access = { claims = { typ = "Bearer" } }'},
]


def reloads(report, full):
    """the file changes again and again, and each tenth time it is broken"""
    times = 200 if full else 20
    with Lab() as lab:
        gateway = lab.gateway()
        usual = {"ROUTE": "", "UPSTREAM": f"{RETRY}\n{OUT}", "BOUND": "30s"}
        everything = ", ".join(f'"http://127.0.0.1:{backend.port}"' for backend in lab.backends)
        fewer = ", ".join(f'"http://127.0.0.1:{backend.port}"' for backend in lab.backends[1:])
        with lab.load(gateway.url) as load:
            held = [Events(gateway, 5), Upload(gateway), WebSocket(gateway), KeptConnection(gateway)]
            good = 0
            for number in range(times):
                variant = VARIANTS[number % len(VARIANTS)] if number % 2 else {}
                changes = usual | {"TO": everything} | variant
                if changes["TO"] == "last":
                    changes["TO"] = fewer
                if number % 10 == 9:
                    gateway.reload("failed", ROUTE="nonsense = 1")
                else:
                    gateway.reload(**changes)
                    good += 1
                load.go_on(0.1)
            wrong = {type(one).__name__: one.done() for one in held}
        report.row(f"{times} reloads", load)
        report.check(not any(wrong.values()), f"what was open across reloads ended well: {wrong}")
        report.check(lab.effects_twice() == 0, "no request that is no GET was sent twice")
        report.say(f"{good} files were taken, {times - good} refused")


class Authority:
    """Makes certificates for 127.0.0.1."""

    def __init__(self, folder):
        self.folder, self.key = folder, ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The suite's authority")])
        self.file = folder / "authority.pem"
        certificate = self.build(self.name, self.key, ca=True)
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def build(self, subject, key, ca=False):
        now = datetime.datetime.now(datetime.timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self):
        """Writes a new key and a new certificate, one after the other as an operator does; gives the serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
        certificate = self.build(subject, key)
        pem, none = serialization.Encoding.PEM, serialization.NoEncryption()
        self.write("server.pem", certificate.public_bytes(pem))
        time.sleep(0.05)  # a reload may see one without the other, which is a mistake, and keeps the old ones
        self.write("server.key", key.private_bytes(pem, serialization.PrivateFormat.PKCS8, none))
        return certificate.serial_number

    def write(self, name, data):
        new = self.folder / f"{name}.new"
        new.write_bytes(data)
        new.rename(self.folder / name)


def certificates(report, full):
    """the certificate is replaced while each request makes a handshake of its own, and one connection is kept"""
    times = 20 if full else 2
    with Lab() as lab:
        authority = Authority(lab.work)
        authority.issue()
        tls = f'tls = {{ certificate = "{lab.work}/server.pem", key = "{lab.work}/server.key" }}'
        gateway = lab.gateway(SERVER=tls)
        context = ssl.create_default_context(cafile=authority.file)

        def served():
            with socket.create_connection(("127.0.0.1", gateway.port), 30) as plain:
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                    return x509.load_der_x509_certificate(connection.getpeercert(True)).serial_number

        trust = {"SSL_CERT_FILE": str(authority.file)}
        with lab.load(gateway.url, mix={"get": 6, "post": 3}, fresh=True, environment=trust) as load:
            kept = KeptConnection(gateway, lambda plain: context.wrap_socket(plain, server_hostname="127.0.0.1"))
            for number in range(times):
                serial = authority.issue()
                if number % 2:
                    # Else it is seen by itself, within two seconds.
                    gateway.child.send_signal(signal.SIGHUP)
                until("the new certificate is served", lambda: served() == serial)  # noqa: B023
                load.go_on(0.2)
            wrong = kept.done()
        report.row(f"{times} new certificates", load)
        report.check(wrong is None, f"the kept connection was served on: {kept.count} requests, {wrong or 'each answered'}")
