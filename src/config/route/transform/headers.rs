//! `request_headers` and `response_headers`: what is removed and set, from a closed set of variables.

use super::Surface;
use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::{Mistake, Span};
use crate::config::headers::{self, HeaderError, fold};
use crate::config::nearest::did_you_mean;
use crate::config::reader::Reader;
use crate::config::route::{Access, Credential, HeaderSource};
use crate::config::tree::Section;
use http::{HeaderName, HeaderValue};

/// `route.request_headers`.
pub(in crate::config::route) static REQUEST_HEADERS: Table = Table::of(&[
    Key::optional("remove", Kind::list(&Kind::Text("a header")), "none", "What of the client's headers does not go on.")
        .example("[\"cookie\"]"),
    Key::optional(
        "set",
        Kind::Map { key: "a header", value: &Kind::Text("a value") },
        "none",
        "Headers in place of the client's. Variables: `{sub}`, `{username}`, `{email}`, `{roles}`, `{groups}`, \
         `{namespace}` and `{issuer}` as in `headers`; `{route}`, `{upstream}`, `{method}`, `{host}`, `{path}` (as the \
         client sent it), `{client}` (its address) and `{request_id}`. A header whose variable has no value is left out. \
         A brace is written twice.",
    )
    .example("{ x-route = \"{route}\", x-called = \"{method} {path}\" }"),
]);

/// `route.response_headers`.
pub(in crate::config::route) static RESPONSE_HEADERS: Table = Table::of(&[
    Key::optional(
        "remove",
        Kind::list(&Kind::Text("a header")),
        "none",
        "What of the upstream's headers does not go on.",
    )
    .example("[\"x-debug\"]"),
    Key::optional(
        "set",
        Kind::Map { key: "a header", value: &Kind::Text("a value") },
        "none",
        "Headers in place of the upstream's, and on refusals of Postern's own. Variables: `{route}`, `{upstream}` and \
         `{request_id}`.",
    )
    .example("{ content-security-policy = \"default-src 'self'\" }"),
    Key::default(
        "hygiene",
        Kind::Flag,
        "false",
        "Removes `Server`, `X-Powered-By`, `X-AspNet-Version`, `X-AspNetMvc-Version` and `X-Generator`. Where the upstream \
         does not say otherwise, adds `X-Content-Type-Options: nosniff`, `X-Frame-Options: DENY`, \
         `Referrer-Policy: no-referrer` and, over TLS, `Strict-Transport-Security: max-age=31536000`.",
    ),
]);

/// What is changed of the client's headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestHeaders {
    /// Folded names of what the client sent that does not go on: what is removed, and what is set.
    pub taken: Vec<String>,
    /// What is set.
    pub set: Vec<SetHeader>,
}

/// What is changed of the upstream's headers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseHeaders {
    /// What does not go on.
    pub remove: Vec<HeaderName>,
    /// What is set.
    pub set: Vec<SetHeader>,
    /// `hygiene`.
    pub hygiene: bool,
}

/// A header that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetHeader {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: Template,
}

/// The value of a header that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// The same for all.
    Fixed(HeaderValue),
    /// Put together for each request.
    Pieces(Vec<Piece>),
}

/// A piece of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Visible ASCII and blanks.
    Text(String),
    /// What is known of the request.
    Variable(Variable),
}

/// What a value may hold that only the request tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Variable {
    /// `{request_id}`.
    RequestId,
    /// `{method}`.
    Method,
    /// `{host}`: the host asked for.
    Host,
    /// `{path}`, as the client sent it.
    Path,
    /// `{client}`: its address.
    Client,
    /// Who is calling.
    Caller(HeaderSource),
}

impl Template {
    /// Whether the value tells who is calling, or from where.
    pub fn names_caller(&self) -> bool {
        self.needs_user() || self.has(|variable| *variable == Variable::Client)
    }

    /// Whether the value can be told of a user only.
    fn needs_user(&self) -> bool {
        self.has(|variable| matches!(variable, Variable::Caller(_)))
    }

    fn has(&self, is_sought: impl Fn(&Variable) -> bool) -> bool {
        let Self::Pieces(pieces) = self else { return false };
        pieces.iter().any(|piece| matches!(piece, Piece::Variable(variable) if is_sought(variable)))
    }
}

/// What `set` may hold on one side.
struct Side {
    /// The words between braces.
    known: &'static [&'static str],
    name: fn(&str) -> Result<HeaderName, HeaderError>,
}

static REQUEST: Side = Side {
    known: &[
        "sub",
        "username",
        "email",
        "roles",
        "groups",
        "namespace",
        "issuer",
        "route",
        "upstream",
        "method",
        "host",
        "path",
        "client",
        "request_id",
    ],
    name: headers::set_on_request,
};

static RESPONSE: Side = Side { known: &["route", "upstream", "request_id"], name: headers::set_on_response };

/// A name in the file, folded, and its place.
type Named = (String, Span);

impl RequestHeaders {
    pub(super) fn read(route: &Section, surface: &Surface<'_>, reader: &mut Reader<'_>) -> Self {
        let Some(section) = route.section("request_headers") else { return Self::default() };
        let (removed, _) = read_removed(section, headers::removed_from_request, reader);
        let (named, set) = read_set(section, &REQUEST, &removed, surface, reader);
        if matches!(surface.access, Some(Access::Public)) {
            for ((_, span), _) in named.iter().zip(&set).filter(|(_, header)| header.value.needs_user()) {
                let mistake = Mistake::at(span.clone(), "this header tells who is calling");
                reader.note(mistake.related(route.value_span("access"), "everybody passes, and no user is known"));
            }
        }
        let all = || removed.iter().chain(&named);
        for (folded, span) in all() {
            let is_credential = matches!(surface.credential, Some(Credential::Secret { header, .. }) if fold(header.as_str()) == *folded);
            let is_identity = surface.headers.iter().any(|header| fold(header.name.as_str()) == *folded);
            let (is_taken, key) = if is_credential { (true, "credential") } else { (is_identity, "headers") };
            if is_taken {
                let mistake = Mistake::at(span.clone(), "this header is Postern's on this route");
                reader.note(mistake.related(route.value_span(key), "as given here"));
            }
        }
        Self { taken: all().map(|(folded, _)| folded.clone()).collect(), set }
    }
}

impl ResponseHeaders {
    pub(super) fn read(route: &Section, surface: &Surface<'_>, reader: &mut Reader<'_>) -> Self {
        let Some(section) = route.section("response_headers") else { return Self::default() };
        let (removed, remove) = read_removed(section, headers::removed_from_response, reader);
        let (_, set) = read_set(section, &RESPONSE, &removed, surface, reader);
        Self { remove, set, hygiene: section.flag("hygiene").unwrap_or(false) }
    }
}

fn read_removed(
    section: &Section,
    judge: fn(&str) -> Result<HeaderName, HeaderError>,
    reader: &mut Reader<'_>,
) -> (Vec<Named>, Vec<HeaderName>) {
    let texts: Vec<_> = section.texts("remove").collect();
    let judged = texts.into_iter().filter_map(|text| Some((reader.keep(&text.span, judge(text.value))?, text.span)));
    judged.map(|(name, span)| ((fold(name.as_str()), span), name)).unzip()
}

fn read_set(
    section: &Section,
    side: &Side,
    removed: &[Named],
    surface: &Surface<'_>,
    reader: &mut Reader<'_>,
) -> (Vec<Named>, Vec<SetHeader>) {
    let (mut named, mut set): (Vec<Named>, Vec<SetHeader>) = (Vec::new(), Vec::new());
    for (key, value) in section.map("set") {
        let name = reader.keep(&key.span, (side.name)(&key.value));
        let Some(text) = value.text() else { continue };
        let value = match template(text.value, side.known, surface) {
            Ok(value) => Some(value),
            Err(error) => {
                let mistake = Mistake::at(text.span, error.to_string());
                reader.note(match error {
                    TemplateError::Unknown { .. } => mistake.help(format!("known: {}", side.known.join(", "))),
                    _ => mistake,
                });
                None
            }
        };
        let (Some(name), Some(value)) = (name, value) else { continue };
        let folded = fold(name.as_str());
        if let Some((_, first)) = named.iter().chain(removed).find(|(other, _)| *other == folded) {
            let mistake = Mistake::at(key.span.clone(), format!("`{}` is given twice", key.value));
            let mistake = mistake.related(first.clone(), "first here");
            reader.note(mistake.help("what is set replaces what was there, so that it need not be removed"));
        }
        named.push((folded, key.span.clone()));
        set.push(SetHeader { name, value });
    }
    (named, set)
}

/// Why a value is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum TemplateError {
    #[error("`{0}` holds a character that is neither visible ASCII nor an inner blank")]
    Character(String),
    #[error("`{0}` has a brace that is not of a variable: write it twice, `{{{{` or `}}}}`")]
    Brace(String),
    #[error("`{{{name}}}` is no variable here{meant}")]
    Unknown { name: String, meant: String },
}

fn template(text: &str, known: &[&'static str], surface: &Surface<'_>) -> Result<Template, TemplateError> {
    let is_text = text.trim() == text && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if !is_text {
        return Err(TemplateError::Character(text.to_owned()));
    }
    let lone = || TemplateError::Brace(text.to_owned());
    let (mut pieces, mut pending, mut rest) = (Vec::new(), String::new(), text);
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        pending.push_str(before);
        if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
            pending.push_str(&from[..1]);
            rest = after;
            continue;
        }
        let (name, after) = from.strip_prefix('{').and_then(|from| from.split_once('}')).ok_or_else(lone)?;
        if !known.contains(&name) {
            let meant = did_you_mean(name, known.iter().copied());
            return Err(TemplateError::Unknown { name: name.to_owned(), meant });
        }
        rest = after;
        match name {
            "route" => pending.push_str(surface.name.unwrap_or_default()),
            "upstream" => pending.push_str(surface.upstream.unwrap_or_default()),
            name => {
                if !pending.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut pending)));
                }
                pieces.push(Piece::Variable(variable(name)));
            }
        }
    }
    pending.push_str(rest);
    if pieces.is_empty() {
        let refused = |_| TemplateError::Character(text.to_owned());
        return HeaderValue::try_from(pending).map(Template::Fixed).map_err(refused);
    }
    if !pending.is_empty() {
        pieces.push(Piece::Text(pending));
    }
    Ok(Template::Pieces(pieces))
}

/// The sides let no other word pass.
fn variable(name: &str) -> Variable {
    match name {
        "method" => Variable::Method,
        "host" => Variable::Host,
        "path" => Variable::Path,
        "client" => Variable::Client,
        "request_id" => Variable::RequestId,
        word => Variable::Caller(HeaderSource::named(word)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Template, TemplateError> {
        let surface = Surface {
            name: Some("orders"),
            upstream: Some("up"),
            path: None,
            methods: None,
            access: None,
            credential: None,
            headers: &[],
            allow_encoded_slash: false,
        };
        template(text, REQUEST.known, &surface)
    }

    #[test]
    fn a_value_is_text_and_variables() {
        let fixed = |text| Ok(Template::Fixed(HeaderValue::from_static(text)));
        assert_eq!(read("plain text"), fixed("plain text"));
        assert_eq!(read("{route}@{upstream}"), fixed("orders@up"));
        assert_eq!(read("{{\"a\":{{}}}}"), fixed("{\"a\":{}}"));
        let text = |text: &str| Piece::Text(text.to_owned());
        let pieces = vec![
            Piece::Variable(Variable::Method),
            text(" on orders by "),
            Piece::Variable(Variable::Caller(HeaderSource::Subject)),
            text("."),
        ];
        assert_eq!(read("{method} on {route} by {sub}."), Ok(Template::Pieces(pieces)));
    }

    #[test]
    fn what_is_no_value_is_refused() {
        for text in [" a", "a ", "a\tb", "a\r\nb", "ä", "\u{7f}"] {
            assert_eq!(read(text), Err(TemplateError::Character(text.into())), "{text:?}");
        }
        for text in ["{", "}", "a{b", "{sub", "sub}", "{{sub}"] {
            assert_eq!(read(text), Err(TemplateError::Brace(text.into())), "{text:?}");
        }
        for text in ["{}", "{token}", "{Sub}", "{sub }", "{rest}"] {
            assert!(matches!(read(text), Err(TemplateError::Unknown { .. })), "{text:?}");
        }
    }
}
