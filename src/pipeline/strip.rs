//! Stage 1: what a client may not say is taken away, before anything reads the request.
//!
//! It has no condition, so no branch can step round it. Which fields those are, [`super::forbidden`] says.

use super::forbidden::{announced, drop_bearer_protocols, is_forbidden};
use super::reject::Rejection;
use super::switch::accept_connect;
use crate::base::bytes::ByteSet;
use crate::config::Upgrade;
use crate::telemetry::reason::Reason;
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Version};
use std::collections::HashSet;

/// A request's head without what a client may not say.
#[derive(Debug, Default)]
pub struct Stripped {
    /// What goes on to the upstream.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// What was presented for authentication.
    pub authorization: Presented,
    /// The host asked for, as sent; none for HTTP/1.0 without one.
    pub host: Option<HeaderValue>,
    /// The protocol that the connection is to be switched to, if it is one that an upstream may have.
    pub upgrade: Option<HeaderValue>,
    /// It was asked for by extended CONNECT (RFC 8441), so the request can only be switched or refused.
    pub is_connect: bool,
    /// `X-Request-Id`, if it can be kept.
    pub request_id: Option<HeaderValue>,
    /// `traceparent`, if it is well formed.
    pub traceparent: Option<HeaderValue>,
    /// `tracestate`, which belongs to it.
    pub tracestate: Option<HeaderValue>,
    /// `X-Forwarded-For`, believed only from a trusted proxy.
    pub forwarded_for: Option<HeaderValue>,
    /// `X-Forwarded-Proto`, likewise.
    pub forwarded_proto: Option<HeaderValue>,
}

/// The `Authorization` fields of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Presented {
    /// None.
    #[default]
    Nothing,
    /// Exactly one.
    One(HeaderValue),
    /// More than one: ambiguous, whatever they hold.
    Several,
}

/// Takes the head of a request apart, into `stripped`, which must be empty.
///
/// # Errors
/// [`Rejection`] with 400 where the request breaks HTTP in a way that hyper lets through, 417 for an unknown expectation,
/// 405 for `TRACE`, and for every `CONNECT` but that for a WebSocket over HTTP/2, which is taken as the `GET` that it is elsewhere.
pub fn strip(parts: &mut Parts, identity_headers: &HashSet<String>, stripped: &mut Stripped) -> Result<(), Rejection> {
    if parts.method == Method::TRACE || parts.method == Method::CONNECT {
        accept_connect(parts, stripped)?;
    }
    // With room for what is injected.
    stripped.fields = Vec::with_capacity(parts.headers.len() + 8);
    let (connection, trailers) = (Vec::new(), Vec::new());
    let mut sorted = Sorted { stripped, hosts: 0, codings: 0, takes_trailers: false, connection, trailers };
    let mut last_name = None;
    let mut fields = parts.headers.drain();
    while let Some((name, value)) = fields.next() {
        // The map gives a name once, for the first of its values.
        if name.is_some() {
            last_name = name;
        }
        let name = last_name.as_ref().ok_or(Reason::MalformedRequest)?;
        if let Err(refused) = sorted.take(name, value, identity_headers) {
            // What kind of request it is tells how to refuse it.
            let kind = fields.filter_map(|(name, value)| Some((name.filter(|name| *name == CONTENT_TYPE)?, value)));
            sorted.stripped.fields.extend(kind);
            return Err(refused);
        }
    }
    drop(fields);
    sorted.judge(parts, identity_headers)
}

/// The fields of a head, sorted in one pass.
struct Sorted<'a> {
    stripped: &'a mut Stripped,
    hosts: usize,
    codings: usize,
    /// `TE: trailers`, which gRPC needs.
    takes_trailers: bool,
    /// The values of `Connection`; few requests have any.
    connection: Vec<HeaderValue>,
    /// The values of `Trailer`; hardly a request has any.
    trailers: Vec<HeaderValue>,
}

impl Sorted<'_> {
    fn take(
        &mut self,
        name: &HeaderName,
        value: HeaderValue,
        identity_headers: &HashSet<String>,
    ) -> Result<(), Rejection> {
        let stripped = &mut *self.stripped;
        match *name {
            AUTHORIZATION => {
                stripped.authorization = match stripped.authorization {
                    Presented::Nothing => Presented::One(value),
                    _ => Presented::Several,
                };
            }
            HOST => {
                self.hosts += 1;
                stripped.host = Some(value);
            }
            CONNECTION => self.connection.push(value),
            // Chosen anew for the upstream.
            CONTENT_LENGTH => {}
            TRANSFER_ENCODING => {
                self.codings += 1;
                // A second field, or a coding before `chunked`, is read differently by different servers.
                if self.codings > 1 || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Reason::MalformedRequest.into());
                }
            }
            TE => self.takes_trailers |= words(&value).any(|word| word.eq_ignore_ascii_case("trailers")),
            EXPECT => {
                if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
                    return Err(Reason::ExpectationFailed.into());
                }
            }
            UPGRADE => stripped.upgrade = Some(value).filter(|value| Upgrade::asked(value.as_bytes()).is_some()),
            _ => match name.as_str() {
                "x-request-id" => stripped.request_id = Some(value).filter(is_request_id),
                "traceparent" => stripped.traceparent = Some(value).filter(is_traceparent),
                "tracestate" => stripped.tracestate = joined(stripped.tracestate.take(), value),
                "x-forwarded-proto" => stripped.forwarded_proto = Some(value),
                "x-forwarded-for" => stripped.forwarded_for = joined(stripped.forwarded_for.take(), value),
                "trailer" => self.trailers.push(value),
                text if is_forbidden(text, identity_headers) => {}
                _ => stripped.fields.push((name.clone(), value)),
            },
        }
        Ok(())
    }

    /// What only the whole head tells.
    fn judge(self, parts: &Parts, identity_headers: &HashSet<String>) -> Result<(), Rejection> {
        let stripped = self.stripped;
        judge_host(parts, self.hosts, &mut stripped.host)?;
        // Some upstreams take only trailers that were announced. Only chunks have any that are passed on.
        if self.codings > 0 && !self.trailers.is_empty() {
            stripped.fields.extend(announced(&self.trailers, identity_headers).map(|names| (TRAILER, names)));
        }
        let named = || self.connection.iter().flat_map(words);
        let wants_upgrade =
            parts.version == Version::HTTP_11 && named().any(|word| word.eq_ignore_ascii_case("upgrade"));
        stripped.upgrade = stripped.upgrade.take().filter(|_| wants_upgrade);
        if stripped.is_connect {
            stripped.upgrade = Some(HeaderValue::from_static(Upgrade::WebSocket.name()));
        }
        if stripped.upgrade.is_some() {
            drop_bearer_protocols(&mut stripped.fields);
        }
        // Fields that `Connection` names end at this hop (RFC 9110 §7.6.1).
        if !self.connection.is_empty() {
            let named: HashSet<_> = named().map(str::to_ascii_lowercase).collect();
            stripped.fields.retain(|(name, _)| !named.contains(name.as_str()));
        }
        if self.takes_trailers {
            // The HTTP/1.1 client leaves it out: it concerns one hop.
            stripped.fields.push((TE, HeaderValue::from_static("trailers")));
        }
        if parts.version == Version::HTTP_2 {
            join_cookies(&mut stripped.fields);
        }
        Ok(())
    }
}

/// The one host that the request is for. HTTP/1.1 needs exactly one `Host` (RFC 9112 §3.2); where the target names a host too,
/// they must agree, so that no server behind picks the other.
fn judge_host(parts: &Parts, hosts: usize, host: &mut Option<HeaderValue>) -> Result<(), Rejection> {
    let refused = || Rejection::from(Reason::MalformedRequest);
    if hosts > 1 || (hosts == 0 && parts.version == Version::HTTP_11) {
        return Err(refused());
    }
    if let Some(authority) = parts.uri.authority().map(|authority| authority.as_str()) {
        match host {
            None => *host = Some(HeaderValue::from_str(authority).map_err(|_| refused())?),
            Some(host) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => return Err(refused()),
            Some(_) => {}
        }
    }
    match host {
        Some(host) if is_host(host.as_bytes()) => Ok(()),
        None if parts.version != Version::HTTP_2 => Ok(()),
        _ => Err(refused()),
    }
}

/// What the name of a host is made of.
static HOST_NAME: ByteSet = ByteSet::alphanumeric().and(b"-._~");

/// A name or address, and perhaps a port (RFC 3986 §3.2.2, §3.2.3): no user information, no list, no path.
fn is_host(text: &[u8]) -> bool {
    let is_port = |text: &[u8]| text.len() <= 5 && text.iter().all(u8::is_ascii_digit);
    if let Some(rest) = text.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
        let (address, after) = rest.split_at(end);
        let is_address = !address.is_empty() && address.iter().all(|b| b.is_ascii_hexdigit() || b":.".contains(b));
        return is_address && (after.len() == 1 || (after[1] == b':' && is_port(&after[2..])));
    }
    let (name, port) = match text.iter().position(|byte| *byte == b':') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b""[..]),
    };
    !name.is_empty() && name.len() <= 253 && HOST_NAME.hold(name) && is_port(port)
}

/// The members of a list field.
fn words(value: &HeaderValue) -> impl Iterator<Item = &str> {
    value.to_str().unwrap_or_default().split(',').map(str::trim)
}

/// The fields of one list as one (RFC 9110 §5.3): proxies add to a chain in place or by a field of their own.
fn joined(former: Option<HeaderValue>, value: HeaderValue) -> Option<HeaderValue> {
    let Some(former) = former else { return Some(value) };
    HeaderValue::from_bytes(&[former.as_bytes(), b", ", value.as_bytes()].concat()).ok()
}

/// HTTP/2 may split cookies over several fields; HTTP/1.1 may not (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut Vec<(HeaderName, HeaderValue)>) {
    if fields.iter().filter(|(name, _)| *name == COOKIE).count() < 2 {
        return;
    }
    let mut joined = Vec::new();
    fields.retain(|(name, value)| {
        if *name != COOKIE {
            return true;
        }
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value.as_bytes());
        false
    });
    // Parts that are field values give a field value.
    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        fields.push((COOKIE, value));
    }
}

fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=64).contains(&bytes.len()) && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// Version 00 of W3C Trace Context §3.2: `00-TRACE-PARENT-FLAGS` in lower-case hexadecimal, neither id all zero.
fn is_traceparent(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    bytes.len() == 55
        && bytes.starts_with(b"00-")
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            2 | 35 | 52 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
        && bytes[3..35].iter().any(|byte| *byte != b'0')
        && bytes[36..52].iter().any(|byte| *byte != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn stripped(headers: &[(&str, &str)]) -> Result<Stripped, Reason> {
        let mut request = Request::get("/x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        let mut stripped = Stripped::default();
        strip(&mut parts, &HashSet::from(["x-team".to_owned()]), &mut stripped)
            .map_err(|rejection| rejection.reason)?;
        Ok(stripped)
    }

    fn forwarded(headers: &[(&str, &str)]) -> Vec<String> {
        let all = [&[("host", "api.example")], headers].concat();
        stripped(&all).unwrap().fields.into_iter().map(|(name, _)| name.to_string()).collect()
    }

    #[test]
    fn what_a_client_may_not_say_is_dropped_however_it_is_spelled() {
        for name in [
            "X-Auth-User",
            "x_auth_user",
            "X.Auth.User",
            "X-Auth_Roles",
            "Remote_User",
            "Client-Cert",
            "client_cert_chain",
            "X-Forwarded-For",
            "X-Forwarded-Port",
            "Forwarded",
            "X-Real-IP",
            "x_real_ip",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-HTTP-Method-Override",
            "X-HTTP-Method",
            "X-Method-Override",
            "Impersonate-User",
            "X-Remote-Group",
            "Keep-Alive",
            "Proxy-Authorization",
            "Proxy-Connection",
            "TE",
            "Trailer",
            "Upgrade",
            "X-Team",
            "x_team",
            "X-Forwarded",
            "Content_Length",
            "Transfer_Encoding",
        ] {
            assert!(forwarded(&[(name, "1")]).is_empty(), "{name}");
        }
    }

    #[test]
    fn ordinary_fields_stay_in_order() {
        assert_eq!(
            forwarded(&[("accept", "a"), ("x-custom", "1"), ("cookie", "a=1")]),
            ["accept", "x-custom", "cookie"]
        );
    }

    #[test]
    fn fields_that_connection_names_go_and_framing_stays_ours() {
        assert_eq!(
            forwarded(&[("connection", "close, X-Hop,accept"), ("x-hop", "1"), ("accept", "a"), ("dnt", "1")]),
            ["dnt"]
        );
    }

    #[test]
    fn two_authorizations_are_several_even_if_alike() {
        let headers = [("host", "h"), ("authorization", "Bearer a"), ("authorization", "Bearer a")];
        assert_eq!(stripped(&headers).unwrap().authorization, Presented::Several);
    }

    #[test]
    fn broken_hosts_and_framings_are_refused() {
        let good = ["api.example", "api.example:8080", "127.0.0.1:1", "[::1]:80", "a_b"];
        for host in &good[..4] {
            assert!(stripped(&[("host", host)]).is_ok(), "{host}");
        }
        for host in ["", "a@b", "a/b", "a,b", "a b", "a:b", "[::1", "[x]", "a:123456", "a\\b", "a?b", "a%2eb"] {
            assert_eq!(stripped(&[("host", host)]).err(), Some(Reason::MalformedRequest), "{host}");
        }
        assert_eq!(stripped(&[]).err(), Some(Reason::MalformedRequest));
        assert_eq!(stripped(&[("host", "a"), ("host", "a")]).err(), Some(Reason::MalformedRequest));
        let coded = |value| stripped(&[("host", "a"), ("transfer-encoding", value)]).err();
        assert_eq!(coded("Chunked"), None);
        assert_eq!(coded("gzip, chunked"), Some(Reason::MalformedRequest));
        assert_eq!(stripped(&[("host", "a"), ("expect", "200-ok")]).err(), Some(Reason::ExpectationFailed));
    }

    #[test]
    fn ids_are_kept_only_if_they_are_harmless() {
        let id = |value: &str| stripped(&[("host", "a"), ("x-request-id", value)]).unwrap().request_id.is_some();
        assert!(id("abc-123"));
        assert!(!id("a b") && !id("") && !id(&"a".repeat(65)) && !id("a\"b"));
        let parent = |value: &str| stripped(&[("host", "a"), ("traceparent", value)]).unwrap().traceparent.is_some();
        assert!(parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        assert!(!parent("00-00000000000000000000000000000000-00f067aa0ba902b7-01"));
        assert!(!parent("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01") && !parent("x"));
    }

    #[test]
    fn only_a_websocket_upgrade_passes() {
        let upgrade = |connection, value| {
            stripped(&[("host", "a"), ("connection", connection), ("upgrade", value)]).unwrap().upgrade.is_some()
        };
        assert!(upgrade("keep-alive, Upgrade", "WebSocket"));
        assert!(!upgrade("close", "websocket") && !upgrade("upgrade", "h2c") && !upgrade("upgrade", "websocket, h2c"));
    }
}
