//! The cluster that this process runs in: how its API server is reached, which role it has here, and what must have been read from
//! there before it is ready. Made once; it outlives every reload.

use super::{StartError, replicas};
use crate::base::clock::Clock;
use crate::config::{self, Role};
use crate::kubernetes::{Access, Cluster, Present};
use crate::replica::Replica;
use crate::telemetry::metrics::Metrics;
use crate::users::Users;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::runtime::Runtime;

/// A cluster, and this process's part in it.
#[derive(Clone)]
pub(super) struct Joined {
    /// The connection. Its calls are made on the control plane.
    pub(super) cluster: Cluster,
    /// What this process does there.
    pub(super) role: Role,
    /// What all replicas know about users.
    pub(super) replica: Arc<Replica>,
    /// What is not there yet.
    pub(super) waits: Waits,
    /// Which namespaces have their Secret, for the webhook. Nothing is known until it is told from a watch of them.
    pub(super) present: Arc<Present>,
    /// Whether the signing keys are being followed.
    pub(super) follows_keys: Arc<AtomicBool>,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Joined").field("role", &self.role).finish_non_exhaustive()
    }
}

/// What a process waits for before it is ready, by the names that `/readyz` says.
#[derive(Debug, Clone, Default)]
pub(super) struct Waits(Arc<Mutex<Vec<&'static str>>>);

impl Waits {
    /// Not ready until [`Waits::end`] of the same.
    pub(super) fn begin(&self, what: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    /// It is there.
    pub(super) fn end(&self, what: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|waited| *waited != what);
    }

    /// All that is not there.
    pub(super) fn left(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(ToString::to_string).collect()
    }
}

/// Makes the connection of a configuration that has one, and shares what `users` decide. The API server is not waited for: that it is
/// away keeps nobody from starting.
///
/// # Errors
/// [`StartError::Kubernetes`]: no ServiceAccount here, or a kubeconfig that cannot be used.
pub(super) fn join(
    config: Option<&config::Kubernetes>,
    users: &Arc<Users>,
    (clock, metrics, runtime): (&Clock, &Metrics, &Runtime),
) -> Result<Option<Joined>, StartError> {
    let Some(config) = config else { return Ok(None) };
    let access = config.kubeconfig.clone().map_or(Access::InCluster, Access::Kubeconfig);
    let cluster = runtime.block_on(Cluster::connect(access))?;
    let cluster = match &config.namespace {
        Some(namespace) => cluster.in_namespace(namespace),
        None => cluster,
    };
    tracing::info!(role = ?config.role, namespace = cluster.namespace(), "running in a cluster");
    Ok(Some(Joined {
        replica: replicas::start(cluster.clone(), users, (clock, metrics, runtime.handle()))?,
        cluster,
        role: config.role,
        waits: Waits::default(),
        present: Arc::default(),
        follows_keys: Arc::default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    fn join_as(config: Option<&config::Kubernetes>) -> Result<Option<Joined>, StartError> {
        let clock = Clock::manual(1_800_000_000);
        join(config, &Users::in_memory(clock.clone()), (&clock, &Metrics::new(), &runtime()))
    }

    fn joined(kubeconfig: &str, namespace: Option<&str>) -> Result<Joined, StartError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig).unwrap();
        let namespace = namespace.map(str::to_owned);
        let config = config::Kubernetes { role: Role::Gateway, kubeconfig: Some(path), namespace };
        join_as(Some(&config)).map(Option::unwrap)
    }

    /// At an address where nobody listens.
    const AWAY: &str = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": "https://127.0.0.1:1"}}], "users": [{"name": "a", "user": {}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "of-the-context"}}]}"#;

    #[test]
    fn an_api_server_that_is_away_keeps_nobody_from_starting() {
        assert_eq!(joined(AWAY, None).unwrap().cluster.namespace(), "of-the-context");
        assert_eq!(joined(AWAY, Some("postern")).unwrap().cluster.namespace(), "postern");
        assert!(join_as(None).unwrap().is_none());
    }

    #[test]
    fn a_kubeconfig_that_cannot_be_used_does_and_is_named() {
        let error = joined("no: kubeconfig", None).unwrap_err();
        let StartError::Kubernetes(error) = error else { panic!("{error}") };
        assert!(error.to_string().contains("kubeconfig"), "{error}");
    }

    #[test]
    fn what_is_waited_for_is_told_until_it_is_there() {
        let waits = Waits::default();
        waits.begin("signing keys");
        waits.begin("users");
        waits.end("signing keys");
        assert_eq!(waits.left(), ["users"]);
    }
}
