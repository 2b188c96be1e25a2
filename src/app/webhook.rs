//! The thread of the admission webhook: what strangers post to it must keep neither requests nor the control plane waiting.

use super::workers::until_drain;
use super::{Gateway, StartError, webhook_tls};
use crate::base::clock::Clock;
use crate::config;
use crate::telemetry::metrics::Metrics;
use crate::webhook::{Certificates, KnownSecret, Webhook};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How often certificates are looked after.
const MAINTAIN_EVERY: Duration = Duration::from_secs(60);

/// The webhook's listener and certificates, before it serves.
#[derive(Debug)]
pub(super) struct Opened {
    listener: TcpListener,
    certificates: Arc<Certificates>,
}

/// The webhook while it serves.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) thread: JoinHandle<()>,
}

/// Opens the listener, where there is to be one, and makes the certificates that it needs.
pub(super) fn open(config: Option<&config::Webhook>, clock: &Clock) -> Result<Option<Opened>, StartError> {
    let Some(config) = config else { return Ok(None) };
    let (names, clock) = (config.names.clone(), clock.clone());
    let certificates = match &config.directory {
        Some(directory) => Certificates::open(directory.clone(), names, clock)?,
        None => Certificates::shared(names, clock),
    };
    let listen = || {
        let listener = TcpListener::bind(config.listen)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    let listener = listen().map_err(|source| StartError::Listen { address: config.listen, source })?;
    Ok(Some(Opened { listener, certificates: Arc::new(certificates) }))
}

impl Gateway {
    pub(super) fn start_webhook(&self, opened: Opened) -> Result<Running, StartError> {
        let Opened { listener, certificates } = opened;
        let address = listener.local_addr().map_err(StartError::Thread)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(StartError::Thread)?;
        let (metrics, mut phase) = (Arc::clone(&self.metrics), self.phase.subscribe());
        if let Some(joined) = &self.joined {
            webhook_tls::start(joined, Arc::clone(&certificates), &metrics, &self.shared().control)?;
        }
        webhook_tls::tell_expiry(&certificates, &metrics);
        let present = self.joined.as_ref().map(|joined| Arc::clone(&joined.present));
        let secrets =
            Arc::new(move |namespace: &str| match present.as_ref().and_then(|present| present.look(namespace)) {
                Some(true) => KnownSecret::Present,
                Some(false) => KnownSecret::Absent,
                None => KnownSecret::Unknown,
            });
        let webhook = Webhook::new(Arc::clone(&certificates), secrets, Arc::clone(&metrics));
        let run = move || {
            runtime.block_on(async move {
                let listener = match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => return tracing::error!(%error, "the webhook cannot be served"),
                };
                tokio::spawn(maintain(certificates, metrics));
                let drained = async move {
                    until_drain(&mut phase).await;
                };
                webhook.serve(listener, drained).await;
            });
        };
        let thread = std::thread::Builder::new().name("webhook".into()).spawn(run).map_err(StartError::Thread)?;
        Ok(Running { address, thread })
    }
}

async fn maintain(certificates: Arc<Certificates>, metrics: Arc<Metrics>) {
    loop {
        tokio::time::sleep(MAINTAIN_EVERY).await;
        let maintained = Arc::clone(&certificates);
        match tokio::task::spawn_blocking(move || maintained.maintain()).await {
            Ok(Ok(false)) | Err(_) => {}
            Ok(Ok(true)) => tracing::info!("the webhook's certificates changed"),
            Ok(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the webhook's certificates cannot be renewed"
                );
                metrics.webhook_certificate_failures.inc();
            }
        }
        webhook_tls::tell_expiry(&certificates, &metrics);
    }
}
