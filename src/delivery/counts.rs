//! How it goes, for `/metrics`. Never a subject.

use super::book::Lane;
use super::view::Condition;
use crate::base::clock::Clock;
use crate::telemetry::encode;
use crate::telemetry::metrics::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Upper bounds of a token's remaining life, in seconds: what is promised, what is in reserve, what is usual.
const BOUNDS: [u64; 9] = [0, 300, 600, 780, 1080, 1200, 1440, 1740, 1800];

/// Counts since the start. One a process.
#[derive(Debug)]
pub struct Counts {
    clock: Clock,
    life: [AtomicU64; BOUNDS.len() + 1],
    life_sum: AtomicU64,
    violations: AtomicU64,
    writes: [[AtomicU64; 2]; 2],
    lists: [AtomicU64; 2],
    offboarded: AtomicU64,
    /// Writes that others got ahead of.
    conflicts: AtomicU64,
    tampered: AtomicU64,
    repaired: AtomicU64,
    leads: AtomicBool,
    is_store_failing: AtomicBool,
    /// When the first token falls below the floor, by the monotonic clock; `u64::MAX`: there is none.
    floor_ms: AtomicU64,
    /// Users to whom a token is due, and the others.
    users: [AtomicU64; 2],
    conditions: [AtomicU64; Condition::EVERY.len()],
    is_held: AtomicBool,
}

/// What is so at this moment.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) floor_ms: u64,
    pub(super) filled: u64,
    pub(super) empty: u64,
    pub(super) conditions: [u64; Condition::EVERY.len()],
    pub(super) is_held: bool,
}

#[derive(Debug)]
struct Exported(Arc<Counts>);

impl Counts {
    /// Counters at zero, shown by `metrics`.
    pub fn new(metrics: &Metrics, clock: Clock) -> Arc<Self> {
        let counts = Arc::new(Self {
            clock,
            life: std::array::from_fn(|_| AtomicU64::new(0)),
            life_sum: AtomicU64::new(0),
            violations: AtomicU64::new(0),
            writes: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            lists: std::array::from_fn(|_| AtomicU64::new(0)),
            offboarded: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            tampered: AtomicU64::new(0),
            repaired: AtomicU64::new(0),
            leads: AtomicBool::new(false),
            is_store_failing: AtomicBool::new(false),
            floor_ms: AtomicU64::new(u64::MAX),
            users: std::array::from_fn(|_| AtomicU64::new(0)),
            conditions: std::array::from_fn(|_| AtomicU64::new(0)),
            is_held: AtomicBool::new(false),
        });
        metrics.register_collector(Box::new(Exported(Arc::clone(&counts))));
        counts
    }

    /// A reader finds a token with so much left, or none where one is due. Whether that is less than is promised.
    pub(super) fn found(&self, left_ms: u64, floor_ms: u64) -> bool {
        let at = BOUNDS.partition_point(|bound| bound * 1000 < left_ms);
        self.life[at].fetch_add(1, Ordering::Relaxed);
        self.life_sum.fetch_add(left_ms, Ordering::Relaxed);
        let is_below = left_ms < floor_ms;
        if is_below {
            self.violations.fetch_add(1, Ordering::Relaxed);
        }
        is_below
    }

    /// How often a reader would have found less than is promised.
    pub fn violations(&self) -> u64 {
        self.violations.load(Ordering::Relaxed)
    }

    pub(super) fn written(&self, lane: Lane, is_ok: bool) {
        self.writes[lane as usize][usize::from(!is_ok)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many tokens were written, and how many emptied.
    pub fn writes(&self) -> (u64, u64) {
        let ok = |lane: Lane| self.writes[lane as usize][0].load(Ordering::Relaxed);
        (ok(Lane::Fill), ok(Lane::Empty))
    }

    pub(super) fn listed(&self, is_ok: bool) {
        self.lists[usize::from(!is_ok)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn offboarded(&self) {
        self.offboarded.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn conflict(&self) {
        self.conflicts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn tampered(&self) {
        self.tampered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn repaired(&self, count: u64) {
        self.repaired.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    /// Gives what was so before.
    pub(super) fn is_store_failing(&self, is_failing: bool) -> bool {
        self.is_store_failing.swap(is_failing, Ordering::Relaxed)
    }

    pub(super) fn set(&self, standing: &Standing) {
        self.floor_ms.store(standing.floor_ms, Ordering::Relaxed);
        self.users[0].store(standing.filled, Ordering::Relaxed);
        self.users[1].store(standing.empty, Ordering::Relaxed);
        self.is_held.store(standing.is_held, Ordering::Relaxed);
        for (cell, count) in self.conditions.iter().zip(standing.conditions) {
            cell.store(count, Ordering::Relaxed);
        }
    }
}

impl Collector for Exported {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.encode_life(&mut encoder)?;
        self.0.encode_counters(&mut encoder)?;
        self.0.encode_standing(&mut encoder)
    }
}

impl Counts {
    #[allow(clippy::cast_precision_loss)] // Exact up to 285 years.
    fn encode_life(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "What is left of a user's token where its readers find it, as read back";
        let mut metric =
            encoder.encode_descriptor("delivered_life", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let counts = self.life.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        let bounds = BOUNDS.iter().map(|bound| *bound as f64).chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let sum = self.life_sum.load(Ordering::Relaxed) as f64 / 1000.0;
        metric.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let single = [
            ("floor_violations", "Times that less than the promised ten minutes were left", &self.violations),
            ("offboarded", "Users of whom everything was removed", &self.offboarded),
            ("delivery_conflicts", "Writes that were decided anew since others had written before", &self.conflicts),
            ("delivery_tampered", "Times that others changed or deleted a user's Secret", &self.tampered),
            ("delivery_repairs", "Times that something in a user's namespace was put right", &self.repaired),
        ];
        for (name, help, count) in single {
            encode::counter(encoder, name, help, count.load(Ordering::Relaxed))?;
        }
        let help = "Tokens that were put where their readers find them, and emptied, by outcome";
        let mut family = encoder.encode_descriptor("deliveries", help, None, MetricType::Counter)?;
        for lane in Lane::EVERY {
            let act = match lane {
                Lane::Empty => "empty",
                Lane::Fill => "fill",
            };
            for (outcome, count) in ["ok", "failed"].iter().zip(&self.writes[lane as usize]) {
                let labels = [("act", act), ("outcome", *outcome)];
                ConstCounter::new(count.load(Ordering::Relaxed)).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Lists of all users of an issuer, by outcome";
        let mut family = encoder.encode_descriptor("delivery_lists", help, None, MetricType::Counter)?;
        for (outcome, count) in ["ok", "failed"].iter().zip(&self.lists) {
            let value = ConstCounter::new(count.load(Ordering::Relaxed));
            value.encode(family.encode_family(&[("outcome", *outcome)])?)?;
        }
        Ok(())
    }

    fn encode_standing(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let floor_ms = self.floor_ms.load(Ordering::Relaxed);
        if floor_ms < u64::MAX {
            let left_ms = floor_ms.saturating_sub(self.clock.now().monotonic_ms);
            let help = "How long nothing may be written before some user's token has less left than is promised";
            encode::gauge(encoder, "seconds_until_floor_violation", help, signed(left_ms / 1000))?;
        }
        let gauges = [
            ("delivery_store_sound", "0 while what is known of users' tokens cannot be stored", &self.is_store_failing),
            ("offboarding_open", "0 while nobody is removed since too many would be", &self.is_held),
        ];
        for (name, help, is_bad) in gauges {
            encode::gauge(encoder, name, help, i64::from(!is_bad.load(Ordering::Relaxed)))?;
        }
        let help = "1 while this replica fills users' tokens";
        encode::gauge(encoder, "delivery_leads", help, i64::from(self.leads.load(Ordering::Relaxed)))?;
        let help = "Users for whom a token is kept, and those for whom there is to be none";
        let mut family = encoder.encode_descriptor("delivery_users", help, None, MetricType::Gauge)?;
        for (token, count) in ["filled", "empty"].iter().zip(&self.users) {
            let value = ConstGauge::new(signed(count.load(Ordering::Relaxed)));
            value.encode(family.encode_family(&[("token", *token)])?)?;
        }
        let help = "Users of whom something is to be known, by what it is";
        let mut family = encoder.encode_descriptor("delivery_conditions", help, None, MetricType::Gauge)?;
        for (condition, count) in Condition::EVERY.iter().zip(&self.conditions) {
            let value = ConstGauge::new(signed(count.load(Ordering::Relaxed)));
            value.encode(family.encode_family(&[("condition", condition.code())])?)?;
        }
        Ok(())
    }
}
