"""Servers that were made elsewhere, and the places where they listen: Go, Node, nginx; IPv6, Unix sockets."""

import hashlib
import os

import httpx
import pytest
from wire import Wire

SERVERS = {
    "go-http1": "HTTP/1.1", "go-h2c": "HTTP/2.0", "go-https1": "HTTP/1.1", "go-https2": "HTTP/2.0",
    "node-http1": "HTTP/1.1", "node-h2c": "HTTP/2.0",
    "nginx-http1": "HTTP/1.1", "nginx-https2": "HTTP/1.1", "nginx-unix": "HTTP/1.1",
    "go-ipv6": "HTTP/1.1",
}  # fmt: skip


@pytest.fixture(scope="module")
def client(clear):
    with httpx.Client(base_url=clear.url, timeout=60) as client:
        yield client


@pytest.mark.parametrize("server", SERVERS)
def test_a_request_and_a_body_arrive(client, server):
    body = os.urandom(300_000)
    read = client.post("/a/b%20c?d=e", headers={"host": f"{server}.test", "x-own": "value"}, content=body).json()
    assert (read["protocol"], read["method"], read["target"]) == (SERVERS[server], "POST", "/a/b%20c?d=e")
    assert (read["length"], read["digest"]) == (len(body), hashlib.sha256(body).hexdigest())
    assert ["x-own", "value"] in read["headers"]


@pytest.mark.parametrize("server", SERVERS)
def test_a_body_of_unknown_length_arrives(client, server):
    pieces = [os.urandom(n) for n in (1, 70_000, 3)]
    read = client.put("/x", headers={"host": f"{server}.test"}, content=iter(pieces)).json()
    assert read["digest"] == hashlib.sha256(b"".join(pieces)).hexdigest()


@pytest.mark.parametrize("server", SERVERS)
def test_a_hundred_requests_use_connections_again(client, server):
    targets = [client.get(f"/n/{number}", headers={"host": f"{server}.test"}).json()["target"] for number in range(100)]
    assert targets == [f"/n/{number}" for number in range(100)]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
def test_methods_arrive(client, server, method):
    answer = client.request(method, "/x", headers={"host": f"{server}.test"})
    assert answer.status_code == 200
    assert answer.content == b"" if method == "HEAD" else answer.json()["method"] == method


def test_an_upstream_that_wants_a_certificate_is_shown_the_one_that_it_is_to_see(client):
    read = client.get("/x", headers={"host": "nginx-mutual.test"}).json()
    assert ["x-shown", "CN=localhost"] in read["headers"]
    refused = client.get("/x", headers={"host": "nginx-mutual-unknown.test"})
    assert refused.status_code == 400 and "No required SSL certificate was sent" in refused.text


def test_clients_are_taken_over_ipv6(start, upstreams, tls):
    for settings in ({}, {"tls": tls}):
        gateway = start(upstreams, "go-ipv6", address="::1", **settings)
        read = httpx.get(gateway.url + "/x", verify=tls.context()).json()
        headers = dict(map(tuple, read["headers"]))
        assert headers["x-forwarded-for"] in ("::1", "[::1]") and headers["x-forwarded-host"] == f"[::1]:{gateway.port}"
        with Wire.to(gateway) as wire:
            wire.send("GET /x HTTP/1.1\r\nHost: [::1]\r\n\r\n")
            assert wire.head()[0] == "HTTP/1.1 200 OK"


def test_a_socket_that_is_not_there_is_502(start, tmp_path):
    gateway = start({"gone": f'to = "unix:{tmp_path}/gone.sock"'}, "gone")
    assert httpx.get(gateway.url + "/x").json()["reason"] == "upstream_unreachable"
