"""What the tests share: a real Keycloak, a real API server with deploy/kubernetes applied, and Postern in both roles between them.

Two replicas of the token service, and two gateways: one before an upstream, one before the API server.
"""

import datetime
import ipaddress
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[1:1] = [str(HERE.parent / suite) for suite in ("keycloak", "kubernetes", "users")]  # what they have is used here too

import counting  # noqa: E402
import figures  # noqa: E402
import pytest  # noqa: E402
import web  # noqa: E402
from cluster import BASE, WEBHOOK, Cluster  # noqa: E402
from counting import *  # noqa: E402, F403  the hooks of pytest
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from front import Front  # noqa: E402
from keycloak import Keycloak  # noqa: E402
from parts import Gateway, SecureGateway, TokenService  # noqa: E402
from postern import all_stopped  # noqa: E402
from upstream import Upstream  # noqa: E402
from watching import Watch, let_read  # noqa: E402

_failed = {}  # by module: the step of its story that failed


def pytest_configure(config):
    counting.pytest_configure(config)
    config.addinivalue_line("markers", "story: a step that needs the steps before it")


def pytest_terminal_summary(terminalreporter):
    figures.show(terminalreporter, "seconds from what was done to what the API server then held")


def pytest_runtest_makereport(item, call):
    if call.excinfo and item.get_closest_marker("story") and not call.excinfo.errisinstance(pytest.skip.Exception):
        _failed.setdefault(item.module.__name__, item.name)


def pytest_runtest_setup(item):
    """The cases of a story follow from each other: after one that failed the others say nothing."""
    failed = item.get_closest_marker("story") and _failed.get(item.module.__name__)
    if failed:
        pytest.fail(f"an earlier step of this story failed: {failed}", pytrace=False)


@pytest.fixture(scope="session")
def keycloak():
    server = Keycloak()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def upstream():
    server = Upstream()
    yield server
    server.close()


@pytest.fixture(scope="session")
def cluster():
    """The API server, with the base applied and in force."""
    with tempfile.TemporaryDirectory(prefix="postern-cluster-") as folder:  # a short path: the server's socket lies in it
        server = Cluster(Path(folder))
        try:
            server.start()
            apply(server)
            yield server
        finally:
            server.stop()


def apply(cluster):
    cluster.admin.kubectl("apply", "-k", BASE)
    for name in ("postern-gateway", "postern-token-service"):
        cluster.await_account("postern", name)
    probe = cluster.account("postern", "postern-token-service")
    web.eventually(  # of the last one that was applied
        "the policies are in force",
        lambda: "postern-webhook" in probe.merge(WEBHOOK, {"webhooks": []}, "dryRun=All").message,
    )


@pytest.fixture(scope="session")
def admin(cluster):
    return cluster.admin


@pytest.fixture(scope="session")
def watch(cluster):
    watch = Watch(cluster)
    yield watch
    watch.stop()


@pytest.fixture(scope="session")
def parts(keycloak, upstream, cluster, watch, tmp_path_factory):
    """All processes of Postern, started at the same time; in the end each is stopped, and its log searched for secrets."""
    with all_stopped() as running:

        def new(kind, name, account, **settings):
            caller = cluster.account("postern", account)
            part = kind(
                tmp_path_factory.mktemp(name), upstream, keycloak, name=name, cluster=cluster, account=caller, **settings
            )
            running.append(part)
            return part

        gateway = new(Gateway, "postern-gateway-0", "postern-gateway")
        own = {"issuer": gateway.url}
        certificate, key = serving_certificate()
        secure = new(SecureGateway, "postern-gateway-1", "postern-gateway", certificate=certificate, key=key, **own)
        services = [new(TokenService, f"postern-token-service-{number}", "postern-token-service", **own) for number in (0, 1)]
        for part in running:
            part.start(until_ready=False)
        for part in running:
            web.eventually(f"{part.name} is ready", lambda part=part: part.readiness() == 200, limit=60)
        yield {"gateway": gateway, "secure": secure, "services": services}
        seen = {change.token for changes in watch.all() for change in changes if change.token}
        for part in running:
            part.tokens |= {token for token in seen if token.count(".") == 2}


def serving_certificate():
    """For 127.0.0.1, signed by itself: certificate and key (PEM)."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name.from_rfc4514_string("CN=127.0.0.1"), datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=5)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(*private)


@pytest.fixture(scope="session")
def gateway(parts):
    return parts["gateway"]


@pytest.fixture(scope="session")
def secure(parts):
    """The gateway before the API server."""
    return parts["secure"]


@pytest.fixture(scope="session")
def services(parts):
    """The replicas of the token service."""
    return parts["services"]


@pytest.fixture(scope="session")
def operator(keycloak):
    """A token of somebody who may operate Postern."""
    return keycloak.login(keycloak.new_user(roles=["postern-operator"]))


@pytest.fixture(scope="session")
def reading(cluster):
    """Where a client lives that reads users' tokens, as ServiceAccount `reader`."""
    place = cluster.new_namespace("notebooks")
    return place, let_read(cluster, [], place)


@pytest.fixture(scope="session")
def service(cluster, services):
    """The Service `postern-webhook`: here its name leads to this machine, where one of the replicas answers."""
    front = Front(*(each.webhook_port for each in services))
    path = "/api/v1/namespaces/postern/services/postern-webhook"
    moved = cluster.admin.merge(path, {"spec": {"type": "ExternalName", "externalName": "127.0.0.1", "selector": None}})
    assert moved.status == 200, moved
    hooks = cluster.admin.get(WEBHOOK).json["webhooks"]
    hooks[0]["clientConfig"]["service"]["port"] = front.port
    moved = cluster.admin.merge(WEBHOOK, {"webhooks": hooks})
    assert moved.status == 200, moved
    yield front
    front.close()
