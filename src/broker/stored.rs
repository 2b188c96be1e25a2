//! Secrets that are kept in Kubernetes, in Postern's own namespace, each as the header that carries it.

use crate::base::secret::Secret;
use crate::config::StoredSecret;
use crate::kubernetes::secret_value::{Follow, SecretKey, Value};
use crate::kubernetes::{Cluster, KubernetesError};
use arc_swap::ArcSwapOption;
use http::HeaderValue;
use std::fmt;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use zeroize::Zeroizing;

/// One of them. It is followed as long as somebody holds this.
pub(super) struct Stored {
    config: Arc<StoredSecret>,
    header: Arc<ArcSwapOption<HeaderValue>>,
    tasks: [AbortHandle; 2],
}

impl Stored {
    /// Follows a Secret from now on.
    pub(super) fn follow(
        config: &Arc<StoredSecret>,
        cluster: &Cluster,
        control: &Handle,
    ) -> Result<Self, KubernetesError> {
        let StoredSecret { secret, key, .. } = &**config;
        let of = SecretKey { namespace: cluster.namespace().to_owned(), name: secret.clone(), key: key.clone() };
        let (follow, value) = Follow::new(cluster, of)?;
        let header = Arc::<ArcSwapOption<HeaderValue>>::default();
        let keep = keep(Arc::clone(config), value, Arc::clone(&header));
        let tasks = [control.spawn(follow.run()).abort_handle(), control.spawn(keep).abort_handle()];
        Ok(Self { config: Arc::clone(config), header, tasks })
    }

    pub(super) fn is_of(&self, config: &StoredSecret) -> bool {
        *self.config == *config
    }

    /// What is sent now; nothing while the Secret is not there.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        self.header.load().as_deref().cloned()
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored").field("config", &self.config).finish_non_exhaustive()
    }
}

async fn keep(config: Arc<StoredSecret>, mut value: watch::Receiver<Value>, header: Arc<ArcSwapOption<HeaderValue>>) {
    loop {
        let found = match &*value.borrow_and_update() {
            Value::Unknown => None,
            Value::Missing => {
                let (secret, key) = (&config.secret, &config.key);
                tracing::warn!(secret, key, "a credential of upstreams is not in its Secret");
                None
            }
            Value::Known(secret) => header_of(&config, secret),
        };
        header.store(found.map(Arc::new));
        if value.changed().await.is_err() {
            return;
        }
    }
}

fn header_of(config: &StoredSecret, secret: &Secret) -> Option<HeaderValue> {
    let whole = Zeroizing::new(format!("{}{}", config.prefix, secret.expose()));
    match HeaderValue::from_str(&whole) {
        Ok(mut header) => {
            header.set_sensitive(true);
            Some(header)
        }
        Err(_) => {
            let (secret, key) = (&config.secret, &config.key);
            tracing::warn!(secret, key, "a credential of upstreams holds a character that no header can carry");
            None
        }
    }
}
