//! Users, and what administrators, operators and they themselves do at Keycloak.

use super::world::{Ms, World};
use serde_json::Value;

/// What Keycloak tells of it.
#[derive(Debug, Clone)]
pub(crate) struct Happening {
    pub(crate) user: String,
    pub(crate) kind: Kind,
    pub(crate) at: Ms,
    /// From when on it is told.
    pub(crate) told: Ms,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Created,
    Disabled,
    Enabled,
    Deleted,
    Changed,
    SignedIn { session: String },
}

/// What is to be found where the user's token is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing: they never signed in.
    New,
    /// A token.
    In,
    /// Nothing: they are out, or have been and did not sign in since.
    Out,
}

pub(crate) struct Person {
    /// The name that they sign in with, and that of their namespace.
    pub(crate) name: String,
    pub(crate) exists: bool,
    pub(crate) enabled: bool,
    /// An operator's block holds.
    pub(crate) is_barred: bool,
    pub(crate) session: Option<(String, Ms)>,
    pub(crate) roles: Vec<String>,
    /// When the roles changed last.
    pub(crate) changed: Ms,
    /// When the last reason to be out ended.
    pub(crate) was_out: Option<Ms>,
    pub(crate) standing: Standing,
    /// Since when.
    pub(crate) since: Ms,
    /// Since `since` it was once as it is to be: from then on it stays so.
    pub(crate) is_settled: bool,
    /// They have been out, and nothing was emptied for it: Postern may not have heard of it yet, and is to empty it when it does.
    pub(crate) is_unheard: bool,
    /// When somebody last did something to what is theirs in the cluster.
    pub(crate) edited: Option<Ms>,
    /// When what their token is to say last changed.
    pub(crate) cause: Ms,
    /// The last fill.
    pub(crate) filled: Option<Filled>,
    /// The roles and the block epoch of that token.
    pub(crate) said: Option<(Value, Value)>,
    sign_ins: u32,
}

/// A token that was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filled {
    pub(crate) at: Ms,
    pub(crate) by: usize,
    /// When it was minted, at the latest: its writer may have been paused in between.
    pub(crate) minted: Ms,
}

impl Person {
    pub(crate) fn new(name: &str) -> (String, Self) {
        let person = Self {
            name: name.to_owned(),
            exists: true,
            enabled: true,
            is_barred: false,
            session: None,
            roles: vec!["reader".to_owned()],
            changed: 0,
            was_out: None,
            standing: Standing::New,
            since: 0,
            is_settled: false,
            is_unheard: false,
            edited: None,
            cause: 0,
            filled: None,
            said: None,
            sign_ins: 0,
        };
        (format!("id-{name}"), person)
    }

    pub(crate) fn is_out(&self) -> bool {
        !self.exists || !self.enabled || self.is_barred
    }

    fn stands(&self) -> Standing {
        let began = self.session.as_ref().map(|(_, began)| *began);
        match (self.is_out(), began, self.was_out) {
            (true, ..) => Standing::Out,
            (false, Some(began), ended) if ended.is_none_or(|ended| began > ended) => Standing::In,
            (false, _, Some(_)) => Standing::Out,
            (false, None, None) => Standing::New,
            (false, Some(_), None) => Standing::In,
        }
    }
}

impl World {
    /// Changes a user, and what follows from that.
    pub(crate) fn change(&mut self, id: &str, change: impl FnOnce(&mut Person)) {
        let now = self.now();
        let person = self.people.get_mut(id).unwrap();
        let was_out = person.is_out();
        change(person);
        if was_out && !person.is_out() {
            person.was_out = Some(now);
        }
        let standing = person.stands();
        if standing != person.standing {
            (person.standing, person.since, person.is_settled, person.cause) = (standing, now, false, now);
            person.is_unheard |= standing == Standing::Out;
            self.counts.blocks += u64::from(standing == Standing::Out);
            self.log(|| format!("{id} is {standing:?}"));
        }
    }

    /// Keycloak tells of it, soon.
    fn tell(&mut self, id: &str, kind: Kind) {
        let at = self.now();
        let told = at + self.luck.between(0, 400);
        self.log(|| format!("{id}: {kind:?}"));
        self.happenings.push(Happening { user: id.to_owned(), kind, at, told });
    }

    pub(crate) fn sign_in(&mut self, id: &str) {
        let now = self.now();
        let person = &self.people[id];
        // Clocks of seconds tell nothing within one.
        let is_soon = person.was_out.is_some_and(|ended| now < ended + 3_000);
        if !person.exists || !person.enabled || is_soon {
            return;
        }
        let session = format!("{id}-session-{}", person.sign_ins + 1);
        self.change(id, |person| {
            person.sign_ins += 1;
            person.session = Some((session.clone(), now));
        });
        self.tell(id, Kind::SignedIn { session });
    }

    pub(crate) fn set_enabled(&mut self, id: &str, enabled: bool) {
        let person = &self.people[id];
        if !person.exists || person.enabled == enabled {
            return;
        }
        self.change(id, |person| person.enabled = enabled);
        self.tell(id, if enabled { Kind::Enabled } else { Kind::Disabled });
    }

    pub(crate) fn delete(&mut self, id: &str) {
        if self.people[id].exists {
            self.change(id, |person| person.exists = false);
            self.tell(id, Kind::Deleted);
        }
    }

    pub(crate) fn create(&mut self) {
        let (id, mut person) = Person::new(&format!("user-{}", self.people.len()));
        person.since = self.now();
        self.people.insert(id.clone(), person);
        self.tell(&id, Kind::Created);
    }

    pub(crate) fn change_roles(&mut self, id: &str) {
        let now = self.now();
        if !self.people[id].exists {
            return;
        }
        self.change(id, |person| {
            let is_writer = person.roles.iter().any(|role| role == "writer");
            person.roles =
                if is_writer { vec!["reader".to_owned()] } else { vec!["reader".to_owned(), "writer".to_owned()] };
            (person.changed, person.cause) = (now, now);
        });
        self.tell(id, Kind::Changed);
    }
}
