//! Sends what workers hand over, one request at a time. Runs on the control plane.

use super::span::Origin;
use super::{Batch, SpanCounts, TracesError, new_span_id};
use crate::base::http_client::{BearerToken, HttpClient, HttpError};
use crate::base::tls;
use crate::config;
use prometheus_client::metrics::counter::Counter;
use std::fmt;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use url::Url;

/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Waits before what failed is sent again; after the last it is dropped.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// A request is not filled beyond this.
const FULL: usize = 512 * 1024;

/// Sends spans to a collector.
pub struct Exporter {
    client: HttpClient,
    to: Url,
    token: Option<BearerToken>,
    origin: Origin,
    waiting: Receiver<Batch>,
    exported: Counter,
    failed: Counter,
    /// Whether the last request failed, which is said once.
    is_failing: bool,
}

impl Exporter {
    pub(super) fn new(
        config: &config::Traces,
        waiting: Receiver<Batch>,
        counts: &SpanCounts,
    ) -> Result<Self, TracesError> {
        let tls = tls::client_config(config.ca.as_deref(), None, &[])?;
        let token = config.token.as_ref().map(|token| BearerToken::new(token).ok_or(TracesError::Token)).transpose()?;
        let instance: String = new_span_id().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            client: HttpClient::new(&tls, TIMEOUT)?,
            to: config.to.clone(),
            token,
            origin: Origin::new(&config.service, &instance),
            waiting,
            exported: counts.of("exported"),
            failed: counts.of("failed"),
            is_failing: false,
        })
    }

    /// Sends until all workers are gone and what they left is sent.
    pub async fn run(mut self) {
        while let Some(mut batch) = self.waiting.recv().await {
            while batch.spans.len() < FULL
                && let Ok(more) = self.waiting.try_recv()
            {
                batch.spans.extend_from_slice(&more.spans);
                batch.count += more.count;
            }
            self.send(&batch).await;
        }
    }

    async fn send(&mut self, batch: &Batch) {
        let request = self.origin.request(&batch.spans);
        let mut outcome = self.post(request.clone()).await;
        for pause in PAUSES {
            // Nobody waits for a collector at the end.
            if !may_pass(&outcome) || self.waiting.is_closed() {
                break;
            }
            tokio::time::sleep(pause).await;
            outcome = self.post(request.clone()).await;
        }
        match outcome {
            Ok(()) => {
                self.exported.inc_by(batch.count);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("the collector takes spans again");
                }
            }
            Err(error) => {
                self.failed.inc_by(batch.count);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, spans = batch.count, "the collector does not take spans; they are dropped");
                }
            }
        }
    }

    async fn post(&self, request: Vec<u8>) -> Result<(), HttpError> {
        self.client.post_bytes(&self.to, "application/x-protobuf", self.token.as_ref(), request).await
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").field("to", &self.to.as_str()).finish_non_exhaustive()
    }
}

/// Whether it may help to send the same again. The specification of OTLP names the statuses.
fn may_pass(outcome: &Result<(), HttpError>) -> bool {
    match outcome {
        Err(HttpError::Status { status, .. }) => matches!(status, 429 | 502 | 503 | 504),
        Err(HttpError::Unreachable { .. } | HttpError::Timeout { .. }) => true,
        _ => false,
    }
}
