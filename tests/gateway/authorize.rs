//! What routes ask of a caller, held against what the issuer says of them now.

use crate::support::{File, Gateway, Stage, introspection};
use postern::dev::{TokenSpec, User, UserChange};
use serde_json::json;
use std::time::Duration;

const ROUTES: &str = "
[[route]]
path = '/any-role'
upstream = 'up'
credential = 'none'
access = { any_role = ['boss', 'admin'] }
[[route]]
path = '/all-roles'
upstream = 'up'
credential = 'none'
access = { all_roles = ['reader', 'writer'] }
[[route]]
path = '/group'
upstream = 'up'
credential = 'none'
access = { any_group = ['/team-a'] }
[[route]]
path = '/scope'
upstream = 'up'
credential = 'none'
access = { all_scopes = ['email', 'orders'] }
[[route]]
path = '/claim'
upstream = 'up'
credential = 'none'
access = { claims = { 'dept' = 'sales', 'address.country' = 'NL', 'level' = 3, 'staff' = true } }
[[route]]
path = '/namespace'
upstream = 'up'
credential = 'none'
access = { namespace = ['team-x', 'team-a'] }
[[route]]
path = '/both'
upstream = 'up'
credential = 'none'
access = { any_role = ['admin'], any_group = ['/team-a'] }
";

/// Asserts a refusal of alice's token made by `spec`, and that the upstream saw nothing of it.
#[track_caller]
fn check_refused(stage: &Stage, gateway: &Gateway, path: &str, spec: TokenSpec, reason: &str) {
    let before = stage.upstream.requests();
    let answer = gateway.call(path, &stage.issuer.issue(&spec));
    assert_eq!(answer.outcome(), (403, reason.to_owned()), "{path} {spec:?}");
    answer.refused(403, reason);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"postern\", error=\"insufficient_scope\""));
    assert_eq!(stage.upstream.requests(), before);
}

fn full() -> TokenSpec {
    let claims = [
        ("dept", json!(["it", "sales"])),
        ("address", json!({ "country": "NL" })),
        ("level", json!(3)),
        ("staff", json!(true)),
    ];
    claims
        .into_iter()
        .fold(TokenSpec::user("alice").scope("email orders"), |spec, (name, value)| spec.claim(name, value))
}

#[test]
fn each_requirement_is_needed_and_has_its_reason() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { rest: ROUTES, ..File::default() });
    for path in ["/any-role", "/all-roles", "/group", "/scope", "/claim", "/namespace", "/both"] {
        gateway.call(path, &stage.issuer.issue(&full())).passed();
    }
    let refused = |path, spec, reason| check_refused(&stage, &gateway, path, spec, reason);
    refused("/any-role", full().claim("realm_access", json!({ "roles": ["reader"] })), "role_missing");
    refused("/all-roles", full().claim("realm_access", json!({ "roles": ["reader"] })), "role_missing");
    refused("/group", full().claim("groups", json!(["/team-b"])), "group_missing");
    refused("/scope", full().scope("email"), "scope_missing");
    refused("/claim", full().claim("dept", json!(["it"])), "claim_missing");
    refused("/claim", full().claim("address", json!({ "country": "BE" })), "claim_missing");
    refused("/claim", full().claim("level", 4), "claim_missing");
    refused("/claim", full().without_claim("staff"), "claim_missing");
    refused("/namespace", full().claim("namespace", "team-b"), "namespace_missing");
    refused("/namespace", full().without_claim("namespace"), "namespace_missing");
    refused("/both", full().claim("groups", json!([])), "group_missing");
    refused("/both", full().without_claim("realm_access"), "role_missing");
}

#[test]
fn what_only_looks_like_a_role_group_or_scope_is_none() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { rest: ROUTES, ..File::default() });
    let refused = |path, spec, reason| check_refused(&stage, &gateway, path, spec, reason);
    for roles in [
        json!("admin"),
        json!({ "admin": true }),
        json!([["admin"]]),
        json!(["Admin"]),
        json!(["admin "]),
        json!(["administrator"]),
    ] {
        refused("/any-role", full().claim("realm_access", json!({ "roles": roles })), "role_missing");
    }
    refused(
        "/any-role",
        full().without_claim("realm_access").claim("realm_access.roles", json!(["admin"])),
        "role_missing",
    );
    refused("/group", full().claim("groups", "/team-a"), "group_missing");
    refused("/group", full().claim("groups", json!(["team-a", "/team-a/sub", "/x/team-a"])), "group_missing");
    refused("/scope", full().scope("email,orders"), "scope_missing");
    refused("/scope", full().claim("scope", json!(["email", "orders"])), "scope_missing");
    refused("/claim", full().claim("level", "3"), "claim_missing");
    refused("/claim", full().claim("staff", "true"), "claim_missing");
    // The other place that holds roles by default.
    gateway.call("/any-role", &stage.issuer.issue(&full().claim("roles", json!(["boss"])))).passed();
}

#[test]
fn a_role_that_is_taken_away_while_a_token_lives_is_missing_after_the_bound() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { issuer: &introspection(""), rest: ROUTES, ..File::default() });
    let token = stage.issuer.token("alice");
    let change = |roles: &[&str], groups: &[&str]| {
        let owned = |names: &[&str]| Some(names.iter().map(ToString::to_string).collect());
        let change = UserChange { roles: owned(roles), groups: owned(groups), ..UserChange::default() };
        assert!(stage.issuer.demo().change_user("alice", change));
        stage.clock.advance(Duration::from_secs(30));
    };
    gateway.call("/both", &token).passed();
    change(&["reader"], &["/team-a"]);
    gateway.call("/both", &token).refused(403, "role_missing");
    change(&["admin"], &[]);
    gateway.call("/both", &token).refused(403, "group_missing");
    change(&["admin"], &["/team-a"]);
    gateway.call("/both", &token).passed();
    assert!(
        stage
            .issuer
            .demo()
            .change_user("alice", UserChange { namespace: Some(String::new()), ..UserChange::default() })
    );
    stage.clock.advance(Duration::from_secs(30));
    gateway.call("/namespace", &token).refused(403, "namespace_missing");
}

#[test]
fn a_role_that_a_token_does_not_have_yet_counts_as_soon_as_the_issuer_says_it() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { issuer: &introspection(""), rest: ROUTES, ..File::default() });
    stage.issuer.demo().add_user(User { roles: vec!["reader".into()], ..User::new("erin") });
    let token = stage.issuer.token("erin");
    gateway.call("/any-role", &token).refused(403, "role_missing");
    let roles = Some(vec!["admin".into()]);
    assert!(stage.issuer.demo().change_user("erin", UserChange { roles, ..UserChange::default() }));
    gateway.call("/any-role", &token).refused(403, "role_missing");
    stage.clock.advance(Duration::from_secs(30));
    gateway.call("/any-role", &token).passed();
}
