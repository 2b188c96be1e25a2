//! An issuer that is ill, late or gone.

use crate::base::clock::Clock;
use crate::config::Algorithm::Es256;
use crate::issuer::tests::fake::{Fake, Mode};
use crate::issuer::tests::keys::TestKey;
use crate::issuer::{Issuer, KeyLookup};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Lets a running issuer fall ill, and expects each fetch to fail with that message and the keys to stay.
async fn check_ill(timeout: Duration, modes: &[(Mode, &str)]) {
    let (good, new) = (TestKey::es256("good"), TestKey::es256("new"));
    let fake = Fake::start(&[&good]).await;
    let issuer = fake.issuer_with(&Clock::system(), |config| config.keys.timeout = timeout);
    let mut late = fetch_in_time(&issuer).await;
    let Some(KeyLookup::Key(key)) = issuer.key_now(Some("good"), Es256) else { panic!("no key") };
    for (mode, message) in modes {
        fake.set_mode(*mode);
        for with_discovery in [true, false] {
            let error = issuer.refresh_now(with_discovery).await.unwrap_err();
            assert!(error.to_string().contains(message), "{mode:?}: {error}");
        }
        let Some(KeyLookup::Key(same)) = issuer.key_now(Some("good"), Es256) else { panic!("{mode:?}: no key") };
        assert!(Arc::ptr_eq(&key, &same) && !key.is_retired(), "{mode:?}");
        assert!(matches!(issuer.key_now(Some("new"), Es256), Some(KeyLookup::Unavailable)), "{mode:?}");
    }
    assert!(fake.requests("/realms/main/attacker").is_empty());
    fake.publish(&[&good, &new]);
    fake.set_mode(Mode::Sound);
    late += fetch_in_time(&issuer).await;
    assert!(matches!(issuer.key_now(Some("new"), Es256), Some(KeyLookup::Key(_))));
    let counted = [&issuer.counters().fetches, &issuer.counters().failures].map(|one| one.load(Ordering::Relaxed));
    let failures = 2 * modes.len() as u64 + late;
    assert_eq!(counted, [failures + 2, failures]);
}

/// Fetches from a sound issuer until it comes in time, which a busy machine may prevent; how often it did not.
async fn fetch_in_time(issuer: &Issuer) -> u64 {
    let mut late = 0;
    while let Err(error) = issuer.refresh_now(true).await {
        assert!(late < 20 && error.to_string().contains("did not answer in time"), "{error}");
        late += 1;
    }
    late
}

#[tokio::test]
async fn whatever_nonsense_the_issuer_answers_the_last_good_keys_stay() {
    let modes = [
        (Mode::Closes, "cannot be reached"),
        (Mode::Fails, "answered 500"),
        (Mode::Garbage, "(line 1, column 26)"),
        (Mode::Huge, "answered more than 1048576 bytes"),
        (Mode::Endless, "answered more than 1048576 bytes"),
        (Mode::Html, "(line 1, column 1)"),
        (Mode::Redirects, "answered 302"),
        (Mode::ManyKeys, "it holds 101 keys"),
        (Mode::NoKeys, "it holds no usable key; of the first, a member is missing or of the wrong type"),
    ];
    check_ill(Duration::from_secs(5), &modes).await;
}

#[tokio::test]
async fn however_slow_the_issuer_is_the_last_good_keys_stay() {
    let message = "did not answer in time";
    check_ill(Duration::from_millis(500), &[(Mode::Hangs, message), (Mode::Drips, message)]).await;
}

#[tokio::test]
async fn keys_are_used_up_to_max_stale_and_no_longer() {
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    let clock = Clock::manual(1_000_000);
    let issuer = fake.issuer_with(&clock, |config| config.keys.max_stale = Duration::from_secs(60));
    issuer.refresh_now(true).await.unwrap();
    fake.set_mode(Mode::Fails);
    clock.advance(Duration::from_secs(60));
    issuer.refresh_now(true).await.unwrap_err();
    assert!(issuer.is_fresh(clock.now()));
    assert!(matches!(issuer.key_for(Some("a"), Es256).await, KeyLookup::Key(_)));
    clock.advance(Duration::from_millis(1));
    assert!(!issuer.is_fresh(clock.now()));
    assert!(matches!(issuer.key_for(Some("a"), Es256).await, KeyLookup::Unavailable));
    assert!(matches!(issuer.key_for(Some("b"), Es256).await, KeyLookup::Unavailable));
    assert!(issuer.is_ready());
    fake.set_mode(Mode::Sound);
    issuer.refresh_now(true).await.unwrap();
    assert!(matches!(issuer.key_for(Some("a"), Es256).await, KeyLookup::Key(_)));
    assert_eq!(issuer.keys().age(clock.now()), Some(Duration::ZERO));
}

#[tokio::test]
async fn an_issuer_that_comes_up_later_is_found() {
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    fake.set_mode(Mode::Fails);
    let issuer = fake.issuer(&Clock::system());
    let run = tokio::spawn(Arc::clone(&issuer).run());
    issuer.refresh.fetched(1).await;
    assert!(!issuer.is_ready());
    assert!(matches!(issuer.key_now(Some("a"), Es256), Some(KeyLookup::Unavailable)));
    fake.set_mode(Mode::Sound);
    issuer.refresh.fetched(2).await;
    assert!(matches!(issuer.key_now(Some("a"), Es256), Some(KeyLookup::Key(_))));
    run.abort();
}

#[tokio::test]
async fn requests_at_the_start_wait_for_the_first_fetch() {
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    fake.answer_keys(0);
    let issuer = fake.issuer(&Clock::system());
    let run = tokio::spawn(Arc::clone(&issuer).run());
    let requests: Vec<_> = (0..200)
        .map(|_| {
            let issuer = Arc::clone(&issuer);
            tokio::spawn(async move { issuer.key_for(Some("a"), Es256).await })
        })
        .collect();
    fake.key_fetch(1).await;
    fake.answer_keys(usize::MAX);
    for request in requests {
        assert!(matches!(request.await.unwrap(), KeyLookup::Key(_)));
    }
    assert_eq!(fake.key_fetches(), 1);
    run.abort();
}

#[tokio::test]
async fn nobody_waits_for_an_issuer_that_hangs_longer_than_the_timeout() {
    let fake = Fake::start(&[&TestKey::es256("a")]).await;
    fake.set_mode(Mode::Hangs);
    let issuer = fake.issuer_with(&Clock::system(), |config| config.keys.timeout = Duration::from_millis(200));
    // The loop is not even running: the wait is bounded by itself.
    assert!(matches!(issuer.key_for(Some("a"), Es256).await, KeyLookup::Unavailable));
    let run = tokio::spawn(Arc::clone(&issuer).run());
    assert!(matches!(issuer.key_for(Some("a"), Es256).await, KeyLookup::Unavailable));
    run.abort();
}
