//! Whatever happens to one user: outages within the reserve, blocks, sign-ins, changes, restarts. Second by second, on a clock that
//! is only a number, by the plan alone.

use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::delivery::plan::{Act, World, plan};
use crate::delivery::record::{Facts, Failures, Held, Live, Record, Seen, User};
use crate::delivery::reserve::{CEILING_MS, FLOOR_MS, OUTAGE_MS, PERIOD_MS};
use crate::token_service::Said;
use crate::users::State;
use proptest::prelude::*;
use std::sync::Arc;

const START: u64 = 1_800_000_000_000;

/// Between the end of an outage and the next write lie pauses after failures: for reads 20 s at most, and a second to look again.
const RETRIES_MS: u64 = 25_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The issuer does not answer.
    Issuer,
    /// Nothing can be written.
    Sink,
    /// The clocks are apart.
    Clock,
}

#[derive(Debug, Clone)]
enum Event {
    /// A fault for so many seconds.
    Fault(Fault, u64),
    Block,
    /// Enabled again, and signed in so many seconds later.
    Return(u64),
    /// A role changed.
    Change,
    /// Tokens were taken back; the user stays.
    Revoked,
    /// The key was withdrawn.
    KeyGone,
    Restart,
    /// Somebody wrote something else there.
    Tampered,
}

/// One user, and the world around.
struct Story {
    now_ms: u64,
    user: User,
    /// What lies there, and when it ends; `None`: nothing.
    there: Option<(u64, Arc<Held>)>,
    is_foreign: bool,
    state: State,
    epoch: u64,
    claims: u64,
    key: u64,
    fault: Option<(Fault, u64)>,
    heard_ms: u64,
    failed_ms: Option<u64>,
    allow_for_ms: u64,
    phase_ms: u64,
    /// Under way: what was planned a second ago.
    reading: Option<u64>,
    writing: Option<Option<Arc<Held>>>,
    next_ms: u64,
    /// Since when a token is promised.
    promised: bool,
    returns_ms: Option<u64>,
    blocked_ms: Option<u64>,
    tampered_ms: u64,
    serial: u64,
}

impl Story {
    fn new(allow_for_ms: u64, phase_ms: u64) -> Self {
        let facts = Facts { username: "alice".into(), enabled: true, ..Facts::default() };
        let record = Record { facts, namespace: Some("alice".into()), ..Record::default() };
        Self {
            now_ms: 10_000_000,
            user: User { record, live: Live { seen: Seen::Absent, ..Live::default() } },
            there: None,
            is_foreign: false,
            state: State::Active,
            epoch: 0,
            claims: 0,
            key: 0,
            fault: None,
            heard_ms: 0,
            failed_ms: None,
            allow_for_ms,
            phase_ms,
            reading: None,
            writing: None,
            next_ms: 0,
            promised: false,
            returns_ms: None,
            blocked_ms: None,
            tampered_ms: 0,
            serial: 0,
        }
    }

    fn now(&self) -> Now {
        Now { unix_ms: START + self.now_ms, monotonic_ms: self.now_ms, monotonic_us: self.now_ms * 1000 }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault.is_some_and(|(of, until_ms)| of == fault && self.now_ms < until_ms)
    }

    fn happen(&mut self, event: &Event) {
        self.next_ms = 0;
        match event {
            Event::Fault(fault, seconds) => self.fault = Some((*fault, self.now_ms + seconds * 1000)),
            Event::Block => {
                (self.state, self.epoch) = (State::Blocked, self.epoch + 1);
                (self.promised, self.blocked_ms, self.returns_ms) = (false, Some(self.now_ms), None);
            }
            Event::Return(seconds) if self.state == State::Blocked => {
                self.state = State::AwaitingSignIn;
                self.returns_ms = Some(self.now_ms + seconds * 1000);
            }
            Event::Return(_) => {}
            Event::Change => {
                self.claims += 1;
                self.user.live.doubted_ms = Some(self.now_ms);
            }
            Event::Revoked => self.epoch += 1,
            Event::KeyGone => self.key += 1,
            Event::Restart => {
                (self.reading, self.writing) = (None, None);
                let seen = match &self.there {
                    _ if self.is_foreign => Seen::Foreign,
                    None => Seen::Empty,
                    Some((ends_ms, held)) => Seen::Token(self.found(*ends_ms, held)),
                };
                self.user.live = Live { seen, failures: Failures::default(), ..Live::default() };
            }
            Event::Tampered => {
                (self.is_foreign, self.user.live.seen) = (true, Seen::Foreign);
                (self.promised, self.tampered_ms) = (false, self.now_ms);
            }
        }
    }

    /// As it is found after a restart.
    fn found(&self, ends_ms: u64, held: &Held) -> Arc<Held> {
        let (token, digest, said) = (held.token.clone(), held.digest.clone(), held.said.clone());
        Arc::new(Held { token, digest, said, expires: 0, ends_ms, learned_ms: self.now_ms })
    }

    /// A second goes by; what was begun ends.
    fn tick(&mut self) {
        self.now_ms += 1000;
        if self.returns_ms.is_some_and(|returns_ms| returns_ms <= self.now_ms) {
            (self.state, self.returns_ms, self.blocked_ms, self.next_ms) = (State::Active, None, None, 0);
            self.user.record.has_signed_in = true;
        }
        if !self.has(Fault::Issuer) {
            // The disabled users are listed all the time.
            self.heard_ms = self.now_ms;
        }
        if let Some(asked_ms) = self.reading.take() {
            self.next_ms = 0;
            let live = &mut self.user.live;
            if self.fault.is_some_and(|(of, until_ms)| of == Fault::Issuer && self.now_ms < until_ms) {
                self.failed_ms = Some(self.now_ms);
                live.failures.note_read(self.now_ms);
            } else {
                self.failed_ms = None;
                live.failures = Failures { reads: 0, read_after_ms: 0, ..live.failures };
                live.read_ms = Some(asked_ms);
                live.doubted_ms = live.doubted_ms.filter(|doubted_ms| *doubted_ms > asked_ms);
                self.user.record.read_unix_ms = START + asked_ms;
                self.user.record.facts.roles = vec![self.claims.to_string()];
            }
        }
        if let Some(text) = self.writing.take() {
            self.next_ms = 0;
            if self.has(Fault::Sink) {
                self.user.live.failures.note_write(self.now_ms);
            } else {
                (self.user.live.failures.writes, self.user.live.failures.write_after_ms) = (0, 0);
                self.is_foreign = false;
                self.there = text.map(|held| (held.ends_ms, held));
                self.user.live.seen = match &self.there {
                    None => Seen::Empty,
                    Some((_, held)) => Seen::Token(Arc::clone(held)),
                };
                self.promised = self.state == State::Active && self.there.is_some();
            }
        }
        self.act();
    }

    fn act(&mut self) {
        if self.writing.is_some() || self.now_ms < self.next_ms {
            return;
        }
        let claims = self.user.record.facts.roles.first().cloned().unwrap_or_default();
        let key = self.key.to_string();
        let world = World {
            now: self.now(),
            state: self.state,
            epoch: self.epoch,
            claims: &claims,
            keys: &[&key],
            are_clocks_right: !self.has(Fault::Clock),
            is_answering: self.failed_ms.is_none_or(|failed_ms| self.now_ms >= failed_ms + 2_000),
            silent_ms: Some(self.now_ms - self.heard_ms),
            allow_for_ms: self.allow_for_ms,
            phase_ms: self.phase_ms,
            leads: true,
        };
        let planned = plan(&self.user, &world);
        self.next_ms = planned.next_ms.unwrap_or(u64::MAX);
        match planned.act {
            Act::Rest => {}
            Act::Look | Act::Settle => panic!("there is no cluster"),
            Act::Read if self.reading.is_some() => {}
            Act::Read => self.reading = Some(self.now_ms),
            Act::Empty => self.writing = Some(None),
            Act::Fill => {
                assert!(!self.has(Fault::Clock), "minted by a clock that is not right");
                self.serial += 1;
                let digest = self.serial.to_string();
                let (key, epoch) = (self.key.to_string(), self.epoch);
                let said = Some(Said { key, expires: 0, epoch, claims });
                let (ends_ms, learned_ms) = (self.now_ms + CEILING_MS - 10_000, self.now_ms);
                let held = Held { token: Secret::new(digest.clone()), digest, said, expires: 0, ends_ms, learned_ms };
                self.writing = Some(Some(Arc::new(held)));
            }
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let left_ms = self.there.as_ref().map_or(0, |(ends_ms, _)| ends_ms.saturating_sub(self.now_ms));
        prop_assert!(left_ms <= CEILING_MS, "{left_ms} ms left");
        if self.promised {
            prop_assert!(left_ms + RETRIES_MS >= FLOOR_MS, "{left_ms} ms left");
        }
        // A write that was under way ends, the next one empties; pauses after failures are short.
        if let Some(blocked_ms) = self.blocked_ms
            && !self.has(Fault::Sink)
        {
            let fault_ended_ms = self.fault.map_or(0, |(_, until_ms)| until_ms);
            let since_ms = blocked_ms.max(fault_ended_ms).max(self.tampered_ms);
            let is_empty = self.there.is_none() && !self.is_foreign;
            prop_assert!(
                is_empty || self.now_ms <= since_ms + 5_000,
                "filled {} ms after the block",
                self.now_ms - since_ms
            );
        }
        Ok(())
    }
}

fn event() -> impl Strategy<Value = Event> {
    let fault = prop_oneof![Just(Fault::Issuer), Just(Fault::Sink), Just(Fault::Clock)];
    prop_oneof![
        4 => (fault, 1..=OUTAGE_MS / 1000).prop_map(|(fault, seconds)| Event::Fault(fault, seconds)),
        1 => Just(Event::Block),
        1 => (0_u64..120).prop_map(Event::Return),
        1 => Just(Event::Change),
        1 => Just(Event::Revoked),
        1 => Just(Event::KeyGone),
        1 => Just(Event::Restart),
        1 => Just(Event::Tampered),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Between two outages lies a minute or more; so much is needed for what waited to be done.
    #[test]
    fn a_read_finds_what_is_promised_whatever_happens(
        events in prop::collection::vec((0_u64..1200, event()), 1..12),
        allow_for in prop_oneof![Just(0), Just(60_000), Just(300_000)],
        phase_ms in 0..PERIOD_MS,
    ) {
        let mut story = Story::new(allow_for, phase_ms);
        for _ in 0..5 {
            story.tick();
        }
        prop_assert!(story.there.is_none() && matches!(story.user.live.seen, Seen::Empty), "empty until the first sign-in");
        story.user.record.has_signed_in = true;
        story.next_ms = 0;
        for (pause, event) in &events {
            // One outage at a time.
            let rest = story.fault.map_or(0, |(_, until_ms)| until_ms.saturating_sub(story.now_ms) / 1000 + 60);
            let pause = if matches!(event, Event::Fault(..)) { (*pause).max(rest) } else { *pause };
            for _ in 0..=pause {
                story.tick();
                story.check()?;
            }
            story.happen(event);
        }
        for _ in 0..3600 {
            story.tick();
            story.check()?;
        }
        let is_filled = story.there.is_some() && !story.is_foreign;
        prop_assert_eq!(is_filled, story.state == State::Active, "what is wanted comes in the end");
        prop_assert_eq!(story.state == State::Active, story.promised);
    }
}
