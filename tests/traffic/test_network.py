"""Packets that are lost, and networks that are cut: a client, Postern and its upstream are hosts of their own."""

import hashlib
import json
import os
import subprocess

import pytest
import servers
import web
from network import Network, NotAllowed

SEED = int(os.environ.get("POSTERN_SEED", 6))
PROTOCOLS = ["--http1.1", "--http2-prior-knowledge"]


@pytest.fixture(scope="module")
def network(record_figure):
    try:
        network = Network("client", "gateway", "upstream", seed=SEED)
    except NotAllowed as reason:
        record_figure(f"packet loss and partition: SKIPPED, because this machine does not allow hosts in network namespaces: {reason}")
        pytest.skip(f"no hosts in network namespaces here: {reason}")
    yield network
    network.stop()


@pytest.fixture(scope="module")
def gateway(network, start, tls):
    server = servers.go(tls, network.address["upstream"], network.at("upstream"))
    to = f'to = "http://{network.address["upstream"]}:{{}}"'
    # A lost packet at the beginning of a connection costs a second, two cost three.
    patient, impatient = 'connect_timeout = "30s"', 'connect_timeout = "1s"\nresponse_timeout = "2s"\nidle_timeout = "3s"'
    upstreams = {
        "patient-http1": f"{to.format(server.ports['http1'])}\n{patient}",
        "patient-http2": f'{to.format(server.ports["h2c"])}\n{patient}\nprotocol = "http2"',
        "impatient": f"{to.format(server.ports['http1'])}\n{impatient}",
    }
    yield start(upstreams, "impatient", address=network.address["gateway"], at=network.at("gateway"), server='idle_timeout = "8s"')
    server.stop()


@pytest.fixture(autouse=True)
def sound(network):
    yield
    network.mend()
    network.loss = 0.0


def curl(network, gateway, path, *options, host="impatient"):
    """A request of the client's host, running."""
    command = [*network.at("client"), "curl", "--silent", "--max-time", "120", "--header", f"Host: {host}.test", *options]
    return subprocess.Popen([str(word) for word in [*command, gateway.url + path]], stdout=subprocess.PIPE)


def answer(*arguments, **settings):
    """Its status and body."""
    asked = curl(*arguments, "--write-out", "\n%{http_code}", **settings)
    body, _, status = asked.communicate(timeout=150)[0].rpartition(b"\n")
    return int(status), body


def connections(gateway):
    lines = gateway.ask("/metrics").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("postern_connections ")))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("back", ["patient-http1", "patient-http2"])
def test_what_is_lost_is_sent_again_until_all_of_it_arrived(network, gateway, tmp_path, record_figure, protocol, back):
    file = tmp_path / "body"
    file.write_bytes(os.urandom(200_000))
    network.loss, network.lost, network.passed = 0.05, 0, 0
    uploads = [curl(network, gateway, "/x", protocol, "--upload-file", file, host=back) for _ in range(8)]
    downloads = [curl(network, gateway, "/bytes/400000", protocol, host=back) for _ in range(4)]
    read = [json.loads(upload.communicate(timeout=150)[0]) for upload in uploads]
    assert [each["digest"] for each in read] == [hashlib.sha256(file.read_bytes()).hexdigest()] * 8
    assert [download.communicate(timeout=150)[0] for download in downloads] == [b"0123456789abcdef" * 25_000] * 4
    record_figure(f"packets, {protocol[2:]} to {back}: {network.lost} of {network.lost + network.passed} lost, no request failed")
    assert network.lost > 50, "too little was lost to show anything"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_upstream_that_is_cut_off_is_504_and_comes_back(network, gateway, protocol):
    web.eventually("requests pass", lambda: answer(network, gateway, "/x", protocol)[0] == 200, 60)
    network.cut("gateway", "upstream")
    # First on the connection that is there, then on none.
    for _ in range(3):
        status, body = answer(network, gateway, "/x", protocol)
        assert (status, json.loads(body)["reason"]) == (504, "upstream_timeout")
    network.mend()
    web.eventually("requests pass again", lambda: answer(network, gateway, "/x", protocol)[0] == 200, 60)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_answer_that_is_cut_off_is_not_passed_for_a_whole(network, gateway, protocol):
    download = curl(network, gateway, "/bytes/1000000000", protocol)
    assert len(download.stdout.read(100_000)) == 100_000
    network.cut("gateway", "upstream")
    while download.stdout.read(1 << 20):
        pass
    # Not 0, and not 28, by which curl says that it gave up waiting.
    assert download.wait(150) in (18, 56, 92)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_client_that_is_cut_off_is_let_go(network, gateway, protocol):
    download = curl(network, gateway, "/bytes/1000000000", protocol)
    assert len(download.stdout.read(100_000)) == 100_000
    assert connections(gateway) >= 1
    network.cut("client", "gateway")
    web.eventually("the connection is closed", lambda: connections(gateway) == 0, 60)
    download.kill()
    download.communicate()
    network.mend()
    web.eventually("requests pass again", lambda: answer(network, gateway, "/x", protocol)[0] == 200, 60)
