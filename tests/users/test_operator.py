"""What an operator does by hand: block and unblock, revoke tokens, switch the cluster off; who may, and what is written."""

import datetime
import time

import jwt
import pytest
import web
from gateway import BOUND, PATIENCE


def at_once(gateway, what, *tokens):
    """What an operator does counts when the command has ended."""
    for token in tokens:
        answer = gateway.judged(token)
        assert (answer.status, answer.reason) == (401, "user_inactive"), f"{what}: {answer}"


def revoke(gateway, operator, *which):
    gateway.operate(operator, "token", "revoke", "--issuer", "main", "--reason", "found on a pastebin", *which)


def claims(token):
    return jwt.decode(str(token), options={"verify_signature": False})


def sign_in_until_it_counts(gateway, keycloak, user):
    """The issuer's clock is known to a second or two: a sign-in of that time may be too early to be a proof."""
    signed_in = web.eventually(
        "a new sign-in passes", lambda: next((t for t in [keycloak.login(user)] if gateway.passes(t)), None), limit=10
    )
    return signed_in


def test_a_user_is_blocked_by_hand_and_an_unblock_asks_for_a_sign_in(
    gateway, keycloak, operator, user, token, bystander
):
    gateway.operate(operator, "user", "block", "main", user.id, "--reason", "left the laptop in a train")
    at_once(gateway, "user block", token)
    assert gateway.state(operator, user.id) == "blocked"
    assert "left the laptop in a train" in gateway.operate(operator, "user", "show", "main", user.id)
    keycloak.set_enabled(user, True)
    at_once(gateway, "blocked by hand, signed in again", keycloak.login(user))
    gateway.stays_refused(token)

    gateway.operate(operator, "user", "unblock", "main", user.id, "--reason", "all is well")
    assert gateway.state(operator, user.id) == "awaiting_sign_in"
    at_once(gateway, "unblocked", token)
    sign_in_until_it_counts(gateway, keycloak, user)
    gateway.stays_refused(token)


def test_an_operators_acts_are_audited_with_who_and_why(gateway, keycloak, operator, user):
    gateway.operate(operator, "user", "block", "main", user.id, "--reason", "a reason to be found again")
    gateway.operate(operator, "user", "unblock", "main", user.id, "--reason", "all is well")
    who = claims(operator)["sub"]
    records = [str(record) for record in gateway.audit(user.id)]
    assert len([record for record in records if who in record]) >= 2, records
    assert any("a reason to be found again" in record for record in records), records


def test_each_of_two_reasons_to_be_blocked_holds_alone(gateway, keycloak, operator, user, token):
    gateway.operate(operator, "user", "block", "main", user.id, "--reason", "both")
    keycloak.set_enabled(user, False)
    web.eventually("a sweep", lambda: len(gateway.audit(user.id)) >= 2, limit=2 * BOUND)
    gateway.operate(operator, "user", "unblock", "main", user.id, "--reason", "all is well")
    assert gateway.state(operator, user.id) == "blocked", "Keycloak still says disabled"
    keycloak.set_enabled(user, True)
    web.eventually("lifted", lambda: gateway.state(operator, user.id) == "awaiting_sign_in", limit=2 * BOUND)
    sign_in_until_it_counts(gateway, keycloak, user)
    at_once(gateway, "the old token", token)


def test_a_user_who_was_never_seen_can_be_blocked(gateway, keycloak, operator, user):
    gateway.operate(operator, "user", "block", "main", user.id, "--reason", "before the first day")
    at_once(gateway, "the first token", keycloak.login(user))


@pytest.mark.parametrize("subject", ["f:1:erin", "o'neil", "\u00fcn\u00ef c\u00f6d\u00e9/../x", "a%2Fb", "a" * 200])
def test_a_user_id_with_odd_characters_is_blocked_like_any_other(gateway, operator, subject):
    assert gateway.state(operator, subject) in ("nothing_known", "awaiting_sign_in")
    gateway.operate(operator, "user", "block", "main", subject, "--reason", "odd")
    assert gateway.state(operator, subject) == "blocked"
    gateway.operate(operator, "user", "unblock", "main", subject, "--reason", "even")
    assert gateway.state(operator, subject) == "awaiting_sign_in"


def test_what_makes_no_sense_is_refused(gateway, operator):
    for arguments in (
        ("user", "block", "no-such-issuer", "x", "--reason", "r"),
        ("user", "block", "main", "", "--reason", "r"),
        ("user", "block", "main", "x"),
        ("user", "block", "main", "x", "--reason", " "),
        ("user", "unblock", "main", "nobody-has-blocked-this-one", "--reason", "r"),
        ("token", "revoke", "--issuer", "main", "--reason", "r"),
        ("token", "revoke", "--issuer", "main", "--reason", "r", "--issued-before", "yesterday"),
        ("token", "revoke", "--issuer", "main", "--reason", "r", "--jti", "a", "--sid", "b"),
        ("token", "revoke", "--issuer", "main", "--jti", "a"),
        ("cluster", "disable"),
    ):
        said = gateway.operate(operator, *arguments, succeeds=False)
        assert "panicked" not in said
        assert "unrecognized subcommand" not in said


def test_nobody_without_the_role_may_operate(gateway, keycloak, user, token):
    for holder in (token, "no token at all", keycloak.client_credentials("robot", "robot-secret")):
        gateway.operate(holder, "user", "block", "main", user.id, "--reason", "mischief", succeeds=False)
    assert gateway.passes(token)
    assert gateway.blocks(user.id) == []
    operator = keycloak.login(keycloak.new_user(roles=["postern-operator"]))
    gateway.operate(operator, "user", "block", "main", user.id, "--reason", "with the role it is done")


def test_a_disabled_operator_may_not_operate(gateway, keycloak, user, token):
    operator = keycloak.new_user(roles=["postern-operator"])
    holder = keycloak.login(operator)
    assert gateway.state(holder, user.id) != "blocked"
    gateway_token = gateway.admitted(keycloak.login(operator))
    gateway.refuses("user disabled", gateway_token, keycloak.set_enabled(operator, False))
    gateway.operate(holder, "user", "block", "main", user.id, "--reason", "revenge", succeeds=False)
    assert gateway.passes(token)


def test_an_operators_commands_do_not_reach_the_public_listener(gateway, operator):
    """Whatever the operator's API looks like, its paths are no routes."""
    for path in ("/users", "/v1/users", "/api/users", "/cluster", "/v1/cluster"):
        assert gateway.call(path, operator).status == 404


def test_one_token_is_revoked_and_its_session_lives(gateway, keycloak, operator, user, token):
    other = gateway.admitted(keycloak.refresh(token))
    revoke(gateway, operator, "--jti", claims(token)["jti"])
    at_once(gateway, "token revoke --jti", token)
    assert gateway.passes(other)
    gateway.stays_refused(token, seconds=PATIENCE)
    assert gateway.state(operator, user.id) != "blocked"


def test_one_session_is_revoked_and_the_user_lives(gateway, keycloak, operator, user, token):
    refreshed, other = keycloak.refresh(token), gateway.admitted(keycloak.login(user))
    revoke(gateway, operator, "--sid", claims(token)["sid"])
    at_once(gateway, "token revoke --sid", token, refreshed)
    assert gateway.passes(other)
    gateway.stays_refused(token, refreshed)
    assert gateway.state(operator, user.id) != "blocked"


def test_all_tokens_of_a_user_are_revoked_and_a_new_sign_in_passes(
    gateway, keycloak, operator, user, token, bystander
):
    other = gateway.admitted(keycloak.login(user))
    revoke(gateway, operator, "--sub", user.id)
    at_once(gateway, "token revoke --sub", token, other)
    sign_in_until_it_counts(gateway, keycloak, user)
    gateway.stays_refused(token, other)
    assert gateway.state(operator, user.id) != "blocked"


def test_all_tokens_issued_before_a_moment_are_revoked(new_gateway, keycloak, operator, user):
    gateway = new_gateway()
    old = gateway.admitted(keycloak.login(user))
    web.eventually("another second", lambda: time.time() >= claims(old)["iat"] + 2)
    moment = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    new = gateway.admitted(keycloak.login(user))
    revoke(gateway, operator, "--issued-before", moment)
    at_once(gateway, "token revoke --issued-before", old)
    assert gateway.passes(new)
    gateway.stays_refused(old)
    assert gateway.passes(keycloak.refresh(new))


def test_the_cluster_switch_refuses_everybody_until_each_signs_in_again(new_gateway, keycloak):
    gateway, operator = new_gateway(), keycloak.new_user(roles=["postern-operator"])
    holder = keycloak.login(operator)
    users = [keycloak.new_user() for _ in range(3)]
    tokens = [gateway.admitted(keycloak.login(user)) for user in users]
    gateway.operate(holder, "cluster", "disable", "--reason", "the licence ended")
    at_once(gateway, "cluster disable", *tokens, keycloak.login(users[0]))
    # Also after a death: it was written before it was acted on.
    gateway.kill()
    gateway.start()
    at_once(gateway, "cluster disable, after kill -9", *tokens)
    # Who switched it off must be able to switch it on.
    gateway.operate(holder, "cluster", "enable", "--reason", "paid")
    gateway.stays_refused(*tokens, seconds=PATIENCE)
    for user in users:
        sign_in_until_it_counts(gateway, keycloak, user)
    gateway.stays_refused(*tokens)
    assert "the licence ended" in (gateway.folder / "audit.log").read_text()


def test_after_valid_until_everybody_is_refused(new_gateway, keycloak, user):
    # With more time where a gateway was not there in time.
    for seconds in (5, 25):
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        gateway = new_gateway(cluster=f'[cluster]\nvalid_until = "{end.strftime("%Y-%m-%dT%H:%M:%SZ")}"\n')
        token = keycloak.login(user)
        if gateway.passes(token):
            break
        assert datetime.datetime.now(datetime.UTC) >= end.replace(microsecond=0), "refused before the date"
    else:
        raise AssertionError("never let in")
    web.eventually("refused", lambda: gateway.call("/orders/1", token).status == 401, limit=seconds + BOUND)
    assert datetime.datetime.now(datetime.UTC) >= end.replace(microsecond=0), "refused before the date"
    at_once(gateway, "a token of later", keycloak.login(user))
