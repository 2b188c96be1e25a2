//! Which object, in which state: what a write says it was decided on.

use super::error::KubernetesError;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

/// One state of one object. A write that carries it is done only while the object is in this state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Tells an object from another one of the same name, made later.
    pub uid: String,
    /// Tells a state of an object from all others.
    pub resource_version: String,
}

/// A time, as the server counts it for all its objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revision(Option<u64>);

impl Revision {
    pub(super) fn new(resource_version: &str) -> Self {
        Self(resource_version.parse().ok())
    }

    /// Whether it was before, as far as can be told: servers count up, though they do not promise to.
    pub fn is_before(&self, other: &Self) -> bool {
        matches!((self.0, other.0), (Some(this), Some(that)) if this < that)
    }
}

impl Version {
    /// The version of an object that the server gave us.
    pub(super) fn of(meta: &ObjectMeta, what: &str) -> Result<Self, KubernetesError> {
        match (&meta.uid, &meta.resource_version) {
            (Some(uid), Some(version)) if !uid.is_empty() && !version.is_empty() => {
                Ok(Self { uid: uid.clone(), resource_version: version.clone() })
            }
            _ => Err(KubernetesError::Unexpected { what: what.to_owned() }),
        }
    }

    /// Whether this state was there before that one, as far as can be told.
    pub fn is_before(&self, other: &Self) -> bool {
        self.revision().is_before(&other.revision())
    }

    /// When it came to be.
    pub fn revision(&self) -> Revision {
        Revision::new(&self.resource_version)
    }

    /// What a deletion demands.
    pub(super) fn preconditions(&self) -> Value {
        json!({ "uid": self.uid, "resourceVersion": self.resource_version })
    }
}
