//! Metrics that are read where they are kept: issuers, user status, cached tokens.

use super::observe_users::Watched;
use super::watches::Watches;
use crate::base::clock::Now;
use crate::identity::Verifier;
use crate::identity::ceiling::Kind;
use crate::identity::source::Numbers;
use crate::issuer::Issuer;
use crate::pipeline::Pipeline;
use crate::telemetry::encode;
use crate::telemetry::metrics::Metrics;
use crate::upstream::State;
use crate::users::Users;
use arc_swap::ArcSwap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Has the metrics of the pipeline in force shown, and those of what watches users.
pub(super) fn register(
    metrics: &Metrics,
    pipeline: &Arc<ArcSwap<Pipeline>>,
    users: &Arc<Users>,
    watches: &Arc<Watches>,
) {
    metrics.register_collector(Box::new(InForce(Arc::clone(pipeline))));
    metrics.register_collector(Box::new(Watched::new(users, watches)));
}

#[derive(Debug)]
struct InForce(Arc<ArcSwap<Pipeline>>);

impl Collector for InForce {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let pipeline = self.0.load_full();
        let verifier = pipeline.verifier();
        encode_issuers(&mut encoder, verifier)?;
        encode_keys(&mut encoder, verifier, pipeline.now())?;
        encode_status(&mut encoder, verifier)?;
        encode_asking(&mut encoder, verifier)?;
        encode_upstreams(&mut encoder, &pipeline)?;
        encode_limits(&mut encoder, &pipeline)?;
        let tokens = i64::try_from(verifier.cache().len()).unwrap_or(i64::MAX);
        let keys = i64::try_from(pipeline.token_service().ring().published().len()).unwrap_or(i64::MAX);
        encode::gauge(&mut encoder, "cached_tokens", "Verified tokens that are remembered", tokens)?;
        encode::gauge(&mut encoder, "published_signing_keys", "Signing keys in Postern's own key set", keys)
    }
}

fn encode_issuers(encoder: &mut DescriptorEncoder<'_>, verifier: &Verifier) -> fmt::Result {
    type Read = fn(&Issuer) -> &AtomicU64;
    let counters: [(&str, &str, Read); 5] = [
        ("key_fetches", "Times that an issuer's keys were asked for", |issuer| &issuer.counters().fetches),
        ("key_fetch_failures", "Times that they did not come", |issuer| &issuer.counters().failures),
        ("key_early_fetches", "Fetches caused by an unknown key id", |issuer| &issuer.counters().early_fetches),
        ("introspections", "Tokens that an issuer was asked about", |issuer| &issuer.counters().introspections),
        ("introspection_failures", "Times that it did not answer", |issuer| &issuer.counters().introspection_failures),
    ];
    for (name, help, read) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for issuer in verifier.issuers() {
            let value = ConstCounter::new(read(issuer).load(Ordering::Relaxed));
            value.encode(family.encode_family(&[("issuer", issuer.config().name.as_str())])?)?;
        }
    }
    Ok(())
}

/// What is so at this moment.
fn encode_keys(encoder: &mut DescriptorEncoder<'_>, verifier: &Verifier, now: Now) -> fmt::Result {
    type Read = fn(&Issuer, Now) -> u64;
    let gauges: [(&str, &str, Read); 2] = [
        ("keys_skipped", "Entries of an issuer's key set that cannot be used", |issuer, _| {
            issuer.counters().skipped_keys.load(Ordering::Relaxed)
        }),
        ("keys_age_seconds", "How long ago an issuer's keys were fetched; -1 if never", |issuer, now| {
            issuer.keys().age(now).map_or(u64::MAX, |age| age.as_secs())
        }),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for issuer in verifier.issuers() {
            let value = ConstGauge::new(i64::try_from(read(issuer, now)).unwrap_or(-1));
            value.encode(family.encode_family(&[("issuer", issuer.config().name.as_str())])?)?;
        }
    }
    Ok(())
}

fn encode_status(encoder: &mut DescriptorEncoder<'_>, verifier: &Verifier) -> fmt::Result {
    let counts = verifier.counts();
    let outcomes = [
        ("active", &counts.active),
        ("inactive", &counts.inactive),
        ("mismatch", &counts.mismatch),
        ("failed", &counts.failed),
        ("prolonged", &counts.prolonged),
        ("waited", &counts.waited),
        ("crowded", &counts.crowded),
    ];
    let help = "What became of questions about users, and of the requests that asked them";
    let kind = MetricType::Counter;
    let mut family = encoder.encode_descriptor("user_status", help, None, kind)?;
    for (outcome, count) in outcomes {
        let value = ConstCounter::new(count.load(Ordering::Relaxed));
        value.encode(family.encode_family(&[("outcome", outcome)])?)?;
    }
    Ok(())
}

fn encode_upstreams(encoder: &mut DescriptorEncoder<'_>, pipeline: &Pipeline) -> fmt::Result {
    let help = "Endpoints of an upstream, by their state";
    let mut family = encoder.encode_descriptor("upstream_endpoints", help, None, MetricType::Gauge)?;
    for upstream in pipeline.upstreams().filter(|upstream| !upstream.follows_user) {
        for (state, count) in State::ALL.iter().zip(upstream.states()) {
            let labels = [("upstream", upstream.config.name.as_str()), ("state", state.code())];
            ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_limits(encoder: &mut DescriptorEncoder<'_>, pipeline: &Pipeline) -> fmt::Result {
    let help =
        "Requests that found no place in the table of the routes' limits, and were counted with others like them";
    encode::counter(encoder, "route_limits_crowded", help, pipeline.route_limits().crowded())
}

/// How asking issuers about users goes.
fn encode_asking(encoder: &mut DescriptorEncoder<'_>, verifier: &Verifier) -> fmt::Result {
    let numbers: Vec<_> = verifier.numbers().collect();
    let help = "Calls to an issuer about users, by what they were for";
    let mut family = encoder.encode_descriptor("user_status_calls", help, None, MetricType::Counter)?;
    for (issuer, numbers) in &numbers {
        for (kind, count) in Kind::ALL.iter().zip(numbers.usage.calls) {
            let labels = [("issuer", *issuer), ("kind", kind.code())];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    let help = "Calls that are to be made and wait for the ceiling";
    let mut family = encoder.encode_descriptor("user_status_queue", help, None, MetricType::Gauge)?;
    for (issuer, numbers) in &numbers {
        for (kind, length) in [("first_sight", numbers.first_sights), ("revalidation", numbers.revalidations)] {
            let labels = [("issuer", *issuer), ("kind", kind)];
            ConstGauge::new(i64::try_from(length).unwrap_or(i64::MAX)).encode(family.encode_family(&labels)?)?;
        }
    }
    type Read = fn(&Numbers) -> u64;
    let gauges: [(&str, &str, Read); 2] = [
        (
            "introspection_headroom",
            "Calls a second, of the half of the ceiling that is kept for tokens in use, that are free",
            |numbers| numbers.usage.headroom,
        ),
        ("tokens_in_use", "Tokens that are asked about again before their answers are too old", |numbers| {
            numbers.in_use
        }),
    ];
    for (name, help, read) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (issuer, numbers) in &numbers {
            let value = ConstGauge::new(i64::try_from(read(numbers)).unwrap_or(i64::MAX));
            value.encode(family.encode_family(&[("issuer", *issuer)])?)?;
        }
    }
    let (help, unit) = ("The age of the oldest answer about a token in use", Some(&Unit::Seconds));
    let mut family = encoder.encode_descriptor("user_status_age", help, unit, MetricType::Gauge)?;
    for (issuer, numbers) in &numbers {
        let seconds = Duration::from_millis(numbers.age_ms).as_secs_f64();
        ConstGauge::new(seconds).encode(family.encode_family(&[("issuer", *issuer)])?)?;
    }
    Ok(())
}
