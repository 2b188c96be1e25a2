//! Whether the realm stores the events that the watch follows, and long enough.

use super::{Finding, listed, text};
use crate::issuer::keycloak::{EventSettings, RealmSettings};
use std::time::Duration;

/// Without these a promise does not hold; the others only make a change known sooner.
const NEEDED: &[&str] = &["LOGIN", "LOGOUT", "USER_DISABLED_BY_PERMANENT_LOCKOUT", "DELETE_ACCOUNT"];

/// Events are read each second with an overlap of ten.
const TOO_SHORT: Duration = Duration::from_secs(60);

/// A gateway that was down for so long still finds what it missed.
const SHORT: Duration = Duration::from_secs(3600);

pub(super) fn judge(settings: &EventSettings, realm: Option<&RealmSettings>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !settings.has_admin_events {
        let finding = Finding::broken("events", "the realm stores no admin events")
            .breaks("a disabled user is out within about 2 s, and a quick disable and enable is not missed")
            .remedy("Realm settings, Events, Admin events settings: Save events and Include representation on");
        findings.push(finding);
    } else if !settings.has_details {
        let finding = Finding::broken("events", "the realm stores admin events without what was changed")
            .breaks("a quick disable and enable is not missed")
            .remedy("Realm settings, Events, Admin events settings: Include representation on");
        findings.push(finding);
    }
    if settings.has_user_events {
        findings.extend(judge_types(&settings.missing));
    } else {
        let finding = Finding::broken("events", "the realm stores no user events")
            .breaks("a user locked out by wrong passwords, or logged out, is out within about 2 s")
            .remedy("Realm settings, Events, User events settings: Save events on");
        findings.push(finding);
    }
    if findings.is_empty() {
        findings
            .push(Finding::ok("events", "admin events with representation and all user events that matter are stored"));
    }
    let user_events = settings.user_events_expire.filter(|_| settings.has_user_events);
    let admin_events = realm.and_then(|realm| realm.admin_events_expire).filter(|_| settings.has_admin_events);
    findings.extend(user_events.and_then(|after| judge_expiry("user", "User events settings", after)));
    findings.extend(admin_events.and_then(|after| judge_expiry("admin", "Admin events settings", after)));
    findings
}

fn judge_types(missing: &[&'static str]) -> Vec<Finding> {
    let (needed, useful): (Vec<_>, Vec<_>) = missing.iter().partition(|name| NEEDED.contains(name));
    let remedy = "Realm settings, Events, User events settings, Add saved types";
    let mut findings = Vec::new();
    if !needed.is_empty() {
        let finding = Finding::broken("events", format!("the realm does not store user events {}", listed(needed)))
            .breaks(
                "a lock-out, a deleted account or a logout is acted on within about 2 s, and a new sign-in is noticed",
            )
            .remedy(remedy);
        findings.push(finding);
    }
    if !useful.is_empty() {
        let finding = Finding::risk("events", format!("the realm does not store user events {}", listed(useful)))
            .breaks("what a user changes is known within about 2 s; without the event within `bound`")
            .remedy(remedy);
        findings.push(finding);
    }
    findings
}

fn judge_expiry(which: &str, place: &str, after: Duration) -> Option<Finding> {
    let found = format!("{which} events are deleted after {}", text(after));
    let remedy = format!("Realm settings, Events, {place}: Expiration of a day or more");
    let finding = if after < TOO_SHORT {
        Finding::broken("expiry", found).breaks("each event is read before it is gone")
    } else if after < SHORT {
        Finding::risk("expiry", found).breaks("what happened while Postern was down is found when it is back")
    } else {
        return None;
    };
    Some(finding.remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    fn good() -> EventSettings {
        EventSettings {
            has_admin_events: true,
            has_details: true,
            has_user_events: true,
            missing: Vec::new(),
            user_events_expire: None,
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut EventSettings), expected: &[(Severity, &str)]) {
        let mut settings = good();
        change(&mut settings);
        let findings = judge(&settings, None);
        assert_eq!(findings.len(), expected.len(), "{findings:#?}");
        for (finding, (severity, words)) in findings.iter().zip(expected) {
            assert_eq!(finding.severity, *severity, "{finding}");
            assert!(finding.to_string().contains(words), "{finding}");
            assert_eq!(finding.remedy.is_some(), *severity != Severity::Ok);
        }
    }

    #[test]
    fn events_that_are_not_stored_are_broken() {
        use Severity::{Broken, Ok};
        check(|_| (), &[(Ok, "stored")]);
        check(|settings| settings.has_admin_events = false, &[(Broken, "stores no admin events")]);
        check(|settings| settings.has_details = false, &[(Broken, "Include representation on")]);
        check(|settings| settings.has_user_events = false, &[(Broken, "stores no user events")]);
    }

    #[test]
    fn each_type_that_is_not_stored_is_named() {
        use Severity::{Broken, Risk};
        let types = ["LOGIN", "UPDATE_PROFILE", "USER_DISABLED_BY_PERMANENT_LOCKOUT"];
        check(
            |settings| settings.missing = types.to_vec(),
            &[(Broken, "`LOGIN`, `USER_DISABLED_BY_PERMANENT_LOCKOUT`"), (Risk, "`UPDATE_PROFILE`")],
        );
    }

    #[test]
    fn events_that_are_soon_deleted_are_a_risk_and_at_once_broken() {
        use Severity::{Broken, Ok, Risk};
        let after = |seconds| {
            move |settings: &mut EventSettings| {
                settings.user_events_expire = Some(Duration::from_secs(seconds));
            }
        };
        check(after(59), &[(Ok, ""), (Broken, "deleted after 59s")]);
        check(after(60), &[(Ok, ""), (Risk, "deleted after 1m")]);
        check(after(3600), &[(Ok, "")]);
    }

    #[test]
    fn how_long_admin_events_are_kept_counts_where_it_may_be_read() {
        let realm = RealmSettings {
            access_token: Duration::from_secs(300),
            session_idle: Duration::from_secs(1800),
            session_max: Duration::from_secs(36_000),
            offline_session_max: None,
            admin_events_expire: Some(Duration::from_secs(30)),
        };
        let findings = judge(&good(), Some(&realm));
        assert_eq!(findings[1].severity, Severity::Broken);
        assert!(findings[1].found.starts_with("admin events"), "{}", findings[1]);
    }
}
