//! `/dev/…`: what an administrator would do in Keycloak's console, and what only a test would do.

use super::issuer::{DEMO, Shared};
use super::protocol::{Asked, is_from_a_page, json_answer};
use super::realm::{Endpoint, Illness, OldKeys, State};
use super::users::{User, UserChange};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

/// What is done, or why not.
type Outcome = Result<Value, (StatusCode, String)>;

/// Answers `/dev/PATH`. The realm is `demo` unless the query names another: `?realm=NAME`.
pub(super) fn answer(shared: &Shared, path: &str, request: &Asked) -> Response<Full<Bytes>> {
    if is_from_a_page(request) {
        // A page that a developer visits must not steer an issuer on the same machine.
        return json_answer(StatusCode::FORBIDDEN, &json!({ "error": "not for browsers" }));
    }
    let query = Query(request.uri().query().unwrap_or(""));
    let realm = query.get("realm").unwrap_or_else(|| DEMO.to_owned());
    let outcome = shared
        .with(&realm, |state| steer(state, path, &query, request))
        .unwrap_or_else(|| Err((StatusCode::NOT_FOUND, format!("there is no realm `{realm}`"))));
    match outcome {
        Ok(body) => json_answer(StatusCode::OK, &body),
        Err((status, why)) => json_answer(status, &json!({ "error": why })),
    }
}

struct Query<'a>(&'a str);

impl Query<'_> {
    fn get(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.0.as_bytes())
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.into_owned())
    }
}

fn steer(state: &mut State, path: &str, query: &Query<'_>, request: &Asked) -> Outcome {
    let parts: Vec<&str> = path.split('/').collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["users"]) => Ok(json!(state.users.iter().map(User::shown).collect::<Vec<_>>())),
        (&Method::GET, ["users", name]) => shown(state, name),
        (&Method::PUT, ["users", name]) => put_user(state, name, change(request)?),
        (&Method::DELETE, ["users", name]) => {
            let user = shown(state, name)?;
            state.users.retain(|user| user.username != *name);
            Ok(user)
        }
        (&Method::POST, ["users", name, action @ ("enable" | "disable")]) => {
            let enabled = Some(*action == "enable");
            state.change_user(name, UserChange { enabled, ..UserChange::default() });
            shown(state, name)
        }
        (&Method::POST, ["users", name, "logout"]) => {
            let id = state.user(name).ok_or_else(|| no_user(name))?.id.clone();
            state.end_sessions_of(&id);
            shown(state, name)
        }
        (&Method::POST, ["keys", "rotate"]) => rotate(state, query),
        (&Method::POST, ["token-lifetime"]) => {
            let seconds = query.get("seconds").and_then(|text| text.parse().ok());
            state.lifetime = seconds.ok_or_else(|| wrong("`seconds` must be a number"))?;
            Ok(json!({ "seconds": state.lifetime }))
        }
        (&Method::POST, ["illness", endpoint]) => make_ill(state, endpoint, query),
        (&Method::GET, ["counters"]) => {
            let counters = state.counters;
            Ok(json!({
                "discovery": counters.discovery, "keys": counters.keys,
                "token": counters.token, "introspection": counters.introspection,
            }))
        }
        _ => Err((StatusCode::NOT_FOUND, format!("there is no `{} /dev/{path}`", request.method()))),
    }
}

fn shown(state: &State, name: &str) -> Outcome {
    state.user(name).map(User::shown).ok_or_else(|| no_user(name))
}

fn change(request: &Asked) -> Result<UserChange, (StatusCode, String)> {
    serde_json::from_slice(request.body()).map_err(|error| wrong(&error.to_string()))
}

/// Changes the user, who is made if there is none of that name.
fn put_user(state: &mut State, name: &str, change: UserChange) -> Outcome {
    if state.user(name).is_none() {
        state.users.push(User::new(name));
    }
    state.change_user(name, change);
    shown(state, name)
}

fn rotate(state: &mut State, query: &Query<'_>) -> Outcome {
    let old = match query.get("old").as_deref() {
        None | Some("keep") => OldKeys::Keep,
        Some("drop") => OldKeys::Drop,
        Some(_) => return Err(wrong("`old` is `keep` or `drop`")),
    };
    state.rotate(old).map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "no key can be made".to_owned()))?;
    let keys = state.key_set();
    let kids = keys["keys"].as_array().into_iter().flatten().filter(|key| key["use"] == "sig").map(|key| &key["kid"]);
    Ok(json!({ "signing_keys": kids.collect::<Vec<_>>() }))
}

fn make_ill(state: &mut State, endpoint: &str, query: &Query<'_>) -> Outcome {
    let endpoint = match endpoint {
        "discovery" => Endpoint::Discovery,
        "keys" => Endpoint::Keys,
        "token" => Endpoint::Token,
        "introspection" => Endpoint::Introspection,
        _ => return Err((StatusCode::NOT_FOUND, format!("there is no endpoint `{endpoint}`"))),
    };
    let illness = match query.get("mode").as_deref() {
        Some("refuse") => Illness::Refuse,
        Some("500") => Illness::ServerError,
        Some("hang") => Illness::Hang,
        Some("garbage") => Illness::Garbage,
        Some("none") => {
            state.illnesses.remove(&endpoint);
            return Ok(json!({}));
        }
        _ => return Err(wrong("`mode` is `refuse`, `500`, `hang`, `garbage` or `none`")),
    };
    state.illnesses.insert(endpoint, illness);
    Ok(json!({}))
}

fn no_user(name: &str) -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, format!("there is no user `{name}`"))
}

fn wrong(why: &str) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, why.to_owned())
}
