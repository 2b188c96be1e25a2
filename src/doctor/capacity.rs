//! For how many tokens the bound can hold, and whether the issuer is fast enough for it.

use super::{Finding, text};
use crate::base::clock::Clock;
use crate::config::Keycloak;
use crate::delivery::reserve;
use crate::issuer::Issuer;
use std::time::Duration;

/// How often the issuer is asked; the median counts.
const CALLS: usize = 5;

/// With more calls under way at a time than this on the average, an issuer is at its end.
const MANY_UNDER_WAY: f64 = 4.0;

/// The estimate that `postern check` prints too.
pub fn tokens_in_use(keycloak: &Keycloak) -> String {
    format!(
        "up to {} tokens in use at bound {} and {} calls/s",
        grouped(keycloak.tokens_in_use()),
        text(keycloak.introspection.bound),
        grouped(keycloak.max_calls_per_second.into()),
    )
}

/// For how many users `[delivery]` can keep tokens fresh: a quarter of the calls are kept for reads of single users.
pub fn tokens_kept_fresh(keycloak: &Keycloak) -> String {
    let calls = u64::from(keycloak.max_calls_per_second);
    let users = calls * reserve::PERIOD_MS / (4 * 1000 * reserve::CALLS_PER_REFILL);
    format!("up to {} users with a token kept fresh at {} calls/s", grouped(users), grouped(calls))
}

/// With a comma before each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn ceiling(keycloak: &Keycloak) -> Finding {
    Finding::note("ceiling", tokens_in_use(keycloak))
}

/// Asks about a token some times.
pub(super) async fn examine(issuer: &Issuer, token: &str, clock: &Clock, findings: &mut Vec<Finding>) {
    let Some(introspection) = issuer.config().user_status.introspection() else { return };
    let mut took = [Duration::ZERO; CALLS];
    for took in &mut took {
        let asked_us = clock.monotonic_us();
        if let Err(error) = issuer.introspect(token).await {
            return findings.push(Finding::broken("speed", error.to_string()).breaks("users are asked about in time"));
        }
        *took = Duration::from_micros(clock.monotonic_us().saturating_sub(asked_us));
    }
    took.sort_unstable();
    let ceiling = issuer.config().user_status.keycloak().map(|keycloak| keycloak.max_calls_per_second);
    findings.push(judge(took[CALLS / 2], introspection.timeout, ceiling));
}

fn judge(median: Duration, timeout: Duration, ceiling: Option<u32>) -> Finding {
    let found = format!("an introspection takes {:.1} ms (median of {CALLS})", median.as_secs_f64() * 1000.0);
    if median * 2 > timeout {
        return Finding::risk("speed", format!("{found}, and {} are waited for", text(timeout)))
            .breaks("users are asked about in time: a request is a 503 when no answer came")
            .remedy("a faster or nearer issuer, or a longer `timeout`");
    }
    let Some(ceiling) = ceiling else { return Finding::ok("speed", found) };
    let under_way = median.as_secs_f64() * f64::from(ceiling);
    let found = format!("{found}: at {} calls/s {under_way:.1} are under way at a time", grouped(ceiling.into()));
    if under_way > MANY_UNDER_WAY {
        Finding::risk("speed", found)
            .breaks("each token in use is asked about again before it is `bound` old")
            .remedy("a lower `max_calls_per_second` with a longer `bound`, or more nodes of Keycloak")
    } else {
        Finding::ok("speed", found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1125, "1,125"), (112_500, "112,500"), (1_000_000, "1,000,000")]
        {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_slow_issuer_is_a_risk() {
        let severity =
            |median_ms, ceiling| judge(Duration::from_millis(median_ms), Duration::from_secs(2), ceiling).severity;
        assert_eq!(severity(4, Some(100)), Severity::Ok);
        assert_eq!(severity(40, Some(100)), Severity::Ok);
        assert_eq!(severity(41, Some(100)), Severity::Risk);
        assert_eq!(severity(900, None), Severity::Ok);
        assert_eq!(severity(1001, None), Severity::Risk);
    }
}
