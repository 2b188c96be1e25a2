//! Tokens whose `kid` is not known yet, or never will be.

use crate::base::clock::Clock;
use crate::config::Algorithm::Es256;
use crate::issuer::tests::fake::{Fake, Mode};
use crate::issuer::tests::keys::TestKey;
use crate::issuer::{Issuer, KeyLookup};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinHandle;

/// An issuer with one key, `a`, fetched; the loop is running.
async fn running(clock: &Clock) -> (Arc<Fake>, Arc<Issuer>, TestKey, JoinHandle<()>) {
    let key = TestKey::es256("a");
    let fake = Fake::start(&[&key]).await;
    let issuer = fake.issuer(clock);
    let run = tokio::spawn(Arc::clone(&issuer).run());
    issuer.refresh.fetched(1).await;
    (fake, issuer, key, run)
}

fn ask(issuer: &Arc<Issuer>, kid: impl Into<String>) -> JoinHandle<KeyLookup> {
    let (issuer, kid) = (Arc::clone(issuer), kid.into());
    tokio::spawn(async move { issuer.key_for(Some(&kid), Es256).await })
}

#[tokio::test]
async fn the_first_token_of_a_new_key_finds_it() {
    let (fake, issuer, a, run) = running(&Clock::system()).await;
    let b = TestKey::es256("b");
    fake.publish(&[&a, &b]);
    let KeyLookup::Key(key) = issuer.key_for(Some("b"), Es256).await else { panic!("not found") };
    assert!(key.verify(Es256, b"m", &b.sign(b"m")));
    assert_eq!(issuer.counters().early_fetches.load(Ordering::Relaxed), 1);
    run.abort();
}

#[tokio::test]
async fn two_hundred_requests_wait_for_one_fetch() {
    let (fake, issuer, a, run) = running(&Clock::system()).await;
    fake.publish(&[&a, &TestKey::es256("b")]);
    fake.answer_keys(1);
    let requests: Vec<_> = (0..200).map(|_| ask(&issuer, "b")).collect();
    fake.key_fetch(2).await;
    fake.answer_keys(usize::MAX);
    for request in requests {
        assert!(matches!(request.await.unwrap(), KeyLookup::Key(_)));
    }
    assert_eq!(fake.key_fetches(), 2);
    run.abort();
}

#[tokio::test]
async fn a_request_may_wait_on_another_runtime() {
    let (fake, issuer, a, run) = running(&Clock::system()).await;
    fake.publish(&[&a, &TestKey::es256("b")]);
    let worker = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(issuer.key_for(Some("b"), Es256))
    });
    assert!(matches!(worker.await.unwrap(), KeyLookup::Key(_)));
    run.abort();
}

#[tokio::test]
async fn a_request_that_goes_away_does_not_take_the_fetch_with_it() {
    let (fake, issuer, a, run) = running(&Clock::system()).await;
    fake.publish(&[&a, &TestKey::es256("b")]);
    fake.answer_keys(1);
    let request = ask(&issuer, "b");
    fake.key_fetch(2).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    fake.answer_keys(usize::MAX);
    issuer.refresh.fetched(2).await;
    assert!(matches!(issuer.key_now(Some("b"), Es256), Some(KeyLookup::Key(_))));
    run.abort();
}

#[tokio::test]
async fn a_fetch_that_began_before_the_token_came_does_not_make_it_unknown() {
    let (fake, issuer, a, run) = running(&Clock::system()).await;
    fake.answer_keys(1);
    let early = ask(&issuer, "x");
    fake.key_fetch(2).await;
    let late = ask(&issuer, "b");
    tokio::task::yield_now().await;
    fake.answer_keys(2);
    fake.key_fetch(3).await;
    fake.publish(&[&a, &TestKey::es256("b")]);
    fake.answer_keys(3);
    assert!(matches!(early.await.unwrap(), KeyLookup::Unknown));
    assert!(matches!(late.await.unwrap(), KeyLookup::Key(_)));
    assert_eq!(fake.key_fetches(), 3);
    run.abort();
}

#[tokio::test]
async fn two_thousand_random_kids_cost_six_fetches_and_hurt_nobody() {
    let clock = Clock::manual(1_000_000);
    let (fake, issuer, a, run) = running(&clock).await;
    for batch in 0..50 {
        let requests: Vec<_> = (0..40).map(|n| ask(&issuer, format!("random-{batch}-{n}"))).collect();
        for request in requests {
            assert!(matches!(request.await.unwrap(), KeyLookup::Unknown));
        }
        assert!(matches!(issuer.key_now(Some("a"), Es256), Some(KeyLookup::Key(_))));
    }
    assert_eq!(fake.key_fetches(), 6);
    // A key that is rotated in meanwhile is found when the bucket has a token again, 10 s later at most.
    fake.publish(&[&a, &TestKey::es256("b")]);
    assert!(matches!(issuer.key_for(Some("b"), Es256).await, KeyLookup::Unknown));
    clock.advance(Duration::from_secs(10));
    assert!(matches!(ask(&issuer, "random-again").await.unwrap(), KeyLookup::Unknown));
    assert!(matches!(issuer.key_for(Some("b"), Es256).await, KeyLookup::Key(_)));
    assert_eq!(fake.key_fetches(), 7);
    run.abort();
}

#[tokio::test]
async fn the_same_unknown_kid_is_not_asked_for_again_for_a_while() {
    let clock = Clock::manual(1_000_000);
    let (fake, issuer, a, run) = running(&clock).await;
    for _ in 0..10 {
        assert!(matches!(issuer.key_for(Some("x"), Es256).await, KeyLookup::Unknown));
    }
    assert_eq!(fake.key_fetches(), 2);
    fake.publish(&[&a, &TestKey::es256("x")]);
    clock.advance(Duration::from_secs(5));
    assert!(matches!(issuer.key_for(Some("x"), Es256).await, KeyLookup::Key(_)));
    run.abort();
}

#[tokio::test]
async fn a_failed_early_fetch_costs_a_token_and_says_that_it_is_not_known() {
    let (fake, issuer, _, run) = running(&Clock::manual(1_000_000)).await;
    fake.set_mode(Mode::Fails);
    assert!(matches!(issuer.key_for(Some("b"), Es256).await, KeyLookup::Unavailable));
    // While it fails, requests ask for nothing: the loop's own next try tells.
    for n in 0..20 {
        assert!(matches!(issuer.key_now(Some(&format!("random-{n}")), Es256), Some(KeyLookup::Unavailable)));
    }
    assert_eq!((fake.key_fetches(), issuer.counters().early_fetches.load(Ordering::Relaxed)), (2, 1));
    run.abort();
}
