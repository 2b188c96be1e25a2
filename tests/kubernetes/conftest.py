"""What the tests share: one API server with the base applied, Postern's two accounts, one user's namespace."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "keycloak"))  # what all suites use lies there

import pytest  # noqa: E402
import web  # noqa: E402
from cluster import BASE, BOUND, RBAC, TOKEN, WEBHOOK, Caller, Cluster  # noqa: E402
from cluster import namespace, role_binding, secret, service_account, token_of  # noqa: E402
from counting import *  # noqa: E402, F403  the hooks of pytest
from postern import all_stopped  # noqa: E402
from realm import Gateway, Realm, authentication, whoami  # noqa: E402
from upstream import Upstream  # noqa: E402


@pytest.fixture(scope="session")
def cluster():
    # A short path: the server's socket lies in it.
    with tempfile.TemporaryDirectory(prefix="postern-cluster-") as folder:
        server = Cluster(Path(folder))
        try:
            yield server.start()
        finally:
            server.stop()


@pytest.fixture(scope="session")
def admin(cluster):
    return cluster.admin


@pytest.fixture(scope="session", autouse=True)
def base(cluster):
    """deploy/kubernetes, applied and in force: the API server reads its policies once a second."""
    cluster.admin.kubectl("apply", "-k", BASE)
    for name in ("postern-gateway", "postern-token-service"):
        cluster.await_account("postern", name)
    probe = cluster.account("postern", "postern-token-service")
    web.eventually(  # of the last one that was applied
        "the policies are in force",
        lambda: "postern-webhook" in probe.merge(WEBHOOK, {"webhooks": []}, "dryRun=All").message,
    )


@pytest.fixture(scope="session")
def gateway(cluster, base):
    return cluster.account("postern", "postern-gateway")


@pytest.fixture(scope="session")
def token_service(cluster, base):
    return cluster.account("postern", "postern-token-service")


@pytest.fixture(scope="session")
def home(cluster, token_service):
    return make_home(cluster, token_service, "alice")


def make_home(cluster, token_service, user):
    """The namespace of a user, made as the token service makes it: with no right but its own."""
    name = cluster.new_name(user)
    inside = f"/api/v1/namespaces/{name}"
    made = [
        token_service.create("/api/v1/namespaces", namespace(name, mark=user)),
        token_service.apply(f"{inside}/secrets/access-token", secret("access-token", AUTH_TOKEN=TOKEN)),
        token_service.apply(f"{inside}/secrets/postern-session", secret("postern-session")),
        token_service.apply(f"{inside}/serviceaccounts/postern-user", service_account("postern-user")),
        token_service.apply(
            f"{RBAC}/namespaces/{name}/rolebindings/postern-user",
            role_binding("postern-user", "postern-user", [(name, "postern-user")]),
        ),
    ]
    assert [answer.status for answer in made] == [201] * len(made), made
    cluster.await_account(name, "default")
    return name


@pytest.fixture(scope="session")
def user(cluster, gateway, home):
    """A user's kubectl: a token of `postern-user`, made by the gateway with no right but its own."""
    return Caller(cluster, "postern-user", token_of(gateway, home, "postern-user", boundObjectRef=BOUND))


@pytest.fixture(scope="session")
def foreign(cluster, admin):
    """A namespace that is nobody's business, with the same names in it as in a user's."""
    name = cluster.new_namespace("foreign")
    for each in ("access-token", "postern-session", "other"):
        assert admin.create(f"/api/v1/namespaces/{name}/secrets", secret(each, AUTH_TOKEN="foreign")).status == 201
    made = admin.create(f"/api/v1/namespaces/{name}/serviceaccounts", service_account("postern-user"))
    assert made.status == 201, made
    return name


@pytest.fixture(scope="session")
def realm():
    server = Realm()
    yield server
    server.close()


@pytest.fixture(scope="session")
def upstream():
    server = Upstream()
    yield server
    server.close()


@pytest.fixture(scope="session")
def new_postern(cluster, gateway, realm, upstream, tmp_path_factory):
    """Starts Postern before the API server; each is stopped, and its log searched for secrets, when the tests are over."""
    with all_stopped() as gateways:

        def start(until_ready=True, **settings):
            # A ServiceAccount without further rights may read the cluster's keys.
            settings = {"cluster": cluster, "token": gateway.token, **settings}
            made = Gateway(tmp_path_factory.mktemp("postern"), upstream, realm, **settings)
            gateways.append(made)
            return made.start(until_ready)

        yield start


@pytest.fixture(scope="session")
def people(cluster, realm):
    """Users by their namespaces, which are there."""
    return {name: realm.new_user(name) for name in (cluster.new_namespace("own", mark="somebody") for _ in range(6))}


@pytest.fixture(scope="session")
def postern(new_postern, people):
    return new_postern(namespaces=tuple(people))


@pytest.fixture(scope="session")
def consumer(cluster, postern, realm, people):
    """The API server, once it takes Postern's tokens beside its own."""
    if not cluster.is_own:
        pytest.skip("the flags of somebody else's API server are not ours")
    cluster.set_authentication(authentication(postern, realm))
    user = Caller(cluster, "user", postern.given("/as-kubernetes/1", realm.login(next(iter(people.values())))))
    web.eventually("the API server takes Postern's tokens", lambda: whoami(user).status == 201, limit=120)
    return cluster


FIGURES = []


@pytest.fixture
def record_figure():
    """Takes a line that is shown at the end."""
    return FIGURES.append


def pytest_terminal_summary(terminalreporter):
    for line in FIGURES:
        terminalreporter.write_line(line)
