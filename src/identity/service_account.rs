//! Tokens of Kubernetes service accounts, as an API server issues them: whom they name, and until when.

use super::claims::{ClaimError, date, is_namespace_name};
use super::said::Said;
use crate::base::json::{Json, Object};
use crate::config::{ClaimPath, Issuer};
use std::sync::Arc;

/// What the subjects of all service accounts begin with.
const PREFIX: &str = "system:serviceaccount:";

/// The group of all service accounts.
const ALL: &str = "system:serviceaccounts";

/// Whom a token names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServiceAccount<'a> {
    /// `sub`.
    subject: &'a str,
    namespace: &'a str,
    /// Until when the token was meant to be used: the API server extends tokens that pods mount to a year, for clients that never read
    /// them again, and says here what was asked for.
    pub(super) warn_after: Option<i64>,
}

impl<'a> ServiceAccount<'a> {
    /// Reads `sub` and `kubernetes.io`, which have to say the same. The flat claims of tokens that were made before 1.21, and are still made for
    /// Secrets of type `kubernetes.io/service-account-token`, are not looked at: such tokens never expire.
    ///
    /// # Errors
    /// [`ClaimError`], for the log.
    pub(super) fn read(claims: &'a Object<'_>) -> Result<Self, ClaimError> {
        let subject = claims.get("sub").and_then(Json::as_str).ok_or(ClaimError::Unusable("sub"))?;
        let unusable = || ClaimError::Unusable("kubernetes.io");
        let object = claims.get("kubernetes.io").and_then(Json::as_object).ok_or_else(unusable)?;
        let account = object.get("serviceaccount").and_then(Json::as_object).ok_or_else(unusable)?;
        let text = |object: &'a Object<'_>, name| object.get(name).and_then(Json::as_str).ok_or_else(unusable);
        let (namespace, name) = (text(object, "namespace")?, text(account, "name")?);
        // By it alone a service account is told from one of the same name that was there before.
        if text(account, "uid")?.is_empty() || !is_namespace_name(namespace) || !is_account_name(name) {
            return Err(unusable());
        }
        let named = subject.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':'));
        if named != Some((namespace, name)) {
            return Err(ClaimError::Contradiction);
        }
        Ok(Self { subject, namespace, warn_after: date(object, "warnafter")? })
    }

    /// The caller, as the API server itself would describe them (TokenReview), but for `system:authenticated`, which says nothing here.
    pub(super) fn said(&self, issuer: &'a Arc<Issuer>, claims: Vec<(&'a ClaimPath, &'a Json<'a>)>) -> Said<'a> {
        Said {
            issuer,
            subject: self.subject,
            epoch: 0,
            authorized_party: None,
            username: Some(self.subject),
            email: None,
            namespace: Some(self.namespace.into()),
            roles: Vec::new(),
            groups: vec![ALL.into(), format!("{ALL}:{}", self.namespace).into()],
            scopes: Vec::new(),
            claims,
        }
    }
}

/// Whether Kubernetes takes this for the name of a service account: an RFC 1123 subdomain whose labels may be longer than 63.
fn is_account_name(name: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let label = label.as_bytes();
        label.iter().all(|byte| is_alphanumeric(byte) || *byte == b'-')
            && label.first().is_some_and(is_alphanumeric)
            && label.last().is_some_and(is_alphanumeric)
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::json::tests::object;
    use crate::config::IssuerKind;
    use crate::identity::claims::Facts;
    use crate::identity::claims::tests::issuer;
    use serde_json::{Value, json};

    const EXPIRES: i64 = 2_000_000_000;

    fn cluster() -> Issuer {
        Issuer { kind: IssuerKind::Kubernetes { token: None, user_tokens: Vec::new() }, ..issuer() }
    }

    /// As TokenRequest makes them, bound to a pod.
    fn good() -> Value {
        json!({
            "aud": ["api"], "exp": EXPIRES, "iat": EXPIRES - 3600, "nbf": EXPIRES - 3600, "iss": "https://kubernetes.default.svc",
            "jti": "7a1c2b34-0000-4000-8000-000000000001", "sub": "system:serviceaccount:team-a:builder",
            "kubernetes.io": {
                "namespace": "team-a",
                "node": {"name": "node-1", "uid": "n1"},
                "pod": {"name": "build-7", "uid": "p1"},
                "serviceaccount": {"name": "builder", "uid": "u1"},
            },
        })
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Value), expected: Result<i64, ClaimError>) {
        let mut claims = good();
        change(&mut claims);
        assert_eq!(Facts::read(&object(claims.clone()), &cluster()).map(|facts| facts.expires), expected, "{claims}");
    }

    #[test]
    fn tokens_of_every_shape_that_token_request_gives_are_read() {
        let kubernetes = |change: fn(&mut Value)| move |claims: &mut Value| change(&mut claims["kubernetes.io"]);
        check(|_| (), Ok(EXPIRES));
        let unbound = kubernetes(|claims| {
            for name in ["pod", "node"] {
                claims.as_object_mut().unwrap().remove(name);
            }
        });
        check(unbound, Ok(EXPIRES));
        check(kubernetes(|claims| claims["secret"] = json!({"name": "s", "uid": "x"})), Ok(EXPIRES));
        check(|claims| claims["aud"] = json!(["https://kubernetes.default.svc", "api"]), Ok(EXPIRES));
    }

    #[test]
    fn a_token_that_was_extended_to_a_year_is_held_to_what_was_asked_for() {
        let warned = |at: Value| move |claims: &mut Value| claims["kubernetes.io"]["warnafter"] = at;
        check(warned(json!(EXPIRES - 100)), Ok(EXPIRES - 100));
        check(warned(json!(EXPIRES + 100)), Ok(EXPIRES));
        for odd in [json!("2000000000"), json!(null), json!(-1), json!([1])] {
            check(warned(odd), Err(ClaimError::Unusable("warnafter")));
        }
    }

    #[test]
    fn a_token_that_never_expires_is_refused() {
        check(|claims| drop(claims.as_object_mut().unwrap().remove("exp")), Err(ClaimError::Unusable("exp")));
        // As those of Secrets are, but for the issuer, which alone has them refused before.
        let legacy = object(json!({
            "iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:team-a:builder", "aud": ["api"], "exp": EXPIRES,
            "kubernetes.io/serviceaccount/namespace": "team-a", "kubernetes.io/serviceaccount/secret.name": "builder-token",
            "kubernetes.io/serviceaccount/service-account.name": "builder",
            "kubernetes.io/serviceaccount/service-account.uid": "u1",
        }));
        assert_eq!(Facts::read(&legacy, &cluster()), Err(ClaimError::Unusable("kubernetes.io")));
    }

    #[test]
    fn the_subject_is_the_service_account_that_the_claims_name() {
        let subject = |subject: &'static str| move |claims: &mut Value| claims["sub"] = json!(subject);
        for other in [
            "system:serviceaccount:team-b:builder",
            "system:serviceaccount:team-a:default",
            "system:serviceaccount:team-a:builder:x",
            "system:serviceaccount:team-a",
            "serviceaccount:team-a:builder",
            "system:node:team-a:builder",
            "builder",
        ] {
            check(subject(other), Err(ClaimError::Contradiction));
        }
        check(subject(""), Err(ClaimError::Unusable("sub")));
    }

    #[test]
    fn claims_that_no_api_server_makes_are_refused() {
        let unusable = || Err(ClaimError::Unusable("kubernetes.io"));
        check(|claims| drop(claims.as_object_mut().unwrap().remove("kubernetes.io")), unusable());
        for odd in [json!("team-a"), json!([]), json!(null), json!({})] {
            check(move |claims| claims["kubernetes.io"] = odd, unusable());
        }
        for odd in [json!("builder"), json!({"name": "builder"}), json!({"uid": "u1"}), json!({"name": 7, "uid": "u1"})]
        {
            check(move |claims| claims["kubernetes.io"]["serviceaccount"] = odd, unusable());
        }
        check(|claims| claims["kubernetes.io"]["serviceaccount"]["uid"] = json!(""), unusable());
        check(|claims| claims["kubernetes.io"]["namespace"] = json!(["team-a"]), unusable());
        // Names that could be read as others.
        for (namespace, name) in [("team-a:x", "builder"), ("Team", "builder"), ("team-a", "a:b"), ("team-a", "../b")] {
            let change = move |claims: &mut Value| {
                claims["kubernetes.io"]["namespace"] = json!(namespace);
                claims["kubernetes.io"]["serviceaccount"]["name"] = json!(name);
                claims["sub"] = json!(format!("system:serviceaccount:{namespace}:{name}"));
            };
            check(change, unusable());
        }
        check(|claims| claims["aud"] = json!(["https://kubernetes.default.svc"]), Err(ClaimError::Audience));
        check(|claims| claims["typ"] = json!("ID"), Err(ClaimError::Type));
    }

    #[test]
    fn the_caller_is_who_the_api_server_would_say() {
        let uid = ClaimPath::parse("kubernetes\\.io.serviceaccount.uid").unwrap();
        let mut claims = good();
        // What an OpenID provider would say in these is not listened to.
        claims["groups"] = json!(["system:masters"]);
        claims["namespace"] = json!("kube-system");
        claims["roles"] = json!(["admin"]);
        claims["email"] = json!("root@example.com");
        let identity =
            Said::read(&object(claims.clone()), &Arc::new(cluster()), std::slice::from_ref(&uid)).unwrap().identity();
        let name = "system:serviceaccount:team-a:builder";
        assert_eq!((identity.subject.as_str(), identity.username.as_deref()), (name, Some(name)));
        assert_eq!((identity.namespace.as_deref(), identity.email.as_deref()), (Some("team-a"), None));
        assert_eq!(identity.groups, ["system:serviceaccounts", "system:serviceaccounts:team-a"]);
        assert!(identity.roles.is_empty() && identity.scopes.is_empty());
        assert_eq!(identity.claim(&uid), Some(&json!("u1")));
    }
}
