//! The MutatingWebhookConfiguration of Postern's own webhook, of which Postern writes one field: whom the API server is to trust.

use super::call::Target;
use super::connect::Cluster;
use super::error::KubernetesError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// How often a write is decided anew because others wrote meanwhile.
const ATTEMPTS: usize = 3;

/// The configuration `postern`.
#[derive(Clone)]
pub struct WebhookConfiguration {
    cluster: Cluster,
    target: Target,
}

/// What stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bundle {
    /// What is to stand there.
    Right,
    /// Something else.
    Other,
    /// There is no such configuration, or no webhook in it.
    Missing,
}

impl WebhookConfiguration {
    /// The configuration of this name.
    ///
    /// # Errors
    /// [`KubernetesError::Invalid`] for a name that is none.
    pub fn new(cluster: Cluster, name: &str) -> Result<Self, KubernetesError> {
        let group = "apis/admissionregistration.k8s.io/v1";
        Ok(Self { target: Target::object(group, None, "mutatingwebhookconfigurations", name)?, cluster })
    }

    /// Whether each webhook's `caBundle` is this text.
    ///
    /// # Errors
    /// All but [`KubernetesError::NotFound`].
    pub async fn compare(&self, bundle: &str) -> Result<Bundle, KubernetesError> {
        Ok(self.read(bundle).await?.0)
    }

    /// Sets each webhook's `caBundle` to this text, where it is another, and nothing else. What it was is told.
    ///
    /// # Errors
    /// [`KubernetesError::Conflict`] if others write without end.
    pub async fn set(&self, bundle: &str) -> Result<Bundle, KubernetesError> {
        let mut conflict = None;
        for _ in 0..ATTEMPTS {
            let mut object = match self.read(bundle).await? {
                (Bundle::Other, object) => object,
                (found, _) => return Ok(found),
            };
            for webhook in object["webhooks"].as_array_mut().into_iter().flatten() {
                webhook["clientConfig"]["caBundle"] = STANDARD.encode(bundle).into();
            }
            // A merge patch replaces a list as a whole, so it is decided on the version that was read.
            let version = &object["metadata"]["resourceVersion"];
            let body = json!({ "metadata": { "resourceVersion": version }, "webhooks": object["webhooks"] });
            match self.cluster.merge::<Value>(&self.target, &body).await {
                Ok(_) => return Ok(Bundle::Other),
                Err(error @ KubernetesError::Conflict { .. }) => conflict = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(conflict.unwrap_or_else(|| KubernetesError::Unexpected { what: self.target.what().to_owned() }))
    }

    async fn read(&self, bundle: &str) -> Result<(Bundle, Value), KubernetesError> {
        let object = match self.cluster.get::<Value>(&self.target).await {
            Ok(object) => object,
            Err(KubernetesError::NotFound { .. }) => return Ok((Bundle::Missing, Value::Null)),
            Err(error) => return Err(error),
        };
        let wanted = STANDARD.encode(bundle);
        let is_right = |webhook: &Value| webhook["clientConfig"]["caBundle"].as_str() == Some(wanted.as_str());
        let bundle = match object["webhooks"].as_array().map(Vec::as_slice) {
            None | Some([]) => Bundle::Missing,
            Some(webhooks) if webhooks.iter().all(is_right) => Bundle::Right,
            Some(_) => Bundle::Other,
        };
        Ok((bundle, object))
    }
}
