//! Notes that a user was seen with a valid token before their first sign-in was known: put by gateways, taken up by the token service.

use crate::base::clock::Now;
use crate::users::UserId;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// What their keys begin with.
const PREFIX: &str = "s/";

/// A note that nobody took up for so long is removed: the next token of that user makes another.
const KEPT_MS: u64 = 24 * 60 * 60 * 1000;

#[derive(Default)]
pub(super) struct Notes(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Those that stand in the shared state.
    shared: BTreeSet<String>,
    put: BTreeSet<String>,
    remove: BTreeSet<String>,
    listener: Option<mpsc::UnboundedSender<UserId>>,
}

pub(super) fn is_note(key: &str) -> bool {
    key.starts_with(PREFIX)
}

fn key(user: &UserId) -> String {
    format!("{PREFIX}{}/{}", user.issuer(), user.subject())
}

fn user(key: &str) -> Option<UserId> {
    let (issuer, subject) = key.strip_prefix(PREFIX)?.split_once('/')?;
    UserId::new(issuer, subject)
}

pub(super) fn value(now: Now) -> Vec<u8> {
    json!({ "at_ms": now.unix_ms }).to_string().into_bytes()
}

fn is_over(value: &[u8], now: Now) -> bool {
    let at_ms = serde_json::from_slice::<Value>(value).ok().and_then(|value| value.get("at_ms")?.as_u64());
    at_ms.unwrap_or_default().saturating_add(KEPT_MS) <= now.unix_ms
}

impl Notes {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key, if it is to be put.
    pub(super) fn add(&self, user: &UserId) -> Option<String> {
        let key = key(user);
        let mut inner = self.inner();
        (!inner.shared.contains(&key) && inner.put.insert(key.clone())).then_some(key)
    }

    /// The key, if it is to be removed.
    pub(super) fn forget(&self, user: &UserId) -> Option<String> {
        let key = key(user);
        let mut inner = self.inner();
        inner.put.remove(&key);
        (inner.shared.contains(&key) && inner.remove.insert(key.clone())).then_some(key)
    }

    pub(super) fn listen(&self) -> mpsc::UnboundedReceiver<UserId> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut inner = self.inner();
        for user in inner.shared.iter().filter_map(|key| user(key)) {
            let _ = sender.send(user);
        }
        inner.listener = Some(sender);
        receiver
    }

    /// Keys that are to be put or removed.
    pub(super) fn due(&self) -> Vec<String> {
        let inner = self.inner();
        inner.put.union(&inner.remove).cloned().collect()
    }

    pub(super) fn is_to_go(&self, key: &str) -> bool {
        self.inner().remove.contains(key)
    }

    /// It was written whether a key is there.
    pub(super) fn written(&self, key: &str, is_there: bool) {
        if is_there {
            self.seen(key);
        } else {
            self.gone(key);
        }
    }

    /// It stands in the shared state.
    pub(super) fn seen(&self, key: &str) {
        let mut inner = self.inner();
        inner.put.remove(key);
        if inner.shared.insert(key.to_owned())
            && let (Some(listener), Some(user)) = (&inner.listener, user(key))
        {
            // Nobody may be listening any more.
            let _ = listener.send(user);
        }
    }

    /// It does not any more.
    pub(super) fn gone(&self, key: &str) {
        let mut inner = self.inner();
        inner.shared.remove(key);
        inner.remove.remove(key);
    }

    /// Has a note removed that is too old to be taken up.
    pub(super) fn sweep(&self, key: &str, value: &[u8], now: Now) {
        if is_over(value, now) {
            self.inner().remove.insert(key.to_owned());
        }
    }
}
