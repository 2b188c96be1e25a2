//! What is known about users, shared with other replicas: begun at the start, run on the control plane, outlives every reload.

use super::cluster::Joined;
use super::{Gateway, StartError};
use crate::base::clock::Clock;
use crate::config::{self, Config};
use crate::kubernetes::Cluster;
use crate::kubernetes::state::State;
use crate::rates::Rates;
use crate::redis::{Access, Redis, Shelf};
use crate::replica::{Carrier, Counters, PARTS, Replica, SHELF, STATE};
use crate::telemetry::encode;
use crate::telemetry::metrics::Metrics;
use crate::users::Users;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;

/// The other replicas outside of a cluster, and through what they are told.
#[derive(Debug, Clone)]
pub(super) struct Beside {
    /// The connection. What is asked of it is asked on the control plane.
    redis: Arc<Redis>,
    /// What all replicas know about users.
    replica: Arc<Replica>,
    /// What all replicas count together.
    pub(super) rates: Arc<Rates>,
}

/// What all replicas know about users, where there is more than one.
pub(super) fn of<'a>(joined: Option<&'a Joined>, beside: Option<&'a Beside>) -> Option<&'a Arc<Replica>> {
    joined.map(|joined| &joined.replica).or(beside.map(|beside| &beside.replica))
}

/// Shares what `users` decide through Secrets of the cluster. As [`begin`].
pub(super) fn start(
    cluster: Cluster,
    users: &Arc<Users>,
    surroundings: (&Clock, &Metrics, &Handle),
) -> Result<Arc<Replica>, StartError> {
    begin(State::new(cluster, STATE, PARTS).map_err(StartError::Replica)?.into(), users, surroundings)
}

/// Shares what `users` decide through a Redis, if the configuration has one. It is not waited for. As [`begin`].
pub(super) fn beside(
    config: Option<&config::Redis>,
    users: &Arc<Users>,
    surroundings: (&Clock, &Metrics, &Handle),
) -> Result<Option<Beside>, StartError> {
    let Some(config) = config else { return Ok(None) };
    let redis = Redis::new(Access::new(config).map_err(StartError::Redis)?);
    let replica = begin(Shelf::new(Arc::clone(&redis), SHELF).into(), users, surroundings)?;
    tracing::info!(redis = %config.place, "sharing what is known about users");
    let rates = Arc::new(Rates::new(Arc::clone(&redis), surroundings.0.clone()));
    Ok(Some(Beside { redis, replica, rates }))
}

/// Before anything is decided: nobody is let in from now on until what is shared was read.
fn begin(
    carrier: Carrier,
    users: &Arc<Users>,
    (clock, metrics, control): (&Clock, &Metrics, &Handle),
) -> Result<Arc<Replica>, StartError> {
    let replica = Replica::new(carrier, Arc::clone(users), clock.clone())?;
    metrics.register_collector(Box::new(Shared(Arc::clone(&replica))));
    control.spawn(Arc::clone(&replica).run());
    Ok(replica)
}

impl Gateway {
    /// How Redis is reached from now on, if that changes.
    ///
    /// # Errors
    /// Its `ca` cannot be used.
    pub(super) fn redis_access(&self, current: &Config, wanted: &Config) -> Result<Option<Access>, StartError> {
        let wanted = wanted.redis.as_ref().filter(|_| self.beside.is_some());
        // A file of authorities may have changed under an unchanged configuration.
        let changed = wanted.filter(|wanted| current.redis.as_ref() != Some(*wanted) || wanted.ca.is_some());
        changed.map(Access::new).transpose().map_err(StartError::Redis)
    }

    /// Reaches it so, and gives what is in force: that there is one at all, or none, is decided at the start.
    pub(super) fn reach_redis(
        &self,
        access: Option<Access>,
        current: &Config,
        wanted: Option<config::Redis>,
    ) -> Option<config::Redis> {
        if let (Some(beside), Some(access)) = (&self.beside, access) {
            beside.redis.reach(access);
        }
        if self.beside.is_some() == wanted.is_some() {
            return wanted;
        }
        tracing::warn!("that there is a `[redis]`, or none any more, needs a restart");
        current.redis.clone()
    }
}

#[derive(Debug)]
struct Shared(Arc<Replica>);

impl Collector for Shared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let age = self.0.age().map_or(-1, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let unshared = i64::try_from(self.0.unshared()).unwrap_or(i64::MAX);
        let gauges = [
            ("users_alone", "1 while what is known about users cannot be shared", i64::from(self.0.is_alone())),
            ("users_unshared", "Keys that were decided about here and are not known to be shared", unshared),
            ("users_shared_age_seconds", "How long ago what is shared about users was last read; -1 if never", age),
        ];
        for (name, help, value) in gauges {
            encode::gauge(&mut encoder, name, help, value)?;
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
            encode::counter(&mut encoder, name, help, read(self.0.counters()).load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}
