//! What is kept of users, in one file: written whole or not at all, on the disk before it is acted on, read once at the start.
//!
//! Keys are names as they are, values are JSON: a member that this version does not know is passed over. What cannot be read is an
//! error; nothing is ever begun anew in its place.

use super::{Kept, REMOVALS_KEPT_MS, StoreError, Write};
use crate::delivery::record::Record;
use crate::users::UserId;
use redb::backends::{FileBackend, InMemoryBackend};
use redb::{Database, ReadableDatabase, ReadableTable, StorageError, TableDefinition};
use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The version of what is laid down here. A change that an older version would misread gets the next number.
const FORMAT: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// By (issuer's name, `sub`).
const RECORDS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("records");
/// Users who were removed: when, in milliseconds since 1970, and who.
const REMOVALS: TableDefinition<'_, (u64, &str, &str), ()> = TableDefinition::new("removals");

const FORMAT_KEY: &str = "format";

/// The whole is in memory anyway.
const PAGE_CACHE: usize = 4 * 1024 * 1024;

/// The file, held by this process alone.
#[derive(Debug)]
pub struct FileStore {
    /// `None`: in memory.
    path: Option<PathBuf>,
    /// `None` after a failure: it is opened again by the next write.
    database: Option<Database>,
}

impl FileStore {
    /// Opens the file, or makes it with its folder, and reads all of it.
    ///
    /// # Errors
    /// [`StoreError`] names it.
    pub fn open(path: &Path) -> Result<(Self, Kept), StoreError> {
        let failed = |source: redb::Error| StoreError::File { path: path.to_owned(), source: Box::new(source) };
        let database = open(path).map_err(failed)?;
        begin(&database).map_err(failed)?;
        let kept = read(&database).map_err(failed)?;
        Ok((Self { path: Some(path.to_owned()), database: Some(database) }, kept))
    }

    /// One that is gone with the process.
    ///
    /// # Errors
    /// None that is known.
    pub fn in_memory() -> Result<Self, StoreError> {
        let failed = |source: redb::Error| StoreError::File { path: PathBuf::new(), source: Box::new(source) };
        let database =
            Database::builder().create_with_backend(InMemoryBackend::new()).map_err(|error| failed(error.into()))?;
        begin(&database).map_err(failed)?;
        Ok(Self { path: None, database: Some(database) })
    }

    /// Writes all or nothing; when it returns, the disk has it.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was written, as far as is known.
    pub fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let outcome = self.try_commit(writes);
        if outcome.is_err() && self.path.is_some() {
            self.database = None;
        }
        let path = self.path.clone().unwrap_or_default();
        outcome.map_err(|source| StoreError::File { path, source: Box::new(source) })
    }

    fn try_commit(&mut self, writes: &[Write]) -> Result<(), redb::Error> {
        let database = match (&mut self.database, &self.path) {
            (Some(database), _) => database,
            (closed @ None, Some(path)) => closed.insert(open(path)?),
            (None, None) => return Err(io::Error::other("it is closed").into()),
        };
        write(database, writes)
    }
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let backend = FileBackend::new(file)?;
    Ok(Database::builder().set_cache_size(PAGE_CACHE).create_with_backend(backend)?)
}

fn begin(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get(FORMAT_KEY)?.map(|format| format.value());
        match found {
            Some(FORMAT) => {}
            None => drop(meta.insert(FORMAT_KEY, FORMAT)?),
            Some(found) => {
                let what = format!("it has format {found}; this version of postern reads {FORMAT}");
                return Err(StorageError::Corrupted(what).into());
            }
        }
        transaction.open_table(RECORDS)?;
        transaction.open_table(REMOVALS)?;
    }
    transaction.commit()?;
    Ok(())
}

fn read(database: &Database) -> Result<Kept, redb::Error> {
    let transaction = database.begin_read()?;
    let mut kept = Kept::default();
    for entry in transaction.open_table(RECORDS)?.iter()? {
        let (key, value) = entry?;
        let (issuer, subject) = key.value();
        let wrong = |what: String| StorageError::Corrupted(format!("`{}`: {what}", subject.escape_debug()));
        let user = UserId::new(issuer, subject).ok_or_else(|| wrong("no user".into()))?;
        let record = serde_json::from_slice(value.value()).map_err(|error| wrong(error.to_string()))?;
        kept.records.push((user, record));
    }
    for entry in transaction.open_table(REMOVALS)?.iter()? {
        kept.removals.push(entry?.0.value().0);
    }
    Ok(kept)
}

fn write(database: &Database, writes: &[Write]) -> Result<(), redb::Error> {
    let json = |record: &Record| serde_json::to_vec(record).map_err(io::Error::from);
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        let mut removals = transaction.open_table(REMOVALS)?;
        for write in writes {
            match write {
                Write::Put { user, record, .. } => {
                    records.insert((&**user.issuer(), &**user.subject()), &*json(record)?)?;
                }
                Write::Removed { user, unix_ms, left, .. } => {
                    let key = (&**user.issuer(), &**user.subject());
                    match left {
                        Some(record) => drop(records.insert(key, &*json(record)?)?),
                        None => drop(records.remove(key)?),
                    }
                    removals.retain(|(at_ms, _, _), ()| at_ms.saturating_add(REMOVALS_KEPT_MS) > *unix_ms)?;
                    removals.insert((*unix_ms, key.0, key.1), ())?;
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(subject: &str) -> UserId {
        UserId::new("main", subject).unwrap()
    }

    fn record() -> Record {
        Record { namespace: Some("alice".into()), has_signed_in: true, read_unix_ms: 5, ..Record::default() }
    }

    fn put(subject: &str) -> Write {
        Write::Put { user: user(subject), record: Box::new(record()), base: None }
    }

    fn removed(subject: &str, unix_ms: u64, left: Option<Record>) -> Write {
        Write::Removed { user: user(subject), unix_ms, left: left.map(Box::new), base: None }
    }

    #[test]
    fn it_is_all_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/delivery.redb");
        let odd = "f:1:a/../b\n\0\"";
        {
            let (mut store, kept) = FileStore::open(&path).unwrap();
            assert!(kept.records.is_empty());
            store.commit(&[put("1"), put(odd), put("gone"), put("kept")]).unwrap();
            let left = Record { is_offboarded: true, ..record() };
            store.commit(&[removed("gone", 1000, None), removed("kept", 1001, Some(left))]).unwrap();
        }
        let (_store, kept) = FileStore::open(&path).unwrap();
        let found: Vec<_> = kept.records.iter().map(|(user, record)| (&**user.subject(), record.clone())).collect();
        let left = Record { is_offboarded: true, ..record() };
        assert_eq!(found, [("1", record()), (odd, record()), ("kept", left)]);
        assert_eq!(kept.removals, [1000, 1001]);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_another_version_wrote_is_not_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("delivery.redb");
        drop(FileStore::open(&path).unwrap());
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert(FORMAT_KEY, 9).unwrap();
        transaction.commit().unwrap();
        drop(database);
        let error = FileStore::open(&path).unwrap_err();
        let source = std::error::Error::source(&error).unwrap();
        assert!(source.to_string().contains("format 9"), "{error:?}");
    }

    #[test]
    fn old_removals_are_forgotten() {
        let mut store = FileStore::in_memory().unwrap();
        store.commit(&[removed("1", 1000, None), removed("2", 1000 + REMOVALS_KEPT_MS, None)]).unwrap();
        let kept = read(store.database.as_ref().unwrap()).unwrap();
        assert_eq!(kept.removals, [1000 + REMOVALS_KEPT_MS]);
    }
}
