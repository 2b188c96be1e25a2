//! Back-channel logout: whether the login clients send their logout tokens to us.

use super::{Finding, Place, unread};
use crate::issuer::keycloak::ClientSettings;

const PROMISE: &str = "a logout is heard at once; else by its event, within about 2 s";

pub(super) async fn examine(place: &Place<'_>, findings: &mut Vec<Finding>) {
    let Some(clients) = &place.status.backchannel_clients else {
        let text = "no back-channel logout is configured: a logout is known by its event";
        return findings.push(Finding::note("logout", text));
    };
    let url = format!("{}/backchannel-logout/{}", place.own_issuer.trim_end_matches('/'), place.config.name);
    for id in clients {
        match place.keycloak.client(id).await {
            Ok(client) => findings.push(judge(id, client.as_ref(), &url)),
            Err(error) => {
                let what = format!("whether client `{id}` sends logout tokens to {url}");
                findings.push(unread("logout", &what, "view-clients", &error));
            }
        }
    }
}

fn judge(id: &str, client: Option<&ClientSettings>, url: &str) -> Finding {
    let Some(client) = client else {
        return Finding::broken("logout", format!("the realm has no client `{id}`"))
            .breaks(PROMISE)
            .remedy("correct `backchannel_logout.clients`");
    };
    let remedy = format!("Clients, `{id}`, Logout settings: Backchannel logout URL {url}");
    match &client.logout_url {
        None => {
            Finding::broken("logout", format!("client `{id}` sends no logout tokens")).breaks(PROMISE).remedy(remedy)
        }
        Some(other) if other != url => {
            Finding::risk("logout", format!("client `{id}` sends its logout tokens to {other}, not to {url}"))
                .breaks(PROMISE)
                .remedy(format!("{remedy}, unless a proxy hands them on"))
        }
        Some(_) if !client.has_session => {
            Finding::risk("logout", format!("logout tokens of client `{id}` do not name the session"))
                .breaks("the end of a session ends that session alone")
                .remedy(format!("Clients, `{id}`, Logout settings: Backchannel logout session required on"))
        }
        Some(_) => Finding::ok("logout", format!("client `{id}` sends its logout tokens to us")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    const URL: &str = "https://postern.test/backchannel-logout/main";

    #[track_caller]
    fn check(client: Option<(Option<&str>, bool)>, severity: Severity, words: &str) {
        let client =
            client.map(|(url, has_session)| ClientSettings { logout_url: url.map(str::to_owned), has_session });
        let finding = judge("cli", client.as_ref(), URL);
        assert_eq!(finding.severity, severity, "{finding}");
        assert!(finding.to_string().contains(words), "{finding}");
    }

    #[test]
    fn a_client_that_does_not_tell_us_is_said() {
        check(Some((Some(URL), true)), Severity::Ok, "to us");
        check(Some((Some(URL), false)), Severity::Risk, "session required on");
        check(Some((Some("https://other.test/"), true)), Severity::Risk, "https://other.test/");
        check(Some((None, true)), Severity::Broken, URL);
        check(None, Severity::Broken, "no client `cli`");
    }
}
