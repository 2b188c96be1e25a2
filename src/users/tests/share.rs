//! Replicas that share what they know through something that holds keys and values.

use super::*;
use crate::telemetry::audit_log::Audit;
use std::collections::BTreeMap;
use tempfile::TempDir;

/// What all replicas read and write.
type Carrier = BTreeMap<String, Vec<u8>>;

struct Replica {
    folder: TempDir,
    clock: Clock,
    users: Arc<Users>,
}

impl Replica {
    fn new() -> Self {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Clock::manual(1_000));
        let users = open(&folder, &clock);
        users.share().unwrap();
        users.loaded();
        Self { folder, clock, users }
    }

    /// As after a crash, or an end in good order.
    fn reopen(&mut self) {
        self.users = Users::in_memory(self.clock.clone());
        self.users = open(&self.folder, &self.clock);
        self.users.share().unwrap();
        self.users.loaded();
    }

    fn push(&self, carrier: &mut Carrier) {
        for key in self.users.unshared() {
            let offer = self.users.offer(&key, carrier.get(&key).map(Vec::as_slice)).unwrap().unwrap();
            carrier.insert(key.clone(), offer.value.clone());
            self.users.adopt(&[(key, offer.value)]).unwrap();
        }
        assert_eq!(self.users.unshared_len(), 0);
    }

    fn pull(&self, carrier: &Carrier) -> Adopted {
        let all: Vec<_> = carrier.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        self.users.adopt(&all).unwrap()
    }

    fn state(&self, subject: &str) -> State {
        self.users.standing(&user(subject), self.clock.now()).0
    }

    fn judge(&self, subject: &str) -> Judgement {
        self.users.judge(&token(subject), self.clock.now())
    }
}

fn open(folder: &TempDir, clock: &Clock) -> Arc<Users> {
    let audit = Audit::start(&config::LogPlace::File(folder.path().join("audit.log"))).unwrap();
    Users::open(&folder.path().join("users.redb"), clock.clone(), audit).unwrap()
}

fn audited(replica: &Replica) -> usize {
    std::fs::read_to_string(replica.folder.path().join("audit.log")).unwrap_or_default().lines().count()
}

fn kinds(decisions: &mut broadcast::Receiver<Arc<Decision>>) -> Vec<Kind> {
    std::iter::from_fn(|| decisions.try_recv().ok()).map(|decision| decision.kind).collect()
}

#[test]
fn what_one_decides_the_other_knows_tells_and_does_not_audit() {
    let (a, b, mut carrier) = (Replica::new(), Replica::new(), Carrier::new());
    let mut told = b.users.subscribe();
    let main: Arc<str> = "main".into();
    let seen = Seen::default();
    assert_eq!(b.users.admit(&seen, b.clock.now(), || token("alice")), Judgement::Admitted);
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    a.users.end_session(&main, SessionScope::Session("gone".into()), Cause::LoggedOut).unwrap();
    a.users.issuer_not_before(&"other".into(), 5_000).unwrap();
    a.push(&mut carrier);
    assert_eq!(b.pull(&carrier).changed, 3);
    assert_eq!(b.pull(&carrier), Adopted::default());
    assert_eq!(kinds(&mut told), [Kind::IssuerNotBefore, Kind::SessionEnd, Kind::Block]);
    assert!(!b.users.is_current(&seen, b.clock.now()));
    assert_eq!(b.judge("alice"), Judgement::Refused(Cause::Disabled));
    let gone = TokenClaims { session: Some("gone"), ..token("bob") };
    assert_eq!(b.users.judge(&gone, b.clock.now()), Judgement::Refused(Cause::LoggedOut));
    assert_eq!((b.users.unshared_len(), audited(&a), audited(&b)), (0, 3, 0));

    a.users.lift(&user("alice"), enabled()).unwrap();
    a.users.signed_in(&user("alice"), Some("s"), 950_000).unwrap().unwrap();
    a.push(&mut carrier);
    b.pull(&carrier);
    assert_eq!(kinds(&mut told), [Kind::Lift, Kind::SignIn]);
    assert_eq!((b.state("alice"), b.judge("alice")), (State::Active, Judgement::Admitted));
}

#[test]
fn nobody_is_let_in_before_what_is_shared_was_read() {
    let replica = Replica::new();
    let seen = Seen::default();
    let admit = || replica.users.admit(&seen, replica.clock.now(), || token("alice"));
    assert_eq!(admit(), Judgement::Admitted);
    replica.users.share().unwrap();
    assert_eq!((admit(), replica.users.is_loaded()), (Judgement::Unknown, false));
    replica.users.loaded();
    assert_eq!(admit(), Judgement::Admitted);
}

#[test]
fn what_was_decided_and_not_shared_is_shared_after_a_crash() {
    let (mut a, mut carrier) = (Replica::new(), Carrier::new());
    let long = "j".repeat(3_000);
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    a.push(&mut carrier);
    a.users.lift(&user("alice"), enabled()).unwrap();
    a.users.block(&user("al/ice\0"), Proof::Operator(act())).unwrap();
    let revocation = Revocation { issuer: "main".into(), tokens: Tokens::Id(long.clone()), act: act(), until_ms: None };
    a.users.revoke(revocation).unwrap();
    a.reopen();
    assert_eq!(a.users.unshared_len(), 3);
    a.push(&mut carrier);
    assert!(carrier.keys().all(|key| key.len() < 400), "{carrier:?}");
    a.reopen();
    assert_eq!(a.users.unshared_len(), 0);
    let b = Replica::new();
    b.pull(&carrier);
    assert_eq!((b.state("alice"), b.state("al/ice\0")), (State::AwaitingSignIn, State::Blocked));
    let revoked = TokenClaims { id: Some(&long), ..token("bob") };
    assert_eq!(b.users.judge(&revoked, b.clock.now()), Judgement::Refused(Cause::Operator));
}

#[test]
fn a_lift_on_what_is_no_longer_so_is_dropped() {
    let (a, b, mut carrier) = (Replica::new(), Replica::new(), Carrier::new());
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    a.push(&mut carrier);
    b.pull(&carrier);
    // Both decide before either hears of the other.
    b.users.lift(&user("alice"), enabled()).unwrap();
    a.users.block(&user("alice"), disabled(950_000)).unwrap();
    assert_eq!(b.state("alice"), State::AwaitingSignIn);
    a.push(&mut carrier);
    b.push(&mut carrier);
    a.pull(&carrier);
    assert_eq!((a.state("alice"), b.state("alice")), (State::Blocked, State::Blocked));
    // A read that began before the other's proof was heard of lifts nothing.
    let read_began_ms = b.clock.now().monotonic_ms;
    b.clock.advance(Duration::from_millis(5));
    a.users.block(&user("alice"), disabled(970_000)).unwrap();
    a.push(&mut carrier);
    b.pull(&carrier);
    let old = Lift::Issuer { read_began_ms, enabled_ms: None };
    assert!(matches!(b.users.lift(&user("alice"), old).unwrap(), Lifted::Stale));
}

#[test]
fn what_is_decided_while_it_is_put_is_not_lost() {
    let (a, mut carrier) = (Replica::new(), Carrier::new());
    for is_answered in [true, false] {
        a.users.block(&user("alice"), Proof::Operator(act())).unwrap();
        let key = a.users.unshared().remove(0);
        let offer = a.users.offer(&key, carrier.get(&key).map(Vec::as_slice)).unwrap().unwrap();
        let lift = Lift::Operator { act: act(), issuer_now_ms: 900_000 };
        assert!(matches!(a.users.lift(&user("alice"), lift).unwrap(), Lifted::Done(_)));
        carrier.insert(key.clone(), offer.value.clone());
        if is_answered {
            a.users.adopt(&[(key.clone(), offer.value)]).unwrap();
            assert_eq!(a.users.unshared(), [key]);
        }
        a.push(&mut carrier);
        assert_eq!(a.state("alice"), State::AwaitingSignIn, "{is_answered}");
    }
}

#[test]
fn what_was_known_before_it_is_shared_is_shared_first() {
    let (mut a, mut carrier) = (Replica::new(), Carrier::new());
    let b = Replica::new();
    b.users.block(&user("bob"), disabled(900_000)).unwrap();
    b.users.block(&user("alice"), disabled(900_000)).unwrap();
    b.users.lift(&user("alice"), enabled()).unwrap();
    b.push(&mut carrier);
    // A time without sharing, in which something is decided.
    a.users = Users::in_memory(a.clock.clone());
    let alone = open(&a.folder, &a.clock);
    alone.block(&user("alice"), Proof::Operator(act())).unwrap();
    drop(alone);
    a.reopen();
    a.pull(&carrier);
    assert_eq!((a.state("alice"), a.state("bob")), (State::Blocked, State::Blocked));
    a.push(&mut carrier);
    b.pull(&carrier);
    assert_eq!(b.users.state(&user("alice")).unwrap().by_operator, Some(act()));
}

#[test]
fn what_somebody_removed_or_put_back_is_put_again() {
    let (a, b, mut carrier) = (Replica::new(), Replica::new(), Carrier::new());
    a.users.issuer_not_before(&"main".into(), 1_000).unwrap();
    a.push(&mut carrier);
    let before = carrier.clone();
    a.users.block(&user("alice"), disabled(900_000)).unwrap();
    a.users.issuer_not_before(&"main".into(), 2_000).unwrap();
    a.push(&mut carrier);
    b.pull(&carrier);
    let full = carrier.clone();
    carrier = before.clone();
    for replica in [&a, &b] {
        assert_eq!(replica.pull(&carrier).repaired, 1);
        assert_eq!(replica.users.restore(&["u/main/alice".into(), "u/main/nobody".into()]).unwrap(), 1);
    }
    for replica in [&a, &b] {
        replica.push(&mut carrier);
        assert_eq!(carrier, full);
    }
    assert_eq!(a.state("alice"), State::Blocked);
}

#[test]
fn what_cannot_be_read_is_never_taken_for_nothing() {
    let replica = Replica::new();
    let bad = [("u/main/alice", "{}"), ("u/main", "{}"), ("x/y", "{}"), ("t/main/id/~abc", "{}"), ("c", "[")];
    for (key, value) in bad {
        let good = ("u/main/bob".to_owned(), br#"{"by_issuer":"disabled","threshold_ms":1,"epoch":1,"x":1}"#.to_vec());
        let found = [(key.to_owned(), value.as_bytes().to_vec()), good];
        assert!(matches!(replica.users.adopt(&found), Err(ShareError::Unreadable(told)) if told == key));
        assert_eq!(replica.state("bob"), State::Blocked);
    }
}

#[test]
fn what_is_over_is_neither_taken_nor_put_again_and_removed_later() {
    let (a, b, mut carrier) = (Replica::new(), Replica::new(), Carrier::new());
    a.users.end_session(&"main".into(), SessionScope::Session("s".into()), Cause::LoggedOut).unwrap();
    a.push(&mut carrier);
    let (key, value) = carrier.first_key_value().unwrap();
    for (hours, is_removed) in [(24, false), (2, true)] {
        a.clock.advance(Duration::from_secs(hours * 3600));
        b.clock.advance(Duration::from_secs(hours * 3600));
        a.users.tick().unwrap();
        assert_eq!(a.users.is_over(key, value), is_removed);
    }
    assert_eq!((b.pull(&carrier), a.users.restore(std::slice::from_ref(key)).unwrap()), (Adopted::default(), 0));
    assert_eq!(a.users.known_keys().len(), 0);
}

#[test]
fn the_cluster_is_closed_for_all_and_a_later_date_opens_it_once() {
    let (a, b, mut carrier) = (Replica::new(), Replica::new(), Carrier::new());
    a.users.disable_cluster(act()).unwrap();
    a.push(&mut carrier);
    b.pull(&carrier);
    assert_eq!(b.judge("alice"), Judgement::Refused(Cause::ClusterClosed));
    b.users.enable_cluster(act(), &[]).unwrap();
    b.push(&mut carrier);
    a.pull(&carrier);
    assert_eq!(a.judge("alice"), Judgement::NeedsSignInProof);
    // A date passes; then `b` gets a later one, and `a` still has the old.
    a.users.set_valid_until(Some(1_000_000), &[]).unwrap();
    a.push(&mut carrier);
    b.pull(&carrier);
    assert_eq!(b.judge("alice"), Judgement::Refused(Cause::ClusterExpired));
    b.users.set_valid_until(Some(9_000_000), &[]).unwrap().unwrap();
    b.push(&mut carrier);
    a.pull(&carrier);
    a.users.tick().unwrap();
    assert_eq!(a.judge("alice"), Judgement::Refused(Cause::ClusterExpired));
    assert_eq!((b.judge("alice"), a.users.unshared_len()), (Judgement::NeedsSignInProof, 0));
    // One that starts with the later date after the old one passed everywhere opens too.
    let c = Replica::new();
    c.users.set_valid_until(Some(9_000_000), &[]).unwrap();
    a.users.set_valid_until(Some(999_999), &[]).unwrap();
    a.push(&mut carrier);
    c.pull(&carrier);
    assert_eq!(c.judge("alice"), Judgement::Refused(Cause::ClusterExpired));
    c.users.tick().unwrap();
    assert_eq!(c.judge("alice"), Judgement::NeedsSignInProof);
}
