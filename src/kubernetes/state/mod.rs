//! What Postern itself must remember in a cluster: keys and values, spread over a few Secrets of Postern's own namespace.
//!
//! A value is changed by compare-and-swap: it is read, a closure decides, and the write is done only if the Secret is still as it was
//! read; else all of that again. So two replicas never lose what the other one wrote. A Secret holds at most 1 MiB, which is why there
//! are several; their number is fixed when they are made, and a State with another number refuses to read them.

mod entry;
mod shard;

pub use shard::Shard;

use super::call::Target;
use super::connect::Cluster;
use super::error::{KubernetesError, Write};
use super::version::Revision;
use super::watch::{Watch, Watched};
use entry::{Entries, Place};
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::Mutex;

/// The label that says which state a Secret is a part of.
pub const STATE_LABEL: &str = "postern.dev/state";

/// The label that says of how many parts.
pub const SHARDS_LABEL: &str = "postern.dev/state-shards";

/// How often a change is decided anew because others wrote meanwhile.
const ATTEMPTS: u32 = 10;

/// The pause after the first of them, doubled each time up to the 6th.
const PAUSE: Duration = Duration::from_millis(5);

/// The longest key, in bytes: as much as an issuer's name and a `sub` can be.
pub const LONGEST_KEY: usize = 2048;

/// What is to become of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// As it is.
    Keep,
    /// This, whatever it was.
    Put(Vec<u8>),
    /// Nothing.
    Remove,
}

/// Keys and values of one name.
pub struct State {
    cluster: Cluster,
    name: String,
    /// One a shard: those who write here wait for each other instead of trying again and again.
    writers: Vec<Mutex<()>>,
    /// One a shard: the latest that was read or written here.
    known: Vec<std::sync::Mutex<Revision>>,
}

impl State {
    /// The state `name`, in Secrets `NAME-0` to `NAME-(shards - 1)`, which are made when they are needed.
    ///
    /// # Errors
    /// [`KubernetesError::Invalid`] for a name that is none.
    pub fn new(cluster: Cluster, name: &str, shards: u16) -> Result<Self, KubernetesError> {
        let writers = (0..shards.max(1)).map(|_| Mutex::new(())).collect();
        let known = (0..shards.max(1)).map(|_| std::sync::Mutex::default()).collect();
        let state = Self { cluster, name: name.to_owned(), writers, known };
        state.target(0)?;
        Ok(state)
    }

    /// All keys and values, in no order.
    ///
    /// # Errors
    /// [`KubernetesError::Unexpected`] if a part is not as we write them: what cannot be read is never taken for empty.
    pub async fn load(&self) -> Result<Vec<(String, Vec<u8>)>, KubernetesError> {
        let mut all = Vec::new();
        for index in 0..self.writers.len() {
            all.extend(self.read_shard(index).await?.into_iter().flat_map(Shard::into_pairs));
        }
        Ok(all)
    }

    /// One value.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn read(&self, key: &str) -> Result<Option<Vec<u8>>, KubernetesError> {
        let place = self.place(key)?;
        let shard = self.read_shard(place.shard).await?;
        Ok(shard.and_then(|shard| shard.get(&place).map(<[u8]>::to_vec)))
    }

    /// Changes one value as `decide` says of what stands there, and gives what it said beside. `decide` runs again, on what stands
    /// there then, whenever others wrote meanwhile; only what it said last was done.
    ///
    /// # Errors
    /// [`KubernetesError::Conflict`] if others write without end. After an error that says so, the change may have been done: decide
    /// again.
    pub async fn update<R>(
        &self,
        key: &str,
        mut decide: impl FnMut(Option<&[u8]>) -> (Edit, R),
    ) -> Result<R, KubernetesError> {
        let place = self.place(key)?;
        let mut said = None;
        self.write(place.shard, |shard| {
            let (edit, beside) = decide(shard.get(&place));
            said = Some(beside);
            Entries::from([(place.clone(), edit)])
        })
        .await?;
        said.ok_or_else(|| self.unexpected(place.shard))
    }

    /// Changes several values, those of one Secret at once. What was done before an error stays done.
    ///
    /// # Errors
    /// As [`Self::update`].
    pub async fn update_many(
        &self,
        keys: &[String],
        mut decide: impl FnMut(&str, Option<&[u8]>) -> Edit,
    ) -> Result<(), KubernetesError> {
        let mut by_shard: Vec<Vec<Place>> = vec![Vec::new(); self.writers.len()];
        for key in keys {
            let place = self.place(key)?;
            by_shard[place.shard].push(place);
        }
        for (index, places) in by_shard.into_iter().enumerate().filter(|(_, places)| !places.is_empty()) {
            self.write(index, |shard| {
                places.iter().map(|place| (place.clone(), decide(&place.key, shard.get(place)))).collect()
            })
            .await?;
        }
        Ok(())
    }

    /// What any replica writes, as it happens: one watch for each part, in their order. Each is by name, since a right to list and
    /// to watch can be limited to names, and not to labels. What a watch tells may be older than what was read or written since.
    ///
    /// # Errors
    /// None that can happen.
    pub fn watches(&self) -> Result<Vec<Watch<Shard>>, KubernetesError> {
        let watch = |index| {
            let target = Target::list("api/v1", Some(self.cluster.namespace()), "secrets")?;
            let selector = format!("fieldSelector=metadata.name%3D{}", self.shard_name(index));
            Ok(Watch::new(&self.cluster, target, selector))
        };
        (0..self.parts()).map(watch).collect()
    }

    /// Whether a part that a watch told is older than what was read or written here since.
    pub fn is_behind(&self, index: usize, part: &Shard) -> bool {
        let known = self.known.get(index).map(|known| known.lock().unwrap_or_else(PoisonError::into_inner));
        known.is_some_and(|known| Watched::version(part).revision().is_before(&known))
    }

    /// Of how many parts it is.
    pub fn parts(&self) -> usize {
        self.writers.len()
    }

    /// In which part a key lies.
    ///
    /// # Errors
    /// [`KubernetesError::Invalid`] for a key that is none.
    pub fn part_of(&self, key: &str) -> Result<usize, KubernetesError> {
        self.place(key).map(|place| place.shard)
    }

    /// One part, as the server holds it now; `None` if it is not there.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn read_part(&self, index: usize) -> Result<Option<Shard>, KubernetesError> {
        self.read_shard(index).await
    }

    async fn write(&self, index: usize, mut decide: impl FnMut(&Shard) -> Entries) -> Result<(), KubernetesError> {
        let _alone = self.writers[index].lock().await;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(PAUSE * 2u32.pow(attempt.min(6))).await;
            }
            let found = self.read_shard(index).await?;
            let is_there = found.is_some();
            let shard = found.unwrap_or_default();
            let edits: Entries =
                decide(&shard).into_iter().filter(|(place, edit)| shard.is_changed_by(place, edit)).collect();
            if edits.is_empty() {
                return Ok(());
            }
            if !is_there {
                self.make_shard(index).await?;
                continue;
            }
            if let Write::Done(()) = self.patch(index, &shard, &edits).await? {
                return Ok(());
            }
        }
        Err(KubernetesError::Conflict { what: self.target(index)?.what().to_owned() })
    }

    /// Writes only what changes, and only if the Secret is still as it was read.
    async fn patch(&self, index: usize, shard: &Shard, edits: &Entries) -> Result<Write<()>, KubernetesError> {
        let target = self.target(index)?;
        let data: serde_json::Map<String, Value> =
            edits.iter().map(|(place, edit)| (place.slot.clone(), entry::encode(place, edit))).collect();
        let version = Watched::version(shard);
        let body =
            json!({ "metadata": { "uid": version.uid, "resourceVersion": version.resource_version }, "data": data });
        match self.cluster.merge::<core::Secret>(&target, &body).await {
            Ok(object) => {
                let written = self.check(index, object)?;
                if edits.iter().any(|(place, edit)| written.is_changed_by(place, edit)) {
                    return Err(KubernetesError::NotKept { what: target.what().to_owned() });
                }
                Ok(Write::Done(()))
            }
            // Deleted since it was read.
            Err(KubernetesError::NotFound { .. } | KubernetesError::Conflict { .. }) => Ok(Write::Stale),
            Err(error) => Err(error),
        }
    }

    async fn read_shard(&self, index: usize) -> Result<Option<Shard>, KubernetesError> {
        match self.cluster.get(&self.target(index)?).await {
            Ok(object) => self.check(index, object).map(Some),
            Err(KubernetesError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a part, empty. An apply, since a right to create by POST cannot be limited to a name; one that is there is left alone.
    async fn make_shard(&self, index: usize) -> Result<(), KubernetesError> {
        let labels = json!({ STATE_LABEL: self.name, SHARDS_LABEL: self.writers.len().to_string() });
        let metadata =
            json!({ "name": self.shard_name(index), "namespace": self.cluster.namespace(), "labels": labels });
        let body = json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata });
        self.cluster.apply::<core::Secret>(&self.target(index)?, &body, false).await.map(|_| ())
    }

    fn check(&self, index: usize, object: core::Secret) -> Result<Shard, KubernetesError> {
        let label = |name| object.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
        let shards = self.writers.len().to_string();
        if label(SHARDS_LABEL) != Some(shards.as_str()) || label(STATE_LABEL) != Some(self.name.as_str()) {
            let told = label(SHARDS_LABEL).unwrap_or("an unknown number of").to_owned();
            let message = format!("it is one of {told} parts, not of {shards}");
            return Err(KubernetesError::Invalid { what: self.target(index)?.what().to_owned(), message });
        }
        let shard = Shard::read(object)?;
        let revision = Watched::version(&shard).revision();
        let mut known = self.known[index].lock().unwrap_or_else(PoisonError::into_inner);
        if !revision.is_before(&known) {
            *known = revision;
        }
        drop(known);
        Ok(shard)
    }

    fn place(&self, key: &str) -> Result<Place, KubernetesError> {
        if key.is_empty() || key.len() > LONGEST_KEY {
            let message = format!("a key has 1 to {LONGEST_KEY} bytes");
            return Err(KubernetesError::Invalid { what: self.name.clone(), message });
        }
        Ok(Place::of(key, self.writers.len()))
    }

    fn shard_name(&self, index: usize) -> String {
        format!("{}-{index}", self.name)
    }

    fn target(&self, index: usize) -> Result<Target, KubernetesError> {
        Target::object("api/v1", Some(self.cluster.namespace()), "secrets", &self.shard_name(index))
    }

    fn unexpected(&self, index: usize) -> KubernetesError {
        KubernetesError::Unexpected { what: format!("secrets/{}/{}", self.cluster.namespace(), self.shard_name(index)) }
    }
}
