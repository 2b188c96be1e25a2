//! One Secret of Postern's own namespace: texts by name that all replicas share. Changed by compare-and-swap, and followed.

use super::call::Target;
use super::connect::Cluster;
use super::error::{KubernetesError, Write};
use super::version::Version;
use super::watch::{Watch, Watched};
use crate::base::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Reads and writes one Secret of Postern's own namespace.
#[derive(Clone)]
pub struct OwnSecret {
    cluster: Cluster,
    target: Target,
    name: String,
}

/// The Secret as it stands on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    name: String,
    version: Version,
    texts: BTreeMap<String, Secret>,
}

impl Texts {
    /// What stands in it, by name. What is no text is told with other characters in place of its bytes.
    pub fn texts(&self) -> &BTreeMap<String, Secret> {
        &self.texts
    }
}

impl OwnSecret {
    /// The Secret `name`, whether it is there or not.
    ///
    /// # Errors
    /// [`KubernetesError::Invalid`] for a name that is none.
    pub fn new(cluster: Cluster, name: &str) -> Result<Self, KubernetesError> {
        let target = Target::object("api/v1", Some(cluster.namespace()), "secrets", name)?;
        Ok(Self { cluster, target, name: name.to_owned() })
    }

    /// The Secret as the server holds it now; `None` if there is none.
    ///
    /// # Errors
    /// All but [`KubernetesError::NotFound`].
    pub async fn read(&self) -> Result<Option<Texts>, KubernetesError> {
        match self.cluster.get::<core::Secret>(&self.target).await {
            Ok(object) => Texts::of(object).map(Some),
            Err(KubernetesError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts and removes texts, if the Secret is still as it was `seen`; where there was none, makes it. Texts of other names stay.
    ///
    /// [`Write::Stale`] if others wrote meanwhile.
    ///
    /// # Errors
    /// [`KubernetesError::NotKept`] if the server holds something else than what was written.
    pub async fn write(
        &self,
        seen: Option<&Texts>,
        put: &BTreeMap<String, Secret>,
        remove: &[&str],
    ) -> Result<Write<Texts>, KubernetesError> {
        let seen = match seen {
            Some(seen) => seen.clone(),
            None => match self.make().await? {
                made if made.texts.is_empty() => made,
                _ => return Ok(Write::Stale),
            },
        };
        let encoded = put.iter().map(|(name, text)| (name.clone(), Value::String(STANDARD.encode(text.expose()))));
        let removed = remove.iter().map(|name| ((*name).to_owned(), Value::Null));
        let data: serde_json::Map<String, Value> = encoded.chain(removed).collect();
        let Version { uid, resource_version } = &seen.version;
        let body = json!({ "metadata": { "uid": uid, "resourceVersion": resource_version }, "data": data });
        match self.cluster.merge::<core::Secret>(&self.target, &body).await {
            Ok(object) => {
                let written = Texts::of(object)?;
                let is_kept = put.iter().all(|(name, text)| written.texts.get(name) == Some(text))
                    && !remove.iter().any(|name| written.texts.contains_key(*name));
                if !is_kept {
                    return Err(KubernetesError::NotKept { what: self.target.what().to_owned() });
                }
                Ok(Write::Done(written))
            }
            // Deleted since it was seen.
            Err(KubernetesError::NotFound { .. } | KubernetesError::Conflict { .. }) => Ok(Write::Stale),
            Err(error) => Err(error),
        }
    }

    /// What any replica or anybody else does to it, as it happens.
    ///
    /// # Errors
    /// None that can happen.
    pub fn watch(&self) -> Result<Watch<Texts>, KubernetesError> {
        let target = Target::list("api/v1", Some(self.cluster.namespace()), "secrets")?;
        Ok(Watch::new(&self.cluster, target, format!("fieldSelector=metadata.name%3D{}", self.name)))
    }

    /// Makes the Secret, empty. An apply, since a right to create by POST cannot be limited to a name; one that is there is left as
    /// it is. (Texts are never applied: an apply takes away what the one before it gave.)
    async fn make(&self) -> Result<Texts, KubernetesError> {
        let metadata = json!({ "name": self.name, "namespace": self.cluster.namespace() });
        let body = json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata });
        Texts::of(self.cluster.apply::<core::Secret>(&self.target, &body, false).await?.object)
    }
}

impl Watched for Texts {
    type Wire = core::Secret;

    fn of(wire: core::Secret) -> Result<Self, KubernetesError> {
        let name = wire.metadata.name.clone().unwrap_or_default();
        let version = Version::of(&wire.metadata, &name)?;
        let text = |bytes: Vec<u8>| match String::from_utf8(bytes) {
            Ok(text) => Secret::new(text),
            Err(error) => Secret::new(String::from_utf8_lossy(error.as_bytes())),
        };
        let texts = wire.data.unwrap_or_default().into_iter().map(|(name, bytes)| (name, text(bytes.0))).collect();
        Ok(Self { name, version, texts })
    }

    fn key(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &Version {
        &self.version
    }
}
