//! What Keycloak tells of its own accord, asked for each second.
//!
//! An event bears the time at which it was made and is seen when it is committed, which is later; so each reading begins some
//! seconds before the newest event, and what comes again is known by its id. How far was read is stored, by the issuer's clock.

use super::{Directory, Watch, back_off};
use crate::base::clock::Now;
use crate::identity::Hint;
use crate::issuer::keycloak::{Answer, Feed, KeycloakError};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// How often each feed is asked for.
const EACH: Duration = Duration::from_secs(1);

/// How far before the newest event a reading begins.
const OVERLAP_MS: u64 = 10_000;

/// An issuer's clock behind what was read by more than this was set back. Several nodes differ by less.
const STEP_MS: u64 = 5_000;

/// After such a step reading begins so much earlier than now: the clock is looked at once a minute.
const STEP_BACK_MS: u64 = 70_000;

/// The issuer's clock is known to about a second; one that was set back by less than this is covered by the overlap.
const STEP_SEEN_MS: i64 = 1_000;

/// From longer ago nothing is read again, whatever our own clock says about how long nothing was read.
const AGAIN_MS: u64 = 24 * 60 * 60 * 1000;

/// Rows of the last page that are asked for again: one that is committed late moves the others.
const PAGE_OVERLAP: usize = 20;

/// The most ids that are remembered; what comes again beyond them does no harm.
const IDS_KEPT: usize = 100_000;

/// Where one feed is.
struct Reader {
    feed: Feed,
    name: Arc<str>,
    /// When the position was reached, by our clock, is stored under this.
    reached_name: Arc<str>,
    /// The newest event, by the issuer's clock; `None`: never read.
    position_ms: Option<u64>,
    /// Where the first reading of this process begins; it ends with that.
    begin_ms: Option<u64>,
    /// By how much the issuer's clock was ahead of our monotonic one at least, when it last answered.
    ahead_ms: Option<i64>,
    /// Events seen, with their time.
    seen: BTreeMap<String, u64>,
}

impl<D: Directory> Watch<D> {
    /// Follows a feed for ever.
    pub(super) async fn follow(&self, feed: Feed) {
        let name: Arc<str> = feed.code().into();
        let reached_name = format!("{name}_at").into();
        let position_ms = self.users.position(&self.settings.issuer, &name);
        let seen = BTreeMap::new();
        let mut reader = Reader { feed, name, reached_name, position_ms, begin_ms: None, ahead_ms: None, seen };
        let mut failures = 0;
        loop {
            let began = Instant::now();
            failures = match self.read_feed(&mut reader).await {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(issuer = &*self.settings.issuer, feed = feed.code(), "events are read again");
                    }
                    0
                }
                Err(error) => {
                    self.note_feed_failure(feed, failures, &error);
                    failures + 1
                }
            };
            let pause = if failures == 0 { EACH } else { back_off(failures) };
            tokio::time::sleep_until(began + pause).await;
        }
    }

    /// Said once when it begins.
    fn note_feed_failure(&self, feed: Feed, failures: u32, error: &KeycloakError) {
        self.counters.feed(feed).failures.fetch_add(1, Ordering::Relaxed);
        if failures == 0 {
            tracing::warn!(issuer = &*self.settings.issuer, feed = feed.code(), %error, "events cannot be read");
        }
    }

    /// Reads a feed to its end.
    async fn read_feed(&self, reader: &mut Reader) -> Result<(), KeycloakError> {
        let counters = self.counters.feed(reader.feed);
        let since_ms = self.begin(reader).await?.saturating_sub(OVERLAP_MS);
        let (mut first, mut is_for_many) = (0, false);
        loop {
            let answer = self.directory.events(reader.feed, since_ms, first).await?;
            if self.was_set_back(reader, &answer) {
                return Ok(());
            }
            let page = answer.value;
            counters.malformed.fetch_add(page.malformed, Ordering::Relaxed);
            counters.unrelated.fetch_add(page.unrelated, Ordering::Relaxed);
            for event in page.events {
                if reader.seen.contains_key(&event.id) {
                    counters.repeated.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                counters.events[event.meaning.index()].fetch_add(1, Ordering::Relaxed);
                is_for_many |= self.act(&event, answer.time);
                reader.seen.insert(event.id, event.time_ms);
            }
            // Nothing happened later than now, whatever it says.
            self.reach(reader, page.newest_ms.min(answer.time.latest_ms));
            if !page.is_full {
                counters.read_ms.store(answer.asked_ms, Ordering::Relaxed);
                break;
            }
            first += page.rows.saturating_sub(PAGE_OVERLAP).max(1);
        }
        if is_for_many {
            self.hint(Hint::ReintrospectAll { issuer: Arc::clone(&self.settings.issuer) });
            self.realm_changed.notify_one();
        }
        reader.begin_ms = None;
        reader.forget(since_ms);
        Ok(())
    }

    /// From when on events are read.
    async fn begin(&self, reader: &mut Reader) -> Result<u64, KeycloakError> {
        if let (Some(position), Some(_)) = (reader.position_ms, reader.ahead_ms) {
            return Ok(reader.begin_ms.map_or(position, |begin_ms| begin_ms.min(position)));
        }
        let now_ms = self.directory.ask_time().await?.earliest_ms;
        let Some(position) = reader.position_ms else {
            // What was before the first start is the sweep's.
            self.reach(reader, now_ms);
            return Ok(now_ms);
        };
        // Its clock may have been set back since, and gone past the position again: what it shows now less what went by counts too.
        let reached_ms = self.users.position(&self.settings.issuer, &reader.reached_name);
        let went_by_ms = self.clock.now().unix_ms.saturating_sub(reached_ms.unwrap_or(u64::MAX)).min(AGAIN_MS);
        let begin_ms = position.min(now_ms.saturating_sub(went_by_ms)).saturating_sub(STEP_BACK_MS);
        reader.begin_ms = Some(begin_ms);
        Ok(begin_ms)
    }

    /// Everything up to a time was acted on.
    fn reach(&self, reader: &mut Reader, time_ms: u64) {
        if reader.position_ms.is_none_or(|position| position < time_ms) {
            reader.position_ms = Some(time_ms);
            let issuer = &self.settings.issuer;
            self.users.set_position(issuer, &reader.name, time_ms);
            self.users.set_position(issuer, &reader.reached_name, self.clock.now().unix_ms);
        }
    }

    /// Whether the issuer's clock went back; then reading begins again from before that moment.
    fn was_set_back<T>(&self, reader: &mut Reader, answer: &Answer<T>) -> bool {
        let time = answer.time;
        let ahead = |issuer_ms: u64, our_ms: u64| issuer_ms.cast_signed().saturating_sub(our_ms.cast_signed());
        let before_ms = reader.ahead_ms.replace(ahead(time.earliest_ms, answer.asked_ms));
        let most_ms = ahead(time.latest_ms, self.clock.now().monotonic_ms);
        let is_back = before_ms.is_some_and(|before_ms| most_ms.saturating_add(STEP_SEEN_MS) < before_ms)
            // Or it did while nothing ran here.
            || reader.position_ms.is_some_and(|position| position > time.latest_ms.saturating_add(STEP_MS));
        if is_back {
            let (issuer, feed) = (&*self.settings.issuer, reader.feed.code());
            tracing::warn!(issuer, feed, "the issuer's clock was set back: its events are read again");
            self.counters.feed(reader.feed).clock_steps.fetch_add(1, Ordering::Relaxed);
            reader.position_ms = None;
            self.reach(reader, time.earliest_ms.saturating_sub(STEP_BACK_MS));
        }
        is_back
    }
}

impl Reader {
    /// Forgets ids that no reading shows again.
    fn forget(&mut self, since_ms: u64) {
        self.seen.retain(|_, time_ms| *time_ms >= since_ms);
        if self.seen.len() > IDS_KEPT {
            self.seen.clear();
        }
    }
}

/// Sign-ins that were told lately. Whether they matter is known only when the other feed has been read.
#[derive(Debug, Default)]
pub(super) struct Logins {
    known: VecDeque<Login>,
}

#[derive(Debug, Clone)]
pub(super) struct Login {
    subject: Box<str>,
    pub(super) session: Box<str>,
    pub(super) time_ms: u64,
    /// The session surely began then.
    pub(super) is_new: bool,
}

/// The most sign-ins remembered; beyond them the session list tells.
const LOGINS_KEPT: usize = 10_000;

impl Logins {
    pub(super) fn remember(&mut self, subject: &str, session: &str, time_ms: u64, is_new: bool) {
        if self.known.len() >= LOGINS_KEPT {
            self.known.pop_front();
        }
        self.known.push_back(Login { subject: subject.into(), session: session.into(), time_ms, is_new });
    }

    /// Those of a user.
    pub(super) fn of(&self, subject: &str) -> Vec<Login> {
        self.known.iter().filter(|login| *login.subject == *subject).cloned().collect()
    }
}

impl super::FeedCounters {
    /// For how long the feed was not read to its end, in milliseconds; `None`: it never was.
    pub fn lag_ms(&self, now: Now) -> Option<u64> {
        let read_ms = self.read_ms.load(Ordering::Relaxed);
        (read_ms > 0).then(|| now.monotonic_ms.saturating_sub(read_ms))
    }
}
