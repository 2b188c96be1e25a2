//! What is kept of users: in a file of this process, or in Secrets that all replicas share.

mod file;
pub mod shared;

pub use file::FileStore;
pub use shared::SharedStore;

use super::record::Record;
use crate::kubernetes::KubernetesError;
use crate::users::UserId;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file.
    #[error("`{}` cannot be used", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// The Secrets.
    #[error(transparent)]
    Shared(#[from] KubernetesError),
    /// What was to be stored is nothing that can be, or the writer broke off.
    #[error("what is known of users cannot be written down")]
    Broken(#[source] io::Error),
}

/// What a store held.
#[derive(Debug, Default)]
pub struct Kept {
    /// Users.
    pub records: Vec<(UserId, Record)>,
    /// When users were removed, in milliseconds since 1970.
    pub removals: Vec<u64>,
}

/// One thing to be stored.
#[derive(Debug, Clone)]
pub enum Write {
    /// What is known of a user.
    Put {
        /// Of whom.
        user: UserId,
        /// What.
        record: Box<Record>,
        /// The gist of what stood there last, as far as this process knows. Where others write too, something else is left alone.
        base: Option<u64>,
    },
    /// What was a user's is removed, at this time, in milliseconds since 1970.
    Removed {
        /// Whose.
        user: UserId,
        /// When.
        unix_ms: u64,
        /// What of them is still known; `None`: nothing.
        left: Option<Box<Record>>,
        /// As above.
        base: Option<u64>,
    },
}

/// What came of a write, for one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// It stands there, with this gist where others write too.
    Done(Option<u64>),
    /// Another replica wrote something else meanwhile, which stays.
    Superseded(Vec<u8>),
}

/// A store. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Store {
    /// Of this process alone.
    File(Arc<Mutex<FileStore>>),
    /// Of all replicas.
    Shared(Arc<SharedStore>),
}

/// Removals are remembered for so long: longer than they are counted.
const REMOVALS_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;

impl Store {
    /// Whether it is told when facts were read: a file is written often anyway.
    pub fn counts_reads(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Writes, and tells what came of it for whom. A file takes all or nothing; of Secrets what was done before an error stays done.
    ///
    /// # Errors
    /// [`StoreError`]: it is not known of anything that it was written.
    pub async fn commit(&self, writes: Vec<Write>) -> Result<Vec<(UserId, Stored)>, StoreError> {
        match self {
            Self::Shared(shared) => shared.commit(writes).await,
            Self::File(file) => {
                let file = Arc::clone(file);
                let commit = move || {
                    file.lock().unwrap_or_else(PoisonError::into_inner).commit(&writes)?;
                    Ok(writes.into_iter().map(|write| (write.into_user(), Stored::Done(None))).collect())
                };
                let ended = tokio::task::spawn_blocking(commit).await;
                ended.unwrap_or_else(|error| Err(StoreError::Broken(io::Error::other(error))))
            }
        }
    }
}

impl Write {
    fn into_user(self) -> UserId {
        match self {
            Self::Put { user, .. } | Self::Removed { user, .. } => user,
        }
    }
}
