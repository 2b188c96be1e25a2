//! Credentials that somebody else makes: how long one is handed out, and its place in a cache, for which one call is made at a time.

use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::config;
use arc_swap::ArcSwapOption;
use http::HeaderValue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use zeroize::Zeroizing;

/// A credential has at least so much left when it is handed out, or a third of its life if that is less. In milliseconds.
const FLOOR_MS: u64 = 10 * 60_000;

/// It is got anew once it has less than so much left, or than half of its life if that is less. In milliseconds.
const RENEW_MS: u64 = 12 * 60_000;

/// A credential that lives shorter is of no use: it would end on its way.
pub const LEAST_LIFETIME: Duration = Duration::from_secs(30);

/// After a call that failed none is made for so long. In milliseconds.
const FAILURE_MS: u64 = 3_000;

/// A credential ready to be sent.
#[derive(Debug)]
pub struct Obtained {
    header: HeaderValue,
    /// When it was asked for, in milliseconds of the monotonic clock, as all that follows.
    asked_ms: u64,
    renew_ms: u64,
    last_ms: u64,
}

/// Why a token cannot be a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObtainedError {
    /// It lives too short.
    #[error("it lives for {0:?}, and less than {LEAST_LIFETIME:?} are of no use")]
    Short(Duration),
    /// It is one that has to have ten minutes left, and does not live that long.
    #[error("it lives for {0:?}, and ten minutes are to be left of it")]
    BelowFloor(Duration),
    /// It holds something that no header can carry.
    #[error("it holds a character that no header can carry")]
    Unsendable,
}

/// The place of one credential: requests that need it at once wait for the same call.
#[derive(Debug)]
pub struct Slot {
    purpose: Purpose,
    held: ArcSwapOption<Obtained>,
    failed: ArcSwapOption<Failed>,
    is_asking: AtomicBool,
    ended: Notify,
}

/// What tells the credentials of one identity apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// The exchanged token of a session. One that was got by a session ends with it, and says so to the upstream (`sid`).
    Exchange(Arc<config::Exchange>, Option<Box<str>>),
    /// The token of a client of Postern's own.
    Client,
    /// The token of a ServiceAccount of this namespace.
    ServiceAccount(Arc<config::ServiceAccount>, Box<str>),
}

/// A call that brought nothing.
#[derive(Debug)]
struct Failed {
    /// Until when it is remembered.
    until_ms: u64,
    why: Arc<str>,
}

/// What a slot holds.
#[derive(Debug, Clone)]
pub enum Found {
    /// A credential.
    Fresh(Arc<Obtained>),
    /// A credential that is to be got anew meanwhile.
    Due(Arc<Obtained>),
}

/// The right to make the one call for a slot. Others wait until it is dropped.
#[derive(Debug)]
pub struct Turn(Arc<Slot>);

impl Obtained {
    /// A bearer token that was asked for at `asked_ms` and lives from then on.
    ///
    /// # Errors
    /// [`ObtainedError`].
    pub fn new(token: &Secret, asked_ms: u64, lifetime: Duration) -> Result<Self, ObtainedError> {
        if lifetime < LEAST_LIFETIME {
            return Err(ObtainedError::Short(lifetime));
        }
        let value = Zeroizing::new(format!("Bearer {}", token.expose()));
        let mut header = HeaderValue::from_str(&value).map_err(|_| ObtainedError::Unsendable)?;
        header.set_sensitive(true);
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        let until = |left_ms: u64| asked_ms.saturating_add(lifetime_ms.saturating_sub(left_ms));
        Ok(Self {
            header,
            asked_ms,
            renew_ms: until(RENEW_MS.min(lifetime_ms / 2)),
            last_ms: until(FLOOR_MS.min(lifetime_ms / 3)),
        })
    }

    /// The same of a token that has at least ten minutes left whenever it is handed out, however long it lives.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_floor(token: &Secret, asked_ms: u64, lifetime: Duration) -> Result<Self, ObtainedError> {
        let lifetime_ms = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        if lifetime_ms <= FLOOR_MS {
            return Err(ObtainedError::BelowFloor(lifetime));
        }
        let last_ms = asked_ms.saturating_add(lifetime_ms - FLOOR_MS);
        let made = Self::new(token, asked_ms, lifetime)?;
        Ok(Self { last_ms, renew_ms: made.renew_ms.min(last_ms), ..made })
    }

    /// The value of the `Authorization` header, marked as sensitive.
    pub fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// When it was asked for, in milliseconds of the monotonic clock.
    pub fn asked_ms(&self) -> u64 {
        self.asked_ms
    }
}

impl Slot {
    /// An empty one.
    pub fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            held: ArcSwapOption::empty(),
            failed: ArcSwapOption::empty(),
            is_asking: AtomicBool::new(false),
            ended: Notify::new(),
        }
    }

    /// What it holds that may be handed out.
    pub fn find(&self, now: Now) -> Option<Found> {
        let held = self.held.load_full().filter(|held| now.monotonic_ms < held.last_ms)?;
        Some(if now.monotonic_ms < held.renew_ms { Found::Fresh(held) } else { Found::Due(held) })
    }

    /// Why the last call failed, if that was a moment ago.
    pub fn failure(&self, now: Now) -> Option<Arc<str>> {
        let failed = self.failed.load();
        failed.as_ref().filter(|failed| now.monotonic_ms < failed.until_ms).map(|failed| Arc::clone(&failed.why))
    }

    /// The right to make a call; none while one is under way, where there is no need, and for a moment after a failure.
    pub fn begin(self: &Arc<Self>, now: Now) -> Option<Turn> {
        if self.is_asking.swap(true, Ordering::AcqRel) {
            return None;
        }
        let turn = Turn(Arc::clone(self));
        // The call before may have ended a moment ago.
        let is_needless = matches!(self.find(now), Some(Found::Fresh(_))) || self.failure(now).is_some();
        (!is_needless).then_some(turn)
    }

    /// Ready once a call has ended.
    pub fn ended(&self) -> Notified<'_> {
        self.ended.notified()
    }

    /// Forgets a credential that the upstream did not take. Whether this was the first to say so.
    pub fn purge(&self, refused: &Arc<Obtained>) -> bool {
        let held = self.held.load();
        let is_held = held.as_ref().is_some_and(|held| Arc::ptr_eq(held, refused));
        is_held && {
            let before = self.held.compare_and_swap(&held, None);
            before.as_ref().is_some_and(|before| Arc::ptr_eq(before, refused))
        }
    }

    pub(super) fn is_for(&self, purpose: &Purpose) -> bool {
        self.purpose == *purpose
    }

    /// Whether nobody would miss it but the one list that it is in.
    pub(super) fn is_idle(self: &Arc<Self>, now: Now) -> bool {
        Arc::strong_count(self) == 1 && self.find(now).is_none() && self.failure(now).is_none()
    }
}

impl Turn {
    /// Puts what came of the call in place.
    pub fn finish(self, outcome: Result<Obtained, String>, now: Now) {
        match outcome {
            Ok(obtained) => {
                self.0.held.store(Some(Arc::new(obtained)));
                self.0.failed.store(None);
            }
            Err(why) => {
                let until_ms = now.monotonic_ms.saturating_add(FAILURE_MS);
                self.0.failed.store(Some(Arc::new(Failed { until_ms, why: why.into() })));
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.is_asking.store(false, Ordering::Release);
        self.0.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;

    fn obtained(clock: &Clock, seconds: u64) -> Obtained {
        Obtained::new(&Secret::new("token"), clock.now().monotonic_ms, Duration::from_secs(seconds)).unwrap()
    }

    /// After how many seconds a token that lives so long is due, and after how many it is handed out no more.
    #[track_caller]
    fn check(lifetime: u64, due: u64, last: u64) {
        let clock = Clock::manual(1_800_000_000);
        let slot = Arc::new(Slot::new(Purpose::Client));
        slot.begin(clock.now()).unwrap().finish(Ok(obtained(&clock, lifetime)), clock.now());
        let mut seen = Vec::new();
        while let Some(found) = slot.find(clock.now()) {
            seen.push(matches!(found, Found::Fresh(_)));
            clock.advance(Duration::from_secs(1));
        }
        let fresh = seen.iter().filter(|fresh| **fresh).count() as u64;
        assert_eq!((fresh, seen.len() as u64), (due, last), "a life of {lifetime} s");
    }

    #[test]
    fn ten_minutes_are_left_at_least_or_a_third_of_a_shorter_life() {
        // Keycloak's default.
        check(300, 150, 200);
        check(30, 15, 20);
        check(1800, 1080, 1200);
        check(3600, 2880, 3000);
    }

    #[test]
    fn one_with_a_floor_is_never_handed_out_with_less_than_ten_minutes() {
        let clock = Clock::manual(1_800_000_000);
        let with_floor = |seconds| {
            let lifetime = Duration::from_secs(seconds);
            Obtained::with_floor(&Secret::new("token"), clock.now().monotonic_ms, lifetime)
        };
        for lifetime in [601, 660, 1200, 3600] {
            let slot = Arc::new(Slot::new(Purpose::Client));
            slot.begin(clock.now()).unwrap().finish(with_floor(lifetime).map_err(|e| e.to_string()), clock.now());
            let mut handed_out = 0;
            while slot.find(clock.now()).is_some() {
                clock.advance(Duration::from_secs(1));
                handed_out += 1;
            }
            assert_eq!(handed_out, lifetime - 600, "a life of {lifetime} s");
        }
        assert_eq!(with_floor(600).unwrap_err(), ObtainedError::BelowFloor(Duration::from_secs(600)));
    }

    #[test]
    fn a_token_that_is_about_to_end_is_none() {
        let short = Obtained::new(&Secret::new("token"), 1, Duration::from_secs(29)).unwrap_err();
        assert_eq!(short, ObtainedError::Short(Duration::from_secs(29)));
        let odd = Obtained::new(&Secret::new("to\nken"), 1, Duration::from_secs(300)).unwrap_err();
        assert_eq!(odd, ObtainedError::Unsendable);
    }

    #[test]
    fn one_call_is_made_at_a_time_and_none_for_a_moment_after_a_failure() {
        let clock = Clock::manual(1_800_000_000);
        let slot = Arc::new(Slot::new(Purpose::Client));
        let turn = slot.begin(clock.now()).unwrap();
        assert!(slot.begin(clock.now()).is_none());
        turn.finish(Err("no".to_owned()), clock.now());
        assert_eq!(slot.failure(clock.now()).as_deref(), Some("no"));
        assert!(slot.begin(clock.now()).is_none());
        clock.advance(Duration::from_secs(3));
        // A call that was given up has not failed.
        drop(slot.begin(clock.now()).unwrap());
        slot.begin(clock.now()).unwrap().finish(Ok(obtained(&clock, 300)), clock.now());
        assert!(slot.begin(clock.now()).is_none(), "there is one");
        clock.advance(Duration::from_secs(150));
        assert!(slot.begin(clock.now()).is_some(), "it is due");
    }

    #[test]
    fn a_credential_is_purged_once_and_its_successor_is_not() {
        let clock = Clock::manual(1_800_000_000);
        let slot = Arc::new(Slot::new(Purpose::Client));
        slot.begin(clock.now()).unwrap().finish(Ok(obtained(&clock, 300)), clock.now());
        let Some(Found::Fresh(first)) = slot.find(clock.now()) else { panic!("nothing") };
        assert!(slot.purge(&first) && !slot.purge(&first));
        slot.begin(clock.now()).unwrap().finish(Ok(obtained(&clock, 300)), clock.now());
        assert!(!slot.purge(&first) && slot.find(clock.now()).is_some());
    }
}
