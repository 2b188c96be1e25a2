//! How long Keycloak's own tokens and sessions live. Postern's tokens do not depend on it; who verifies Keycloak's alone does.

use super::{Finding, text};
use crate::issuer::keycloak::RealmSettings;
use std::time::Duration;

/// As long as a token of Postern lives at most.
const LONG_TOKEN: Duration = Duration::from_secs(30 * 60);

/// Each token is asked about when it is first seen, and that request waits.
const SHORT_TOKEN: Duration = Duration::from_secs(60);

const TOKENS: &str =
    "Realm settings, Tokens, Access Token Lifespan: between 1 and 30 minutes, and no more in a client's own";

pub(super) fn judge(realm: &RealmSettings) -> Vec<Finding> {
    let found = format!("access tokens live for {}", text(realm.access_token));
    let token = if realm.access_token > LONG_TOKEN {
        Finding::risk("lifetimes", found)
            .breaks("a disabled user is out everywhere: who verifies Keycloak's token alone takes it for so long")
            .remedy(TOKENS)
    } else if realm.access_token < SHORT_TOKEN {
        Finding::risk("lifetimes", found)
            .breaks("requests do not wait for the issuer: each new token is asked about when it is first seen")
            .remedy(TOKENS)
    } else {
        Finding::ok("lifetimes", found)
    };
    let sessions =
        format!("sessions live for {} unused, {} at most", text(realm.session_idle), text(realm.session_max));
    let offline = match realm.offline_session_max {
        Some(max) => Finding::ok("lifetimes", format!("{sessions}; offline sessions {} at most", text(max))),
        None => Finding::note("lifetimes", format!("{sessions}; offline sessions as long as they are used"))
            .remedy("if they shall end: Realm settings, Sessions, Offline Session Max Limited"),
    };
    vec![token, offline]
}

/// Without the role: what the token of our own account tells.
pub(super) fn unknown(own: Duration) -> Finding {
    let found = "token and session lifetimes, and when admin events expire, may not be read: needs role `view-realm` of \
                 `realm-management`";
    let found = format!("{found} (the service account's own token lives for {})", text(own));
    Finding::unknown("lifetimes", found)
        .remedy("grant `view-realm` for the time of a run, or look at Realm settings, Sessions, Tokens and Events")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    #[track_caller]
    fn check(token: u64, offline: Option<u64>, expected: [Severity; 2]) {
        let settings = RealmSettings {
            access_token: Duration::from_secs(token),
            session_idle: Duration::from_secs(1800),
            session_max: Duration::from_secs(36_000),
            offline_session_max: offline.map(Duration::from_secs),
            admin_events_expire: None,
        };
        let findings = judge(&settings);
        assert_eq!(findings.iter().map(|finding| finding.severity).collect::<Vec<_>>(), expected, "{findings:#?}");
    }

    #[test]
    fn tokens_that_live_long_or_shortly_are_a_risk() {
        use Severity::{Note, Ok, Risk};
        check(300, Some(86_400), [Ok, Ok]);
        check(1800, None, [Ok, Note]);
        check(1801, None, [Risk, Note]);
        check(59, None, [Risk, Note]);
    }
}
