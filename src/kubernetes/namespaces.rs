//! The namespace of a user: made with our mark, recognised by it, and removed only with it.

use super::call::Target;
use super::connect::Cluster;
use super::error::KubernetesError;
use super::mark::{Mark, Owner};
use super::version::Version;
use k8s_openapi::api::core::v1 as core;
use serde_json::json;

const GROUP: &str = "api/v1";
const KIND: &str = "namespaces";

/// Whoever may make pods in it must not have the node by them.
const LEVEL_LABEL: &str = "pod-security.kubernetes.io/enforce";
const LEVEL: &str = "baseline";

/// How often a namespace that comes and goes is looked at before that is an error.
const LOOKS: usize = 3;

/// A namespace as it stands on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// The state that was read.
    pub version: Version,
    /// Whose it says it is.
    pub mark: Mark,
    /// It is being deleted: nothing can be made in it, and its name is free only when it is gone.
    pub is_terminating: bool,
}

impl Namespace {
    pub(super) fn of(object: core::Namespace) -> Result<Self, KubernetesError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let version = Version::of(&object.metadata, &format!("{KIND}/{name}"))?;
        let phase = object.status.and_then(|status| status.phase);
        let is_terminating = object.metadata.deletion_timestamp.is_some() || phase.as_deref() == Some("Terminating");
        Ok(Self { mark: Mark::of(&object.metadata), is_terminating, name, version })
    }
}

/// What became of a namespace that a user needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ensured {
    /// It is there, marked for this user.
    Ours(Namespace),
    /// It is there, and made by others or for another user: a condition, nothing was changed.
    Taken(Namespace),
    /// It is being deleted, whoever's it was.
    Terminating(Namespace),
}

/// What became of a namespace that is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is being deleted, or gone.
    Begun,
    /// Not done: it is not the one that was seen, or not as it was. Read again, decide again.
    Stale,
    /// Not done: it does not have our mark for this user.
    NotOurs,
}

/// Reads, makes and removes the namespaces of users.
#[derive(Clone)]
pub struct Namespaces {
    cluster: Cluster,
}

impl Namespaces {
    /// The namespaces of this cluster.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }

    /// A namespace as the server holds it now, if it is there.
    ///
    /// # Errors
    /// All but [`KubernetesError::NotFound`].
    pub async fn read(&self, name: &str) -> Result<Option<Namespace>, KubernetesError> {
        match self.cluster.get(&target(name)?).await {
            Ok(object) => Namespace::of(object).map(Some),
            Err(KubernetesError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the namespace with our mark, or tells how the one of that name stands, which is left as it is.
    ///
    /// # Errors
    /// [`KubernetesError::Conflict`] if it comes and goes while we look.
    pub async fn ensure(&self, name: &str, owner: &Owner) -> Result<Ensured, KubernetesError> {
        let mut made = json!({ "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": owner.labels(), "annotations": owner.annotations() } });
        made["metadata"]["labels"][LEVEL_LABEL] = json!(LEVEL);
        for _ in 0..LOOKS {
            if let Some(found) = self.read(name).await? {
                return Ok(judge(found, owner));
            }
            match self.cluster.post(&Target::list(GROUP, None, KIND)?, &made).await {
                Ok(object) => return Namespace::of(object).map(|made| judge(made, owner)),
                Err(KubernetesError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(KubernetesError::Conflict { what: target(name)?.what().to_owned() })
    }

    /// Begins to delete a namespace that has our mark for this user, if it is still as it was `seen`.
    ///
    /// # Errors
    /// All but a conflict, which is [`Removal::Stale`].
    pub async fn delete(&self, seen: &Namespace, owner: &Owner) -> Result<Removal, KubernetesError> {
        if !seen.mark.is_of(owner) {
            return Ok(Removal::NotOurs);
        }
        // The version too: a mark that was taken off since then must count.
        match self.cluster.delete(&target(&seen.name)?, &seen.version.preconditions()).await {
            Ok(()) => Ok(Removal::Begun),
            Err(KubernetesError::Conflict { .. }) => Ok(Removal::Stale),
            Err(error) => Err(error),
        }
    }
}

fn target(name: &str) -> Result<Target, KubernetesError> {
    Target::object(GROUP, None, KIND, name)
}

fn judge(found: Namespace, owner: &Owner) -> Ensured {
    if found.is_terminating {
        Ensured::Terminating(found)
    } else if found.mark.is_of(owner) {
        Ensured::Ours(found)
    } else {
        Ensured::Taken(found)
    }
}
