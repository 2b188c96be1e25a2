//! Several gateways over one Redis.

use crate::support::redis::RedisServer;
use crate::support::{ANY, File, Gateway, Stage, eventually};
use serde_json::json;
use std::time::Duration;

fn rest(stage: &Stage, server: &RedisServer, name: &str) -> String {
    let (state, socket) = (stage.path(name), server.socket());
    format!(
        "[operator]\nlisten = '127.0.0.1:0'\naccess = {{ issuer = 'main', role = 'writer', audience = 'gateway' }}\n\
         [state]\npath = '{}'\n[redis]\nurl = 'unix:{}'\n{ANY}",
        state.display(),
        socket.display()
    )
}

const LOG: &str = "access = 'off'\naudit = 'off'";

fn unready(stage: &Stage, server: &RedisServer, name: &str) -> Gateway {
    stage.unready_gateway(File { rest: &rest(stage, server, name), log: LOG, ..File::default() })
}

fn ready(stage: &Stage, server: &RedisServer, name: &str) -> Gateway {
    let gateway = unready(stage, server, name);
    eventually("it is ready", || gateway.inner.is_ready());
    gateway
}

/// Alice, an operator, says what is to become of bob.
fn operate(stage: &Stage, gateway: &Gateway, what: &str) {
    let subject = stage.issuer.demo().user("bob").unwrap().id;
    let body = json!({ "issuer": "main", "subject": subject, "reason": "r" });
    assert_eq!(gateway.operate(&stage.issuer.token("alice"), what, &body).status, 200);
}

const SHARED: &str = "ready\n";
const ALONE: &str = "ready, without: what other replicas decide about users\n";

fn says(gateway: &Gateway, text: &str) -> bool {
    let answer = gateway.admin("/readyz");
    assert_eq!(answer.status, 200);
    answer.text() == text
}

#[test]
fn a_block_at_one_gateway_holds_at_the_other_also_after_redis_is_gone() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let stage = Stage::new();
    let (a, b) = (ready(&stage, &server, "a"), ready(&stage, &server, "b"));
    let (alice, bob) = (stage.issuer.token("alice"), stage.issuer.token("bob"));
    b.call("/x", &bob).passed();
    operate(&stage, &a, "/v1/user/block");
    a.call("/x", &bob).refused(401, "user_inactive");
    eventually("it is known", || b.call("/x", &bob).status == 401);
    eventually("it is shared", || a.metric("postern_users_unshared") == 0);
    assert!(says(&a, SHARED) && says(&b, SHARED));

    // What Redis was given longer ago than this it is not thought to have lost, so that a lift of it can be decided alone. The
    // second look is one that began after the first step.
    for seconds in [11, 1] {
        stage.clock.advance(Duration::from_secs(seconds));
        for gateway in [&a, &b] {
            eventually("it was read since", || gateway.metric("postern_users_shared_age_seconds") == 0);
        }
    }
    server.kill();
    for gateway in [&a, &b] {
        eventually("it says so", || says(gateway, ALONE));
        assert_eq!(gateway.metric("postern_users_alone"), 1);
        gateway.call("/x", &bob).refused(401, "user_inactive");
        gateway.call("/x", &alice).passed();
    }
    // What is decided alone is told when Redis is there again, empty as it comes.
    operate(&stage, &b, "/v1/user/unblock");
    assert_eq!(b.metric("postern_users_unshared"), 1);
    let c = unready(&stage, &server, "c");
    eventually("its issuer's keys are there", || {
        c.admin("/readyz").text().ends_with(": what other replicas know about users\n")
    });
    assert_eq!(c.admin("/readyz").status, 503);
    c.call("/x", &alice).refused(503, "user_status_unknown");
    server.run();
    eventually("all share again", || {
        [&a, &b, &c].iter().all(|gateway| gateway.inner.is_ready() && says(gateway, SHARED))
    });
    let shown = |gateway: &Gateway| {
        let subject = stage.issuer.demo().user("bob").unwrap().id;
        let body = json!({ "issuer": "main", "subject": subject });
        gateway.operate(&alice, "/v1/user/show", &body).json()["user"]["state"].clone()
    };
    for gateway in [&a, &b, &c] {
        eventually("the lift is known", || shown(gateway) == "awaiting_sign_in");
        gateway.call("/x", &alice).passed();
    }
}

#[test]
fn a_reload_leads_to_another_redis_which_is_filled() {
    let (Some(first), Some(second)) = (RedisServer::start(&[]), RedisServer::start(&[])) else { return };
    let stage = Stage::new();
    let gateway = ready(&stage, &first, "a");
    operate(&stage, &gateway, "/v1/user/block");
    let is_there = |server: &RedisServer| server.command(&["HVALS", "{postern}:users"]).contains("by_operator");
    eventually("it is there", || is_there(&first));
    let other = rest(&stage, &second, "a");
    gateway.inner.reload(stage.config(File { rest: &other, log: LOG, ..File::default() })).unwrap();
    eventually("it is there", || is_there(&second));
    // That there is one at all is decided at the start: this one stays.
    let without: String = other
        .lines()
        .filter(|line| !line.contains("redis") && !line.contains("unix:"))
        .fold(String::new(), |text, line| text + line + "\n");
    gateway.inner.reload(stage.config(File { rest: &without, log: LOG, ..File::default() })).unwrap();
    second.command(&["FLUSHALL"]);
    eventually("it is there again", || is_there(&second));
}
