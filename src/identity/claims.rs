//! What a token or an introspection answer says: strict about what decides, lenient about what only informs.

use super::service_account::ServiceAccount;
use crate::base::json::{Json, Object};
use crate::base::tls::Thumbprint;
use crate::config::{ClaimPath, Issuer, IssuerKind};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Claims that belong to one token rather than to its user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `exp`, in whole seconds; a fraction is dropped. Of a service account's token `warnafter`, if that is sooner.
    pub expires: i64,
    /// `nbf`.
    pub not_before: Option<i64>,
    /// `iat`.
    pub issued: Option<i64>,
    /// `sub`; only a lightweight token lacks it.
    pub subject: Option<String>,
    /// `sid`: the session that it belongs to.
    pub session: Option<String>,
    /// `jti`.
    pub id: Option<String>,
    /// `cnf`: the certificate without which it is worth nothing.
    pub bound: Option<Box<Thumbprint>>,
}

/// Why the claims of a token with a good signature are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// A claim that must be there is not, or has the wrong type.
    #[error("claim `{0}` is missing or of the wrong type")]
    Unusable(&'static str),
    /// `aud` holds none of ours.
    #[error("`aud` does not hold our audience")]
    Audience,
    /// An ID, refresh, offline or logout token.
    #[error("`typ` in the payload is not `Bearer`")]
    Type,
    /// The token is bound to a client's key (RFC 7800 §3) that the caller did not show, or in a way that is not checked here.
    #[error("the token is bound to a key (`cnf`) that was not shown")]
    Bound,
    /// Of a service account: `sub` and `kubernetes.io` name two of them.
    #[error("`sub` is not the service account that `kubernetes.io` names")]
    Contradiction,
}

impl Facts {
    /// Reads what decides about the token itself: times, audience, type, binding, subject.
    ///
    /// # Errors
    /// [`ClaimError`], for the log.
    pub fn read(claims: &Object<'_>, issuer: &Issuer) -> Result<Self, ClaimError> {
        if claims.get("typ").is_some_and(|typ| typ.as_str() != Some("Bearer")) {
            return Err(ClaimError::Type);
        }
        let bound = binding(claims)?;
        match claims.get("aud") {
            None if issuer.lightweight => {}
            None => return Err(ClaimError::Unusable("aud")),
            Some(audience) => check_audience(audience, &issuer.audiences)?,
        }
        let subject = match claims.get("sub") {
            None if issuer.lightweight => None,
            Some(Json::String(subject)) if !subject.is_empty() => Some(subject.clone().into_owned()),
            _ => return Err(ClaimError::Unusable("sub")),
        };
        let expires = date(claims, "exp")?.ok_or(ClaimError::Unusable("exp"))?;
        let expires = match issuer.kind {
            IssuerKind::Oidc => expires,
            IssuerKind::Kubernetes { .. } => expires.min(ServiceAccount::read(claims)?.warn_after.unwrap_or(i64::MAX)),
        };
        let text = |name| claims.get(name).and_then(Json::as_str).map(str::to_owned);
        let (not_before, issued) = (date(claims, "nbf")?, date(claims, "iat")?);
        Ok(Self { expires, not_before, issued, subject, session: text("sid"), id: text("jti"), bound })
    }
}

/// The certificate that a token is bound to (RFC 8705 §3.1), if it is.
///
/// # Errors
/// [`ClaimError::Bound`] if it is bound to anything else, or also: nobody here could check that.
pub fn binding(claims: &Object<'_>) -> Result<Option<Box<Thumbprint>>, ClaimError> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(None) };
    let only = confirmation.as_object().filter(|members| members.len() == 1);
    let text = only.and_then(|members| members.get("x5t#S256")?.as_str()).ok_or(ClaimError::Bound)?;
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| ClaimError::Bound)?;
    Ok(Some(Box::new(bytes.try_into().map_err(|_| ClaimError::Bound)?)))
}

/// Holds an introspection answer against the token it was asked about: `iss` and `sub` must agree, the audience must be
/// ours, the type Bearer (RFC 7662 §2.2: a member may be absent, then the token's own counts).
///
/// # Errors
/// [`ClaimError`], for the log.
pub fn check_answer(answer: &Object<'_>, issuer: &Issuer, subject: Option<&str>) -> Result<(), ClaimError> {
    if answer.get("iss").is_some_and(|iss| iss.as_str() != Some(issuer.url.as_str())) {
        return Err(ClaimError::Unusable("iss"));
    }
    match (answer.get("sub").map(Json::as_str), subject) {
        (Some(Some(answered)), Some(subject)) if answered == subject => {}
        (Some(Some(answered)), None) if !answered.is_empty() => {}
        (None, Some(_)) => {}
        _ => return Err(ClaimError::Unusable("sub")),
    }
    match answer.get("aud") {
        Some(audience) => check_audience(audience, &issuer.audiences)?,
        // A lightweight token says nothing about its audience, so the answer has to.
        None if subject.is_none() => return Err(ClaimError::Unusable("aud")),
        None => {}
    }
    for name in ["typ", "token_type"] {
        let is_bearer = |typ: &Json<'_>| typ.as_str().is_some_and(|typ| typ.eq_ignore_ascii_case("Bearer"));
        if answer.get(name).is_some_and(|typ| !is_bearer(typ)) {
            return Err(ClaimError::Type);
        }
    }
    Ok(())
}

/// `aud` is one string or a list of strings (RFC 7519 §4.1.3); one of `ours` must be among them.
///
/// # Errors
/// [`ClaimError::Audience`], or that it is neither.
pub fn check_audience<T: AsRef<str>>(audience: &Json<'_>, ours: &[T]) -> Result<(), ClaimError> {
    let is_ours = |name: &str| ours.iter().any(|our| our.as_ref() == name);
    match audience {
        Json::String(name) if is_ours(name) => Ok(()),
        Json::Array(names) if names.iter().all(|name| name.as_str().is_some()) => {
            if names.iter().filter_map(Json::as_str).any(is_ours) { Ok(()) } else { Err(ClaimError::Audience) }
        }
        Json::String(_) => Err(ClaimError::Audience),
        _ => Err(ClaimError::Unusable("aud")),
    }
}

/// A `NumericDate`: any number in a sane range; absent is `None`, anything else refused.
pub(super) fn date(claims: &Object<'_>, name: &'static str) -> Result<Option<i64>, ClaimError> {
    /// The year 9999, in seconds since 1970.
    const LAST: f64 = 253_402_300_799.0;
    match claims.get(name) {
        None => Ok(None),
        Some(Json::Number(number)) => match (number.as_i64(), number.as_f64()) {
            #[allow(clippy::cast_precision_loss)] // Only compared with the year 9999.
            (Some(whole), _) if whole >= 0 && whole as f64 <= LAST => Ok(Some(whole)),
            #[allow(clippy::cast_possible_truncation)] // In range, and the fraction is meant to go.
            (None, Some(real)) if (0.0..=LAST).contains(&real) => Ok(Some(real as i64)),
            _ => Err(ClaimError::Unusable(name)),
        },
        Some(_) => Err(ClaimError::Unusable(name)),
    }
}

/// The member at a path.
pub fn find<'a, 'b>(claims: &'a Object<'b>, path: &ClaimPath) -> Option<&'a Json<'b>> {
    let (first, rest) = path.parts().split_first()?;
    rest.iter().try_fold(claims.get(first)?, |value, part| value.as_object()?.get(part))
}

/// Whether Kubernetes takes this for a namespace (RFC 1123 label).
pub fn is_namespace_name(name: &str) -> bool {
    let is_alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|byte| is_alphanumeric(byte) || *byte == b'-')
        && bytes.first().is_some_and(is_alphanumeric)
        && bytes.last().is_some_and(is_alphanumeric)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::base::json::tests::object;
    use crate::config::{Algorithm, KeyPolicy, UserStatus};
    use serde_json::{Map, Value, json};
    use std::time::Duration;

    pub(in crate::identity) fn issuer() -> Issuer {
        let claim = |text| ClaimPath::parse(text).unwrap();
        Issuer {
            name: "main".into(),
            kind: IssuerKind::Oidc,
            url: "http://127.0.0.1:1/realms/demo".into(),
            audiences: vec!["api".into()],
            algorithms: Algorithm::ALL.to_vec(),
            leeway: Duration::from_secs(30),
            max_token_age: None,
            address: None,
            ca: None,
            endpoint_origins: Vec::new(),
            lightweight: false,
            opaque: false,
            roles_claims: vec![claim("realm_access.roles"), claim("roles")],
            groups_claim: claim("groups"),
            namespace_claim: claim("namespace"),
            username_claim: claim("preferred_username"),
            email_claim: claim("email"),
            keys: KeyPolicy {
                refresh: Duration::from_secs(300),
                max_stale: Duration::from_secs(3600),
                timeout: Duration::from_secs(5),
            },
            user_status: UserStatus::None,
        }
    }

    pub(in crate::identity) fn good() -> Map<String, Value> {
        let claims = json!({"sub": "alice", "aud": "api", "exp": 2_000_000_000, "typ": "Bearer"});
        claims.as_object().unwrap().clone()
    }

    #[track_caller]
    fn check(name: &str, value: Value, outcome: Result<(), ClaimError>) {
        let mut claims = good();
        claims.insert(name.to_owned(), value.clone());
        assert_eq!(Facts::read(&object(claims), &issuer()).map(|_| ()), outcome, "{name}: {value}");
    }

    #[test]
    fn each_required_claim_is_required() {
        for name in ["sub", "aud", "exp"] {
            let mut claims = good();
            claims.remove(name);
            assert_eq!(Facts::read(&object(claims), &issuer()), Err(ClaimError::Unusable(name)));
        }
        check("sub", json!(""), Err(ClaimError::Unusable("sub")));
        check("sub", json!(7), Err(ClaimError::Unusable("sub")));
    }

    #[test]
    fn an_audience_is_a_string_or_a_list_of_strings_and_holds_ours() {
        check("aud", json!(["account", "api"]), Ok(()));
        check("aud", json!("ap"), Err(ClaimError::Audience));
        check("aud", json!("x,api"), Err(ClaimError::Audience));
        check("aud", json!([]), Err(ClaimError::Audience));
        check("aud", json!(["api", 1]), Err(ClaimError::Unusable("aud")));
        check("aud", json!([["api"]]), Err(ClaimError::Unusable("aud")));
        check("aud", json!({"api": true}), Err(ClaimError::Unusable("aud")));
    }

    #[test]
    fn times_are_numbers_in_range() {
        check("exp", json!(2_000_000_000.5), Ok(()));
        for value in [json!(null), json!("2000000000"), json!(true), json!(-1), json!(18_446_744_073_709_551_615_u64)] {
            for name in ["exp", "nbf", "iat"] {
                check(name, value.clone(), Err(ClaimError::Unusable(name)));
            }
        }
    }

    #[test]
    fn id_refresh_and_logout_tokens_and_bound_tokens_are_refused() {
        for typ in ["ID", "Refresh", "Offline", "Logout", "bearer"] {
            check("typ", json!(typ), Err(ClaimError::Type));
        }
    }

    #[test]
    fn a_token_is_bound_to_one_certificate_or_refused() {
        let thumbprint = URL_SAFE_NO_PAD.encode([7; 32]);
        let facts = |cnf: Value| {
            let mut claims = good();
            claims.insert("cnf".into(), cnf);
            Facts::read(&object(claims), &issuer()).map(|facts| facts.bound)
        };
        assert_eq!(facts(json!({ "x5t#S256": thumbprint })), Ok(Some(Box::new([7; 32]))));
        for cnf in [
            json!({ "x5t#S256": "abc" }),
            json!({ "x5t#S256": thumbprint.clone() + "=" }),
            json!({ "x5t#S256": URL_SAFE_NO_PAD.encode([7; 31]) }),
            json!({ "x5t#S256": thumbprint, "jkt": "abc" }),
            json!({ "jkt": "abc" }),
            json!({}),
            json!(null),
            json!(thumbprint),
        ] {
            assert_eq!(facts(cnf.clone()), Err(ClaimError::Bound), "{cnf}");
        }
    }

    #[test]
    fn a_lightweight_token_passes_only_where_the_issuer_says_so() {
        let claims = object(json!({"exp": 2_000_000_000, "typ": "Bearer"}));
        assert_eq!(Facts::read(&claims, &issuer()), Err(ClaimError::Unusable("aud")));
        let lenient = Issuer { lightweight: true, ..issuer() };
        assert_eq!(Facts::read(&claims, &lenient).map(|facts| facts.subject), Ok(None));
        // A foreign audience that is there is still refused.
        let foreign = object(json!({"exp": 2_000_000_000, "aud": "other"}));
        assert_eq!(Facts::read(&foreign, &lenient), Err(ClaimError::Audience));
    }

    #[test]
    fn an_answer_about_another_user_or_audience_is_refused() {
        let answer = |value: Value, subject| check_answer(&object(value), &issuer(), subject);
        assert_eq!(answer(json!({"sub": "alice", "aud": "api", "token_type": "Bearer"}), Some("alice")), Ok(()));
        assert_eq!(answer(json!({}), Some("alice")), Ok(()));
        assert_eq!(answer(json!({"sub": "bob"}), Some("alice")), Err(ClaimError::Unusable("sub")));
        assert_eq!(answer(json!({"sub": 1}), Some("alice")), Err(ClaimError::Unusable("sub")));
        assert_eq!(answer(json!({"iss": "http://other"}), Some("alice")), Err(ClaimError::Unusable("iss")));
        assert_eq!(answer(json!({"aud": "other"}), Some("alice")), Err(ClaimError::Audience));
        assert_eq!(answer(json!({"typ": "ID"}), Some("alice")), Err(ClaimError::Type));
        assert_eq!(answer(json!({"sub": "alice"}), None), Err(ClaimError::Unusable("aud")));
        assert_eq!(answer(json!({"aud": "api"}), None), Err(ClaimError::Unusable("sub")));
        assert_eq!(answer(json!({"sub": "alice", "aud": ["api"]}), None), Ok(()));
    }

    #[test]
    fn a_namespace_that_kubernetes_would_not_take_is_none() {
        for name in ["", "Team", "a_b", "-a", "a-", "a.b", "a/../b", &"a".repeat(64)] {
            assert!(!is_namespace_name(name), "{name}");
        }
        assert!(is_namespace_name("team-a") && is_namespace_name(&"a".repeat(63)));
    }
}
