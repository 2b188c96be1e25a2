"""No token and no secret is ever told. Every other gateway of the suite is searched when it is stopped."""

import json

import pytest
import web


@pytest.fixture(scope="module")
def used_gateway(new_gateway, keycloak, further_issuer):
    """A gateway that has seen good, bad and broken tokens on every kind of route, and has written it all down."""
    gateway = new_gateway(further_issuer=further_issuer)
    good = keycloak.login("alice").access_token
    expired = further_issuer.token("ES384", exp=1)
    foreign = keycloak.login("alice", "cli-noaud").access_token
    for token in (good, expired, foreign, good[:-1], good + "=", keycloak.login("alice").refresh_token):
        for path in ("/orders/1", "/pass/1", "/none/1", "/secret/1", "/nowhere"):
            gateway.call(path, token)
    gateway.call("/orders/1", headers={"authorization": f"bearer  {good}"})
    gateway.call("/orders/1", headers={"authorization": f"Basic {good}"})
    gateway.call(f"/orders/1?access_token={good}")
    gateway.call("/orders/the-last")
    web.eventually("the last access line is written", lambda: any("/orders/the-last" in path for path in paths(gateway)))
    return gateway


def access_lines(gateway):
    """What the access log says so far; a line that is being written is left out."""
    whole, _, _ = (gateway.folder / "access.log").read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def paths(gateway):
    return [line["path"] for line in access_lines(gateway)]


def test_log_access_log_and_metrics_hold_no_token_and_no_secret(used_gateway):
    metrics = used_gateway.admin("/metrics").body.decode()
    assert "postern_" in metrics and len(paths(used_gateway)) > 30, "there is something to search"
    assert used_gateway.leaks(metrics) == []


def test_the_search_for_secrets_does_find_one(used_gateway, keycloak):
    token = keycloak.login("alice").access_token
    signature = token.rsplit(".", 1)[1]
    assert used_gateway.leaks(f"…{token}…") and used_gateway.leaks(f"sig={signature};") == [signature]


def test_an_access_line_tells_who_asked_for_what_and_how_it_ended(used_gateway):
    lines = access_lines(used_gateway)
    assert any(line["status"] == 200 and line.get("route") == "orders" for line in lines)
    assert any(line["status"] == 401 and line.get("reason") == "wrong_audience" for line in lines)
