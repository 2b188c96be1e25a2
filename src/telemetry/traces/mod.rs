//! OpenTelemetry traces: spans of sampled requests, sent to a collector by OTLP over HTTP.
//!
//! A worker writes the spans of a request into a buffer of its own when the request ends, and hands the buffer, full or twice a second,
//! to a queue with an end; the control plane sends what is there as one request. Nothing on the way waits: what the queue or the
//! collector does not take is dropped and counted.
//!
//! OTLP is written by hand (`proto`, `span`): two kinds of messages, no reader.

mod export;
mod parent;
mod proto;
mod span;

pub use export::Exporter;
pub use parent::{Share, TraceParent, new_span_id};
pub use span::{Parent, Side, Span};

use crate::base::http_client::HttpError;
use crate::base::tls::TlsError;
use crate::config;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use std::cell::RefCell;
use tokio::sync::mpsc::{Sender, channel};

/// A buffer of this size goes to the queue without waiting for the next flush.
const FULL: usize = 32 * 1024;

/// Buffers that may wait to be sent.
const QUEUE: usize = 64;

/// Why there can be no export.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// `log.traces.ca` cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No client can be made of it.
    #[error(transparent)]
    Client(#[from] HttpError),
    /// A header cannot hold the token.
    #[error("`log.traces.token` cannot be sent: it is no text of a header")]
    Token,
}

/// Spans as [`Span::write`] leaves them, one behind the other.
#[derive(Debug, Default)]
struct Batch {
    spans: Vec<u8>,
    count: u64,
}

/// Where workers' spans go. It ends the export when the last handle of it is gone.
#[derive(Debug, Clone)]
pub struct Outlet {
    queue: Sender<Batch>,
    share: Share,
    dropped: Counter,
}

/// The spans of one worker.
#[derive(Debug)]
pub struct Spans {
    outlet: Outlet,
    buffer: RefCell<Batch>,
}

/// `postern_spans_total`: spans by what became of them.
#[derive(Debug, Default)]
pub struct SpanCounts {
    spans: Family<OutcomeLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Prepares the export of spans; nothing happens before [`Exporter::run`].
///
/// # Errors
/// The collector cannot be called as configured.
pub fn open(config: &config::Traces, counts: &SpanCounts) -> Result<(Outlet, Exporter), TracesError> {
    let (queue, waiting) = channel(QUEUE);
    let exporter = Exporter::new(config, waiting, counts)?;
    let share = Share::of_a_million(config.sample);
    Ok((Outlet { queue, share, dropped: counts.of("dropped") }, exporter))
}

impl Outlet {
    /// The spans of one worker.
    pub fn spans(&self) -> Spans {
        Spans { outlet: self.clone(), buffer: RefCell::default() }
    }
}

impl Spans {
    /// The part of new traces that is sampled.
    pub fn share(&self) -> Share {
        self.outlet.share
    }

    /// Adds a span that has ended.
    pub fn add(&self, span: &Span<'_>) {
        let mut buffer = self.buffer.borrow_mut();
        span.write(&mut buffer.spans);
        buffer.count += 1;
        if buffer.spans.len() >= FULL {
            self.send(&mut buffer);
        }
    }

    /// Hands over what there is. Called twice a second, and at the end.
    pub fn flush(&self) {
        let mut buffer = self.buffer.borrow_mut();
        if buffer.count > 0 {
            self.send(&mut buffer);
        }
    }

    fn send(&self, buffer: &mut Batch) {
        let batch = std::mem::take(buffer);
        let count = batch.count;
        if self.outlet.queue.try_send(batch).is_err() {
            self.outlet.dropped.inc_by(count);
        }
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        self.flush();
    }
}

impl SpanCounts {
    pub(super) fn register(&self, registry: &mut Registry) {
        // All are there from the start, so that the first failure is an increase.
        for outcome in ["exported", "failed", "dropped"] {
            drop(self.of(outcome));
        }
        let help = "Spans that a collector took, those that it did not take, and those that found no room in the queue";
        registry.register("spans", help, self.spans.clone());
    }

    fn of(&self, outcome: &'static str) -> Counter {
        self.spans.get_or_create(&OutcomeLabel { outcome }).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> config::Traces {
        let to = "http://127.0.0.1:1/v1/traces".parse().unwrap();
        config::Traces { to, sample: 0, service: "postern".into(), token: None, ca: None }
    }

    #[test]
    fn what_the_queue_has_no_room_for_is_dropped_and_counted() {
        let counts = SpanCounts::default();
        // Kept, but never run: a collector that takes nothing.
        let (outlet, _exporter) = open(&config(), &counts).unwrap();
        let spans = outlet.spans();
        let path = "/".repeat(1000);
        let span = Span {
            trace_id: [1; 16],
            span_id: [2; 8],
            parent: None,
            side: Side::Server,
            name: "GET",
            start_ns: 1,
            end_ns: 2,
            texts: &[("url.path", Some(&path))],
            numbers: &[],
            is_error: false,
        };
        let most = QUEUE * FULL / path.len() / 2;
        (0..most).for_each(|_| spans.add(&span));
        assert_eq!(counts.of("dropped").get(), 0);
        (0..3 * most).for_each(|_| spans.add(&span));
        spans.flush();
        let dropped = counts.of("dropped").get();
        assert!(dropped > 0 && dropped < 3 * most as u64, "{dropped} of {}", 4 * most);
        // At the end, too, nobody waits.
        spans.add(&span);
        drop(spans);
        assert_eq!(counts.of("dropped").get(), dropped + 1);
    }
}
