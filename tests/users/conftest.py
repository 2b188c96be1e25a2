"""What the tests share: one Keycloak, two upstreams, and a gateway for each configuration."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "keycloak"))  # what both suites use lies there

import figures  # noqa: E402
import pytest  # noqa: E402
from counting import *  # noqa: E402, F403  the hooks of pytest
from gateway import Gateway  # noqa: E402
from keycloak import Keycloak  # noqa: E402
from lab import Lab  # noqa: E402
from postern import all_stopped  # noqa: E402
from streams import StreamServer  # noqa: E402
from upstream import Upstream  # noqa: E402


def pytest_terminal_summary(terminalreporter):
    figures.show(terminalreporter)


def running(server):
    """A Keycloak for as long as it is needed."""
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def keycloak():
    yield from running(Keycloak())


@pytest.fixture(scope="session")
def upstream():
    server = Upstream()
    yield server
    server.close()


@pytest.fixture(scope="session")
def streams():
    server = StreamServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def lab():
    server = Lab()
    yield server
    server.close()


@pytest.fixture(scope="session")
def new_gateway(keycloak, upstream, streams, tmp_path_factory):
    """Starts gateways; each is stopped, and its log searched for secrets, when the tests are over."""
    with all_stopped() as gateways:

        def start(until_ready=True, keycloak=keycloak, **settings):
            gateway = Gateway(tmp_path_factory.mktemp("gateway"), upstream, keycloak, streams=streams, **settings)
            gateways.append(gateway)
            return gateway.start(until_ready)

        yield start


@pytest.fixture(scope="session")
def gateway(new_gateway):
    """The gateway that most tests use."""
    return new_gateway()


@pytest.fixture(scope="session")
def operator(keycloak):
    """A token of somebody who may operate the gateway."""
    return keycloak.login(keycloak.new_user(roles=["postern-operator"]))


@pytest.fixture
def user(keycloak):
    return keycloak.new_user(roles=["reader"])


@pytest.fixture
def token(gateway, keycloak, user):
    """A token of the user that has been let in."""
    return gateway.admitted(keycloak.login(user))


@pytest.fixture
def bystander(gateway, keycloak):
    """Somebody else, who must not notice anything."""
    token = gateway.admitted(keycloak.login("bob"))
    yield token
    answer = gateway.judged(token)
    assert answer.status == 200, f"somebody else was refused: {answer}"
