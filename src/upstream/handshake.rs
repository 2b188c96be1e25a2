//! The handshake of a WebSocket over HTTP/1.1 (RFC 6455 §4), for when only one of the two sides has it: over HTTP/2 there is no key
//! (RFC 8441 §5).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};

/// `Sec-WebSocket-Key`.
pub const SEC_WEBSOCKET_KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// `Sec-WebSocket-Accept`.
pub const SEC_WEBSOCKET_ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");

/// What a key is joined with (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A key of sixteen random bytes.
///
/// # Errors
/// The system has no random bytes.
pub fn new_key() -> Result<HeaderValue, aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)?;
    HeaderValue::try_from(STANDARD.encode(bytes)).map_err(|_| aws_lc_rs::error::Unspecified)
}

/// The answer to a key, which shows that it was read by somebody who knows WebSockets; none to what is no key.
pub fn accept_for(key: &HeaderValue) -> Option<HeaderValue> {
    let is_key = STANDARD.decode(key.as_bytes()).is_ok_and(|bytes| bytes.len() == 16);
    if !is_key {
        return None;
    }
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    HeaderValue::try_from(STANDARD.encode(hash)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_answered_as_the_standard_has_it() {
        let accept = accept_for(&HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept.unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_no_key_has_no_answer() {
        for key in ["", "dGhlIHNhbXBsZSBub25jZQ", "c2hvcnQ=", "dGhlIHNhbXBsZSBub25jZSBhbmQgbW9yZQ==", "!"] {
            assert_eq!(accept_for(&HeaderValue::from_static(key)), None, "{key:?}");
        }
    }

    #[test]
    fn a_key_of_ours_is_one_and_is_never_the_same() {
        let keys = [new_key().unwrap(), new_key().unwrap()];
        assert!(keys.iter().all(|key| accept_for(key).is_some()) && keys[0] != keys[1]);
    }
}
