//! One part of what is shared, a Secret or a Redis: read, adopted, put, watched.

use super::carrier::{Extent, Reading, Seen};
use super::notes::{self, is_note};
use super::{Replica, ReplicaError};
use crate::base::clock::Now;
use crate::kubernetes::state::{Edit, Shard};
use crate::kubernetes::{Change, Watch, Watched};
use crate::redis::Position;
use crate::users::ShareError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::Instant;

/// The first pause after a failure, doubled after each further one until the carrier's longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest that the server can make us wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Keys that are put with one write.
const BATCH: usize = 500;

/// For so long after it was put, what stands in a Redis may yet be lost: another server takes over that had not heard of it, or
/// it was not on the disk.
const DOUBTED_MS: u64 = 10_000;

/// How many values of one key are remembered for that: the oldest and the newest.
const BEFORE_KEPT: usize = 16;

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
pub(super) struct Mirror {
    is_loaded: bool,
    /// `None`: it was not there, or was written since it was read.
    pub(super) seen: Option<Seen>,
    pub(super) values: BTreeMap<String, Vec<u8>>,
    /// The entries that were written into the log of a Redis since it was read: until they are seen there they may be lost.
    pub(super) written: Vec<Position>,
    /// When all of it was read, by the monotonic clock.
    pub(super) whole_ms: u64,
    /// Keys that concern nobody any more.
    over: BTreeSet<String>,
    /// What stood under keys before it was changed of late, the oldest first, and when it was changed. Kept for a Redis.
    before: BTreeMap<String, Vec<Before>>,
}

/// What stood somewhere, and when it was changed.
type Before = (Option<Vec<u8>>, u64);

impl Mirror {
    /// Something else stands there now.
    fn set(&mut self, key: String, value: Option<Vec<u8>>, now_ms: u64) {
        let old = match value {
            Some(value) => self.values.insert(key.clone(), value),
            None => self.values.remove(&key),
        };
        if self.is_loaded && matches!(self.seen, Some(Seen::Redis(_))) {
            let before = self.before.entry(key).or_default();
            before.push((old, now_ms));
            if before.len() > BEFORE_KEPT {
                before.remove(1);
            }
        }
    }
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
    pub(super) async fn run_part(self: Arc<Self>, index: usize, watch: Option<Watch<Shard>>) {
        let (to, changes) = mpsc::channel(4);
        let watching = async {
            match watch {
                Some(watch) => watch.run(to).await,
                // Nothing is told.
                None => to.closed().await,
            }
        };
        tokio::join!(watching, self.work(index, changes));
    }

    async fn work(&self, index: usize, mut changes: mpsc::Receiver<Change<Shard>>) {
        let part = &self.parts[index];
        let mut due = Due::Read;
        let mut failures = 0_u32;
        let mut read_at = Instant::now();
        loop {
            if due == Due::Read {
                read_at = Instant::now();
            }
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
                    let pause =
                        (FIRST_PAUSE * 2_u32.saturating_pow(failures.min(16))).min(self.carrier.longest_pause());
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
                // First, and since it was read: there may be something to write all the time.
                () = tokio::time::sleep_until(read_at + self.carrier.until_look(index)) => due = Due::Read,
                change = changes.recv() => match change {
                    Some(change) => due = self.due_after(index, &change).await,
                    None => return,
                },
                _ = outbox.recv() => {}
                () = part.wake.notified() => {}
            }
        }
    }

    async fn due_after(&self, index: usize, change: &Change<Shard>) -> Due {
        match change {
            // Told of what was just read.
            Change::Seen(shard) => {
                let mirror = self.parts[index].mirror.lock().await;
                let is_known = matches!(&mirror.seen, Some(Seen::Secret(version)) if version == shard.version());
                if is_known { Due::Write } else { Due::Read }
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
    async fn pull(&self, index: usize) -> Result<(), ReplicaError> {
        let part = &self.parts[index];
        let mut mirror = part.mirror.lock().await;
        let now = self.clock.now();
        let reading = self.carrier.read(index, &mirror, now.monotonic_ms).await?;
        self.take(index, &mut mirror, reading, now)?;
        part.confirmed_ms.store(self.clock.now().monotonic_ms + 1, Ordering::Relaxed);
        let is_first = !std::mem::replace(&mut mirror.is_loaded, true);
        if is_first && self.loaded.fetch_add(1, Ordering::AcqRel) + 1 == self.parts.len() {
            self.users.loaded();
            tracing::info!("what other replicas know about users was read");
        }
        Ok(())
    }

    fn take(&self, index: usize, mirror: &mut Mirror, reading: Reading, now: Now) -> Result<(), ReplicaError> {
        let Reading { seen, values, extent } = reading;
        if matches!(extent, Extent::Anew) && mirror.is_loaded {
            self.doubt(mirror, &values)?;
        }
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
        let gone: Vec<String> = match &extent {
            Extent::Changes { gone } => gone.clone(),
            Extent::Whole | Extent::Anew if mirror.is_loaded => {
                mirror.values.keys().filter(|key| !values.contains_key(*key)).cloned().collect()
            }
            Extent::Whole | Extent::Anew => {
                let is_here = |key: &String| self.carrier.part_of(key).is_ok_and(|part| part == index);
                self.users.known_keys().into_iter().filter(|key| !values.contains_key(key) && is_here(key)).collect()
            }
        };
        let (noted_gone, known_gone): (Vec<_>, Vec<_>) = gone.iter().cloned().partition(|key| is_note(key));
        noted_gone.iter().for_each(|key| self.notes.gone(key));
        if !known_gone.is_empty() {
            self.count_repairs(self.users.restore(&known_gone)?);
        }
        for (key, value) in &values {
            if is_note(key) {
                self.notes.sweep(key, value, now);
            } else if self.users.is_over(key, value) {
                mirror.over.insert(key.clone());
            }
        }
        mirror.before.retain(|_, before| {
            before.retain(|(_, at_ms)| at_ms.saturating_add(DOUBTED_MS) > now.monotonic_ms);
            !before.is_empty()
        });
        mirror.seen = seen;
        mirror.written.clear();
        if !matches!(extent, Extent::Changes { .. }) {
            mirror.whole_ms = now.monotonic_ms;
        }
        gone.into_iter().for_each(|key| mirror.set(key, None, now.monotonic_ms));
        for (key, value) in noted.into_iter().chain(changed) {
            mirror.set(key, Some(value), now.monotonic_ms);
        }
        Ok(())
    }

    /// What was put, or read, just before a Redis lost something is held to be not shared, unless it stands there still. It came from
    /// what stands there now, if that stood there of late; else from no later than what stood there first.
    fn doubt(&self, mirror: &Mirror, found: &BTreeMap<String, Vec<u8>>) -> Result<(), ReplicaError> {
        let mut doubted = Vec::new();
        for (key, before) in mirror.before.iter().filter(|(key, _)| !is_note(key)) {
            let found = found.get(key);
            if found != mirror.values.get(key) {
                let known = before.iter().find(|(value, _)| value.as_ref() == found).or(before.first());
                doubted.extend(known.map(|(value, _)| (key.clone(), value.clone())));
            }
        }
        if !doubted.is_empty() {
            tracing::warn!(count = doubted.len(), "redis may have lost what replicas shared of late; it is put again");
            self.users.doubt(&doubted)?;
        }
        Ok(())
    }

    fn count_repairs(&self, count: usize) {
        if count > 0 {
            self.counters.repairs.fetch_add(count as u64, Ordering::Relaxed);
            tracing::warn!(count, "shared knowledge about users was removed or put back by somebody, and is put again");
        }
    }

    /// Puts what is to be shared of a part. Whether there may be more.
    async fn push(&self, index: usize) -> Result<bool, ReplicaError> {
        let mut mirror = self.parts[index].mirror.lock().await;
        let is_here = |key: &String| self.carrier.part_of(key).is_ok_and(|part| part == index);
        let keys = self.users.unshared().into_iter().chain(self.notes.due()).filter(is_here);
        let keys: Vec<String> = keys.chain(mirror.over.iter().cloned()).take(BATCH).collect();
        if keys.is_empty() {
            return Ok(false);
        }
        let now = self.clock.now();
        let mut put: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        let (mut conflicts, mut failed) = (BTreeSet::new(), None);
        let done = self.carrier.update(&keys, |key, found| {
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
        mirror.written.extend(done.await?);
        self.counters.conflicts.fetch_add(conflicts.len() as u64, Ordering::Relaxed);
        // A Redis tells what was written here as it tells what others wrote.
        mirror.seen.take_if(|seen| matches!(seen, Seen::Secret(_)));
        mirror.over.clear();
        let mut shared = Vec::new();
        for (key, value) in put {
            if is_note(&key) {
                self.notes.written(&key, value.is_some());
            }
            if mirror.values.get(&key) != value.as_ref() {
                mirror.set(key.clone(), value.clone(), now.monotonic_ms);
            }
            shared.extend(value.map(|value| (key, value)));
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
