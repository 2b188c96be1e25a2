//! What administrators and users do at a realm.

use crate::world::{Incident, Ms, REALMS, Session, Shared, Token, World};
use postern::issuer::keycloak::{Feed, Meaning};
use std::sync::Arc;
use std::time::Duration;

/// The most tokens that a user holds.
const TOKENS: usize = 6;

/// A change that takes its time: what it tells bears the time at which it began, and all is so when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Disable,
    LockOut,
    Enable,
    Delete,
    Recreate,
}

impl World {
    /// How long a change takes. The overlap of readings is ten seconds.
    fn commit_delay(&mut self, realm: usize) -> Ms {
        // Until then nobody can tell how late an event is.
        let is_steady = self.is_clock_known(realm);
        match self.random.below(10) {
            0 if is_steady => self.random.between(1_000, 9_000),
            1 | 2 if is_steady => self.random.between(50, 2_000),
            _ => self.random.between(0, 50),
        }
    }

    fn commit(&mut self, realm: usize, name: &str, change: Change, began_issuer_ms: u64) {
        self.settle(realm);
        let user = name.to_owned();
        let (feed, meaning) = match change {
            Change::Disable => (Feed::Admin, Meaning::Disabled { user }),
            Change::LockOut => (Feed::User, Meaning::LockedOut { user }),
            Change::Enable => (Feed::Admin, Meaning::Enabled { user }),
            Change::Delete => (Feed::Admin, Meaning::Deleted { user }),
            Change::Recreate => (Feed::Admin, Meaning::Created { user }),
        };
        let moment = self.moment(realm);
        let is_told = self.tell(realm, feed, began_issuer_ms, meaning);
        self.log(|| format!("{} {name}: {change:?}, began {began_issuer_ms}, told: {is_told}", REALMS[realm]));
        let person = self.person(realm, name);
        person.is_busy = false;
        let is_deletion = change == Change::Delete;
        let was_out = !person.exists || !person.enabled;
        match change {
            Change::Disable | Change::LockOut => person.enabled = false,
            Change::Enable => person.enabled = true,
            Change::Delete => {
                person.exists = false;
                person.sessions.clear();
            }
            Change::Recreate => (person.exists, person.enabled) = (true, true),
        }
        let is_out = !person.exists || !person.enabled;
        let open = person.incidents.last_mut().filter(|incident| incident.until.is_none());
        if let Some(open) = open.filter(|_| !is_out || is_deletion) {
            open.until = Some(crate::world::Moment { issuer_ms: began_issuer_ms, ..moment });
            open.is_end_told = is_told;
            person.changed = moment.at;
        }
        if is_out && (is_deletion || !was_out) {
            person.incidents.push(Incident {
                is_deletion,
                began_issuer_ms,
                from: moment,
                is_told,
                until: None,
                is_end_told: false,
                is_due: false,
            });
            person.is_touched = true;
            person.changed = moment.at;
        }
    }

    /// A user begins a session, if they may, and gets a token.
    pub(crate) fn sign_in(&mut self, realm: usize, name: &str) {
        let began = self.moment(realm);
        let id = self.realms[realm].id("session");
        let kind = self.random.below(5);
        let person = self.person(realm, name);
        if !person.exists || !person.enabled {
            return;
        }
        self.log(|| format!("{} {name} signs in: {id}, kind {kind}", REALMS[realm]));
        if kind == 0 {
            self.issue(realm, name, None, began);
            return;
        }
        let session = Session { id: id.clone(), began };
        self.person(realm, name).sessions.push(session);
        let meaning = Meaning::SignedIn { user: name.to_owned(), session: id.clone(), is_new: kind >= 3 };
        self.tell(realm, Feed::User, began.issuer_ms, meaning);
        self.issue(realm, name, Some(id), began);
    }

    /// A user has a session renewed, or a browser shows that it still has it.
    pub(crate) fn refresh(&mut self, realm: usize, name: &str) {
        let (is_browser, number) = (self.random.chance(40), self.random.below(100));
        let now_ms = self.moment(realm).issuer_ms;
        let person = self.person(realm, name);
        if !person.exists || !person.enabled || person.sessions.is_empty() {
            return;
        }
        let session = person.sessions[number % person.sessions.len()].clone();
        self.log(|| format!("{} {name} refreshes {}", REALMS[realm], session.id));
        if is_browser {
            let meaning = Meaning::SignedIn { user: name.to_owned(), session: session.id.clone(), is_new: false };
            self.tell(realm, Feed::User, now_ms, meaning);
        }
        self.issue(realm, name, Some(session.id), session.began);
    }

    fn issue(&mut self, realm: usize, name: &str, session: Option<String>, began: crate::world::Moment) {
        let issued_s = i64::try_from(self.moment(realm).issuer_ms / 1000).unwrap();
        let id = self.realms[realm].id("token");
        let victim = self.random.below(TOKENS);
        let person = self.person(realm, name);
        if person.tokens.len() == TOKENS {
            person.tokens.remove(victim);
        }
        person.tokens.push(Token { id, session, began, issued_s, is_revoked: false, passed: None });
    }

    /// One session is ended.
    pub(crate) fn end_session(&mut self, realm: usize, name: &str) {
        let (now_ms, number) = (self.moment(realm).issuer_ms, self.random.below(100));
        let person = self.person(realm, name);
        if person.sessions.is_empty() {
            return;
        }
        let at = number % person.sessions.len();
        let session = person.sessions.remove(at).id;
        self.tell(realm, Feed::User, now_ms, Meaning::SessionEnded { user: Some(name.to_owned()), session });
    }
}

/// Makes a change, if nobody else is at it.
pub(crate) async fn change(world: Shared, realm: usize, name: String, change: Change) {
    let (began_issuer_ms, delay) = {
        let mut world = world.lock().unwrap();
        let person = world.person(realm, &name);
        let is_possible = match change {
            Change::Recreate => !person.exists,
            Change::Disable | Change::LockOut | Change::Enable | Change::Delete => person.exists,
        };
        if person.is_busy || !is_possible {
            return;
        }
        person.is_busy = true;
        let delay = world.commit_delay(realm);
        (world.moment(realm).issuer_ms, delay)
    };
    tokio::time::sleep(Duration::from_millis(delay)).await;
    world.lock().unwrap().commit(realm, &name, change, began_issuer_ms);
}

/// Disables, and enables again before long.
pub(crate) async fn blink(world: Shared, realm: usize, name: String, pause: Ms) {
    change(Arc::clone(&world), realm, name.clone(), Change::Disable).await;
    tokio::time::sleep(Duration::from_millis(pause)).await;
    change(world, realm, name, Change::Enable).await;
}
