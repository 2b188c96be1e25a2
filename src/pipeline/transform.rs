//! What a route changes of a request that may go on, and of its answer: path and headers. CORS is in [`super::cors`].
//!
//! A route that changes nothing never comes here.

use super::forbidden::fold;
use super::inject::source;
use super::record::Record;
use super::{Context, Pipeline, Rejection, Stripped, cors};
use crate::config::transform::{Piece, Rewrite, RewritePiece, Template, Transform, Variable};
use crate::telemetry::reason::Reason;
use http::header::{REFERRER_POLICY, SERVER, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// What servers say about what they are made with.
const SOFTWARE: [HeaderName; 5] = [
    SERVER,
    HeaderName::from_static("x-powered-by"),
    HeaderName::from_static("x-aspnet-version"),
    HeaderName::from_static("x-aspnetmvc-version"),
    HeaderName::from_static("x-generator"),
];

/// What browsers are told where the upstream does not say otherwise.
const GUARDS: [(HeaderName, HeaderValue); 3] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
];

/// What browsers are told over TLS (RFC 6797 §7.2: over TLS only).
const ONLY_TLS: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// What is remembered of a request on a route that changes something.
#[derive(Debug, Default)]
pub struct Transformed {
    /// Whose page asks, as its browser says.
    pub(super) origin: Option<HeaderValue>,
    /// What the upstream is asked for, where it is not what the client asked for.
    pub target: Option<PathAndQuery>,
}

/// Changes what goes to the upstream. Last of all that makes it, and of nothing that Postern says: `config` sees to that.
///
/// # Errors
/// 400 where the path has become too long.
pub(super) fn request(
    transform: &Transform,
    parts: &Parts,
    stripped: &mut Stripped,
    context: &mut Context,
) -> Result<(), Rejection> {
    let change = &transform.request;
    if !change.taken.is_empty() {
        stripped.fields.retain(|(name, _)| !is_listed(name, &change.taken));
    }
    for header in &change.set {
        if let Some(value) = value(&header.value, Some(parts), context) {
            stripped.fields.push((header.name.clone(), value));
        }
    }
    if let Some(rewrite) = &transform.rewrite {
        let target = rewritten(rewrite, &parts.uri);
        let target = target.map_err(|error| Rejection::because(Reason::MalformedRequest, error))?;
        context.transformed.get_or_insert_default().target = Some(target);
        if let Some(prefix) = &rewrite.stripped {
            stripped.fields.push((X_FORWARDED_PREFIX, prefix.clone()));
        }
    }
    Ok(())
}

/// Compared folded, as servers behind a gateway do.
fn is_listed(name: &HeaderName, folded: &[String]) -> bool {
    let name = name.as_str();
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_plain { folded.iter().any(|listed| listed == name) } else { folded.contains(&fold(name)) }
}

/// Path and query for the upstream. What every server reads alike stays so: it is put together of whole segments.
fn rewritten(rewrite: &Rewrite, uri: &Uri) -> Result<PathAndQuery, http::uri::InvalidUri> {
    let mut target = String::with_capacity(uri.path().len() + 32);
    for piece in &rewrite.pieces {
        match piece {
            RewritePiece::Text(text) => target.push_str(text),
            RewritePiece::Segment(at) => target.push_str(after(uri.path(), *at).split('/').next().unwrap_or_default()),
            RewritePiece::Rest(at) => target.push_str(after(uri.path(), *at)),
        }
    }
    if let Some(query) = uri.query() {
        target.push('?');
        target.push_str(query);
    }
    PathAndQuery::try_from(target)
}

/// What follows so many segments and the slash behind them.
fn after(path: &str, segments: usize) -> &str {
    path.splitn(segments + 2, '/').nth(segments + 1).unwrap_or_default()
}

/// The value of a header that is set; nothing where a variable has none. An answer has no `parts`.
fn value(template: &Template, parts: Option<&Parts>, context: &Context) -> Option<HeaderValue> {
    let pieces = match template {
        Template::Fixed(value) => return Some(value.clone()),
        Template::Pieces(pieces) => pieces,
    };
    let mut text = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(fixed) => text.extend_from_slice(fixed.as_bytes()),
            Piece::Variable(Variable::RequestId) => text.extend_from_slice(context.request_id.as_bytes()),
            Piece::Variable(Variable::Method) => text.extend_from_slice(parts?.method.as_str().as_bytes()),
            // Was found canonical: visible ASCII.
            Piece::Variable(Variable::Path) => text.extend_from_slice(parts?.uri.path().as_bytes()),
            Piece::Variable(Variable::Client) => text.extend_from_slice(context.client.to_string().as_bytes()),
            Piece::Variable(Variable::Host) if context.host.is_empty() => return None,
            Piece::Variable(Variable::Host) => text.extend_from_slice(context.host.as_bytes()),
            Piece::Variable(Variable::Caller(of)) => {
                let identity = &context.caller.as_ref()?.identity;
                text.extend_from_slice(source(of, identity, context.namespace())?.as_bytes());
            }
        }
    }
    HeaderValue::try_from(text).ok()
}

/// Changes what the upstream answered.
pub(super) fn answer(transform: &Transform, context: &Context, headers: &mut HeaderMap) {
    let change = &transform.response;
    for name in &change.remove {
        headers.remove(name);
    }
    if change.hygiene {
        for name in &SOFTWARE {
            headers.remove(name);
        }
    }
    for header in &change.set {
        if let Some(value) = value(&header.value, None, context) {
            headers.insert(header.name.clone(), value);
        }
    }
    guard(transform, context, headers);
}

/// Adds to a refusal of Postern's own, which keeps what it says.
pub(super) fn refusal(pipeline: &Pipeline, record: &mut Record) {
    let route = record.context.route.and_then(|index| pipeline.routes.get(index));
    let Some(transform) = route.and_then(|route| route.transform.as_ref()) else { return };
    let (context, headers) = (&record.context, &mut record.request.headers);
    for header in &transform.response.set {
        if let Some(value) = value(&header.value, None, context) {
            headers.entry(header.name.clone()).or_insert(value);
        }
    }
    guard(transform, context, headers);
}

/// What is for browsers, on every answer of the route.
fn guard(transform: &Transform, context: &Context, headers: &mut HeaderMap) {
    if transform.response.hygiene {
        for (name, value) in GUARDS {
            headers.entry(name).or_insert(value);
        }
        if context.connection.is_tls {
            headers.entry(STRICT_TRANSPORT_SECURITY).or_insert(ONLY_TLS);
        }
    }
    if let Some(cors) = &transform.cors {
        cors::tell(cors, context, headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::router::path::canonical;
    use proptest::prelude::*;
    use std::path::Path;

    /// The rewriting of a route with this pattern.
    fn rewrite(path: &str, rewrite: &str) -> Rewrite {
        let text = format!(
            "version = 1\n[issuer.i]\nurl = 'https://i'\naudience = 'a'\nuser_status = 'none'\n[upstream.u]\n\
             to = 'http://127.0.0.1:1'\n[[route]]\npath = '{path}'\nupstream = 'u'\nrewrite = {{ {rewrite} }}\n"
        );
        let config = config::parse(&text, Path::new("t.toml")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        config.routes[0].transform.as_ref().unwrap().rewrite.clone().unwrap()
    }

    #[track_caller]
    fn check(path: &str, how: &str, pairs: &[(&str, &str)]) {
        let rewrite = rewrite(path, how);
        for (from, to) in pairs {
            assert_eq!(rewritten(&rewrite, &from.parse().unwrap()).unwrap(), *to, "{path} {{ {how} }}: {from}");
        }
    }

    #[test]
    fn a_path_is_put_together_anew_and_the_query_stays() {
        let strip = "strip_prefix = '/api'";
        check("/api/**", strip, &[("/api/", "/"), ("/api/a/b?x=/api&%2F", "/a/b?x=/api&%2F"), ("/api/api/", "/api/")]);
        check("/api/orders/*", strip, &[("/api/orders/7", "/orders/7"), ("/api/orders/a%20b?", "/orders/a%20b?")]);
        check("/api", strip, &[("/api", "/"), ("/api?a", "/?a")]);
        check("/api/", strip, &[("/api/", "/")]);
        let both = "strip_prefix = '/api', add_prefix = '/v2/x'";
        check("/api/**", both, &[("/api/", "/v2/x/"), ("/api/a", "/v2/x/a")]);
        check("/api", both, &[("/api", "/v2/x")]);
        check("/**", "add_prefix = '/v2'", &[("/", "/v2/"), ("/a/b/", "/v2/a/b/")]);
        check("/u/*/f/**", "to = '/f/{rest}'", &[("/u/7/f/a/b", "/f/a/b"), ("/u/7/f/", "/f/")]);
        check("/u/*/f/**", "to = '/{1}/all'", &[("/u/7/f/a/b?q", "/7/all?q")]);
        check("/*/*", "to = '/{2}/x/{1}/'", &[("/a/b%2Cc", "/b%2Cc/x/a/")]);
    }

    proptest! {
        /// Whatever route and path: what goes to the upstream is read alike by every server, and begins as the route says.
        #[test]
        fn what_comes_out_is_canonical(
            (pattern, how, start) in prop::sample::select(vec![
                ("/a/**", "strip_prefix = '/a'", "/"),
                ("/**", "add_prefix = '/v2'", "/v2/"),
                ("/a/*/**", "strip_prefix = '/a', add_prefix = '/x.y'", "/x.y/"),
                ("/a/*/**", "to = '/s/{1}/t/{rest}'", "/s/"),
                ("/a/*/**", "to = '/s/{rest}'", "/s/"),
                ("/a/*/b/*", "to = '/s/{2}/{1}'", "/s/"),
            ]),
            tail in "(/[a-c.%2ef5F; -]{0,8}|/(a|b|\\.\\.|%2e|%2F|%25|%20|%C3%A9|\\.a)){0,5}/?",
        ) {
            let path = format!("/a{tail}");
            let is_matched = match pattern {
                "/a/*/b/*" => path.split('/').count() == 5 && path.split('/').nth(3) == Some("b") && !path.ends_with('/'),
                "/a/*/**" => path.split('/').count() > 3,
                "/a/**" => path.split('/').count() > 2,
                _ => true,
            };
            if let (true, Ok(was), Ok(uri)) = (is_matched, canonical(&path), path.parse::<Uri>()) {
                let target = rewritten(&rewrite(pattern, how), &uri).unwrap();
                let is = canonical(target.path());
                prop_assert!(is.is_ok(), "{} → {}: {:?}", path, target, is);
                prop_assert!(target.as_str().starts_with(start));
                prop_assert!(is.unwrap().encoded_slash.is_none() || was.encoded_slash.is_some());
            }
        }
    }
}
