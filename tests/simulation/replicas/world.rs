//! What is so: the users at Keycloak, what readers find in the cluster, how well everything is, and since when.

use super::memory::Memory;
use super::oracle::Reader;
use super::people::{Happening, Person};
use super::switch::Switch;
use super::wire::Line;
use crate::random::Random;
use crate::scaling::Counted;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// Milliseconds since the simulation began: the one true time.
pub(crate) type Ms = u64;

/// When it begins, in seconds since 1970.
pub(crate) const EPOCH: u64 = 1_795_000_000;

/// The issuer's name.
pub(crate) const ISSUER: &str = "main";

/// The most lines that a failing seed shows.
const LINES: usize = 80;

pub(crate) type Shared = Arc<Mutex<World>>;

pub(crate) struct World {
    /// For what happens.
    pub(crate) random: Random,
    /// For what becomes of calls: what Postern asks moves nothing else.
    pub(crate) luck: Random,
    start: Instant,
    pub(crate) memory: Arc<Memory>,
    pub(crate) people: BTreeMap<String, Person>,
    /// What Keycloak keeps of what happened, oldest first.
    pub(crate) happenings: Vec<Happening>,
    pub(crate) keycloak: Weather,
    pub(crate) api: Weather,
    pub(crate) slots: Vec<Slot>,
    /// What readers find, by namespace.
    pub(crate) readers: BTreeMap<String, Reader>,
    /// Since when nothing at all is wrong.
    pub(crate) crisp_since: Ms,
    /// When somebody else took the Lease away last.
    pub(crate) lease_edited: Option<Ms>,
    /// The next fill finds its writer paused before it is sent.
    pub(crate) is_ambushed: bool,
    /// Somebody's write that was caught so.
    pub(crate) caught: Option<Caught>,
    pub(crate) failure: Option<String>,
    lines: VecDeque<String>,
    is_verbose: bool,
    pub(crate) counts: Counts,
    /// What the API server and Keycloak were asked.
    pub(crate) asked: Counted,
}

/// A leader that is paused right before it writes.
pub(crate) struct Caught {
    pub(crate) slot: usize,
    pub(crate) namespace: String,
}

/// What a run came to, so that a simulation in which nothing happens is noticed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) fills: u64,
    pub(crate) empties: u64,
    /// Reads of a token that had to be there, and of nothing where nothing may be.
    pub(crate) must_hold: u64,
    pub(crate) must_be_empty: u64,
    pub(crate) blocks: u64,
    pub(crate) ambushes: u64,
    /// Writes of somebody paused that arrived, and those that were refused since somebody else had written.
    pub(crate) late_writes: u64,
    pub(crate) conflicts: u64,
    pub(crate) takeovers: u64,
    pub(crate) kills: u64,
    pub(crate) freezes: u64,
    pub(crate) edits: u64,
    pub(crate) cut_watches: u64,
    pub(crate) troubles: u64,
    /// Of everything, in order.
    pub(crate) digest: u64,
}

/// How a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    /// Calls take up to seconds.
    Slow,
    /// So many calls of a hundred fail, some after they were done.
    Flaky(u64),
    /// No call is answered; some are done later.
    Hanging,
    /// No connection.
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    TokenService,
    Gateway,
}

/// The place of a replica, which is killed and started again.
pub(crate) struct Slot {
    pub(crate) role: Role,
    /// By how much its wall clock is ahead of the true time, in seconds.
    pub(crate) ahead_s: i64,
    /// Paused as a whole, as far as anybody else can see: nothing that it sends or is sent arrives.
    pub(crate) frozen: Arc<Switch>,
    /// What is there of a replica.
    pub(crate) line: Option<Arc<Line>>,
    pub(crate) incarnation: u32,
    /// Its watches are told nothing, without a word.
    pub(crate) stalled: Arc<Switch>,
    /// When an operator acted here last.
    pub(crate) acted: Option<Ms>,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.fills += other.fills;
        self.empties += other.empties;
        self.must_hold += other.must_hold;
        self.must_be_empty += other.must_be_empty;
        self.blocks += other.blocks;
        self.ambushes += other.ambushes;
        self.late_writes += other.late_writes;
        self.conflicts += other.conflicts;
        self.takeovers += other.takeovers;
        self.kills += other.kills;
        self.freezes += other.freezes;
        self.edits += other.edits;
        self.cut_watches += other.cut_watches;
        self.troubles += other.troubles;
    }
}

impl Slot {
    pub(crate) fn new(role: Role, ahead_s: i64) -> Self {
        Self { role, ahead_s, frozen: Arc::default(), line: None, incarnation: 0, stalled: Arc::default(), acted: None }
    }

    pub(crate) fn is_well(&self) -> bool {
        self.line.is_some() && !self.frozen.is_on() && !self.stalled.is_on()
    }
}

impl World {
    pub(crate) fn new(seed: u64, users: Option<u64>, is_verbose: bool) -> Self {
        let mut random = Random::new(seed ^ 0x5EED_0F4E_91CA_5000);
        let replicas = random.pick(&[2, 2, 3]);
        let mut ahead = || i64::try_from(random.between(0, 24)).unwrap() - 12;
        let mut slots: Vec<_> = (0..replicas).map(|_| Slot::new(Role::TokenService, ahead())).collect();
        slots.push(Slot::new(Role::Gateway, ahead()));
        let users = users.unwrap_or_else(|| random.between(2, 4));
        Self {
            start: Instant::now(),
            memory: Memory::new(),
            people: (0..users).map(|number| Person::new(&format!("user-{number}"))).collect(),
            happenings: Vec::new(),
            keycloak: Weather::Fair,
            api: Weather::Fair,
            slots,
            readers: BTreeMap::new(),
            crisp_since: 0,
            lease_edited: None,
            is_ambushed: false,
            caught: None,
            failure: None,
            lines: VecDeque::new(),
            is_verbose,
            counts: Counts::default(),
            asked: Counted::default(),
            luck: Random::new(!seed),
            random,
        }
    }

    pub(crate) fn now(&self) -> Ms {
        u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    /// The true time, in milliseconds since 1970, which is the issuer's too.
    pub(crate) fn unix_ms(&self) -> u64 {
        EPOCH * 1000 + self.now()
    }

    /// Whether nothing at all is wrong now. That a leader was there is for those who ask to allow for.
    pub(crate) fn is_crisp(&self) -> bool {
        self.keycloak == Weather::Fair && self.api == Weather::Fair && self.slots.iter().all(Slot::is_well)
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
