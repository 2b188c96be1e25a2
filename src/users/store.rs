//! What is known, in one file: written whole or not at all, on the disk before anything follows from it, read once at the start.
//!
//! Keys are names as they are, values are JSON: a member that this version does not know is passed over, so going back one
//! version loses a detail and no block. Whatever cannot be read is an error; nothing is ever begun anew in its place.

use super::memory::{By, ClusterRecord, IssuerRecord, Memory, Refusal, TokenKey, Write};
use super::share::{Key, Outbox, Sharing, Stored, Value};
use super::state::Record;
use super::terms::UserId;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The version of what is laid down here. A change that an older version would misread gets the next number.
const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const USERS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("users");
const TOKENS: TableDefinition<'_, (&str, &str, &str), &[u8]> = TableDefinition::new("tokens");
const ISSUERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("issuers");
const CLUSTER: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("cluster");
const POSITIONS: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("positions");
/// By the keys as they are shared. Made when it is needed.
const UNSHARED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("unshared");

/// The only keys of their tables.
const FORMAT_KEY: &str = "format";
const CLUSTER_KEY: &str = "switch";
/// In the table of the format: that what was decided is in `UNSHARED` or shared.
const SHARED_KEY: &str = "shared";

/// The whole is in memory anyway.
const PAGE_CACHE: usize = 4 * 1024 * 1024;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds it.
    #[error("`{}` is in use by another process", .0.display())]
    InUse(PathBuf),
    /// It is not what was written.
    #[error("`{}` is damaged: {what}; restore it from a copy, or move it away to begin with nothing known", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Another version of Postern wrote it.
    #[error("`{}` has format {found}; this version of postern reads {FORMAT}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// It cannot be opened or made.
    #[error("`{}` cannot be opened", .path.display())]
    Open {
        /// The file or its folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// It cannot be written.
    #[error("`{}` cannot be written", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
}

/// The file, held by this process alone.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    /// `None` after a failure: it is opened again by the next write.
    database: Option<Database>,
    /// To be written with the next write: what may wait, and what could not be written.
    pending: Vec<Write>,
    /// Whether the last write failed.
    is_failing: bool,
}

impl Store {
    /// Opens the file, or makes it with its folder, and reads all of it.
    pub(super) fn open(path: &Path) -> Result<(Self, Memory), StoreError> {
        let failed = |error: io::Error| open_error(path, DatabaseError::Storage(StorageError::Io(error)));
        if !path.try_exists().map_err(failed)? {
            make(path)?;
            tracing::info!(path = %path.display(), "nothing is known about users yet: a new store was made");
        }
        let database = open(path)?;
        let memory = read(&database, path)?;
        Ok((Self { path: path.to_owned(), database: Some(database), pending: Vec::new(), is_failing: false }, memory))
    }

    /// Writes all or nothing; when it returns, the disk has it.
    pub(super) fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() && self.pending.is_empty() {
            return Ok(());
        }
        let outcome = self.try_commit(writes);
        match &outcome {
            Ok(()) => {
                self.pending.clear();
                self.is_failing = false;
            }
            Err(error) => {
                // Said once when it begins, not once a second.
                if !self.is_failing {
                    tracing::error!(%error, "what is decided about users cannot be stored");
                }
                self.is_failing = true;
                self.database = None;
            }
        }
        outcome
    }

    fn try_commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let database = match &mut self.database {
            Some(database) => database,
            closed => closed.insert(open(&self.path)?),
        };
        let written = write(database, self.pending.iter().chain(writes));
        written.map_err(|source| StoreError::Write { path: self.path.clone(), source: Box::new(source) })
    }

    /// Writes this with the next commit.
    pub(super) fn later(&mut self, writes: Vec<Write>) {
        for write in writes {
            let is_same = |known: &Write| match (known, &write) {
                (Write::Position { issuer: i, feed: f, .. }, Write::Position { issuer, feed, .. }) => {
                    (i, f) == (issuer, feed)
                }
                (Write::User(known, _), Write::User(user, _)) => known == user,
                _ => false,
            };
            self.pending.retain(|known| !is_same(known));
            self.pending.push(write);
        }
    }

    /// As after a failed write.
    #[cfg(test)]
    pub(super) fn close(&mut self) {
        self.database = None;
    }

    /// Whether everything that was decided is on the disk.
    pub(super) fn is_sound(&self) -> bool {
        !self.is_failing
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // What is lost here is where a feed is read from, and it is read from a little earlier.
        let _ = self.commit(&[]);
    }
}

/// Makes a file with nothing in it beside its place and then puts it there: it is whole or not there at all.
fn make(path: &Path) -> Result<(), StoreError> {
    let failed = |error: io::Error| open_error(path, DatabaseError::Storage(StorageError::Io(error)));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let made = folder.join(name);
    let outcome = fill(&made).map_err(|error| StoreError::Open { path: made.clone(), source: Box::new(error) });
    // Unlike a rename, this never takes the place of a file that another process made meanwhile.
    let outcome = outcome.and_then(|()| match std::fs::hard_link(&made, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        Ok(()) | Err(_) => Ok(()),
    });
    let removed = std::fs::remove_file(&made);
    outcome?;
    removed.and_then(|()| File::open(folder)?.sync_all()).map_err(failed)
}

fn fill(path: &Path) -> Result<(), redb::Error> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let database = Database::builder().create_with_backend(FileBackend::new(file)?)?;
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    transaction.open_table(USERS)?;
    transaction.open_table(TOKENS)?;
    transaction.open_table(ISSUERS)?;
    transaction.open_table(CLUSTER)?;
    transaction.open_table(POSITIONS)?;
    transaction.commit()?;
    Ok(())
}

/// Opens a file that is there. Its checksums are checked, since it is small and a bit that fell over must not let anybody in.
fn open(path: &Path) -> Result<Database, StoreError> {
    let mut builder = Database::builder();
    builder.set_check_integrity_on_open(true).set_cache_size(PAGE_CACHE);
    builder.open(path).map_err(|error| open_error(path, error))
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    let is_content = |kind| matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof);
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => StoreError::InUse(path),
        DatabaseError::Storage(StorageError::Corrupted(what)) => StoreError::Damaged { path, what },
        DatabaseError::Storage(StorageError::Io(error)) if is_content(error.kind()) => {
            StoreError::Damaged { path, what: error.to_string() }
        }
        DatabaseError::RepairAborted => StoreError::Damaged { path, what: "it cannot be repaired".into() },
        other => StoreError::Open { path, source: Box::new(other.into()) },
    }
}

/// One transaction, synced to the disk before this returns.
fn write<'a>(database: &Database, writes: impl Iterator<Item = &'a Write>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut users = transaction.open_table(USERS)?;
        let mut tokens = transaction.open_table(TOKENS)?;
        let mut issuers = transaction.open_table(ISSUERS)?;
        let mut cluster = transaction.open_table(CLUSTER)?;
        let mut positions = transaction.open_table(POSITIONS)?;
        let mut unshared = transaction.open_table(UNSHARED)?;
        for write in writes {
            match write {
                Write::User(user, record) => {
                    users.insert((&**user.issuer(), &**user.subject()), &*json(record)?)?;
                }
                Write::ForgetUser(user) => {
                    users.remove((&**user.issuer(), &**user.subject()))?;
                }
                Write::Refuse(key, refusal) => {
                    tokens.insert((&*key.issuer, key.by.word(), &*key.id), &*json(refusal)?)?;
                }
                Write::Accept(key) => {
                    tokens.remove((&*key.issuer, key.by.word(), &*key.id))?;
                }
                Write::Issuer(issuer, record) => {
                    issuers.insert(&**issuer, &*json(record)?)?;
                }
                Write::Cluster(record) => {
                    cluster.insert(CLUSTER_KEY, &*json(record)?)?;
                }
                Write::Position { issuer, feed, at_ms } => {
                    positions.insert((&**issuer, &**feed), at_ms)?;
                }
                Write::Sharing => {
                    transaction.open_table(META)?.insert(SHARED_KEY, 1)?;
                }
                Write::NotSharing => {
                    transaction.open_table(META)?.remove(SHARED_KEY)?;
                    unshared.retain(|_, _| false)?;
                }
                Write::Unshared(key, base) => {
                    unshared.insert(&*key.text(), &*json(&Stored::of(key, base.as_ref())?)?)?;
                }
                Write::Shared(key) => {
                    unshared.remove(&*key.text())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, io::Error> {
    serde_json::to_vec(value).map_err(io::Error::from)
}

/// Everything that the file holds.
fn read(database: &Database, path: &Path) -> Result<Memory, StoreError> {
    let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
    let format = format(database).map_err(|error| damaged(error.to_string()))?;
    match format {
        Some(FORMAT) => {}
        Some(found) => return Err(StoreError::Format { path: path.to_owned(), found }),
        None => return Err(damaged("it has no format".into())),
    }
    let mut memory = Memory::default();
    read_tables(database, &mut memory).map_err(|error| damaged(error.to_string()))?;
    Ok(memory)
}

fn format(database: &Database) -> Result<Option<u64>, redb::Error> {
    let table = database.begin_read()?.open_table(META)?;
    Ok(table.get(FORMAT_KEY)?.map(|format| format.value()))
}

fn read_tables(database: &Database, memory: &mut Memory) -> Result<(), redb::Error> {
    let transaction = database.begin_read()?;
    for entry in transaction.open_table(USERS)?.iter()? {
        let (key, value) = entry?;
        let (issuer, subject) = key.value();
        let user = UserId::new(issuer, subject).ok_or_else(|| wrong("users", subject))?;
        memory.apply(Write::User(user, parse::<Record>("users", value.value())?));
    }
    for entry in transaction.open_table(TOKENS)?.iter()? {
        let (key, value) = entry?;
        let (issuer, by, id) = key.value();
        let by = By::parse(by).ok_or_else(|| wrong("tokens", by))?;
        let key = TokenKey { issuer: issuer.into(), by, id: id.into() };
        memory.apply(Write::Refuse(key, parse::<Refusal>("tokens", value.value())?));
    }
    for entry in transaction.open_table(ISSUERS)?.iter()? {
        let (key, value) = entry?;
        memory.apply(Write::Issuer(key.value().into(), parse::<IssuerRecord>("issuers", value.value())?));
    }
    if let Some(value) = transaction.open_table(CLUSTER)?.get(CLUSTER_KEY)? {
        memory.apply(Write::Cluster(parse::<ClusterRecord>("cluster", value.value())?));
    }
    for entry in transaction.open_table(POSITIONS)?.iter()? {
        let (key, value) = entry?;
        let (issuer, feed) = key.value();
        let (issuer, feed): (Arc<str>, Arc<str>) = (issuer.into(), feed.into());
        memory.apply(Write::Position { issuer, feed, at_ms: value.value() });
    }
    if transaction.open_table(META)?.get(SHARED_KEY)?.is_some() {
        memory.sharing = Sharing::Was(Outbox::new());
        for entry in transaction.open_table(UNSHARED)?.iter()? {
            let (text, value) = entry?;
            let (key, base) = parse::<Stored>("unshared", value.value())?.read(text.value())?;
            memory.apply(Write::Unshared(key, base));
        }
    }
    Ok(())
}

/// An entry of the outbox.
impl Stored {
    fn of(key: &Key, base: Option<&Value>) -> Result<Self, io::Error> {
        let base = base.map(|base| serde_json::from_slice(&base.encode(key))).transpose()?;
        Ok(Self { id: key.hidden_id().map(str::to_owned), base })
    }

    fn read(self, text: &str) -> Result<(Key, Option<Value>), io::Error> {
        let key = Key::parse(text, self.id.as_deref()).ok_or_else(|| wrong("unshared", text))?;
        let base = self.base.map(|base| Value::parse(&key, base).ok_or_else(|| wrong("unshared", text))).transpose()?;
        Ok((key, base))
    }
}

fn wrong(table: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("table `{table}`: `{}`", what.escape_debug()))
}

fn parse<T: DeserializeOwned>(table: &str, value: &[u8]) -> Result<T, io::Error> {
    serde_json::from_slice(value).map_err(|error| wrong(table, &error.to_string()))
}
