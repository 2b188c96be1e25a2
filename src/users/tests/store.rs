use super::*;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder with a store in it.
struct Place {
    folder: TempDir,
    clock: Clock,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Clock::manual(1_000) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state/users.redb")
    }

    fn open(&self) -> Result<Arc<Users>, StoreError> {
        Users::open(&self.path(), self.clock.clone(), Audit::off())
    }

    /// What an operator is told who starts the gateway with this.
    #[track_caller]
    fn refusal(&self) -> String {
        self.open().expect_err("was opened").to_string()
    }
}

const USERS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("users");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

#[test]
fn everything_is_there_after_a_restart() {
    let place = Place::new();
    let main: Arc<str> = "main".into();
    let odd = user("al/ice\0 \"Ж\n\\..");
    let users = place.open().unwrap();
    users.block(&user("alice"), disabled(900_000)).unwrap();
    users.block(&odd, Proof::Operator(act())).unwrap();
    users.block(&user("bob"), disabled(900_000)).unwrap();
    users.lift(&user("bob"), enabled()).unwrap();
    users.block(&user("carol"), disabled(900_000)).unwrap();
    users.lift(&user("carol"), enabled()).unwrap();
    users.signed_in(&user("carol"), Some("s"), 900_000).unwrap();
    users.end_session(&main, SessionScope::Session("ended".into()), Cause::LoggedOut).unwrap();
    let tokens = Tokens::User { subject: "dave".into(), issued_before_ms: 1_001_000 };
    users.revoke(Revocation { issuer: main.clone(), tokens, act: act(), until_ms: None }).unwrap();
    users.issuer_not_before(&"other".into(), 1_500_000).unwrap();
    users.set_position(&main, &"admin-events".into(), 7);
    users.set_position(&main, &"admin-events".into(), 8);
    drop(users);

    let users = place.open().unwrap();
    let judge = |subject| users.judge(&token(subject), place.clock.now());
    assert_eq!(judge("alice"), Judgement::Refused(Cause::Disabled));
    assert_eq!(judge(odd.subject()), Judgement::Refused(Cause::Operator));
    assert_eq!(judge("bob"), Judgement::NeedsSignInProof);
    assert_eq!(judge("carol"), Judgement::Admitted);
    assert_eq!(judge("dave"), Judgement::Refused(Cause::Operator));
    let ended = TokenClaims { session: Some("ended"), ..token("erin") };
    assert_eq!(users.judge(&ended, place.clock.now()), Judgement::Refused(Cause::LoggedOut));
    let other = TokenClaims { issuer: "other", ..token("erin") };
    assert_eq!(users.judge(&other, place.clock.now()), Judgement::NeedsSignInProof);
    assert_eq!((users.position("main", "admin-events"), users.position("main", "events")), (Some(8), None));
    assert_eq!(users.state(&odd).unwrap().by_operator, Some(act()));
    assert_eq!((users.epoch("main", "carol"), users.blocked_users()), (1, 2));
    // A read of this process is newer than any proof that an earlier one had.
    assert!(matches!(
        users.lift(&user("alice"), Lift::Issuer { read_began_ms: 1, enabled_ms: None }).unwrap(),
        Lifted::Done(_)
    ));
}

#[test]
fn a_closed_cluster_is_closed_after_a_restart() {
    let place = Place::new();
    place.open().unwrap().disable_cluster(act()).unwrap();
    let users = place.open().unwrap();
    assert_eq!(users.cluster().closed, Some(act()));
    users.set_valid_until(Some(1), &[]).unwrap();
    users.enable_cluster(act(), &[]).unwrap();
    drop(users);
    // The date is the configuration's; that it passed is remembered, so a later one lets nobody in without a sign-in.
    let users = place.open().unwrap();
    assert_eq!(users.judge(&token("alice"), place.clock.now()), Judgement::Refused(Cause::ClusterExpired));
    users.set_valid_until(Some(2_000_000), &[]).unwrap();
    drop(users);
    assert_eq!(place.open().unwrap().judge(&token("alice"), place.clock.now()), Judgement::NeedsSignInProof);
}

#[test]
fn what_was_forgotten_stays_forgotten() {
    let place = Place::new();
    let users = place.open().unwrap();
    users.end_session(&"main".into(), SessionScope::Session("s".into()), Cause::LoggedOut).unwrap();
    let deleted = Proof::Issuer { cause: IssuerCause::Deleted, time: IssuerTime::At(1), happened_ms: None };
    users.block(&user("alice"), deleted).unwrap();
    place.clock.advance(Duration::from_secs(31 * 24 * 3600));
    users.tick().unwrap();
    drop(users);
    assert_eq!(place.open().unwrap().judge(&token("alice"), place.clock.now()), Judgement::Admitted);
}

#[test]
fn a_position_waits_for_a_decision_or_some_seconds() {
    let place = Place::new();
    let stored = || {
        let copy = place.folder.path().join("copy");
        fs::copy(place.path(), &copy).unwrap();
        Users::open(&copy, place.clock.clone(), Audit::off()).unwrap().position("main", "events")
    };
    let (main, events): (Arc<str>, Arc<str>) = ("main".into(), "events".into());
    let users = place.open().unwrap();
    users.tick().unwrap();
    users.set_position(&main, &events, 1);
    assert_eq!((stored(), users.position("main", "events")), (None, Some(1)));
    users.block(&user("alice"), disabled(900_000)).unwrap();
    assert_eq!(stored(), Some(1));
    users.set_position(&main, &events, 2);
    place.clock.advance(Duration::from_secs(6));
    users.tick().unwrap();
    assert_eq!(stored(), Some(2));
}

#[test]
fn nobody_else_reads_the_file() {
    let place = Place::new();
    let _users = place.open().unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(place.path()), mode(place.folder.path().join("state"))), (0o600, 0o700));
    let names: Vec<_> = fs::read_dir(place.folder.path().join("state")).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn a_file_that_another_holds_is_named() {
    let place = Place::new();
    let _users = place.open().unwrap();
    assert_eq!(place.refusal(), format!("`{}` is in use by another process", place.path().display()));
}

#[test]
fn a_file_that_is_no_store_is_an_error_and_stays_as_it_is() {
    for content in ["", "not a store", &"x".repeat(100_000)] {
        let place = Place::new();
        fs::create_dir(place.folder.path().join("state")).unwrap();
        fs::write(place.path(), content).unwrap();
        let refusal = place.refusal();
        assert!(refusal.contains("users.redb` is damaged"), "{refusal}");
        assert_eq!(fs::read_to_string(place.path()).unwrap(), content);
    }
    let place = Place::new();
    fs::create_dir_all(place.path()).unwrap();
    assert!(place.refusal().contains("cannot be opened"), "{}", place.refusal());
}

/// A store of many users, closed in good order.
fn filled() -> (Place, Vec<u8>) {
    let place = Place::new();
    let users = place.open().unwrap();
    let proofs = (0..200).map(|number| (user(&format!("user-{number}")), disabled(900_000)));
    assert_eq!(users.block_all(proofs).unwrap().len(), 200);
    drop(users);
    let content = fs::read(place.path()).unwrap();
    (place, content)
}

#[test]
fn a_file_that_was_cut_off_never_opens_with_less_in_it() {
    let (place, content) = filled();
    for part in 0..16 {
        fs::write(place.path(), &content[..content.len() * part / 16]).unwrap();
        if let Ok(users) = place.open() {
            assert_eq!(users.blocked_users(), 200, "{part}/16");
        }
    }
}

#[test]
fn a_file_with_a_wrong_byte_never_opens_with_less_in_it() {
    let (place, content) = filled();
    let mut refused = 0;
    // The head at many places, and every page that was ever written at another place each.
    let pages = (320..content.len()).step_by(4096 - 61).filter(|at| content[at / 4096 * 4096..][..4096] != [0; 4096]);
    for at in (0..320).step_by(7).chain(pages) {
        let mut changed = content.clone();
        changed[at] ^= 0x20;
        fs::write(place.path(), &changed).unwrap();
        match place.open() {
            Ok(users) => assert_eq!(users.blocked_users(), 200, "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    // Else this changed nothing that is read.
    assert!(refused > 10, "{refused}");
}

/// Changes the file behind its owner's back.
fn meddle(place: &Place, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(place.path()).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

#[test]
fn a_format_of_another_version_is_an_error_that_says_so() {
    let place = Place::new();
    drop(place.open().unwrap());
    meddle(&place, |file| {
        file.open_table(META).unwrap().insert("format", 2).unwrap();
    });
    let expected = format!("`{}` has format 2; this version of postern reads 1", place.path().display());
    assert_eq!(place.refusal(), expected);
    meddle(&place, |file| {
        file.open_table(META).unwrap().remove("format").unwrap();
    });
    assert!(place.refusal().contains("it has no format"), "{}", place.refusal());
}

#[test]
fn members_and_causes_of_a_later_version_are_no_mistake() {
    let place = Place::new();
    drop(place.open().unwrap());
    let value = br#"{"by_issuer":"abducted","threshold_ms":5,"epoch":2,"aura":{"colour":"blue"}}"#;
    meddle(&place, |file| {
        file.open_table(USERS).unwrap().insert(("main", "alice"), value.as_slice()).unwrap();
    });
    let users = place.open().unwrap();
    assert_eq!(users.judge(&token("alice"), place.clock.now()), Judgement::Refused(Cause::Other));
    assert_eq!(users.state(&user("alice")).unwrap().epoch, 2);
}

#[test]
fn a_value_or_a_table_that_makes_no_sense_is_an_error() {
    for (subject, value) in [("alice", "{}"), ("alice", ""), ("alice", "[1"), ("", r#"{"threshold_ms":1,"epoch":1}"#)] {
        let place = Place::new();
        drop(place.open().unwrap());
        meddle(&place, |file| {
            file.open_table(USERS).unwrap().insert(("main", subject), value.as_bytes()).unwrap();
        });
        assert!(place.refusal().contains("damaged: "), "{}", place.refusal());
    }
    let place = Place::new();
    drop(place.open().unwrap());
    meddle(&place, |file| assert!(file.delete_table(USERS).unwrap()));
    assert!(place.refusal().contains("damaged: "), "{}", place.refusal());
}

#[test]
fn what_is_decided_is_in_the_file_before_anybody_is_told() {
    let place = Place::new();
    let users = place.open().unwrap();
    users.block(&user("alice"), disabled(900_000)).unwrap();
    // A copy taken now is what a killed process leaves behind.
    let copy = place.folder.path().join("copy");
    fs::copy(place.path(), &copy).unwrap();
    let database = Database::open(&copy).unwrap();
    let table = database.begin_read().unwrap().open_table(USERS).unwrap();
    assert_eq!(table.iter().unwrap().count(), 1);
}

#[test]
fn a_store_that_cannot_be_written_lets_nobody_in_and_is_tried_again() {
    let place = Place::new();
    let users = place.open().unwrap();
    users.block(&user("bob"), disabled(900_000)).unwrap();
    let mut decisions = users.subscribe();
    // Closed behind its back, and the file away: the next write has to open it and cannot.
    users.break_store();
    let away = place.folder.path().join("away");
    fs::rename(place.path(), &away).unwrap();
    let seen = Seen::default();
    let admit = || users.admit(&seen, place.clock.now(), || token("alice"));
    assert_eq!(admit(), Judgement::Admitted);
    assert!(users.block(&user("alice"), disabled(900_000)).is_err());
    assert_eq!(admit(), Judgement::Refused(Cause::Disabled));
    assert_eq!(decisions.try_recv().unwrap().user(), Some(&user("alice")));
    // What would let somebody in is not done.
    assert!(users.lift(&user("bob"), enabled()).is_err());
    assert_eq!(users.state(&user("bob")).unwrap().state, State::Blocked);
    assert!(users.tick().is_err() && !users.is_sound());
    fs::rename(&away, place.path()).unwrap();
    users.tick().unwrap();
    assert!(users.is_sound());
    drop(users);
    assert_eq!(place.open().unwrap().blocked_users(), 2);
}
