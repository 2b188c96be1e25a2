//! Where readers find their tokens.

use super::files::Files;
use super::record::{Held, Seen, digest_of};
use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::users::UserId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where tokens are put.
#[derive(Debug)]
pub enum Sink {
    /// In this process alone, for `GET /token`.
    Memory(Memory),
    /// In files.
    Files(Files),
}

/// By user.
#[derive(Debug, Default)]
pub struct Memory(Mutex<HashMap<UserId, Secret>>);

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// It is there, and empty.
    Empty,
    /// A text.
    Text(Secret),
    /// Something that Postern never wrote.
    Foreign,
}

impl Memory {
    fn all(&self) -> MutexGuard<'_, HashMap<UserId, Secret>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink {
    /// By how much readers may be behind what was written.
    pub fn behind_ms(&self) -> u64 {
        match self {
            Self::Memory(_) | Self::Files(_) => 0,
        }
    }

    /// Puts a text, which may be empty, in the place of what is there, and reads it back.
    ///
    /// # Errors
    /// It may not be there.
    pub fn write(&self, user: &UserId, text: &Secret) -> io::Result<Found> {
        match self {
            Self::Memory(memory) => drop(memory.all().insert(user.clone(), text.clone())),
            Self::Files(files) => files.write(user, text.expose())?,
        }
        self.read(user)
    }

    /// Removes what is there.
    ///
    /// # Errors
    /// It may still be there.
    pub fn remove(&self, user: &UserId) -> io::Result<()> {
        match self {
            Self::Memory(memory) => {
                memory.all().remove(user);
                Ok(())
            }
            Self::Files(files) => files.remove(user),
        }
    }

    /// What a reader finds.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, user: &UserId) -> io::Result<Found> {
        match self {
            Self::Memory(memory) => Ok(match memory.all().get(user) {
                None => Found::Absent,
                Some(text) if text.expose().is_empty() => Found::Empty,
                Some(text) => Found::Text(text.clone()),
            }),
            Self::Files(files) => files.read(user),
        }
    }
}

impl Seen {
    /// What was found just now. What was there before already keeps the time at which it ends, whatever the clock says now.
    pub fn after(&self, found: Found, now: Now) -> Self {
        let token = match found {
            Found::Absent => return Self::Absent,
            Found::Empty => return Self::Empty,
            Found::Foreign => return Self::Foreign,
            Found::Text(token) => token,
        };
        if let Self::Token(held) = self
            && held.token == token
        {
            return Self::Token(Arc::clone(held));
        }
        let expires = expiry(token.expose()).unwrap_or(0);
        let left_ms = expires.saturating_mul(1000).saturating_sub(i64::try_from(now.unix_ms).unwrap_or(i64::MAX));
        let left_ms = u64::try_from(left_ms).unwrap_or(0);
        Self::Token(Arc::new(Held {
            digest: digest_of(token.expose().as_bytes()),
            token,
            expires,
            ends_ms: now.monotonic_ms.saturating_add(left_ms),
            learned_ms: now.monotonic_ms,
        }))
    }
}

/// `exp` of a compact JWS, whoever signed it: whether it is ours its digest tells.
fn expiry(token: &str) -> Option<i64> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<serde_json::Value>(&payload).ok()?.get("exp")?.as_i64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use std::time::Duration;

    fn token(expires: i64) -> Secret {
        let payload = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{expires}}}"#));
        Secret::new(format!("e30.{payload}.c2ln"))
    }

    fn held(seen: &Seen) -> &Held {
        match seen {
            Seen::Token(held) => held,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn how_long_a_token_lives_is_told_once_whatever_the_wall_clock_does_later() {
        let clock = Clock::manual(1_800_000_000);
        let seen = Seen::Unknown.after(Found::Text(token(1_800_001_000)), clock.now());
        assert_eq!(held(&seen).ends_ms, clock.now().monotonic_ms + 1_000_000);
        clock.advance(Duration::from_secs(10));
        let stepped = Now { unix_ms: clock.now().unix_ms - 3_600_000, ..clock.now() };
        let again = seen.after(Found::Text(token(1_800_001_000)), stepped);
        assert_eq!((held(&again).ends_ms, held(&again).learned_ms), (held(&seen).ends_ms, held(&seen).learned_ms));
    }

    #[test]
    fn a_text_that_is_no_token_has_ended() {
        let clock = Clock::manual(1_800_000_000);
        for text in ["x", "a.b.c", "..", "e30.e30.e30", "{\"exp\":1}"] {
            let seen = Seen::Empty.after(Found::Text(Secret::new(text)), clock.now());
            assert_eq!(held(&seen).ends_ms, clock.now().monotonic_ms, "{text}");
        }
    }
}
