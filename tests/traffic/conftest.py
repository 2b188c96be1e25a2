"""What the tests share: servers made elsewhere, and Postern before them, in clear text and behind TLS."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "keycloak"))  # what all suites use lies there

import certificates  # noqa: E402
import pytest  # noqa: E402
import rpc  # noqa: E402
import servers  # noqa: E402
import sockets  # noqa: E402
from counting import *  # noqa: E402, F403  the hooks of pytest
from gateway import Gateway  # noqa: E402

FIGURES = []


@pytest.fixture(scope="session")
def record_figure():
    """Takes a line that is shown at the end."""
    return FIGURES.append


def pytest_terminal_summary(terminalreporter):
    for line in FIGURES:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def tls(tmp_path_factory):
    return certificates.make(tmp_path_factory.mktemp("tls"))


def _running(server):
    yield server
    server.stop()


@pytest.fixture(scope="session")
def go(tls):
    yield from _running(servers.go(tls))


@pytest.fixture(scope="session")
def node():
    yield from _running(servers.node())


@pytest.fixture(scope="session")
def nginx(go, tls):
    with tempfile.TemporaryDirectory(prefix="postern-nginx-") as folder:  # a short path: a socket lies in it
        yield from _running(servers.Nginx(Path(folder), go.ports["nginx"], tls))


@pytest.fixture(scope="session")
def scripted():
    yield from _running(servers.Scripted())


@pytest.fixture(scope="session")
def websockets():
    yield from _running(sockets.Server())


@pytest.fixture(scope="session")
def grpc_server(tls):
    yield from _running(rpc.Server(tls))


@pytest.fixture(scope="session")
def upstreams(go, node, nginx, scripted, websockets, grpc_server, tls):
    """The lines of each upstream by its name."""
    trusted = f'tls = {{ ca = "{tls.ca}" }}'
    mutual = f'tls = {{ ca = "{tls.ca}", certificate = "{tls.certificate}", key = "{tls.key}" }}'
    http2 = 'protocol = "http2"'

    def at(port, *more, scheme="http", host="127.0.0.1"):
        return "\n".join([f'to = "{scheme}://{host}:{port}"', *more])

    return {
        "go-http1": at(go.ports["http1"]),
        "go-h2c": at(go.ports["h2c"], http2),
        "go-https1": at(go.ports["https1"], trusted, scheme="https"),
        "go-https2": at(go.ports["https2"], trusted, scheme="https"),
        "go-ipv6": at(go.ports["ipv6"], host="[::1]"),
        "node-http1": at(node.ports["http1"]),
        "node-h2c": at(node.ports["h2c"], http2),
        "nginx-http1": at(nginx.port),
        "nginx-https2": at(nginx.secure_port, trusted, scheme="https"),
        "nginx-mutual": at(nginx.mutual_port, mutual, scheme="https"),
        "nginx-mutual-unknown": at(nginx.mutual_port, trusted, scheme="https"),
        "nginx-unix": f'to = "unix:{nginx.socket}"',
        "scripted": at(scripted.port, 'response_timeout = "60s"'),
        "websocket": at(websockets.port),
        "grpc": at(grpc_server.port, http2, 'response_timeout = "60s"'),
        "grpc-tls": at(grpc_server.secure_port, trusted, http2, scheme="https"),
    }


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Starts gateways, which end with the session."""
    gateways = []

    def begin(*arguments, **settings):
        gateways.append(Gateway(tmp_path_factory.mktemp("gateway"), *arguments, **settings).start())
        return gateways[-1]

    yield begin
    for gateway in gateways:
        gateway.stop()


@pytest.fixture(scope="session")
def clear(start, upstreams):
    """Postern without TLS: HTTP/1.1, and HTTP/2 with prior knowledge."""
    return start(upstreams, "go-http1")


@pytest.fixture(scope="session")
def secure(start, upstreams, tls):
    """Postern behind TLS."""
    return start(upstreams, "go-http1", tls=tls)


@pytest.fixture(params=["clear", "tls"])
def either(request, clear, secure):
    return clear if request.param == "clear" else secure
