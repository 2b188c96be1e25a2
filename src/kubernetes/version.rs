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

    /// Whether this state was there before that one, as far as can be told: servers count up, though they do not promise to.
    pub fn is_before(&self, other: &Self) -> bool {
        match (self.resource_version.parse::<u64>(), other.resource_version.parse::<u64>()) {
            (Ok(this), Ok(that)) => this < that,
            _ => false,
        }
    }

    /// What a deletion demands.
    pub(super) fn preconditions(&self) -> Value {
        json!({ "uid": self.uid, "resourceVersion": self.resource_version })
    }
}
