//! The fields that never come from a client, as headers or trailers.
//!
//! Names are compared folded: lower case, and every character that is no letter or digit as `-`, because servers behind a gateway
//! fold them too (`X_Auth_User`, `X.Auth.User`).

use crate::config::transform::is_never_from_client;
use crate::upstream::is_forbidden_trailer;
use http::{HeaderName, HeaderValue};
use std::collections::HashSet;

/// Whether a field never comes from a client, as header or trailer: hop-by-hop, about identity or forwarding, or a switch of method
/// or URL.
pub fn is_forbidden(name: &str, identity_headers: &HashSet<String>) -> bool {
    if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return is_forbidden_folded(name, identity_headers);
    }
    is_forbidden_folded(&fold(name), identity_headers)
}

/// Lower case, every other character `-`.
pub fn fold(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

fn is_forbidden_folded(name: &str, identity_headers: &HashSet<String>) -> bool {
    is_never_from_client(name) || identity_headers.contains(name)
}

/// The names in fields `Trailer` (RFC 9110 §6.6.2) whose trailers are passed on, as one field; nothing if there is none.
pub(super) fn announced(fields: &[HeaderValue], identity_headers: &HashSet<String>) -> Option<HeaderValue> {
    let is_passed_on = |name: &&str| {
        HeaderName::from_bytes(name.as_bytes())
            .is_ok_and(|name| !is_forbidden_trailer(&name) && !is_forbidden(name.as_str(), identity_headers))
    };
    let names = fields.iter().filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(','));
    let names: Vec<_> = names.map(str::trim).filter(is_passed_on).collect();
    if names.is_empty() { None } else { HeaderValue::from_str(&names.join(", ")).ok() }
}

/// A WebSocket's subprotocol in which the Kubernetes API takes a bearer token: a second way to say who one is.
const BEARER_PROTOCOL: &[u8] = b"base64url.bearer.authorization.k8s.io.";

/// Takes the members of `Sec-WebSocket-Protocol` away that are bearer tokens. Only an upgrade is ever read for them.
pub(super) fn drop_bearer_protocols(fields: &mut Vec<(HeaderName, HeaderValue)>) {
    let is_bearer = |member: &&[u8]| {
        let member = member.trim_ascii();
        member.get(..BEARER_PROTOCOL.len()).is_some_and(|start| start.eq_ignore_ascii_case(BEARER_PROTOCOL))
    };
    fields.retain_mut(|(name, value)| {
        if fold(name.as_str()) != "sec-websocket-protocol" {
            return true;
        }
        let members = || value.as_bytes().split(|byte| *byte == b',');
        if !members().any(|member| is_bearer(&member)) {
            return true;
        }
        let kept: Vec<_> = members().filter(|member| !is_bearer(member)).map(<[u8]>::trim_ascii).collect();
        let kept = Some(kept.join(&b", "[..])).filter(|kept| !kept.is_empty());
        kept.and_then(|kept| HeaderValue::from_bytes(&kept).ok()).map(|kept| *value = kept).is_some()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sent: &[&str], passed: &[&str]) {
        let name = HeaderName::from_static("sec-websocket-protocol");
        let mut fields = vec![(HeaderName::from_static("accept"), HeaderValue::from_static("*/*"))];
        fields.extend(sent.iter().map(|value| (name.clone(), HeaderValue::from_str(value).unwrap())));
        drop_bearer_protocols(&mut fields);
        let kept: Vec<_> = fields.iter().skip(1).map(|(_, value)| value.to_str().unwrap()).collect();
        assert_eq!((fields[0].0.as_str(), kept.as_slice()), ("accept", passed), "{sent:?}");
    }

    #[test]
    fn a_bearer_token_is_no_subprotocol_of_a_client() {
        let bearer = "base64url.bearer.authorization.k8s.io.YQ";
        check(&["v5.channel.k8s.io,v4.channel.k8s.io"], &["v5.channel.k8s.io,v4.channel.k8s.io"]);
        check(&[&format!("{bearer}, v5.channel.k8s.io ,b")], &["v5.channel.k8s.io, b"]);
        check(&[&format!("a,{}", bearer.to_uppercase())], &["a"]);
        check(&[bearer], &[]);
        check(&["a", &format!(" \t{bearer}"), "b"], &["a", "b"]);
    }
}
