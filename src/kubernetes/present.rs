//! Which namespaces have their Secret, as a watch of the Secrets told: for those who must say so at once.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

/// Namespaces that have the Secret. Fed with what [`super::Watch::user_secrets`] tells.
#[derive(Debug, Default)]
pub struct Present(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    namespaces: HashSet<String>,
    is_known: bool,
}

impl Present {
    /// The Secret of this namespace is there ([`super::Change::Seen`]).
    pub fn seen(&self, namespace: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).namespaces.insert(namespace.to_owned());
    }

    /// It is not there ([`super::Change::Gone`]).
    pub fn gone(&self, namespace: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).namespaces.remove(namespace);
    }

    /// Whether all of them have been told ([`super::Change::Synced`]), or may have changed unseen ([`super::Change::Interrupted`]).
    pub fn set_known(&self, is_known: bool) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).is_known = is_known;
    }

    /// Whether the namespace has its Secret; `None` while that is not known.
    pub fn look(&self, namespace: &str) -> Option<bool> {
        let inner = self.0.read().unwrap_or_else(PoisonError::into_inner);
        inner.is_known.then(|| inner.namespaces.contains(namespace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_until_all_was_told() {
        let present = Present::default();
        present.seen("alice");
        assert_eq!(present.look("alice"), None);
        present.set_known(true);
        assert_eq!((present.look("alice"), present.look("bob")), (Some(true), Some(false)));
        present.gone("alice");
        assert_eq!(present.look("alice"), Some(false));
        present.set_known(false);
        assert_eq!(present.look("bob"), None);
    }
}
