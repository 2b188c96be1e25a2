//! What is known about users, shared with other replicas: begun at the start, run on the control plane, outlives every reload.

use super::StartError;
use crate::base::clock::Clock;
use crate::kubernetes::Cluster;
use crate::kubernetes::state::State;
use crate::replica::{Counters, PARTS, Replica, STATE};
use crate::telemetry::metrics::Metrics;
use crate::users::Users;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;

/// Shares what `users` decide through Secrets of the cluster, if there is one. Before anything is decided: nobody is let in from now
/// on until what is shared was read.
pub(super) fn start(
    cluster: Option<Cluster>,
    users: &Arc<Users>,
    (clock, metrics, control): (&Clock, &Metrics, &Handle),
) -> Result<Option<Arc<Replica>>, StartError> {
    let Some(cluster) = cluster else { return Ok(None) };
    let state = State::new(cluster, STATE, PARTS).map_err(StartError::Replica)?;
    let replica = Replica::new(state, Arc::clone(users), clock.clone())?;
    metrics.register_collector(Box::new(Shared(Arc::clone(&replica))));
    control.spawn(Arc::clone(&replica).run());
    Ok(Some(replica))
}

#[derive(Debug)]
struct Shared(Arc<Replica>);

impl Collector for Shared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let age = self.0.age().map_or(-1, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let unshared = i64::try_from(self.0.unshared()).unwrap_or(i64::MAX);
        let gauges = [
            ("users_unshared", "Keys that were decided about here and are not known to be shared", unshared),
            ("users_shared_age_seconds", "How long ago what is shared about users was last read; -1 if never", age),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        type Read = fn(&Counters) -> &AtomicU64;
        let counters: [(&str, &str, Read); 3] = [
            ("users_share_conflicts", "Decisions that were merged with what others had shared meanwhile", |counters| {
                &counters.conflicts
            }),
            ("users_share_failures", "Reads and writes of what is shared about users that failed", |counters| {
                &counters.failures
            }),
            ("users_share_repairs", "Keys that somebody removed or put back, and that were put again", |counters| {
                &counters.repairs
            }),
        ];
        for (name, help, read) in counters {
            let counter = ConstCounter::new(read(self.0.counters()).load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
