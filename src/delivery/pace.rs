//! How fast tokens are refilled that merely come to their end. Nobody waits for these.

/// So many a second in the long run: 10,000 users need 15.2.
const PER_SECOND: u64 = 16;

/// So many at once after a pause: with the others at most 20 in any second.
const BURST: u64 = 4;

/// A bucket of refills.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// In thousandths.
    left: u64,
    filled_ms: u64,
}

impl Pace {
    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now_ms: u64) -> bool {
        let passed_ms = now_ms.saturating_sub(self.filled_ms);
        self.left = self.left.saturating_add(passed_ms.saturating_mul(PER_SECOND)).min(BURST * 1000);
        self.filled_ms = now_ms;
        let is_there = self.left >= 1000;
        if is_there {
            self.left -= 1000;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_twenty_in_a_second_and_enough_for_ten_thousand_users() {
        let mut pace = Pace::default();
        let taken: Vec<u64> = (0..600_000).step_by(5).filter(|now_ms| pace.take(1_000_000 + now_ms)).collect();
        assert!(taken.len() as u64 >= 600 * 10_000 / 660, "{}", taken.len());
        for (at, since) in taken.iter().enumerate() {
            let within = taken[at..].iter().take_while(|now_ms| *now_ms - since < 1000).count();
            assert!(within <= 20, "{within} in a second");
        }
    }
}
