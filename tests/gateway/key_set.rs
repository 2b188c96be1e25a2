//! The keys of issuers: rotation under load, withdrawn keys, strangers' key ids, outages.

use crate::support::{ANY, ANY_UNLIMITED, File, Stage, bearer, eventually};
use postern::config::Algorithm;
use postern::dev::{Endpoint, Illness, OldKeys, Realm, Signer, TokenSpec};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Discovery and keys, not introspection.
fn fall_ill(realm: &Realm, illness: Option<Illness>) {
    realm.set_illness(Endpoint::Discovery, illness);
    realm.set_illness(Endpoint::Keys, illness);
}

#[test]
fn no_request_fails_while_keys_rotate_under_load() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { server: "workers = 2", ..File::default() });
    let old = stage.issuer.token("alice");
    let (passed, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                while !is_over.load(Ordering::SeqCst) {
                    client.get("/x", &[&bearer(&stage.issuer.token("alice"))]).passed();
                    client.get("/x", &[&bearer(&old)]).passed();
                    passed.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let more = |count| {
            let wanted = passed.load(Ordering::SeqCst) + count;
            eventually("requests pass", || passed.load(Ordering::SeqCst) >= wanted);
        };
        more(20);
        for _ in 0..4 {
            stage.issuer.demo().rotate_keys(OldKeys::Keep).unwrap();
            more(20);
        }
        is_over.store(true, Ordering::SeqCst);
    });
    assert_eq!(gateway.metric("postern_requests_total{route=\"any\",status=\"4xx\"}"), 0);
    assert_eq!(gateway.metric("postern_requests_total{route=\"any\",status=\"5xx\"}"), 0);
}

#[test]
fn a_key_that_was_withdrawn_signs_nothing_more() {
    let stage = Stage::new();
    let demo = stage.issuer.demo();
    let withdrawn = demo.signing_key(Algorithm::Rs256);
    let gateway = stage.gateway(File::default());
    let before = stage.issuer.token("alice");
    gateway.call("/x", &before).passed();
    demo.rotate_keys(OldKeys::Drop).unwrap();
    gateway.call("/x", &stage.issuer.token("alice")).passed();
    gateway.call("/x", &before).refused(401, "invalid_token");
    let after = stage.issuer.issue(&TokenSpec::user("alice").signed_by(Signer::Key(withdrawn)));
    gateway.call("/x", &after).refused(401, "invalid_token");
    assert_eq!(stage.upstream.requests(), 2);
}

#[test]
fn a_withdrawn_key_is_noticed_at_the_next_fetch_without_any_token_of_the_new_one() {
    let stage = Stage::new();
    let issuer = "keys = { refresh = '1s' }\nuser_status = 'none'";
    let gateway = stage.gateway(File { issuer, ..File::default() });
    let token = stage.issuer.token("alice");
    gateway.call("/x", &token).passed();
    stage.issuer.demo().rotate_keys(OldKeys::Drop).unwrap();
    eventually("the key is dropped", || gateway.call("/x", &token).status == 401);
    gateway.call("/x", &token).refused(401, "invalid_token");
}

#[test]
fn two_thousand_random_key_ids_cost_six_fetches_at_most() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { server: "workers = 2", rest: ANY_UNLIMITED, ..File::default() });
    let good = stage.issuer.token("alice");
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (stage, gateway, good) = (&stage, &gateway, &good);
            scope.spawn(move || {
                let mut client = gateway.connect();
                for n in 0..500 {
                    let spec = TokenSpec::user("alice").signed_by(Signer::Bytes(vec![1; 256]));
                    let token = stage.issuer.issue(&spec.header("kid", format!("random-{part}-{n}")));
                    client.get("/x", &[&bearer(&token)]).refused(401, "invalid_token");
                    if n % 50 == 0 {
                        client.get("/x", &[&bearer(good)]).passed();
                    }
                }
            });
        }
    });
    let fetches = stage.issuer.demo().counters().keys;
    assert!((2..=6).contains(&fetches), "{fetches} fetches");
    assert_eq!(stage.upstream.requests(), 40);
    // Ten seconds later one more is allowed: a new key is found even now.
    stage.issuer.demo().rotate_keys(OldKeys::Keep).unwrap();
    stage.clock.advance(Duration::from_secs(10));
    gateway.call("/x", &stage.issuer.token("alice")).passed();
}

#[test]
fn a_gateway_that_starts_before_its_issuer_becomes_ready_by_itself() {
    for illness in [Illness::Refuse, Illness::ServerError, Illness::Garbage] {
        let stage = Stage::new();
        let demo = stage.issuer.demo();
        fall_ill(&demo, Some(illness));
        let public = "[[route]]\npath = '/public'\nupstream = 'up'\naccess = 'public'\n";
        let gateway = stage.unready_gateway(File { rest: &format!("{ANY}{public}"), ..File::default() });
        let token = stage.issuer.token("alice");
        let answer = gateway.call("/x", &token);
        assert_eq!(answer.outcome(), (503, "keys_unavailable".to_owned()), "{illness:?}");
        answer.refused(503, "keys_unavailable");
        assert!(answer.header("retry-after").is_some() && answer.header("www-authenticate").is_none());
        let ready = gateway.admin("/readyz");
        assert_eq!((ready.status, ready.text()), (503, "not ready: keys of issuer `main`\n".to_owned()));
        assert_eq!(gateway.admin("/healthz").status, 200);
        gateway.get("/public", &[]).passed();
        fall_ill(&demo, None);
        eventually("the gateway is ready", || gateway.admin("/readyz").status == 200);
        gateway.call("/x", &token).passed();
    }
}

#[test]
fn an_issuer_that_is_down_does_not_take_another_with_it() {
    let stage = Stage::new();
    let other = stage.issuer.realm("other").unwrap();
    fall_ill(&other, Some(Illness::Refuse));
    let rest = format!("[issuer.second]\nurl = '{}'\naudience = 'gateway'\nuser_status = 'none'\n{ANY}", other.url());
    let gateway = stage.unready_gateway(File { rest: &rest, ..File::default() });
    let waits = "not ready: keys of issuer `second`\n";
    eventually("it has the keys of the one", || gateway.admin("/readyz").text() == waits);
    gateway.call("/x", &stage.issuer.token("alice")).passed();
    gateway.call("/x", &other.issue(&TokenSpec::user("alice"))).refused(503, "keys_unavailable");
    assert_eq!(gateway.admin("/readyz").text(), waits);
}

#[test]
fn the_last_good_keys_serve_until_max_stale_and_no_longer() {
    let stage = Stage::new();
    let issuer = "keys = { refresh = '1h', max_stale = '1h' }\nuser_status = 'none'";
    let gateway = stage.gateway(File { issuer, ..File::default() });
    let long = TokenSpec::user("alice").lifetime(86_400);
    let known = stage.issuer.issue(&long);
    gateway.call("/x", &known).passed();
    fall_ill(&stage.issuer.demo(), Some(Illness::Refuse));
    stage.clock.advance(Duration::from_secs(3600));
    gateway.call("/x", &known).passed();
    gateway.call("/x", &stage.issuer.issue(&long)).passed();
    stage.clock.advance(Duration::from_secs(1));
    gateway.call("/x", &known).refused(503, "keys_unavailable");
    gateway.call("/x", &stage.issuer.issue(&long)).refused(503, "keys_unavailable");
    fall_ill(&stage.issuer.demo(), None);
    eventually("the issuer is back", || gateway.call("/x", &known).status == 200);
}

#[test]
fn an_unknown_key_id_is_no_fault_of_the_token_while_the_issuer_is_down() {
    let stage = Stage::new();
    let gateway = stage.gateway(File::default());
    let demo = stage.issuer.demo();
    demo.rotate_keys(OldKeys::Keep).unwrap();
    fall_ill(&demo, Some(Illness::ServerError));
    let token = stage.issuer.token("alice");
    gateway.call("/x", &token).refused(503, "keys_unavailable");
    fall_ill(&demo, None);
    eventually("the new key is known", || gateway.call("/x", &token).status == 200);
}

#[test]
fn entries_that_cannot_be_used_do_not_spoil_a_key_set() {
    let stage = Stage::new();
    let demo = stage.issuer.demo();
    demo.set_extra_keys(vec![
        json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "hmac", "alg": "HS256" }),
        json!({ "kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "short" }),
        json!({ "kty": "RSA", "n": "!", "e": "AQAB", "kid": "broken" }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA", "kid": "curve" }),
        json!({ "kty": "AKP", "alg": "ML-DSA-65", "pub": "AA", "kid": "new" }),
        json!({ "kty": 7 }),
        json!(7),
    ]);
    let gateway = stage.gateway(File::default());
    gateway.call("/x", &stage.issuer.token("alice")).passed();
    assert!(gateway.metric("postern_keys_skipped{issuer=\"main\"}") >= 8, "the encryption key is one too");
    let hmac = TokenSpec::user("alice").signed_by(Signer::Hs256(b"secret".to_vec())).header("kid", "hmac");
    gateway.call("/x", &stage.issuer.issue(&hmac)).refused(401, "invalid_token");
}
