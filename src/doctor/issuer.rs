//! Discovery, keys, the host name, and whether our client is known.

use super::{Finding, listed};
use crate::config::{self, IssuerKind};
use crate::issuer::{DiscoveryError, FetchError, IntrospectError, Issuer, Jwks};

/// A name that nobody has (RFC 6761 §6.4).
const OTHER_HOST: &str = "postern-doctor.invalid";

/// Looks at what everybody may see. Says whether it is of use to look further.
pub(super) async fn examine(issuer: &Issuer, findings: &mut Vec<Finding>) -> bool {
    let config = issuer.config();
    let looked = issuer.look().await;
    let is_reached = !matches!(looked, Err(FetchError::Http(_) | FetchError::Token { .. }));
    match looked {
        Ok(jwks) => {
            findings.push(Finding::ok("discovery", "the document is there, and of this issuer"));
            findings.push(judge_keys(&jwks, config));
            if config.user_status.introspection().is_some() && !can_introspect(issuer) {
                let text = "the discovery document names no `introspection_endpoint`";
                findings.push(Finding::broken("discovery", text).breaks("users are checked (every request is a 503)"));
            }
        }
        Err(error) => findings.push(judge_failure(&error, &config.kind)),
    }
    // An API server says the same to everybody.
    if is_reached && config.kind == IssuerKind::Oidc {
        findings.push(judge_host(&issuer.name_under(OTHER_HOST).await, &config.url));
    }
    is_reached
}

fn judge_failure(error: &FetchError, kind: &IssuerKind) -> Finding {
    match error {
        FetchError::Http(_) | FetchError::Token { .. } if *kind != IssuerKind::Oidc => {
            Finding::broken("discovery", error.to_string())
                .breaks("tokens are verified with the issuer's keys (every request is a 503)")
                .remedy(
                    "check `address` and `ca`; 401 or 403: set `token`, and bind its service account to ClusterRole \
                     `system:service-account-issuer-discovery`",
                )
        }
        FetchError::Discovery(DiscoveryError::Origin { .. }) if *kind != IssuerKind::Oidc => {
            Finding::broken("discovery", error.to_string())
                .breaks("keys are fetched only where the operator says (no token is accepted)")
                .remedy("add that origin to `endpoint_origins`, or start the API server with `--service-account-jwks-uri`")
        }
        FetchError::Discovery(DiscoveryError::AnotherIssuer { found }) => Finding::broken(
            "discovery",
            format!("the document is of issuer `{found}`"),
        )
        .breaks("`iss` is compared character by character (no token is accepted)")
        .remedy(
            "write that as `url` if it is the public one; else start Keycloak with `--hostname=` and the public URL, and \
             name the one that is reached as `address`",
        ),
        FetchError::Discovery(error) => Finding::broken("discovery", error.to_string())
            .breaks("keys are fetched and our secret is sent only where the operator says (no token is accepted)")
            .remedy("start Keycloak with `--hostname=` and the public URL, or add the origin to `endpoint_origins`"),
        FetchError::Jwks { .. } => Finding::broken("keys", error.to_string())
            .breaks("tokens are verified with the issuer's keys (every request is a 503)")
            .remedy("Realm settings, Keys: add an enabled, active signing key"),
        FetchError::Http(_) | FetchError::Token { .. } | FetchError::Offline => Finding::broken("discovery", error.to_string())
            .breaks("tokens are verified with the issuer's keys (every request is a 503)")
            .remedy("check `url`, and `address` and `ca` where the public URL is not reachable from here"),
    }
}

fn judge_keys(jwks: &Jwks, config: &config::Issuer) -> Finding {
    let fits = |algorithm: &&config::Algorithm| jwks.keys.iter().any(|key| key.fits(**algorithm));
    let usable: Vec<_> = config.algorithms.iter().filter(fits).map(|algorithm| algorithm.name()).collect();
    if usable.is_empty() {
        return Finding::broken("keys", "no key is for one of the accepted `algorithms`")
            .breaks("tokens are verified with the issuer's keys (no token is accepted)")
            .remedy("widen `algorithms`, or Realm settings, Keys: add a signing key for one of them");
    }
    let names = usable.join(", ");
    Finding::ok("keys", format!("{} usable, for {names}; {} left out", jwks.keys.len(), jwks.skipped.len()))
}

fn judge_host(found: &Result<String, FetchError>, url: &str) -> Finding {
    match found {
        Ok(name) if name == url => Finding::ok("hostname", "pinned: the issuer is the same under another `Host`"),
        Ok(name) => Finding::risk(
            "hostname",
            format!("not pinned: asked for as `{OTHER_HOST}` the issuer says that it is `{name}`"),
        )
        .breaks("a token had under another name has another `iss`: it is refused, and introspection calls it inactive")
        .remedy(format!("start Keycloak with `--hostname={}`", url.split("/realms/").next().unwrap_or(url))),
        Err(FetchError::Http(error)) => {
            Finding::ok("hostname", format!("pinned, or kept by a proxy: another `Host` gets no document ({error})"))
        }
        Err(error) => Finding::unknown("hostname", error.to_string()),
    }
}

/// Whether it is known where to introspect.
pub(super) fn can_introspect(issuer: &Issuer) -> bool {
    issuer.endpoints().is_some_and(|endpoints| endpoints.introspection.is_some())
}

/// Whether introspection accepts our client; only then it is of use to introspect more.
pub(super) async fn examine_client(issuer: &Issuer, client_id: &str, findings: &mut Vec<Finding>) -> bool {
    if !can_introspect(issuer) {
        return false;
    }
    // Whatever is answered about such a token, the client was accepted.
    let answered = issuer.introspect("postern-doctor").await;
    let finding = match &answered {
        Ok(_) => Finding::ok("client", format!("{} may introspect", listed([client_id]))),
        Err(IntrospectError::CredentialsRefused) => refused(client_id),
        Err(error) => Finding::broken("client", error.to_string()).breaks("users are checked (every request is a 503)"),
    };
    findings.push(finding);
    answered.is_ok()
}

/// Our client's secret is wrong.
pub(super) fn refused(client_id: &str) -> Finding {
    Finding::broken("client", format!("the issuer refuses client `{client_id}` with this secret"))
        .breaks("users are checked (every request is a 503)")
        .remedy(format!(
            "Clients, `{client_id}`, Credentials: copy the client secret to where the configuration reads it"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::http_client::HttpError;
    use crate::doctor::Severity;

    const URL: &str = "https://kc.test/realms/demo";

    #[test]
    fn an_issuer_that_follows_the_host_header_is_a_risk() {
        let judge = |found| judge_host(&found, URL);
        assert_eq!(judge(Ok(URL.to_owned())).severity, Severity::Ok);
        let finding = judge(Ok(format!("https://{OTHER_HOST}/realms/demo")));
        assert_eq!(finding.severity, Severity::Risk);
        assert!(finding.remedy.unwrap().contains("`--hostname=https://kc.test`"));
        let refused = HttpError::Status { url: URL.to_owned(), status: 421 };
        assert_eq!(judge(Err(refused.into())).severity, Severity::Ok);
    }

    #[test]
    fn an_api_server_that_shows_its_keys_to_nobody_is_told_apart_from_keycloak() {
        let forbidden =
            || FetchError::from(HttpError::Status { url: "https://api.test/openid/v1/jwks".to_owned(), status: 403 });
        let remedy = |kind: &IssuerKind| judge_failure(&forbidden(), kind).remedy.unwrap();
        assert!(
            remedy(&IssuerKind::Kubernetes { token: None, user_tokens: Vec::new() })
                .contains("service-account-issuer-discovery")
        );
        assert!(!remedy(&IssuerKind::Oidc).contains("service-account-issuer-discovery"));
    }

    #[test]
    fn a_document_of_another_issuer_is_named() {
        let error = DiscoveryError::AnotherIssuer { found: "http://kc.internal/realms/demo".to_owned() };
        let finding = judge_failure(&error.into(), &IssuerKind::Oidc);
        assert_eq!(finding.severity, Severity::Broken);
        assert!(finding.found.contains("`http://kc.internal/realms/demo`"));
    }
}
