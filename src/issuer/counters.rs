//! What was fetched and asked of an issuer, for the metrics and the log.

use crate::base::clock::Now;
use crate::issuer::{FetchError, Issuer, Jwks};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts since the start; read them at any time.
#[derive(Debug, Default)]
pub struct Counters {
    /// Fetches of the key set that began.
    pub fetches: AtomicU64,
    /// Those that brought no keys.
    pub failures: AtomicU64,
    /// Those that were made early, for an unknown `kid`.
    pub early_fetches: AtomicU64,
    /// When the last good key set was asked for, in seconds since 1970; 0: never.
    pub last_success_unix_seconds: AtomicU64,
    /// How many entries of the last good key set were skipped.
    pub skipped_keys: AtomicU64,
    /// Introspections that were asked.
    pub introspections: AtomicU64,
    /// Those without a usable answer.
    pub introspection_failures: AtomicU64,
    /// Whether the last fetch failed, for the log.
    is_failing: AtomicBool,
}

impl Counters {
    pub(super) fn note_success(&self, asked: Now, skipped: usize) {
        self.last_success_unix_seconds.store(asked.unix_ms / 1000, Ordering::Relaxed);
        self.skipped_keys.store(skipped as u64, Ordering::Relaxed);
    }
}

impl Issuer {
    /// Says once that the issuer answers, and again when it does so after an outage.
    pub(super) fn log_success(&self, jwks: &Jwks) {
        let (issuer, keys, skipped) = (self.config.name.as_str(), jwks.keys.len(), jwks.skipped.len());
        let was_failing = self.counters.is_failing.swap(false, Ordering::Relaxed);
        if was_failing || self.keys.is_empty() {
            tracing::info!(issuer, keys, skipped, "the issuer's keys are here");
        } else {
            tracing::debug!(issuer, keys, skipped, "the issuer's keys were fetched");
        }
        for error in &jwks.skipped {
            tracing::debug!(issuer, %error, "an entry of the issuer's key set was skipped");
        }
    }

    /// Says once that the issuer fails; what follows until it answers again is for those who debug.
    pub(super) fn log_failure(&self, error: &FetchError) {
        let issuer = self.config.name.as_str();
        let has_keys = !self.keys.is_empty();
        if self.counters.is_failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(issuer, %error, has_keys, "the issuer's keys still cannot be fetched");
        } else {
            tracing::warn!(issuer, %error, has_keys, "the issuer's keys cannot be fetched; trying again");
        }
    }
}
