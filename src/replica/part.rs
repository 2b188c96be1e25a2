//! One Secret of the shared state: read, adopted, put, watched.

use super::notes::{self, is_note};
use super::{Replica, ReplicaError};
use crate::base::clock::Now;
use crate::kubernetes::state::{Edit, Shard};
use crate::kubernetes::{Change, Version, Watch, Watched};
use crate::users::ShareError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Notify, mpsc};

/// How often a Secret is read although its watch tells of nothing.
const CONFIRM_EVERY: Duration = Duration::from_secs(60);

/// The pauses after failures in a row: the first, doubled until the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The longest that the server can make us wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Keys that are put with one write.
const BATCH: usize = 500;

#[derive(Default)]
pub(super) struct Part {
    /// Held by who reads or writes, until what came of it is adopted.
    mirror: Mutex<Mirror>,
    /// When it was read last, by the monotonic clock, plus one; 0: never.
    confirmed_ms: AtomicU64,
    wake: Notify,
}

/// What was read or written last.
#[derive(Default)]
struct Mirror {
    is_loaded: bool,
    /// `None`: written since it was read.
    version: Option<Version>,
    values: BTreeMap<String, Vec<u8>>,
    /// Keys that concern nobody any more.
    over: BTreeSet<String>,
}

impl Part {
    pub(super) fn confirmed_ms(&self) -> Option<u64> {
        self.confirmed_ms.load(Ordering::Relaxed).checked_sub(1)
    }

    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Whether a part has to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Read,
    Write,
}

impl Replica {
    /// Keeps a part read and written: for ever.
    pub(super) async fn run_part(self: Arc<Self>, index: usize, watch: Watch<Shard>) {
        let (to, changes) = mpsc::channel(4);
        tokio::join!(watch.run(to), self.work(index, changes));
    }

    async fn work(&self, index: usize, mut changes: mpsc::Receiver<Change<Shard>>) {
        let part = &self.parts[index];
        let mut due = Due::Read;
        let mut failures = 0_u32;
        loop {
            // What moved until now is looked at in this turn.
            let mut outbox = self.users.outbox_moves();
            match self.turn(index, due).await {
                Ok(()) => {
                    failures = 0;
                    self.note_success(index);
                    due = Due::Write;
                }
                Err(error) => {
                    self.note_failure(index, &error);
                    let pause = (FIRST_PAUSE * 2_u32.saturating_pow(failures.min(16))).min(LONGEST_PAUSE);
                    failures = failures.saturating_add(1);
                    let asked = if let ReplicaError::Kubernetes(error) = &error { error.retry_after() } else { None };
                    let pause = pause.max(asked.unwrap_or_default().min(LONGEST_WAIT));
                    // The watch goes on meanwhile, and waits if it has much to tell.
                    tokio::time::sleep(pause).await;
                    due = Due::Read;
                    continue;
                }
            }
            tokio::select! {
                biased;
                change = changes.recv() => match change {
                    Some(change) => due = self.due_after(index, &change).await,
                    None => return,
                },
                _ = outbox.recv() => {}
                () = part.wake.notified() => {}
                () = tokio::time::sleep(self.until_confirmation(index)) => due = Due::Read,
            }
        }
    }

    /// The parts are not read all at once.
    fn until_confirmation(&self, index: usize) -> Duration {
        let count = u32::try_from(self.parts.len()).unwrap_or(u32::MAX).max(1);
        CONFIRM_EVERY + CONFIRM_EVERY / count * u32::try_from(index).unwrap_or_default() / 4
    }

    async fn due_after(&self, index: usize, change: &Change<Shard>) -> Due {
        match change {
            // Told of what was just read.
            Change::Seen(shard) => {
                let mirror = self.parts[index].mirror.lock().await;
                if mirror.version.as_ref() == Some(shard.version()) { Due::Write } else { Due::Read }
            }
            Change::Synced => Due::Write,
            // The outage is noticed, or it is over already.
            Change::Gone { .. } | Change::Interrupted(_) => Due::Read,
        }
    }

    pub(super) async fn turn(&self, index: usize, due: Due) -> Result<(), ReplicaError> {
        if due == Due::Read {
            self.pull(index).await?;
        }
        while self.push(index).await? {}
        Ok(())
    }

    /// Reads a part, by a read that begins after this was called, and adopts what stands there.
    pub(super) async fn pull(&self, index: usize) -> Result<(), ReplicaError> {
        let part = &self.parts[index];
        let mut mirror = part.mirror.lock().await;
        let shard = self.state.read_part(index).await?;
        self.take(index, &mut mirror, shard)?;
        part.confirmed_ms.store(self.clock.now().monotonic_ms + 1, Ordering::Relaxed);
        let is_first = !std::mem::replace(&mut mirror.is_loaded, true);
        if is_first && self.loaded.fetch_add(1, Ordering::AcqRel) + 1 == self.parts.len() {
            self.users.loaded();
            tracing::info!("what other replicas know about users was read");
        }
        Ok(())
    }

    fn take(&self, index: usize, mirror: &mut Mirror, shard: Option<Shard>) -> Result<(), ReplicaError> {
        let version = shard.as_ref().map(|shard| shard.version().clone());
        let values: BTreeMap<String, Vec<u8>> =
            shard.iter().flat_map(Shard::pairs).map(|(key, value)| (key.to_owned(), value.to_vec())).collect();
        let is_news = |(key, value): &(&String, &Vec<u8>)| mirror.values.get(*key) != Some(*value);
        let news = values.iter().filter(is_news).map(|(key, value)| (key.clone(), value.clone()));
        let (noted, changed): (Vec<_>, Vec<_>) = news.partition(|(key, _)| is_note(key));
        match self.users.adopt(&changed) {
            Ok(adopted) => self.count_repairs(adopted.repaired),
            // It holds, and is stored with what is decided next.
            Err(ShareError::Store(_)) => {}
            Err(error) => return Err(error.into()),
        }
        for (key, _) in &noted {
            self.notes.seen(key);
        }
        let gone: Vec<String> = if mirror.is_loaded {
            mirror.values.keys().filter(|key| !values.contains_key(*key)).cloned().collect()
        } else {
            let is_here = |key: &String| self.state.part_of(key).is_ok_and(|part| part == index);
            self.users.known_keys().into_iter().filter(|key| !values.contains_key(key) && is_here(key)).collect()
        };
        let (noted, gone): (Vec<_>, Vec<_>) = gone.into_iter().partition(|key| is_note(key));
        noted.iter().for_each(|key| self.notes.gone(key));
        if !gone.is_empty() {
            self.count_repairs(self.users.restore(&gone)?);
        }
        let now = self.clock.now();
        for (key, value) in &values {
            if is_note(key) {
                self.notes.sweep(key, value, now);
            } else if self.users.is_over(key, value) {
                mirror.over.insert(key.clone());
            }
        }
        (mirror.version, mirror.values) = (version, values);
        Ok(())
    }

    fn count_repairs(&self, count: usize) {
        if count > 0 {
            self.counters.repairs.fetch_add(count as u64, Ordering::Relaxed);
            tracing::warn!(count, "shared knowledge about users was removed or put back by somebody, and is put again");
        }
    }

    /// Puts what is to be shared of a part. Whether there may be more.
    pub(super) async fn push(&self, index: usize) -> Result<bool, ReplicaError> {
        let mut mirror = self.parts[index].mirror.lock().await;
        let is_here = |key: &String| self.state.part_of(key).is_ok_and(|part| part == index);
        let keys = self.users.unshared().into_iter().chain(self.notes.due()).filter(is_here);
        let keys: Vec<String> = keys.chain(mirror.over.iter().cloned()).take(BATCH).collect();
        if keys.is_empty() {
            return Ok(false);
        }
        let now = self.clock.now();
        let mut put: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        let (mut conflicts, mut failed) = (BTreeSet::new(), None);
        let done = self.state.update_many(&keys, |key, found| {
            let (edit, after) = match self.edit(key, found, &mut conflicts, now) {
                Ok(edit) => edit,
                Err(error) => {
                    failed = Some(error);
                    (Edit::Keep, found.map(<[u8]>::to_vec))
                }
            };
            put.insert(key.to_owned(), after);
            edit
        });
        done.await?;
        self.counters.conflicts.fetch_add(conflicts.len() as u64, Ordering::Relaxed);
        mirror.version = None;
        mirror.over.clear();
        let mut shared = Vec::new();
        for (key, value) in put {
            if is_note(&key) {
                self.notes.written(&key, value.is_some());
            }
            match value {
                Some(value) => {
                    mirror.values.insert(key.clone(), value.clone());
                    shared.push((key, value));
                }
                None => {
                    mirror.values.remove(&key);
                }
            }
        }
        shared.retain(|(key, _)| !is_note(key));
        match self.users.adopt(&shared) {
            Ok(adopted) => self.count_repairs(adopted.repaired),
            Err(ShareError::Store(_)) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
        failed.map_or(Ok(keys.len() == BATCH), |error| Err(error.into()))
    }

    /// What is to become of a key, and what stands there after it.
    fn edit(
        &self,
        key: &str,
        found: Option<&[u8]>,
        conflicts: &mut BTreeSet<String>,
        now: Now,
    ) -> Result<(Edit, Option<Vec<u8>>), ShareError> {
        let kept = found.map(<[u8]>::to_vec);
        if is_note(key) {
            let is_to_go = self.notes.is_to_go(key);
            return Ok(match found {
                Some(_) if is_to_go => (Edit::Remove, None),
                None if !is_to_go => {
                    let value = notes::value(now);
                    (Edit::Put(value.clone()), Some(value))
                }
                _ => (Edit::Keep, kept),
            });
        }
        let Some(offer) = self.users.offer(key, found)? else {
            let is_over = found.is_some_and(|found| self.users.is_over(key, found));
            return Ok(if is_over { (Edit::Remove, None) } else { (Edit::Keep, kept) });
        };
        if offer.is_conflict {
            conflicts.insert(key.to_owned());
        }
        let edit = if offer.is_new { Edit::Put(offer.value.clone()) } else { Edit::Keep };
        Ok((edit, Some(offer.value)))
    }
}
