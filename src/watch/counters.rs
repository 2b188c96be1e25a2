//! What a watch saw and did, for the metrics.

use crate::issuer::keycloak::{Feed, Meaning};
use std::sync::atomic::{AtomicBool, AtomicU64};

/// Counts since the start; read them at any time.
#[derive(Debug, Default)]
pub struct Counters {
    feeds: [FeedCounters; 2],
    /// Single users asked about, by outcome: there and enabled.
    pub reads_enabled: AtomicU64,
    /// Disabled.
    pub reads_disabled: AtomicU64,
    /// Deleted.
    pub reads_deleted: AtomicU64,
    /// No usable answer.
    pub reads_unknown: AtomicU64,
    /// Users given up on after many tries; the sweep and introspection go on.
    pub given_up: AtomicU64,
    /// Users whose sessions were ended at the issuer.
    pub sessions_ended: AtomicU64,
    /// Sweeps that came to their end.
    pub sweeps: AtomicU64,
    /// Those that did not.
    pub sweep_failures: AtomicU64,
    /// How many disabled users the last one found.
    pub sweep_users: AtomicU64,
    /// How long the last one took, in milliseconds.
    pub sweep_took_ms: AtomicU64,
    /// When the last whole one began, in milliseconds of the monotonic clock; 0: never.
    pub sweep_began_ms: AtomicU64,
    /// Whether the last sweep took so long that `bound` cannot hold for users without a token in use.
    pub sweep_is_late: AtomicBool,
    /// Sign-ins looked for and found.
    pub sign_ins_proven: AtomicU64,
    /// Not found.
    pub sign_ins_missing: AtomicU64,
    /// Looked for in vain, since there was no usable answer.
    pub sign_ins_unknown: AtomicU64,
    /// Times that a decision could not be stored.
    pub store_failures: AtomicU64,
}

/// What came of one feed.
#[derive(Debug, Default)]
pub struct FeedCounters {
    /// When it was last read to its end, in milliseconds of the monotonic clock; 0: never.
    pub read_ms: AtomicU64,
    /// Times that it could not be read.
    pub failures: AtomicU64,
    /// Events by their [`Meaning`].
    pub events: [AtomicU64; Meaning::CODES.len()],
    /// Events that came again.
    pub repeated: AtomicU64,
    /// Rows without what an event must have.
    pub malformed: AtomicU64,
    /// Events that say nothing here.
    pub unrelated: AtomicU64,
    /// Times that the issuer's clock went back behind what was read.
    pub clock_steps: AtomicU64,
    /// Whether the realm does not keep these events, or not all that matter: then only sweep and introspection tell.
    pub is_off: AtomicBool,
}

impl Counters {
    /// Those of one feed.
    pub fn feed(&self, feed: Feed) -> &FeedCounters {
        match feed {
            Feed::Admin => &self.feeds[0],
            Feed::User => &self.feeds[1],
        }
    }
}
