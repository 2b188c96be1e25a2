//! The head of an answer: found in what has been read, judged, and turned into fields.

use crate::upstream::fields;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httparse::{ParserConfig, Status};
use std::io::BufRead;
use std::mem::MaybeUninit;

/// The largest head that is accepted, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The most fields that a head may have.
const MAX_FIELDS: usize = 128;

/// A head that has been accepted.
#[derive(Debug)]
pub struct ResponseHead {
    /// The status, 100 to 599.
    pub status: StatusCode,
    /// The fields, without those that concern the connection only.
    pub fields: HeaderMap,
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the connection may carry another request after this message.
    pub keep_alive: bool,
}

/// How the body that follows a head is framed (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// All until the connection is closed.
    UntilClose,
    /// It is no body: the connection has switched to the protocol that was asked for.
    Tunnel,
}

/// Why a head is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)] // The messages say it.
pub enum HeadError {
    #[error(transparent)]
    Line(#[from] LineError),
    #[error("it begins with an empty line")]
    EmptyLine,
    #[error("it is no HTTP/1 head: {0}")]
    Syntax(httparse::Error),
    #[error("a field cannot be represented")]
    Field,
    #[error("status {0} does not exist")]
    Status(u16),
    #[error("`Content-Length` is repeated or no number")]
    ContentLength,
    #[error("`Transfer-Encoding` is not just `chunked`, or comes with HTTP/1.0")]
    TransferEncoding,
    #[error("both `Content-Length` and `Transfer-Encoding` are given")]
    TwoFramings,
    #[error("it switches to a protocol that was not asked for")]
    Switch,
    #[error("more than {0} interim responses")]
    TooManyInterim(u32),
}

/// Why a section of lines is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)] // The messages say it.
pub enum LineError {
    #[error("a line ends without a carriage return")]
    BareLineFeed,
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
}

/// What of the request decides how its answer is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) is_head: bool,
    pub(super) upgrade: Option<&'a HeaderValue>,
}

/// Reads the head at the start of `bytes`: with its length, or `None` where it is not all there yet.
/// `is_head` says that the request's method was `HEAD`, `upgrade` which protocol it asked to switch to.
///
/// # Errors
/// A head that is refused.
pub fn parse_response_head(
    bytes: &[u8],
    is_head: bool,
    upgrade: Option<&HeaderValue>,
) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    read_head(&Bytes::copy_from_slice(bytes), &mut None, Asked { is_head, upgrade })
}

/// The same. `line` is where the first line begins that has not been seen whole, `None` at first; it is moved on, so that a head
/// that comes in many pieces is parsed twice at most. The values of the fields share the memory of `bytes`.
pub(super) fn read_head(
    bytes: &Bytes,
    line: &mut Option<usize>,
    asked: Asked<'_>,
) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    if line.is_none() {
        // Nearly always the head is whole, and the parser finds its end as well as the search for lines would.
        if let Some(found) = parse(bytes, asked)? {
            return Ok(Some(found));
        }
    }
    match section_end(bytes, line.get_or_insert(0), MAX_HEAD)? {
        None => Ok(None),
        Some(2) => Err(HeadError::EmptyLine),
        Some(_) => parse(bytes, asked)?.ok_or(HeadError::Syntax(httparse::Error::NewLine)).map(Some),
    }
}

/// The length of a section of lines, its empty last line included. A line feed without a carriage return is refused
/// here: where one parser ends a line and another does not, fields can be smuggled.
pub(super) fn section_end(bytes: &[u8], line: &mut usize, max: usize) -> Result<Option<usize>, LineError> {
    loop {
        let rest = &bytes[*line..];
        // The one search for a byte in the standard library that uses the processor's vectors.
        let length = (&mut &*rest).skip_until(b'\n').unwrap_or(0);
        let whole = &rest[..length];
        if *line + length > max {
            return Err(LineError::TooLong(max));
        }
        if whole.last() != Some(&b'\n') {
            return Ok(None);
        }
        if !whole.ends_with(b"\r\n") {
            return Err(LineError::BareLineFeed);
        }
        *line += length;
        if length == 2 {
            return Ok(Some(*line));
        }
    }
}

/// Judges the head at the start of `bytes`, if it is whole.
fn parse(bytes: &Bytes, asked: Asked<'_>) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    // Left at its defaults, httparse refuses folded lines, space around names, and NUL or bare CR anywhere.
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut slots);
    let length = match parsed.map_err(HeadError::Syntax)? {
        Status::Complete(length) => length,
        Status::Partial => return Ok(None),
    };
    check_lines(&bytes[..length])?;
    let code = response.code.unwrap_or(0);
    if !(100..=599).contains(&code) {
        return Err(HeadError::Status(code));
    }
    let status = StatusCode::from_u16(code).map_err(|_| HeadError::Status(code))?;
    let is_http10 = response.version != Some(1);
    let mut noted = Noted::default();
    let mut kept = HeaderMap::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| HeadError::Field)?;
        if fields::is_of_connection(name.as_str()) {
            noted.note(name.as_str(), field.value)?;
            if name != CONTENT_LENGTH || status == StatusCode::NO_CONTENT {
                continue;
            }
        }
        let value = match noted.content_length {
            // No reader behind us is to take leading zeros for an octal number.
            Some(length) if name == CONTENT_LENGTH && field.value.starts_with(b"0") => HeaderValue::from(length),
            _ => HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| HeadError::Field)?,
        };
        kept.try_append(name, value).map_err(|_| HeadError::Field)?;
    }
    for name in &noted.nominated {
        kept.remove(name);
    }
    let framing = noted.framing(status, is_http10, asked)?;
    if framing == Framing::Tunnel {
        kept.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        kept.extend(asked.upgrade.map(|protocol| (UPGRADE, protocol.clone())));
    }
    let keep_alive = noted.keeps_alive(status, is_http10);
    Ok(Some((ResponseHead { status, fields: kept, framing, keep_alive }, length)))
}

/// Holds a head that httparse accepts to what it lets pass: empty lines in front and line feeds without a carriage
/// return.
fn check_lines(head: &[u8]) -> Result<(), HeadError> {
    if head.len() > MAX_HEAD {
        return Err(LineError::TooLong(MAX_HEAD).into());
    }
    if matches!(head.first(), Some(b'\r' | b'\n')) {
        return Err(HeadError::EmptyLine);
    }
    // Without an early return, so that the compiler can look at many bytes at once.
    let is_bare = |bad, (before, byte): (&u8, &u8)| bad | ((*byte == b'\n') & (*before != b'\r'));
    if head.iter().zip(&head[1..]).fold(false, is_bare) { Err(LineError::BareLineFeed.into()) } else { Ok(()) }
}

/// What the fields of the connection say.
#[derive(Debug, Default)]
struct Noted {
    content_length: Option<u64>,
    is_chunked: bool,
    closes: bool,
    upgrades: bool,
    upgrade: Option<Vec<u8>>,
    nominated: Vec<HeaderName>,
}

impl Noted {
    fn note(&mut self, name: &str, value: &[u8]) -> Result<(), HeadError> {
        match name {
            "content-length" => {
                if self.content_length.is_some() {
                    return Err(HeadError::ContentLength);
                }
                self.content_length = Some(decimal(value).ok_or(HeadError::ContentLength)?);
            }
            "transfer-encoding" => {
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::TransferEncoding);
                }
                self.is_chunked = true;
            }
            "connection" => {
                for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    if token.eq_ignore_ascii_case(b"close") {
                        self.closes = true;
                    } else if token.eq_ignore_ascii_case(b"upgrade") {
                        self.upgrades = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        // The default, and nothing to remove: that field is dropped anyway.
                    } else if let Ok(name) = HeaderName::from_bytes(token) {
                        self.nominated.push(name);
                    }
                }
            }
            // A second one is put behind the first, which then equals no protocol that was asked for.
            "upgrade" => self.upgrade.get_or_insert_default().extend_from_slice(value),
            _ => {}
        }
        Ok(())
    }

    fn framing(&self, status: StatusCode, is_http10: bool, asked: Asked<'_>) -> Result<Framing, HeadError> {
        if self.is_chunked && self.content_length.is_some() {
            return Err(HeadError::TwoFramings);
        }
        if self.is_chunked && is_http10 {
            return Err(HeadError::TransferEncoding);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(is_http10, asked).map(|()| Framing::Tunnel);
        }
        let has_none = asked.is_head
            || status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Ok(match self.content_length {
            _ if has_none => Framing::Empty,
            Some(length) => Framing::Length(length),
            None if self.is_chunked => Framing::Chunked,
            None => Framing::UntilClose,
        })
    }

    fn switch(&self, is_http10: bool, asked: Asked<'_>) -> Result<(), HeadError> {
        let agreed = match (&self.upgrade, asked.upgrade) {
            (Some(given), Some(wanted)) => given.eq_ignore_ascii_case(wanted.as_bytes()),
            _ => false,
        };
        let has_framing = self.is_chunked || self.content_length.is_some();
        if agreed && self.upgrades && !is_http10 && !has_framing { Ok(()) } else { Err(HeadError::Switch) }
    }

    /// HTTP/1.0 is never reused, and neither is a connection on which a body may follow where none is allowed.
    fn keeps_alive(&self, status: StatusCode, is_http10: bool) -> bool {
        let has_body_against_the_rules =
            status == StatusCode::NO_CONTENT && (self.is_chunked || self.content_length.is_some_and(|n| n > 0));
        !self.closes && !is_http10 && !has_body_against_the_rules
    }
}

/// Digits only: no sign, no space, no list (RFC 9110 §8.6).
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0_u64, |number, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}
