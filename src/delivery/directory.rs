//! What the token service recorded about users, as a gateway reads it: whose a namespace is, and what a token for them says.

use super::record::Record;
use crate::identity::Bulletin;
use crate::users::UserId;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// All users who are recorded. Read without waiting.
#[derive(Debug, Default)]
pub struct Directory {
    records: RwLock<HashMap<UserId, Arc<Record>>>,
}

impl Directory {
    /// What is recorded of a user.
    pub fn record(&self, user: &UserId) -> Option<Arc<Record>> {
        // Each change under this lock is whole in itself.
        self.records.read().unwrap_or_else(PoisonError::into_inner).get(user).cloned()
    }

    /// Takes up what is recorded of a user now, or that nothing is any more. The namespace is recorded in `bulletin` too.
    pub fn put(&self, user: &UserId, record: Option<Record>, bulletin: &Bulletin) {
        bulletin.record(user, record.as_ref().and_then(|record| record.namespace.as_deref()));
        let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
        match record {
            Some(record) => drop(records.insert(user.clone(), Arc::new(record))),
            None => drop(records.remove(user)),
        }
    }
}
