//! The form of a token: JWS compact serialization (RFC 7515 §3.1, §5.2), read strictly.

use crate::base::json::{self, Json};
use crate::config::Algorithm;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The longest token that is looked at, in bytes.
pub const MAX_BYTES: usize = 16 * 1024;

/// A token taken apart. Nothing of it is verified yet.
#[derive(Debug, PartialEq, Eq)]
pub struct Jws<'a> {
    /// `alg`.
    pub algorithm: Algorithm,
    /// `kid`.
    pub kid: Option<String>,
    /// What was signed: header, dot, payload, as sent.
    pub message: &'a [u8],
    /// The payload, decoded.
    pub payload: Vec<u8>,
    /// The signature, decoded.
    pub signature: Vec<u8>,
}

/// Why a text is no token that could ever be accepted. The client learns only `invalid_token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Over [`MAX_BYTES`].
    #[error("the token is longer than 16 KiB")]
    TooLong,
    /// Not three parts of unpadded, canonical base64url.
    #[error("the token is not three parts of base64url")]
    Parts,
    /// The header is not a JSON object, or holds a member twice.
    #[error("the token's header is not a sound JSON object")]
    Header,
    /// `alg` is missing or unknown; `none` and HMAC are unknown here.
    #[error("the token's `alg` is missing or unknown")]
    Algorithm,
    /// `kid` is not a string.
    #[error("the token's `kid` is not a string")]
    Kid,
    /// `crit` or `b64` asks for something that is not understood (RFC 7515 §4.1.11, RFC 7797).
    #[error("the token's header has `crit` or `b64`")]
    Critical,
    /// `typ` is that of another kind of token (RFC 9068 §2.1), or `cty` says that another token is inside.
    #[error("the token's `typ` is that of another kind of token")]
    Type,
}

/// Takes a token apart. `jku`, `jwk`, `x5u` and `x5c` are never read: keys come from the issuer's key set alone.
///
/// # Errors
/// [`Malformed`], for the log.
pub fn parse(token: &[u8]) -> Result<Jws<'_>, Malformed> {
    parse_with(token, |header| read_header(header, |typ| typ.is_none_or(is_access_token_type)))
}

/// What the header of the token before said: that of the next is most often the same, to the byte.
#[derive(Debug, Default)]
pub struct LastHeader {
    text: Vec<u8>,
    said: Option<(Algorithm, Option<String>)>,
}

impl LastHeader {
    /// As [`parse`], but reads a header only if it is not the last one.
    ///
    /// # Errors
    /// [`Malformed`], for the log.
    pub fn parse<'a>(&mut self, token: &'a [u8]) -> Result<Jws<'a>, Malformed> {
        parse_with(token, |header| match &self.said {
            Some(said) if self.text == header => Ok(said.clone()),
            _ => {
                let said = read_header(header, |typ| typ.is_none_or(is_access_token_type))?;
                self.text.clear();
                self.text.extend_from_slice(header);
                self.said = Some(said.clone());
                Ok(said)
            }
        })
    }
}

/// Takes a logout token apart (OpenID Connect Back-Channel Logout 1.0 §2.4), which has to say that it is one.
///
/// # Errors
/// [`Malformed`], for the log.
pub fn parse_logout(token: &[u8]) -> Result<Jws<'_>, Malformed> {
    parse_with(token, |header| read_header(header, |typ| typ.is_some_and(is_logout_token_type)))
}

/// `read` is given the header as sent, and gives its `alg` and `kid`.
fn parse_with(
    token: &[u8],
    read: impl FnOnce(&[u8]) -> Result<(Algorithm, Option<String>), Malformed>,
) -> Result<Jws<'_>, Malformed> {
    if token.len() > MAX_BYTES {
        return Err(Malformed::TooLong);
    }
    let mut dots = memchr::memchr_iter(b'.', token);
    let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
        return Err(Malformed::Parts);
    };
    let payload = decode(&token[first + 1..second])?;
    let signature = decode(&token[second + 1..])?;
    let (algorithm, kid) = read(&token[..first])?;
    Ok(Jws { algorithm, kid, message: &token[..second], payload, signature })
}

/// The engine refuses padding, other alphabets, white space and non-zero trailing bits.
fn decode(part: &[u8]) -> Result<Vec<u8>, Malformed> {
    match part {
        [] => Err(Malformed::Parts),
        part => URL_SAFE_NO_PAD.decode(part).map_err(|_| Malformed::Parts),
    }
}

/// Whether a token is three parts with dots between them, whatever they hold.
pub fn has_form(token: &[u8]) -> bool {
    memchr::memchr_iter(b'.', token).count() == 2
}

fn read_header(header: &[u8], is_type: fn(Option<&str>) -> bool) -> Result<(Algorithm, Option<String>), Malformed> {
    let header = decode(header)?;
    let header = json::parse_object(&header).ok_or(Malformed::Header)?;
    let algorithm = match header.get("alg") {
        Some(Json::String(name)) => Algorithm::from_name(name).ok_or(Malformed::Algorithm)?,
        _ => return Err(Malformed::Algorithm),
    };
    if header.get("crit").is_some() || header.get("b64").is_some_and(|b64| *b64 != Json::Bool(true)) {
        return Err(Malformed::Critical);
    }
    let is_right = match header.get("typ") {
        None => is_type(None),
        Some(typ) => typ.as_str().is_some_and(|typ| is_type(Some(typ))),
    };
    if !is_right {
        return Err(Malformed::Type);
    }
    if header.get("cty").is_some() {
        return Err(Malformed::Type);
    }
    let kid = match header.get("kid") {
        None => None,
        Some(Json::String(kid)) => Some(kid.clone().into_owned()),
        Some(_) => return Err(Malformed::Kid),
    };
    Ok((algorithm, kid))
}

/// Media types are compared without case (RFC 2045 §5.1).
fn is_access_token_type(typ: &str) -> bool {
    ["JWT", "at+jwt", "application/at+jwt"].iter().any(|known| known.eq_ignore_ascii_case(typ))
}

fn is_logout_token_type(typ: &str) -> bool {
    ["logout+jwt", "application/logout+jwt"].iter().any(|known| known.eq_ignore_ascii_case(typ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(header: &str) -> Vec<u8> {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part(header), part("{}"), part("signature")).into_bytes()
    }

    #[track_caller]
    fn check(header: &str, outcome: Result<(), Malformed>) {
        assert_eq!(parse(&token(header)).map(|_| ()), outcome, "{header}");
    }

    #[test]
    fn a_sound_token_is_taken_apart() {
        let token = token(r#"{"alg":"RS256","typ" : "JWT","kid" : "k"}"#);
        let jws = parse(&token).unwrap();
        assert_eq!((jws.algorithm, jws.kid.as_deref()), (Algorithm::Rs256, Some("k")));
        assert_eq!((jws.payload.as_slice(), jws.signature.as_slice()), (&b"{}"[..], &b"signature"[..]));
        assert!(token.starts_with(jws.message) && token[jws.message.len()] == b'.');
    }

    #[test]
    fn a_header_is_read_anew_unless_it_is_the_last_one() {
        let texts = [
            r#"{"alg":"RS256","kid":"a"}"#,
            r#"{"alg":"RS256","kid":"b"}"#,
            r#"{"alg":"ES256"}"#,
            r#"{"alg":"none"}"#,
            "x",
        ];
        let mut last = LastHeader::default();
        for first in texts {
            for second in texts {
                for text in [first, second, second] {
                    let token = token(text);
                    assert_eq!(last.parse(&token), parse(&token), "{first} {second} {text}");
                }
            }
        }
    }

    #[test]
    fn none_and_hmac_do_not_exist() {
        for name in ["none", "None", "HS256", "HS512", "RS256 ", "rs256", "XX", ""] {
            check(&format!(r#"{{"alg":"{name}"}}"#), Err(Malformed::Algorithm));
        }
        check("{}", Err(Malformed::Algorithm));
        check(r#"{"alg":null}"#, Err(Malformed::Algorithm));
    }

    #[test]
    fn critical_headers_and_unencoded_payloads_are_refused() {
        check(r#"{"alg":"ES256","crit":["exp"],"exp":1}"#, Err(Malformed::Critical));
        check(r#"{"alg":"ES256","crit":null}"#, Err(Malformed::Critical));
        check(r#"{"alg":"ES256","b64":false}"#, Err(Malformed::Critical));
        check(r#"{"alg":"ES256","b64":true}"#, Ok(()));
    }

    #[test]
    fn only_types_of_access_tokens_pass() {
        for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
            check(&format!(r#"{{"alg":"ES256","typ":"{typ}"}}"#), Ok(()));
        }
        for typ in ["logout+jwt", "dpop+jwt", "JOSE", "secevent+jwt", ""] {
            check(&format!(r#"{{"alg":"ES256","typ":"{typ}"}}"#), Err(Malformed::Type));
        }
        check(r#"{"alg":"ES256","typ":1}"#, Err(Malformed::Type));
        check(r#"{"alg":"ES256","cty":"JWT"}"#, Err(Malformed::Type));
    }

    #[test]
    fn a_logout_token_says_that_it_is_one() {
        let parse = |header: &str| parse_logout(&token(header)).map(|_| ());
        for typ in ["logout+jwt", "LOGOUT+jwt", "application/logout+jwt"] {
            assert_eq!(parse(&format!(r#"{{"alg":"ES256","typ":"{typ}"}}"#)), Ok(()));
        }
        for typ in ["JWT", "at+jwt", "secevent+jwt", ""] {
            assert_eq!(parse(&format!(r#"{{"alg":"ES256","typ":"{typ}"}}"#)), Err(Malformed::Type));
        }
        assert_eq!(parse(r#"{"alg":"ES256"}"#), Err(Malformed::Type));
        assert_eq!(parse(r#"{"alg":"ES256","typ":["logout+jwt"]}"#), Err(Malformed::Type));
    }

    #[test]
    fn a_key_id_is_a_string() {
        for kid in ["7", "null", "[]", "{}", "true"] {
            check(&format!(r#"{{"alg":"ES256","kid":{kid}}}"#), Err(Malformed::Kid));
        }
    }

    #[test]
    fn other_shapes_and_spellings_are_refused() {
        let good = String::from_utf8(token(r#"{"alg":"ES256"}"#)).unwrap();
        for bad in [
            String::new(),
            ".".into(),
            "..".into(),
            good.rsplit_once('.').unwrap().0.into(),
            format!("{good}."),
            format!(".{good}"),
            format!("{good}="),
            format!("{good} "),
            good.replace('.', "%2e"),
            format!("{good}.{good}"),
            format!("\"{good}\""),
        ] {
            assert_eq!(parse(bad.as_bytes()), Err(Malformed::Parts), "{bad}");
        }
        // "eA" and "eB" decode to the same byte in a lax decoder.
        assert!(parse(format!("{}eB", good.trim_end_matches(|c: char| c != '.')).as_bytes()).is_err());
    }

    #[test]
    fn length_is_bounded() {
        assert_eq!(parse(&vec![b'a'; MAX_BYTES + 1]), Err(Malformed::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn what_is_accepted_has_one_spelling_only(tail in "[A-Za-z0-9_-]{1,40}") {
            let token = token(r#"{"alg":"ES256"}"#);
            let mut token = token[..=token.iter().rposition(|b| *b == b'.').unwrap()].to_vec();
            token.extend_from_slice(tail.as_bytes());
            if let Ok(jws) = parse(&token) {
                prop_assert_eq!(URL_SAFE_NO_PAD.encode(&jws.signature), tail);
            }
        }
    }
}
