//! What is known of users, after the process was killed in the middle of writing it down.

use postern::base::clock::Clock;
use postern::telemetry::audit_log::Audit;
use postern::users::{
    Cause, IssuerCause, IssuerTime, Judgement, Lift, Proof, SessionScope, TokenClaims, UserId, Users,
};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the child finds the store; without it this is the parent.
const STORE: &str = "POSTERN_TEST_STORE";
/// What the child's users are called.
const NAME: &str = "POSTERN_TEST_NAME";
/// Gives the moments of an earlier run again, as nearly as a machine does.
const SEED: &str = "POSTERN_SEED";

#[test]
fn no_block_is_forgotten_when_the_process_is_killed() {
    if let Some(store) = std::env::var_os(STORE) {
        block_until_killed(Path::new(&store), &std::env::var(NAME).unwrap());
    }
    let rounds = if std::env::var_os("POSTERN_FULL").is_some() { 200 } else { 5 };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let seed = std::env::var(SEED).map_or(u64::try_from(now).unwrap(), |seed| seed.parse().unwrap());
    let mut log = std::io::stderr();
    writeln!(log, "{SEED}={seed}, {rounds} rounds").unwrap();
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("users.redb");
    let mut told = Vec::new();
    for round in 0..rounds {
        // Sometimes before the first line: while the file is made, opened or checked.
        let lines = usize::try_from(random.below(40)).unwrap();
        told.extend(run_and_kill(&store, &format!("r{round}"), lines, Duration::from_micros(random.below(20_000))));
        let users = Users::open(&store, Clock::system(), Audit::off()).unwrap();
        for line in &told {
            assert_is_known(&users, line, &format!("{SEED}={seed}, round {round}: {line}"));
        }
    }
    assert!(told.len() > rounds, "{SEED}={seed}: the child hardly ever came to speak: {} lines", told.len());
}

/// Runs this test as a child until it has said so many lines and some time has passed. Gives all lines it said.
fn run_and_kill(store: &Path, name: &str, lines: usize, after: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "user_store::no_block_is_forgotten_when_the_process_is_killed", "--nocapture"])
        .env(STORE, store)
        .env(NAME, name)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .filter(|line| line.starts_with("blocked ") || line.starts_with("lifted ") || line.starts_with("ended "));
    let mut told: Vec<_> = said.by_ref().take(lines).collect();
    // Shorter than a sleep can be, so that it falls into the middle of a write.
    let waiting = Instant::now();
    while waiting.elapsed() < after {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    told.extend(said);
    assert!(!child.wait().unwrap().success());
    told
}

/// Says each thing as soon as it is decided.
fn block_until_killed(store: &Path, name: &str) -> ! {
    let users = Users::open(store, Clock::system(), Audit::off()).unwrap();
    let (main, feed): (Arc<str>, Arc<str>) = ("main".into(), "events".into());
    let mut out = std::io::stdout();
    // The harness leaves its own line open.
    writeln!(out).unwrap();
    let mut say = |what: &str, whom: &str| writeln!(out, "{what} {whom}").unwrap();
    for number in 1.. {
        let subject = format!("{name}-{number}");
        let user = UserId::new("main", subject.as_str()).unwrap();
        let proof =
            Proof::Issuer { cause: IssuerCause::Disabled, time: IssuerTime::At(number * 1000), happened_ms: None };
        users.set_position(&main, &feed, number);
        users.block(&user, proof).unwrap();
        say("blocked", &subject);
        match number % 3 {
            0 => {
                users.lift(&user, Lift::Issuer { read_began_ms: u64::MAX, enabled_ms: None }).unwrap();
                say("lifted", &subject);
            }
            1 => {
                users.end_session(&main, SessionScope::Session(subject.clone()), Cause::LoggedOut).unwrap();
                say("ended", &subject);
            }
            _ => {}
        }
    }
    unreachable!("numbers do not end");
}

#[track_caller]
fn assert_is_known(users: &Users, line: &str, context: &str) {
    let now = Clock::system().now();
    let (what, whom) = line.split_once(' ').unwrap();
    let token =
        TokenClaims { issuer: "main", subject: whom, session: Some("s"), issued: Some(1), id: None, epoch: None };
    match what {
        "ended" => {
            let token = TokenClaims { subject: "another", session: Some(whom), ..token };
            assert_eq!(users.judge(&token, now), Judgement::Refused(Cause::LoggedOut), "{context}");
        }
        // Lifted or not: nobody signed in since.
        "blocked" => assert_ne!(users.judge(&token, now), Judgement::Admitted, "{context}"),
        _ => assert_eq!(users.judge(&token, now), Judgement::NeedsSignInProof, "{context}"),
    }
}

/// Splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}
