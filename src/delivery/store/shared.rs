//! What is kept of users, in Secrets of Postern's own namespace. One replica writes, the one that leads; all follow.
//!
//! Keys are `u/ISSUER/SUBJECT` and `removals`, values are JSON. A write names what it was decided on: what a replica that leads no more
//! has still to say never stands in the place of what its successor wrote.

use super::{REMOVALS_KEPT_MS, StoreError, Stored, Write};
use crate::delivery::record::{Record, gist_of};
use crate::kubernetes::state::{Edit, State};
use crate::kubernetes::{Cluster, KubernetesError};
use crate::users::UserId;
use std::collections::HashMap;
use std::fmt;
use std::io;

/// The name of the state.
pub const NAME: &str = "postern-delivery";

/// Among how many Secrets it is spread. 10,000 users take a third of the room.
pub const SHARDS: u16 = 16;

/// The key of the times at which users were removed.
pub const REMOVALS: &str = "removals";

/// The state.
pub struct SharedStore(State);

impl fmt::Debug for SharedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedStore").finish_non_exhaustive()
    }
}

/// The state in a cluster, for whoever follows it.
///
/// # Errors
/// None that can happen.
pub fn state(cluster: Cluster) -> Result<State, KubernetesError> {
    State::new(cluster, NAME, SHARDS)
}

/// Whose record lies under a key.
pub fn user_of(key: &str) -> Option<UserId> {
    let (issuer, subject) = key.strip_prefix("u/")?.split_once('/')?;
    UserId::new(issuer, subject)
}

fn key_of(user: &UserId) -> String {
    format!("u/{}/{}", user.issuer(), user.subject())
}

/// What is to be put, and what it was decided on.
struct Wanted {
    user: UserId,
    value: Option<Vec<u8>>,
    base: Option<u64>,
}

impl SharedStore {
    /// The state of this name.
    pub fn new(state: State) -> Self {
        Self(state)
    }

    /// The state.
    pub fn state(&self) -> &State {
        &self.0
    }

    pub(super) async fn commit(&self, writes: Vec<Write>) -> Result<Vec<(UserId, Stored)>, StoreError> {
        let mut wanted = HashMap::new();
        let mut removed_ms = Vec::new();
        for write in writes {
            let (user, record, base) = match write {
                Write::Put { user, record, base } => (user, Some(record), base),
                Write::Removed { user, unix_ms, left, base } => {
                    removed_ms.push(unix_ms);
                    (user, left, base)
                }
            };
            let value = record.map(|record| encode(&record)).transpose()?;
            wanted.insert(key_of(&user), Wanted { user, value, base });
        }
        let keys: Vec<_> = wanted.keys().cloned().collect();
        let mut told = HashMap::new();
        let decide = |key: &str, found: Option<&[u8]>| {
            let Some(wanted) = wanted.get(key) else { return Edit::Keep };
            let (edit, stored) = decide(wanted, found);
            told.insert(wanted.user.clone(), stored);
            edit
        };
        self.0.update_many(&keys, decide).await?;
        if !removed_ms.is_empty() {
            self.0.update(REMOVALS, |found| (note(found, &removed_ms), ())).await?;
        }
        Ok(told.into_iter().collect())
    }
}

fn encode(record: &Record) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|error| StoreError::Broken(io::Error::from(error)))
}

fn decide(wanted: &Wanted, found: Option<&[u8]>) -> (Edit, Stored) {
    let done = Stored::Done(wanted.value.as_deref().map(gist_of));
    match (found, &wanted.value) {
        // An earlier try, of which no answer came.
        (found, value) if found == value.as_deref() => (Edit::Keep, done),
        (Some(found), _) if wanted.base != Some(gist_of(found)) => (Edit::Keep, Stored::Superseded(found.to_vec())),
        (_, Some(value)) => (Edit::Put(value.clone()), done),
        (_, None) => (Edit::Remove, done),
    }
}

fn note(found: Option<&[u8]>, removed_ms: &[u64]) -> Edit {
    let mut all = removals(found.unwrap_or_default());
    all.extend(removed_ms);
    let latest_ms = all.iter().copied().max().unwrap_or(0);
    all.retain(|at_ms| at_ms.saturating_add(REMOVALS_KEPT_MS) > latest_ms);
    serde_json::to_vec(&all).map_or(Edit::Keep, Edit::Put)
}

/// The times at which users were removed.
pub fn removals(value: &[u8]) -> Vec<u64> {
    serde_json::from_slice(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_replica_wrote_stays_and_what_was_asked_twice_is_done_once() {
        let user = UserId::new("main", "f:1/a").unwrap();
        assert_eq!(user_of(&key_of(&user)), Some(user.clone()));
        let wanted = |value: &str, base: &str| Wanted {
            user: user.clone(),
            value: Some(value.into()),
            base: (!base.is_empty()).then(|| gist_of(base.as_bytes())),
        };
        let superseded = |found: &str| (Edit::Keep, Stored::Superseded(found.into()));
        let done = |edit| (edit, Stored::Done(Some(gist_of(b"new"))));
        assert_eq!(decide(&wanted("new", "old"), Some(b"old")), done(Edit::Put(b"new".to_vec())));
        assert_eq!(decide(&wanted("new", "old"), Some(b"new")), done(Edit::Keep));
        assert_eq!(decide(&wanted("new", "old"), Some(b"theirs")), superseded("theirs"));
        assert_eq!(decide(&wanted("new", ""), Some(b"theirs")), superseded("theirs"));
        // Somebody deleted the Secret: what still matters is put again.
        assert_eq!(decide(&wanted("new", "old"), None), done(Edit::Put(b"new".to_vec())));
        let gone = Wanted { value: None, ..wanted("", "old") };
        assert_eq!(decide(&gone, Some(b"old")), (Edit::Remove, Stored::Done(None)));
    }

    #[test]
    fn old_removals_are_forgotten() {
        let day = 24 * 60 * 60 * 1000;
        let Edit::Put(first) = note(None, &[5, day]) else { panic!("not put") };
        let Edit::Put(second) = note(Some(&first), &[7 * day + 5]) else { panic!("not put") };
        assert_eq!(removals(&second), [day, 7 * day + 5]);
    }
}
