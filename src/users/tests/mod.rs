mod state;
mod store;

use super::*;
use crate::config;
use std::time::Duration;

fn user(subject: &str) -> UserId {
    UserId::new("main", subject).unwrap()
}

fn act() -> Act {
    Act { by: "olga".into(), reason: "left \"us\"".into() }
}

fn disabled(at_ms: u64) -> Proof {
    Proof::Issuer { cause: IssuerCause::Disabled, time: IssuerTime::At(at_ms), happened_ms: None }
}

fn enabled() -> Lift {
    Lift::Issuer { read_began_ms: u64::MAX, enabled_ms: None }
}

fn token(subject: &str) -> TokenClaims<'_> {
    TokenClaims { issuer: "main", subject, session: Some("s"), issued: Some(1_000), id: Some("j"), epoch: None }
}

struct World {
    clock: Clock,
    users: Arc<Users>,
}

impl World {
    fn new() -> Self {
        let clock = Clock::manual(1_000);
        let users = Users::in_memory(clock.clone());
        Self { clock, users }
    }

    fn judge(&self, claims: &TokenClaims<'_>) -> Judgement {
        self.users.judge(claims, self.clock.now())
    }

    /// What a request with alice's token finds.
    fn admit(&self, seen: &Seen) -> Judgement {
        self.users.admit(seen, self.clock.now(), || token("alice"))
    }
}

#[test]
fn a_user_is_an_issuer_and_any_subject_of_a_bearable_length() {
    let long = "Ж".repeat(255);
    for subject in ["a", " ", "al/ice\0\n\"", "../..", &long] {
        assert!(UserId::new("main", subject).is_some(), "{subject:?}");
    }
    for subject in [String::new(), "a".repeat(256), format!("{long}x")] {
        assert!(UserId::new("main", subject.as_str()).is_none(), "{subject:?}");
        // Whom nobody can block is not let in.
        let world = World::new();
        assert_eq!(world.judge(&token(&subject)), Judgement::Refused(Cause::NoUser));
    }
    assert_eq!(user("al\nice").to_string(), "main/al\\nice");
}

#[test]
fn what_was_admitted_is_looked_at_again_only_after_a_change() {
    let world = World::new();
    let seen = Seen::default();
    assert!(!world.users.is_current(&seen, world.clock.now()));
    assert_eq!(world.admit(&seen), Judgement::Admitted);
    assert!(world.users.is_current(&seen, world.clock.now()));
    // Neither a proof that is no news nor good news makes anybody look again.
    world.users.block(&user("bob"), disabled(900_000)).unwrap().unwrap();
    assert!(!world.users.is_current(&seen, world.clock.now()));
    assert_eq!(world.admit(&seen), Judgement::Admitted);
    let generation = world.users.generation();
    assert!(world.users.block(&user("bob"), disabled(900_000)).unwrap().is_none());
    assert!(world.users.block(&user("bob"), disabled(900_001)).unwrap().is_none());
    world.users.lift(&user("bob"), enabled()).unwrap();
    world.users.signed_in(&user("bob"), Some("s"), 950_000).unwrap().unwrap();
    assert_eq!(world.users.generation(), generation);
    world.users.block(&user("alice"), disabled(900_000)).unwrap().unwrap();
    for _ in 0..2 {
        assert_eq!(world.admit(&seen), Judgement::Refused(Cause::Disabled));
    }
}

#[test]
fn a_token_of_ours_counts_by_its_epoch_whatever_its_back_dated_time_says() {
    let world = World::new();
    // Minted at the same moment, so ten seconds before the sign-in by what it says.
    let ours = |epoch| TokenClaims { session: None, issued: Some(940), epoch: Some(epoch), ..token("alice") };
    assert_eq!(world.judge(&ours(0)), Judgement::Admitted);
    world.users.block(&user("alice"), disabled(900_000)).unwrap();
    assert_eq!(world.judge(&ours(1)), Judgement::Refused(Cause::Disabled));
    world.users.lift(&user("alice"), enabled()).unwrap();
    assert_eq!(world.judge(&ours(0)), Judgement::Refused(Cause::SignInTooOld));
    world.users.signed_in(&user("alice"), Some("new"), 950_000).unwrap().unwrap();
    assert_eq!(world.judge(&ours(1)), Judgement::Admitted);
    assert_eq!(world.judge(&ours(0)), Judgement::Refused(Cause::SignInTooOld));
    let act = Act { by: "olga".into(), reason: "lost".into() };
    let tokens = Tokens::User { subject: "alice".into(), issued_before_ms: 960_000 };
    world.users.revoke(Revocation { issuer: "main".into(), tokens, act, until_ms: None }).unwrap().unwrap();
    assert_eq!(world.judge(&ours(1)), Judgement::Refused(Cause::SignInTooOld));
    assert_eq!(world.judge(&ours(2)), Judgement::Admitted);
}

#[test]
fn the_same_subject_of_another_issuer_is_another_user() {
    let world = World::new();
    world.users.block(&user("alice"), disabled(900_000)).unwrap();
    assert_eq!(world.judge(&TokenClaims { issuer: "other", ..token("alice") }), Judgement::Admitted);
    assert_eq!(world.judge(&token("alice")), Judgement::Refused(Cause::Disabled));
}

#[test]
fn a_decision_tells_who_why_and_after_how_long() {
    let world = World::new();
    let mut decisions = world.users.subscribe();
    let proof =
        Proof::Issuer { cause: IssuerCause::LockedOut, time: IssuerTime::Within(998_000), happened_ms: Some(998_700) };
    let decision = world.users.block(&user("alice"), proof).unwrap().unwrap();
    assert_eq!((decision.kind, decision.cause, decision.user()), (Kind::Block, Cause::LockedOut, Some(&user("alice"))));
    assert_eq!((decision.issuer_time_ms, decision.delay_ms), (Some(999_000), Some(1_300)));
    assert_eq!((decision.epoch, decision.state), (1, Some(State::Blocked)));
    let told = decisions.try_recv().unwrap();
    assert!(Arc::ptr_eq(&told, &decision));
    assert!(matches!(world.users.lift(&user("alice"), enabled()).unwrap(), Lifted::Done(_)));
    assert_eq!(decisions.try_recv().unwrap().state, Some(State::AwaitingSignIn));
    assert!(matches!(world.users.lift(&user("alice"), enabled()).unwrap(), Lifted::NotBlocked));
    assert!(decisions.try_recv().is_err());
}

#[test]
fn a_sweep_blocks_many_and_one_only_once() {
    let world = World::new();
    let proofs = ["a", "b", "a", "c"].map(|subject| (user(subject), disabled(900_000)));
    assert_eq!(world.users.block_all(proofs.clone()).unwrap().len(), 3);
    assert_eq!(world.users.block_all(proofs).unwrap().len(), 0);
    assert_eq!((world.users.blocked_users(), world.users.list().len()), (3, 3));
    assert_eq!(world.users.blocked_by_issuer("main").len(), 3);
    assert_eq!(world.users.blocked_by_issuer("other").len(), 0);
}

#[test]
fn a_session_that_was_asked_about_in_vain_is_refused_until_it_is_shown() {
    let world = World::new();
    world.users.block(&user("alice"), disabled(900_000)).unwrap();
    world.users.lift(&user("alice"), enabled()).unwrap();
    assert_eq!(world.judge(&token("alice")), Judgement::NeedsSignInProof);
    world.users.not_signed_in(&user("alice"), "s");
    assert_eq!(world.judge(&token("alice")), Judgement::Refused(Cause::SignInTooOld));
    world.users.signed_in(&user("alice"), Some("s"), 900_000).unwrap().unwrap();
    assert_eq!(world.judge(&token("alice")), Judgement::Admitted);
    // One that began too early need not be asked about again.
    assert!(world.users.signed_in(&user("alice"), Some("old"), 899_999).unwrap().is_none());
    let old = TokenClaims { session: Some("old"), ..token("alice") };
    assert_eq!(world.judge(&old), Judgement::Refused(Cause::SignInTooOld));
    let view = world.users.state(&user("alice")).unwrap();
    assert_eq!((view.state, view.sessions), (State::Active, vec![("s".to_owned(), 900_000)]));
    assert!(world.users.state(&user("bob")).is_none());
}

#[test]
fn a_session_end_concerns_its_tokens_and_nothing_else() {
    let main: Arc<str> = "main".into();
    let world = World::new();
    let scope = SessionScope::Session("s".into());
    let decision = world.users.end_session(&main, scope.clone(), Cause::LoggedOut).unwrap().unwrap();
    assert_eq!((decision.kind, decision.user(), decision.epoch), (Kind::SessionEnd, None, 0));
    assert!(world.users.end_session(&main, scope, Cause::LoggedOut).unwrap().is_none());
    assert_eq!(world.judge(&token("alice")), Judgement::Refused(Cause::LoggedOut));
    let other = TokenClaims { session: Some("t"), ..token("alice") };
    assert_eq!(world.judge(&other), Judgement::Admitted);
    assert_eq!(world.judge(&TokenClaims { issuer: "other", ..token("alice") }), Judgement::Admitted);
    assert_eq!((world.users.blocked_users(), world.users.epoch("main", "alice")), (0, 0));
    // All sessions of a user from before a time, seen by when their tokens were issued.
    let scope = SessionScope::User { subject: "alice".into(), begun_before_ms: 1_000_001 };
    world.users.end_session(&main, scope, Cause::LoggedOut).unwrap().unwrap();
    assert_eq!(world.judge(&other), Judgement::Refused(Cause::LoggedOut));
    assert_eq!(world.judge(&TokenClaims { issued: Some(1_001), ..other }), Judgement::Admitted);
    assert_eq!(world.judge(&TokenClaims { issued: None, ..other }), Judgement::Refused(Cause::LoggedOut));
    assert_eq!(world.judge(&TokenClaims { subject: "bob", ..other }), Judgement::Admitted);
}

#[test]
fn tokens_are_revoked_by_id_session_user_and_time() {
    let claims = token("alice");
    for (tokens, spared) in [
        (Tokens::Id("j".into()), TokenClaims { id: None, ..claims }),
        (Tokens::Session("s".into()), TokenClaims { session: Some("S"), ..claims }),
        (
            Tokens::User { subject: "alice".into(), issued_before_ms: 1_000_001 },
            TokenClaims { subject: "bob", ..claims },
        ),
        (Tokens::All { issued_before_ms: 1_001_000 }, TokenClaims { issued: Some(1_001), ..claims }),
    ] {
        let world = World::new();
        let revocation = Revocation { issuer: "main".into(), tokens: tokens.clone(), act: act(), until_ms: None };
        let decision = world.users.revoke(revocation.clone()).unwrap().unwrap();
        assert_eq!((decision.kind, decision.act.as_ref()), (Kind::Revocation, Some(&act())));
        assert!(world.users.revoke(revocation).unwrap().is_none());
        assert_eq!(world.judge(&claims), Judgement::Refused(Cause::Operator), "{tokens:?}");
        assert_eq!(world.judge(&spared), Judgement::Admitted, "{tokens:?}");
    }
}

#[test]
fn what_ended_is_forgotten_when_no_such_token_can_live() {
    let main: Arc<str> = "main".into();
    let world = World::new();
    world.users.end_session(&main, SessionScope::Session("s".into()), Cause::LoggedOut).unwrap();
    let revocation = |tokens, until_ms| Revocation { issuer: main.clone(), tokens, act: act(), until_ms };
    world.users.revoke(revocation(Tokens::Id("short".into()), Some(1_060_000))).unwrap();
    world.users.revoke(revocation(Tokens::Id("long".into()), Some(1_000_000 + 48 * 3_600_000))).unwrap();
    world
        .users
        .block(&user("gone"), Proof::Issuer { cause: IssuerCause::Deleted, time: IssuerTime::At(1), happened_ms: None })
        .unwrap();
    world.users.block(&user("alice"), disabled(900_000)).unwrap();
    let known = |world: &World| world.users.memory().refusals().count();
    world.users.tick().unwrap();
    assert_eq!(known(&world), 3);
    for (after, left) in [(60, 2), (24 * 3600 - 60, 1), (24 * 3600, 0)] {
        world.clock.advance(Duration::from_secs(after));
        world.users.tick().unwrap();
        assert_eq!(known(&world), left, "{after}");
    }
    assert_eq!(world.users.list().len(), 2);
    world.clock.advance(Duration::from_secs(31 * 24 * 3600));
    world.users.tick().unwrap();
    assert!(world.users.state(&user("gone")).is_none());
    assert_eq!(world.users.state(&user("alice")).unwrap().state, State::Blocked);
}

#[test]
fn after_the_cluster_was_closed_everybody_has_to_sign_in_again() {
    let world = World::new();
    let seen = Seen::default();
    assert_eq!(world.admit(&seen), Judgement::Admitted);
    assert!(world.users.disable_cluster(act()).unwrap().is_some());
    assert!(world.users.disable_cluster(act()).unwrap().is_none());
    assert_eq!(world.admit(&seen), Judgement::Refused(Cause::ClusterClosed));
    assert_eq!(world.users.epoch("main", "alice"), 1);
    let clocks = [IssuerClock { issuer: "main", now_ms: 2_000_000 }];
    assert_eq!(world.users.enable_cluster(act(), &clocks).unwrap().unwrap().kind, Kind::ClusterOpened);
    assert!(world.users.enable_cluster(act(), &clocks).unwrap().is_none());
    assert_eq!(world.admit(&seen), Judgement::NeedsSignInProof);
    world.users.signed_in(&user("alice"), Some("s"), 1_999_999).unwrap();
    assert_eq!(world.admit(&seen), Judgement::Refused(Cause::SignInTooOld));
    world.users.signed_in(&user("alice"), Some("new"), 2_000_000).unwrap();
    assert_eq!(world.judge(&TokenClaims { session: Some("new"), ..token("alice") }), Judgement::Admitted);
    // An issuer that was not named is measured by our clock.
    let other = TokenClaims { issuer: "other", session: None, ..token("alice") };
    assert_eq!(world.judge(&other), Judgement::Refused(Cause::SignInTooOld));
    assert_eq!(world.judge(&TokenClaims { issued: Some(1_001), ..other }), Judgement::Admitted);
}

#[test]
fn nothing_admitted_outlives_valid_until_even_if_the_control_plane_is_late() {
    let world = World::new();
    let seen = Seen::default();
    world.users.set_valid_until(Some(1_010_000), &[]).unwrap();
    assert_eq!(world.admit(&seen), Judgement::Admitted);
    world.clock.advance(Duration::from_millis(9_999));
    assert_eq!(world.admit(&seen), Judgement::Admitted);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.admit(&seen), Judgement::Refused(Cause::ClusterExpired));
    assert!(world.users.cluster().is_expired);
    let mut decisions = world.users.subscribe();
    world.users.tick().unwrap();
    world.users.tick().unwrap();
    assert_eq!(decisions.try_recv().unwrap().cause, Cause::ClusterExpired);
    assert!(decisions.try_recv().is_err());
    // A later date opens again, and everybody has to sign in.
    let opened = world.users.set_valid_until(Some(2_000_000), &[]).unwrap().unwrap();
    assert_eq!(opened.kind, Kind::ClusterOpened);
    assert_eq!(world.admit(&seen), Judgement::NeedsSignInProof);
}

#[test]
fn a_date_that_passed_and_a_hand_are_two_reasons_to_be_closed() {
    let world = World::new();
    world.users.set_valid_until(Some(1), &[]).unwrap().unwrap();
    world.users.disable_cluster(act()).unwrap().unwrap();
    world.users.enable_cluster(act(), &[]).unwrap().unwrap();
    assert_eq!(world.judge(&token("alice")), Judgement::Refused(Cause::ClusterExpired));
    world.users.disable_cluster(act()).unwrap().unwrap();
    world.users.set_valid_until(None, &[]).unwrap().unwrap();
    assert_eq!(world.judge(&token("alice")), Judgement::Refused(Cause::ClusterClosed));
}

#[test]
fn a_not_before_of_an_issuer_is_for_its_users_alone() {
    let world = World::new();
    let main: Arc<str> = "main".into();
    assert!(world.users.issuer_not_before(&main, 1_000_001).unwrap().is_some());
    assert!(world.users.issuer_not_before(&main, 1_000_001).unwrap().is_none());
    assert_eq!(world.judge(&token("alice")), Judgement::NeedsSignInProof);
    assert_eq!(world.judge(&TokenClaims { issuer: "other", ..token("alice") }), Judgement::Admitted);
    assert_eq!((world.users.epoch("main", "alice"), world.users.epoch("other", "alice")), (1, 0));
    // A user's own blocks count on top.
    let decision = world.users.block(&user("alice"), disabled(900_000)).unwrap().unwrap();
    assert_eq!((decision.epoch, world.users.epoch("main", "alice")), (2, 2));
}

#[test]
fn each_decision_is_one_line_of_the_audit_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.log");
    let audit = Audit::start(&config::LogPlace::File(path.clone())).unwrap();
    let users = Users::open(&folder.path().join("state/users.redb"), Clock::manual(1_000), audit).unwrap();
    users.block(&user("al\"ice"), Proof::Operator(act())).unwrap();
    users.block(&user("al\"ice"), Proof::Operator(act())).unwrap();
    users.end_session(&"main".into(), SessionScope::Session("s".into()), Cause::LoggedOut).unwrap();
    users.disable_cluster(act()).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    let expected = serde_json::json!({
        "time": "1970-01-01T00:16:40.000Z", "event": "user_block", "issuer": "main", "subject": "al\"ice",
        "cause": "operator", "by": "olga", "reason": "left \"us\"", "state": "blocked", "epoch": 1,
    });
    assert_eq!(lines[0], expected);
    assert_eq!((&lines[1]["event"], &lines[1]["session"]), (&"session_end".into(), &"s".into()));
    assert_eq!(lines[2]["event"], "cluster_closed");
}
