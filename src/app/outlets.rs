//! Where what workers tell of requests goes: access lines and spans.

use super::StartError;
use crate::config::Log;
use crate::telemetry::access_log::{AccessLog, Writer};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{self, Outlet, Spans};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// The other ends of what workers hold. Dropped after them, it waits until the access lines are written.
#[derive(Debug)]
pub(super) struct Outlets {
    writer: Writer,
    spans: Option<Outlet>,
}

impl Outlets {
    /// Opens the access log and starts the export of spans, where there is any; it ends when all has been sent that workers left.
    pub(super) fn start(
        log: &Log,
        metrics: &Metrics,
        control: &Handle,
    ) -> Result<(Self, Option<JoinHandle<()>>), StartError> {
        let writer = Writer::start(&log.access).map_err(StartError::AccessLog)?;
        let opened = log.traces.as_ref().map(|config| traces::open(config, &metrics.spans)).transpose()?;
        let (spans, exporter) = opened.unzip();
        Ok((Self { writer, spans }, exporter.map(|exporter| control.spawn(exporter.run()))))
    }

    /// What one worker holds.
    pub(super) fn of_worker(&self, metrics: &Metrics) -> (AccessLog, Option<Spans>) {
        let log = self.writer.log(metrics.access_lines_dropped.clone());
        (log, self.spans.as_ref().map(Outlet::spans))
    }

    /// Opens the access log again, after it was moved away.
    pub(super) fn reopen(&self) {
        self.writer.reopen();
    }
}
