//! How much an issuer is asked about users: never more than so many calls in any second, evenly.
//!
//! Half of them are kept for tokens in use. The others are for tokens not seen before, for tokens that are exchanged, and for reads of
//! single users. Each of the last two has at most half of that half; reads come first.
//!
//! One ceiling serves an issuer through all configurations, so that a reload does not double it.

use super::rate::{Bucket, MILLI, Recent};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A token of a known user that was not asked about before, or not within the bound.
    FirstSight,
    /// A token that nobody vouches for: it may be any text, sent by anybody.
    Stranger,
    /// A token in use, asked about again before its answer is too old.
    Revalidation,
    /// A single user, or their sessions.
    Read,
    /// A token that is exchanged for one that an upstream is given.
    Exchange,
}

impl Kind {
    /// Every kind, in the order of the metric.
    pub const ALL: [Self; 5] = [Self::FirstSight, Self::Stranger, Self::Revalidation, Self::Read, Self::Exchange];

    /// The word.
    pub fn code(self) -> &'static str {
        match self {
            Self::FirstSight => "first_sight",
            Self::Stranger => "stranger",
            Self::Revalidation => "revalidation",
            Self::Read => "read",
            Self::Exchange => "exchange",
        }
    }

    /// What it has in common with others: how many of them are under way.
    fn class(self) -> usize {
        match self {
            Self::FirstSight | Self::Stranger => 0,
            Self::Revalidation => 1,
            Self::Read => 2,
            Self::Exchange => 3,
        }
    }
}

/// The ceiling of one issuer.
#[derive(Debug)]
pub struct Ceiling {
    state: Mutex<State>,
    /// A call ended.
    ended: Notify,
}

/// A call that may be made. It is under way until this is dropped.
#[derive(Debug)]
pub struct Permit {
    ceiling: Arc<Ceiling>,
    kind: Kind,
}

/// What a ceiling looks like at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Calls begun so far, in the order of [`Kind::ALL`].
    pub calls: [u64; 5],
    /// Calls a second, of the half kept for tokens in use, that were free in the last seconds.
    pub headroom: u64,
}

#[derive(Debug)]
struct State {
    /// Calls in any second.
    most: u32,
    /// When the calls of the last second began.
    begun: VecDeque<Instant>,
    all: Bucket,
    /// All but re-validation.
    other: Bucket,
    strangers: Bucket,
    reads: Bucket,
    exchanges: Bucket,
    /// Calls under way, by [`Kind::class`].
    under_way: [u32; 4],
    /// Reads that wait: everything else leaves them room.
    reads_waiting: u32,
    calls: [u64; 5],
    recent: Recent,
}

/// The window of the ceiling.
const SECOND: Duration = Duration::from_secs(1);

impl Ceiling {
    /// At most `most` calls in any second.
    pub fn new(most: u32) -> Self {
        Self { state: Mutex::new(State::new(most.max(1), Instant::now())), ended: Notify::new() }
    }

    /// Another `most`, after a reload.
    pub fn set_most(&self, most: u32) {
        let mut state = self.state();
        if state.most != most.max(1) {
            let (begun, under_way, calls) = (state.begun.clone(), state.under_way, state.calls);
            let reads_waiting = state.reads_waiting;
            *state = State { begun, under_way, calls, reads_waiting, ..State::new(most.max(1), Instant::now()) };
        }
    }

    /// Begins a call now, or says after how long it is worth trying again at the earliest.
    ///
    /// # Errors
    /// That time.
    pub fn try_begin(self: &Arc<Self>, kind: Kind) -> Result<Permit, Duration> {
        self.state().begin(kind, Instant::now())?;
        Ok(Permit { ceiling: Arc::clone(self), kind })
    }

    /// Whether a call could begin now.
    ///
    /// # Errors
    /// After how long it is worth trying again at the earliest.
    pub fn may_begin(&self, kind: Kind) -> Result<(), Duration> {
        self.state().may_begin(kind, Instant::now())
    }

    /// Begins a read as soon as one may be made.
    pub async fn begin_read(self: &Arc<Self>) -> Permit {
        let _waiting = ReadWaiting::new(self);
        self.begin(Kind::Read).await
    }

    /// Begins a call as soon as one of its kind may be made. Only reads come before others: [`Ceiling::begin_read`].
    pub async fn begin(self: &Arc<Self>, kind: Kind) -> Permit {
        loop {
            let ended = self.ended.notified();
            match self.try_begin(kind) {
                Ok(permit) => return permit,
                // Either way there may be room.
                Err(after) => drop(tokio::time::timeout(after, ended).await),
            }
        }
    }

    /// What was and is.
    pub fn usage(&self) -> Usage {
        let mut state = self.state();
        let recent = state.recent.a_second(Instant::now());
        Usage { calls: state.calls, headroom: u64::from(state.most / 2).saturating_sub(recent) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers are as good after a panic as before.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(most: u32, now: Instant) -> Self {
        let burst = (most / 10).max(1);
        Self {
            most,
            begun: VecDeque::new(),
            all: Bucket::new(most * MILLI, burst, now),
            other: Bucket::new(most * MILLI / 2, burst, now),
            strangers: Bucket::new(most * MILLI / 4, burst, now),
            reads: Bucket::new(most * MILLI / 4, burst, now),
            exchanges: Bucket::new(most * MILLI / 4, burst, now),
            under_way: [0; 4],
            reads_waiting: 0,
            calls: [0; 5],
            recent: Recent::default(),
        }
    }

    fn may_begin(&mut self, kind: Kind, now: Instant) -> Result<(), Duration> {
        while self.begun.front().is_some_and(|at| now.duration_since(*at) >= SECOND) {
            self.begun.pop_front();
        }
        if self.under_way[kind.class()] >= self.concurrency(kind) {
            // The end of a call is what makes room; whoever ends one looks again.
            return Err(SECOND);
        }
        if self.begun.len() >= self.most as usize {
            let oldest = self.begun.front().map_or(SECOND, |at| SECOND.saturating_sub(now.duration_since(*at)));
            return Err(oldest.max(Duration::from_millis(1)));
        }
        let spare = if kind == Kind::Read { 0 } else { self.reads_waiting };
        self.all.has(1 + spare, now)?;
        if kind != Kind::Revalidation {
            self.other.has(1 + spare, now)?;
        }
        match kind {
            Kind::Stranger => self.strangers.has(1, now),
            Kind::Read => self.reads.has(1, now),
            Kind::Exchange => self.exchanges.has(1, now),
            Kind::FirstSight | Kind::Revalidation => Ok(()),
        }
    }

    fn begin(&mut self, kind: Kind, now: Instant) -> Result<(), Duration> {
        self.may_begin(kind, now)?;
        match kind {
            Kind::FirstSight => {}
            Kind::Stranger => self.strangers.take(),
            Kind::Revalidation => self.recent.count(now),
            Kind::Read => self.reads.take(),
            Kind::Exchange => self.exchanges.take(),
        }
        if kind != Kind::Revalidation {
            self.other.take();
        }
        self.all.take();
        self.begun.push_back(now);
        self.under_way[kind.class()] += 1;
        self.calls[kind as usize] += 1;
        Ok(())
    }

    /// How many calls of a class may be under way: an issuer that is slow gets no more at once.
    fn concurrency(&self, kind: Kind) -> u32 {
        let half = (self.most / 4).clamp(8, 64);
        if kind == Kind::Stranger { half / 2 } else { half }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let class = self.kind.class();
        let mut state = self.ceiling.state();
        state.under_way[class] = state.under_way[class].saturating_sub(1);
        drop(state);
        self.ceiling.ended.notify_waiters();
    }
}

/// Announces a read that waits.
struct ReadWaiting<'a>(&'a Ceiling);

impl<'a> ReadWaiting<'a> {
    fn new(ceiling: &'a Ceiling) -> Self {
        ceiling.state().reads_waiting += 1;
        Self(ceiling)
    }
}

impl Drop for ReadWaiting<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.reads_waiting = state.reads_waiting.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Begins and ends at once as many calls as are allowed within `time`, looked at each millisecond.
    async fn calls(ceiling: &Arc<Ceiling>, kinds: &[Kind], time: Duration) -> Vec<(Kind, Instant)> {
        let (start, mut begun) = (Instant::now(), Vec::new());
        while start.elapsed() < time {
            for kind in kinds {
                while ceiling.try_begin(*kind).is_ok() {
                    begun.push((*kind, Instant::now()));
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        begun
    }

    fn count(begun: &[(Kind, Instant)], kind: Kind) -> usize {
        begun.iter().filter(|(known, _)| *known == kind).count()
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_sees_more_calls_than_the_ceiling() {
        for most in [1, 7, 100, 1000] {
            let ceiling = Arc::new(Ceiling::new(most));
            tokio::time::advance(Duration::from_secs(5)).await;
            let kinds = [Kind::Stranger, Kind::FirstSight, Kind::Revalidation, Kind::Read];
            let begun = calls(&ceiling, &kinds, Duration::from_secs(5)).await;
            for (index, (_, at)) in begun.iter().enumerate() {
                let within = begun[index..].iter().take_while(|(_, other)| other.duration_since(*at) < SECOND).count();
                assert!(within <= most as usize, "{within} calls in a second, not {most}");
            }
            // And it is not far below it.
            assert!(begun.len() >= 4 * most as usize, "{} of {most} a second in five", begun.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn first_sights_leave_half_and_strangers_three_quarters() {
        let ceiling = Arc::new(Ceiling::new(100));
        let begun = calls(&ceiling, &[Kind::Stranger, Kind::FirstSight], Duration::from_secs(10)).await;
        let (strangers, all) = (count(&begun, Kind::Stranger), begun.len());
        assert!((480..=510).contains(&all), "{all}");
        assert!((240..=260).contains(&strangers), "{strangers}");
        let begun = calls(&ceiling, &[Kind::FirstSight, Kind::Revalidation], Duration::from_secs(10)).await;
        assert!(count(&begun, Kind::Revalidation) >= 480, "{}", count(&begun, Kind::Revalidation));
        // What first sights leave serves tokens in use.
        let begun = calls(&ceiling, &[Kind::Revalidation], Duration::from_secs(10)).await;
        assert!(begun.len() >= 990, "{}", begun.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_issuer_is_asked_no_more_at_once() {
        let ceiling = Arc::new(Ceiling::new(100));
        let mut held = Vec::new();
        for _ in 0..100 {
            held.extend(ceiling.try_begin(Kind::FirstSight).ok());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(held.len(), 25);
        assert!(ceiling.try_begin(Kind::Revalidation).is_ok());
        held.pop();
        assert!(ceiling.try_begin(Kind::FirstSight).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_gets_its_turn_beside_any_number_of_tokens_in_use() {
        let ceiling = Arc::new(Ceiling::new(100));
        drop(calls(&ceiling, &[Kind::Revalidation], SECOND).await);
        let reader = Arc::clone(&ceiling);
        let read = tokio::spawn(async move { drop(reader.begin_read().await) });
        drop(calls(&ceiling, &[Kind::Revalidation], Duration::from_millis(200)).await);
        assert!(read.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn reads_have_a_quarter_and_come_before_first_sights() {
        let ceiling = Arc::new(Ceiling::new(100));
        let begun = calls(&ceiling, &[Kind::Read, Kind::FirstSight, Kind::Revalidation], Duration::from_secs(10)).await;
        let (reads, others) = (count(&begun, Kind::Read), count(&begun, Kind::FirstSight));
        assert!((240..=260).contains(&reads), "{reads}");
        assert!(reads + others <= 510, "{others} beside {reads}");
        assert!(count(&begun, Kind::Revalidation) >= 480, "{}", count(&begun, Kind::Revalidation));
        let reader = Arc::clone(&ceiling);
        let read = tokio::spawn(async move { drop(reader.begin_read().await) });
        drop(calls(&ceiling, &[Kind::FirstSight], Duration::from_millis(200)).await);
        assert!(read.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn exchanges_have_a_quarter_and_take_nothing_from_tokens_in_use() {
        let ceiling = Arc::new(Ceiling::new(100));
        let begun = calls(&ceiling, &[Kind::Exchange, Kind::Revalidation], Duration::from_secs(10)).await;
        assert!((240..=260).contains(&count(&begun, Kind::Exchange)), "{}", count(&begun, Kind::Exchange));
        assert!(count(&begun, Kind::Revalidation) >= 480, "{}", count(&begun, Kind::Revalidation));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_begins_as_soon_as_another_ends() {
        let ceiling = Arc::new(Ceiling::new(100));
        let mut held = Vec::new();
        for _ in 0..25 {
            held.push(ceiling.begin_read().await);
        }
        let (reader, begun) = (Arc::clone(&ceiling), Instant::now());
        let read = tokio::spawn(async move {
            drop(reader.begin_read().await);
            begun.elapsed()
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!read.is_finished());
        held.pop();
        assert_eq!(read.await.unwrap().as_millis(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn headroom_is_what_tokens_in_use_leave_of_their_half() {
        let ceiling = Arc::new(Ceiling::new(100));
        assert_eq!(ceiling.usage().headroom, 50);
        for _ in 0..200 {
            drop(ceiling.try_begin(Kind::Revalidation).unwrap());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!((40..=41).contains(&ceiling.usage().headroom));
        assert_eq!(ceiling.usage().calls, [0, 0, 200, 0, 0]);
    }
}
