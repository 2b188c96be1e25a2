//! The issuer asked about one token (RFC 7662).

use crate::base::http_client::{BasicCredentials, HttpError, not_json};
use crate::base::json::{Json, Object};
use crate::config::UserStatus;
use crate::issuer::Issuer;
use serde::de::{Deserialize, Deserializer, Error};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What the issuer says of a token.
#[derive(Debug, Clone, PartialEq)]
pub enum Introspected {
    /// It is active; these are its claims as of now, `active` among them.
    Active(Object<'static>),
    /// It is not active. Issuers do not say why.
    Inactive,
}

/// Why it is not known whether a token is active. Never a reason to call it inactive.
#[derive(Debug, thiserror::Error)]
pub enum IntrospectError {
    /// The issuer refused our own client id and secret: the operator must act.
    #[error("the issuer refuses our client id and secret")]
    CredentialsRefused,
    /// No usable answer.
    #[error("no usable answer to introspection: {0}")]
    Unavailable(HttpError),
    /// No discovery document was read yet, or it names no `introspection_endpoint`.
    #[error("the issuer's introspection endpoint is not known")]
    NoEndpoint,
    /// The configuration does not say to introspect.
    #[error("introspection is not configured")]
    NotConfigured,
}

/// What introspection needs of the configuration.
pub(super) struct Introspection {
    credentials: BasicCredentials,
    timeout: Duration,
}

impl Introspection {
    pub(super) fn new(user_status: &UserStatus) -> Option<Self> {
        user_status.introspection().map(|config| Self {
            credentials: BasicCredentials::new(&config.client_id, &config.client_secret),
            timeout: config.timeout,
        })
    }
}

impl Issuer {
    /// Asks the issuer about `token`. To be called on the control plane's runtime, where the connections live.
    ///
    /// # Errors
    /// Everything but a 200 with a JSON object that has a boolean `active`, within the configured timeout.
    pub async fn introspect(&self, token: &str) -> Result<Introspected, IntrospectError> {
        let remote = self.remote.as_ref().ok_or(IntrospectError::NotConfigured)?;
        let introspection = remote.introspection.as_ref().ok_or(IntrospectError::NotConfigured)?;
        let endpoints = self.endpoints.load_full().ok_or(IntrospectError::NoEndpoint)?;
        let url = endpoints.introspection.as_ref().ok_or(IntrospectError::NoEndpoint)?;
        self.counters.introspections.fetch_add(1, Ordering::Relaxed);
        let form = [("token", token)];
        let answer = remote.http.post_form(url, &introspection.credentials, &form, introspection.timeout).await;
        let result = answer.map_err(from_http).and_then(|body| {
            serde_json::from_slice(&body).map_err(|error| IntrospectError::Unavailable(not_json(url, &error)))
        });
        self.note_introspection(result.as_ref().err());
        result
    }

    fn note_introspection(&self, error: Option<&IntrospectError>) {
        let is_refused = matches!(error, Some(IntrospectError::CredentialsRefused));
        if error.is_some() {
            self.counters.introspection_failures.fetch_add(1, Ordering::Relaxed);
        }
        // Only an answer tells whether our credentials are good again, and only a change is logged.
        if (is_refused || error.is_none()) && self.credentials_refused.swap(is_refused, Ordering::Relaxed) != is_refused
        {
            let issuer = self.config.name.as_str();
            if is_refused {
                tracing::error!(
                    issuer,
                    "the issuer refuses the client id and secret of `user_status`: no user can be checked"
                );
            } else {
                tracing::info!(issuer, "the issuer accepts the client id and secret of `user_status` again");
            }
        }
    }
}

fn from_http(error: HttpError) -> IntrospectError {
    match error {
        HttpError::Status { status: 401 | 403, .. } => IntrospectError::CredentialsRefused,
        error => IntrospectError::Unavailable(error),
    }
}

/// The answer, read strictly: no member twice, so that nobody else can read it otherwise than we do.
impl<'de> Deserialize<'de> for Introspected {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let members = Object::deserialize(deserializer)?;
        match members.get("active") {
            Some(Json::Bool(true)) => Ok(Self::Active(members.into_owned())),
            Some(Json::Bool(false)) => Ok(Self::Inactive),
            _ => Err(Error::missing_field("active")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<bool>) {
        let found = serde_json::from_str(text).ok();
        assert_eq!(found.map(|answer| matches!(answer, Introspected::Active(_))), expected, "{text}");
    }

    #[test]
    fn only_an_object_with_one_boolean_active_is_an_answer() {
        check(r#"{"active":true,"sub":"u"}"#, Some(true));
        check(r#"{"active":false}"#, Some(false));
        for bad in [
            "{}",
            "[]",
            "true",
            "null",
            "",
            "<html>",
            r#"{"active":"true"}"#,
            r#"{"active":1}"#,
            r#"{"active":null}"#,
            r#"{"active":false,"active":true}"#,
            r#"{"active":true,"sub":"a","sub":"b"}"#,
            r#"{"active":true,"realm_access":{"roles":[],"roles":["admin"]}}"#,
            r#"{"active":false,"a":{"b":1,"b":2}}"#,
            r#"{"active":true} {}"#,
            r#"{"active":true"#,
            r#"{"error":"invalid_client"}"#,
        ] {
            check(bad, None);
        }
    }
}
