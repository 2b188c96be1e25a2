//! Is the user of this token still enabled? A request with a fresh answer pays a few loads; the others wait for one.
//!
//! What is known lies in the token itself. An answer's age counts from the moment it was asked for. A *session end*
//! (`active:false`) concerns the one token; what is known against its user is `admit`, and comes first.

use super::Identity;
use super::claims::ClaimError;
use super::in_use::Place;
use super::source::{Asking, Source, millis};
use super::verifier::{VerifiedToken, Verifier};
use crate::base::clock::Now;
use crate::base::tick::Deadline;
use crate::users::{Cause, Seen, UserId};
use arc_swap::ArcSwapOption;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;

/// What of a token changes while it is remembered.
#[derive(Default)]
pub(super) struct Status {
    /// The last answer about it.
    pub(super) standing: ArcSwapOption<Standing>,
    /// Its user; of a token that does not say, once the issuer did.
    pub(super) user: OnceLock<Arc<UserRecord>>,
    /// When nothing was last known against it.
    pub(super) seen: Seen,
    /// When it was last used, give or take an eighth of the bound, in milliseconds of the monotonic clock.
    used_ms: AtomicU64,
    /// Until when some request waits for an answer, likewise.
    pub(super) wanted_ms: AtomicU64,
    pub(super) is_asking: AtomicBool,
    pub(super) answered: Notify,
    /// Its place among the tokens in use, one up; 0 if it has none.
    place: AtomicUsize,
}

impl Status {
    /// That of a token whose user is known.
    pub(super) fn of(user: Arc<UserRecord>) -> Self {
        Self { user: OnceLock::from(user), ..Self::default() }
    }
}

/// What the issuer last said about a token.
#[derive(Debug)]
pub(super) struct Standing {
    /// When it was asked, in milliseconds of the monotonic clock.
    pub(super) asked_ms: u64,
    pub(super) verdict: Verdict,
}

#[derive(Debug)]
pub(super) enum Verdict {
    /// The user is enabled; this is who they are now.
    Active(Arc<Identity>),
    /// `active:false`: expired, logged out, disabled, deleted; the issuer does not say which.
    Inactive {
        /// The token's `exp` had passed when it was asked: then every token is inactive, and the answer says nothing about the user.
        is_past_expiry: bool,
    },
    /// The answer is not about this token.
    Mismatch(ClaimError),
}

/// What is remembered of a user, whatever tokens they hold.
#[derive(Debug)]
pub(super) struct UserRecord {
    /// The issuer's name.
    pub(super) issuer: Arc<str>,
    pub(super) subject: Arc<str>,
    pub(super) last_active: ArcSwapOption<LastActive>,
}

/// The last *active* answer about a user.
#[derive(Debug)]
pub(super) struct LastActive {
    /// When it was asked for, in milliseconds of the monotonic clock.
    pub(super) asked_ms: u64,
    pub(super) identity: Arc<Identity>,
    /// The session of the token that was asked about.
    pub(super) session: Option<String>,
}

impl UserRecord {
    /// The last active answer, if it is younger than `most`.
    pub(super) fn active_within(&self, most: Duration, now: Now) -> Option<Arc<LastActive>> {
        self.last_active.load_full().filter(|last| now.monotonic_ms < last.asked_ms.saturating_add(millis(most)))
    }

    /// Of two answers that come at once the younger question counts.
    pub(super) fn note_active(&self, last: LastActive) {
        let last = Arc::new(last);
        self.last_active.rcu(|known| match known {
            Some(known) if known.asked_ms > last.asked_ms => Some(Arc::clone(known)),
            _ => Some(Arc::clone(&last)),
        });
    }

    /// `None` for a `sub` that names nobody.
    pub(super) fn id(&self) -> Option<UserId> {
        UserId::new(Arc::clone(&self.issuer), Arc::clone(&self.subject))
    }
}

/// Why a token with a good signature does not pass, or cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// The issuer says that the token is no longer good.
    #[error("the issuer says that the token is not active")]
    Inactive,
    /// Something is known against the user, the session or the token.
    #[error("the user, the session or the token is refused: {}", .0.code())]
    Refused(Cause),
    /// The issuer's answer does not fit the token.
    #[error("the issuer's answer does not fit the token")]
    Mismatch(#[source] ClaimError),
    /// The issuer did not answer in time, and nothing younger than the bound is known.
    #[error("the user's status is not known")]
    Unknown,
}

/// For `explain`: what to assume instead of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assumed {
    /// The user is enabled.
    Active,
    /// The issuer says `active:false`.
    Inactive,
    /// The issuer does not answer.
    Unknown,
}

/// How often what happened, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Answers `active:true`.
    pub active: AtomicU64,
    /// Answers `active:false`.
    pub inactive: AtomicU64,
    /// Answers that do not fit the token.
    pub mismatch: AtomicU64,
    /// Calls that failed.
    pub failed: AtomicU64,
    /// Requests let through by `allow_for`.
    pub prolonged: AtomicU64,
    /// Requests that had to wait for an answer.
    pub waited: AtomicU64,
    /// Tokens that got no call in time because of the ceiling.
    pub crowded: AtomicU64,
}

/// How long a request waits where waiting is likely in vain, or not needed.
pub(super) const SHORT_WAIT: Duration = Duration::from_millis(500);

impl Verifier {
    /// The caller, once it is known that they are still enabled.
    ///
    /// # Errors
    /// [`StatusError`]: the token's or the user's end (401), or that nothing is known (503).
    pub async fn confirm(self: &Arc<Self>, token: &Arc<VerifiedToken>, now: Now) -> Result<Arc<Identity>, StatusError> {
        if !self.users.is_current(&token.status.seen, now) {
            self.admit(token, now).await?;
        }
        let Some(asking) = &token.source.status else {
            if Arc::ptr_eq(&token.source, &self.own) {
                return self.confirm_own(token, now);
            }
            return token.stated.load_full().ok_or(StatusError::Unknown);
        };
        if let Some(identity) = token.current(asking, now) {
            return Ok(identity);
        }
        let identity = self.confirm_slowly(token, asking, now).await?;
        // Time has passed, and perhaps it is known only now who the user is.
        let now = self.clock.now();
        if !self.users.is_current(&token.status.seen, now) {
            self.admit(token, now).await?;
        }
        Ok(self.renewed(identity))
    }

    /// The caller as the issuer sees them, whatever is known against them.
    pub(super) async fn ask_status(
        self: &Arc<Self>,
        token: &Arc<VerifiedToken>,
        now: Now,
    ) -> Result<Arc<Identity>, StatusError> {
        match &token.source.status {
            None if Arc::ptr_eq(&token.source, &self.own) => self.confirm_own(token, now),
            None => token.stated.load_full().ok_or(StatusError::Unknown),
            Some(asking) => match token.current(asking, now) {
                Some(identity) => Ok(identity),
                None => self.confirm_slowly(token, asking, now).await,
            },
        }
    }

    async fn confirm_slowly(
        self: &Arc<Self>,
        token: &Arc<VerifiedToken>,
        asking: &Asking,
        now: Now,
    ) -> Result<Arc<Identity>, StatusError> {
        match self.assumed {
            None => {}
            Some(Assumed::Active) => return token.stated.load_full().ok_or(StatusError::Unknown),
            Some(Assumed::Inactive) => return Err(StatusError::Inactive),
            Some(Assumed::Unknown) => return Err(StatusError::Unknown),
        }
        token.touch(asking, now);
        if let Some(outcome) = token.outcome(asking, now) {
            return outcome.or_else(|error| token.within_leeway(asking, now).ok_or(error));
        }
        if let Some(identity) = token.within_leeway(asking, now) {
            return Ok(identity);
        }
        if let Some(wait) = token.source.wait(token.prolonged(asking, now).is_some(), now) {
            self.counts.waited.fetch_add(1, Ordering::Relaxed);
            self.ask_once(token, wait, now).await;
            if let Some(outcome) = token.outcome(asking, self.clock.now()) {
                return outcome;
            }
        }
        let prolonged = token.prolonged(asking, self.clock.now()).ok_or(StatusError::Unknown)?;
        self.counts.prolonged.fetch_add(1, Ordering::Relaxed);
        Ok(prolonged)
    }

    /// Waits for the answer of one call, which is made if none is under way.
    async fn ask_once(self: &Arc<Self>, token: &Arc<VerifiedToken>, wait: Duration, now: Now) {
        let mut answered = std::pin::pin!(token.status.answered.notified());
        answered.as_mut().enable();
        token.status.wanted_ms.fetch_max(now.monotonic_ms.saturating_add(millis(wait)), Ordering::Relaxed);
        if !token.status.is_asking.swap(true, Ordering::AcqRel) {
            // The call belongs to the control plane: a request that gives up does not cancel it.
            let (verifier, token) = (Arc::clone(self), Arc::clone(token));
            self.control.spawn(async move { verifier.want(token) });
        }
        let _ = Deadline::after(wait).bound(answered).await;
    }

    /// The record of a user.
    pub(super) fn user(&self, issuer: &str, subject: &str) -> Arc<UserRecord> {
        let hash = self.hasher.hash_one((issuer, subject));
        let mut shard = self.records.shard(hash);
        if let Some(known) = shard.get(&hash)
            && (&*known.issuer, &*known.subject) == (issuer, subject)
        {
            return Arc::clone(known);
        }
        let last_active = ArcSwapOption::empty();
        let user = Arc::new(UserRecord { issuer: issuer.into(), subject: subject.into(), last_active });
        shard.insert(hash, Arc::clone(&user));
        user
    }

    /// Forgets users who hold no token and whose last active answer no longer prolongs anything.
    pub(super) fn sweep_users(&self, now: Now) {
        let longest = self.sources.iter().filter_map(|source| source.status.as_ref()?.allow_for);
        let longest = longest.max().unwrap_or_default();
        for mut shard in self.records.shards() {
            shard.retain(|_, user| Arc::strong_count(user) > 1 || user.active_within(longest, now).is_some());
        }
    }

    /// How often what happened.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The same verifier, which assumes a status instead of asking.
    #[must_use]
    pub fn assuming(mut self, status: Assumed) -> Self {
        self.assumed = Some(status);
        self
    }
}

impl Source {
    /// How long to wait for an answer; `None` while an issuer that just failed is left alone.
    pub(super) fn wait(&self, has_choice: bool, now: Now) -> Option<Duration> {
        let timeout = self.status.as_ref()?.timeout;
        let until = self.left_alone_until_ms();
        if until.is_some_and(|until| now.monotonic_ms < until) {
            return None;
        }
        Some(if until.is_some() || has_choice { timeout.min(SHORT_WAIT) } else { timeout })
    }
}

impl VerifiedToken {
    /// Who the caller is, by an active answer that is young enough. This is the way of nearly every request.
    #[inline]
    fn current(&self, asking: &Asking, now: Now) -> Option<Arc<Identity>> {
        let standing = self.status.standing.load();
        let standing = standing.as_ref()?;
        if now.monotonic_ms >= standing.asked_ms.saturating_add(asking.bound_ms) {
            return None;
        }
        let Verdict::Active(identity) = &standing.verdict else { return None };
        self.touch(asking, now);
        Some(Arc::clone(identity))
    }

    /// Notes that the token is in use: a load, and seldom a store.
    #[inline]
    pub(super) fn touch(&self, asking: &Asking, now: Now) {
        if now.monotonic_ms.saturating_sub(self.status.used_ms.load(Ordering::Relaxed)) > asking.bound_ms / 8 {
            self.status.used_ms.store(now.monotonic_ms, Ordering::Relaxed);
        }
    }

    /// Whether it was used within the last two bounds, and an answer about it would say something.
    pub(super) fn is_in_use(&self, asking: &Asking, now: Now) -> bool {
        let used_ms = self.status.used_ms.load(Ordering::Relaxed);
        // Open streams use their tokens all the time.
        let eighths = if asking.is_retired.load(Ordering::Relaxed) { 2 } else { 17 };
        now.monotonic_ms.saturating_sub(used_ms) <= asking.bound_ms / 8 * eighths
            && now.unix_seconds() < self.facts.expires
            && !self.is_key_retired()
    }

    /// What is known and young enough; `None` if it has to be asked.
    fn outcome(&self, asking: &Asking, now: Now) -> Option<Result<Arc<Identity>, StatusError>> {
        let standing = self.status.standing.load();
        let standing = standing.as_ref()?;
        if now.monotonic_ms >= standing.asked_ms.saturating_add(asking.bound_ms) {
            return None;
        }
        Some(match &standing.verdict {
            Verdict::Active(identity) => Ok(Arc::clone(identity)),
            Verdict::Inactive { .. } => Err(StatusError::Inactive),
            Verdict::Mismatch(error) => Err(StatusError::Mismatch(*error)),
        })
    }

    /// Past its `exp` but within the leeway every token is inactive for an issuer whose clock is right. What counts then is that the
    /// same session of the same user was active, by another token, within the bound, and that this token was never refused before it
    /// expired. Tokens without `sid` share one session.
    fn within_leeway(&self, asking: &Asking, now: Now) -> Option<Arc<Identity>> {
        if now.unix_seconds() < self.facts.expires {
            return None;
        }
        let last = self.status.user.get()?.active_within(Duration::from_millis(asking.bound_ms), now)?;
        let is_current =
            |identity: &Arc<Identity>| last.session == self.facts.session && identity.is_same_user_as(&last.identity);
        match self.status.standing.load().as_deref() {
            None | Some(Standing { verdict: Verdict::Inactive { is_past_expiry: true }, .. }) => {
                self.stated.load_full()
            }
            Some(Standing { verdict: Verdict::Active(identity), .. }) => Some(Arc::clone(identity)),
            Some(_) => None,
        }
        .filter(is_current)
    }

    /// The identity that `allow_for` lets pass although nothing young enough is known: the same user was active, since their last
    /// block if there was one, and this token was not refused.
    fn prolonged(&self, asking: &Asking, now: Now) -> Option<Arc<Identity>> {
        let last = self.status.user.get()?.active_within(asking.allow_for?, now)?;
        match self.status.standing.load().as_deref() {
            None => self.stated.load_full(),
            Some(Standing { verdict: Verdict::Active(identity), .. }) => Some(Arc::clone(identity)),
            Some(_) => None,
        }
        .filter(|identity| identity.epoch == last.identity.epoch)
    }

    /// Its place among the tokens in use. Read and written under the lock of the issuer's calls.
    pub(super) fn place(&self) -> Option<Place> {
        self.status.place.load(Ordering::Relaxed).checked_sub(1).map(Place)
    }

    pub(super) fn set_place(&self, place: Option<Place>) {
        self.status.place.store(place.map_or(0, |Place(key)| key + 1), Ordering::Relaxed);
    }

    /// How old the last active answer is, in milliseconds.
    pub(super) fn age_ms(&self, now: Now) -> Option<u64> {
        let standing = self.status.standing.load();
        let standing = standing.as_ref().filter(|standing| matches!(standing.verdict, Verdict::Active(_)))?;
        Some(now.monotonic_ms.saturating_sub(standing.asked_ms))
    }
}
