//! What happens next in a run.

use crate::acts::{self, Change};
use crate::scenario::Driver;
use crate::world::{Endpoint, Floor, REALMS, Shared, Weather};
use postern::users::{Act, Cause, IssuerClock, Lift, Lifted, Proof, SessionScope, UserId};
use postern::watch::Directory;
use std::sync::Arc;
use std::time::Duration;

impl Driver {
    /// One more thing happens.
    pub(crate) fn act(&mut self) {
        let (what, realm, name) = {
            let mut world = self.lock();
            let realm = usize::from(world.random.chance(25));
            let count = world.realms[realm].people.len();
            let at = world.random.below(count);
            let name = world.realms[realm].people.keys().nth(at).unwrap().clone();
            (world.random.below(100), realm, name)
        };
        let plan = &self.plan;
        match what {
            0..22 => self.lock().sign_in(realm, &name),
            22..32 => self.lock().refresh(realm, &name),
            32..34 => self.lock().end_session(realm, &name),
            34..46 => self.change(realm, name, Change::Disable),
            46..60 => self.change(realm, name, Change::Enable),
            60..66 => self.blink(realm, name),
            66..69 => self.change(realm, name, Change::LockOut),
            69..71 => self.change(realm, name, Change::Delete),
            71..75 => self.change(realm, name, Change::Recreate),
            75..77 => self.log_out(realm, &name),
            77..85 if plan.has_weather => self.change_weather(realm),
            85..89 if plan.has_crashes => self.crash(),
            89..91 if plan.has_silence => self.silence(realm),
            91..93 if plan.has_steps => self.step_clock(realm),
            93..99 if plan.has_operators => self.operate(realm, &name),
            99 if plan.has_operators => self.switch_cluster(),
            _ => {}
        }
    }

    fn change(&self, realm: usize, name: String, change: Change) {
        tokio::spawn(acts::change(Arc::clone(&self.world), realm, name, change));
    }

    fn blink(&self, realm: usize, name: String) {
        let pause = self.lock().random.between(0, 900);
        tokio::spawn(acts::blink(Arc::clone(&self.world), realm, name, pause));
    }

    fn log_out(&self, realm: usize, name: &str) {
        let mut world = self.lock();
        // Without an event nobody learns of it.
        if world.realms[realm].keeps_events && world.person(realm, name).exists {
            world.log_out(realm, name);
        }
    }

    fn change_weather(&self, realm: usize) {
        let mut world = self.lock();
        let endpoints = [Endpoint::Token, Endpoint::Events, Endpoint::Disabled, Endpoint::User, Endpoint::Sessions];
        let (percent, endpoint) = (world.random.between(5, 70), world.random.pick(&endpoints));
        let kinds =
            [Weather::Slow, Weather::Flaky(percent), Weather::Broken(endpoint), Weather::Hanging, Weather::Down];
        let weather = world.random.pick(&kinds);
        let lasts = match world.random.below(3) {
            0 => world.random.between(100, 3_000),
            1 => world.random.between(1_000, 20_000),
            _ => world.random.between(10_000, 120_000),
        };
        if world.realms[realm].weather != Weather::Fair {
            return;
        }
        world.log(|| format!("{} is {weather:?} for {lasts} ms", REALMS[realm]));
        world.realms[realm].weather = weather;
        tokio::spawn(clear_up(Arc::clone(&self.world), realm, lasts));
    }

    fn crash(&mut self) {
        let Some(process) = &self.process else { return };
        let waits = self.lock().random.chance(50);
        if waits {
            self.waits_for_decision = Some(Box::new(process.kill_at_next_decision()));
        } else {
            self.kill();
        }
    }

    fn silence(&self, realm: usize) {
        let mut world = self.lock();
        let lasts = world.random.between(1_000, 40_000);
        if world.realms[realm].keeps_events {
            world.log(|| format!("{} keeps no events for {lasts} ms", REALMS[realm]));
            world.realms[realm].keeps_events = false;
            tokio::spawn(keep_events(Arc::clone(&self.world), realm, lasts));
        }
    }

    fn step_clock(&self, realm: usize) {
        let mut world = self.lock();
        let by = match world.random.below(3) {
            0 => world.random.between(1, 4_000),
            1 => world.random.between(4_000, 120_000),
            _ => world.random.between(60_000, 4_000_000),
        };
        let by = i64::try_from(by).unwrap() * if world.random.chance(50) { 1 } else { -1 };
        // Set twice before anybody could look at it, a clock leaves times behind that nothing leads back to.
        let was_seen = world.is_clock_known(realm) && world.realms[realm].weather == Weather::Fair;
        if !was_seen || world.realms[realm].people.values().any(|person| person.is_busy) {
            return;
        }
        world.settle(realm);
        world.log(|| format!("the clock of {} is set by {by} ms", REALMS[realm]));
        let now = world.now();
        let realm = &mut world.realms[realm];
        realm.ahead_ms += by;
        realm.stepped = Some(now);
        if by < 0 {
            realm.stepped_back = Some(now);
        }
    }

    /// An operator does something about a user.
    fn operate(&self, realm: usize, name: &str) {
        let Some(process) = &self.process else { return };
        let user = UserId::new(REALMS[realm], name).unwrap();
        let is_barred = self.lock().person(realm, name).is_barred;
        if self.lock().random.chance(20) {
            self.revoke(realm, name);
        } else if !is_barred {
            self.lock().person(realm, name).is_touched = true;
            process.users.block(&user, Proof::Operator(act())).unwrap();
            let mut world = self.lock();
            world.log(|| format!("an operator blocks {user}"));
            let now = world.now();
            let person = world.person(realm, name);
            person.is_barred = true;
            person.changed = now;
        } else if let Some(issuer_now_ms) = self.issuer_now_ms(realm) {
            let lifted = process.users.lift(&user, Lift::Operator { act: act(), issuer_now_ms }).unwrap();
            assert!(matches!(lifted, Lifted::Done(_)));
            let mut world = self.lock();
            world.log(|| format!("an operator unblocks {user}, as of {issuer_now_ms}"));
            let moment = world.moment(realm);
            let person = world.person(realm, name);
            person.is_barred = false;
            person.changed = moment.at;
            person.floors.push(Floor { moment, why: "an operator blocked the user since it began" });
        }
    }

    fn revoke(&self, realm: usize, name: &str) {
        let Some(process) = &self.process else { return };
        let Some(id) = self.lock().person(realm, name).sessions.last().map(|session| session.id.clone()) else {
            return;
        };
        let scope = SessionScope::Session(id.clone());
        process.users.end_session(&REALMS[realm].into(), scope, Cause::SessionGone).unwrap();
        let mut world = self.lock();
        world.log(|| format!("{} {name}: {id} has ended", REALMS[realm]));
        let person = world.person(realm, name);
        // No token of it is issued any more.
        person.sessions.pop();
        for token in person.tokens.iter_mut().filter(|token| token.session.as_ref() == Some(&id)) {
            token.is_revoked = true;
        }
    }

    /// What an operator's act takes for the issuer's clock. If that was set and not looked at since, nobody knows it.
    fn issuer_now_ms(&self, realm: usize) -> Option<u64> {
        let (world, process) = (self.lock(), self.process.as_ref()?);
        let is_known = world.is_clock_known(realm);
        drop(world);
        process.watches[realm].directory().time().filter(|_| is_known).map(|time| time.latest_ms)
    }

    fn switch_cluster(&self) {
        let Some(process) = &self.process else { return };
        let is_closed = self.lock().is_closed;
        if !is_closed {
            self.lock().was_closed = true;
            process.users.disable_cluster(act()).unwrap();
            let mut world = self.lock();
            world.log(|| "the cluster is closed".to_owned());
            world.is_closed = true;
            return;
        }
        let (Some(main), Some(other)) = (self.issuer_now_ms(0), self.issuer_now_ms(1)) else { return };
        let clock = |issuer, now_ms| IssuerClock { issuer, now_ms };
        process.users.enable_cluster(act(), &[clock(REALMS[0], main), clock(REALMS[1], other)]).unwrap();
        let mut world = self.lock();
        world.log(|| "the cluster is open again".to_owned());
        world.is_closed = false;
        for realm in 0..2 {
            let moment = world.moment(realm);
            for person in world.realms[realm].people.values_mut() {
                person.floors.push(Floor { moment, why: "the cluster was closed since it began" });
                person.is_touched = true;
                person.changed = moment.at;
            }
        }
    }
}

fn act() -> Act {
    Act { by: "olga".to_owned(), reason: "drawn by lot".to_owned() }
}

async fn clear_up(world: Shared, realm: usize, after: u64) {
    tokio::time::sleep(Duration::from_millis(after)).await;
    world.lock().unwrap().realms[realm].weather = Weather::Fair;
}

async fn keep_events(world: Shared, realm: usize, after: u64) {
    tokio::time::sleep(Duration::from_millis(after)).await;
    world.lock().unwrap().realms[realm].keeps_events = true;
}
