//! One key of one Secret, kept up to date: a credential that is stored in Kubernetes, a stored service-account token among them.

use super::call::Target;
use super::connect::Cluster;
use super::error::KubernetesError;
use super::version::Version;
use super::watch::{Change, Watch, Watched};
use crate::base::secret::Secret;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use zeroize::Zeroizing;

/// Which key of which Secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SecretKey {
    /// Where the Secret is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The key.
    pub key: String,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Not read yet.
    Unknown,
    /// There is no such Secret, it has no such key, or what stands there is empty or no text.
    Missing,
    /// What stands there, without one line end. While the API server is away: what stood there last.
    Known(Arc<Secret>),
}

/// Follows one key.
pub struct Follow {
    name: String,
    key: String,
    watch: Watch<Named>,
    value: watch::Sender<Value>,
}

impl Follow {
    /// What follows a key, and where its value is read.
    ///
    /// # Errors
    /// [`KubernetesError::Invalid`] for names that are none.
    pub fn new(cluster: &Cluster, of: SecretKey) -> Result<(Self, watch::Receiver<Value>), KubernetesError> {
        Target::object("api/v1", Some(&of.namespace), "secrets", &of.name)?;
        let target = Target::list("api/v1", Some(&of.namespace), "secrets")?;
        let (value, receiver) = watch::channel(Value::Unknown);
        let watch = Watch::new(cluster, target, format!("fieldSelector=metadata.name%3D{}", of.name));
        Ok((Self { name: of.name, key: of.key, watch, value }, receiver))
    }

    /// Follows until nobody reads the value any more.
    pub async fn run(self) {
        let (to, mut changes) = mpsc::channel::<Change<Named>>(4);
        let Self { name, key, watch, value } = self;
        let (mut is_there, mut is_told) = (false, false);
        let follow = async {
            while let Some(change) = changes.recv().await {
                match change {
                    Change::Seen(secret) => {
                        is_there = true;
                        set(&value, secret.value(&key));
                    }
                    Change::Gone { .. } => {
                        is_there = false;
                        set(&value, Value::Missing);
                    }
                    Change::Synced => {
                        is_told = false;
                        if !is_there {
                            set(&value, Value::Missing);
                        }
                    }
                    // Once, however often it is tried.
                    Change::Interrupted(error) => {
                        if !std::mem::replace(&mut is_told, true) {
                            tracing::warn!(
                                secret = name,
                                error = &error as &dyn std::error::Error,
                                "a Secret cannot be followed"
                            );
                        }
                    }
                }
            }
        };
        tokio::select! {
            () = watch.run(to) => {}
            () = follow => {}
            () = value.closed() => {}
        }
    }
}

/// Wakes who waits only for something new.
fn set(to: &watch::Sender<Value>, value: Value) {
    to.send_if_modified(|known| {
        let is_new = *known != value;
        *known = value;
        is_new
    });
}

/// Any Secret, by its name.
struct Named {
    name: String,
    version: Version,
    data: BTreeMap<String, ByteString>,
}

impl Named {
    fn value(mut self, key: &str) -> Value {
        let Some(bytes) = self.data.remove(key) else { return Value::Missing };
        let Ok(text) = String::from_utf8(bytes.0).map(Zeroizing::new) else { return Value::Missing };
        let line = text.strip_suffix('\n').unwrap_or(&text);
        match line.strip_suffix('\r').unwrap_or(line) {
            "" => Value::Missing,
            line => Value::Known(Arc::new(Secret::new(line))),
        }
    }
}

impl Watched for Named {
    type Wire = core::Secret;

    fn of(wire: core::Secret) -> Result<Self, KubernetesError> {
        let name = wire.metadata.name.clone().unwrap_or_default();
        let version = Version::of(&wire.metadata, &name)?;
        Ok(Self { name, version, data: wire.data.unwrap_or_default() })
    }

    fn key(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &Version {
        &self.version
    }
}
