//! Tokens in use, asked about again and again, against the issuer of `dev`.

use super::{own, shared};
use crate::base::clock::Clock;
use crate::base::json::tests::object;
use crate::base::secret::Secret;
use crate::config::{self, Introspection, Keycloak, UserStatus, WhenUnknown};
use crate::dev::{self, Endpoint, Illness, TokenSpec, UserChange};
use crate::identity::source::Numbers;
use crate::identity::status::StatusError;
use crate::identity::{Hint, Identity, Links, LocalCache, Shared, VerifiedToken, Verifier};
use crate::issuer::Issuer;
use crate::users::{Cause, Kind, UserId, Users};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub(super) const BOUND: Duration = Duration::from_secs(30);

/// An issuer, and a verifier that asks it.
pub(super) struct Stage {
    pub(super) clock: Clock,
    pub(super) dev: dev::Issuer,
    pub(super) users: Arc<Users>,
    pub(super) links: Arc<Links>,
    pub(super) verifier: Arc<Verifier>,
    local: LocalCache,
}

pub(super) fn keycloak(url: &str, when_unknown: WhenUnknown) -> UserStatus {
    let introspection = Introspection {
        client_id: "gateway".into(),
        client_secret: Secret::new("gateway-secret"),
        bound: BOUND,
        timeout: Duration::from_secs(5),
        when_unknown,
    };
    let admin_url = url.replace("/realms/", "/admin/realms/").parse().unwrap();
    let (end_sessions, backchannel_clients) = (None, None);
    UserStatus::Keycloak(Keycloak {
        introspection,
        admin_url,
        max_calls_per_second: 100,
        end_sessions,
        backchannel_clients,
    })
}

impl Stage {
    pub(super) async fn new() -> Self {
        Self::with(|config| config.user_status = keycloak(&config.url, WhenUnknown::Deny)).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut config::Issuer)) -> Self {
        let clock = Clock::manual(1_800_000_000);
        let dev = dev::Issuer::start("127.0.0.1:0".parse().unwrap(), clock.clone()).unwrap();
        let mut config = super::issuer();
        config.url = dev.url("demo");
        config.audiences = vec!["gateway".into()];
        config.keys.refresh = Duration::from_secs(36_000);
        config.keys.max_stale = Duration::from_secs(36_000);
        change(&mut config);
        let issuer = Arc::new(Issuer::new(Arc::new(config), clock.clone()).unwrap());
        tokio::spawn(Arc::clone(&issuer).run());
        tokio::spawn(crate::base::tick::run());
        let shared = shared(&clock);
        let (users, links) = (Arc::clone(&shared.users), Arc::clone(&shared.links));
        let verifier = Arc::new(Verifier::new(vec![issuer], Vec::new(), &own(), shared, 1000).unwrap());
        for task in verifier.tasks() {
            tokio::spawn(task);
        }
        let stage = Self { clock, dev, users, links, verifier, local: LocalCache::default() };
        stage.until("the keys are there", || stage.verifier.issuers().all(|issuer| issuer.is_ready())).await;
        stage
    }

    /// A new token of a user, in a new session.
    pub(super) async fn token(&self, user: &str) -> Arc<VerifiedToken> {
        self.verified(&self.dev.token(user)).await
    }

    pub(super) async fn verified(&self, token: &str) -> Arc<VerifiedToken> {
        self.verifier.verify(&self.local, token.as_bytes(), self.clock.now()).await.unwrap()
    }

    pub(super) async fn confirm(&self, token: &Arc<VerifiedToken>) -> Result<Arc<Identity>, StatusError> {
        self.verifier.confirm(token, self.clock.now()).await
    }

    pub(super) fn id(&self, user: &str) -> UserId {
        UserId::new("main", self.dev.demo().user(user).unwrap().id).unwrap()
    }

    pub(super) fn asked(&self) -> u64 {
        self.dev.demo().counters().introspection
    }

    pub(super) fn waited(&self) -> u64 {
        self.verifier.counts().waited.load(Ordering::Relaxed)
    }

    pub(super) fn numbers(&self) -> Numbers {
        self.verifier.numbers().next().unwrap().1
    }

    /// Waits for what happens on other threads and in the background.
    pub(super) async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_so() {
            assert!(start.elapsed() < Duration::from_secs(20), "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Moves the clock, and lets whatever is due be asked about.
    pub(super) async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        // Three quarters of the bound, and a step of these tests.
        let most = u64::try_from(BOUND.as_millis() * 3 / 4).unwrap();
        self.until("tokens in use are asked about", || self.numbers().age_ms <= most).await;
    }
}

#[tokio::test]
async fn a_token_in_use_is_asked_about_before_its_answer_is_too_old_and_no_request_waits() {
    let stage = Stage::new().await;
    let tokens = [stage.token("alice").await, stage.token("alice").await, stage.token("bob").await];
    for token in &tokens {
        stage.confirm(token).await.unwrap();
    }
    assert_eq!((stage.asked(), stage.waited()), (3, 3));
    for _ in 0..100 {
        stage.pass(Duration::from_secs(3)).await;
        for token in &tokens {
            stage.confirm(token).await.unwrap();
        }
    }
    assert_eq!(stage.waited(), 3, "no request waits");
    // In 300 seconds each was asked about each 18 to 24, as steps of 3 seconds have it.
    let again = stage.asked() - 3;
    assert!((3 * 12..=3 * 17).contains(&again), "{again}");
    let usage = stage.numbers().usage;
    assert_eq!((usage.calls[0], usage.calls[2]), (3, again));
}

#[tokio::test]
async fn a_token_that_is_not_used_leaves_after_two_bounds() {
    let stage = Stage::new().await;
    let (used, unused) = (stage.token("alice").await, stage.token("alice").await);
    stage.confirm(&used).await.unwrap();
    stage.confirm(&unused).await.unwrap();
    for _ in 0..19 {
        stage.pass(Duration::from_secs(3)).await;
        stage.confirm(&used).await.unwrap();
        assert_eq!(stage.numbers().in_use, 2);
    }
    for _ in 0..12 {
        stage.pass(Duration::from_secs(3)).await;
        stage.confirm(&used).await.unwrap();
    }
    assert_eq!((stage.numbers().in_use, stage.waited()), (1, 2));
    // It comes back as a first sight.
    stage.confirm(&unused).await.unwrap();
    assert_eq!((stage.numbers().in_use, stage.waited()), (2, 3));
}

#[tokio::test]
async fn a_hint_has_the_users_tokens_asked_about_now_and_nobody_elses() {
    let stage = Stage::new().await;
    let (alice, bob) = (stage.token("alice").await, stage.token("bob").await);
    stage.confirm(&alice).await.unwrap();
    stage.confirm(&bob).await.unwrap();
    let roles = |name: &str| UserChange { roles: Some(vec![name.to_owned()]), ..UserChange::default() };
    let before = stage.asked();
    assert!(stage.dev.demo().change_user("alice", roles("new")));
    stage.links.hint(Hint::Reintrospect(stage.id("alice")));
    stage.until("alice's token is asked about", || stage.asked() > before).await;
    let mut found = Vec::new();
    while found != ["new".to_owned()] {
        tokio::time::sleep(Duration::from_millis(1)).await;
        found.clone_from(&stage.confirm(&alice).await.unwrap().roles);
    }
    assert_eq!(stage.asked(), before + 1);
    stage.links.hint(Hint::ReintrospectAll { issuer: "main".into() });
    stage.until("both are asked about", || stage.asked() == 5).await;
    assert_eq!(stage.waited(), 2);
}

#[tokio::test]
async fn a_session_that_ended_is_refused_at_once_and_is_known_to_be_its_users() {
    let stage = Stage::new().await;
    let (alice, bob) = (stage.token("alice").await, stage.token("bob").await);
    stage.confirm(&alice).await.unwrap();
    stage.confirm(&bob).await.unwrap();
    let mut decisions = stage.users.subscribe();
    let session = alice.facts.session.clone().unwrap();
    stage.links.hint(Hint::SessionEnded { issuer: "main".into(), session });
    let decision = decisions.recv().await.unwrap();
    assert_eq!((decision.kind, decision.cause), (Kind::SessionEnd, Cause::SessionGone));
    assert_eq!(stage.confirm(&alice).await.unwrap_err(), StatusError::Refused(Cause::SessionGone));
    stage.confirm(&bob).await.unwrap();
}

#[tokio::test]
async fn an_ended_session_ends_its_token_and_has_the_user_read_again() {
    let stage = Stage::new().await;
    let mut end = stage.links.get("main").unwrap().watch_end();
    let (token, other) = (stage.token("alice").await, stage.token("alice").await);
    stage.confirm(&token).await.unwrap();
    stage.confirm(&other).await.unwrap();
    assert!(stage.dev.demo().end_session(token.facts.session.as_deref().unwrap()));
    stage.links.hint(Hint::Reintrospect(stage.id("alice")));
    assert_eq!(end.rereads.recv().await, Some(stage.id("alice")));
    stage.until("it has left", || stage.numbers().in_use == 1).await;
    assert_eq!(stage.confirm(&token).await.unwrap_err(), StatusError::Inactive);
    assert_eq!(stage.verifier.may_go_on(&token, stage.clock.now()), Err(StatusError::Inactive));
    stage.confirm(&other).await.unwrap();
    assert_eq!(stage.verifier.may_go_on(&other, stage.clock.now()), Ok(()));
    // The issuer that calls a token inactive that has expired says nothing about its user.
    let short = stage.verified(&stage.dev.issue(&TokenSpec::user("alice").lifetime(10))).await;
    stage.confirm(&short).await.unwrap();
    stage.pass(Duration::from_secs(11)).await;
    stage.links.hint(Hint::Reintrospect(stage.id("alice")));
    stage.until("it has left", || stage.numbers().in_use == 1).await;
    assert!(end.rereads.try_recv().is_err());
}

#[tokio::test]
async fn an_issuer_that_fails_is_probed_by_one_call_at_a_time() {
    let stage = Stage::new().await;
    let mut tokens = Vec::new();
    for _ in 0..8 {
        tokens.push(stage.token("alice").await);
        stage.confirm(&tokens[tokens.len() - 1]).await.unwrap();
    }
    stage.dev.demo().set_illness(Endpoint::Introspection, Some(Illness::Refuse));
    stage.clock.advance(Duration::from_secs(24));
    let failed = || stage.verifier.counts().failed.load(Ordering::Relaxed);
    stage.until("it fails", || failed() > 0).await;
    stage.until("no call is under way", || stage.numbers().usage.calls[2] == failed()).await;
    let before = failed();
    // The first failure may have come to several calls at once; from now on it is one each half second.
    for probe in 1..=3 {
        stage.clock.advance(Duration::from_millis(500));
        stage.until("it is probed", || failed() == before + probe).await;
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(failed(), before + probe);
    }
    for token in &tokens {
        stage.confirm(token).await.unwrap();
    }
    stage.dev.demo().set_illness(Endpoint::Introspection, None);
    stage.pass(Duration::from_millis(500)).await;
    assert_eq!(stage.waited(), 8);
}

#[tokio::test]
async fn a_lightweight_token_does_not_change_hands() {
    let stage = Stage::with(|config| {
        config.lightweight = true;
        config.user_status = keycloak(&config.url, WhenUnknown::Deny);
    })
    .await;
    let token = stage.dev.issue(&TokenSpec::user("alice").client("cli-light"));
    let token = stage.verified(&token).await;
    assert_eq!(stage.confirm(&token).await.unwrap().subject, &**stage.id("alice").subject());
    for other in ["bob", "alice"] {
        let answer = serde_json::json!({ "active": true, "sub": **stage.id(other).subject(), "aud": "gateway" });
        let asking = token.source.status.as_ref().unwrap();
        let answer = crate::issuer::Introspected::Active(object(answer));
        let verdict = stage.verifier.verdict(&token, asking, answer, 1);
        let is_active = matches!(verdict, crate::identity::status::Verdict::Active(_));
        assert_eq!(is_active, other == "alice");
    }
}

#[tokio::test]
async fn a_reload_does_not_have_the_issuer_asked_about_every_token_at_once() {
    let stage = Stage::new().await;
    let texts = [stage.dev.token("alice"), stage.dev.token("bob")];
    for text in &texts {
        let token = stage.verified(text).await;
        stage.confirm(&token).await.unwrap();
    }
    let another = |asked| {
        let (users, links, clock) = (Arc::clone(&stage.users), Arc::clone(&stage.links), stage.clock.clone());
        let shared = Shared { users, links, clock, control: tokio::runtime::Handle::current() };
        let issuers = stage.verifier.issuers().cloned().collect();
        Arc::new(Verifier::new(issuers, asked, &own(), shared, 1000).unwrap().after(&stage.verifier))
    };
    let next = another(Vec::new());
    stage.verifier.retire();
    for task in next.tasks() {
        tokio::spawn(task);
    }
    let mut tokens = Vec::new();
    for text in &texts {
        let token = next.verify(&LocalCache::default(), text.as_bytes(), stage.clock.now()).await.unwrap();
        let caller = next.confirm(&token, stage.clock.now()).await.unwrap();
        assert!(Arc::ptr_eq(&caller.issuer, next.issuers().next().unwrap().config()));
        tokens.push(token);
    }
    assert_eq!((stage.asked(), next.counts().waited.load(Ordering::Relaxed)), (2, 0));
    // The new verifier asks about them in time, the former does not.
    let numbers = |verifier: &Verifier| verifier.numbers().next().unwrap().1;
    stage.clock.advance(BOUND * 4 / 5);
    stage.until("the new one asks", || numbers(&next).age_ms == 0 && numbers(&next).in_use == 2).await;
    stage.until("the former lets go", || numbers(&stage.verifier).in_use == 0).await;
    assert_eq!(stage.asked(), 4);
    for token in &tokens {
        next.confirm(token, stage.clock.now()).await.unwrap();
    }
    assert_eq!(next.counts().waited.load(Ordering::Relaxed), 0);
    // What no route asked about before is not in the answers of before.
    let other = another(vec![config::ClaimPath::parse("dept").unwrap()]);
    let token = other.verify(&LocalCache::default(), texts[0].as_bytes(), stage.clock.now()).await.unwrap();
    other.confirm(&token, stage.clock.now()).await.unwrap();
    assert_eq!((stage.asked(), other.counts().waited.load(Ordering::Relaxed)), (5, 1));
}
