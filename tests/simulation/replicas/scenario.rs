//! One run: everything that may happen, drawn from a seed.

use super::oracle::judge_for_ever;
use super::replica::{Common, Remains, Replica};
use super::world::{Counts, Ms, Shared, World};
use postern::base::clock::Clock;
use postern::config::{self, Config};
use postern::token_service::TokenService;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const CONFIG: &str = "version = 1
dev = true
[token_service]
issuer = 'https://postern.example'
[issuer.main]
url = 'http://127.0.0.1:1/realms/demo'
audience = 'gateway'
user_status = { keycloak = { client_id = 'gateway', client_secret = 'x', when_unknown = { allow_for = '5m' } } }
[upstream.orders]
to = 'http://127.0.0.1:2'
[[route]]
path = '/**'
upstream = 'orders'
[delivery]
issuer = 'main'
offboard_after = '24h'
";

/// Of how many Secrets what is known of users is: fewer than in earnest, so that each is written by several.
const PARTS: u16 = 2;

/// For so long nothing but sign-ins happens at first.
const CALM_MS: Ms = 40_000;

/// All is well for so long before a run ends.
const END_MS: Ms = 60_000;

/// What may happen in a run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) has_weather: bool,
    pub(crate) has_kills: bool,
    pub(crate) has_freezes: bool,
    pub(crate) has_ambushes: bool,
    pub(crate) has_edits: bool,
    pub(crate) has_operators: bool,
    lasts: Ms,
}

/// How many take part, and for how long, where a seed does not draw that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cast {
    pub(crate) users: u64,
    pub(crate) lasts: Ms,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) failure: Option<String>,
    pub(crate) last_lines: String,
    pub(crate) counts: Counts,
}

/// A replica's place, as who drives the run sees it.
#[derive(Default)]
pub(crate) struct Seat {
    pub(crate) replica: Option<Replica>,
    /// What the last one left, if that was kept, and when the next begins.
    pub(crate) down: Option<(Option<Remains>, Ms)>,
    /// Until when it is paused, or its watches are told nothing.
    pub(crate) frozen_until: Option<Ms>,
    pub(crate) stalled_until: Option<Ms>,
}

pub(crate) struct Driver {
    pub(crate) world: Shared,
    pub(crate) plan: Plan,
    pub(crate) common: Common,
    pub(crate) seats: Vec<Seat>,
    /// Something is wrong until then.
    pub(crate) trouble_until: Option<Ms>,
    /// Who leads, as was last seen: place and incarnation.
    leader: Option<(usize, u32)>,
}

pub(crate) fn config() -> Config {
    config::parse(CONFIG, Path::new("postern.toml")).unwrap()
}

/// The run of a seed.
pub(crate) fn run(seed: u64, cast: Option<Cast>, is_verbose: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let folder = crate::process::folder();
    runtime.block_on(async {
        let world = Arc::new(Mutex::new(World::new(seed, cast.map(|cast| cast.users), is_verbose)));
        Driver::new(&world, cast.map(|cast| cast.lasts), folder.path()).run().await;
        let mut world = world.lock().unwrap();
        Outcome { failure: world.failure.take(), last_lines: world.last_lines(), counts: world.counts }
    })
}

impl Driver {
    fn new(world: &Shared, lasts: Option<Ms>, folder: &Path) -> Self {
        let mut guard = world.lock().unwrap();
        let random = &mut guard.random;
        let plan = Plan {
            has_weather: random.chance(60) || lasts.is_some(),
            has_kills: random.chance(60) || lasts.is_some(),
            has_freezes: random.chance(50) || lasts.is_some(),
            has_ambushes: random.chance(50),
            has_edits: random.chance(50),
            has_operators: random.chance(40),
            lasts: lasts.unwrap_or(match random.below(10) {
                0 => random.between(30, 60) * 60_000,
                _ => random.between(6, 24) * 60_000,
            }),
        };
        guard.log(|| format!("{plan:?}"));
        let count = guard.slots.len();
        let clock = Clock::of_runtime(super::world::EPOCH);
        drop(guard);
        let tokens = Arc::new(TokenService::ephemeral(config().token_service, clock).unwrap());
        let seats = (0..count).map(|_| Seat { down: Some((None, 0)), ..Seat::default() }).collect();
        let common = Common { folder: folder.to_owned(), tokens, parts: PARTS };
        Self { world: Arc::clone(world), plan, common, seats, trouble_until: None, leader: None }
    }

    async fn run(mut self) {
        self.start_due();
        let ticker = tokio::spawn(judge_for_ever(Arc::clone(&self.world)));
        self.sleep(5_000).await;
        let everybody: Vec<_> = self.lock().people.keys().cloned().collect();
        for id in &everybody {
            if self.lock().random.chance(70) {
                self.lock().sign_in(id);
            }
        }
        self.sleep(CALM_MS).await;
        while self.lock().failure.is_none() && self.lock().now() < self.plan.lasts {
            let gap = self.gap();
            self.sleep(gap).await;
            self.act();
        }
        self.end().await;
        ticker.abort();
        for seat in &mut self.seats {
            seat.replica.take().map(|replica| replica.kill(&self.common));
        }
    }

    /// Time passes; whoever is due to come back does.
    async fn sleep(&mut self, ms: Ms) {
        let end = self.lock().now() + ms;
        loop {
            self.keep_up();
            let now = self.lock().now();
            if now >= end || self.lock().failure.is_some() {
                return;
            }
            tokio::time::sleep(Duration::from_millis((end - now).min(500))).await;
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn gap(&self) -> Ms {
        let random = &mut self.lock().random;
        match random.below(4) {
            0 => random.between(1, 500),
            1 | 2 => random.between(500, 15_000),
            _ => random.between(5_000, 60_000),
        }
    }

    /// All well again: then everything that is promised must hold soon.
    async fn end(&mut self) {
        if self.lock().failure.is_some() {
            return;
        }
        self.lock().log(|| "all is well from now on".to_owned());
        self.end_trouble();
        self.sleep(END_MS).await;
        let everybody: Vec<_> = self.lock().people.keys().cloned().collect();
        for id in &everybody {
            self.lock().sign_in(id);
        }
        self.sleep(END_MS).await;
        self.check_standing();
    }

    /// Every replica knows of everybody what is so.
    fn check_standing(&self) {
        let mut wrong = Vec::new();
        for (slot, seat) in self.seats.iter().enumerate() {
            let Some(replica) = &seat.replica else { continue };
            let world = self.lock();
            for (id, person) in &world.people {
                let user = postern::users::UserId::new(super::world::ISSUER, id.as_str()).unwrap();
                let (state, _) = replica.users.standing(&user, replica.line.clock.now());
                let is_in = state == postern::users::State::Active;
                if is_in != (person.standing != super::people::Standing::Out) {
                    wrong.push(format!("for replica {slot} {id} is {state:?}, and is {:?}", person.standing));
                }
            }
        }
        if !wrong.is_empty() {
            self.lock().fail(wrong.join("; "));
        }
    }

    pub(crate) fn start_due(&mut self) {
        let now = self.lock().now();
        for slot in 0..self.seats.len() {
            if self.seats[slot].down.as_ref().is_some_and(|(_, at)| *at <= now) {
                let (remains, _) = self.seats[slot].down.take().unwrap();
                self.seats[slot].replica = Some(Replica::start(&self.world, slot, remains, &self.common));
            }
        }
    }

    /// Notes who leads.
    pub(crate) fn note_leader(&mut self) {
        let leads = |seat: &Seat| {
            seat.replica
                .as_ref()
                .filter(|replica| replica.line.leads())
                .map(|replica| (replica.line.slot, replica.line.number))
        };
        let leader = self.seats.iter().find_map(leads);
        if leader.is_some() && leader != self.leader {
            let mut world = self.lock();
            world.counts.takeovers += 1;
            world.log(|| format!("{leader:?} leads"));
            drop(world);
            self.leader = leader;
        }
    }

    /// The place of who leads.
    pub(crate) fn leading(&self) -> Option<usize> {
        self.seats.iter().position(|seat| seat.replica.as_ref().is_some_and(|replica| replica.line.leads()))
    }
}
