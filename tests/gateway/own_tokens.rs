//! Postern's own tokens, presented to Postern: what an upstream was given opens nothing.

use crate::support::{File, Gateway, Stage, introspection};
use postern::config::NamespaceToken;
use postern::token_service::{CredentialCache, Grant, NamespaceKind, TokenService};
use std::sync::Arc;
use std::time::Duration;

const ROUTES: &str = "
[[route]]
path = '/self/**'
upstream = 'up'
issuers = ['self', 'main']
headers = { x-auth-user = 'sub', x-issuer = 'issuer', x-namespace = 'namespace' }
[[route]]
path = '/main/**'
upstream = 'up'
";

/// A token for alice, minted by the keys of the stage's gateway.
fn minted(stage: &Stage, audience: &str) -> String {
    let settings = stage.config(File::default()).token_service;
    let service = TokenService::start(settings, stage.clock.clone()).unwrap();
    let template = Arc::new(NamespaceToken { audience: audience.to_owned(), ..NamespaceToken::default() });
    let grant = Grant {
        template: &template,
        subject: &stage.issuer.demo().user("alice").unwrap().id,
        original_issuer: &stage.issuer.url("demo"),
        namespace: "team-a",
        kind: NamespaceKind::Own,
        email: "",
        username: None,
        authorized_party: None,
        epoch: 0,
        roles: &[],
        groups: &[],
    };
    let minted = service.credential(&CredentialCache::default(), &grant, stage.clock.now()).unwrap();
    minted.header().to_str().unwrap().trim_start_matches("Bearer ").to_owned()
}

fn start(issuer: &str) -> (Stage, Gateway) {
    let stage = Stage::new();
    let gateway = stage.gateway(File { issuer, rest: ROUTES, ..File::default() });
    (stage, gateway)
}

#[test]
fn an_own_token_passes_only_on_a_route_that_names_self_and_only_if_minted_for_postern() {
    let (stage, gateway) = start("user_status = 'none'");
    let own = minted(&stage, "https://postern.example");
    gateway.call("/self/x", &own).passed();
    let seen = stage.upstream.last();
    let alice = stage.issuer.demo().user("alice").unwrap().id;
    assert_eq!((seen.header("x-auth-user"), seen.header("x-namespace")), (Some(&*alice), Some("team-a")));
    assert_eq!(seen.header("x-issuer"), Some(&*stage.issuer.url("demo")));
    gateway.call("/main/x", &own).refused(401, "wrong_issuer");
    // Those for upstreams, as they were minted and as they were handed out.
    gateway.call("/self/x", &minted(&stage, "up")).refused(401, "wrong_audience");
    gateway.call("/self/x", &stage.issuer.token("alice")).passed();
    let given = stage.upstream.last().bearer().to_owned();
    for path in ["/self/x", "/main/x"] {
        gateway.call(path, &given).refused(401, "wrong_audience");
    }
    stage.clock.advance(Duration::from_secs(1830));
    gateway.call("/self/x", &own).refused(401, "token_expired");
}

#[test]
fn an_own_token_passes_only_while_its_user_is_known_to_be_active() {
    let (stage, gateway) = start(&introspection(""));
    let (own, theirs) = (minted(&stage, "https://postern.example"), stage.issuer.token("alice"));
    gateway.call("/self/x", &own).refused(503, "user_status_unknown");
    gateway.call("/main/x", &theirs).passed();
    gateway.call("/self/x", &own).passed();
    assert!(stage.issuer.demo().set_enabled("alice", false));
    stage.clock.advance(Duration::from_secs(30));
    gateway.call("/main/x", &theirs).refused(401, "user_inactive");
    assert_ne!(gateway.call("/self/x", &own).status, 200);
}
