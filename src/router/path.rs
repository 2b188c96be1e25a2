//! Paths that mean one thing to every server (RFC 3986 §3.3, §6.2.2).
//!
//! A gateway and the server behind it must not read one path in two ways. Instead of rewriting paths, Postern refuses those that
//! any known server would rewrite, and forwards the rest byte for byte.

use crate::base::bytes::ByteSet;

/// A path that every server reads alike, but for an encoded slash, which a route has to allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canonical {
    /// Where the first `%2F` stands.
    pub encoded_slash: Option<usize>,
}

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotCanonical {
    /// It does not begin with a slash.
    #[error("the path does not begin with `/`")]
    Relative,
    /// Two slashes in a row.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `.`, `..`, or a segment of dots and blanks, which some servers take for one.
    #[error("the path has a dot segment")]
    DotSegment,
    /// A byte that has another meaning somewhere: `\`, `;`, controls, anything outside ASCII.
    #[error("the path has the character {0:?} in it")]
    Character(char),
    /// `%` without two hexadecimal digits.
    #[error("the path has a broken percent-encoding")]
    BrokenEncoding,
    /// An encoding of something that must not be encoded, or that hides one of the above.
    #[error("the path encodes the byte {0:#04x}")]
    Encoded(u8),
    /// Encoded bytes that are no UTF-8, or a character that folds to one with a meaning.
    #[error("the path encodes text that servers read differently")]
    EncodedText,
}

/// Checks a path as it stands in the request line, without query.
///
/// # Errors
/// [`NotCanonical`], for the log.
pub fn canonical(path: &str) -> Result<Canonical, NotCanonical> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(NotCanonical::Relative);
    }
    let mut encoded_slash = None;
    let mut has_encoded_text = false;
    // Of the segment so far: whether it is empty, and whether it is dots and blanks alone.
    let (mut is_empty, mut is_dots) = (true, true);
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'/' if is_empty => return Err(NotCanonical::EmptySegment),
            b'/' if is_dots => return Err(NotCanonical::DotSegment),
            b'/' => (is_empty, is_dots) = (true, true),
            b'.' => is_empty = false,
            b'%' => {
                match decode(bytes, at)? {
                    b'/' => {
                        encoded_slash = encoded_slash.or(Some(at));
                        // What lies on either side must be no dot segment for a server that decodes the slash.
                        if is_dots {
                            return Err(NotCanonical::DotSegment);
                        }
                        is_dots = true;
                    }
                    b' ' => {}
                    decoded => {
                        has_encoded_text |= !decoded.is_ascii();
                        is_dots = false;
                    }
                }
                is_empty = false;
                at += 2;
            }
            _ if PLAIN.has(byte) => {
                (is_empty, is_dots) = (false, false);
                // What follows is most often as plain.
                at += bytes[at + 1..].iter().take_while(|byte| PLAIN.has(**byte)).count();
            }
            _ => return Err(NotCanonical::Character(path[at..].chars().next().unwrap_or('\u{fffd}'))),
        }
        at += 1;
    }
    if is_dots && !is_empty {
        return Err(NotCanonical::DotSegment);
    }
    if has_encoded_text {
        check_text(bytes)?;
    }
    Ok(Canonical { encoded_slash })
}

/// Characters of a path segment (RFC 3986 `pchar`) without `;`, which some servers cut at, and without `.` and `%`.
static PLAIN: ByteSet = ByteSet::alphanumeric().and(b"-_~!$&'()*+,=:@");

/// The byte that the percent-encoding at `at` stands for, if it may be encoded at all.
fn decode(bytes: &[u8], at: usize) -> Result<u8, NotCanonical> {
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else {
        return Err(NotCanonical::BrokenEncoding);
    };
    let byte = u8::try_from(high * 16 + low).unwrap_or(0);
    let hides_something = match byte {
        b'\\' | b';' | 0..=0x1f | 0x7f => true,
        // Unreserved characters have one spelling, the plain one (RFC 3986 §2.3).
        b'-' | b'.' | b'_' | b'~' => true,
        // `%252e` is `.` for a server that decodes twice.
        b'%' => digit(at + 3).is_some() && digit(at + 4).is_some() || bytes.get(at + 3).is_some_and(|b| *b == b'u'),
        byte => byte.is_ascii_alphanumeric(),
    };
    if hides_something { Err(NotCanonical::Encoded(byte)) } else { Ok(byte) }
}

/// Encoded text must be UTF-8 in its shortest form, and hold no character that compatibility folding (NFKC) turns into one with
/// a meaning in paths.
fn check_text(path: &[u8]) -> Result<(), NotCanonical> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(&byte) = path.get(at) {
        if byte == b'%' {
            decoded.push(decode(path, at)?);
            at += 2;
        } else {
            decoded.push(byte);
        }
        at += 1;
    }
    let text = String::from_utf8(decoded).map_err(|_| NotCanonical::EncodedText)?;
    let folds = |c: char| {
        matches!(
            c,
            '\u{ff0e}' | '\u{ff0f}' | '\u{ff3c}' | '\u{ff1b}' | '\u{ff05}' | '\u{fe52}' | '\u{fe54}' | '\u{fe68}'
        ) || matches!(c, '\u{2024}'..='\u{2026}' | '\u{2100}' | '\u{2101}' | '\u{2105}' | '\u{2106}' | '\u{80}'..='\u{9f}')
    };
    if text.chars().any(folds) { Err(NotCanonical::EncodedText) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn good(path: &str) {
        assert_eq!(canonical(path), Ok(Canonical { encoded_slash: None }), "{path}");
    }

    #[track_caller]
    fn bad(path: &str) {
        assert!(canonical(path).is_err(), "{path}");
    }

    #[test]
    fn ordinary_paths_pass() {
        for path in [
            "/",
            "/orders",
            "/orders/",
            "/a/b.c/d..e/...x/v1.2",
            "/.well-known/x",
            "/~user/(a)/@me/x:y/a,b",
            "/hello%20world",
            "/caf%C3%A9",
            "/a%3Fb/%23",
            "/100%25",
        ] {
            good(path);
        }
    }

    #[test]
    fn paths_that_some_server_rewrites_are_refused() {
        for path in [
            "",
            "orders",
            "*",
            "//",
            "//admin",
            "/a//b",
            "/a/./b",
            "/a/../b",
            "/..",
            "/.",
            "/a/..",
            "/a/...",
            "/a/.../b",
            "/a/%2e%2e/b",
            "/a/.%2e/b",
            "/a/%2E/b",
            "/a\\b",
            "/a%5cb",
            "/a;b/c",
            "/a/..;/b",
            "/a%3bb",
            "/a%00b",
            "/a%0d%0ab",
            "/a%7fb",
            "/%61dmin",
            "/a%2Db",
            "/a%7Eb",
            "/a/%252e%252e/b",
            "/%2561dmin",
            "/a%25u002e",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%u002e",
            "/a/%c0%ae%c0%ae/b",
            "/a/..%c0%afb",
            "/a%ff",
            "/a/%ef%bc%8e%ef%bc%8e/b",
            "/caf\u{e9}",
            "/a b",
            "/a\tb",
            "/a#b",
            "/a<b",
            "/a\"b",
            "/a/..%20/b",
            "/a/%20/b",
            "/a/.%20./b",
            "/%e2%80%a5/x",
        ] {
            bad(path);
        }
    }

    #[test]
    fn an_encoded_slash_is_found_and_hides_no_dot_segment() {
        assert_eq!(canonical("/a/b%2Fc%2fd"), Ok(Canonical { encoded_slash: Some(4) }));
        for path in
            ["/a/..%2fb", "/a/b%2f..", "/a/b%2f../c", "/a/b%2F.%2Fc", "/%2f", "/a/%2fb", "/a/b%2f%2fc", "/a/b%2f/c"]
        {
            bad(path);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(path in "\\PC*") {
            let _ = canonical(&path);
        }

        /// What passes survives the rewriting that servers do: decoding, cutting at `;`, resolving dots, merging slashes.
        #[test]
        fn what_passes_means_the_same_after_rewriting(path in "/[a-c.%2eEfF5/;\\\\ -]{0,24}") {
            if let Ok(Canonical { encoded_slash: None }) = canonical(&path) {
                let mut decoded = path.clone();
                for (from, to) in [("%2e", "."), ("%2E", "."), ("%5c", "/"), ("%5C", "/"), ("%20", " "), ("\\", "/")] {
                    decoded = decoded.replace(from, to);
                }
                prop_assert!(!decoded.contains(';'));
                for segment in decoded.split('/') {
                    prop_assert!(segment.trim() != "." && segment.trim() != "..", "{}", path);
                }
                prop_assert!(!decoded.contains("//"), "{}", path);
            }
        }
    }
}
