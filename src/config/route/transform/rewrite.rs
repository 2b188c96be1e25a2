//! `rewrite`: the path that the upstream gets.
//!
//! What comes out is canonical by construction, as what came in: it is put together of whole segments, each either a segment of
//! the request's path, which was judged, or one of the configuration, which is judged here. Only the last can be empty.

use super::Surface;
use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::reader::Reader;
use crate::config::route::PathPattern;
use crate::config::tree::{Placed, Section};
use http::HeaderValue;

/// `route.rewrite`.
pub(in crate::config::route) static REWRITE: Table = Table::of(&[
    Key::optional(
        "strip_prefix",
        Kind::Text("a path"),
        "nothing",
        "What is taken away from the front: whole segments that `path` begins with. The upstream is told in \
         `X-Forwarded-Prefix`.",
    )
    .example("\"/api\""),
    Key::optional("add_prefix", Kind::Text("a path"), "nothing", "What is put in front, after that.")
        .example("\"/v2\""),
    Key::optional(
        "to",
        Kind::Text("a path"),
        "what the other two say",
        "In place of the other two, the whole path. A segment `{1}` is what the first `*` of `path` stands for, `{2}` the \
         second; `{rest}`, at the end, is what `**` stands for.",
    )
    .example("\"/users/{1}/{rest}\""),
]);

/// The path that the upstream gets; the query stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// What it is put together of, in order.
    pub pieces: Vec<RewritePiece>,
    /// What was taken away from the front, for `X-Forwarded-Prefix`.
    pub stripped: Option<HeaderValue>,
}

/// A piece of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RewritePiece {
    /// As it stands; begins with a slash.
    Text(String),
    /// This segment of the request's path, counted from 0.
    Segment(usize),
    /// All of the request's path after this many segments and the slash behind them.
    Rest(usize),
}

/// Why a path of `rewrite` is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum RewriteError {
    #[error("`{0}` does not begin with `/`")]
    NoSlash(String),
    #[error("`{0}` ends with `/`: write whole segments, as in `/api`")]
    EndsInSlash(String),
    #[error("`{0}` is no segment of a path that every server reads alike")]
    Segment(String),
    #[error("`{0}` has an empty segment (`//`)")]
    EmptySegment(String),
    #[error(
        "`{0}` is no variable of a path: `{{1}}`, `{{2}}` and so on stand for a `*` of `path`, `{{rest}}` for `**`"
    )]
    Unknown(String),
    #[error("`{{{0}}}` stands for a `*` that `path` does not have")]
    NoStar(usize),
    #[error("`{{rest}}` stands for `**`, in which `path` does not end")]
    NoRest,
    #[error("`{0}` goes on after `{{rest}}`, which stands for all that follows")]
    AfterRest(String),
    #[error("`{0}` goes on after `{{{1}}}`, into which `allow_encoded_slash` lets `%2F`")]
    AfterEncodedSlash(String, usize),
}

impl Rewrite {
    pub(super) fn read(route: &Section, surface: &Surface<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let section = route.section("rewrite")?;
        let (strip, add, to) = (section.text("strip_prefix"), section.text("add_prefix"), section.text("to"));
        match (strip.is_some() || add.is_some(), &to) {
            (false, None) if section.entries.is_empty() => {
                let mistake = Mistake::at(section.span.clone(), "`rewrite` is empty");
                reader.note(mistake.label("expected `strip_prefix`, `add_prefix` or `to`"));
                None
            }
            (false, None) => None,
            (false, Some(to)) => {
                let pieces = template(to.value, surface.path?, surface.allow_encoded_slash);
                Some(Self { pieces: reader.keep(&to.span, pieces)?, stripped: None })
            }
            (true, None) => Self::of_prefixes(route, strip.as_ref(), add.as_ref(), surface.path?, reader),
            (true, Some(to)) => {
                let mistake = Mistake::at(to.span.clone(), "`to` is the whole path already");
                let other = strip.or(add).map_or_else(|| section.span.clone(), |other| other.span);
                reader.note(mistake.related(other, "this has nothing to act on"));
                None
            }
        }
    }

    fn of_prefixes(
        route: &Section,
        strip: Option<&Placed<&str>>,
        add: Option<&Placed<&str>>,
        path: &PathPattern,
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        // Both are judged, so that one run tells of both.
        let [stripped, added] = [strip, add].map(|text| match text {
            Some(text) => reader.keep(&text.span, prefix(text.value)),
            None => Some(Vec::new()),
        });
        let (segments, _) = stripped.zip(added)?;
        let (depth, add) = (segments.len(), add.map_or("", |add| add.value));
        if let Some(strip) = strip {
            let begins = path.segments.iter().map(Option::as_deref).take(depth).eq(segments.into_iter().map(Some));
            if !begins {
                let message = format!("not every path of this route begins with `{}`", strip.value);
                let mistake = Mistake::at(strip.span.clone(), message);
                reader.note(mistake.related(route.value_span("path"), "the paths"));
                return None;
            }
        }
        let is_whole = path.segments.len() == depth && !path.open_ended;
        let pieces = match is_whole {
            true => vec![RewritePiece::Text(if add.is_empty() { "/".to_owned() } else { add.to_owned() })],
            false => vec![RewritePiece::Text(format!("{add}/")), RewritePiece::Rest(depth)],
        };
        let stripped = strip.and_then(|strip| HeaderValue::from_str(strip.value).ok());
        Some(Self { pieces, stripped })
    }
}

/// The segments of a prefix.
fn prefix(text: &str) -> Result<Vec<&str>, RewriteError> {
    let segments = segments(text)?;
    if text.ends_with('/') {
        return Err(RewriteError::EndsInSlash(text.to_owned()));
    }
    match segments.iter().find(|segment| !is_literal(segment)) {
        Some(segment) => Err(RewriteError::Segment((*segment).to_owned())),
        None => Ok(segments),
    }
}

fn segments(text: &str) -> Result<Vec<&str>, RewriteError> {
    let path = text.strip_prefix('/').ok_or_else(|| RewriteError::NoSlash(text.to_owned()))?;
    let segments: Vec<_> = path.split('/').collect();
    let (_, inner) = segments.split_last().unwrap_or((&"", &[]));
    if inner.contains(&"") { Err(RewriteError::EmptySegment(text.to_owned())) } else { Ok(segments) }
}

/// Whether a segment means one thing to every server. Dots alone do not, however many.
fn is_literal(segment: &str) -> bool {
    let is_dots = segment.bytes().all(|byte| byte == b'.');
    let parsed = PathPattern::parse(&format!("/{segment}"));
    !is_dots && parsed.is_ok_and(|parsed| parsed.segments == [Some(segment.to_owned())] && !parsed.open_ended)
}

fn template(text: &str, path: &PathPattern, allow_encoded_slash: bool) -> Result<Vec<RewritePiece>, RewriteError> {
    let stars: Vec<_> = path.segments.iter().enumerate().filter(|(_, segment)| segment.is_none()).collect();
    let segments = segments(text)?;
    let (mut pieces, mut pending) = (Vec::new(), String::new());
    let last = segments.len() - 1;
    for (index, segment) in segments.into_iter().enumerate() {
        pending.push('/');
        let Some(variable) = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
            if !(is_literal(segment) || segment.is_empty()) {
                return Err(RewriteError::Segment(segment.to_owned()));
            }
            pending.push_str(segment);
            continue;
        };
        let piece = match variable {
            "rest" if !path.open_ended => return Err(RewriteError::NoRest),
            "rest" if index < last => return Err(RewriteError::AfterRest(text.to_owned())),
            "rest" => RewritePiece::Rest(path.segments.len()),
            number => {
                let known = number.parse::<usize>().ok().filter(|n| *n > 0 && !number.starts_with(['+', '0']));
                let number = known.ok_or_else(|| RewriteError::Unknown(segment.to_owned()))?;
                let (at, _) = stars.get(number - 1).ok_or(RewriteError::NoStar(number))?;
                let may_hold_slash = allow_encoded_slash && !path.open_ended && at + 1 == path.segments.len();
                if may_hold_slash && index < last {
                    return Err(RewriteError::AfterEncodedSlash(text.to_owned(), number));
                }
                RewritePiece::Segment(*at)
            }
        };
        pieces.push(RewritePiece::Text(std::mem::take(&mut pending)));
        pieces.push(piece);
    }
    if !pending.is_empty() {
        pieces.push(RewritePiece::Text(pending));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use RewritePiece::{Rest, Segment, Text};

    #[track_caller]
    fn check(path: &str, to: &str, expected: Result<Vec<RewritePiece>, RewriteError>) {
        assert_eq!(template(to, &PathPattern::parse(path).unwrap(), false), expected, "{path} → {to}");
    }

    #[test]
    fn a_template_is_read_segment_by_segment() {
        let text = |text: &str| Text(text.to_owned());
        check("/a/*/b/**", "/x/{1}/y/{rest}", Ok(vec![text("/x/"), Segment(1), text("/y/"), Rest(3)]));
        check("/a/*/*", "/{2}/{1}", Ok(vec![text("/"), Segment(2), text("/"), Segment(1)]));
        check("/a/**", "/fixed", Ok(vec![text("/fixed")]));
        check("/a", "/", Ok(vec![text("/")]));
        check("/a/*", "/{1}/", Ok(vec![text("/"), Segment(1), text("/")]));
    }

    #[test]
    fn what_would_not_be_canonical_is_refused() {
        use RewriteError as Error;
        let refused = |segment: &str| Err(Error::Segment(segment.to_owned()));
        for segment in ["..", ".", "...", "a;b", "%2e%2e", "a?b", "a#b", "a\\b", "*", "**", "x{1}", "{1}x", "ä", "a b"]
        {
            check("/a/*", &format!("/{segment}"), refused(segment));
        }
        check("/a/*", "x", Err(Error::NoSlash("x".into())));
        check("/a/*", "//x", Err(Error::EmptySegment("//x".into())));
        check("/a/*", "/x//y", Err(Error::EmptySegment("/x//y".into())));
        check("/a/*", "/{2}", Err(Error::NoStar(2)));
        check("/a/*", "/{rest}", Err(Error::NoRest));
        check("/a/**", "/{rest}/x", Err(Error::AfterRest("/{rest}/x".into())));
        for segment in ["{0}", "{}", "{-1}", "{+1}", "{01}", "{sub}"] {
            check("/a/*", &format!("/{segment}"), Err(Error::Unknown(segment.into())));
        }
        let path = PathPattern::parse("/a/*").unwrap();
        assert_eq!(template("/{1}/x", &path, true), Err(Error::AfterEncodedSlash("/{1}/x".into(), 1)));
    }
}
