//! Introspection of the tokens that Postern minted (RFC 7662), for the upstreams that they are for.

use super::client::Client;
use super::form::Form;
use super::reply;
use super::{Endpoints, Outcome};
use crate::base::clock::Now;
use crate::base::json::{Json, Object};
use crate::identity::own;
use crate::users::{Judgement, TokenClaims};
use bytes::Bytes;
use http::Response;
use serde_json::{Map, Value};

/// What an answer says beside `active`, as the token says it.
const MEMBERS: [&str; 14] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "iat",
    "nbf",
    "jti",
    "namespace",
    "namespace_kind",
    "orig_iss",
    "email",
    "preferred_username",
    "roles",
    "groups",
];

impl Endpoints {
    /// Answers a call. Without waiting for anybody.
    pub(super) fn introspect(&self, client: &Client, body: &[u8], now: Now) -> (Outcome, Response<Bytes>) {
        let form = match Form::parse(body) {
            Ok(form) => form,
            Err(error) => return (Outcome::Malformed, reply::invalid_request(&error.to_string())),
        };
        let Some(token) = form.get("token") else {
            return (Outcome::Malformed, reply::invalid_request("the parameter `token` is missing"));
        };
        match self.active(client, token, now) {
            Some(claims) => (Outcome::Active, reply::ok(&Value::Object(describe(&claims)))),
            // Never a reason: to the caller all that is not theirs looks alike (RFC 7662 §2.2).
            None => (Outcome::Inactive, reply::ok(&serde_json::json!({ "active": false }))),
        }
    }

    /// The claims of a token of ours that is for this client's audience, alive, and of a user who may act now.
    fn active(&self, client: &Client, token: &str, now: Now) -> Option<Object<'static>> {
        let claims = self.verifier.minted(token.as_bytes(), now)?;
        let text = |name: &str| claims.get(name).and_then(Json::as_str);
        if text("aud") != Some(&*client.audience) {
            return None;
        }
        let (subject, original_issuer) = (text("sub")?, text("orig_iss")?);
        let issuer = self.verifier.issuers().find(|issuer| issuer.config().url == original_issuer)?;
        let issuer = issuer.config().name.as_str();
        let epoch = Some(own::epoch(&claims)?);
        // When it was issued is by our clock and not by the issuer's; what depends on that is in the epoch.
        let judged = TokenClaims { issuer, subject, session: None, issued: None, id: text("jti"), epoch };
        (self.users.judge(&judged, now) == Judgement::Admitted).then_some(claims)
    }
}

fn describe(claims: &Object<'_>) -> Map<String, Value> {
    let mut answer = Map::from_iter([("active".to_owned(), true.into()), ("token_type".to_owned(), "Bearer".into())]);
    let renamed = [("preferred_username", "username"), ("azp", "client_id")];
    for (name, as_name) in MEMBERS.iter().map(|name| (*name, *name)).chain(renamed) {
        if let Some(value) = claims.get(name) {
            answer.insert(as_name.to_owned(), value.to_value());
        }
    }
    answer
}
