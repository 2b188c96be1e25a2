//! Metrics about users: what is known against them, and how the watches over issuers go. Never a subject.

use super::watches::Watches;
use crate::issuer::keycloak::{Feed, Keycloak, Meaning};
use crate::telemetry::encode;
use crate::telemetry::metrics::Metrics;
use crate::users::{Kind, Users};
use crate::watch::Watch;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast::error::RecvError;

/// Counts decisions as they are made: for ever.
pub(super) async fn count_decisions(users: Arc<Users>, metrics: Arc<Metrics>) {
    let mut decisions = users.subscribe();
    drop(users);
    loop {
        match decisions.recv().await {
            Ok(decision) => {
                metrics.count_decision(decision.kind.code(), decision.cause.code());
                if let (Kind::Block, Some(delay_ms)) = (decision.kind, decision.delay_ms) {
                    metrics.user_block_delay.observe_us(delay_ms.saturating_mul(1000));
                }
            }
            // A burst that is too large for the channel is too large to be counted.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

#[derive(Debug)]
pub(super) struct Watched {
    users: Arc<Users>,
    watches: Arc<Watches>,
}

type Seen = Vec<(String, Arc<Watch<Keycloak>>)>;

impl Watched {
    pub(super) fn new(users: &Arc<Users>, watches: &Arc<Watches>) -> Self {
        Self { users: Arc::clone(users), watches: Arc::clone(watches) }
    }
}

impl Collector for Watched {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let cluster = self.users.cluster();
        let is_open = cluster.closed.is_none() && !cluster.is_expired;
        let of_all: [(&str, &str, u64); 3] = [
            ("blocked_users", "Users who are blocked or removed", self.users.blocked_users() as u64),
            ("cluster_open", "1 while anybody is let in", u64::from(is_open)),
            ("state_sound", "0 while something that was decided could not be stored", u64::from(self.users.is_sound())),
        ];
        for (name, help, value) in of_all {
            encode::gauge(&mut encoder, name, help, signed(value))?;
        }
        let watches = self.watches.each();
        if watches.is_empty() {
            return Ok(());
        }
        encode_feeds(&mut encoder, &watches)?;
        encode_outcomes(&mut encoder, &watches)?;
        encode_state(&mut encoder, &watches)
    }
}

fn encode_feeds(encoder: &mut DescriptorEncoder<'_>, watches: &Seen) -> fmt::Result {
    let feeds = [(Feed::Admin, "admin"), (Feed::User, "user")];
    let help = "Events of an issuer, by feed and by what they mean";
    let mut family = encoder.encode_descriptor("issuer_events", help, None, MetricType::Counter)?;
    for (issuer, watch) in watches {
        for (feed, name) in feeds {
            let counters = watch.counters().feed(feed);
            let mut add = |meaning: &str, count: &AtomicU64| {
                let labels = [("issuer", issuer.as_str()), ("feed", name), ("meaning", meaning)];
                ConstCounter::new(count.load(Ordering::Relaxed)).encode(family.encode_family(&labels)?)
            };
            for (meaning, count) in Meaning::CODES.iter().zip(&counters.events) {
                add(meaning, count)?;
            }
            add("unrelated", &counters.unrelated)?;
            add("repeated", &counters.repeated)?;
            add("malformed", &counters.malformed)?;
        }
    }
    type Read = fn(&Watch<Keycloak>, Feed) -> i64;
    let gauges: [(&str, &str, Read); 2] = [
        ("issuer_feed_lag_seconds", "How long ago a feed was last read to its end; -1 if never", |watch, feed| {
            watch.feed_lag(feed).map_or(-1, |lag| signed(lag.as_secs()))
        }),
        ("issuer_feed_off", "1 if the realm does not keep these events", |watch, feed| {
            i64::from(watch.counters().feed(feed).is_off.load(Ordering::Relaxed))
        }),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (issuer, watch) in watches {
            for (feed, name) in feeds {
                let labels = [("issuer", issuer.as_str()), ("feed", name)];
                ConstGauge::new(read(watch, feed)).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    let help = "Times that a feed could not be read";
    let mut family = encoder.encode_descriptor("issuer_feed_failures", help, None, MetricType::Counter)?;
    for (issuer, watch) in watches {
        for (feed, name) in feeds {
            let count = watch.counters().feed(feed).failures.load(Ordering::Relaxed);
            let labels = [("issuer", issuer.as_str()), ("feed", name)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_outcomes(encoder: &mut DescriptorEncoder<'_>, watches: &Seen) -> fmt::Result {
    type Read = fn(&Watch<Keycloak>) -> &AtomicU64;
    type Family<'a> = (&'a str, &'a str, &'a [(&'a str, Read)]);
    let families: [Family<'_>; 3] = [
        (
            "user_reads",
            "Single users that an issuer was asked about, by outcome",
            &[
                ("enabled", |watch| &watch.counters().reads_enabled),
                ("disabled", |watch| &watch.counters().reads_disabled),
                ("deleted", |watch| &watch.counters().reads_deleted),
                ("unknown", |watch| &watch.counters().reads_unknown),
                ("given_up", |watch| &watch.counters().given_up),
            ],
        ),
        (
            "user_sign_ins",
            "Sign-ins that were looked for after a block, by outcome",
            &[
                ("proven", |watch| &watch.counters().sign_ins_proven),
                ("missing", |watch| &watch.counters().sign_ins_missing),
                ("unknown", |watch| &watch.counters().sign_ins_unknown),
            ],
        ),
        (
            "user_sweeps",
            "Sweeps of disabled users, by outcome",
            &[("ok", |watch| &watch.counters().sweeps), ("failed", |watch| &watch.counters().sweep_failures)],
        ),
    ];
    for (name, help, outcomes) in families {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (issuer, watch) in watches {
            for (outcome, read) in outcomes {
                let labels = [("issuer", issuer.as_str()), ("outcome", *outcome)];
                ConstCounter::new(read(watch).load(Ordering::Relaxed)).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    let counters: [(&str, &str, Read); 3] = [
        ("issuer_sessions_ended", "Users whose sessions were ended at the issuer", |watch| {
            &watch.counters().sessions_ended
        }),
        ("issuer_admin_calls", "Calls to an issuer's Admin API", |watch| &watch.directory().counters().calls),
        ("issuer_admin_unauthorized", "Those that were refused for their token", |watch| {
            &watch.directory().counters().unauthorized
        }),
    ];
    for (name, help, read) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (issuer, watch) in watches {
            let value = ConstCounter::new(read(watch).load(Ordering::Relaxed));
            value.encode(family.encode_family(&[("issuer", issuer.as_str())])?)?;
        }
    }
    Ok(())
}

/// What is so at this moment.
fn encode_state(encoder: &mut DescriptorEncoder<'_>, watches: &Seen) -> fmt::Result {
    type Read = fn(&Watch<Keycloak>) -> i64;
    let gauges: [(&str, &str, Read); 5] = [
        ("issuer_credentials_refused", "1 while an issuer refuses our client id and secret", |watch| {
            i64::from(watch.directory().counters().credentials_refused.load(Ordering::Relaxed))
        }),
        ("user_reads_waiting", "Single users that are still to be asked about", |watch| {
            signed(watch.errands_waiting() as u64)
        }),
        ("user_sweep_found", "Disabled users that the last sweep found", |watch| {
            signed(watch.counters().sweep_users.load(Ordering::Relaxed))
        }),
        ("user_sweep_late", "1 while a sweep takes longer than `bound` allows", |watch| {
            i64::from(watch.counters().sweep_is_late.load(Ordering::Relaxed))
        }),
        ("user_sweep_milliseconds", "How long the last sweep took", |watch| {
            signed(watch.counters().sweep_took_ms.load(Ordering::Relaxed))
        }),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (issuer, watch) in watches {
            ConstGauge::new(read(watch)).encode(family.encode_family(&[("issuer", issuer.as_str())])?)?;
        }
    }
    let help = "By how much an issuer's clock is ahead of ours, at least";
    let mut family = encoder.encode_descriptor("issuer_clock_offset_seconds", help, None, MetricType::Gauge)?;
    for (issuer, watch) in watches {
        if let Some(offset) = watch.clock_offset_seconds() {
            ConstGauge::new(offset).encode(family.encode_family(&[("issuer", issuer.as_str())])?)?;
        }
    }
    Ok(())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
