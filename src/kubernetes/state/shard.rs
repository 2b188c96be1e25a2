//! One of the Secrets among which a state is spread.

use super::super::error::KubernetesError;
use super::super::version::Version;
use super::super::watch::Watched;
use super::Edit;
use super::entry::{Place, decode};
use k8s_openapi::api::core::v1 as core;
use std::collections::BTreeMap;
use std::fmt;

/// A part of a state, as the server holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Shard {
    name: String,
    version: Version,
    /// Values by their keys.
    values: BTreeMap<String, Vec<u8>>,
}

impl Shard {
    pub(super) fn read(object: core::Secret) -> Result<Self, KubernetesError> {
        let name = object.metadata.name.clone().unwrap_or_default();
        let version = Version::of(&object.metadata, &name)?;
        let mut values = BTreeMap::new();
        for (slot, bytes) in object.data.unwrap_or_default() {
            let unreadable = || KubernetesError::Unexpected { what: format!("secrets/{name}: {slot}") };
            let (key, value) = decode(&slot, &bytes.0).ok_or_else(unreadable)?;
            values.insert(key, value);
        }
        Ok(Self { name, version, values })
    }

    pub(super) fn get(&self, place: &Place) -> Option<&[u8]> {
        self.values.get(&place.key).map(Vec::as_slice)
    }

    pub(super) fn is_changed_by(&self, place: &Place, edit: &Edit) -> bool {
        match edit {
            Edit::Keep => false,
            Edit::Put(value) => self.get(place) != Some(value),
            Edit::Remove => self.get(place).is_some(),
        }
    }

    /// Its keys and values.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.values.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    pub(super) fn into_pairs(self) -> BTreeMap<String, Vec<u8>> {
        self.values
    }
}

/// A part that is not there.
impl Default for Shard {
    fn default() -> Self {
        let version = Version { uid: String::new(), resource_version: String::new() };
        Self { name: String::new(), version, values: BTreeMap::new() }
    }
}

/// Values may be secrets.
impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("name", &self.name).field("values", &self.values.len()).finish_non_exhaustive()
    }
}

impl Watched for Shard {
    type Wire = core::Secret;

    fn of(wire: core::Secret) -> Result<Self, KubernetesError> {
        Self::read(wire)
    }

    fn key(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &Version {
        &self.version
    }
}
