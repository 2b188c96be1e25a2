//! What comes back: a fixed list of members, or one of the errors of RFC 6749 §5.2. Whatever else the issuer answers is a fault of its own.

use super::request::{Grant, OFFLINE_ACCESS};
use crate::base::json::{self, Json, Object};
use crate::config::GrantType;
use crate::identity::jws;
use serde_json::{Map, Value};

/// What an answer means.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// Tokens.
    Issued {
        /// The answer's members.
        members: Map<String, Value>,
        /// Whom they are for.
        who: Who,
    },
    /// An error for the client.
    Refused {
        /// Its code.
        error: &'static str,
        /// Words for people.
        description: String,
    },
}

/// Whom tokens are for, as far as the access token says. It comes from the issuer itself over our own connection, so its signature is not
/// looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) subject: Option<String>,
    pub(super) username: Option<String>,
    pub(super) session: Option<String>,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Odd {
    #[error("the token endpoint answered {0}")]
    Status(u16),
    #[error("the token endpoint's answer is no sound JSON object")]
    NoJson,
    #[error("`{0}` in the token endpoint's answer is missing or of the wrong type")]
    Member(&'static str),
    #[error("the token endpoint's error is none of RFC 6749")]
    Error,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
}

/// What is passed back (RFC 6749 §5.1, OpenID Connect Core §3.1.3.3, and what Keycloak adds).
const MEMBERS: [(&str, Kind); 9] = [
    ("access_token", Kind::Text),
    ("token_type", Kind::Text),
    ("expires_in", Kind::Number),
    ("refresh_token", Kind::Text),
    ("refresh_expires_in", Kind::Number),
    ("id_token", Kind::Text),
    ("scope", Kind::Text),
    ("session_state", Kind::Text),
    ("not-before-policy", Kind::Number),
];

/// The errors of RFC 6749 §5.2.
const ERRORS: [&str; 6] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
];

/// The one thing that Keycloak says of a password only when it was right.
const NOT_SET_UP: &str = "Account is not fully set up";

/// Reads an answer to `grant`.
///
/// # Errors
/// [`Odd`]: the issuer is at fault.
pub(super) fn read(status: u16, body: &[u8], grant: &Grant) -> Result<Answer, Odd> {
    match status {
        200 => issued(&json::parse_object(body).ok_or(Odd::NoJson)?, grant),
        400 | 401 => refused(&json::parse_object(body).ok_or(Odd::NoJson)?, grant.grant_type()),
        status => Err(Odd::Status(status)),
    }
}

fn issued(answer: &Object<'_>, grant: &Grant) -> Result<Answer, Odd> {
    let mut members = Map::new();
    for (name, kind) in MEMBERS {
        let Some(value) = answer.get(name) else { continue };
        let is_right = match kind {
            Kind::Text => matches!(value, Json::String(_)),
            Kind::Number => matches!(value, Json::Number(_)),
        };
        if !is_right {
            return Err(Odd::Member(name));
        }
        members.insert(name.to_owned(), value.to_value());
    }
    let text = |name: &'static str| members.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let token = text("access_token").ok_or(Odd::Member("access_token"))?;
    if !text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("Bearer")) {
        return Err(Odd::Member("token_type"));
    }
    // A default scope of the client, or a refresh token that it was not given here.
    let has_offline_access = text("scope").is_some_and(|scope| scope.split(' ').any(|word| word == OFFLINE_ACCESS));
    if has_offline_access && !grant.allows_offline_access() {
        tracing::warn!(
            client = grant.client(),
            "the issuer gave `offline_access` to a client that may not have it here"
        );
        return Ok(Answer::Refused {
            error: "invalid_scope",
            description: "the client may not have `offline_access`".into(),
        });
    }
    let who = who(token, text("session_state"));
    Ok(Answer::Issued { members, who })
}

fn refused(answer: &Object<'_>, grant_type: GrantType) -> Result<Answer, Odd> {
    let given = answer.get("error").and_then(Json::as_str).ok_or(Odd::Member("error"))?;
    let error = ERRORS.into_iter().find(|known| *known == given).ok_or(Odd::Error)?;
    let said = answer.get("error_description").and_then(Json::as_str).unwrap_or_default();
    let description = match (grant_type, error) {
        // Keycloak says that an account is disabled before it looks at the password; here nobody learns that there is one.
        (GrantType::Password, "invalid_grant") if said == NOT_SET_UP => NOT_SET_UP.to_owned(),
        (GrantType::Password, "invalid_grant") => "Invalid user credentials".to_owned(),
        _ => described(said),
    };
    Ok(Answer::Refused { error, description })
}

/// Words as RFC 6749 §5.2 has them, and not too many.
fn described(text: &str) -> String {
    text.chars().filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\')).take(200).collect()
}

fn who(token: &str, session: Option<&str>) -> Who {
    let jws = jws::parse(token.as_bytes()).ok();
    let claims = jws.as_ref().and_then(|jws| json::parse_object(&jws.payload)).unwrap_or_default();
    let text = |name| claims.get(name).and_then(Json::as_str).map(str::to_owned);
    Who {
        subject: text("sub"),
        username: text("preferred_username"),
        session: text("sid").or_else(|| session.map(str::to_owned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::auth_token::request::tests::clients;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    fn password(client: &str) -> Grant {
        let body = format!("grant_type=password&client_id={client}&username=alice&password=p");
        Grant::parse(body.as_bytes(), &clients()).unwrap()
    }

    fn refresh() -> Grant {
        Grant::parse(b"grant_type=refresh_token&client_id=cli&refresh_token=r", &clients()).unwrap()
    }

    fn token() -> String {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({"sub": "u1", "preferred_username": "alice", "sid": "s1"});
        format!("{}.{}.{}", part(json!({"alg": "RS256"})), part(claims), part(json!("signature")))
    }

    fn good() -> Value {
        json!({
            "access_token": token(), "expires_in": 300, "refresh_expires_in": 1800, "refresh_token": "r", "token_type": "Bearer",
            "id_token": "i", "not-before-policy": 0, "session_state": "s1", "scope": "openid profile",
        })
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Value), expected: Result<(), Odd>) {
        let mut answer = good();
        change(&mut answer);
        let read = read(200, answer.to_string().as_bytes(), &password("cli"));
        assert_eq!(read.map(|_| ()), expected, "{answer}");
    }

    #[test]
    fn tokens_come_back_with_what_is_on_the_list_and_nothing_else() {
        let mut answer = good();
        answer["issued_token_type"] = json!("x");
        answer["set_cookie"] = json!({"a": 1});
        let Ok(Answer::Issued { members, who }) = read(200, answer.to_string().as_bytes(), &password("cli")) else {
            panic!("not issued")
        };
        assert_eq!(Value::Object(members), good());
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(who, Who { subject: text("u1"), username: text("alice"), session: text("s1") });
    }

    #[test]
    fn an_access_token_that_is_opaque_is_passed_back_all_the_same() {
        let mut answer = good();
        answer["access_token"] = json!("opaque");
        let read = read(200, answer.to_string().as_bytes(), &password("cli"));
        let Ok(Answer::Issued { who, .. }) = read else { panic!("not issued") };
        assert_eq!(who, Who { session: Some("s1".into()), ..Who::default() });
    }

    #[test]
    fn odd_answers_are_the_issuers_fault() {
        check(|_| (), Ok(()));
        for (name, value) in [
            ("access_token", json!(null)),
            ("access_token", json!("")),
            ("access_token", json!({"a": 1})),
            ("token_type", json!("DPoP")),
            ("expires_in", json!("300")),
            ("refresh_token", json!(["r"])),
            ("scope", json!(["openid"])),
        ] {
            check(|answer| answer[name] = value, Err(Odd::Member(name)));
        }
        for name in ["access_token", "token_type"] {
            check(|answer| drop(answer.as_object_mut().unwrap().remove(name)), Err(Odd::Member(name)));
        }
        let read = |status, body: &str| read(status, body.as_bytes(), &password("cli"));
        for body in ["", "<html>Sign in</html>", "[]", "null", "{\"access_token\":\"a\",\"access_token\":\"b\"}"] {
            assert_eq!(read(200, body), Err(Odd::NoJson), "{body}");
            assert_eq!(read(400, body), Err(Odd::NoJson), "{body}");
        }
        for status in [201, 204, 301, 302, 403, 404, 429, 500, 502, 503] {
            assert_eq!(read(status, &good().to_string()), Err(Odd::Status(status)));
        }
        assert_eq!(read(400, "{\"error\":\"unknown_error\"}"), Err(Odd::Error));
        assert_eq!(read(400, "{\"error\":{}}"), Err(Odd::Member("error")));
    }

    #[test]
    fn offline_access_that_was_not_asked_for_is_not_passed_back() {
        let mut answer = good();
        answer["scope"] = json!("openid offline_access");
        let read = |grant: &Grant| read(200, answer.to_string().as_bytes(), grant).unwrap();
        for grant in [password("cli"), refresh()] {
            assert!(matches!(read(&grant), Answer::Refused { error: "invalid_scope", .. }));
        }
        assert!(matches!(read(&password("both")), Answer::Issued { .. }));
    }

    #[track_caller]
    fn check_refused(grant: &Grant, status: u16, said: Value, error: &str, description: &str) {
        match read(status, said.to_string().as_bytes(), grant) {
            Ok(Answer::Refused { error: read_error, description: read_description }) => {
                assert_eq!((read_error, read_description.as_str()), (error, description));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nobody_learns_of_an_account_what_needs_no_password() {
        let refusal =
            |description: &str| json!({"error": "invalid_grant", "error_description": description, "more": 1});
        for said in ["Invalid user credentials", "Account disabled", "Account temporarily disabled", ""] {
            check_refused(&password("cli"), 400, refusal(said), "invalid_grant", "Invalid user credentials");
            check_refused(&password("cli"), 401, refusal(said), "invalid_grant", "Invalid user credentials");
        }
        check_refused(&password("cli"), 400, refusal(NOT_SET_UP), "invalid_grant", NOT_SET_UP);
        check_refused(&refresh(), 400, refusal("Token is not active"), "invalid_grant", "Token is not active");
    }

    #[test]
    fn an_error_has_the_form_of_the_rfc() {
        let said = json!({"error": "unauthorized_client", "error_description": "a\"b\\c\nd\u{e9}"});
        check_refused(&password("cli"), 400, said, "unauthorized_client", "abcd");
        let long = json!({"error": "invalid_client", "error_description": "x".repeat(5000)});
        check_refused(&refresh(), 401, long, "invalid_client", &"x".repeat(200));
    }
}
