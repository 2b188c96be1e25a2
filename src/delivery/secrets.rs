//! Tokens in Secrets, one a user: `access-token` of the user's namespace.

use super::home::Place;
use super::sink::{Content, Flaw, Found, Order, SinkError, Stand, Wrote};
use crate::kubernetes::{
    self, Aim, Cluster, Ensured, KubernetesError, Namespaces, Owner, Removal, Secrets, Standing, UserSecret, Write,
    grants,
};
use crate::users::UserId;
use std::fmt;

/// The Secrets and namespaces of users.
#[derive(Clone)]
pub struct UserSecrets {
    cluster: Cluster,
    secrets: Secrets,
    namespaces: Namespaces,
}

/// What stands in a user's namespace after it was looked at.
#[derive(Debug)]
pub struct Settled {
    /// How the namespace stands.
    pub place: Place,
    /// Its Secret; `None` where there can be none.
    pub found: Option<Found>,
    /// Whether the Secret that the user's credentials are bound to is there.
    pub is_open: bool,
    /// How much was missing or not right.
    pub repairs: u64,
    /// What beside the Secret could not be put right.
    pub problem: Option<KubernetesError>,
}

/// Times that a write that others got ahead of is looked at again before it waits its turn.
const LOOKS: usize = 3;

impl fmt::Debug for UserSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserSecrets").finish_non_exhaustive()
    }
}

/// The user, as the cluster is told.
pub fn owner(user: &UserId) -> Owner {
    Owner::new(&**user.issuer(), &**user.subject())
}

/// What a Secret is to a reader, and to who writes next.
pub fn found(secret: &UserSecret, owner: &Owner) -> Found {
    let content = match &secret.content {
        kubernetes::Content::Missing | kubernetes::Content::Empty => Content::Empty,
        kubernetes::Content::Token(token) => Content::Text(token.clone()),
        kubernetes::Content::Unreadable => Content::Foreign,
    };
    let flaw = match secret.standing(owner) {
        _ if secret.is_fixed => Some(Flaw::Fixed),
        // Who takes the key away leaves no trace. We never do.
        Standing::Ours | Standing::Stripped if secret.content == kubernetes::Content::Missing => Some(Flaw::Keyless),
        Standing::Ours => None,
        Standing::Stripped => Some(Flaw::Unmarked),
        // To write what stands there already takes nothing from whoever wrote it.
        Standing::Edited { .. } if matches!(content, Content::Empty) => Some(Flaw::Fixed),
        Standing::Edited { .. } | Standing::Another(_) | Standing::Foreign => Some(Flaw::Held),
    };
    let stand = Stand { version: secret.version.clone(), epoch: secret.epoch, flaw };
    Found { content, stand: Some(stand) }
}

impl UserSecrets {
    /// Those of a cluster.
    pub fn new(cluster: Cluster) -> Self {
        let (secrets, namespaces) = (Secrets::new(cluster.clone()), Namespaces::new(cluster.clone()));
        Self { cluster, secrets, namespaces }
    }

    pub(super) async fn read(&self, user: &UserId, namespace: &str) -> Result<Found, KubernetesError> {
        let read = self.secrets.read(namespace).await?;
        Ok(read.map_or(Found::stateless(Content::Absent), |secret| found(&secret, &owner(user))))
    }

    pub(super) async fn write(&self, order: &Order) -> Result<Wrote, KubernetesError> {
        let Some(namespace) = order.namespace.as_deref() else {
            return Ok(Wrote::Done(Found::stateless(Content::Absent)));
        };
        let wrote = match &order.on {
            Some(stand) => self.write_on(stand, order, namespace).await,
            None => self
                .read(&order.id, namespace)
                .await
                .map(|found| if found.is_as(None) { Wrote::Done(found) } else { Wrote::Stale(found) }),
        };
        if order.closes {
            // Whatever became of the other.
            grants::close_session(&self.cluster, namespace).await?;
        }
        wrote
    }

    async fn write_on(&self, on: &Stand, order: &Order, namespace: &str) -> Result<Wrote, KubernetesError> {
        let owner = owner(&order.id);
        let aim = Aim { namespace, on: &on.version, owner: &owner, epoch: order.epoch };
        let written = match &order.token {
            Some(token) => self.secrets.fill(aim, token).await?,
            None if on.flaw == Some(Flaw::Fixed) => match self.secrets.delete(namespace, &on.version).await? {
                Write::Done(()) => return Ok(Wrote::Done(Found::stateless(Content::Absent))),
                Write::Stale | Write::Held { .. } => Write::Stale,
            },
            None => self.secrets.empty(aim).await?,
        };
        match written {
            Write::Done(secret) => Ok(Wrote::Done(found(&secret, &owner))),
            Write::Stale => self.read(&order.id, namespace).await.map(Wrote::Stale),
            Write::Held { .. } => {
                let mut found = self.read(&order.id, namespace).await?;
                if let Some(stand) = &mut found.stand {
                    stand.flaw = Some(Flaw::Held);
                }
                Ok(Wrote::Stale(found))
            }
        }
    }

    /// Makes the namespace of a user with all that belongs in it, and puts right what is not. `may_go_on` is asked before each part.
    pub(super) async fn settle(
        &self,
        user: &UserId,
        namespace: &str,
        opens: bool,
        may_go_on: impl Fn() -> bool,
    ) -> Result<Settled, SinkError> {
        let go_on = || if may_go_on() { Ok(()) } else { Err(SinkError::NotNow("this replica does not lead any more")) };
        go_on()?;
        let mut settled = Settled { place: Place::Ready, found: None, is_open: false, repairs: 0, problem: None };
        match self.namespaces.ensure(namespace, &owner(user)).await? {
            Ensured::Ours(_) => {}
            Ensured::Taken(_) => return Ok(Settled { place: Place::Taken, ..settled }),
            Ensured::Terminating(_) => return Ok(Settled { place: Place::Terminating, ..settled }),
        }
        go_on()?;
        settled.found = Some(self.make_secret(user, namespace, &mut settled.repairs).await?);
        go_on()?;
        match grants::ensure(&self.cluster, namespace).await {
            Ok(was_wrong) => settled.repairs += u64::from(was_wrong),
            Err(error) => settled.problem = Some(error),
        }
        if opens {
            go_on()?;
            match grants::open_session(&self.cluster, namespace).await {
                Ok(_) => settled.is_open = true,
                Err(error) => settled.problem = Some(error),
            }
        }
        Ok(settled)
    }

    async fn make_secret(&self, user: &UserId, namespace: &str, repairs: &mut u64) -> Result<Found, SinkError> {
        for _ in 0..LOOKS {
            let seen = self.read(user, namespace).await?;
            if seen.stand.is_some() {
                return Ok(seen);
            }
            if let Write::Done(made) = self.secrets.create(namespace, &owner(user)).await? {
                *repairs += 1;
                return Ok(found(&made, &owner(user)));
            }
        }
        Err(SinkError::NotNow("the Secret comes and goes"))
    }

    /// Removes a namespace that has the whole mark of this user, as it is right before; or only what tokens lie in.
    pub(super) async fn remove(&self, user: &UserId, namespace: &str, keeps_namespace: bool) -> Result<(), SinkError> {
        for _ in 0..LOOKS {
            let Some(seen) = self.namespaces.read(namespace).await? else { return Ok(()) };
            if !seen.mark.is_of(&owner(user)) {
                return Err(SinkError::NotNow("the namespace does not say that it is theirs: it is left alone"));
            }
            if seen.is_terminating {
                return Ok(());
            }
            let removal = if keeps_namespace {
                grants::close_session(&self.cluster, namespace).await?;
                match self.secrets.read(namespace).await? {
                    Some(secret) => match self.secrets.delete(namespace, &secret.version).await? {
                        Write::Done(()) => Removal::Begun,
                        Write::Stale | Write::Held { .. } => Removal::Stale,
                    },
                    None => Removal::Begun,
                }
            } else {
                self.namespaces.delete(&seen, &owner(user)).await?
            };
            match removal {
                Removal::Begun => return Ok(()),
                Removal::NotOurs => break,
                Removal::Stale => {}
            }
        }
        Err(SinkError::NotNow("the namespace changes all the time"))
    }
}
