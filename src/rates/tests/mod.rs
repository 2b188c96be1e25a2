//! Replicas that count together over a real Redis. Its clock goes on and theirs stand still, so budgets are of hours: nothing comes back
//! while a test runs.

mod bound;

use super::*;
use crate::base::budget::Pace;
use crate::base::rate_table::{RateTable, Single};
use crate::base::secret::Secret;
use crate::config;
use crate::kubernetes::tests::server::eventually;
use crate::redis::Access;
use crate::redis::tests::server::RedisServer;
use crate::redis::tests::{RIGHTS, config};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::time::{SystemTime, UNIX_EPOCH};

const HOUR: Duration = Duration::from_hours(1);

/// Ten at once, one an hour.
fn pace() -> Pace {
    Pace::new(10, HOUR)
}

/// One replica, and what it counts.
struct Node {
    rates: Rates,
    table: Arc<RateTable>,
    ledger: Arc<Ledger>,
    shared: Single,
    clock: Clock,
}

impl Node {
    fn over(server: &RedisServer) -> Self {
        Self::with(&config(server))
    }

    fn with(config: &config::Redis) -> Self {
        let (clock, table) = (Clock::manual(1), Arc::new(RateTable::new(20_000)));
        let rates = Rates::new(Redis::new(Access::new(config).unwrap()), clock.clone());
        let ledger = Arc::new(Ledger::new(Arc::clone(&table), 100_000));
        Self { rates, table, ledger, shared: Single::default(), clock }
    }

    /// How many of so many requests pass.
    fn take(&self, name: Name, times: usize) -> usize {
        let (key, now) = (self.table.key(name), self.clock.now());
        let take = || self.table.take(key, pace(), &self.shared, now);
        let passes = (0..times).filter(|_| take().is_ok()).count();
        (0..passes).for_each(|_| self.ledger.note(key, pace(), now, || name));
        passes
    }

    async fn exchange(&self) {
        self.rates.exchange(&notes(std::slice::from_ref(&self.ledger))).await.unwrap();
    }

    /// Has others know of one request more, and knows of theirs; then as [`Node::take`].
    async fn joins(&self, name: Name) -> usize {
        assert_eq!(self.take(name, 1), 1);
        self.exchange().await;
        self.take(name, 100)
    }
}

const ALICE: Name = [1; 32];
const BOB: Name = [2; 32];

/// The keys of limits in Redis, without the one that they are hashed with.
fn keys(server: &RedisServer) -> Vec<String> {
    let keys = server.command(&["KEYS", "{postern}:limits:*"]);
    keys.lines().filter(|line| line.starts_with('{')).map(|line| line.trim().to_owned()).collect()
}

#[tokio::test]
async fn what_one_replica_let_pass_another_does_not() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (a, b) = (Node::over(&server), Node::over(&server));
    // Their clocks have nothing in common.
    b.clock.advance(HOUR * 1000);
    assert_eq!(a.take(ALICE, 6), 6);
    a.exchange().await;
    assert_eq!(b.joins(ALICE).await, 3);
    b.exchange().await;
    // It has not asked since, and has four of its own. Then it knows better.
    assert_eq!(a.joins(ALICE).await, 0);
    assert_eq!((a.take(BOB, 100), b.take(BOB, 100)), (10, 10));
}

#[tokio::test]
async fn more_keys_than_go_into_one_call_are_all_told() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (a, b) = (Node::over(&server), Node::over(&server));
    let name = |n: usize| {
        let mut name = [3; 32];
        name[..8].copy_from_slice(&n.to_le_bytes());
        name
    };
    let count = PAGE * 5 / 2;
    assert!((0..count).all(|n| a.take(name(n), 4) == 4));
    a.exchange().await;
    assert!((0..count).all(|n| b.take(name(n), 1) == 1));
    b.exchange().await;
    assert_eq!(server.command(&["DBSIZE"]), format!(":{}\r\n", count + 1));
    assert!((0..count).all(|n| b.take(name(n), 100) == 5));
}

#[tokio::test]
async fn what_stands_in_redis_names_nobody_and_ends_by_itself() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let a = Node::over(&server);
    a.take(ALICE, 3);
    a.exchange().await;
    let [key] = &keys(&server)[..] else { panic!("one key") };
    let drawn = a.rates.drawn().await.unwrap();
    let other = Drawn::parse(Drawn::fresh().as_bytes()).unwrap();
    assert_eq!(*key, format!("{{postern}}:limits:{}", drawn.name(&ALICE)));
    assert_ne!(drawn.name(&ALICE), other.name(&ALICE));
    let left: i64 = server.command(&["PTTL", key]).trim_start_matches(':').trim().parse().unwrap();
    let least = i64::try_from(HOUR.as_millis() * 2).unwrap();
    assert!((least..=least * 3 / 2).contains(&left), "{left}");
    // What is whole is not there at all.
    let b = Node::over(&server);
    b.take(BOB, 1);
    b.clock.advance(HOUR);
    b.exchange().await;
    assert_eq!(keys(&server).len(), 1);
}

#[tokio::test]
async fn a_redis_that_was_emptied_is_taken_up_again_by_all() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (a, b) = (Node::over(&server), Node::over(&server));
    for node in [&a, &b] {
        node.take(ALICE, 1);
        node.exchange().await;
    }
    server.command(&["FLUSHALL"]);
    assert_eq!(a.take(BOB, 6), 6);
    a.exchange().await;
    assert_eq!(b.joins(BOB).await, 3);
    // What it knows of others it goes on knowing.
    assert_eq!(b.take(ALICE, 100), 8);
}

#[tokio::test]
async fn a_clock_of_redis_that_is_set_back_holds_nobody_up() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let (a, b) = (Node::over(&server), Node::over(&server));
    a.take(ALICE, 6);
    a.exchange().await;
    let [key] = &keys(&server)[..] else { panic!("one key") };
    let value = server.command(&["GET", key]);
    let times = value.lines().nth(1).unwrap().trim().split(' ').map(|time| time.parse::<u64>().unwrap());
    let later: Vec<_> = times.map(|time| (time + 1_000 * 3_600_000_000).to_string()).collect();
    server.command(&["SET", key, &later.join(" ")]);
    assert_eq!(b.joins(ALICE).await, 3);
}

#[tokio::test]
async fn a_value_that_is_no_time_says_nothing() {
    let Some(server) = RedisServer::start(&[]) else { return };
    for nonsense in ["", "x", "1", "99999999999999999999999999 1", "9 9 9"] {
        let (a, b) = (Node::over(&server), Node::over(&server));
        a.take(ALICE, 6);
        a.exchange().await;
        let [key] = &keys(&server)[..] else { panic!("one key") };
        server.command(&["SET", key, nonsense]);
        assert_eq!(b.joins(ALICE).await, 9, "{nonsense}");
        server.command(&["FLUSHALL"]);
    }
    // Where somebody else's value stands in the place of what names are hashed with, it is said.
    server.command(&["SET", "{postern}:limits", "x"]);
    let error = Node::over(&server).rates.exchange(&[]).await.unwrap_err();
    assert!(matches!(error, RedisError::Unexpected(_)), "{error}");
}

#[tokio::test]
async fn the_rights_of_the_manual_are_enough() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let rights: Vec<_> = RIGHTS.split(' ').filter(|word| !word.is_empty()).collect();
    let set = [&["ACL", "SETUSER", "postern", "on", ">hunter2"][..], &rights].concat();
    assert_eq!(server.command(&set), "+OK\r\n");
    let named = || config::Redis {
        username: Some("postern".into()),
        password: Some(Secret::new("hunter2")),
        ..config(&server)
    };
    let (a, b) = (Node::with(&named()), Node::with(&named()));
    a.take(ALICE, 6);
    a.exchange().await;
    assert_eq!(b.joins(ALICE).await, 3);
}

#[tokio::test]
async fn it_is_known_whether_others_are_told_also_while_nobody_asks() {
    let Some(mut server) = RedisServer::start(&[]) else { return };
    let a = Node::over(&server);
    let (rates, ledgers) = (Arc::new(a.rates), Mutex::new(vec![Arc::clone(&a.ledger)]));
    let (known, in_force) = (Arc::clone(&rates), Arc::new(ledgers));
    let given = Arc::clone(&in_force);
    let task = tokio::spawn(Arc::clone(&rates).run(move || given.lock().unwrap().clone().into()));
    let is_shared = || !known.is_alone() && known.counters().exchanges.load(Ordering::Relaxed) > 0;
    eventually("it is told", is_shared).await;
    server.kill();
    eventually("it is alone", || known.is_alone()).await;
    assert!(known.counters().failures.load(Ordering::Relaxed) > 0);
    server.run();
    eventually("it is told again", || !known.is_alone()).await;
    // Where nothing is to be shared, nobody is alone.
    server.kill();
    eventually("it is alone", || known.is_alone()).await;
    in_force.lock().unwrap().clear();
    eventually("nothing is missing", || !known.is_alone()).await;
    task.abort();
}

/// As the script says it, of microseconds: what lacks by now.
fn owed(known: Option<(i64, i64)>, now: i64, time: i64, alone: i64) -> i64 {
    let own = now + alone;
    known.map_or(own, |(whole_at, said_at)| own.max(whole_at - (said_at - now).max(0) + time)) - now
}

#[test]
fn redis_adds_as_is_said() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let a = Node::over(&server);
    let (hour, second) = (3_600_000_000, 1_000_000);
    let known = prop::option::of((-30_i64..30, -30_i64..30));
    let mut runner = TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() });
    let outcome = runner.run(&(known, 1_u32..6, 0_u64..10, 0_u64..10), |(known, units, between, after)| {
        let (start, drawn) = (a.clock.now(), runtime.block_on(a.rates.drawn()).unwrap());
        a.ledger.note(1, pace(), start, || ALICE);
        a.clock.advance(HOUR * u32::try_from(between).unwrap());
        (1..units).for_each(|_| a.ledger.note(1, pace(), a.clock.now(), || ALICE));
        a.clock.advance(HOUR * u32::try_from(after).unwrap());
        let ledgers = [Arc::clone(&a.ledger)];
        let page = notes(&ledgers);
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap();
        let known = known.map(|(whole_at, said_at)| (now + whole_at * hour, now + said_at * hour));
        let key = format!("{{postern}}:limits:{}", drawn.name(&ALICE));
        match known {
            Some((whole_at, said_at)) => server.command(&["SET", &key, &format!("{whole_at} {said_at}")]),
            None => server.command(&["DEL", &key]),
        };
        let taken = page[0].taken;
        let at = a.clock.now();
        let expected = owed(known, now, i64::try_from(taken.time_us()).unwrap(), taken.alone_us(at));
        let told = runtime.block_on(a.rates.tell(&drawn, &page, at)).unwrap().unwrap();
        prop_assert!((told[0] - expected).abs() < 600 * second, "{told:?} {expected}");
        // What was said is what the next goes on from.
        let again = runtime.block_on(a.rates.tell(&drawn, &[], at)).unwrap();
        prop_assert_eq!(again, Some(vec![]));
        prop_assert_eq!(server.command(&["EXISTS", &key]) == ":1\r\n", told[0] > 0 || known.is_some());
        Ok(())
    });
    outcome.unwrap();
}
