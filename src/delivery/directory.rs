//! What a gateway knows of users' namespaces: followed from what the token service records.

use super::record::Record;
use super::store::shared::{SHARDS, state, user_of};
use crate::identity::{Bulletin, Recorded};
use crate::kubernetes::state::Shard;
use crate::kubernetes::{Change, Cluster, KubernetesError};
use crate::users::UserId;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Users, and whose which namespace is. Read without waiting; empty until it was told.
#[derive(Debug, Default)]
pub struct Directory {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    records: HashMap<UserId, Arc<Record>>,
    /// More than one if two replicas led: then it is nobody's.
    owners: HashMap<String, BTreeSet<UserId>>,
    /// Whose records lie in which part.
    parts: HashMap<usize, HashSet<UserId>>,
    synced: HashSet<usize>,
}

impl Directory {
    /// Whose a namespace is, if it is one user's.
    pub fn user_of(&self, namespace: &str) -> Option<UserId> {
        let known = self.known();
        let owners = known.owners.get(namespace)?;
        owners.first().filter(|_| owners.len() == 1).cloned()
    }

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
                self.known.write().unwrap_or_else(PoisonError::into_inner).synced.insert(index);
                return;
            }
            // Somebody deleted it. What was known is known still, and is stored again by who leads.
            Change::Gone(_) => {
                self.known.write().unwrap_or_else(PoisonError::into_inner).parts.remove(&index);
                return;
            }
            Change::Interrupted(error) => {
                tracing::warn!(%error, "users' namespaces cannot be followed: what is known may be behind");
                return;
            }
        };
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let mut users = HashSet::new();
        for (key, value) in told.pairs() {
            let Some(user) = user_of(key) else { continue };
            // What cannot be read is not what was recorded before either.
            let record = serde_json::from_slice::<Record>(value).ok().map(Arc::new);
            bulletin.record(&user, record.as_ref().and_then(|record| record.namespace.as_deref()));
            bulletin.note(&user, record.as_deref().and_then(recorded));
            known.put(&user, record);
            users.insert(user);
        }
        let before = known.parts.insert(index, users.clone()).unwrap_or_default();
        for user in before.into_iter().filter(|user| !users.contains(user)) {
            bulletin.record(&user, None);
            bulletin.note(&user, None);
            known.put(&user, None);
        }
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        // Each change under this lock is whole in itself.
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn put(&mut self, user: &UserId, record: Option<Arc<Record>>) {
        let before = match &record {
            Some(record) => self.records.insert(user.clone(), Arc::clone(record)),
            None => self.records.remove(user),
        };
        if let Some(name) = before.as_ref().and_then(|before| before.namespace.as_ref())
            && let Some(owners) = self.owners.get_mut(name)
        {
            owners.remove(user);
            if owners.is_empty() {
                self.owners.remove(name);
            }
        }
        if let Some(name) = record.as_ref().and_then(|record| record.namespace.clone()) {
            self.owners.entry(name).or_default().insert(user.clone());
        }
    }
}

/// What a token of a user for whom one is kept may say.
fn recorded(record: &Record) -> Option<Recorded> {
    let is_kept = record.has_signed_in && record.facts.enabled && record.gone.is_none() && !record.is_offboarded;
    let namespace = record.namespace.clone().filter(|_| is_kept)?;
    Some(Recorded { namespace, roles: record.facts.roles.clone(), groups: record.facts.groups.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_two_users_are_said_to_have_is_nobodys() {
        let directory = Directory::default();
        let user = |subject: &str| UserId::new("main", subject).unwrap();
        let record = |name: &str| Some(Arc::new(Record { namespace: Some(name.to_owned()), ..Record::default() }));
        directory.known.write().unwrap().put(&user("1"), record("alice"));
        assert_eq!(directory.user_of("alice"), Some(user("1")));
        directory.known.write().unwrap().put(&user("2"), record("alice"));
        assert_eq!(directory.user_of("alice"), None);
        directory.known.write().unwrap().put(&user("1"), record("bob"));
        assert_eq!((directory.user_of("alice"), directory.user_of("bob")), (Some(user("2")), Some(user("1"))));
        directory.known.write().unwrap().put(&user("2"), None);
        assert_eq!((directory.user_of("alice"), directory.record(&user("2"))), (None, None));
    }
}
