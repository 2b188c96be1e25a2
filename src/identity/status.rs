//! Is the user of this token still enabled? Asked of the issuer once per token and `bound`, by one call for all who wait.
//!
//! What is known lies in the token itself, so a request with a fresh answer pays one load. An answer's age counts from the
//! moment it was asked for. A *session end* (`active:false`) concerns the one token; nothing here blocks a user.

use super::claims::{self, ClaimError};
use super::verifier::{VerifiedToken, Verifier};
use super::{Identity, json, jws};
use crate::base::clock::Now;
use crate::base::tick::Deadline;
use crate::config::{Introspection, WhenUnknown};
use crate::issuer::{Introspected, Issuer};
use arc_swap::ArcSwapOption;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the issuer last said about a token.
#[derive(Debug)]
pub(super) struct Standing {
    /// When it was asked, in milliseconds of the monotonic clock.
    asked_ms: u64,
    verdict: Verdict,
}

#[derive(Debug)]
enum Verdict {
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
#[derive(Debug, Default)]
pub(super) struct UserRecord {
    last_active: ArcSwapOption<LastActive>,
}

/// The last *active* answer about a user.
#[derive(Debug)]
pub(super) struct LastActive {
    /// When it was asked for, in milliseconds of the monotonic clock.
    asked_ms: u64,
    pub(super) identity: Arc<Identity>,
    /// The session of the token that was asked about.
    session: Option<String>,
}

impl UserRecord {
    /// The last active answer, if it is younger than `most`.
    pub(super) fn active_within(&self, most: Duration, now: Now) -> Option<Arc<LastActive>> {
        self.last_active.load_full().filter(|last| now.monotonic_ms < last.asked_ms.saturating_add(millis(most)))
    }
}

/// Why a token with a good signature does not pass, or cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// The issuer says that the token is no longer good.
    #[error("the issuer says that the token is not active")]
    Inactive,
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
}

/// How long a request waits where waiting is likely in vain, or not needed.
const SHORT_WAIT: Duration = Duration::from_millis(500);

/// After a failed call the issuer is left alone for this long.
const RETRY_AFTER_MS: u64 = 500;

impl Verifier {
    /// The caller, once it is known that they are still enabled.
    ///
    /// # Errors
    /// [`StatusError`]: the token's end (401), or that nothing is known (503).
    pub async fn confirm(self: &Arc<Self>, token: &Arc<VerifiedToken>, now: Now) -> Result<Arc<Identity>, StatusError> {
        if Arc::ptr_eq(&token.source, &self.own) {
            return self.confirm_own(token, now);
        }
        let Some(settings) = token.issuer().config().user_status.introspection() else {
            return token.stated.clone().ok_or(StatusError::Unknown);
        };
        if let Some(assumed) = self.assumed {
            return match assumed {
                Assumed::Active => token.stated.clone().ok_or(StatusError::Unknown),
                Assumed::Inactive => Err(StatusError::Inactive),
                Assumed::Unknown => Err(StatusError::Unknown),
            };
        }
        if let Some(outcome) = token.outcome(settings, now) {
            return outcome.or_else(|error| token.within_leeway(settings, now).ok_or(error));
        }
        if let Some(identity) = token.within_leeway(settings, now) {
            return Ok(identity);
        }
        if let Some(wait) = self.wait(token, settings, now) {
            self.counts.waited.fetch_add(1, Ordering::Relaxed);
            self.ask_once(token, wait).await;
            if let Some(outcome) = token.outcome(settings, self.clock.now()) {
                return outcome;
            }
        }
        let prolonged = token.prolonged(settings, self.clock.now()).ok_or(StatusError::Unknown)?;
        self.counts.prolonged.fetch_add(1, Ordering::Relaxed);
        Ok(prolonged)
    }

    /// How long to wait for an answer; `None` while an issuer that just failed is left alone.
    fn wait(&self, token: &VerifiedToken, settings: &Introspection, now: Now) -> Option<Duration> {
        let failed_ms = token.source.failed_ms.load(Ordering::Relaxed);
        if failed_ms > 0 && now.monotonic_ms < failed_ms.saturating_add(RETRY_AFTER_MS) {
            return None;
        }
        let in_vain = failed_ms > 0 || token.prolonged(settings, now).is_some();
        Some(if in_vain { settings.timeout.min(SHORT_WAIT) } else { settings.timeout })
    }

    /// Waits for the answer of one call, which is made if none is under way.
    async fn ask_once(self: &Arc<Self>, token: &Arc<VerifiedToken>, wait: Duration) {
        let mut answered = std::pin::pin!(token.answered.notified());
        answered.as_mut().enable();
        if !token.is_asking.swap(true, Ordering::AcqRel) {
            // The call belongs to the control plane: a request that gives up does not cancel it.
            let (verifier, token) = (Arc::clone(self), Arc::clone(token));
            self.control.spawn(async move { verifier.ask(&token).await });
        }
        let _ = Deadline::after(wait).bound(answered).await;
    }

    async fn ask(&self, token: &Arc<VerifiedToken>) {
        let asked_ms = self.clock.now().monotonic_ms;
        let text = std::str::from_utf8(token.bytes()).unwrap_or_default();
        match token.issuer().introspect(text).await {
            Ok(answer) => {
                token.source.failed_ms.store(0, Ordering::Relaxed);
                let verdict = self.verdict(token, answer, asked_ms);
                token.standing.store(Some(Arc::new(Standing { asked_ms, verdict })));
                if token.is_refused() {
                    // After the answer is there to be seen.
                    self.refusals.fetch_add(1, Ordering::Release);
                }
            }
            Err(error) => {
                // Said once when it begins to fail, not once a request.
                if token.source.failed_ms.swap(self.clock.now().monotonic_ms, Ordering::Relaxed) == 0 {
                    tracing::error!(issuer = token.issuer().config().name, %error, "user status cannot be read");
                }
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        token.is_asking.store(false, Ordering::Release);
        token.answered.notify_waiters();
    }

    fn verdict(&self, token: &VerifiedToken, answer: Introspected, asked_ms: u64) -> Verdict {
        let Introspected::Active(answer) = answer else {
            self.counts.inactive.fetch_add(1, Ordering::Relaxed);
            let is_past_expiry = self.clock.now().unix_seconds() >= token.facts.expires;
            return Verdict::Inactive { is_past_expiry };
        };
        let checked = claims::check_answer(&answer, token.issuer().config(), token.subject());
        let identity = checked.and_then(|()| {
            let claims = completed(token.bytes(), answer);
            self.identity(&claims, token.issuer()).ok_or(ClaimError::Unusable("sub"))
        });
        match identity {
            Ok(identity) => {
                self.counts.active.fetch_add(1, Ordering::Relaxed);
                let user = token.user.get_or_init(|| self.user(token.issuer(), &identity.subject));
                let last = Arc::new(LastActive {
                    asked_ms,
                    identity: Arc::clone(&identity),
                    session: token.facts.session.clone(),
                });
                // Of two answers that come at once the younger question counts.
                user.last_active.rcu(|known| match known {
                    Some(known) if known.asked_ms > last.asked_ms => Some(Arc::clone(known)),
                    _ => Some(Arc::clone(&last)),
                });
                Verdict::Active(identity)
            }
            Err(error) => {
                self.counts.mismatch.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(issuer = token.issuer().config().name, %error, "introspection answer does not fit its token");
                Verdict::Mismatch(error)
            }
        }
    }

    /// The record of a user.
    pub(super) fn user(&self, issuer: &Issuer, subject: &str) -> Arc<UserRecord> {
        let key = (issuer.config().name.clone(), subject.to_owned());
        let mut shard = self.users.shard(self.hasher.hash_one(&key));
        Arc::clone(shard.entry(key).or_default())
    }

    /// Forgets users who hold no token and whose last active answer no longer prolongs anything.
    pub(super) fn sweep_users(&self, now: Now) {
        let longest = self.issuers().map(|issuer| match issuer.config().user_status.introspection() {
            Some(Introspection { when_unknown: WhenUnknown::AllowFor(most), .. }) => *most,
            Some(_) | None => Duration::ZERO,
        });
        let longest = longest.max().unwrap_or_default();
        for mut shard in self.users.shards() {
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

impl VerifiedToken {
    /// What is known and young enough; `None` if it has to be asked.
    fn outcome(&self, settings: &Introspection, now: Now) -> Option<Result<Arc<Identity>, StatusError>> {
        let standing = self.standing.load();
        let standing = standing.as_ref()?;
        if now.monotonic_ms >= standing.asked_ms.saturating_add(millis(settings.bound)) {
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
    fn within_leeway(&self, settings: &Introspection, now: Now) -> Option<Arc<Identity>> {
        if now.unix_seconds() < self.facts.expires {
            return None;
        }
        let last = self.user.get()?.active_within(settings.bound, now)?;
        let is_current =
            |identity: &Arc<Identity>| last.session == self.facts.session && identity.is_same_user_as(&last.identity);
        match self.standing.load().as_deref() {
            None | Some(Standing { verdict: Verdict::Inactive { is_past_expiry: true }, .. }) => self.stated.clone(),
            Some(Standing { verdict: Verdict::Active(identity), .. }) => Some(Arc::clone(identity)),
            Some(_) => None,
        }
        .filter(is_current)
    }

    /// Whether the last answer about it was no, for another reason than its expiry.
    pub(super) fn is_refused(&self) -> bool {
        matches!(
            self.standing.load().as_deref(),
            Some(Standing { verdict: Verdict::Inactive { is_past_expiry: false } | Verdict::Mismatch(_), .. })
        )
    }

    /// The identity that `allow_for` lets pass although nothing young enough is known: the same user was active, and this
    /// token was not refused.
    fn prolonged(&self, settings: &Introspection, now: Now) -> Option<Arc<Identity>> {
        let WhenUnknown::AllowFor(allow_for) = settings.when_unknown else {
            return None;
        };
        self.user.get()?.active_within(allow_for, now)?;
        match self.standing.load().as_deref() {
            None => self.stated.clone(),
            Some(Standing { verdict: Verdict::Active(identity), .. }) => Some(Arc::clone(identity)),
            Some(_) => None,
        }
    }
}

/// An answer that repeats the token's `jti` describes the token in full, as Keycloak's does: what it lacks is gone. To any other
/// answer the token's own claims are added, for a plain RFC 7662 server says little more than `active`.
fn completed(
    token: &[u8],
    answer: serde_json::Map<String, serde_json::Value>,
) -> serde_json::Map<String, serde_json::Value> {
    let stated = jws::parse(token).ok().and_then(|jws| json::parse_object(&jws.payload));
    match stated {
        Some(mut stated) if answer.get("jti").is_none() || answer.get("jti") != stated.get("jti") => {
            stated.extend(answer);
            stated
        }
        _ => answer,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
