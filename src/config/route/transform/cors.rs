//! `cors`: which pages of other origins may call this route from a browser (the Fetch standard, §3.2).

use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::reader::Reader;
use crate::config::route::read::method;
use crate::config::tree::Section;
use http::{HeaderName, HeaderValue, Method};
use std::time::Duration;
use url::Url;

/// `route.cors`.
pub(in crate::config::route) static CORS: Table = Table::of(&[
    Key::required(
        "origins",
        Kind::OneOrMany(&Kind::Text("an origin")),
        "Whose pages may read answers: scheme, host and port as browsers send them, or `*` for all.",
    )
    .example("[\"https://app.example.com\"]"),
    Key::optional(
        "methods",
        Kind::list(&Kind::Text("a method")),
        "the route's `methods`; if it has none, `GET`, `HEAD`, `POST`, `PUT`, `PATCH` and `DELETE`",
        "What they may call with.",
    )
    .example("[\"GET\", \"POST\"]"),
    Key::default(
        "headers",
        Kind::list_or_empty(&Kind::Text("a header")),
        "[\"authorization\", \"content-type\"]",
        "What they may send.",
    ),
    Key::default(
        "expose",
        Kind::list_or_empty(&Kind::Text("a header")),
        "[\"retry-after\", \"www-authenticate\", \"x-request-id\"]",
        "What of an answer's headers they may read, beside those that everybody may.",
    ),
    Key::default("credentials", Kind::Flag, "false", "Whether they may send cookies. Not with `*`."),
    Key::default(
        "max_age",
        Kind::duration(Duration::ZERO, Duration::from_hours(24)),
        "\"10m\"",
        "How long a browser may remember this.",
    ),
]);

/// Which pages of other origins may call a route, as browsers are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// `origins`.
    pub origins: Origins,
    /// `methods`, joined.
    pub methods: HeaderValue,
    /// `headers`, joined; absent if there are none.
    pub headers: Option<HeaderValue>,
    /// `expose`, likewise.
    pub expose: Option<HeaderValue>,
    /// `credentials`.
    pub credentials: bool,
    /// `max_age`, in seconds.
    pub max_age: HeaderValue,
}

/// Whose pages may read answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// `*`.
    Any,
    /// These, compared byte by byte.
    Listed(Vec<HeaderValue>),
}

/// Why a member of a list is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum CorsError {
    #[error(
        "`{0}` is no origin: write scheme, host and, where it is not the scheme's own, port, as in `https://app.example.com`"
    )]
    NoOrigin(String),
    #[error("a browser sends this origin as `{0}`")]
    NotAsSent(String),
    #[error("`null` is the origin of anybody's sandboxed page")]
    Null,
    #[error("write the names: `*` stands for them only where there is no token and no cookie")]
    Star,
    #[error("`{0}` is no header name")]
    NoHeader(String),
}

impl Cors {
    pub(super) fn read(route: &Section, taken: Option<&[Method]>, reader: &mut Reader<'_>) -> Option<Self> {
        let section = route.section("cors")?;
        let credentials = section.flag("credentials")?;
        let listed: Vec<_> = section.texts("origins").collect();
        let star = listed.iter().find(|origin| origin.value == "*").map(|star| star.span.clone());
        let origins = match star {
            Some(star) => {
                if credentials {
                    let message = "every page of every origin could act with the cookies of who looks at it";
                    let mistake = Mistake::at(star.clone(), message);
                    reader.note(mistake.related(section.value_span("credentials"), "cookies are sent"));
                }
                if listed.len() > 1 {
                    reader.note(Mistake::at(star, "`*` stands for all origins, and others are listed too"));
                }
                Origins::Any
            }
            None => Origins::Listed(reader.parse_all(section, "origins", origin)),
        };
        let methods = read_methods(route, section, taken, reader);
        let headers = reader.parse_all(section, "headers", header);
        let expose = reader.parse_all(section, "expose", header);
        Some(Self {
            origins,
            methods: joined(&methods)?,
            headers: joined(&headers),
            expose: joined(&expose),
            credentials,
            max_age: HeaderValue::from(section.duration("max_age")?.as_secs()),
        })
    }
}

fn read_methods(route: &Section, section: &Section, taken: Option<&[Method]>, reader: &mut Reader<'_>) -> Vec<Method> {
    if !section.is_given("methods") {
        let usual = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        return taken.map_or_else(|| usual.to_vec(), <[Method]>::to_vec);
    }
    for listed in section.texts("methods") {
        let is_taken = taken.is_none_or(|taken| taken.iter().any(|taken| taken.as_str() == listed.value));
        if !is_taken && listed.value != "*" {
            let mistake = Mistake::at(listed.span, format!("this route does not take `{}`", listed.value));
            reader.note(mistake.related(route.value_span("methods"), "what it takes"));
        }
    }
    let star = section.texts("methods").find(|method| method.value == "*").map(|star| star.span);
    if let Some(star) = star {
        reader.note(Mistake::at(star, CorsError::Star.to_string()));
        return Vec::new();
    }
    reader.parse_all(section, "methods", method)
}

/// An origin as browsers send it: compared byte by byte, one that is written otherwise would never match.
fn origin(text: &str) -> Result<HeaderValue, CorsError> {
    let refused = || CorsError::NoOrigin(text.to_owned());
    if text == "null" {
        return Err(CorsError::Null);
    }
    let url = Url::parse(text).map_err(|_| refused())?;
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if !matches!(url.scheme(), "http" | "https") || !is_bare || text.contains(['*', '@']) {
        return Err(refused());
    }
    let sent = url.origin().ascii_serialization();
    if sent != text {
        return Err(CorsError::NotAsSent(sent));
    }
    HeaderValue::from_str(text).map_err(|_| refused())
}

fn header(text: &str) -> Result<HeaderName, CorsError> {
    if text == "*" {
        return Err(CorsError::Star);
    }
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| CorsError::NoHeader(text.to_owned()))
}

fn joined<T: AsRef<str>>(members: &[T]) -> Option<HeaderValue> {
    let members: Vec<&str> = members.iter().map(AsRef::as_ref).collect();
    HeaderValue::from_str(&members.join(", ")).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        for good in
            ["https://app.example.com", "http://localhost:3000", "https://[::1]:8443", "https://xn--bcher-kva.de"]
        {
            assert_eq!(origin(good).unwrap(), good);
        }
        for (other, sent) in [
            ("https://app.example.com/", "https://app.example.com"),
            ("https://App.example.com", "https://app.example.com"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://app.example.com:80", "http://app.example.com"),
            ("https://bücher.de", "https://xn--bcher-kva.de"),
        ] {
            assert_eq!(origin(other), Err(CorsError::NotAsSent(sent.into())), "{other}");
        }
        assert_eq!(origin("null"), Err(CorsError::Null));
        for bad in
            ["app.example.com", "https://*.example.com", "https://a/b", "https://u@a", "https://a?b", "ftp://a", "x:y"]
        {
            assert_eq!(origin(bad), Err(CorsError::NoOrigin(bad.into())), "{bad}");
        }
    }
}
