//! The webhook's certificates in a cluster: all replicas serve what is in the Secret `postern-webhook-tls`, and the API server is told
//! to trust it.

use super::StartError;
use super::cluster::{Joined, Waits};
use super::shared_secret::{Kept, SharedSecret};
use crate::base::secret::Secret;
use crate::kubernetes::own_secret::OwnSecret;
use crate::kubernetes::{Bundle, WebhookConfiguration};
use crate::telemetry::metrics::Metrics;
use crate::webhook::{CertificateError, Certificates, Material};
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// The name of the Secret.
const SECRET: &str = "postern-webhook-tls";

/// The name of the MutatingWebhookConfiguration.
const CONFIGURATION: &str = "postern";

/// What a process waits for before it is ready.
const WAITED_FOR: &str = "the webhook's certificate";

/// How often it is looked whether the API server still trusts what is served.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What is shared, and what is told of it.
pub(super) struct Tls {
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    waits: Waits,
    /// Told when what is served has changed.
    changed: Notify,
}

impl Kept for Tls {
    type Content = Material;
    type Error = CertificateError;

    fn read(texts: &BTreeMap<String, Secret>) -> Result<Option<Material>, CertificateError> {
        let material = Material::parse(texts.iter().map(|(name, text)| (name.as_str(), text.expose())))?;
        material.check()?;
        Ok(Some(material).filter(|material| !material.is_empty()))
    }

    fn texts(content: &Material) -> BTreeMap<String, Secret> {
        content.files()
    }

    fn due(&self, found: Option<&Material>) -> Result<Option<Material>, CertificateError> {
        self.certificates.due(found)
    }

    fn adopt(&self, content: &Material) {
        match self.certificates.put(content.clone()) {
            Ok(_) => {
                tracing::info!("the webhook's certificates changed");
                tell_expiry(&self.certificates, &self.metrics);
                self.waits.end(WAITED_FOR);
                self.changed.notify_one();
            }
            // Without a serving certificate, which is then made.
            Err(error) => tracing::debug!(error = &error as &dyn Error, "the webhook's certificates are not complete"),
        }
    }

    fn count_failure(&self) {
        self.metrics.webhook_certificate_failures.inc();
    }
}

/// Shows when the certificate ends.
pub(super) fn tell_expiry(certificates: &Certificates, metrics: &Metrics) {
    let expires = certificates.expires().and_then(|expires| i64::try_from(expires).ok()).unwrap_or_default();
    metrics.webhook_certificate_expires.set(expires);
}

/// Has the certificates followed and looked after, on the control plane.
pub(super) fn start(
    joined: &Joined,
    certificates: Arc<Certificates>,
    metrics: &Arc<Metrics>,
    control: &Handle,
) -> Result<(), StartError> {
    joined.waits.begin(WAITED_FOR);
    let (metrics, waits) = (Arc::clone(metrics), joined.waits.clone());
    let tls = Arc::new(Tls { certificates, metrics, waits, changed: Notify::new() });
    let secret = OwnSecret::new(joined.cluster.clone(), SECRET)?;
    let configuration = WebhookConfiguration::new(joined.cluster.clone(), CONFIGURATION)?;
    control.spawn(SharedSecret::new(secret.clone(), SECRET, Arc::clone(&tls), true).run());
    control.spawn(keep_trusted(tls, configuration, secret));
    Ok(())
}

/// Keeps `caBundle` right, for ever.
async fn keep_trusted(tls: Arc<Tls>, configuration: WebhookConfiguration, secret: OwnSecret) {
    let mut said = String::new();
    loop {
        tokio::select! {
            () = tls.changed.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = match trust(&tls.certificates, &configuration, &secret).await {
            Ok(Bundle::Missing) => {
                "no webhook is registered as `postern`: pods that ask for a token get none".to_owned()
            }
            Ok(Bundle::Right) => String::new(),
            Ok(Bundle::Other) => {
                tracing::info!("the API server was told to trust the webhook's certificates");
                String::new()
            }
            Err(error) => {
                tls.count_failure();
                error.to_string()
            }
        };
        if now != said && !now.is_empty() {
            tracing::warn!(why = now, "the API server cannot be told to trust the webhook");
        }
        said = now;
    }
}

async fn trust(
    certificates: &Certificates,
    configuration: &WebhookConfiguration,
    secret: &OwnSecret,
) -> Result<Bundle, Box<dyn Error + Send + Sync>> {
    let known = certificates.ca_bundle();
    if known.is_empty() {
        return Ok(Bundle::Right);
    }
    match configuration.compare(&known).await? {
        // What is written is what is shared now: we may be behind, and must not take away whom another replica added.
        Bundle::Other => match secret.read().await?.map(|texts| Tls::read(texts.texts())).transpose()?.flatten() {
            Some(shared) => Ok(configuration.set(&shared.ca_bundle()).await?),
            // It is about to be written again.
            None => Ok(Bundle::Right),
        },
        other => Ok(other),
    }
}
