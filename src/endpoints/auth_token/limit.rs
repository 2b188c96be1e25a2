//! How often a password may be wrong, and how many calls may be under way.
//!
//! Wrong passwords are counted by pairs of user and address, so that a stranger's do not keep the user out, and by address, so that
//! nobody tries one password with many names. A unit is taken before the issuer is asked and given back unless the password was wrong: calls
//! at the same time are no way round. An address of IPv6 is its network of 64 bits.

use crate::base::budget::{Budget, network};
use crate::base::clock::{Clock, Now};
use crate::base::sharded::{SHARDS, Sharded};
use crate::config::{self, Failures};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Pairs, and addresses, that are remembered at most.
const CAPACITY: usize = 100_000;

/// For so long a user who signed in is known at the address.
const KNOWN_FOR: Duration = Duration::from_hours(24);

/// Calls that are under way at the issuer at most: each costs it a quarter of a second of work on a password.
const MOST_IN_ALL: usize = 64;

/// Of them, those of one address.
const MOST_OF_ADDRESS: usize = 16;

/// Why a call has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooMany {
    /// Wrong passwords; the next may be tried after this. Whether by the user or by the address is not told.
    #[error("too many wrong passwords")]
    Failures(Duration),
    /// Calls of this address at the same time.
    #[error("too many calls at the same time")]
    OfAddress,
    /// Calls of everybody at the same time.
    #[error("too many calls at the same time")]
    InAll,
}

/// The counts.
#[derive(Debug)]
pub(super) struct Limits {
    per_user: Failures,
    per_address: Failures,
    /// By the hash of user and address under a secret of the process: no name is kept.
    pairs: Budget<u64>,
    addresses: Budget<IpAddr>,
    /// Pairs that signed in, until when they are known, in milliseconds of the monotonic clock.
    known: Sharded<u64, u64>,
    under_way: Mutex<UnderWay>,
    hasher: RandomState,
    clock: Clock,
}

#[derive(Debug, Default)]
struct UnderWay {
    in_all: usize,
    of_address: HashMap<IpAddr, usize>,
}

/// Leave for one call. Dropped without more it was none.
#[derive(Debug)]
pub(super) struct Permit {
    limits: Arc<Limits>,
    network: IpAddr,
    guess: Option<Guess>,
}

/// What was taken for a password.
#[derive(Debug)]
struct Guess {
    pair: u64,
    /// Not where the address had nothing left, and the pair was known.
    is_of_address: bool,
}

impl Limits {
    pub(super) fn new(config: &config::AuthToken, clock: Clock) -> Self {
        let (per_user, per_address) = (config.failures_per_user, config.failures_per_address);
        Self {
            pairs: Budget::new(per_user.most, interval(per_user), CAPACITY),
            addresses: Budget::new(per_address.most, interval(per_address), CAPACITY),
            per_user,
            per_address,
            known: Sharded::default(),
            under_way: Mutex::default(),
            hasher: RandomState::new(),
            clock,
        }
    }

    /// Whether the limits are those of a configuration.
    pub(super) fn are_of(&self, config: &config::AuthToken) -> bool {
        (self.per_user, self.per_address) == (config.failures_per_user, config.failures_per_address)
    }

    /// Lets a call go on, with a password for that user if there is one.
    ///
    /// # Errors
    /// [`TooMany`].
    pub(super) fn admit(self: &Arc<Self>, username: Option<&str>, client: IpAddr) -> Result<Permit, TooMany> {
        let network = network(client);
        let mut permit = self.begin(network)?;
        let Some(username) = username else { return Ok(permit) };
        let now = self.clock.now();
        let pair = self.hasher.hash_one((fold(username), network));
        if !self.pairs.take(pair, now) {
            return Err(TooMany::Failures(self.pairs.wait(pair, now).unwrap_or_default()));
        }
        let is_of_address = self.addresses.take(network, now);
        if !is_of_address && !self.is_known(pair, now) {
            self.pairs.give_back(pair, now);
            return Err(TooMany::Failures(self.addresses.wait(network, now).unwrap_or_default()));
        }
        permit.guess = Some(Guess { pair, is_of_address });
        Ok(permit)
    }

    fn begin(self: &Arc<Self>, network: IpAddr) -> Result<Permit, TooMany> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if under_way.in_all >= MOST_IN_ALL {
            return Err(TooMany::InAll);
        }
        let of_address = under_way.of_address.entry(network).or_default();
        if *of_address >= MOST_OF_ADDRESS {
            return Err(TooMany::OfAddress);
        }
        *of_address += 1;
        under_way.in_all += 1;
        Ok(Permit { limits: Arc::clone(self), network, guess: None })
    }

    fn end(&self, network: IpAddr) {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.in_all -= 1;
        if let Some(of_address) = under_way.of_address.get_mut(&network) {
            *of_address -= 1;
            if *of_address == 0 {
                under_way.of_address.remove(&network);
            }
        }
    }

    fn is_known(&self, pair: u64, now: Now) -> bool {
        self.known.shard(pair).get(&pair).is_some_and(|until| now.monotonic_ms < *until)
    }

    /// Only who has the right password comes here. Where there are too many, the one that signed in first is forgotten.
    fn remember(&self, pair: u64, now: Now) {
        let mut shard = self.known.shard(pair);
        if shard.len() >= CAPACITY / SHARDS && !shard.contains_key(&pair) {
            shard.retain(|_, until| now.monotonic_ms < *until);
            if shard.len() >= CAPACITY / SHARDS
                && let Some(first) = shard.iter().min_by_key(|(_, until)| **until).map(|(pair, _)| *pair)
            {
                shard.remove(&first);
            }
        }
        let known_for_ms = u64::try_from(KNOWN_FOR.as_millis()).unwrap_or(u64::MAX);
        shard.insert(pair, now.monotonic_ms.saturating_add(known_for_ms));
    }
}

impl Permit {
    /// The issuer gave tokens.
    pub(super) fn succeeded(self) {
        if let Some(guess) = &self.guess {
            self.limits.remember(guess.pair, self.limits.clock.now());
        }
    }

    /// The password was wrong: what was taken is not given back.
    pub(super) fn failed(mut self) {
        self.guess = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(guess) = self.guess.take() {
            let now = self.limits.clock.now();
            self.limits.pairs.give_back(guess.pair, now);
            if guess.is_of_address {
                self.limits.addresses.give_back(self.network, now);
            }
        }
        self.limits.end(self.network);
    }
}

/// The time that one failure takes to come back.
fn interval(failures: Failures) -> Duration {
    failures.per / failures.most.max(1)
}

/// The name as Keycloak looks for it: without case. What it does not fold (white space, accents under some databases) is another pair, and counts
/// against the same address.
fn fold(username: &str) -> String {
    username.trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AuthToken;

    fn limits(clock: &Clock) -> Arc<Limits> {
        let failures = |most, seconds| Failures { most, per: Duration::from_secs(seconds) };
        let config = AuthToken {
            issuer: "main".into(),
            clients: Vec::new(),
            failures_per_user: failures(3, 300),
            failures_per_address: failures(10, 1000),
            timeout: Duration::from_secs(10),
        };
        Arc::new(Limits::new(&config, clock.clone()))
    }

    fn nth(n: u32) -> IpAddr {
        IpAddr::from((10 << 24 | n).to_be_bytes())
    }

    /// So many wrong passwords are tried.
    fn fail(limits: &Arc<Limits>, username: &str, client: IpAddr, times: usize) -> usize {
        let tried = (0..times).filter(|_| limits.admit(Some(username), client).map(Permit::failed).is_ok());
        tried.count()
    }

    #[test]
    fn wrong_passwords_count_for_the_pair_and_nobody_else_is_kept_out() {
        let clock = Clock::manual(1);
        let limits = limits(&clock);
        assert_eq!(fail(&limits, "alice", nth(1), 10), 3);
        let wait = TooMany::Failures(Duration::from_secs(100));
        assert_eq!(limits.admit(Some("alice"), nth(1)).map(|_| ()), Err(wait));
        // The same user elsewhere, and another user there.
        assert!(limits.admit(Some("alice"), nth(2)).is_ok() && limits.admit(Some("bob"), nth(1)).is_ok());
        clock.advance(Duration::from_secs(99));
        assert_eq!(fail(&limits, "alice", nth(1), 1), 0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(fail(&limits, "alice", nth(1), 10), 1);
    }

    #[test]
    fn the_right_password_costs_nothing() {
        let limits = limits(&Clock::manual(1));
        for _ in 0..100 {
            limits.admit(Some("alice"), nth(1)).unwrap().succeeded();
            // Nor does a call that came to nothing.
            drop(limits.admit(Some("alice"), nth(1)).unwrap());
        }
        assert_eq!(fail(&limits, "alice", nth(1), 10), 3);
    }

    #[test]
    fn calls_at_the_same_time_are_no_way_round() {
        let limits = limits(&Clock::manual(1));
        let permits: Vec<_> = (0..10).filter_map(|_| limits.admit(Some("alice"), nth(1)).ok()).collect();
        assert_eq!(permits.len(), 3);
        drop(permits);
        assert_eq!(fail(&limits, "alice", nth(1), 10), 3);
    }

    #[test]
    fn a_name_is_the_same_in_any_case() {
        let limits = limits(&Clock::manual(1));
        for name in ["alice", "ALICE", " Alice "] {
            assert_eq!(fail(&limits, name, nth(1), 1), 1, "{name}");
        }
        assert_eq!(fail(&limits, "aLiCe", nth(1), 1), 0);
        assert_eq!((fold("Ζωή"), fold("ÄRZTE")), ("ζωή".to_owned(), "ärzte".to_owned()));
    }

    #[test]
    fn one_address_tries_no_more_with_many_names_and_who_signed_in_there_still_does() {
        let clock = Clock::manual(1);
        let limits = limits(&clock);
        limits.admit(Some("alice"), nth(1)).unwrap().succeeded();
        let tried: usize = (0..100).map(|n| fail(&limits, &format!("user-{n}"), nth(1), 1)).sum();
        assert_eq!(tried, 10);
        let wait = TooMany::Failures(Duration::from_secs(100));
        assert_eq!(limits.admit(Some("bob"), nth(1)).map(|_| ()), Err(wait));
        assert!(limits.admit(Some("bob"), nth(2)).is_ok());
        limits.admit(Some("Alice"), nth(1)).unwrap().succeeded();
        // Her own mistakes still count for her.
        assert_eq!(fail(&limits, "alice", nth(1), 10), 3);
        // What bob could not try is not held against him.
        clock.advance(Duration::from_secs(300));
        assert_eq!(fail(&limits, "bob", nth(1), 10), 3);
        clock.advance(KNOWN_FOR);
        assert_eq!((0..100).map(|n| fail(&limits, &format!("user-{n}"), nth(1), 1)).sum::<usize>(), 10);
        assert!(limits.admit(Some("alice"), nth(1)).is_err());
    }

    #[test]
    fn refreshing_is_no_guess() {
        let limits = limits(&Clock::manual(1));
        for _ in 0..100 {
            limits.admit(None, nth(1)).unwrap().failed();
        }
        assert_eq!(fail(&limits, "alice", nth(1), 10), 3);
    }

    #[test]
    fn no_more_calls_are_under_way_than_the_issuer_bears() {
        let limits = limits(&Clock::manual(1));
        let mut permits: Vec<_> = (0..100).map_while(|_| limits.admit(None, nth(1)).ok()).collect();
        assert_eq!(permits.len(), MOST_OF_ADDRESS);
        assert_eq!(limits.admit(None, nth(1)).map(|_| ()), Err(TooMany::OfAddress));
        permits.extend((2..).map_while(|n| limits.admit(None, nth(n)).ok()));
        assert_eq!(permits.len(), MOST_IN_ALL);
        assert_eq!(limits.admit(None, nth(1000)).map(|_| ()), Err(TooMany::InAll));
        drop(permits);
        assert!(limits.admit(None, nth(1)).is_ok());
        let under_way = limits.under_way.lock().unwrap();
        assert_eq!((under_way.in_all, under_way.of_address.len()), (0, 0));
    }

    #[test]
    fn those_who_are_known_are_remembered_within_bounds() {
        let limits = limits(&Clock::manual(1));
        let now = limits.clock.now();
        // All in one part.
        for pair in 0..10_000 {
            limits.remember(pair, now);
        }
        assert_eq!(limits.known.shard(0).len(), CAPACITY / SHARDS);
        assert!(limits.is_known(9_999, now));
    }
}
