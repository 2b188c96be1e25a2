//! How a token's life is divided: the one place that says so, with reasons. All in milliseconds of the monotonic clock.
//!
//! A token lives for 30 minutes less the 10 seconds that it is back-dated. It is written anew when 18 minutes are left:
//!
//! | minutes | for |
//! |---|---|
//! | 10 | the reader: what a read gives is good for at least that long |
//! | 3 | the kubelet: a mounted Secret is up to a sync period and a cache's age (60 to 90 s) behind, and that twice |
//! | 5 | outages: of Keycloak, of the API server, of the disk, of ourselves, or of a clock; nobody notices shorter ones |
//!
//! The rest, some twelve minutes, is the time between two writes: five an hour and user.

/// Promised to whoever reads.
pub const READER_MS: u64 = 10 * 60_000;

/// By how much a mounted Secret may be behind the one that was written. A file is not behind, but the rule is one for both.
pub const KUBELET_MS: u64 = 3 * 60_000;

/// For how long nothing may be written without the promise being broken.
pub const OUTAGE_MS: u64 = 5 * 60_000;

/// A token with less than this left where it was written breaks the promise.
pub const FLOOR_MS: u64 = READER_MS + KUBELET_MS;

/// At the latest when this is left a token is written anew.
pub const REFILL_MS: u64 = FLOOR_MS + OUTAGE_MS;

/// No token lives longer.
pub const CEILING_MS: u64 = 30 * 60_000;

/// Each user's writes lie this far apart, at a phase of their own: less than the 710 s from a token's start to [`REFILL_MS`].
pub const PERIOD_MS: u64 = 11 * 60_000;

/// What the issuer is asked for each write: the user, their roles, their groups.
pub const CALLS_PER_REFILL: u64 = 3;

/// By how much our clock and the issuer's may differ. Beyond it nothing is minted: either is wrong, and a reader may have the other.
pub const CLOCKS_MS: u64 = 30_000;

/// When a token that was learnt of at `learned_ms` and ends at `ends_ms` is written anew.
///
/// Not as late as possible but at the user's last turn before that: `phase_ms` spreads users evenly over [`PERIOD_MS`], so those
/// whose tokens were written together (after an outage, at a start) are apart from the next write on, and stay so.
pub fn due_ms(learned_ms: u64, ends_ms: u64, phase_ms: u64) -> u64 {
    let latest = ends_ms.saturating_sub(REFILL_MS);
    let since_turn = (latest % PERIOD_MS + PERIOD_MS - phase_ms % PERIOD_MS) % PERIOD_MS;
    let turn = latest.saturating_sub(since_turn);
    if turn > learned_ms { turn } else { latest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_tokens_written_at_once_are_apart_from_then_on() {
        let (written, life) = (1_000_000, CEILING_MS - 10_000);
        let mut per_second = std::collections::HashMap::<u64, u32>::new();
        for user in 0..10_000_u64 {
            let phase = user * 7919 % PERIOD_MS;
            let mut at = written;
            for _ in 0..6 {
                at = due_ms(at, at + life, phase);
                *per_second.entry(at / 1000).or_default() += 1;
            }
        }
        let most = per_second.values().max().unwrap();
        assert!(*most <= 20, "{most} writes in a second");
    }

    #[test]
    fn five_and_a_half_writes_an_hour() {
        let life = CEILING_MS - 10_000;
        for phase in [0, 1, 123_456, PERIOD_MS - 1] {
            let mut at = due_ms(5, 5 + life, phase);
            let begin = at;
            let mut writes = 0;
            while at < begin + 10 * 3_600_000 {
                let next = due_ms(at, at + life, phase);
                assert!(next > at && next + REFILL_MS <= at + life);
                (at, writes) = (next, writes + 1);
            }
            assert!(writes <= 55, "{writes} writes in ten hours");
        }
    }

    #[test]
    fn what_is_learnt_of_late_is_written_in_time_and_not_all_at_once() {
        // Found with 20 minutes left: the turn has passed, so it is the last moment.
        assert_eq!(due_ms(50_000_000, 50_000_000 + 20 * 60_000, 49_999_999), 50_000_000 + 2 * 60_000);
        // Found with less than is to be left: now.
        assert!(due_ms(50_000_000, 50_000_000 + 17 * 60_000, 3) <= 50_000_000);
        assert_eq!(due_ms(10, 5, 3), 0);
    }
}
