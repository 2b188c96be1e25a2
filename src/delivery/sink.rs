//! Where readers find their tokens.

use super::files::Files;
use super::record::{Held, Seen, digest_of};
use super::secrets::UserSecrets;
use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::kubernetes::{KubernetesError, Version};
use crate::token_service::Said;
use crate::users::UserId;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where tokens are put. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Sink {
    /// In this process alone, for `GET /token`.
    Memory(Arc<Memory>),
    /// In files.
    Files(Arc<Files>),
    /// In Secrets of a cluster.
    Secrets(UserSecrets),
}

/// By user.
#[derive(Debug, Default)]
pub struct Memory(Mutex<HashMap<UserId, Secret>>);

/// What is there, and in which state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What a reader finds.
    pub content: Content,
    /// What the next write of it is decided on; `None` where there is nothing, or nothing that has states.
    pub stand: Option<Stand>,
}

/// What a reader finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Absent,
    /// It is there, and empty.
    Empty,
    /// A text.
    Text(Secret),
    /// Something that Postern never wrote.
    Foreign,
}

/// One state of what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// Which.
    pub version: Version,
    /// The user's block epoch when it was written.
    pub epoch: u64,
    /// What is wrong with it beside its text.
    pub flaw: Option<Flaw>,
}

/// What others did to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// It does not say whose it is, or says something else.
    Unmarked,
    /// The key is gone in which tokens lie.
    Keyless,
    /// Others have set what is ours to set.
    Held,
    /// Nothing can be written into it: it must go first.
    Fixed,
}

/// What is to be written for a user.
#[derive(Debug, Clone)]
pub struct Order {
    /// For whom.
    pub id: UserId,
    /// Where, in a cluster.
    pub namespace: Option<String>,
    /// A token; `None`: nothing is to be found.
    pub token: Option<Secret>,
    /// The user's block epoch.
    pub epoch: u64,
    /// The state that this was decided on; `None`: it is as it is to be, or has no states.
    pub on: Option<Stand>,
    /// What the user's own credentials are bound to ends too.
    pub closes: bool,
}

/// What became of a write.
#[derive(Debug)]
pub enum Wrote {
    /// It was done, and read back.
    Done(Found),
    /// It was not done, since this is there by now: to be decided anew.
    Stale(Found),
}

/// Why something was not done, or may not have been done.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A Secret.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// Nobody has to do anything about it: it will be looked at again.
    #[error("{0}")]
    NotNow(&'static str),
}

impl SinkError {
    /// How long to wait at least, where the server says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Kubernetes(error) => error.retry_after(),
            Self::Io(_) | Self::NotNow(_) => None,
        }
    }
}

impl Found {
    /// What has no states.
    pub fn stateless(content: Content) -> Self {
        Self { content, stand: None }
    }

    /// Whether this is what was to be written.
    pub fn is_as(&self, token: Option<&Secret>) -> bool {
        match (&self.content, token) {
            (Content::Text(found), Some(token)) => found == token,
            (Content::Empty | Content::Absent, None) => true,
            _ => false,
        }
    }
}

impl Memory {
    fn all(&self) -> MutexGuard<'_, HashMap<UserId, Secret>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, user: &UserId) -> Content {
        match self.all().get(user) {
            None => Content::Absent,
            Some(text) if text.expose().is_empty() => Content::Empty,
            Some(text) => Content::Text(text.clone()),
        }
    }
}

impl Sink {
    /// By how much readers may be behind what was written.
    pub fn behind_ms(&self) -> u64 {
        match self {
            Self::Memory(_) | Self::Files(_) => 0,
            Self::Secrets(_) => super::reserve::KUBELET_MS,
        }
    }

    /// Whether several replicas write there, and others beside them.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Secrets(_))
    }

    /// Puts a token, or nothing, in the place of what is there, and reads it back.
    ///
    /// # Errors
    /// It may not be there.
    pub async fn write(&self, order: &Order) -> Result<Wrote, SinkError> {
        match self {
            Self::Memory(memory) => {
                let text = order.token.clone().unwrap_or_else(|| Secret::new(""));
                memory.all().insert(order.id.clone(), text);
                Ok(Wrote::Done(Found::stateless(memory.read(&order.id))))
            }
            Self::Files(files) => {
                let (id, token) = (order.id.clone(), order.token.clone());
                let write = move |files: &Files| {
                    files.write(&id, token.as_ref().map_or("", Secret::expose))?;
                    files.read(&id)
                };
                Ok(Wrote::Done(Found::stateless(in_files(files, write).await?)))
            }
            Self::Secrets(secrets) => Ok(secrets.write(order).await?),
        }
    }

    /// Removes what is there; in a cluster the namespace with all that is in it, or only the Secrets where it is to be kept.
    ///
    /// # Errors
    /// It may still be there.
    pub async fn remove(&self, user: &UserId, namespace: Option<&str>, keeps_namespace: bool) -> Result<(), SinkError> {
        match self {
            Self::Memory(memory) => {
                memory.all().remove(user);
                Ok(())
            }
            Self::Files(files) => {
                let user = user.clone();
                Ok(in_files(files, move |files| files.remove(&user)).await?)
            }
            Self::Secrets(secrets) => match namespace {
                Some(namespace) => secrets.remove(user, namespace, keeps_namespace).await,
                None => Ok(()),
            },
        }
    }

    /// What a reader finds.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn read(&self, user: &UserId, namespace: Option<&str>) -> Result<Found, SinkError> {
        match (self, namespace) {
            (Self::Memory(memory), _) => Ok(Found::stateless(memory.read(user))),
            (Self::Files(files), _) => {
                let user = user.clone();
                Ok(Found::stateless(in_files(files, move |files| files.read(&user)).await?))
            }
            (Self::Secrets(secrets), Some(namespace)) => Ok(secrets.read(user, namespace).await?),
            (Self::Secrets(_), None) => Ok(Found::stateless(Content::Absent)),
        }
    }

    /// What all these users' readers find, where that is not told by who keeps it.
    pub async fn read_all(&self, users: Vec<UserId>) -> Vec<(UserId, Result<Found, SinkError>)> {
        let read = |users: Vec<UserId>, read: &dyn Fn(&UserId) -> io::Result<Content>| {
            let read = |id: UserId| (read(&id).map(Found::stateless).map_err(SinkError::Io), id);
            users.into_iter().map(read).map(|(found, id)| (id, found)).collect()
        };
        match self {
            Self::Memory(memory) => read(users, &|id| Ok(memory.read(id))),
            Self::Files(files) => {
                let all = in_files(files, move |files| Ok(read(users, &|id| files.read(id))));
                all.await.unwrap_or_default()
            }
            Self::Secrets(_) => Vec::new(),
        }
    }
}

/// A disk may be slow.
async fn in_files<T: Send + 'static>(
    files: &Arc<Files>,
    act: impl FnOnce(&Files) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let files = Arc::clone(files);
    tokio::task::spawn_blocking(move || act(&files)).await.map_err(io::Error::other)?
}

impl Seen {
    /// What was found just now. What was there before already keeps the time at which it ends, whatever the clock says now. `judge` says
    /// what a token of ours says.
    pub fn after(&self, found: Content, now: Now, judge: impl FnOnce(&str) -> Option<Said>) -> Self {
        let token = match found {
            Content::Absent => return Self::Absent,
            Content::Empty => return Self::Empty,
            Content::Foreign => return Self::Foreign,
            Content::Text(token) => token,
        };
        if let Self::Token(held) = self
            && held.token == token
            && held.said.is_some()
        {
            return Self::Token(Arc::clone(held));
        }
        let said = judge(token.expose());
        let expires = said.as_ref().map_or(0, |said| said.expires);
        let left_ms = expires.saturating_mul(1000).saturating_sub(i64::try_from(now.unix_ms).unwrap_or(i64::MAX));
        let left_ms = u64::try_from(left_ms).unwrap_or(0);
        Self::Token(Arc::new(Held {
            digest: digest_of(token.expose().as_bytes()),
            token,
            said,
            expires,
            ends_ms: now.monotonic_ms.saturating_add(left_ms),
            learned_ms: now.monotonic_ms,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    fn held(seen: &Seen) -> &Held {
        match seen {
            Seen::Token(held) => held,
            other => panic!("{other:?}"),
        }
    }

    fn text() -> Content {
        Content::Text(Secret::new("token"))
    }

    fn said(expires: i64) -> Option<Said> {
        Some(Said { key: "key".into(), expires, epoch: 0, claims: "claims".into() })
    }

    #[test]
    fn how_long_a_token_lives_is_told_once_whatever_the_wall_clock_does_later() {
        let clock = Clock::manual(1_800_000_000);
        let seen = Seen::Unknown.after(text(), clock.now(), |_| said(1_800_001_000));
        assert_eq!(held(&seen).ends_ms, clock.now().monotonic_ms + 1_000_000);
        clock.advance(Duration::from_secs(10));
        let stepped = Now { unix_ms: clock.now().unix_ms - 3_600_000, ..clock.now() };
        let again = seen.after(text(), stepped, |_| said(1_800_001_000));
        assert_eq!((held(&again).ends_ms, held(&again).learned_ms), (held(&seen).ends_ms, held(&seen).learned_ms));
    }

    #[test]
    fn a_text_that_no_key_of_ours_signed_has_ended_until_one_is_known_that_did() {
        let clock = Clock::manual(1_800_000_000);
        let seen = Seen::Empty.after(text(), clock.now(), |_| None);
        assert_eq!((held(&seen).ends_ms, &held(&seen).said), (clock.now().monotonic_ms, &None));
        let seen = seen.after(text(), clock.now(), |_| said(1_800_001_000));
        assert_eq!(held(&seen).ends_ms, clock.now().monotonic_ms + 1_000_000);
    }
}
