//! One run: everything that may happen, drawn from a seed, and what is promised, looked at all the time.

use crate::judge::{ask, judge_all, judge_for_ever, tokens};
use crate::process::{self, Process, Remains};
use crate::world::{Counts, Ms, REALMS, Shared, Weather, World};
use postern::watch::Settings;
use std::any::Any;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;

/// For so long nothing but sign-ins happens at first.
const CALM_MS: Ms = 10_000;

/// What may happen in a run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) has_weather: bool,
    pub(crate) has_crashes: bool,
    pub(crate) has_steps: bool,
    pub(crate) has_silence: bool,
    pub(crate) has_operators: bool,
    pub(crate) ends_sessions: bool,
    pub(crate) lasts: Ms,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) failure: Option<String>,
    pub(crate) last_lines: String,
    pub(crate) counts: Counts,
}

/// The run of a seed.
pub(crate) fn run(seed: u64, is_verbose: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let folder = process::folder();
    runtime.block_on(async {
        let world = Arc::new(Mutex::new(World::new(seed, is_verbose)));
        Driver::new(&world, folder.path()).run().await;
        let mut world = world.lock().unwrap();
        world.process = None;
        Outcome { failure: world.failure.take(), last_lines: world.last_lines(), counts: world.counts }
    })
}

pub(crate) struct Driver {
    pub(crate) world: Shared,
    pub(crate) plan: Plan,
    settings: Settings,
    /// The photographer was there.
    killed: Arc<Notify>,
    pub(crate) waits_for_decision: Option<Box<dyn Any + Send>>,
    pub(crate) process: Option<Arc<Process>>,
    /// What a process left, and when the next begins.
    down: Option<(Remains, Ms)>,
}

impl Driver {
    fn new(world: &Shared, folder: &Path) -> Self {
        let mut guard = world.lock().unwrap();
        let random = &mut guard.random;
        let plan = Plan {
            has_weather: random.chance(60),
            has_crashes: random.chance(60),
            has_steps: random.chance(40),
            has_silence: random.chance(40),
            has_operators: random.chance(40),
            ends_sessions: random.chance(20),
            lasts: random.between(20_000, 100_000),
        };
        guard.log(|| format!("{plan:?}"));
        let settings = Settings {
            issuer: REALMS[0].into(),
            bound: Duration::from_millis(guard.bound),
            end_sessions: plan.ends_sessions,
        };
        drop(guard);
        let down = Some((Remains::none(folder), 0));
        let killed = Arc::new(Notify::new());
        Self { world: Arc::clone(world), plan, settings, killed, waits_for_decision: None, process: None, down }
    }

    async fn run(mut self) {
        self.start();
        let ticker = tokio::spawn(judge_for_ever(Arc::clone(&self.world)));
        for realm in 0..2 {
            let names: Vec<_> = self.lock().realms[realm].people.keys().cloned().collect();
            for name in names {
                self.lock().sign_in(realm, &name);
            }
        }
        tokio::time::sleep(Duration::from_millis(CALM_MS)).await;
        while self.lock().failure.is_none() && self.lock().now() < self.plan.lasts {
            let gap = self.gap();
            tokio::select! {
                biased;
                () = self.killed.notified() => self.kill(),
                () = tokio::time::sleep(gap) => {
                    self.start_if_due();
                    self.act();
                }
            }
        }
        self.end().await;
        ticker.abort();
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn gap(&self) -> Duration {
        let random = &mut self.lock().random;
        Duration::from_millis(match random.below(4) {
            0 => random.between(1, 60),
            1 | 2 => random.between(100, 1_500),
            _ => random.between(500, 5_000),
        })
    }

    /// All well again: then everything that is promised must hold within the bound.
    async fn end(&mut self) {
        if self.lock().failure.is_some() {
            return;
        }
        {
            let mut world = self.lock();
            world.log(|| "all is well from now on".to_owned());
            for realm in &mut world.realms {
                realm.weather = Weather::Fair;
                realm.keeps_events = true;
            }
        }
        self.waits_for_decision = None;
        if let Some((remains, _)) = self.down.take() {
            self.down = Some((remains, 0));
            self.start();
        }
        let bound = self.lock().bound;
        tokio::time::sleep(Duration::from_millis(bound + 15_000)).await;
        for realm in 0..2 {
            let names: Vec<_> = self.lock().realms[realm].people.keys().cloned().collect();
            for name in names {
                self.lock().sign_in(realm, &name);
            }
        }
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        judge_all(&self.world);
        let everything = tokens(&self.lock());
        for (realm, name, token) in everything {
            ask(Arc::clone(&self.world), realm, name, token).await;
        }
    }

    fn start(&mut self) {
        let Some((remains, _)) = self.down.take() else { return };
        let process = Process::start(&self.world, remains, &self.settings, &self.killed);
        let mut world = self.lock();
        world.log(|| format!("Postern starts: {}", process.number));
        world.up_since = world.now();
        world.process = Some(Arc::clone(&process));
        drop(world);
        self.process = Some(process);
    }

    fn start_if_due(&mut self) {
        let now = self.lock().now();
        if self.down.as_ref().is_some_and(|(_, at)| *at <= now) {
            self.start();
        }
    }

    pub(crate) fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        self.waits_for_decision = None;
        let mut world = self.lock();
        for realm in 0..2 {
            world.settle(realm);
        }
        world.process = None;
        world.counts.crashes += 1;
        let pause = match world.random.below(3) {
            0 => 0,
            1 => world.random.between(0, 5_000),
            _ => world.random.between(0, 60_000),
        };
        world.log(|| format!("Postern is killed, for {pause} ms"));
        let at = world.now() + pause;
        drop(world);
        self.down = Some((process.kill(), at));
    }
}
