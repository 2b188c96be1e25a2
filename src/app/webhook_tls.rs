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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use crate::kubernetes::tests::server::{ApiServer, eventually};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};
    use tokio::task::JoinHandle;

    const GROUP: &str = "apis/admissionregistration.k8s.io/v1";
    const KIND: &str = "mutatingwebhookconfigurations";

    fn names() -> Vec<String> {
        vec!["postern-webhook.postern.svc".to_owned()]
    }

    /// One process, as far as certificates go; gone when dropped. Its bundle is looked at when a test says so.
    struct Replica {
        tls: Arc<Tls>,
        configuration: WebhookConfiguration,
        secret: OwnSecret,
        task: JoinHandle<Result<(), crate::kubernetes::KubernetesError>>,
    }

    impl Drop for Replica {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Replica {
        async fn start(server: &ApiServer, clock: &Clock) -> Self {
            let certificates = Arc::new(Certificates::shared(names(), clock.clone()));
            let (metrics, waits) = (Arc::new(Metrics::new()), Waits::default());
            let tls = Arc::new(Tls { certificates, metrics, waits, changed: Notify::new() });
            let cluster = server.connect().await;
            let configuration = WebhookConfiguration::new(cluster.clone(), CONFIGURATION).unwrap();
            let secret = OwnSecret::new(cluster, SECRET).unwrap();
            let task = tokio::spawn(SharedSecret::new(secret.clone(), SECRET, Arc::clone(&tls), true).run());
            Self { tls, configuration, secret, task }
        }

        async fn trust(&self) -> Bundle {
            trust(&self.tls.certificates, &self.configuration, &self.secret).await.unwrap()
        }

        fn bundle(&self) -> String {
            self.tls.certificates.ca_bundle()
        }
    }

    fn register(server: &ApiServer) {
        let hook =
            |name: &str| json!({ "name": name, "clientConfig": { "url": "https://a" }, "failurePolicy": "Fail" });
        let webhooks = [hook("pods.postern.dev"), hook("other.postern.dev")];
        server.put(GROUP, KIND, None, &json!({ "metadata": { "name": CONFIGURATION }, "webhooks": webhooks }));
    }

    fn hooks(server: &ApiServer) -> Value {
        server.get(GROUP, KIND, None, CONFIGURATION).unwrap()["webhooks"].clone()
    }

    fn trusted(server: &ApiServer) -> String {
        let bundle = hooks(server)[0]["clientConfig"]["caBundle"].as_str().unwrap_or_default().to_owned();
        String::from_utf8(STANDARD.decode(bundle).unwrap()).unwrap()
    }

    /// What lies in the Secret; nothing if there is none.
    fn shared(server: &ApiServer) -> Material {
        let object = server.get("api/v1", "secrets", Some("postern"), SECRET).unwrap_or_default();
        let decode = |(name, text): (&String, &Value)| {
            (name.clone(), String::from_utf8(STANDARD.decode(text.as_str().unwrap()).unwrap()).unwrap())
        };
        let texts: Vec<_> = object["data"].as_object().into_iter().flatten().map(decode).collect();
        Material::parse(texts.iter().map(|(name, text)| (name.as_str(), text.as_str()))).unwrap()
    }

    fn edit(server: &ApiServer, change: impl FnOnce(&mut Value)) {
        let mut object = server.get("api/v1", "secrets", Some("postern"), SECRET).unwrap();
        change(&mut object);
        server.put("api/v1", "secrets", Some("postern"), &object);
    }

    #[tokio::test]
    async fn replicas_serve_one_authority_which_the_api_server_is_told_to_trust() {
        let (server, clock) = (ApiServer::start().await, Clock::manual(1_800_000_000));
        let (a, b) = tokio::join!(Replica::start(&server, &clock), Replica::start(&server, &clock));
        eventually("both serve", || !a.bundle().is_empty() && a.bundle() == b.bundle()).await;
        assert_eq!(a.trust().await, Bundle::Missing);
        register(&server);
        assert_eq!((a.trust().await, b.trust().await), (Bundle::Other, Bundle::Right));
        assert_eq!(trusted(&server), a.bundle());
        let hooks = hooks(&server);
        assert_eq!(hooks[1]["clientConfig"]["caBundle"], hooks[0]["clientConfig"]["caBundle"]);
        assert_eq!(
            (&hooks[0]["clientConfig"]["url"], &hooks[0]["failurePolicy"]),
            (&json!("https://a"), &json!("Fail"))
        );
        register(&server);
        assert_eq!(b.trust().await, Bundle::Other, "what was taken away is put back");
        assert_eq!(trusted(&server), a.bundle());
    }

    /// Four hundred days, each with a look at the Secret and one at the bundle.
    #[tokio::test]
    async fn for_a_year_what_is_served_is_trusted_before_and_after_each_look() {
        let (server, clock) = (ApiServer::start().await, Clock::manual(1_800_000_000));
        register(&server);
        let mut replicas = [Replica::start(&server, &clock).await, Replica::start(&server, &clock).await];
        let (mut bundles, mut told) = (std::collections::BTreeSet::new(), None::<Material>);
        for day in 0..400 {
            if day % 50 == 49 {
                replicas[day % 2] = Replica::start(&server, &clock).await;
            }
            let now = clock.now().unix_ms / 1000;
            eventually("what is due is done, and served", || {
                let shared = shared(&server);
                let is_served = |replica: &Replica| replica.bundle() == shared.ca_bundle();
                shared.maintained(&names(), now).unwrap().is_none() && replicas.iter().all(is_served)
            })
            .await;
            let serving = shared(&server);
            if let Some(told) = &told {
                assert!(told.accepts(&serving, &names(), now), "day {day}: before the bundle is looked at");
            }
            replicas[day % 2].trust().await;
            assert_eq!(trusted(&server), serving.ca_bundle(), "day {day}");
            bundles.insert(trusted(&server));
            told = Some(serving);
            clock.advance(Duration::from_secs(86_400));
            edit(&server, |object| object["metadata"]["annotations"] = json!({ "day": day.to_string() }));
        }
        assert_eq!(bundles.len(), 3, "one authority, both, the other");
    }

    #[tokio::test]
    async fn a_replica_that_is_behind_takes_no_authority_away() {
        let (server, clock) = (ApiServer::start().await, Clock::manual(1_800_000_000));
        register(&server);
        let behind = Replica::start(&server, &clock).await;
        eventually("it serves", || !behind.bundle().is_empty()).await;
        behind.task.abort();
        let old = behind.bundle();
        server.remove("api/v1", "secrets", Some("postern"), SECRET);
        let other = Replica::start(&server, &clock).await;
        eventually("another one serves", || !other.bundle().is_empty()).await;
        assert_eq!(behind.trust().await, Bundle::Other);
        assert!(old != other.bundle() && trusted(&server) == other.bundle());
    }

    #[tokio::test]
    async fn a_damaged_secret_changes_nothing_and_is_counted() {
        let (server, clock) = (ApiServer::start().await, Clock::manual(1_800_000_000));
        let replica = Replica::start(&server, &clock).await;
        eventually("it serves", || !replica.bundle().is_empty()).await;
        let bundle = replica.bundle();
        let serving = "serving-1800000000.pem";
        // The certificate with the key of the authority.
        let files = shared(&server).files();
        let foreign = files["authority-1800000000.pem"].expose().split_once("-----END CERTIFICATE-----\n").unwrap().1;
        let own = files[serving].expose().split_once("-----BEGIN PRIVATE KEY").unwrap().0;
        for text in ["no certificate".to_owned(), format!("{own}{foreign}")] {
            let before = replica.tls.metrics.webhook_certificate_failures.get();
            edit(&server, |object| object["data"][serving] = STANDARD.encode(&text).into());
            eventually("it is counted", || replica.tls.metrics.webhook_certificate_failures.get() > before).await;
            assert_eq!(replica.bundle(), bundle);
        }
        server.remove("api/v1", "secrets", Some("postern"), SECRET);
        eventually("it is written again", || shared(&server).ca_bundle() == bundle).await;
    }
}
