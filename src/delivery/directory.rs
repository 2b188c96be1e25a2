//! What the token service recorded about users, as a gateway follows it: whose a namespace is (which the [`Bulletin`] is told), and what
//! a token for them says.

use super::record::Record;
use super::store::shared::{SHARDS, state, user_of};
use crate::identity::{Bulletin, Recorded};
use crate::kubernetes::state::Shard;
use crate::kubernetes::{Change, Cluster, KubernetesError};
use crate::users::UserId;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// All users who are recorded. Read without waiting; empty until it was told.
#[derive(Debug, Default)]
pub struct Directory {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    records: HashMap<UserId, Arc<Record>>,
    /// Whose records lie in which part.
    parts: HashMap<usize, HashSet<UserId>>,
    synced: HashSet<usize>,
}

impl Directory {
    /// What is recorded of a user.
    pub fn record(&self, user: &UserId) -> Option<Arc<Record>> {
        self.known().records.get(user).cloned()
    }

    /// Whether all that was recorded was told once. Before, nothing says that somebody has no namespace.
    pub fn is_whole(&self) -> bool {
        self.known().synced.len() == usize::from(SHARDS)
    }

    /// Follows for ever; dropping the future ends it. Each user's namespace is recorded in `bulletin` too.
    ///
    /// # Errors
    /// None that can happen.
    pub async fn follow(&self, cluster: Cluster, bulletin: &Bulletin) -> Result<(), KubernetesError> {
        let (mut tasks, (to, mut changes)) = (JoinSet::new(), mpsc::channel(SHARDS.into()));
        for (index, watch) in state(cluster)?.watches()?.into_iter().enumerate() {
            let (from, mut told) = mpsc::channel(1);
            let to = to.clone();
            tasks.spawn(watch.run(from));
            tasks.spawn(async move {
                while let Some(change) = told.recv().await {
                    if to.send((index, change)).await.is_err() {
                        return;
                    }
                }
            });
        }
        drop(to);
        while let Some((index, change)) = changes.recv().await {
            self.take_up(index, change, bulletin);
        }
        Ok(())
    }

    fn take_up(&self, index: usize, change: Change<Shard>, bulletin: &Bulletin) {
        let told = match change {
            Change::Seen(part) => part,
            Change::Synced => {
                self.change().synced.insert(index);
                return;
            }
            // Somebody deleted it. What was known is known still, and is stored again by who leads.
            Change::Gone { .. } => {
                self.change().parts.remove(&index);
                return;
            }
            Change::Interrupted(error) => {
                tracing::warn!(%error, "users' namespaces cannot be followed: what is known may be behind");
                return;
            }
        };
        let mut users = HashSet::new();
        for (key, value) in told.pairs() {
            let Some(user) = user_of(key) else { continue };
            // What cannot be read is not what was recorded before either.
            self.put(&user, serde_json::from_slice(value).ok(), bulletin);
            users.insert(user);
        }
        let before = self.change().parts.insert(index, users.clone()).unwrap_or_default();
        for user in before.into_iter().filter(|user| !users.contains(user)) {
            self.put(&user, None, bulletin);
        }
    }

    /// Takes up what is recorded of a user now, or that nothing is any more. The namespace is recorded in `bulletin` too.
    pub(super) fn put(&self, user: &UserId, record: Option<Record>, bulletin: &Bulletin) {
        bulletin.record(user, record.as_ref().and_then(Record::own_namespace));
        bulletin.note(user, record.as_ref().and_then(recorded));
        let records = &mut self.change().records;
        match record {
            Some(record) => drop(records.insert(user.clone(), Arc::new(record))),
            None => drop(records.remove(user)),
        }
    }

    fn change(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        // Each change under this lock is whole in itself.
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a token of a user for whom one is kept may say.
fn recorded(record: &Record) -> Option<Recorded> {
    let is_kept = record.has_signed_in && record.facts.enabled && record.gone.is_none() && !record.is_offboarded;
    let namespace = record.own_namespace().filter(|_| is_kept)?.to_owned();
    Some(Recorded { namespace, roles: record.facts.roles.clone(), groups: record.facts.groups.clone() })
}
