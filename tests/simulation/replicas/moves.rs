//! What happens next.

use super::people::Standing;
use super::scenario::Driver;
use super::world::{ISSUER, Ms, Weather, World};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern::users::{Act, Lift, Lifted, Proof, UserId};
use serde_json::{Value, json};

/// The longest that something is wrong without a pause in which all is well: less than the five minutes of reserve, since they are
/// for a takeover and for clocks too.
const TROUBLE_MS: Ms = 200_000;

/// For so long all is well between two times of trouble.
const REST_MS: Ms = 60_000;

/// A replica whose store is lost has told others by then what operators said to it.
const SHARED_MS: Ms = 20_000;

impl Driver {
    /// Something happens.
    pub(crate) fn act(&mut self) {
        if self.trouble_until.is_none() && self.is_rested() && self.lock().random.chance(25) {
            return self.begin_trouble();
        }
        let what = self.lock().random.below(100);
        match what {
            0..55 => self.act_on_somebody(),
            55..60 => self.lock().act_create(),
            60..70 => self.lock().act_disturb_watches(),
            70..85 if self.plan.has_edits => self.lock().act_edit(),
            85..92 if self.plan.has_operators => self.act_as_operator(),
            _ => self.lock().act_touch(),
        }
    }

    fn is_rested(&self) -> bool {
        let world = self.lock();
        world.now() > world.crisp_since + REST_MS
    }

    fn act_on_somebody(&mut self) {
        let mut world = self.lock();
        let Some(id) = world.somebody() else { return };
        let what = world.random.below(10);
        match (what, world.people[&id].standing) {
            (0 | 1, _) => world.change_roles(&id),
            (2, Standing::In) if world.random.chance(10) => world.delete(&id),
            (2..=4, Standing::In) => world.set_enabled(&id, false),
            (_, Standing::In) => {}
            (_, Standing::New) => world.sign_in(&id),
            (2..=5, Standing::Out) => world.set_enabled(&id, true),
            (_, Standing::Out) => world.sign_in(&id),
        }
    }

    /// Something goes wrong, or several things.
    fn begin_trouble(&mut self) {
        let until = {
            let mut world = self.lock();
            world.counts.troubles += 1;
            let lasts = match world.random.below(3) {
                0 => world.random.between(1_000, 20_000),
                1 => world.random.between(10_000, 80_000),
                _ => world.random.between(30_000, TROUBLE_MS),
            };
            world.log(|| format!("trouble for {lasts} ms"));
            world.now() + lasts
        };
        self.trouble_until = Some(until);
        let count = self.lock().random.between(1, 3);
        for _ in 0..count {
            let what = self.lock().random.below(8);
            match what {
                0 | 1 if self.plan.has_weather => self.lock().act_weather(),
                2 | 3 if self.plan.has_kills => self.act_kill(until),
                4 if self.plan.has_freezes => self.act_freeze(until),
                5 if self.plan.has_ambushes => self.act_ambush(),
                6 => self.lock().act_lease(),
                _ => self.act_stall(until),
            }
        }
    }

    /// Who is to be killed, paused or deafened: mostly the leader.
    fn victim(&self) -> usize {
        let leading = self.leading();
        let mut world = self.lock();
        match leading.filter(|_| world.random.chance(60)) {
            Some(leading) => leading,
            None => {
                let count = world.slots.len();
                world.random.below(count)
            }
        }
    }

    fn moment(&self, until: Ms) -> Ms {
        let mut world = self.lock();
        let now = world.now();
        if world.random.chance(30) { now } else { world.random.between(now.min(until), until) }
    }

    fn act_kill(&mut self, until: Ms) {
        let (slot, at) = (self.victim(), self.moment(until));
        let Some(replica) = self.seats[slot].replica.take() else { return };
        self.thaw(slot);
        self.stir(slot);
        let mut world = self.lock();
        let now = world.now();
        let is_shared =
            world.crisp_since + SHARED_MS < now && world.slots[slot].acted.is_none_or(|acted| acted + SHARED_MS < now);
        let is_lost = is_shared && world.random.chance(40);
        world.counts.kills += 1;
        let number = replica.line.number;
        world.log(|| format!("replica {slot}.{number} is killed for {} ms, its store lost: {is_lost}", at - now));
        drop(world);
        let remains = replica.kill(&self.common);
        self.seats[slot].down = Some(((!is_lost).then_some(remains), at));
    }

    fn act_freeze(&mut self, until: Ms) {
        let slot = self.victim();
        self.freeze(slot, until);
    }

    fn freeze(&mut self, slot: usize, until: Ms) {
        if self.seats[slot].replica.is_none() {
            return;
        }
        let mut world = self.lock();
        world.counts.freezes += 1;
        world.log(|| format!("replica {slot} is paused"));
        world.slots[slot].frozen.set(true);
        drop(world);
        self.seats[slot].frozen_until = Some(until);
    }

    fn act_stall(&mut self, until: Ms) {
        let slot = self.victim();
        if self.seats[slot].replica.is_none() {
            return;
        }
        let mut world = self.lock();
        world.log(|| format!("the watches of {slot} are told nothing"));
        world.slots[slot].stalled.set(true);
        drop(world);
        self.seats[slot].stalled_until = Some(until);
    }

    /// The next fill will find its writer paused, and its user blocked meanwhile.
    fn act_ambush(&mut self) {
        let mut world = self.lock();
        world.is_ambushed = true;
        // Something to fill.
        if let Some(id) = world.somebody() {
            match world.people[&id].standing {
                Standing::In => world.change_roles(&id),
                Standing::New | Standing::Out => {
                    world.set_enabled(&id, true);
                    world.sign_in(&id);
                }
            }
        }
    }

    /// What follows from time passing.
    pub(crate) fn keep_up(&mut self) {
        self.start_due();
        self.note_leader();
        let now = self.lock().now();
        let caught = self.lock().caught.take();
        if let Some(caught) = caught {
            let until = self.trouble_until.unwrap_or(now) + 5_000;
            self.trouble_until = Some(until);
            self.seats[caught.slot].frozen_until = Some(until);
            let id = format!("id-{}", caught.namespace);
            let mut world = self.lock();
            if world.random.chance(80) {
                world.set_enabled(&id, false);
            }
        }
        for slot in 0..self.seats.len() {
            if self.seats[slot].frozen_until.is_some_and(|until| until <= now) {
                self.thaw(slot);
            }
            if self.seats[slot].stalled_until.is_some_and(|until| until <= now) {
                self.stir(slot);
            }
        }
        if self.trouble_until.is_some_and(|until| until <= now) {
            self.end_trouble();
        }
    }

    fn thaw(&mut self, slot: usize) {
        if self.seats[slot].frozen_until.take().is_some() {
            let mut world = self.lock();
            world.log(|| format!("replica {slot} goes on"));
            world.slots[slot].frozen.set(false);
        }
    }

    fn stir(&mut self, slot: usize) {
        if self.seats[slot].stalled_until.take().is_some() {
            self.lock().slots[slot].stalled.set(false);
        }
    }

    pub(crate) fn end_trouble(&mut self) {
        self.trouble_until = None;
        for slot in 0..self.seats.len() {
            self.thaw(slot);
            self.stir(slot);
            if let Some((_, at)) = &mut self.seats[slot].down {
                *at = 0;
            }
        }
        self.start_due();
        let mut world = self.lock();
        world.is_ambushed = false;
        (world.keycloak, world.api) = (Weather::Fair, Weather::Fair);
        world.log(|| "the trouble is over".to_owned());
    }

    /// An operator blocks somebody, or ends that, by way of some replica. While something is wrong they see that, and wait.
    fn act_as_operator(&mut self) {
        if self.trouble_until.is_some() || !self.lock().is_crisp() {
            return;
        }
        let mut world = self.lock();
        let count = world.slots.len();
        let slot = world.random.below(count);
        let Some(id) = world.somebody() else { return };
        let is_barred = world.people[&id].is_barred;
        let unix_ms = world.unix_ms();
        let now = world.now();
        world.slots[slot].acted = Some(now);
        drop(world);
        let Some(replica) = &self.seats[slot].replica else { return };
        let user = UserId::new(ISSUER, id.as_str()).unwrap();
        let act = Act { by: "olga".to_owned(), reason: "asked".to_owned() };
        if is_barred {
            // Everywhere: an end of a block that another replica did not agree to is none.
            let lift = Lift::Operator { act, issuer_now_ms: unix_ms };
            if !matches!(replica.users.lift(&user, lift).unwrap(), Lifted::Done(_)) {
                // The operator is told so: this replica has not heard of the block yet.
                return self.lock().log(|| format!("an operator at {slot} finds {id} not blocked"));
            }
        } else {
            replica.users.block(&user, Proof::Operator(act)).unwrap();
        }
        let mut world = self.lock();
        world.log(|| format!("an operator at {slot} blocks {id}: {}", !is_barred));
        world.change(&id, |person| person.is_barred = !is_barred);
    }
}

impl World {
    /// Somebody who exists.
    fn somebody(&mut self) -> Option<String> {
        let there: Vec<_> = self.people.iter().filter(|(_, person)| person.exists).map(|(id, _)| id.clone()).collect();
        if there.is_empty() { None } else { Some(there[self.random.below(there.len())].clone()) }
    }

    fn act_create(&mut self) {
        if self.people.len() < 6 {
            self.create();
        }
    }

    fn act_weather(&mut self) {
        let percent = self.random.between(10, 70);
        let fair = [Weather::Slow, Weather::Flaky(percent), Weather::Hanging, Weather::Down];
        let weather = self.random.pick(&fair);
        if self.random.chance(50) {
            self.api = weather;
            self.log(|| format!("the API server is {weather:?}"));
        } else {
            self.keycloak = weather;
            self.log(|| format!("Keycloak is {weather:?}"));
        }
    }

    fn act_disturb_watches(&mut self) {
        self.counts.cut_watches += 1;
        if self.random.chance(30) {
            self.memory.bookmark();
        }
        if self.random.chance(50) {
            self.log(|| "old events are forgotten".to_owned());
            self.memory.compact();
        }
        self.log(|| "all watches are cut off".to_owned());
        self.memory.drop_watches();
    }

    /// Somebody else takes the Lease away, or deletes it.
    fn act_lease(&mut self) {
        let now = self.now();
        (self.crisp_since, self.lease_edited) = (now, Some(now));
        let (group, kind, name) = ("apis/coordination.k8s.io/v1", "leases", "postern-token-service");
        let Some(mut lease) = self.memory.get(group, kind, Some("postern"), name) else { return };
        if self.random.chance(30) {
            self.log(|| "the Lease is deleted".to_owned());
            self.memory.remove(group, kind, Some("postern"), name);
        } else {
            self.log(|| "the Lease is somebody else's".to_owned());
            lease["spec"]["holderIdentity"] = json!("somebody");
            lease["spec"]["renewTime"] = json!("2020-01-01T00:00:00.000000Z");
            self.memory.put(group, kind, Some("postern"), &lease);
        }
    }

    /// Somebody writes an object of ours without changing what matters: every write that was decided on it conflicts.
    fn act_touch(&mut self) {
        let touched = self.luck.draw() % 1000;
        let touch = |object: &mut Value| object["metadata"]["annotations"]["touched"] = json!(touched.to_string());
        let group = "api/v1";
        let id = self.somebody();
        let Some(namespace) = id.map(|id| self.people[&id].name.clone()) else { return };
        if let Some(mut secret) = self.memory.get(group, "secrets", Some(&namespace), "access-token") {
            touch(&mut secret);
            self.memory.put(group, "secrets", Some(&namespace), &secret);
        }
        let lease = ("apis/coordination.k8s.io/v1", "leases", "postern-token-service");
        if self.random.chance(30)
            && let Some(mut object) = self.memory.get(lease.0, lease.1, Some("postern"), lease.2)
        {
            touch(&mut object);
            self.memory.put(lease.0, lease.1, Some("postern"), &object);
        }
    }

    /// The user whose namespace it is does something to their Secret.
    fn act_edit(&mut self) {
        let Some(id) = self.somebody() else { return };
        let namespace = self.people[&id].name.clone();
        let (group, kind, name) = ("api/v1", "secrets", "access-token");
        let Some(mut secret) = self.memory.get(group, kind, Some(&namespace), name) else { return };
        let what = self.random.below(6);
        match what {
            0 => secret["data"]["AUTH_TOKEN"] = json!(STANDARD.encode("nonsense")),
            1 => secret["data"]["AUTH_TOKEN"] = json!(""),
            2 => secret["data"] = json!({}),
            3 => secret["metadata"]["labels"] = json!({}),
            4 => secret["metadata"]["annotations"] = json!({}),
            _ => {}
        }
        if what == 5 {
            self.memory.remove(group, kind, Some(&namespace), name);
        } else {
            self.memory.put(group, kind, Some(&namespace), &secret);
        }
        self.counts.edits += 1;
        self.log(|| format!("{id} edits their Secret: {what}"));
        let now = self.now();
        let person = self.people.get_mut(&id).unwrap();
        (person.edited, person.is_settled) = (Some(now), false);
        self.look_at(&namespace, None);
    }
}
