//! What is known against users, held against their tokens.

use super::minted;
use super::status::{BOUND, Stage, keycloak};
use crate::config::{UserStatus, WhenUnknown};
use crate::dev::{Endpoint, Illness};
use crate::identity::status::StatusError;
use crate::identity::{SignInReply, WatchEnd};
use crate::token_service::TokenService;
use crate::users::{Act, Cause, IssuerCause, IssuerTime, Lift, Proof, Revocation, Tokens};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn act() -> Act {
    Act { by: "root".into(), reason: String::new() }
}

impl Stage {
    fn disable(&self, user: &str) {
        let time = IssuerTime::At(self.clock.now().unix_ms);
        let proof = Proof::Issuer { cause: IssuerCause::Disabled, time, happened_ms: None };
        assert!(self.users.block(&self.id(user), proof).unwrap().is_some());
    }

    fn enable(&self, user: &str) {
        self.clock.advance(Duration::from_millis(10));
        let read_began_ms = self.clock.now().monotonic_ms;
        self.users.lift(&self.id(user), Lift::Issuer { read_began_ms, enabled_ms: None }).unwrap();
    }

    /// A service whose keys the verifier knows, instead of those that it began with.
    fn token_service(&self) -> TokenService {
        let service = super::own();
        self.verifier.refresh_own_keys(&service);
        service
    }

    /// A token for alice and Postern itself.
    fn own_token(&self, service: &TokenService, epoch: u64) -> String {
        let (url, alice) = (self.dev.url("demo"), self.dev.demo().user("alice").unwrap().id);
        minted(service, "https://postern.example", &url, &alice, epoch, self.clock.now())
    }

    fn watch_end(&self) -> WatchEnd {
        self.links.get("main").unwrap().watch_end()
    }
}

#[tokio::test]
async fn a_blocked_users_tokens_are_refused_from_the_next_request_on() {
    let none = |config: &mut crate::config::Issuer| config.user_status = UserStatus::None;
    for stage in [Stage::new().await, Stage::with(none).await] {
        let (alice, bob) = (stage.token("alice").await, stage.token("bob").await);
        let before = stage.confirm(&alice).await.unwrap();
        stage.confirm(&bob).await.unwrap();
        let asked = stage.asked();
        stage.users.block(&stage.id("alice"), Proof::Operator(act())).unwrap();
        assert_eq!(stage.confirm(&alice).await.unwrap_err(), StatusError::Refused(Cause::Operator));
        let refused = stage.verifier.may_go_on(&alice, stage.clock.now());
        assert_eq!(refused, Err(StatusError::Refused(Cause::Operator)));
        // A token never seen is refused without a question.
        let fresh = stage.token("alice").await;
        assert_eq!(stage.confirm(&fresh).await.unwrap_err(), StatusError::Refused(Cause::Operator));
        stage.confirm(&bob).await.unwrap();
        assert_eq!(stage.asked(), asked);
        assert_eq!(before.epoch, 0);
        stage.users.disable_cluster(act()).unwrap();
        assert_eq!(stage.confirm(&bob).await.unwrap_err(), StatusError::Refused(Cause::ClusterClosed));
        // Somebody has to open it again; whoever is blocked as a user is not the one.
        stage.verifier.confirm_operator(&bob, stage.clock.now()).await.unwrap();
        let blocked = stage.verifier.confirm_operator(&alice, stage.clock.now()).await;
        assert_eq!(blocked.unwrap_err(), StatusError::Refused(Cause::Operator));
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused_and_no_other() {
    let stage = Stage::new().await;
    let (token, other) = (stage.token("alice").await, stage.token("alice").await);
    stage.confirm(&token).await.unwrap();
    stage.confirm(&other).await.unwrap();
    let tokens = Tokens::Id(token.facts.id.clone().unwrap());
    stage.users.revoke(Revocation { issuer: "main".into(), tokens, act: act(), until_ms: None }).unwrap();
    assert_eq!(stage.confirm(&token).await.unwrap_err(), StatusError::Refused(Cause::Operator));
    stage.confirm(&other).await.unwrap();
}

#[tokio::test]
async fn after_a_lift_only_a_session_that_began_since_passes_and_with_nothing_made_before() {
    let stage = Stage::new().await;
    let mut end = stage.watch_end();
    let old = stage.token("alice").await;
    let before = stage.confirm(&old).await.unwrap();
    stage.disable("alice");
    stage.enable("alice");
    stage.clock.advance(Duration::from_secs(1));
    let new = stage.token("alice").await;
    let (users, id, began_ms) = (Arc::clone(&stage.users), stage.id("alice"), stage.clock.now().unix_ms);
    let (shown, questions) = (new.facts.session.clone().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&questions);
    tokio::spawn(async move {
        while let Some(question) = end.questions.recv().await {
            count.fetch_add(1, Ordering::Relaxed);
            assert_eq!(question.user, id);
            users.signed_in(&id, Some(&shown), began_ms).unwrap();
            question.reply.send(SignInReply::Looked).unwrap();
        }
    });
    assert_eq!(stage.confirm(&old).await.unwrap_err(), StatusError::Refused(Cause::SignInTooOld));
    let after = stage.confirm(&new).await.unwrap();
    assert_eq!((before.epoch, after.epoch), (0, 1));
    assert!(!after.says_the_same(&before), "no credential of before is found");
    // What is proven needs no further question, and the old session no answer.
    for _ in 0..3 {
        stage.confirm(&new).await.unwrap();
    }
    assert_eq!(questions.load(Ordering::Relaxed), 1);
    assert_eq!(stage.confirm(&old).await.unwrap_err(), StatusError::Refused(Cause::SignInTooOld));
}

#[tokio::test]
async fn a_sign_in_that_nobody_can_show_is_none_and_one_that_cannot_be_looked_for_is_unknown() {
    let stage = Stage::new().await;
    let token = stage.token("alice").await;
    stage.disable("alice");
    stage.enable("alice");
    let refused = StatusError::Refused(Cause::SignInTooOld);
    assert_eq!(stage.confirm(&token).await.unwrap_err(), refused, "nobody watches");
    let mut end = stage.watch_end();
    let watch = tokio::spawn(async move {
        end.questions.recv().await.unwrap().reply.send(SignInReply::Unreachable).unwrap();
        // This one is never answered.
        let unanswered = end.questions.recv().await;
        (end, unanswered)
    });
    assert_eq!(stage.confirm(&token).await.unwrap_err(), StatusError::Unknown);
    assert_eq!(stage.confirm(&token).await.unwrap_err(), StatusError::Unknown);
    drop(watch.await.unwrap());
    assert_eq!(stage.confirm(&token).await.unwrap_err(), refused, "the watch is over");
}

#[tokio::test]
async fn an_identity_of_a_former_epoch_is_renewed_wherever_it_is_kept() {
    for status in [true, false] {
        let stage = Stage::with(|config| {
            if status {
                config.user_status = keycloak(&config.url, WhenUnknown::Deny);
            }
        })
        .await;
        let token = stage.token("alice").await;
        let before = stage.confirm(&token).await.unwrap();
        stage.disable("alice");
        stage.enable("alice");
        // Its own session, however that may be, is shown to have begun late enough.
        let began_ms = stage.clock.now().unix_ms + 60_000;
        stage.users.signed_in(&stage.id("alice"), token.facts.session.as_deref(), began_ms).unwrap();
        let after = stage.confirm(&token).await.unwrap();
        assert_eq!((before.epoch, after.epoch, after.roles == before.roles), (0, 1, true));
        assert!(Arc::ptr_eq(&after, &stage.confirm(&token).await.unwrap()));
    }
}

#[tokio::test]
async fn allow_for_prolongs_nothing_from_before_a_block() {
    let stage = Stage::with(|config| {
        config.user_status = keycloak(&config.url, WhenUnknown::AllowFor(Duration::from_secs(600)));
    })
    .await;
    let token = stage.token("alice").await;
    stage.confirm(&token).await.unwrap();
    stage.dev.demo().set_illness(Endpoint::Introspection, Some(Illness::Refuse));
    stage.clock.advance(BOUND);
    stage.confirm(&token).await.unwrap();
    stage.disable("alice");
    assert_eq!(stage.confirm(&token).await.unwrap_err(), StatusError::Refused(Cause::Disabled));
    stage.enable("alice");
    stage.clock.advance(Duration::from_secs(1));
    let new = stage.token("alice").await;
    let began_ms = stage.clock.now().unix_ms;
    stage.users.signed_in(&stage.id("alice"), new.facts.session.as_deref(), began_ms).unwrap();
    assert_eq!(stage.confirm(&new).await.unwrap_err(), StatusError::Unknown);
}

#[tokio::test]
async fn an_own_token_is_judged_as_its_user() {
    let stage = Stage::with(|config| config.user_status = UserStatus::None).await;
    let service = stage.token_service();
    let own = stage.verified(&stage.own_token(&service, 0)).await;
    assert_eq!(stage.confirm(&own).await.unwrap().subject, stage.dev.demo().user("alice").unwrap().id);
    let tokens = Tokens::Id(own.facts.id.clone().unwrap());
    let by_id = Revocation { issuer: "main".into(), tokens, act: act(), until_ms: None };
    stage.users.revoke(by_id).unwrap();
    assert_eq!(stage.confirm(&own).await.unwrap_err(), StatusError::Refused(Cause::Operator));
    let other = stage.verified(&stage.own_token(&service, 0)).await;
    stage.confirm(&other).await.unwrap();
    stage.disable("alice");
    assert_eq!(stage.confirm(&other).await.unwrap_err(), StatusError::Refused(Cause::Disabled));
}

/// Whatever the clocks say: here the issuer's is an hour behind ours, so that every token of ours seems to be newer than the block.
#[tokio::test]
async fn an_own_token_from_before_a_block_is_void_for_good() {
    let stage = Stage::with(|config| config.user_status = UserStatus::None).await;
    let service = stage.token_service();
    let (used, unused) = (stage.verified(&stage.own_token(&service, 0)).await, stage.own_token(&service, 0));
    stage.confirm(&used).await.unwrap();
    stage.users.block(&stage.id("alice"), Proof::Operator(act())).unwrap();
    let issuer_now_ms = stage.clock.now().unix_ms - 3_600_000;
    stage.users.lift(&stage.id("alice"), Lift::Operator { act: act(), issuer_now_ms }).unwrap();
    for old in [used, stage.verified(&unused).await] {
        for _ in 0..2 {
            assert_eq!(stage.confirm(&old).await.unwrap_err(), StatusError::Refused(Cause::SignInTooOld));
        }
        let refused = stage.verifier.may_go_on(&old, stage.clock.now());
        assert_eq!(refused, Err(StatusError::Refused(Cause::SignInTooOld)));
    }
    let new = stage.verified(&stage.own_token(&service, 1)).await;
    assert_eq!(stage.confirm(&new).await.unwrap().epoch, 1);
    // Nor is one of an epoch that is still to come.
    let next = stage.verified(&stage.own_token(&service, 2)).await;
    assert_eq!(stage.confirm(&next).await.unwrap_err(), StatusError::Refused(Cause::SignInTooOld));
}
