//! What is still to be delivered, and to whom something would have to be told: a file of its own beside that of the users.
//!
//! One transaction takes over what was decided and queues what follows from it, so a process that is killed in between
//! finds the rest to be done when it comes back ([`super::tell`]).

mod tables;

pub(in crate::endpoints::events) use tables::Tables;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Security event tokens that wait, by client and number: when they were made, in seconds since 1970, and their claims.
const QUEUE: TableDefinition<'_, (&str, u64), (i64, &[u8])> = TableDefinition::new("queue");

/// For whom a token was minted, by (`orig_iss`, `sub`, `aud`): when the last one dies, and the user's block epoch as it was told.
const HOLDERS: TableDefinition<'_, (&str, &str, &str), (i64, u64)> = TableDefinition::new("holders");

/// Who was told that an account is disabled, by (`orig_iss`, `sub`, `aud`): whether they were told that it awaits a sign-in.
const DISABLED: TableDefinition<'_, (&str, &str, &str), bool> = TableDefinition::new("disabled");

/// Ended sessions that were told, by (issuer's name, `sid`): until when they have to be remembered, in milliseconds.
const ENDED: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("ended");

/// `id` of this outbox and `next` number.
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");

/// The most tokens that wait for one client.
const MAX_WAITING: u64 = 100_000;

/// How long a token waits, in seconds.
const KEPT: i64 = 24 * 60 * 60;

/// The most that is remembered of accounts that were told to be disabled. Of more, the end is not told.
const MAX_DISABLED: u64 = 100_000;

/// What of the file is kept in memory at most, in bytes.
const PAGE_CACHE: usize = 16 * 1024 * 1024;

/// The store.
pub(in crate::endpoints::events) struct Outbox {
    db: Database,
    /// Makes `jti`s of one outbox differ from those of any other.
    id: u64,
    /// The most tokens that wait for one client; of more, the oldest go.
    most: u64,
    /// How many tokens wait for each client. Held by the one change that is under way.
    waiting: Mutex<BTreeMap<Box<str>, u64>>,
}

/// Why the outbox cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the outbox of security events cannot be used")]
pub struct OutboxError(#[from] Box<redb::Error>);

/// Who may have to be told.
pub(in crate::endpoints::events) type Holder = (String, String, String);

/// Some of what waits for a client.
#[derive(Debug, Default, PartialEq)]
pub(in crate::endpoints::events) struct Page {
    /// `jti` and claims, in order.
    pub(in crate::endpoints::events) sets: Vec<(String, Vec<u8>)>,
    /// Whether there is more.
    pub(in crate::endpoints::events) has_more: bool,
}

/// What a change did to the queues.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::endpoints::events) struct Tally {
    /// Tokens queued.
    pub(in crate::endpoints::events) queued: u64,
    /// Tokens that were never acknowledged, and gave way or were too old.
    pub(in crate::endpoints::events) dropped: u64,
}

fn failed(error: impl Into<redb::Error>) -> OutboxError {
    OutboxError(Box::new(error.into()))
}

impl Outbox {
    /// Opens the file, which is made if it is not there.
    pub(in crate::endpoints::events) fn open(path: &Path) -> Result<Self, OutboxError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|error| failed(StorageError::from(error)))?;
        let backend = FileBackend::new(file).map_err(failed)?;
        Self::with(
            Database::builder().set_cache_size(PAGE_CACHE).create_with_backend(backend).map_err(failed)?,
            MAX_WAITING,
        )
    }

    /// One that is gone with the process.
    pub(in crate::endpoints::events) fn in_memory() -> Result<Self, OutboxError> {
        Self::with(Database::builder().create_with_backend(InMemoryBackend::new()).map_err(failed)?, MAX_WAITING)
    }

    fn with(db: Database, most: u64) -> Result<Self, OutboxError> {
        let mut outbox = Self { db, id: 0, most, waiting: Mutex::default() };
        let mut random = [0; 8];
        // Without random bytes it is still unique enough for its receivers, who see one outbox.
        let _ = aws_lc_rs::rand::fill(&mut random);
        outbox.id = outbox.change(|tables| {
            let known = tables.numbers.get("id")?.map(|id| id.value());
            let id = known.unwrap_or(u64::from_ne_bytes(random));
            tables.numbers.insert("id", id)?;
            for entry in tables.queue.iter()? {
                *tables.waiting.entry(entry?.0.value().0.into()).or_default() += 1;
            }
            Ok(id)
        })?;
        Ok(outbox)
    }

    /// Makes one durable change: all of it, or nothing.
    pub(in crate::endpoints::events) fn change<T>(
        &self,
        change: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, OutboxError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = self.db.begin_write().map_err(failed)?;
        let mut tables = Tables {
            queue: transaction.open_table(QUEUE).map_err(failed)?,
            holders: transaction.open_table(HOLDERS).map_err(failed)?,
            disabled: transaction.open_table(DISABLED).map_err(failed)?,
            ended: transaction.open_table(ENDED).map_err(failed)?,
            numbers: transaction.open_table(NUMBERS).map_err(failed)?,
            waiting: waiting.clone(),
            tally: Tally::default(),
            id: self.id,
            most: self.most,
        };
        let outcome = change(&mut tables).map_err(failed)?;
        let changed = std::mem::take(&mut tables.waiting);
        drop(tables);
        transaction.commit().map_err(failed)?;
        *waiting = changed;
        Ok(outcome)
    }

    /// The oldest tokens that wait for a client.
    pub(in crate::endpoints::events) fn waiting_for(&self, client: &str, most: usize) -> Result<Page, OutboxError> {
        let read = || -> Result<Page, redb::Error> {
            let queue = self.db.begin_read()?.open_table(QUEUE)?;
            let mut page = Page::default();
            for entry in queue.range((client, 0)..=(client, u64::MAX))? {
                if page.sets.len() == most {
                    page.has_more = true;
                    break;
                }
                let (key, value) = entry?;
                page.sets.push((jti(self.id, key.value().1), value.value().1.to_vec()));
            }
            Ok(page)
        };
        read().map_err(failed)
    }

    /// Forgets tokens that a client has; gives how many there were. Others are not touched, whatever `jti` is said.
    pub(in crate::endpoints::events) fn acknowledge(&self, client: &str, jtis: &[String]) -> Result<u64, OutboxError> {
        let numbers: Vec<_> = jtis.iter().filter_map(|jti| number(self.id, jti)).collect();
        if numbers.is_empty() {
            return Ok(0);
        }
        self.change(|tables| {
            let mut removed = 0;
            for number in numbers {
                removed += u64::from(tables.queue.remove((client, number))?.is_some());
            }
            tables.lower(client, removed);
            Ok(removed)
        })
    }

    /// How many tokens wait, by client.
    pub(in crate::endpoints::events) fn waiting(&self) -> BTreeMap<Box<str>, u64> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn jti(id: u64, number: u64) -> String {
    format!("{id:016x}-{number}")
}

/// The number in a `jti` of this outbox, in the one spelling it has.
fn number(id: u64, text: &str) -> Option<u64> {
    let number = text.rsplit('-').next()?.parse().ok()?;
    (jti(id, number) == text).then_some(number)
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn push(outbox: &Outbox, client: &str, count: usize, now: i64) -> Tally {
        let change = |tables: &mut Tables<'_>| {
            for _ in 0..count {
                tables.push(client, json!({}), now)?;
            }
            Ok(tables.tally)
        };
        outbox.change(change).unwrap()
    }

    #[test]
    fn what_waits_comes_in_order_until_its_own_client_acknowledges_it() {
        let outbox = Outbox::in_memory().unwrap();
        push(&outbox, "orders", 5, 1);
        push(&outbox, "billing", 1, 1);
        let page = outbox.waiting_for("orders", 3).unwrap();
        assert_eq!((page.sets.len(), page.has_more), (3, true));
        assert_eq!(page, outbox.waiting_for("orders", 3).unwrap());
        let jtis: Vec<_> = page.sets.iter().map(|(jti, _)| jti.clone()).collect();
        let claims: Value = serde_json::from_slice(&page.sets[0].1).unwrap();
        assert_eq!(claims["jti"], *jtis[0]);
        assert_eq!(outbox.acknowledge("billing", &jtis).unwrap(), 0);
        assert_eq!(outbox.acknowledge("orders", &jtis[1..2]).unwrap(), 1);
        let left = outbox.waiting_for("orders", 100).unwrap();
        assert_eq!((left.sets.len(), left.has_more, &left.sets[0].0), (4, false, &jtis[0]));
        for odd in ["", "-", "1", "x-1", &jtis[0].to_uppercase(), &format!("{}-01", &jtis[0][..16])] {
            assert_eq!(outbox.acknowledge("orders", &[odd.to_owned()]).unwrap(), 0, "{odd}");
        }
        assert_eq!(outbox.waiting().into_iter().collect::<Vec<_>>(), [("billing".into(), 1), ("orders".into(), 4)]);
    }

    #[test]
    fn it_is_all_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.redb");
        let before = {
            let outbox = Outbox::open(&path).unwrap();
            push(&outbox, "orders", 2, 1);
            outbox.change(|tables| tables.note(("iss", "alice", "orders"), 100, 7, 1)).unwrap();
            outbox.waiting_for("orders", 9).unwrap()
        };
        let outbox = Outbox::open(&path).unwrap();
        assert_eq!(outbox.waiting_for("orders", 9).unwrap(), before);
        assert_eq!(outbox.waiting().get("orders"), Some(&2));
        let holders = outbox.change(|tables| tables.holders("iss", "alice", 99)).unwrap();
        assert_eq!(holders, [(("iss".into(), "alice".into(), "orders".into()), 7)]);
        push(&outbox, "orders", 1, 1);
        let jtis: Vec<_> = outbox.waiting_for("orders", 9).unwrap().sets.into_iter().map(|(jti, _)| jti).collect();
        assert!(jtis[2] != jtis[0] && jtis[2] != jtis[1]);
    }

    #[test]
    fn of_too_many_the_oldest_go_and_after_a_day_all() {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let outbox = Outbox::with(db, 500).unwrap();
        push(&outbox, "orders", 500, 1);
        let first = outbox.waiting_for("orders", 1).unwrap().sets[0].0.clone();
        assert_eq!(push(&outbox, "orders", 1, 2), Tally { queued: 1, dropped: 1 });
        assert_ne!(outbox.waiting_for("orders", 1).unwrap().sets[0].0, first);
        assert_eq!(outbox.waiting()["orders"], 500);
        let sweep = |now| {
            outbox.change(|tables| {
                tables.sweep(|client| client == "orders", now)?;
                Ok(tables.tally.dropped)
            })
        };
        assert_eq!(sweep(KEPT).unwrap(), 0);
        assert_eq!(sweep(KEPT + 1).unwrap(), 499);
        assert_eq!((outbox.waiting()["orders"], sweep(KEPT + 2).unwrap()), (1, 1));
    }

    #[test]
    fn only_those_with_a_living_token_are_holders() {
        let outbox = Outbox::in_memory().unwrap();
        let count = |issuer, subject, now| outbox.change(|tables| tables.holders(issuer, subject, now)).unwrap().len();
        outbox
            .change(|tables| {
                for (user, audience) in [("alice", "orders"), ("alice", "billing"), ("bob", "orders")] {
                    tables.note(("iss", user, audience), 100, 0, 1)?;
                }
                tables.note(("other", "alice", "orders"), 200, 0, 1)?;
                // A token that was minted earlier and dies earlier takes nothing away.
                tables.note(("iss", "alice", "orders"), 50, 3, 1)
            })
            .unwrap();
        assert_eq!([count("iss", "alice", 99), count("iss", "al", 99), count("other", "alice", 99)], [2, 0, 1]);
        assert_eq!([count("iss", "", 99), count("", "", 99), count("", "", 100)], [3, 4, 1]);
    }
}
