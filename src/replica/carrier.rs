//! What carries what replicas share: Secrets of a cluster, or a Redis. Each is read, is changed by compare-and-swap, and may tell of
//! changes. What follows from them is the same.

use super::ReplicaError;
use super::part::Mirror;
use crate::kubernetes::state::{Edit, Shard, State};
use crate::kubernetes::{Version, Watch, Watched};
use crate::redis::{Look, Position, RedisError, Shelf, Swap, Swapped};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a Secret is read although its watch tells of nothing.
const CONFIRM_EVERY: Duration = Duration::from_secs(60);

/// How often Redis is asked what was changed. This is all that others hear: there is no message that could be lost.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How often everything in Redis is read, whatever its log says: somebody may have changed a value by hand.
const WHOLE_EVERY_MS: u64 = 10 * 60 * 1000;

/// The longest pause after failures in a row.
const LONGEST_PAUSE_SECRETS: Duration = Duration::from_secs(5);
const LONGEST_PAUSE_REDIS: Duration = Duration::from_millis(500);

/// How often a change is decided anew because others came first.
const ATTEMPTS: usize = 10;

/// Through what replicas share.
pub enum Carrier {
    /// Secrets of Postern's own namespace, each a part.
    Secrets(State),
    /// A Redis: one part.
    Redis(Shelf),
}

impl From<State> for Carrier {
    fn from(state: State) -> Self {
        Self::Secrets(state)
    }
}

impl From<Shelf> for Carrier {
    fn from(shelf: Shelf) -> Self {
        Self::Redis(shelf)
    }
}

/// In which state a part was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Secret(Version),
    Redis(Position),
}

/// What was read of a part.
pub(super) struct Reading {
    /// `None`: it is not there.
    pub(super) seen: Option<Seen>,
    /// What stands there.
    pub(super) values: BTreeMap<String, Vec<u8>>,
    pub(super) extent: Extent,
}

/// How much of a part was read.
pub(super) enum Extent {
    /// All of it.
    Whole,
    /// All of it, and it may be that what was read or written before was lost.
    Anew,
    /// What was changed since it was read last; these are not there any more.
    Changes { gone: Vec<String> },
}

impl Carrier {
    /// Of how many parts it is.
    pub(super) fn parts(&self) -> usize {
        match self {
            Self::Secrets(state) => state.parts(),
            Self::Redis(_) => 1,
        }
    }

    /// In which part a key lies.
    pub(super) fn part_of(&self, key: &str) -> Result<usize, ReplicaError> {
        match self {
            Self::Secrets(state) => Ok(state.part_of(key)?),
            Self::Redis(_) => Ok(0),
        }
    }

    /// What tells of changes, for each part.
    pub(super) fn watches(&self) -> Result<Vec<Option<Watch<Shard>>>, ReplicaError> {
        match self {
            Self::Secrets(state) => Ok(state.watches()?.into_iter().map(Some).collect()),
            Self::Redis(_) => Ok(vec![None]),
        }
    }

    /// When a part is to be read although nothing told of a change. Not all are read at once.
    pub(super) fn until_look(&self, index: usize) -> Duration {
        match self {
            Self::Secrets(state) => {
                let count = u32::try_from(state.parts()).unwrap_or(u32::MAX).max(1);
                CONFIRM_EVERY + CONFIRM_EVERY / count * u32::try_from(index).unwrap_or_default() / 4
            }
            Self::Redis(_) => LOOK_EVERY,
        }
    }

    pub(super) fn longest_pause(&self) -> Duration {
        match self {
            Self::Secrets(_) => LONGEST_PAUSE_SECRETS,
            Self::Redis(_) => LONGEST_PAUSE_REDIS,
        }
    }

    /// Reads a part, by a read that begins now.
    pub(super) async fn read(&self, index: usize, mirror: &Mirror, now_ms: u64) -> Result<Reading, ReplicaError> {
        match self {
            Self::Secrets(state) => {
                let shard = state.read_part(index).await?;
                let pairs = shard.iter().flat_map(Shard::pairs);
                let values = pairs.map(|(key, value)| (key.to_owned(), value.to_vec())).collect();
                let seen = shard.as_ref().map(|shard| Seen::Secret(shard.version().clone()));
                Ok(Reading { seen, values, extent: Extent::Whole })
            }
            Self::Redis(shelf) => Ok(read_shelf(shelf, mirror, now_ms).await?),
        }
    }

    /// Changes what stands under keys as `decide` says of it, which runs again whenever others came first. Gives what a Redis has to
    /// remember of it.
    pub(super) async fn update(
        &self,
        keys: &[String],
        decide: impl FnMut(&str, Option<&[u8]>) -> Edit,
    ) -> Result<Vec<Position>, ReplicaError> {
        match self {
            Self::Secrets(state) => {
                state.update_many(keys, decide).await?;
                Ok(Vec::new())
            }
            Self::Redis(shelf) => Ok(update_shelf(shelf, keys, decide).await?),
        }
    }
}

async fn read_shelf(shelf: &Shelf, mirror: &Mirror, now_ms: u64) -> Result<Reading, RedisError> {
    let mut extent = Extent::Anew;
    if let Some(Seen::Redis(position)) = &mirror.seen
        && let Some((position, changed)) = changes(shelf, position, mirror).await?
    {
        if now_ms.saturating_sub(mirror.whole_ms) < WHOLE_EVERY_MS {
            let gone = changed.iter().filter(|(_, value)| value.is_none()).map(|(key, _)| key.clone()).collect();
            let values = changed.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            return Ok(Reading { seen: Some(Seen::Redis(position)), values, extent: Extent::Changes { gone } });
        }
        extent = Extent::Whole;
    }
    // What is changed while everything is read is told by the next look, which begins before it.
    let position = match shelf.look(None, &[]).await? {
        Look::Anew(position) | Look::Since { position, .. } => position,
    };
    Ok(Reading { seen: Some(Seen::Redis(position)), values: shelf.all().await?, extent })
}

/// What stands under keys; `None`: nothing any more.
type Changed = BTreeMap<String, Option<Vec<u8>>>;

/// What was changed since `position`. `None`: that cannot be told.
async fn changes(
    shelf: &Shelf,
    position: &Position,
    mirror: &Mirror,
) -> Result<Option<(Position, Changed)>, RedisError> {
    let (mut position, mut all, known) = (position.clone(), Changed::new(), &mirror.values);
    loop {
        let look = shelf.look(Some(&position), &mirror.written).await?;
        let Look::Since { position: next, changed, count, has_more } = look else { return Ok(None) };
        position = next;
        all.extend(changed);
        if has_more {
            continue;
        }
        let added = all.iter().filter(|(key, value)| value.is_some() && !known.contains_key(*key)).count();
        let removed = all.iter().filter(|(key, value)| value.is_none() && known.contains_key(*key)).count();
        // Else something was taken away beside the log: by hand, or to make room.
        let is_whole = known.len() + added == count + removed;
        return Ok(is_whole.then_some((position, all)));
    }
}

async fn update_shelf(
    shelf: &Shelf,
    keys: &[String],
    mut decide: impl FnMut(&str, Option<&[u8]>) -> Edit,
) -> Result<Vec<Position>, RedisError> {
    let mut written = Vec::new();
    let mut left: Vec<_> = keys.iter().cloned().zip(shelf.get(keys).await?).collect();
    for _ in 0..ATTEMPTS {
        let mut swaps = Vec::with_capacity(left.len());
        for (key, found) in left {
            let put = match decide(&key, found.as_deref()) {
                Edit::Keep => continue,
                Edit::Put(value) => Some(value),
                Edit::Remove => None,
            };
            swaps.push(Swap { key, found, put });
        }
        let Swapped { stale, last } = shelf.put(&swaps).await?;
        written.extend(last);
        if stale.is_empty() {
            return Ok(written);
        }
        left = stale.into_iter().filter_map(|(at, found)| Some((swaps.get(at)?.key.clone(), found))).collect();
    }
    Err(RedisError::Conflict(left.into_iter().map(|(key, _)| key).next().unwrap_or_default()))
}
