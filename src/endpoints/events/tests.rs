//! What is told to whom, in which order, and what of it survives.

use super::super::client::tests::header;
use super::super::tests::{START, Stage, URL, act, user};
use super::super::{Counts, Endpoint, Head};
use super::*;
use crate::telemetry::metrics::Metrics;
use crate::users::{Act, Cause, Proof, Revocation, SessionScope, Tokens};
use http::{HeaderValue, Method};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};
use std::time::Duration;

const DISABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
const ENABLED: &str = "https://schemas.openid.net/secevent/risc/event-type/account-enabled";
const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

impl Stage {
    /// Takes up what was minted and decided since, as [`Feed::run`] does.
    fn take_up(&self) {
        let mut inbox = self.feed.inbox.lock().unwrap();
        let mut news = News::default();
        inbox.as_mut().unwrap().drain(&mut news);
        self.feed.take_up(&news).unwrap();
    }

    async fn poll(&self, client: &str, request: Value) -> Value {
        let secret = if client == "audit" { "other" } else { "s3cret" };
        let kind = HeaderValue::from_static("application/json");
        let authorization = header(client, secret);
        let head = Head::of(&Method::POST, &authorization, Some(&kind));
        let admitted = self.endpoints.admit(&Endpoint::Events, &head);
        let reply = self.endpoints.answer(admitted.unwrap(), request.to_string().into()).await;
        assert_eq!(reply.response.status(), 200);
        serde_json::from_slice(reply.response.body()).unwrap()
    }

    /// All that waits for a client, verified by another library, acknowledged: the event, the user and what is said of it.
    async fn told(&self, client: &str) -> Vec<(String, String, Value)> {
        let answer = self.poll(client, json!({"returnImmediately": true})).await;
        let sets = answer["sets"].as_object().unwrap();
        let mut told: Vec<_> = sets.iter().map(|(jti, set)| (jti, self.verified(set.as_str().unwrap()))).collect();
        // An object has no order; the numbers have.
        told.sort_by_key(|(jti, _)| jti.rsplit('-').next().unwrap().parse::<u64>().unwrap());
        assert!(told.iter().all(|(jti, claims)| claims["jti"] == **jti));
        let jtis: Vec<_> = told.iter().map(|(jti, _)| jti).collect();
        self.poll(client, json!({"ack": jtis, "maxEvents": 0})).await;
        told.iter().map(|(_, claims)| event(claims)).collect()
    }

    async fn names(&self, client: &str) -> Vec<(String, String)> {
        self.told(client).await.into_iter().map(|(event, subject, _)| (event, subject)).collect()
    }

    fn verified(&self, set: &str) -> Value {
        let published = self.service.document(crate::token_service::publish::Document::Keys);
        let keys: JwkSet = serde_json::from_slice(&published).unwrap();
        let head = jsonwebtoken::decode_header(set).unwrap();
        assert_eq!(head.typ.as_deref(), Some("secevent+jwt"));
        let key = DecodingKey::from_jwk(keys.find(&head.kid.unwrap()).unwrap()).unwrap();
        let mut rules = Validation::new(head.alg);
        rules.validate_exp = false;
        rules.set_required_spec_claims(&["iss", "aud"]);
        rules.set_issuer(&["https://postern.example"]);
        rules.set_audience(&["orders", "billing"]);
        jsonwebtoken::decode(set, &key, &rules).unwrap().claims
    }
}

fn event(claims: &Value) -> (String, String, Value) {
    let events = claims["events"].as_object().unwrap();
    assert_eq!(
        (events.len(), &claims["sub_id"]["format"], claims["sub_id"]["iss"].as_str()),
        (1, &json!("iss_sub"), Some(URL))
    );
    assert!(claims.get("sub").is_none() && claims.get("exp").is_none());
    let (name, about) = events.iter().next().unwrap();
    (name.clone(), claims["sub_id"]["sub"].as_str().unwrap().to_owned(), about.clone())
}

fn names(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(event, subject)| ((*event).to_owned(), (*subject).to_owned())).collect()
}

#[tokio::test]
async fn each_client_is_told_of_the_users_whose_tokens_it_may_hold_and_of_nobody_else() {
    let stage = Stage::new();
    stage.mint("alice", "orders");
    stage.mint("bob", "billing");
    stage.block("alice");
    stage.block("bob");
    stage.block("carol");
    stage.take_up();
    let about = json!({
        "event_timestamp": START, "initiating_entity": "admin",
        "reason_admin": {"en": "The issuer disabled the user."},
    });
    let expected = [(DISABLED.to_owned(), "alice".to_owned(), about)];
    assert_eq!(stage.told("orders").await, expected);
    // Each has a queue of its own.
    assert_eq!(stage.told("audit").await, expected);
    assert_eq!(stage.names("billing").await, names(&[(DISABLED, "bob")]));
    assert_eq!(stage.names("orders").await, names(&[]));
}

#[tokio::test]
async fn a_token_that_died_is_nobodys_business_any_more() {
    let stage = Stage::new();
    stage.mint("alice", "orders");
    stage.take_up();
    stage.pass(1790);
    stage.block("alice");
    stage.take_up();
    assert_eq!(stage.names("orders").await, names(&[]));
}

#[tokio::test]
async fn a_block_its_end_and_the_next_sign_in_are_told_once_each_in_order() {
    let stage = Stage::new();
    stage.mint("alice", "orders");
    stage.block("alice");
    stage.take_up();
    // Long after the last token died.
    stage.pass(7200);
    stage.lift("alice");
    stage.take_up();
    stage.pass(60);
    stage.sign_in("alice");
    stage.take_up();
    let expected = names(&[(DISABLED, "alice"), (REVOKED, "alice"), (ENABLED, "alice")]);
    assert_eq!(stage.names("orders").await, expected);
    stage.mint("alice", "orders");
    stage.feed.take_up(&News { is_all: true, ..News::default() }).unwrap();
    stage.take_up();
    assert_eq!(stage.names("orders").await, names(&[]));
}

#[tokio::test]
async fn a_block_that_came_and_went_unseen_still_ends_what_was_begun_before() {
    let stage = Stage::new();
    stage.mint("alice", "orders");
    stage.block("alice");
    stage.pass(60);
    stage.lift("alice");
    stage.take_up();
    assert_eq!(stage.names("orders").await, names(&[(REVOKED, "alice")]));
    stage.pass(60);
    stage.sign_in("alice");
    stage.take_up();
    assert_eq!(stage.names("orders").await, names(&[]));
}

#[tokio::test]
async fn a_token_that_is_minted_in_the_moment_of_a_block_is_told_of_too() {
    let stage = Stage::new();
    let receipt = Receipt {
        original_issuer: URL.into(),
        subject: "alice".into(),
        audience: "orders".into(),
        expires: i64::try_from(START).unwrap() + 1790,
        epoch: 0,
    };
    stage.block("alice");
    stage.take_up();
    stage.feed.receipts().send(receipt).unwrap();
    stage.take_up();
    assert_eq!(stage.names("orders").await, names(&[(DISABLED, "alice")]));
}

#[tokio::test]
async fn ends_of_sessions_and_revocations_are_told_as_such() {
    let stage = Stage::new();
    for subject in ["alice", "bob"] {
        stage.mint(subject, "orders");
    }
    stage.users.end_session_of(&user("alice"), "s1".into(), Cause::LoggedOut).unwrap().unwrap();
    stage.take_up();
    let about = json!({
        "event_timestamp": START, "initiating_entity": "user",
        "reason_admin": {"en": "The user logged out, or was logged out."},
    });
    assert_eq!(stage.told("orders").await, [(REVOKED.to_owned(), "alice".to_owned(), about)]);
    let scope = SessionScope::User { subject: "alice".into(), begun_before_ms: START * 1000 };
    stage.users.end_session(&"main".into(), scope, Cause::LoggedOut).unwrap().unwrap();
    // Nobody knows whose it was.
    stage.users.end_session(&"main".into(), SessionScope::Session("s2".into()), Cause::LoggedOut).unwrap().unwrap();
    let tokens = Tokens::All { issued_before_ms: START * 1000 };
    stage.users.revoke(Revocation { issuer: "main".into(), tokens, act: act(), until_ms: None }).unwrap().unwrap();
    stage.take_up();
    let told = stage.names("orders").await;
    // Two that concern alice may have become one.
    assert!(told.iter().all(|(event, _)| event == REVOKED));
    assert!(["alice", "bob"].iter().all(|name| told.iter().any(|(_, subject)| subject == name)), "{told:?}");
    stage.users.disable_cluster(act()).unwrap().unwrap();
    stage.take_up();
    assert_eq!(stage.names("orders").await, names(&[(REVOKED, "alice"), (REVOKED, "bob")]));
}

#[tokio::test]
async fn what_an_operator_wrote_stays_here() {
    let stage = Stage::new();
    stage.mint("alice", "orders");
    let proof = Proof::Operator(Act { by: "olga".into(), reason: "stole a laptop".into() });
    stage.users.block(&user("alice"), proof).unwrap().unwrap();
    stage.take_up();
    let told = stage.told("orders").await;
    assert_eq!(told[0].2["initiating_entity"], "admin");
    assert!(!told[0].2.to_string().contains("laptop") && !told[0].2.to_string().contains("olga"));
}

/// The same users and the same file, in a process that comes after.
fn restarted(stage: &Stage, path: &Path) -> Stage {
    let counts = Counts::new(&Metrics::new());
    let feed = Feed::open(path, Arc::clone(&stage.users), Arc::clone(&counts), stage.clock.clone()).unwrap();
    Stage::with(stage.clock.clone(), Arc::clone(&stage.users), feed, counts)
}

#[tokio::test]
async fn what_was_decided_before_the_process_died_is_told_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.redb");
    let first = restarted(&Stage::new(), &path);
    for subject in ["alice", "bob", "carol"] {
        first.mint(subject, "orders");
    }
    first.users.end_session_of(&user("carol"), "told".into(), Cause::LoggedOut).unwrap();
    first.take_up();
    assert_eq!(first.names("orders").await, names(&[(REVOKED, "carol")]));
    // Decided, and nothing of it taken up.
    first.block("alice");
    first.users.end_session_of(&user("bob"), "untold".into(), Cause::LoggedOut).unwrap();
    let (users, clock) = (Arc::clone(&first.users), first.clock.clone());
    drop(first);
    let mut stage = Stage::new();
    (stage.users, stage.clock) = (users, clock);
    let stage = restarted(&stage, &path);
    stage.feed.take_up(&News { is_all: true, ..News::default() }).unwrap();
    let expected = names(&[(DISABLED, "alice"), (REVOKED, "bob")]);
    assert_eq!(stage.names("orders").await, expected);
}

#[tokio::test]
async fn what_is_not_acknowledged_comes_again_and_what_cannot_be_used_does_not() {
    let stage = Stage::new();
    for number in 0..250 {
        let subject = format!("user-{number}");
        stage.mint(&subject, "orders");
        stage.block(&subject);
    }
    stage.take_up();
    let now = json!({"returnImmediately": true});
    let first = stage.poll("orders", now.clone()).await;
    assert_eq!((first["sets"].as_object().unwrap().len(), &first["moreAvailable"]), (100, &json!(true)));
    let again = stage.poll("orders", now.clone()).await;
    let jtis = |answer: &Value| answer["sets"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(jtis(&first), jtis(&again));
    let mut known = jtis(&first);
    let errors: serde_json::Map<_, _> =
        known.split_off(98).into_iter().map(|jti| (jti, json!({"err": "invalid_key", "description": "?"}))).collect();
    let second = stage.poll("orders", json!({"ack": known, "setErrs": errors, "maxEvents": 1})).await;
    assert_eq!((jtis(&second).len(), jtis(&first).contains(&jtis(&second)[0])), (1, false));
    assert_eq!(stage.feed.waiting()["orders"], 150);
    // Acknowledging what belongs to another changes nothing.
    stage.poll("audit", json!({"ack": jtis(&second), "maxEvents": 0})).await;
    assert_eq!(stage.feed.waiting()["orders"], 150);
    let billing = stage.poll("billing", now).await;
    assert_eq!(billing, json!({"sets": {}}));
}

#[tokio::test]
async fn a_poll_waits_for_news_but_not_for_ever() {
    let stage = Stage::new();
    stage.mint("alice", "orders");
    stage.mint("bob", "orders");
    let running = tokio::spawn(Arc::clone(&stage.feed).run());
    let wait = Duration::from_secs(60);
    let (answer, ()) = tokio::time::timeout(wait, async {
        tokio::join!(stage.poll("orders", json!({})), async {
            tokio::task::yield_now().await;
            stage.block("alice");
        })
    })
    .await
    .unwrap();
    assert_eq!(answer["sets"].as_object().unwrap().len(), 1);
    stage
        .poll("orders", json!({"ack": answer["sets"].as_object().unwrap().keys().collect::<Vec<_>>(), "maxEvents": 0}))
        .await;
    // The end of the process ends the wait.
    let ((), answer) = tokio::join!(
        async {
            tokio::task::yield_now().await;
            stage.feed.end_waiting();
        },
        stage.poll("orders", json!({}))
    );
    assert_eq!(answer, json!({"sets": {}}));
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn after_thirty_seconds_a_poll_is_answered_with_nothing() {
    let stage = Stage::new();
    let start = tokio::time::Instant::now();
    assert_eq!(stage.poll("orders", json!({})).await, json!({"sets": {}}));
    assert_eq!(start.elapsed().as_secs(), 30);
}
