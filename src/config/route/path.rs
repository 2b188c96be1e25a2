//! The path of a route.

/// A path to match, case-sensitive, segment by segment: `/orders` (only that), `/orders/*` (one segment more),
/// `/orders/**` (`/orders/` and everything below, not `/orders` itself), `/users/*/avatar`.
///
/// `*` stands for one segment that is not empty. A slash at the end is an empty last segment: `/orders/` is
/// `["orders", ""]` and `/` is `[""]`; `/**` has no segments and matches every path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    /// The segments, without the slashes; `None` is `*`.
    pub segments: Vec<Option<String>>,
    /// Whether the pattern ends in `/**`.
    pub open_ended: bool,
    /// The pattern as written.
    pub text: String,
}

/// Why a path pattern is refused. A request's path that is refused in the same way could never be matched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathPatternError {
    /// It does not begin with `/`.
    #[error("`{0}` does not begin with `/`")]
    NoSlash(String),
    /// It has two slashes in a row.
    #[error("`{0}` has an empty segment (`//`), and no request that has one is let through")]
    EmptySegment(String),
    /// It has a segment `.` or `..`.
    #[error("`{0}` has a dot segment, and no request that has one is let through")]
    DotSegment(String),
    /// It holds `;`.
    #[error("`{0}` holds `;`, and no request whose path does is let through")]
    Parameter(String),
    /// It holds `%`.
    #[error("`{0}` holds `%`: write the character itself")]
    Encoded(String),
    /// `**` is not the last segment.
    #[error("`{0}` goes on after `**`, which stands for all that follows")]
    AfterOpenEnd(String),
    /// `*` is not a segment of its own.
    #[error("`{0}` has a `*` within a segment: `*` is one whole segment, `**` is all that follows")]
    PartialWildcard(String),
    /// It holds a character that no path has (RFC 3986 §3.3).
    #[error("`{path}` holds `{character}`, which no path has")]
    Character {
        /// The pattern.
        path: String,
        /// The character.
        character: char,
    },
}

impl PathPattern {
    /// Reads the pattern as the configuration has it.
    pub fn parse(text: &str) -> Result<Self, PathPatternError> {
        let path = text.strip_prefix('/').ok_or_else(|| PathPatternError::NoSlash(text.to_owned()))?;
        let mut parts: Vec<&str> = path.split('/').collect();
        let open_ended = parts.last() == Some(&"**");
        if open_ended {
            parts.pop();
        }
        let last = parts.len().saturating_sub(1);
        let mut segments = Vec::with_capacity(parts.len());
        for (index, part) in parts.into_iter().enumerate() {
            let may_be_empty = index == last && !open_ended;
            segments.push(segment(part, may_be_empty, text)?);
        }
        Ok(Self { segments, open_ended, text: text.to_owned() })
    }
}

fn segment(part: &str, may_be_empty: bool, text: &str) -> Result<Option<String>, PathPatternError> {
    let text = || text.to_owned();
    match part {
        "" if !may_be_empty => return Err(PathPatternError::EmptySegment(text())),
        "." | ".." => return Err(PathPatternError::DotSegment(text())),
        "*" => return Ok(None),
        "**" => return Err(PathPatternError::AfterOpenEnd(text())),
        _ => {}
    }
    match part.chars().find(|c| !is_path_character(*c)) {
        None => Ok(Some(part.to_owned())),
        Some(';') => Err(PathPatternError::Parameter(text())),
        Some('%') => Err(PathPatternError::Encoded(text())),
        Some('*') => Err(PathPatternError::PartialWildcard(text())),
        Some(character) => Err(PathPatternError::Character { path: text(), character }),
    }
}

/// `pchar` of RFC 3986 §3.3 without `%`, `;` and `*`, which mean something else here.
fn is_path_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._~!$&'()+,=:@".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, segments: &[&str], open_ended: bool) {
        let segments = segments.iter().map(|s| (*s != "*").then(|| (*s).to_owned())).collect();
        assert_eq!(PathPattern::parse(text), Ok(PathPattern { segments, open_ended, text: text.to_owned() }));
    }

    #[test]
    fn a_pattern_is_read_segment_by_segment() {
        check("/", &[""], false);
        check("/**", &[], true);
        check("/orders", &["orders"], false);
        check("/orders/", &["orders", ""], false);
        check("/orders/*", &["orders", "*"], false);
        check("/orders/**", &["orders"], true);
        check("/users/*/avatar", &["users", "*", "avatar"], false);
        check("/*/**", &["*"], true);
    }

    #[test]
    fn what_no_canonical_path_holds_is_refused() {
        use PathPatternError as Error;
        type Refusal = fn(String) -> Error;
        let refused: [(&str, Refusal); 12] = [
            ("", Error::NoSlash),
            ("orders", Error::NoSlash),
            ("//", Error::EmptySegment),
            ("/a//b", Error::EmptySegment),
            ("/a//**", Error::EmptySegment),
            ("/./a", Error::DotSegment),
            ("/a/..", Error::DotSegment),
            ("/a;b", Error::Parameter),
            ("/a%20b", Error::Encoded),
            ("/**/a", Error::AfterOpenEnd),
            ("/a*", Error::PartialWildcard),
            ("/***", Error::PartialWildcard),
        ];
        for (text, error) in refused {
            assert_eq!(PathPattern::parse(text), Err(error(text.to_owned())));
        }
        for text in ["/a b", "/{id}", "/a?b", "/ä", "/a\\b", "/a\0"] {
            assert!(matches!(PathPattern::parse(text), Err(Error::Character { .. })), "{text}");
        }
    }
}
