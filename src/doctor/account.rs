//! The service account that asks: whether it is accepted, what it may do, what its clock says, and whether it is an audience.

use super::{Finding, Place, issuer, listed, text};
use crate::base::clock::Clock;
use crate::issuer::Introspected;
use crate::issuer::keycloak::{IssuerSpan, KeycloakError, ServiceAccount};
use std::time::Duration;

/// What reading users and events takes; `view-users` holds the second.
const READER: &[&str] = &["view-users", "query-users", "view-events"];

/// What ending sessions takes.
const MANAGER: &[&str] = &["manage-users"];

/// What comes with these, or shows the doctor more, and changes nothing.
const HARMLESS: &[&str] = &["query-groups", "query-clients", "query-realms", "view-realm", "view-clients"];

const FAR_APART: Duration = Duration::from_secs(30);
const APART: Duration = Duration::from_secs(5);

/// Looks at the account that reads and the one that ends sessions. Gives the first, if it is accepted.
pub(super) async fn examine(place: &Place<'_>, findings: &mut Vec<Finding>) -> Option<ServiceAccount> {
    let client_id = place.status.introspection.client_id.as_str();
    let account = match place.keycloak.service_account().await {
        Ok(account) => account,
        Err(error) => {
            findings.push(judge_failure(place, client_id, &error).await);
            return None;
        }
    };
    findings.push(Finding::ok("client", format!("`{client_id}` is accepted and has a service account")));
    let manager = place.status.end_sessions.as_ref().map(|client| client.client_id.as_str());
    let wanted: Vec<_> = [READER, if manager == Some(client_id) { MANAGER } else { &[] }].concat();
    findings.extend(judge_roles(client_id, account.roles.as_deref(), &wanted));
    if let Some(manager) = manager.filter(|manager| *manager != client_id) {
        match place.keycloak.manager_account().await {
            Ok(account) => {
                findings.extend(judge_roles(manager, account.roles.as_deref(), &[MANAGER, READER].concat()));
            }
            Err(error) => findings.push(judge_failure(place, manager, &error).await),
        }
    }
    match place.keycloak.ask_time().await {
        Ok(span) => findings.push(judge_clock(span, place.clock)),
        Err(error) => findings.push(Finding::unknown("clock", error.to_string())),
    }
    Some(account)
}

/// Keycloak says the same of a wrong secret and of a client without a service account; introspection needs none.
async fn judge_failure(place: &Place<'_>, client_id: &str, error: &KeycloakError) -> Finding {
    if !matches!(error, KeycloakError::CredentialsRefused) {
        return Finding::broken("client", error.to_string()).breaks("users are checked (every request is a 503)");
    }
    let is_reader = client_id == place.status.introspection.client_id;
    if is_reader && place.issuer.introspect("postern-doctor").await.is_ok() {
        return Finding::broken("client", format!("client `{client_id}` has no service account"))
            .breaks("a disabled user is blocked: nothing is learnt about users")
            .remedy(format!(
                "Clients, `{client_id}`, Capability config: Client authentication and Service account roles"
            ));
    }
    issuer::refused(client_id)
}

fn judge_roles(client_id: &str, roles: Option<&[String]>, wanted: &[&'static str]) -> Vec<Finding> {
    let Some(roles) = roles else {
        let text = format!(
            "the token of `{client_id}` names no roles, as a lightweight one: what is missing shows below, what is too much does not"
        );
        let remedy = format!("Clients, `{client_id}`, Advanced: Always use lightweight access token off");
        return vec![Finding::unknown("roles", text).remedy(remedy)];
    };
    let has = |name: &str| roles.iter().any(|role| role == name);
    let place = format!("Clients, `{client_id}`, Service account roles");
    let mut findings = Vec::new();
    // The account that ends sessions may read as well, and has to do no more.
    let needed = if wanted.starts_with(MANAGER) { MANAGER } else { wanted };
    let missing: Vec<_> = needed.iter().copied().filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        let names = listed(missing.iter().copied());
        let finding = Finding::broken("roles", format!("the service account of `{client_id}` lacks {names}"))
            .breaks(lost(&missing))
            .remedy(format!("{place}, Assign role, Client roles: {names} of `realm-management`"));
        findings.push(finding);
    }
    let mut excessive: Vec<_> = roles.iter().map(String::as_str).collect();
    excessive.retain(|name| !wanted.contains(name) && !HARMLESS.contains(name));
    excessive.sort_unstable();
    let (reads, writes): (Vec<_>, Vec<_>) =
        excessive.into_iter().partition(|name| name.starts_with("view-") || name.starts_with("query-"));
    for (names, is_write) in [(writes, true), (reads, false)] {
        if names.is_empty() {
            continue;
        }
        let names = listed(names);
        let text = format!("the service account of `{client_id}` has {names}, which it does not need");
        let finding = if is_write {
            let promise = "a disabled user stays out: whoever gets hold of our client secret could undo that";
            Finding::risk("roles", text).breaks(promise)
        } else {
            Finding::note("roles", text)
        };
        findings.push(finding.remedy(format!("{place}: unassign {names}")));
    }
    if findings.is_empty() {
        findings
            .push(Finding::ok("roles", format!("the service account of `{client_id}` has what it needs, and no more")));
    }
    findings
}

fn lost(missing: &[&str]) -> &'static str {
    if missing.iter().any(|name| name.ends_with("-users") && !name.starts_with("manage")) {
        "a disabled or deleted user is blocked: nothing is learnt about users"
    } else if missing.contains(&"view-events") {
        "what an event tells is acted on within 2 s, and a quick disable and enable is not missed"
    } else {
        "`end_sessions`: a blocked user's sessions at Keycloak stay open"
    }
}

fn judge_clock(span: IssuerSpan, clock: &Clock) -> Finding {
    let now = clock.now().unix_ms;
    let (difference_ms, direction) = if now < span.earliest_ms {
        (span.earliest_ms - now, "ahead of")
    } else {
        (now.saturating_sub(span.latest_ms), "behind")
    };
    let difference = Duration::from_millis(difference_ms);
    let text = format!("the issuer's clock is {} {direction} ours", text(Duration::from_secs(difference.as_secs())));
    let remedy = "let both machines follow the same time servers (NTP)";
    if difference > FAR_APART {
        let promise = "times of tokens and of blocks mean the same on both sides: tokens are refused, minting stops";
        Finding::broken("clock", text).breaks(promise).remedy(remedy)
    } else if difference > APART {
        Finding::risk("clock", text).breaks("times of tokens mean the same on both sides").remedy(remedy)
    } else {
        Finding::ok("clock", "the issuer's clock and ours agree within 5 s")
    }
}

/// Without a token of a user: whether the account's own token is active for our client, which shows what the realm's default
/// client scopes put into `aud`.
pub(super) async fn examine_audience(place: &Place<'_>, account: &ServiceAccount, findings: &mut Vec<Finding>) {
    let is_active = match place.issuer.introspect(account.token.expose()).await {
        Ok(answer) => matches!(answer, Introspected::Active(_)),
        Err(error) => {
            let finding = Finding::broken("audience", error.to_string());
            return findings.push(finding.breaks("users are checked (every request is a 503)"));
        }
    };
    let client_id = place.status.introspection.client_id.as_str();
    let has_audience = account.audiences.iter().any(|name| place.config.audiences.contains(name));
    findings.push(judge_audience(client_id, is_active, has_audience));
}

fn judge_audience(client_id: &str, is_active: bool, has_audience: bool) -> Finding {
    let how = "run again with `--token FILE`, an access token of a user, for each login client";
    match (is_active, has_audience) {
        (false, true) => Finding::broken(
            "audience",
            format!("the realm's client scopes put our audience into `aud`, but not `{client_id}`: its own token is inactive"),
        )
        .breaks("an enabled user gets in: Keycloak calls a token inactive for a client that is not in its `aud`")
        .remedy(format!("{}; then {how}", mapper(client_id))),
        (true, _) => Finding::unknown(
            "audience",
            format!("whether tokens of login clients name `{client_id}` in `aud`; the service account's own does"),
        )
        .remedy(how),
        (false, false) => Finding::unknown(
            "audience",
            format!("whether tokens of login clients name `{client_id}` in `aud`; the service account's own does not"),
        )
        .remedy(how),
    }
}

/// How a client gets into `aud`.
pub(super) fn mapper(client_id: &str) -> String {
    format!(
        "Client scopes: one that every login client has by default, Mappers, Add mapper, Audience: Included Client Audience \
         `{client_id}`, Add to access token and Add to token introspection on"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    fn roles(names: &[&str], wanted: &[&'static str]) -> Vec<(Severity, String)> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let findings = judge_roles("gateway", Some(&names), wanted);
        findings.into_iter().map(|finding| (finding.severity, finding.to_string())).collect()
    }

    #[test]
    fn the_roles_that_are_needed_are_enough() {
        let found = roles(&["view-events", "view-users", "query-groups", "query-users"], READER);
        assert!(matches!(&found[..], [(Severity::Ok, _)]), "{found:?}");
        let both = [READER, MANAGER].concat();
        let found = roles(&["view-events", "view-users", "query-users", "manage-users"], &both);
        assert!(matches!(&found[..], [(Severity::Ok, _)]), "{found:?}");
    }

    #[test]
    fn a_role_that_is_missing_is_broken_and_named() {
        let found = roles(&[], READER);
        let [(Severity::Broken, line)] = &found[..] else { panic!("{found:?}") };
        assert!(
            line.contains("`view-users`, `query-users`, `view-events`") && line.contains("nothing is learnt"),
            "{line}"
        );
        let found = roles(&["view-users", "query-users"], READER);
        let [(Severity::Broken, line)] = &found[..] else { panic!("{found:?}") };
        assert!(line.contains("lacks `view-events`;") && line.contains("within 2 s"), "{line}");
        let found = roles(&["view-users"], &[MANAGER, READER].concat());
        let [(Severity::Broken, line)] = &found[..] else { panic!("{found:?}") };
        assert!(line.contains("lacks `manage-users`;") && line.contains("`end_sessions`"), "{line}");
    }

    #[test]
    fn a_role_that_changes_things_is_a_risk_and_one_that_reads_is_noted() {
        let good = ["view-users", "query-users", "view-events"];
        for (role, severity) in [
            ("manage-users", Severity::Risk),
            ("realm-admin", Severity::Risk),
            ("impersonation", Severity::Risk),
            ("create-client", Severity::Risk),
            ("view-identity-providers", Severity::Note),
        ] {
            let found = roles(&[&good[..], &[role]].concat(), READER);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].0, severity, "{role}");
            assert!(found[0].1.contains(&format!("`{role}`")), "{found:?}");
        }
        assert_eq!(roles(&[&good[..], &["view-realm", "view-clients"]].concat(), READER)[0].0, Severity::Ok);
    }

    #[test]
    fn a_token_that_names_no_roles_leaves_them_unknown() {
        assert_eq!(judge_roles("gateway", None, READER)[0].severity, Severity::Unknown);
    }

    #[track_caller]
    fn check_clock(issuer_seconds: u64, severity: Severity, words: &str) {
        let span = IssuerSpan { earliest_ms: issuer_seconds * 1000, latest_ms: issuer_seconds * 1000 + 999 };
        let finding = judge_clock(span, &Clock::manual(1_000_000));
        assert_eq!(finding.severity, severity, "{issuer_seconds}");
        assert!(finding.found.contains(words), "{finding}");
    }

    #[test]
    fn clocks_apart_are_a_risk_and_far_apart_broken() {
        check_clock(1_000_000, Severity::Ok, "agree");
        check_clock(1_000_005, Severity::Ok, "agree");
        check_clock(1_000_006, Severity::Risk, "6s ahead of ours");
        check_clock(1_000_031, Severity::Broken, "31s ahead of ours");
        check_clock(999_990, Severity::Risk, "9s behind ours");
        check_clock(999_000, Severity::Broken, "behind ours");
    }

    #[test]
    fn a_client_that_its_own_token_lacks_as_an_audience_is_no_audience() {
        let severity = |is_active, has_audience| judge_audience("gateway", is_active, has_audience).severity;
        assert_eq!(severity(false, true), Severity::Broken);
        assert_eq!(severity(false, false), Severity::Unknown);
        assert_eq!(severity(true, true), Severity::Unknown);
    }
}
