//! The endpoints of OpenID Connect, with Keycloak's paths, answers and errors.

use super::control;
use super::issuer::Shared;
use super::keys;
use super::realm::{Endpoint, Illness, REFRESH_LIFETIME, State};
use super::server::{Answer, HangUp};
use super::tokens::{TokenKind, TokenSpec};
use super::users::{Client, User};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

/// No request to an issuer is longer.
const MAX_BODY: usize = 64 * 1024;

/// A request's head and its body, read whole.
pub(super) type Asked = Request<Bytes>;

/// An error of OAuth 2.0 (RFC 6749 §5.2) with Keycloak's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Refusal(StatusCode, &'static str, &'static str);

impl Refusal {
    const CLIENT: Self =
        Self(StatusCode::UNAUTHORIZED, "invalid_client", "Invalid client or Invalid client credentials");

    const fn grant(description: &'static str) -> Self {
        Self(StatusCode::BAD_REQUEST, "invalid_grant", description)
    }

    fn answer(self) -> Response<Full<Bytes>> {
        json_answer(self.0, &json!({ "error": self.1, "error_description": self.2 }))
    }
}

/// Answers any request to the issuer.
pub(super) async fn answer(shared: &Shared, request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return Ok(json_answer(StatusCode::PAYLOAD_TOO_LARGE, &json!({ "error": "invalid_request" })));
    };
    let request = Request::from_parts(head, body.to_bytes());
    let path = request.uri().path().to_owned();
    if let Some(rest) = path.strip_prefix("/dev/") {
        return Ok(control::answer(shared, rest, &request));
    }
    let Some((realm, rest)) = path.strip_prefix("/realms/").and_then(|rest| rest.split_once('/')) else {
        return Ok(json_answer(StatusCode::NOT_FOUND, &json!({ "error": "Unable to find matching target resource" })));
    };
    let endpoint = match rest {
        ".well-known/openid-configuration" => Some(Endpoint::Discovery),
        "protocol/openid-connect/certs" => Some(Endpoint::Keys),
        "protocol/openid-connect/token" => Some(Endpoint::Token),
        "protocol/openid-connect/token/introspect" => Some(Endpoint::Introspection),
        _ => None,
    };
    if let Some(illness) = shared.with(realm, |state| count(state, endpoint)).flatten() {
        return suffer(illness).await;
    }
    let now = shared.now();
    let answer = shared.with(realm, |state| match (endpoint, rest) {
        (Some(Endpoint::Discovery), _) => document(&request, &discovery(state)),
        (Some(Endpoint::Keys), _) => document(&request, &state.key_set()),
        (Some(Endpoint::Token), _) => form_answer(&request, |form| token(state, &request, form, now)),
        (Some(Endpoint::Introspection), _) => form_answer(&request, |form| introspect(state, &request, form, now)),
        (None, "protocol/openid-connect/logout") => form_answer(&request, |form| logout(state, &request, form, now)),
        (None, "protocol/openid-connect/userinfo") => userinfo(state, &request, now),
        (None, _) => json_answer(StatusCode::NOT_FOUND, &json!({ "error": "HTTP 404 Not Found" })),
    });
    let no_realm = || json_answer(StatusCode::NOT_FOUND, &json!({ "error": "Realm does not exist" }));
    Ok(answer.unwrap_or_else(no_realm))
}

/// Counts the request and says how its endpoint feels.
fn count(state: &mut State, endpoint: Option<Endpoint>) -> Option<Illness> {
    let endpoint = endpoint?;
    *match endpoint {
        Endpoint::Discovery => &mut state.counters.discovery,
        Endpoint::Keys => &mut state.counters.keys,
        Endpoint::Token => &mut state.counters.token,
        Endpoint::Introspection => &mut state.counters.introspection,
    } += 1;
    state.illnesses.get(&endpoint).copied()
}

async fn suffer(illness: Illness) -> Answer {
    let page = |status, text: &'static str| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        Ok(response)
    };
    match illness {
        Illness::Refuse => Err(HangUp),
        Illness::Hang => std::future::pending().await,
        Illness::ServerError => page(StatusCode::INTERNAL_SERVER_ERROR, "<h1>Internal Server Error</h1>"),
        Illness::Garbage => page(StatusCode::OK, "<h1>Sign in to your account</h1>"),
    }
}

fn discovery(state: &State) -> Value {
    let url = &state.url;
    let oidc = format!("{url}/protocol/openid-connect");
    json!({
        "issuer": url,
        "authorization_endpoint": format!("{oidc}/auth"),
        "token_endpoint": format!("{oidc}/token"),
        "introspection_endpoint": format!("{oidc}/token/introspect"),
        "userinfo_endpoint": format!("{oidc}/userinfo"),
        "end_session_endpoint": format!("{oidc}/logout"),
        "jwks_uri": format!("{oidc}/certs"),
        "grant_types_supported": ["password", "refresh_token", "client_credentials"],
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": crate::config::Algorithm::ALL.map(crate::config::Algorithm::name),
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "scopes_supported": ["openid", "profile", "email"],
    })
}

/// The parameters of a form.
struct Form(Vec<(String, String)>);

impl Form {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn form_answer(
    request: &Asked,
    f: impl FnOnce(&Form) -> Result<Response<Full<Bytes>>, Refusal>,
) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return json_answer(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "HTTP 405 Method Not Allowed" }));
    }
    let form = Form(url::form_urlencoded::parse(request.body()).into_owned().collect());
    let mut response = f(&form).unwrap_or_else(Refusal::answer);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The client that asks, by HTTP Basic or by the form; a confidential one must know its secret.
fn authenticate(state: &State, request: &Asked, form: &Form) -> Result<Client, Refusal> {
    let (id, secret) = match request.headers().get(AUTHORIZATION) {
        Some(basic) => basic_credentials(basic).map(|(id, secret)| (id, Some(secret))).ok_or(Refusal::CLIENT)?,
        None => {
            let id = form.get("client_id").ok_or(Refusal::CLIENT)?;
            (id.to_owned(), form.get("client_secret").map(str::to_owned))
        }
    };
    let client = state.client(&id).ok_or(Refusal::CLIENT)?;
    match &client.secret {
        Some(known) if secret.as_deref() != Some(known.expose()) => Err(Refusal::CLIENT),
        _ => Ok(client.clone()),
    }
}

/// Name and secret of `Authorization: Basic`, each form-encoded (RFC 6749 §2.3.1).
fn basic_credentials(value: &HeaderValue) -> Option<(String, String)> {
    let text = value.to_str().ok()?.strip_prefix("Basic ")?;
    let pair = String::from_utf8(BASE64.decode(text).ok()?).ok()?;
    let (id, secret) = pair.split_once(':')?;
    // A form's parser decodes a value: the name before it is of no matter.
    let decoded = |text: &str| {
        url::form_urlencoded::parse(format!("v={text}").as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    Some((decoded(id)?, decoded(secret)?))
}

fn token(state: &mut State, request: &Asked, form: &Form, now: i64) -> Result<Response<Full<Bytes>>, Refusal> {
    let client = authenticate(state, request, form)?;
    let body = match form.get("grant_type") {
        Some("password") => password_grant(state, &client, form, now)?,
        Some("refresh_token") => refresh_grant(state, &client, form, now)?,
        Some("client_credentials") => client_credentials_grant(state, &client, form, now)?,
        Some(_) => return Err(Refusal(StatusCode::BAD_REQUEST, "unsupported_grant_type", "Unsupported grant_type")),
        None => return Err(Refusal(StatusCode::BAD_REQUEST, "invalid_request", "Missing form parameter: grant_type")),
    };
    Ok(json_answer(StatusCode::OK, &body))
}

fn password_grant(state: &mut State, client: &Client, form: &Form, now: i64) -> Result<Value, Refusal> {
    const WRONG: Refusal = Refusal::grant("Invalid user credentials");
    let user = form.get("username").and_then(|name| state.user(name)).ok_or(WRONG)?.clone();
    if !user.enabled {
        return Err(Refusal::grant("Account disabled"));
    }
    if user.password.as_ref().is_none_or(|known| form.get("password") != Some(known.expose())) {
        return Err(WRONG);
    }
    let sid = state.start_session(&user.id, &client.id);
    Ok(tokens(state, client, &user, &sid, form.get("scope"), now))
}

fn refresh_grant(state: &mut State, client: &Client, form: &Form, now: i64) -> Result<Value, Refusal> {
    let token = form.get("refresh_token").ok_or(Refusal::grant("No refresh token"))?;
    let sid = state.refresh_session(token, now).ok_or(Refusal::grant("Invalid refresh token"))?;
    let session = state.session(&sid).ok_or(Refusal::grant("Session not active"))?;
    if session.client != client.id {
        return Err(Refusal::grant("Invalid refresh token. Token client and authorized client don't match"));
    }
    let user = state.user_by_id(&session.user_id).ok_or(Refusal::grant("Session not active"))?.clone();
    if !user.enabled {
        return Err(Refusal::grant("User disabled"));
    }
    let scope = keys::decode(token).and_then(|(_, claims)| claims["scope"].as_str().map(str::to_owned));
    Ok(tokens(state, client, &user, &sid, scope.as_deref(), now))
}

fn tokens(state: &mut State, client: &Client, user: &User, sid: &str, scope: Option<&str>, now: i64) -> Value {
    let wants_id = scope.is_some_and(|scope| scope.split(' ').any(|word| word == "openid"));
    let scope = if wants_id { "openid profile email" } else { "profile email" };
    let spec = TokenSpec::user(&user.username).client(&client.id).scope(scope);
    let mut make = |kind| state.issue_in_session(&spec.clone().kind(kind), user, Some(sid), now);
    let mut body = json!({
        "access_token": make(TokenKind::Access),
        "refresh_token": make(TokenKind::Refresh),
        "refresh_expires_in": REFRESH_LIFETIME,
        "token_type": "Bearer",
        "not-before-policy": 0,
        "session_state": sid,
        "scope": scope,
    });
    if wants_id {
        body["id_token"] = json!(make(TokenKind::Id));
    }
    body["expires_in"] = json!(state.lifetime);
    body
}

fn client_credentials_grant(state: &mut State, client: &Client, form: &Form, now: i64) -> Result<Value, Refusal> {
    const PUBLIC: Refusal = Refusal(
        StatusCode::UNAUTHORIZED,
        "unauthorized_client",
        "Public client not allowed to retrieve service account",
    );
    let name = User::of_service_account(&client.id).username;
    let user = client.secret.as_ref().and_then(|_| state.user(&name)).ok_or(PUBLIC)?.clone();
    let spec = TokenSpec::user(&user.username).client(&client.id).scope(form.get("scope").unwrap_or("profile email"));
    let token = state.issue_in_session(&spec, &user, None, now);
    Ok(json!({
        "access_token": token, "expires_in": state.lifetime, "refresh_expires_in": 0,
        "token_type": "Bearer", "not-before-policy": 0, "scope": "profile email",
    }))
}

fn introspect(state: &State, request: &Asked, form: &Form, now: i64) -> Result<Response<Full<Bytes>>, Refusal> {
    let client = authenticate(state, request, form)?;
    if client.secret.is_none() {
        return Err(Refusal::CLIENT);
    }
    let missing = Refusal(StatusCode::BAD_REQUEST, "invalid_request", "Token not provided.");
    let token = form.get("token").ok_or(missing)?;
    let body = state.introspect(&client.id, token, now).map_or_else(|| json!({ "active": false }), Value::Object);
    Ok(json_answer(StatusCode::OK, &body))
}

fn logout(state: &mut State, request: &Asked, form: &Form, now: i64) -> Result<Response<Full<Bytes>>, Refusal> {
    authenticate(state, request, form)?;
    let sid = form.get("refresh_token").and_then(|token| state.refresh_session(token, now));
    state.end_session(&sid.ok_or(Refusal::grant("Invalid refresh token"))?);
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

fn userinfo(state: &State, request: &Asked, now: i64) -> Response<Full<Bytes>> {
    let credential = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let live = credential.and_then(|text| text.strip_prefix("Bearer ")).and_then(|token| state.live(token, now));
    let Some((claims, user, _)) = live else {
        return json_answer(StatusCode::UNAUTHORIZED, &json!({ "error": "invalid_token" }));
    };
    if !claims["scope"].as_str().is_some_and(|scope| scope.split(' ').any(|word| word == "openid")) {
        return json_answer(StatusCode::FORBIDDEN, &json!({ "error": "insufficient_scope" }));
    }
    let mut told = user.claims();
    told.remove("realm_access");
    json_answer(StatusCode::OK, &Value::Object(told))
}

/// A public document, which Keycloak lets nobody cache.
fn document(request: &Asked, body: &Value) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return json_answer(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "HTTP 405 Method Not Allowed" }));
    }
    let mut response = json_answer(StatusCode::OK, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

pub(super) fn json_answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    // The last line feed is for people who read it in a terminal.
    let mut response = Response::new(Full::from(format!("{body}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Whether a page in a browser sent the request, or a name that somebody bound to loopback was used.
pub(super) fn is_from_a_page(request: &Asked) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let is_numeric =
        host.is_none_or(|host| host.parse::<std::net::SocketAddr>().is_ok() || host.starts_with("localhost"));
    request.headers().contains_key("origin") || !is_numeric
}
