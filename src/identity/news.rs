//! What is told to whoever keeps a token ready for each user, and what they keep. One for each process; it outlives reloads.
//!
//! The verifier and the watches tell, without waiting; a user who asks for their token is told of in the same way. What is kept is read
//! without asking. Where no tokens are kept nothing is told.

use crate::base::secret::Secret;
use crate::base::sharded::Sharded;
use crate::users::UserId;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use tokio::sync::{mpsc, oneshot};

/// Something that matters to a token that is kept.
#[derive(Debug)]
pub enum News {
    /// There is a new user.
    Created(UserId),
    /// A user signed in, or the issuer called a token of theirs active that was never seen before.
    SignedIn(UserId),
    /// Something about a user changed: what is known of them is to be asked for again, by a call that begins after this.
    Changed(UserId),
    /// All disabled users of an issuer were listed, by calls that began then, in milliseconds of the monotonic clock.
    Swept {
        /// The NAME of `[issuer.NAME]`.
        issuer: Arc<str>,
        /// When.
        began_ms: u64,
    },
    /// Somebody who may have the token of a user wants it. No sign of the user: a pod of theirs may ask.
    Wanted {
        /// Who.
        user: UserId,
        /// Where to say it.
        reply: oneshot::Sender<Result<Arc<KeptToken>, NoToken>>,
    },
}

/// A token that is kept for a user.
#[derive(Debug)]
pub struct KeptToken {
    /// The token.
    pub token: Secret,
    /// `exp`, in seconds since 1970.
    pub expires: i64,
    /// The user's block epoch when it was minted: under another it is void.
    pub epoch: u64,
    /// The user's namespace.
    pub namespace: String,
    /// Since when it is theirs, by our wall clock, in milliseconds since 1970.
    pub named_unix_ms: u64,
    /// The roles that they have.
    pub roles: Vec<String>,
    /// Their groups.
    pub groups: Vec<String>,
}

/// What is recorded of a user for whom another process keeps a token.
#[derive(Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The user's namespace.
    pub namespace: String,
    /// The roles that they have.
    pub roles: Vec<String>,
    /// Their groups.
    pub groups: Vec<String>,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoToken {
    /// The user has no namespace, or is nobody for whom tokens are kept.
    NoNamespace,
    /// The user never signed in.
    NeverSignedIn,
    /// It cannot be made now.
    NotNow,
}

/// Where news are told, and tokens are found.
#[derive(Debug, Default)]
pub struct Bulletin {
    listener: OnceLock<mpsc::UnboundedSender<News>>,
    kept: Sharded<UserId, Arc<KeptToken>>,
    namespaces: Sharded<UserId, Box<str>>,
    /// The same from the other end. More than one has it only while it is not known whose it is.
    owners: Sharded<Box<str>, Vec<UserId>>,
    recorded: Sharded<UserId, Arc<Recorded>>,
    /// When each issuer was asked what it told last about all users, by the monotonic clock.
    heard_ms: Sharded<Arc<str>, u64>,
    hasher: RandomState,
}

impl Bulletin {
    /// Has news told from now on. Once.
    pub fn listen(&self) -> Option<mpsc::UnboundedReceiver<News>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.listener.set(sender).ok().map(|()| receiver)
    }

    /// Tells, if anybody listens.
    pub fn tell(&self, news: impl FnOnce() -> Option<News>) {
        if let Some(listener) = self.listener.get()
            && let Some(news) = news()
        {
            // Nobody takes them any more while the process ends.
            let _ = listener.send(news);
        }
    }

    /// The token that is kept for a user. Whether it is still good its reader has to see.
    pub fn kept(&self, user: &UserId) -> Option<Arc<KeptToken>> {
        self.kept.shard(self.hasher.hash_one(user)).get(user).cloned()
    }

    /// When an issuer was asked what it told last about all users, in milliseconds of the monotonic clock; 0: never.
    pub fn heard_ms(&self, issuer: &Arc<str>) -> u64 {
        self.heard_ms.shard(self.hasher.hash_one(issuer)).get(issuer).copied().unwrap_or(0)
    }

    /// An issuer told about all its users, by calls that began then.
    pub fn hear(&self, issuer: &Arc<str>, asked_ms: u64) {
        let mut shard = self.heard_ms.shard(self.hasher.hash_one(issuer));
        let heard_ms = shard.entry(Arc::clone(issuer)).or_default();
        *heard_ms = asked_ms.max(*heard_ms);
    }

    /// What is recorded of a user for whom another process keeps a token.
    pub fn recorded(&self, user: &UserId) -> Option<Arc<Recorded>> {
        self.recorded.shard(self.hasher.hash_one(user)).get(user).cloned()
    }

    /// Records it, or that no token is kept for them.
    pub fn note(&self, user: &UserId, recorded: Option<Recorded>) {
        let mut shard = self.recorded.shard(self.hasher.hash_one(user));
        match recorded {
            Some(recorded) => drop(shard.insert(user.clone(), Arc::new(recorded))),
            None => drop(shard.remove(user)),
        }
    }

    /// The namespace that is recorded as a user's own.
    pub fn namespace(&self, user: &UserId) -> Option<String> {
        self.namespaces.shard(self.hasher.hash_one(user)).get(user).map(|name| name.to_string())
    }

    /// Whose own a namespace is; nobody's, while two are said to have it.
    pub fn owner(&self, namespace: &str) -> Option<UserId> {
        let shard = self.owners.shard(self.hasher.hash_one(namespace));
        shard.get(namespace).filter(|owners| owners.len() == 1)?.first().cloned()
    }

    /// Records a namespace as a user's own, or that they have none.
    pub fn record(&self, user: &UserId, namespace: Option<&str>) {
        let former = {
            let mut shard = self.namespaces.shard(self.hasher.hash_one(user));
            match namespace {
                Some(name) => shard.insert(user.clone(), name.into()),
                None => shard.remove(user),
            }
        };
        if former.as_deref() == namespace {
            return;
        }
        if let Some(former) = former {
            let mut shard = self.owners.shard(self.hasher.hash_one(&*former));
            if let Some(owners) = shard.get_mut(&former) {
                owners.retain(|owner| owner != user);
                if owners.is_empty() {
                    shard.remove(&former);
                }
            }
        }
        if let Some(name) = namespace {
            self.owners.shard(self.hasher.hash_one(name)).entry(name.into()).or_default().push(user.clone());
        }
    }

    /// Keeps another, or none.
    pub fn keep(&self, user: &UserId, token: Option<Arc<KeptToken>>) {
        let mut shard = self.kept.shard(self.hasher.hash_one(user));
        match token {
            Some(token) => drop(shard.insert(user.clone(), token)),
            None => drop(shard.remove(user)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_told_and_nothing_grows_where_nobody_listens() {
        let bulletin = Bulletin::default();
        bulletin.tell(|| unreachable!("nobody listens"));
        let mut heard = bulletin.listen().unwrap();
        bulletin.tell(|| UserId::new("main", "alice").map(News::SignedIn));
        assert!(matches!(heard.try_recv(), Ok(News::SignedIn(_))));
        assert!(bulletin.listen().is_none());
    }

    #[test]
    fn a_namespace_has_one_owner_or_none() {
        let bulletin = Bulletin::default();
        let [alice, bob] = ["alice", "bob"].map(|name| UserId::new("main", name).unwrap());
        bulletin.record(&alice, Some("team-a"));
        assert_eq!((bulletin.owner("team-a"), bulletin.owner("team-b")), (Some(alice.clone()), None));
        bulletin.record(&alice, Some("team-b"));
        assert_eq!((bulletin.owner("team-a"), bulletin.owner("team-b")), (None, Some(alice.clone())));
        // What is told about two users may come in either order, and more than once.
        bulletin.record(&bob, Some("team-b"));
        bulletin.record(&bob, Some("team-b"));
        assert_eq!(bulletin.owner("team-b"), None);
        bulletin.record(&alice, None);
        assert_eq!((bulletin.owner("team-b"), bulletin.namespace(&alice)), (Some(bob.clone()), None));
        bulletin.record(&bob, None);
        assert_eq!(bulletin.owner("team-b"), None);
    }
}
