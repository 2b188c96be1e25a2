"""What the tests share: one Keycloak, one upstream, and a gateway for each configuration."""

import pytest
from counting import *  # noqa: F403  the hooks of pytest
from issuer import Issuer
from keycloak import Keycloak
from postern import Patient, all_stopped
from upstream import Upstream

def pytest_generate_tests(metafunc):
    """A test that takes `round` runs once, and ten times with --full."""
    if "round" in metafunc.fixturenames:
        metafunc.parametrize("round", range(10 if metafunc.config.getoption("full") else 1))


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
def further_issuer():
    server = Issuer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def new_gateway(keycloak, upstream, tmp_path_factory):
    """Starts gateways; each is stopped, and its log searched for secrets, when the tests are over."""
    with all_stopped() as gateways:

        def start(until_ready=True, kind=Patient, **settings):
            gateway = kind(tmp_path_factory.mktemp("gateway"), upstream, keycloak, **settings)
            gateways.append(gateway)
            return gateway.start(until_ready)

        yield start


@pytest.fixture(scope="session")
def gateway(new_gateway, further_issuer):
    """The gateway that most tests use: two issuers, status by introspection, unknown means denied."""
    return new_gateway(further_issuer=further_issuer)
