//! What happens to users at one issuer with the source `keycloak`, watched: from there to [`Users`].
//!
//! Four loops on the control plane, run together by [`Watch::run`]:
//!
//! - [`feed`]: what Keycloak tells of its own accord, asked for each second; the usual way that a disabled user is noticed.
//! - [`sweep`]: all disabled users, at least once each `bound`; notices what no event told.
//! - [`errands`]: one user asked about, by a call that began after the reason for it came.
//! - [`sign_in`]: whether a user who was blocked has signed in since; asked when a token of theirs comes.
//!
//! Nothing here reads a clock but [`Clock`] and tokio's, opens a socket, or draws lots: behind [`Directory`] may be a Keycloak that
//! is simulated, and then all runs the same each time.

mod act;
mod counters;
mod directory;
pub mod errands;
pub mod feed;
pub mod sign_in;
pub mod sweep;

pub use counters::{Counters, FeedCounters};
pub use directory::Directory;
pub use sign_in::SignIn;

use crate::base::clock::Clock;
use crate::config;
use crate::identity::ceiling::Ceiling;
use crate::identity::{Bulletin, Hint, News};
use crate::issuer::keycloak::{Feed, IssuerSpan};
use crate::users::{UserId, Users};
use errands::Errands;
use feed::Logins;
use sign_in::Looks;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, broadcast};

/// How an issuer is watched.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The NAME of `[issuer.NAME]`.
    pub issuer: Arc<str>,
    /// A disabled user is out within this.
    pub bound: Duration,
    /// Whether sessions are ended at the issuer on block and on lift.
    pub end_sessions: bool,
}

impl Settings {
    /// Those of an issuer of the configuration.
    pub fn new(issuer: &str, status: &config::Keycloak) -> Self {
        Self { issuer: issuer.into(), bound: status.introspection.bound, end_sessions: status.end_sessions.is_some() }
    }
}

/// The watch over one issuer.
pub struct Watch<D> {
    settings: Settings,
    directory: D,
    users: Arc<Users>,
    clock: Clock,
    /// Under which single users are asked about. Feeds and sweeps are two or three calls a second, which wait for nothing.
    ceiling: Arc<Ceiling>,
    hints: broadcast::Sender<Hint>,
    bulletin: OnceLock<Arc<Bulletin>>,
    counters: Counters,
    errands: Errands,
    looks: Looks,
    logins: Mutex<Logins>,
    /// When a user who was blocked was last seen disabled, by the issuer's clock. Lost with the process: then a read does.
    disabled: Mutex<BTreeMap<Arc<str>, IssuerSpan>>,
    /// When the read began that lifted a user's block, by our monotonic clock: what was asked before says nothing.
    lifted: Mutex<BTreeMap<Arc<str>, u64>>,
    /// Something of the realm changed: its not-before may have.
    realm_changed: Notify,
}

impl<D: Directory> Watch<D> {
    /// A watch that does nothing until it is run.
    pub fn new(
        settings: Settings,
        directory: D,
        users: Arc<Users>,
        clock: Clock,
        ceiling: Arc<Ceiling>,
        hints: broadcast::Sender<Hint>,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            directory,
            users,
            clock,
            ceiling,
            hints,
            bulletin: OnceLock::new(),
            counters: Counters::default(),
            errands: Errands::default(),
            looks: Looks::default(),
            logins: Mutex::default(),
            disabled: Mutex::default(),
            lifted: Mutex::default(),
            realm_changed: Notify::new(),
        })
    }

    /// Watches for ever; dropping the future ends it. Run it once, on the control plane.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(
            biased;
            self.follow(Feed::Admin),
            self.follow(Feed::User),
            self.sweep_for_ever(),
            self.run_errands(),
        );
    }

    /// Has what matters to tokens that are kept for users told there. Once.
    pub fn tell(&self, bulletin: Arc<Bulletin>) {
        let _ = self.bulletin.set(bulletin);
    }

    fn news(&self, subject: &str, news: fn(UserId) -> News) {
        if let Some(bulletin) = self.bulletin.get() {
            bulletin.tell(|| self.user(subject).map(news));
        }
    }

    /// What was seen so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Who is asked.
    pub fn directory(&self) -> &D {
        &self.directory
    }

    /// By how many seconds the issuer's clock is ahead of ours, at least; 0 where they agree as far as is known.
    pub fn clock_offset_seconds(&self) -> Option<f64> {
        let time = self.directory.time()?;
        Some(ahead_ms(time, self.clock.now().unix_ms) as f64 / 1000.0)
    }

    /// How long ago a feed was last read to its end; `None`: never.
    pub fn feed_lag(&self, feed: Feed) -> Option<Duration> {
        let read_ms = self.counters.feed(feed).read_ms.load(Ordering::Relaxed);
        (read_ms > 0).then(|| Duration::from_millis(self.clock.now().monotonic_ms.saturating_sub(read_ms)))
    }

    /// Has a user read again, by a call that begins from now on.
    pub fn reread(&self, user: &UserId) {
        self.errands.read(user.subject(), true);
    }

    fn user(&self, subject: &str) -> Option<UserId> {
        UserId::new(Arc::clone(&self.settings.issuer), subject)
    }
}

/// By how many milliseconds the issuer's clock is ahead of ours, at least.
fn ahead_ms(time: IssuerSpan, unix_ms: u64) -> i64 {
    time.ahead_ms(unix_ms)
}

/// How long to wait after so many failures in a row.
fn back_off(failures: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(5);
    (Duration::from_millis(500) * (1 << failures.min(5))).min(LONGEST)
}

/// What is behind these locks is whole after a panic too: each change is one.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
