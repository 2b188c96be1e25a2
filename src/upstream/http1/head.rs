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
    let Some(end) = head_end(bytes, &mut 0)? else { return Ok(None) };
    let head = parse(&Bytes::copy_from_slice(&bytes[..end]), Asked { is_head, upgrade })?;
    Ok(Some((head, end)))
}

/// The length of the head at the start of `bytes`, once it is there. `line` is where the first line that has not been
/// seen whole begins; it is moved on, so that a head that comes in pieces is looked at once.
pub(super) fn head_end(bytes: &[u8], line: &mut usize) -> Result<Option<usize>, HeadError> {
    match section_end(bytes, line, MAX_HEAD)? {
        Some(2) => Err(HeadError::EmptyLine),
        end => Ok(end),
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

/// Judges a whole head. The values of its fields share the memory of `head`.
pub(super) fn parse(head: &Bytes, asked: Asked<'_>) -> Result<ResponseHead, HeadError> {
    let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    // Left at its defaults, httparse refuses folded lines, space around names, and NUL or bare CR anywhere.
    match ParserConfig::default().parse_response_with_uninit_headers(&mut response, head, &mut slots) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(HeadError::Syntax(httparse::Error::NewLine)),
        Err(error) => return Err(HeadError::Syntax(error)),
    }
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
        } else {
            let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| HeadError::Field)?;
            kept.try_append(name, value).map_err(|_| HeadError::Field)?;
        }
    }
    for name in &noted.nominated {
        kept.remove(name);
    }
    let framing = noted.framing(status, is_http10, asked)?;
    if framing == Framing::Tunnel {
        kept.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        kept.extend(asked.upgrade.map(|protocol| (UPGRADE, protocol.clone())));
    } else if let Some(length) = noted.content_length.filter(|_| status != StatusCode::NO_CONTENT) {
        kept.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(ResponseHead { status, fields: kept, framing, keep_alive: noted.keeps_alive(status, is_http10) })
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
