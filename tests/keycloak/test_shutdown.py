"""A gateway is told to end."""


def test_an_idle_gateway_ends_at_once_and_does_not_wait_for_its_drain_deadline(new_gateway, keycloak):
    gateway = new_gateway(drain_deadline="5m")
    assert gateway.call("/orders/1", keycloak.login("alice")).status == 200
    gateway.stop()
