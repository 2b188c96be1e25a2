//! What the issuer's clock shows, from the one moment that its answers tell.
//!
//! Keycloak sends no `Date` (measured, 26.7.3), and the `Date` that a proxy before it adds is the proxy's. But each token that it
//! gives says when it was made: `iat`, in whole seconds. From when that token was asked for and when it came follows an interval
//! that the issuer's clock is ahead of our monotonic one by; further tokens narrow it, one that contradicts replaces it.

/// A moment by the issuer's clock that is known to some hundred milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssuerSpan {
    /// Not before this, in milliseconds since 1970.
    pub earliest_ms: u64,
    /// Not after this.
    pub latest_ms: u64,
}

impl IssuerSpan {
    /// By how many milliseconds the issuer's clock is ahead of ours, at least; 0 where they agree as far as is known.
    pub fn ahead_ms(self, unix_ms: u64) -> i64 {
        signed(self.earliest_ms.saturating_sub(unix_ms)) - signed(unix_ms.saturating_sub(self.latest_ms))
    }
}

/// By how much the issuer's clock is ahead of our monotonic one, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    least: i64,
    most: i64,
    /// When the newest token was asked for, by our monotonic clock.
    sampled_ms: u64,
}

/// Two clocks that both go right may drift apart by this part of the time between two looks.
const DRIFT: i64 = 2000;

impl Offset {
    /// From a token with `iat` that was asked for and came at these times of our monotonic clock.
    pub fn new(issued: u64, asked_ms: u64, answered_ms: u64) -> Self {
        let issued_ms = signed(issued.saturating_mul(1000));
        Self {
            least: issued_ms.saturating_sub(signed(answered_ms)),
            most: issued_ms.saturating_add(999).saturating_sub(signed(asked_ms)),
            sampled_ms: asked_ms,
        }
    }

    /// What both say; where that is nothing one of the clocks was set, and the newer one counts.
    pub fn narrowed(self, older: Option<Self>) -> Self {
        let Some(older) = older else { return self };
        let drift = signed(self.sampled_ms.saturating_sub(older.sampled_ms)) / DRIFT + 1;
        let both = Self {
            least: self.least.max(older.least.saturating_sub(drift)),
            most: self.most.min(older.most.saturating_add(drift)),
            sampled_ms: self.sampled_ms,
        };
        if both.least <= both.most { both } else { self }
    }

    /// What the issuer's clock showed at some moment between two of our monotonic clock.
    pub fn between(self, asked_ms: u64, answered_ms: u64) -> IssuerSpan {
        let at = |ms: u64, offset: i64| u64::try_from(signed(ms).saturating_add(offset)).unwrap_or(0);
        IssuerSpan { earliest_ms: at(asked_ms, self.least), latest_ms: at(answered_ms, self.most) }
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_token_tells_the_issuers_clock_to_a_second_and_the_way() {
        let offset = Offset::new(2_000, 500, 540);
        let span = offset.between(500, 540);
        assert_eq!(span, IssuerSpan { earliest_ms: 2_000_000 - 40, latest_ms: 2_000_999 + 40 });
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once() {
        let first = Offset::new(2_000, 500, 540);
        for issued in [1_000, 5_000] {
            let second = Offset::new(issued, 10_500, 10_540);
            assert_eq!(second.narrowed(Some(first)), second);
        }
    }

    proptest! {
        /// Whatever the ways take, the issuer's clock is within the interval, and further tokens make it no wider.
        #[test]
        fn the_issuers_clock_is_where_it_is_said_to_be(
            ahead in 1_000_000_u64..2_000_000_000_000,
            calls in prop::collection::vec((0_u64..60_000, 0_u64..500, 0_u64..500), 1..20),
        ) {
            let mut known: Option<Offset> = None;
            let mut now = 1;
            for (pause, there, back) in calls {
                let asked = now + pause;
                let answered = asked + there + back;
                let true_ms = asked + there + ahead;
                let sample = Offset::new(true_ms / 1000, asked, answered);
                let width = sample.most - sample.least;
                let narrowed = sample.narrowed(known);
                prop_assert!(narrowed.most - narrowed.least <= width);
                let span = narrowed.between(asked, answered);
                prop_assert!(span.earliest_ms <= true_ms && true_ms <= span.latest_ms, "{span:?} {true_ms}");
                known = Some(narrowed);
                now = answered;
            }
        }
    }
}
