//! What is so: two Keycloak realms with the same `sub`s, their users, what they keep of what happened, and how well they are.

use crate::process::Process;
use crate::random::Random;
use postern::issuer::keycloak::{Feed, Meaning};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// Milliseconds since the simulation began: the one true time.
pub(crate) type Ms = u64;

/// When it begins, in seconds since 1970.
pub(crate) const EPOCH: u64 = 1_795_000_000;

/// The names of the issuers.
pub(crate) const REALMS: [&str; 2] = ["main", "other"];

/// The most lines that a failing seed shows.
const LINES: usize = 60;

pub(crate) type Shared = Arc<Mutex<World>>;

pub(crate) struct World {
    /// For what happens.
    pub(crate) random: Random,
    /// For what becomes of calls: what Postern asks moves nothing else.
    pub(crate) luck: Random,
    start: Instant,
    pub(crate) realms: [Realm; 2],
    /// The Postern that runs, if one does.
    pub(crate) process: Option<Arc<Process>>,
    /// From when on it runs.
    pub(crate) up_since: Ms,
    /// Whether everybody is out, as far as an operator is concerned, and whether that was ever so.
    pub(crate) is_closed: bool,
    pub(crate) was_closed: bool,
    pub(crate) bound: Ms,
    pub(crate) timeout: Ms,
    pub(crate) failure: Option<String>,
    lines: VecDeque<String>,
    is_verbose: bool,
    pub(crate) counts: Counts,
}

/// What a run came to, so that a simulation in which nothing happens is noticed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) judgements: u64,
    pub(crate) proofs_asked: u64,
    pub(crate) must_be_out: u64,
    pub(crate) must_be_in: u64,
    pub(crate) decisions: u64,
    pub(crate) crashes: u64,
    pub(crate) calls: u64,
    /// Of everything, in order.
    pub(crate) digest: u64,
}

/// How a realm does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    /// Calls take up to seconds.
    Slow,
    /// So many calls of a hundred fail.
    Flaky(u64),
    /// Some kind of call answers 500.
    Broken(Endpoint),
    /// No call is answered.
    Hanging,
    /// No connection.
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Token,
    Events,
    Disabled,
    User,
    Sessions,
    Other,
}

pub(crate) struct Realm {
    pub(crate) people: BTreeMap<String, Person>,
    pub(crate) events: [Vec<Row>; 2],
    pub(crate) keeps_events: bool,
    pub(crate) weather: Weather,
    /// Events come in disorder, and twice.
    pub(crate) is_messy: bool,
    /// How far its clock is ahead of the true time.
    pub(crate) ahead_ms: i64,
    /// When its clock was set last, and when last back.
    pub(crate) stepped: Option<Ms>,
    pub(crate) stepped_back: Option<Ms>,
    /// Since when every call is answered at once, and since when in good time.
    pub(crate) crisp_since: Ms,
    pub(crate) fair_since: Ms,
    pub(crate) event_page: usize,
    pub(crate) user_page: usize,
    next_id: u64,
}

/// An event that is kept.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) time_ms: u64,
    pub(crate) meaning: Meaning,
}

#[derive(Default)]
pub(crate) struct Person {
    pub(crate) exists: bool,
    pub(crate) enabled: bool,
    pub(crate) not_before_ms: u64,
    pub(crate) sessions: Vec<Session>,
    pub(crate) tokens: Vec<Token>,
    /// A change is under way.
    pub(crate) is_busy: bool,
    pub(crate) incidents: Vec<Incident>,
    /// An operator's block holds.
    pub(crate) is_barred: bool,
    /// What began before these is over.
    pub(crate) floors: Vec<Floor>,
    /// Whether anything was ever held against the user.
    pub(crate) is_touched: bool,
    /// When something last was, or ended.
    pub(crate) changed: Ms,
}

#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) began: Moment,
}

/// A moment by both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) at: Ms,
    pub(crate) issuer_ms: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) session: Option<String>,
    /// When its session began, or, if it has none, when it was issued.
    pub(crate) began: Moment,
    pub(crate) issued_s: i64,
    /// An operator took it back.
    pub(crate) is_revoked: bool,
    /// Passed while all was well, at this time: from then on nothing but news may stop it.
    pub(crate) passed: Option<Ms>,
}

/// A time in which the user was disabled, or not there.
#[derive(Debug)]
pub(crate) struct Incident {
    pub(crate) is_deletion: bool,
    /// When the change began, by the issuer's clock: the time that its event bears.
    pub(crate) began_issuer_ms: u64,
    pub(crate) from: Moment,
    /// Whether an event tells of it.
    pub(crate) is_told: bool,
    pub(crate) until: Option<Moment>,
    /// Whether an event tells of its end.
    pub(crate) is_end_told: bool,
    /// Whether Postern must know of it by now, or does.
    pub(crate) is_due: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Floor {
    pub(crate) moment: Moment,
    pub(crate) why: &'static str,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.judgements += other.judgements;
        self.proofs_asked += other.proofs_asked;
        self.must_be_out += other.must_be_out;
        self.must_be_in += other.must_be_in;
        self.decisions += other.decisions;
        self.crashes += other.crashes;
        self.calls += other.calls;
    }
}

impl World {
    pub(crate) fn new(seed: u64, is_verbose: bool) -> Self {
        let mut random = Random::new(seed);
        let realms = REALMS.map(|_| Realm::new(&mut random));
        Self {
            start: Instant::now(),
            realms,
            process: None,
            up_since: 0,
            is_closed: false,
            was_closed: false,
            bound: random.pick(&[10_000, 15_000, 30_000]),
            timeout: random.pick(&[2_000, 5_000]),
            failure: None,
            lines: VecDeque::new(),
            is_verbose,
            counts: Counts::default(),
            luck: Random::new(!seed),
            random,
        }
    }

    pub(crate) fn now(&self) -> Ms {
        u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    pub(crate) fn person(&mut self, realm: usize, name: &str) -> &mut Person {
        self.realms[realm].people.get_mut(name).unwrap()
    }

    /// Now, by the true clock and that of a realm.
    pub(crate) fn moment(&self, realm: usize) -> Moment {
        let at = self.now();
        Moment { at, issuer_ms: (EPOCH * 1000 + at).checked_add_signed(self.realms[realm].ahead_ms).unwrap() }
    }

    /// Keeps an event, as of a time by the realm's clock. Gives whether it is kept.
    pub(crate) fn tell(&mut self, realm: usize, feed: Feed, time_ms: u64, meaning: Meaning) -> bool {
        let realm = &mut self.realms[realm];
        if realm.keeps_events {
            let id = realm.id("event");
            realm.events[feed as usize].push(Row { id, time_ms, meaning });
        }
        realm.keeps_events
    }

    /// A line of what happens.
    pub(crate) fn log(&mut self, line: impl FnOnce() -> String) {
        let line = format!("{:>8} {}", self.now(), line());
        for byte in line.bytes() {
            self.counts.digest = (self.counts.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if self.is_verbose {
            crate::say(&line);
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Only the first counts.
    pub(crate) fn fail(&mut self, what: String) {
        if self.failure.is_none() {
            self.log(|| format!("FAILED: {what}"));
            self.failure = Some(what);
        }
    }

    pub(crate) fn last_lines(&self) -> String {
        self.lines.iter().fold(String::new(), |all, line| all + line + "\n")
    }
}

impl Realm {
    fn new(random: &mut Random) -> Self {
        let count = random.between(2, 7);
        let person = || Person { exists: true, enabled: true, ..Person::default() };
        Self {
            people: (0..count).map(|number| (format!("user-{number}"), person())).collect(),
            events: Default::default(),
            keeps_events: true,
            weather: Weather::Fair,
            is_messy: random.chance(50),
            ahead_ms: random.pick(&[0, 0, 350, -7_000, 90_000, -3_600_000]),
            stepped: None,
            stepped_back: None,
            crisp_since: 0,
            fair_since: 0,
            event_page: random.pick(&[25, 40, 1000]),
            user_page: random.pick(&[4, 6, 500]),
            next_id: 0,
        }
    }

    /// A name that was not used before.
    pub(crate) fn id(&mut self, kind: &str) -> String {
        self.next_id += 1;
        format!("{kind}-{}", self.next_id)
    }
}
