//! The operators' API, and the commands that speak to it.

use crate::support::{Answer, File, Gateway, Stage, bearer, tls};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

/// Alice has this role, bob has not.
const OPERATOR: &str = "[operator]\nlisten = '127.0.0.1:0'\n\
                        access = { issuer = 'main', role = 'writer', audience = 'gateway' }\n";

fn gateway(stage: &Stage) -> Gateway {
    let audit = stage.path("audit.log");
    let log = format!("access = 'off'\naudit = {{ file = '{}' }}", audit.display());
    let rest = format!("{OPERATOR}{}", crate::support::ANY);
    stage.gateway(File { log: &log, rest: &rest, ..File::default() })
}

#[track_caller]
fn act(stage: &Stage, gateway: &Gateway, path: &str, body: &Value) -> Answer {
    gateway.operate(&stage.issuer.token("alice"), path, body)
}

#[test]
fn only_whoever_has_the_role_and_the_audience_is_an_operator() {
    let stage = Stage::new();
    let gateway = gateway(&stage);
    let body = json!({ "issuer": "main", "subject": "u", "reason": "r" }).to_string();
    let check = |token: Option<String>, status: u16| {
        let token = token.as_deref().map(bearer);
        let lines: Vec<_> = token.iter().map(String::as_str).chain(["content-type: application/json"]).collect();
        for path in ["/v1/user/block", "/v1/user/show", "/v1/cluster/disable", "/nothing"] {
            assert_eq!(gateway.ask_operators(path, &lines, &body).status, status, "{path}");
        }
    };
    check(None, 401);
    check(Some("no.such.token".into()), 401);
    check(Some(stage.issuer.token("bob")), 403);
    let elsewhere = postern::dev::TokenSpec::user("alice").claim("aud", "other");
    check(Some(stage.issuer.issue(&elsewhere)), 401);
    assert_eq!(gateway.call("/", &stage.issuer.token("bob")).status, 200);
    assert_eq!(std::fs::read_to_string(stage.path("audit.log")).unwrap(), "");
}

#[test]
fn what_is_asked_for_wrongly_is_refused_and_changes_nothing() {
    let stage = Stage::new();
    let gateway = gateway(&stage);
    let check = |path: &str, body: Value, status: u16| {
        assert_eq!(act(&stage, &gateway, path, &body).status, status, "{path} {body}");
    };
    check("/v1/user/block", json!({ "issuer": "main", "subject": "u" }), 400);
    check("/v1/user/block", json!({ "issuer": "main", "subject": "u", "reason": " " }), 400);
    check("/v1/user/block", json!({ "issuer": "main", "subject": "", "reason": "r" }), 400);
    check("/v1/user/block", json!({ "issuer": "main", "subject": "x".repeat(256), "reason": "r" }), 400);
    check("/v1/user/block", json!({ "issuer": "other", "subject": "u", "reason": "r" }), 400);
    check("/v1/user/block", json!({ "issuer": "main", "subject": "u", "reason": "r", "force": true }), 400);
    check("/v1/user/unblock", json!({ "issuer": "main", "subject": "u", "reason": "r" }), 409);
    check("/v1/tokens/revoke", json!({ "issuer": "main", "reason": "r" }), 400);
    check("/v1/tokens/revoke", json!({ "issuer": "main", "reason": "r", "jti": "a", "sid": "b" }), 400);
    check("/v1/tokens/revoke", json!({ "issuer": "main", "reason": "r", "issued_before": "yesterday" }), 400);
    check("/v1/nothing", json!({}), 404);
    check("/v1/delivery/show", json!({}), 409);
    let token = bearer(&stage.issuer.token("alice"));
    let of_a_form = ["content-type: text/plain", token.as_str()];
    assert_eq!(gateway.ask_operators("/v1/cluster/disable", &of_a_form, r#"{"reason":"r"}"#).status, 415);
    assert_eq!(std::fs::read_to_string(stage.path("audit.log")).unwrap(), "");
}

#[test]
fn a_block_is_shown_and_audited_with_who_and_why() {
    let stage = Stage::new();
    let gateway = gateway(&stage);
    let who = json!({ "issuer": "main", "subject": "mallory" });
    let why = json!({ "issuer": "main", "subject": "mallory", "reason": "left the company" });
    assert_eq!(act(&stage, &gateway, "/v1/user/show", &who).json()["user"]["state"], "nothing_known");
    let blocked = act(&stage, &gateway, "/v1/user/block", &why).json();
    assert_eq!((&blocked["changed"], &blocked["user"]["state"]), (&json!(true), &json!("blocked")));
    assert_eq!(act(&stage, &gateway, "/v1/user/block", &why).json()["changed"], false);
    let shown = act(&stage, &gateway, "/v1/user/show", &who).json();
    assert_eq!(shown["user"]["blocked_by_operator"]["reason"], "left the company");
    let lifted = act(&stage, &gateway, "/v1/user/unblock", &why).json();
    assert_eq!((&lifted["changed"], &lifted["user"]["state"]), (&json!(true), &json!("awaiting_sign_in")));
    let audit = std::fs::read_to_string(stage.path("audit.log")).unwrap();
    let lines: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{audit}");
    for (line, event) in lines.iter().zip(["user_block", "user_lift"]) {
        assert_eq!((&line["event"], &line["subject"]), (&json!(event), &json!("mallory")), "{line}");
        assert!(line["by"].as_str().unwrap().starts_with("main/"), "{line}");
        assert_eq!(line["reason"], "left the company");
    }
}

#[test]
fn an_operator_with_a_certificate_needs_no_token_and_nobody_else_gets_in() {
    let stage = Stage::new();
    tls::write_certificate(&stage, "server");
    tls::write_certificate(&stage, "operator");
    let path = |name: &str| stage.path(name).display().to_string();
    let operator = format!(
        "[operator]\nlisten = '127.0.0.1:0'\ntls = {{ certificate = '{}', key = '{}' }}\naccess = {{ client_ca = '{}' }}\n{}",
        path("server.pem"),
        path("server.key"),
        path("operator.pem"),
        crate::support::ANY
    );
    let gateway = stage.gateway(File { rest: &operator, log: "access = 'off'\naudit = 'off'", ..File::default() });
    let address = format!("https://localhost:{}", gateway.inner.operator_address().unwrap().port());
    let call = |more: &[&str]| {
        let ca = path("server.pem");
        let arguments = ["user", "block", "main", "mallory", "--reason", "r", "--address", &address, "--ca", &ca];
        postern(&[&arguments, more].concat(), None)
    };
    let refused = call(&[]);
    assert!(!refused.status.success(), "{refused:?}");
    let shown = call(&["--certificate", &path("operator.pem"), "--key", &path("operator.key")]);
    assert!(shown.status.success(), "{shown:?}");
    let answer: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let by = answer["user"]["blocked_by_operator"]["by"].as_str().unwrap();
    assert!(by.starts_with("certificate sha256:") && by.len() == 19 + 64, "{by}");
}

#[test]
fn the_commands_do_what_they_say() {
    let stage = Stage::new();
    let gateway = gateway(&stage);
    let address = format!("http://{}", gateway.inner.operator_address().unwrap());
    let token = stage.issuer.token("alice");
    let file = stage.path("operator.token");
    std::fs::write(&file, &token).unwrap();
    let run = |arguments: &str| {
        let words: Vec<_> = arguments.split(' ').chain(["--address", &address]).collect();
        let output = postern(&words, Some(&file));
        assert!(output.status.success(), "{arguments}: {output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    assert_eq!(run("user show main mallory")["user"]["state"], "nothing_known");
    assert_eq!(run("user block main mallory --reason r")["user"]["state"], "blocked");
    assert_eq!(run("user unblock main mallory --reason r")["user"]["state"], "awaiting_sign_in");
    assert_eq!(run("token revoke --issuer main --jti t-1 --reason r")["changed"], true);
    assert_eq!(run("token revoke --issuer main --jti t-1 --reason r")["changed"], false);
    // Keycloak draws ids of sessions that may begin like this.
    assert_eq!(run("token revoke --issuer main --sid -j6Ay6 --reason r")["changed"], true);
    assert_eq!(
        run("token revoke --issuer main --sub m --issued-before 2026-01-31T12:00:00Z --reason r")["changed"],
        true
    );
    assert_eq!(run("cluster show")["is_open"], true);
    let closed = run("cluster disable --reason incident");
    assert_eq!((&closed["is_open"], &closed["closed_by"]["reason"]), (&json!(false), &json!("incident")));
    let unknown = postern(&["user", "show", "other", "m", "--address", &address], Some(&file));
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no issuer `other`"), "{unknown:?}");
}

fn postern(arguments: &[&str], token: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.args(arguments).env_remove("POSTERN_OPERATOR_TOKEN");
    if let Some(token) = token {
        command.arg("--token-file").arg(token);
    }
    command.output().unwrap()
}
