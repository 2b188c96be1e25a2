//! Limits of routes that replicas outside of a cluster count together: begun at the start, run on the control plane, outlives every
//! reload.

use super::replicas::Beside;
use crate::pipeline::Pipeline;
use crate::rates::Rates;
use crate::telemetry::encode;
use crate::telemetry::metrics::Metrics;
use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::runtime::Handle;

/// Counts the limits of the pipeline in force together with others, if there is a Redis. It is not waited for.
pub(super) fn start(
    beside: Option<&Beside>,
    pipeline: &Arc<ArcSwap<Pipeline>>,
    (metrics, control): (&Metrics, &Handle),
) {
    let Some(beside) = beside else { return };
    let (rates, pipeline) = (Arc::clone(&beside.rates), Arc::clone(pipeline));
    metrics.register_collector(Box::new(Shared { rates: Arc::clone(&rates), pipeline: Arc::clone(&pipeline) }));
    control.spawn(rates.run(move || pipeline.load().route_limits().ledgers()));
}

#[derive(Debug)]
struct Shared {
    rates: Arc<Rates>,
    pipeline: Arc<ArcSwap<Pipeline>>,
}

impl Collector for Shared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "1 while limits of routes that replicas are to count together are counted by this one alone";
        encode::gauge(&mut encoder, "route_limits_alone", help, i64::from(self.rates.is_alone()))?;
        let counters = self.rates.counters();
        let (exchanges, failures) = (&counters.exchanges, &counters.failures);
        let counters = [
            (
                "route_limits_exchanges",
                "Times that replicas were told what was taken of limits that they count together",
                exchanges.load(Ordering::Relaxed),
            ),
            ("route_limits_exchange_failures", "Times that this failed", failures.load(Ordering::Relaxed)),
            (
                "route_limits_untold",
                "Requests that other replicas were not told of, since too many keys were in use at once",
                self.pipeline.load().route_limits().untold(),
            ),
        ];
        for (name, help, value) in counters {
            encode::counter(&mut encoder, name, help, value)?;
        }
        Ok(())
    }
}
