//! What a token endpoint answers (RFC 6749 §5, RFC 8693 §2.2), held against what was asked for.
//!
//! A server may grant less than it was asked for, and Keycloak drops scopes without a word. What an upstream is given is what the
//! configuration says, or nothing.

use crate::base::http_client::Reply;
use crate::base::json::{Object, parse_object};
use crate::base::secret::Secret;
use crate::config::Issuer;
use crate::identity::claims::check_audience;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer};
use std::time::Duration;

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The token's `aud` holds this.
    pub audience: Option<&'a str>,
    /// Each of these is granted.
    pub scopes: &'a [String],
    /// Who was asked, where it is an issuer of the configuration.
    pub issuer: Option<&'a Issuer>,
    /// Whose token it is to be.
    pub subject: Option<&'a str>,
}

/// Why an answer is no credential. Names what was asked for and an error's code, never a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The server does not make the token.
    #[error("the token endpoint refuses with {status} {code}")]
    Refused {
        /// The status.
        status: u16,
        /// `error` and `error_description`, as far as they can be shown.
        code: String,
    },
    /// The server did not work.
    #[error("the token endpoint answers {0}")]
    Status(u16),
    /// No answer of RFC 6749 §5.1.
    #[error("the answer is not that of a token endpoint")]
    Malformed,
    /// A token of another type.
    #[error("the answer holds no bearer access token")]
    Type,
    /// It was not granted.
    #[error("scope `{0}` was not granted")]
    Scope(String),
    /// Neither the answer nor the token says what was granted.
    #[error("nothing says whether the scope was granted")]
    ScopeUnknown,
    /// `aud` does not hold the audience.
    #[error("the token is not for audience `{0}`")]
    Audience(String),
    /// The token is no JWT.
    #[error("the token cannot be read, so nobody knows whether it is for audience `{0}`")]
    AudienceUnknown(String),
    /// The upstream could use it against Postern.
    #[error("the token is also for `{0}`, which Postern itself accepts: take that audience from the client's tokens")]
    OwnAudience(String),
    /// `iss` is another.
    #[error("the token is of another issuer")]
    Issuer,
    /// `sub` is another.
    #[error("the token is of another user")]
    Subject,
    /// Nothing says when it ends.
    #[error("nothing says how long the token lives")]
    NoLifetime,
}

impl AnswerError {
    /// Whether a token was made that is less, or other, than what was asked for.
    pub fn is_insufficient(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::Status(_) | Self::Malformed)
    }
}

#[derive(Deserialize)]
struct Granted {
    #[serde(deserialize_with = "secret")]
    access_token: Secret,
    token_type: String,
    issued_token_type: Option<String>,
    /// In seconds.
    expires_in: Option<u64>,
    scope: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// The token, and how long it lives from the moment that it was asked for.
///
/// # Errors
/// [`AnswerError`].
pub fn read(reply: &Reply, wanted: &Wanted<'_>) -> Result<(Secret, Duration), AnswerError> {
    if reply.status != 200 {
        return Err(match serde_json::from_slice::<Refusal>(&reply.body) {
            Ok(refusal) if (400..500).contains(&reply.status) && reply.status != 429 => AnswerError::Refused {
                status: reply.status,
                code: format!("{}: {}", shown(&refusal.error), shown(&refusal.error_description)),
            },
            _ => AnswerError::Status(reply.status),
        });
    }
    let granted: Granted = serde_json::from_slice(&reply.body).map_err(|_| AnswerError::Malformed)?;
    let is_access_token =
        |name: &str| matches!(name.strip_prefix("urn:ietf:params:oauth:token-type:"), Some("access_token" | "jwt"));
    if !granted.token_type.eq_ignore_ascii_case("Bearer")
        || granted.issued_token_type.as_deref().is_some_and(|name| !is_access_token(name))
    {
        return Err(AnswerError::Type);
    }
    let claims = claims(&granted.access_token);
    check_scopes(&granted, claims.as_ref(), wanted.scopes)?;
    check_claims(claims.as_ref(), wanted)?;
    let lifetime = lifetime(&granted, claims.as_ref()).ok_or(AnswerError::NoLifetime)?;
    Ok((granted.access_token, lifetime))
}

/// Both the answer and the token may say what was granted; both count.
fn check_scopes(granted: &Granted, claims: Option<&Object<'_>>, scopes: &[String]) -> Result<(), AnswerError> {
    let in_token = claims.and_then(|claims| claims.get("scope")?.as_str());
    let said: Vec<_> = granted.scope.as_deref().into_iter().chain(in_token).collect();
    if said.is_empty() && !scopes.is_empty() {
        return Err(AnswerError::ScopeUnknown);
    }
    let is_granted = |scope: &&String| said.iter().all(|words| words.split(' ').any(|word| word == scope.as_str()));
    match scopes.iter().find(|scope| !is_granted(scope)) {
        Some(scope) => Err(AnswerError::Scope(scope.clone())),
        None => Ok(()),
    }
}

fn check_claims(claims: Option<&Object<'_>>, wanted: &Wanted<'_>) -> Result<(), AnswerError> {
    let Some(claims) = claims else {
        return match wanted.audience {
            Some(audience) => Err(AnswerError::AudienceUnknown(audience.to_owned())),
            None => Ok(()),
        };
    };
    let says_another = |name: &str, known: Option<&str>| {
        known.is_some_and(|known| claims.get(name).is_some_and(|said| said.as_str() != Some(known)))
    };
    if says_another("iss", wanted.issuer.map(|issuer| issuer.url.as_str())) {
        return Err(AnswerError::Issuer);
    }
    if says_another("sub", wanted.subject) {
        return Err(AnswerError::Subject);
    }
    let is_for = |audience: &str| claims.get("aud").is_some_and(|aud| check_audience(aud, &[audience]).is_ok());
    if let Some(audience) = wanted.audience.filter(|audience| !is_for(audience)) {
        return Err(AnswerError::Audience(audience.to_owned()));
    }
    let own = wanted.issuer.and_then(|issuer| issuer.audiences.iter().find(|own| is_for(own)));
    own.map_or(Ok(()), |own| Err(AnswerError::OwnAudience(own.clone())))
}

/// The shorter of what the answer and the token say.
fn lifetime(granted: &Granted, claims: Option<&Object<'_>>) -> Option<Duration> {
    let date = |name: &str| claims?.get(name)?.as_u64();
    let in_token = date("exp").zip(date("iat")).map(|(exp, iat)| exp.saturating_sub(iat));
    granted.expires_in.into_iter().chain(in_token).min().map(Duration::from_secs)
}

/// The claims of a token that is a JWT. It comes from whoever made it over our own connection, so its signature is not looked at.
fn claims(token: &Secret) -> Option<Object<'static>> {
    let mut parts = token.expose().split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    Some(parse_object(&URL_SAFE_NO_PAD.decode(payload).ok()?)?.into_owned())
}

/// A server's words, for a log: short, on one line, and nothing in them that could be a token.
fn shown(text: &str) -> String {
    let is_plain = |word: &&str| word.len() <= 40 && word.bytes().all(|byte| byte.is_ascii_graphic());
    let words: Vec<_> = text.split(' ').filter(is_plain).take(20).collect();
    words.join(" ")
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
    String::deserialize(deserializer).map(Secret::new)
}
