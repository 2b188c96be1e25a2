//! What browsers are told about pages of other origins (the Fetch standard, §3.2).
//!
//! A preflight asks whether a page may make a request. It has no token, so Postern answers it, for the route that the request itself
//! would take. This protects users of browsers and nobody else: a request of another origin is judged like any other.

use super::record::Record;
use super::transform::Transformed;
use super::{Context, Pipeline, Stripped};
use crate::config::transform::{Cors, Origins, Transform};
use crate::upstream::Body;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

/// What an upstream may have said; two answers to one question let a browser refuse.
const OF_CORS: [HeaderName; 7] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("access-control-allow-private-network"),
];

/// The route that a preflight asks about; nothing where the request is none, or that route leaves CORS to its upstream.
pub(super) fn preflighted(pipeline: &Pipeline, stripped: &Stripped, host: &str, path: &str) -> Option<usize> {
    only(stripped, &ORIGIN)?;
    let asked = only(stripped, &ACCESS_CONTROL_REQUEST_METHOD)?;
    let method = Method::from_bytes(asked.as_bytes()).ok()?;
    let index = pipeline.router.find(host, &method, path).ok()?;
    pipeline.routes[index].transform.as_ref()?.cors.as_ref().map(|_| index)
}

/// Remembers whose page asks, for every answer that there may be from here on.
pub(super) fn note_origin(transform: &Transform, stripped: &Stripped, context: &mut Context) {
    if transform.cors.is_some() {
        let origin = only(stripped, &ORIGIN).cloned();
        context.transformed = Some(Box::new(Transformed { origin, target: None }));
    }
}

/// The value of a field that is there once.
fn only<'a>(stripped: &'a Stripped, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = stripped.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value);
    values.next().filter(|_| values.next().is_none())
}

/// Tells a browser whether the page may read this answer, in place of what the upstream says about it.
pub(super) fn tell(cors: &Cors, context: &Context, headers: &mut HeaderMap) {
    for name in &OF_CORS {
        headers.remove(name);
    }
    // What a cache keeps for one origin, or for none, is not for another.
    if let Origins::Listed(_) = cors.origins {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    let Some(origin) = allowed(cors, context) else { return };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    if let Some(expose) = &cors.expose {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
}

/// What `Access-Control-Allow-Origin` says, if anything.
fn allowed(cors: &Cors, context: &Context) -> Option<HeaderValue> {
    match &cors.origins {
        Origins::Any => Some(HeaderValue::from_static("*")),
        Origins::Listed(listed) => {
            let origin = context.transformed.as_ref()?.origin.as_ref()?;
            listed.iter().find(|listed| *listed == origin).cloned()
        }
    }
}

/// Answers a preflight: what the route lets pages do, whatever this one wants. The browser compares.
pub(super) fn answer_preflight(pipeline: &Pipeline, record: &mut Record) {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let route = record.context.route.and_then(|index| pipeline.routes.get(index));
    let cors = route.and_then(|route| route.transform.as_ref()?.cors.as_ref());
    if let Some(cors) = cors {
        let headers = response.headers_mut();
        tell(cors, &record.context, headers);
        headers.remove(ACCESS_CONTROL_EXPOSE_HEADERS);
        if headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone());
            headers.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone());
            if let Some(allowed) = &cors.headers {
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone());
            }
        }
    }
    record.put(response);
}
