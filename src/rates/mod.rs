//! What replicas take of the limits that they count together, told to each other through a Redis.
//!
//! A request is judged by what this replica knows, and never waits. Twenty-five times a second the notes of what was taken ([`Ledger`]) are
//! told, in one call for many keys: Redis adds them to what all took, by its own clock, and answers how much each budget lacks by now.
//! Nothing is told of keys that nobody used here, and what is told is forgotten by Redis when the budget is whole.
//!
//! Without Redis each replica goes on with what it knows, and what was taken meanwhile is not told later: it would be held against
//! callers who were let through in good faith.

#[cfg(test)]
mod tests;

use crate::base::clock::{Clock, Now};
use crate::base::ledger::{Ledger, Name, Taken};
use crate::redis::{Redis, RedisError, Script};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::Value;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How often notes are told. Two of it, and the way to Redis, are the tenth of a second within which others know.
const EVERY: Duration = Duration::from_millis(40);

/// How often Redis is asked although there is nothing to tell, so that its absence is known.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// The pause after a failure.
const PAUSE: Duration = Duration::from_millis(500);

/// How many keys are told at once: less than two milliseconds of Redis, which answers nobody else meanwhile.
const PAGE: usize = 200;

/// What keys in Redis begin with, after the prefix. By itself it is the key of what was [`Drawn`].
const KEYS: &str = "limits";

/// Puts what names are hashed with, if nobody did, and gives what stands there.
const DRAW: &str = r"
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
";

/// Adds what was taken of budgets: for each, the time that it takes to come back, and when the budget would be whole again by itself.
/// Gives what each lacks by now, all in microseconds; nothing if names are hashed in another way by now. A value is when the budget is
/// whole, and when that was said, by Redis's clock: if that was set back since, so is the other.
const TELL: &str = r"
local drawn = redis.call('GET', KEYS[1])
if not drawn or string.sub(drawn, 1, #ARGV[1]) ~= ARGV[1] then return false end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local owed = {}
for at = 2, #KEYS do
  local whole_at = now + ARGV[2 * at - 1]
  local known, said_at = string.match(redis.call('GET', KEYS[at]) or '', '^(%d+) (%d+)$')
  if known and #known <= 16 then
    whole_at = math.max(whole_at, known - math.max(0, said_at - now) + ARGV[2 * at - 2])
  end
  owed[at - 1] = whole_at - now
  if whole_at > now then
    local value = string.format('%.0f %.0f', whole_at, now)
    redis.call('SET', KEYS[at], value, 'PX', string.format('%.0f', math.ceil(owed[at - 1] / 1000)))
  end
end
return owed
";

/// This replica's part in what all count together. One a process.
pub struct Rates {
    redis: Arc<Redis>,
    clock: Clock,
    draw: Script,
    tell: Script,
    drawn: Mutex<Option<Arc<Drawn>>>,
    is_alone: AtomicBool,
    counters: Counters,
}

/// What happened, since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Exchanges that were made.
    pub exchanges: AtomicU64,
    /// Exchanges that failed.
    pub failures: AtomicU64,
}

/// What names are hashed with, so that nobody reads in Redis who asked. Drawn by the first replica, and kept there.
struct Drawn {
    /// What it is known by.
    mark: String,
    key: hmac::Key,
}

/// One note of a ledger.
struct Note<'a> {
    ledger: &'a Ledger,
    key: u64,
    taken: Taken,
}

impl Rates {
    /// Nothing is sent before [`Rates::run`].
    pub fn new(redis: Arc<Redis>, clock: Clock) -> Self {
        let (draw, tell) = (Script::new(DRAW), Script::new(TELL));
        let (is_alone, counters) = (AtomicBool::new(false), Counters::default());
        Self { redis, clock, draw, tell, drawn: Mutex::default(), is_alone, counters }
    }

    /// Tells what is noted in the ledgers that are in force, and takes up what others took: for ever.
    pub async fn run(self: Arc<Self>, ledgers: impl Fn() -> Arc<[Arc<Ledger>]> + Send) {
        let mut told: Option<Instant> = None;
        let mut is_said = false;
        loop {
            let ledgers = ledgers();
            // Until the first time it is not known whether anybody is there.
            self.is_alone.store(!ledgers.is_empty() && told.is_none(), Ordering::Relaxed);
            let notes = notes(&ledgers);
            let is_due = !notes.is_empty() || told.is_none_or(|told| told.elapsed() >= CONFIRM_EVERY);
            let mut pause = EVERY;
            if ledgers.is_empty() {
                told = None;
            } else if is_due {
                match self.exchange(&notes).await {
                    Ok(()) => {
                        told = Some(Instant::now());
                        if std::mem::take(&mut is_said) {
                            tracing::info!("the limits of routes are counted together with other replicas again");
                        }
                    }
                    Err(error) => {
                        told = None;
                        self.counters.failures.fetch_add(1, Ordering::Relaxed);
                        // Said when it begins, and not at each attempt.
                        if !std::mem::replace(&mut is_said, true) {
                            let error = &error as &dyn std::error::Error;
                            tracing::warn!(error, "the limits of routes are counted by this replica alone");
                        }
                        pause = PAUSE;
                    }
                }
                self.is_alone.store(told.is_none(), Ordering::Relaxed);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether at this moment each replica counts for itself what all were to count together.
    pub fn is_alone(&self) -> bool {
        self.is_alone.load(Ordering::Relaxed)
    }

    /// What happened, since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Tells notes, and takes up what others took.
    async fn exchange(&self, notes: &[Note<'_>]) -> Result<(), RedisError> {
        // One without notes asks whether Redis is there.
        let nothing: &[Note<'_>] = &[];
        for page in notes.chunks(PAGE).chain(notes.is_empty().then_some(nothing)) {
            self.tell_page(page).await?;
        }
        self.counters.exchanges.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn tell_page(&self, page: &[Note<'_>]) -> Result<(), RedisError> {
        // Twice, for a Redis that was emptied since.
        for _ in 0..2 {
            let drawn = self.drawn().await?;
            let now = self.clock.now();
            if let Some(owed) = self.tell(&drawn, page, now).await? {
                for (note, owed_us) in page.iter().zip(owed) {
                    // As of when it was sent: Redis was asked no earlier, so this is no more than what is lacking.
                    note.ledger.raise(note.key, &note.taken, owed_us, now);
                }
                return Ok(());
            }
            *self.drawn.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Err(RedisError::Conflict(self.redis.key(KEYS)))
    }

    /// What each budget lacks by now; nothing if names are hashed in another way.
    async fn tell(&self, drawn: &Drawn, page: &[Note<'_>], now: Now) -> Result<Option<Vec<i64>>, RedisError> {
        let own = self.redis.key(KEYS);
        let mut keys = vec![own.clone()];
        let mut arguments = vec![drawn.mark.clone()];
        for Note { taken, .. } in page {
            keys.push(format!("{own}:{}", drawn.name(&taken.name)));
            arguments.extend([taken.time_us().to_string(), taken.alone_us(now).to_string()]);
        }
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        let arguments: Vec<_> = arguments.iter().map(String::as_bytes).collect();
        match self.redis.run(&self.tell, &keys, &arguments).await? {
            Value::Nil => Ok(None),
            Value::Array(owed) if owed.len() == page.len() => {
                let owed = owed.into_iter().map(|owed| if let Value::Int(owed) = owed { Some(owed) } else { None });
                owed.collect::<Option<_>>().map(Some).ok_or(RedisError::Unexpected(own))
            }
            _ => Err(RedisError::Unexpected(own)),
        }
    }

    /// What names are hashed with, read or drawn.
    async fn drawn(&self) -> Result<Arc<Drawn>, RedisError> {
        if let Some(drawn) = self.drawn.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(drawn);
        }
        let key = self.redis.key(KEYS);
        let found = match self.redis.run(&self.draw, &[&key], &[Drawn::fresh().as_bytes()]).await? {
            Value::BulkString(text) => Drawn::parse(&text),
            _ => None,
        };
        let drawn = Arc::new(found.ok_or(RedisError::Unexpected(key))?);
        *self.drawn.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&drawn));
        Ok(drawn)
    }
}

impl fmt::Debug for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rates").field("is_alone", &self.is_alone).finish_non_exhaustive()
    }
}

/// All that is noted, those of the first ledger first.
fn notes(ledgers: &[Arc<Ledger>]) -> Vec<Note<'_>> {
    let of = |ledger| Ledger::drain(ledger).into_iter().map(move |(key, taken)| Note { ledger, key, taken });
    ledgers.iter().flat_map(|ledger| of(ledger)).collect()
}

impl Drawn {
    /// Of how many characters the mark is.
    const MARK: usize = 16;

    /// A mark, and what to hash with.
    fn fresh() -> String {
        let mut drawn = [0; Self::MARK / 4 * 3 + 36];
        // Without random bytes names can be guessed, and are right.
        let _ = rand::fill(&mut drawn);
        URL_SAFE_NO_PAD.encode(drawn)
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() == Self::MARK + 48)?;
        let (mark, secret) = text.split_at_checked(Self::MARK)?;
        Some(Self { mark: mark.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()) })
    }

    fn name(&self, name: &Name) -> String {
        let tag = hmac::sign(&self.key, name);
        // 128 bits: no two meet.
        URL_SAFE_NO_PAD.encode(&tag.as_ref()[..16])
    }
}
