//! How the API server is reached: as the pod's ServiceAccount, or as a kubeconfig file says.

use super::error::KubernetesError;
use arc_swap::ArcSwap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest that a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest that a connection takes nothing of what is sent.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often, at most, credentials are read again because they were refused.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// Who Postern is to the API server, and where that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// The ServiceAccount of the pod: `/var/run/secrets/kubernetes.io/serviceaccount` and `KUBERNETES_SERVICE_HOST`. The token and
    /// the authority are read again about once a minute.
    InCluster,
    /// The current context of a kubeconfig file. A `tokenFile` in it is read again as in the cluster.
    Kubeconfig(PathBuf),
}

/// A connection to one API server as one account. Cheap to clone.
///
/// Nothing is sent twice here: what failed is told, and the caller decides. The one exception is a 401, which makes the credentials be
/// read again, at most every five seconds, and the request be sent once more.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
    namespace: Arc<str>,
}

struct Inner {
    /// `None`: what we were given is all there is.
    access: Option<Access>,
    client: ArcSwap<Client>,
    renewed: Mutex<Option<Instant>>,
}

impl Cluster {
    /// Reads who we are and where the API server is; sends nothing yet. To be called on the runtime that will use it.
    ///
    /// # Errors
    /// [`KubernetesError::Setup`]: no ServiceAccount here, a kubeconfig that cannot be read or used, one that switches the
    /// verification of the server off, or one that speaks clear text to another host.
    pub async fn connect(access: Access) -> Result<Self, KubernetesError> {
        let config = load(&access).await?;
        Ok(Self::of(Some(access), client(config)?))
    }

    /// A connection over a client that somebody made, whose default namespace is Postern's own: for tests whose API server is in
    /// memory. Refused credentials are not read again.
    pub fn over(client: Client) -> Self {
        Self::of(None, client)
    }

    fn of(access: Option<Access>, client: Client) -> Self {
        let namespace = client.default_namespace().into();
        let client = ArcSwap::from_pointee(client);
        Self { inner: Arc::new(Inner { access, client, renewed: Mutex::new(None) }), namespace }
    }

    /// The same connection, with another namespace as Postern's own.
    #[must_use]
    pub fn in_namespace(self, namespace: &str) -> Self {
        Self { namespace: namespace.into(), ..self }
    }

    /// Postern's own namespace: the pod's, or the context's, unless another was given.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn client(&self) -> Arc<Client> {
        self.inner.client.load_full()
    }

    /// Reads the credentials again after they were refused. Whether it makes sense to ask again.
    pub(super) async fn renew(&self) -> bool {
        let Some(access) = &self.inner.access else { return false };
        {
            let mut renewed = self.inner.renewed.lock().unwrap_or_else(PoisonError::into_inner);
            if renewed.is_some_and(|at| at.elapsed() < RENEW_EVERY) {
                return false;
            }
            *renewed = Some(Instant::now());
        }
        let fresh = match load(access).await {
            Ok(config) => client(config),
            Err(error) => Err(error),
        };
        match fresh {
            Ok(client) => {
                self.inner.client.store(Arc::new(client));
                true
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "our credentials cannot be read again");
                false
            }
        }
    }
}

async fn load(access: &Access) -> Result<Config, KubernetesError> {
    let mut config = match access {
        Access::InCluster => Config::incluster_env()
            .map_err(|error| KubernetesError::Setup(format!("no ServiceAccount of a pod is here: {error}")))?,
        Access::Kubeconfig(path) => {
            let unusable = |cause: String| KubernetesError::Setup(format!("`{}`: {cause}", path.display()));
            let file = Kubeconfig::read_from(path).map_err(|error| unusable(error.to_string()))?;
            let names_proxy = file.clusters.iter().any(|named| {
                named
                    .cluster
                    .as_ref()
                    .is_some_and(|cluster| cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()))
            });
            if names_proxy {
                return Err(unusable("a `proxy-url` is not supported".to_owned()));
            }
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
            let config = config.map_err(|error| unusable(error.to_string()))?;
            if config.accept_invalid_certs {
                return Err(unusable("`insecure-skip-tls-verify` is not supported".to_owned()));
            }
            if config.cluster_url.scheme_str() != Some("https") && !is_loopback(config.cluster_url.host()) {
                return Err(unusable("`server` must begin with `https://`".to_owned()));
            }
            config
        }
    };
    // Where our credentials go is not for the environment to say.
    config.proxy_url = None;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.write_timeout = Some(WRITE_TIMEOUT);
    // A watch is silent for long; each request has its own limit.
    config.read_timeout = None;
    config.default_retry = false;
    Ok(config)
}

fn client(config: Config) -> Result<Client, KubernetesError> {
    Client::try_from(config).map_err(|error| KubernetesError::Setup(format!("no client can be made: {error}")))
}

fn is_loopback(host: Option<&str>) -> bool {
    let Some(host) = host else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
