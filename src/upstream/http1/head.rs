//! The head of an answer: found in what has been read, judged, and turned into fields.

use crate::upstream::fields;
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, LAST_MODIFIED, LOCATION,
    SERVER, SET_COOKIE, UPGRADE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use memchr::memchr;

/// The largest head that is accepted, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// The most fields that a head may have.
const MAX_FIELDS: usize = 128;
/// What every head begins with.
const VERSION: &[u8] = b"HTTP/1.";

/// What a head that has been accepted says, but for its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status, 100 to 599.
    pub status: StatusCode,
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
    #[error("it does not begin with a status line of HTTP/1")]
    StatusLine,
    #[error("a line is no field")]
    Field,
    #[error("it has more than {0} fields")]
    TooManyFields(usize),
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

/// Reads the head at the start of `bytes`: with its fields, without those that concern the connection only, and its length; or `None`
/// where it is not all there yet. `is_head` says that the request's method was `HEAD`, `upgrade` which protocol it asked to switch to.
///
/// # Errors
/// A head that is refused.
pub fn parse_response_head(
    bytes: &[u8],
    is_head: bool,
    upgrade: Option<&HeaderValue>,
) -> Result<Option<(ResponseHead, HeaderMap, usize)>, HeadError> {
    let mut fields = HeaderMap::new();
    let found = read_head(&Bytes::copy_from_slice(bytes), &mut None, Asked { is_head, upgrade }, &mut fields)?;
    Ok(found.map(|(head, length)| (head, fields, length)))
}

/// The same, with `fields` as the map that is filled. `line` is where the first line begins that has not been seen whole, `None`
/// at first; it is moved on, so that a head that comes in many pieces is parsed twice at most. The values of the fields share the
/// memory of `bytes`.
pub(super) fn read_head(
    bytes: &Bytes,
    line: &mut Option<usize>,
    asked: Asked<'_>,
    fields: &mut HeaderMap,
) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    // Nearly always the head is whole, and need not be searched for its end first.
    if line.is_none()
        && let Some(found) = parse(bytes, asked, fields)?
    {
        return Ok(Some(found));
    }
    match section_end(bytes, line.get_or_insert(0), MAX_HEAD)? {
        None => Ok(None),
        Some(_) => parse(bytes, asked, fields),
    }
}

/// The length of a section of lines, its empty last line included. A line feed without a carriage return is refused
/// here: where one parser ends a line and another does not, fields can be smuggled.
pub(super) fn section_end(bytes: &[u8], line: &mut usize, max: usize) -> Result<Option<usize>, LineError> {
    loop {
        let found = take_line(bytes, line, max)?;
        if found.is_none_or(<[u8]>::is_empty) {
            return Ok(found.map(|_| *line));
        }
    }
}

/// The line that begins at `at`, without its end, if it is whole; `at` is moved behind it.
fn take_line<'a>(bytes: &'a [u8], at: &mut usize, max: usize) -> Result<Option<&'a [u8]>, LineError> {
    let rest = &bytes[*at..];
    let end = memchr(b'\n', rest);
    if *at + end.map_or(rest.len(), |end| end + 1) > max {
        return Err(LineError::TooLong(max));
    }
    let Some(end) = end else { return Ok(None) };
    *at += end + 1;
    rest[..end].strip_suffix(b"\r").map(Some).ok_or(LineError::BareLineFeed)
}

/// Judges the head at the start of `bytes`, if it is whole.
fn parse(bytes: &Bytes, asked: Asked<'_>, kept: &mut HeaderMap) -> Result<Option<(ResponseHead, usize)>, HeadError> {
    // What is not HTTP need not have lines.
    if bytes.iter().zip(VERSION).any(|(byte, expected)| byte != expected) {
        return Err(HeadError::StatusLine);
    }
    let mut at = 0;
    let Some(line) = take_line(bytes, &mut at, MAX_HEAD)? else { return Ok(None) };
    let (status, is_http10) = status_line(line)?;
    let mut noted = Noted::default();
    let mut count = 0;
    kept.clear();
    loop {
        let Some(line) = take_line(bytes, &mut at, MAX_HEAD)? else { return Ok(None) };
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > MAX_FIELDS {
            return Err(HeadError::TooManyFields(MAX_FIELDS));
        }
        let (role, value) = field(line)?;
        let Role::Kept(name) = role else {
            noted.note(role, value)?;
            continue;
        };
        // Refuses control characters, so also a carriage return that ends no line.
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(value)).map_err(|_| HeadError::Field)?;
        kept.try_append(name, value).map_err(|_| HeadError::Field)?;
    }
    let framing = noted.framing(status, is_http10, asked)?;
    // A body tells its length itself, to whoever writes it; where none follows, only the field does. It is written anew: no
    // reader behind us is to take leading zeros for an octal number.
    if let (Framing::Empty | Framing::Length(0), Some(length)) = (framing, noted.content_length)
        && status != StatusCode::NO_CONTENT
    {
        kept.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    for name in &noted.nominated {
        kept.remove(name);
    }
    if framing == Framing::Tunnel {
        kept.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        kept.extend(asked.upgrade.map(|protocol| (UPGRADE, protocol.clone())));
    }
    let keep_alive = noted.keeps_alive(status, is_http10);
    Ok(Some((ResponseHead { status, framing, keep_alive }, at)))
}

/// The status, and whether the version is 1.0 (RFC 9112 §4). The reason phrase may be missing, and so may the space before it.
fn status_line(line: &[u8]) -> Result<(StatusCode, bool), HeadError> {
    let Some([minor @ (b'0' | b'1'), b' ', code @ ..]) = line.strip_prefix(VERSION) else {
        return Err(HeadError::StatusLine);
    };
    let (code, reason) = code.split_at_checked(3).ok_or(HeadError::StatusLine)?;
    if !matches!(reason.first(), None | Some(b' ')) || !is_text(reason) {
        return Err(HeadError::StatusLine);
    }
    let status = StatusCode::from_bytes(code).map_err(|_| HeadError::StatusLine)?;
    if status.as_u16() > 599 {
        return Err(HeadError::Status(status.as_u16()));
    }
    Ok((status, *minor == b'0'))
}

/// Whether there is no control character, of which a carriage return would end a line for some readers.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t')
}

/// What a field is and its value, which is not judged: a folded line has no name, nor one with a space before the colon.
fn field(line: &[u8]) -> Result<(Role, &[u8]), HeadError> {
    let colon = memchr(b':', line).ok_or(HeadError::Field)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let role = match known(name) {
        Some(role) => role,
        None => Role::of(HeaderName::from_bytes(name).map_err(|_| HeadError::Field)?),
    };
    Ok((role, trimmed(value)))
}

/// Without the blanks around it, which are spaces and tabs only (RFC 9110 §5.6.3).
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// What a field of an answer is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    /// It concerns the connection, and nothing follows from it.
    Dropped,
    /// It is passed on.
    Kept(HeaderName),
}

impl Role {
    fn of(name: HeaderName) -> Self {
        match name.as_str() {
            "content-length" => Self::ContentLength,
            "transfer-encoding" => Self::TransferEncoding,
            "connection" => Self::Connection,
            "upgrade" => Self::Upgrade,
            text if fields::is_of_connection(text) => Self::Dropped,
            _ => Self::Kept(name),
        }
    }
}

/// The names that most answers have, in the spellings that servers use: found without being looked up letter by letter.
fn known(name: &[u8]) -> Option<Role> {
    // By length first, which leaves few to compare with.
    Some(match name.len() {
        4 => match name {
            b"Date" | b"date" => Role::Kept(DATE),
            b"ETag" | b"Etag" | b"etag" => Role::Kept(ETAG),
            b"Vary" | b"vary" => Role::Kept(VARY),
            _ => return None,
        },
        6 if name == b"Server" || name == b"server" => Role::Kept(SERVER),
        8 if name == b"Location" || name == b"location" => Role::Kept(LOCATION),
        10 => match name {
            b"Connection" | b"connection" => Role::Connection,
            b"Set-Cookie" | b"set-cookie" => Role::Kept(SET_COOKIE),
            _ => return None,
        },
        12 if name == b"Content-Type" || name == b"content-type" => Role::Kept(CONTENT_TYPE),
        13 => match name {
            b"Cache-Control" | b"cache-control" => Role::Kept(CACHE_CONTROL),
            b"Last-Modified" | b"last-modified" => Role::Kept(LAST_MODIFIED),
            _ => return None,
        },
        14 if name == b"Content-Length" || name == b"content-length" => Role::ContentLength,
        16 if name == b"Content-Encoding" || name == b"content-encoding" => Role::Kept(CONTENT_ENCODING),
        17 if name == b"Transfer-Encoding" || name == b"transfer-encoding" => Role::TransferEncoding,
        _ => return None,
    })
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
    fn note(&mut self, role: Role, value: &[u8]) -> Result<(), HeadError> {
        match role {
            Role::ContentLength => {
                if self.content_length.is_some() {
                    return Err(HeadError::ContentLength);
                }
                self.content_length = Some(decimal(value).ok_or(HeadError::ContentLength)?);
            }
            Role::TransferEncoding => {
                if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::TransferEncoding);
                }
                self.is_chunked = true;
            }
            // What most answers say, and nothing follows from it.
            Role::Connection if value == b"keep-alive" => {}
            Role::Connection => {
                for token in value.split(|byte| *byte == b',').map(trimmed) {
                    if token.eq_ignore_ascii_case(b"close") {
                        self.closes = true;
                    } else if token.eq_ignore_ascii_case(b"upgrade") {
                        self.upgrades = true;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") {
                        // The default, and nothing to remove: that field is dropped anyway.
                    } else if let Ok(name) = HeaderName::from_bytes(token) {
                        self.nominated.push(name);
                    } else if !is_text(token) {
                        return Err(HeadError::Field);
                    }
                }
            }
            // A second one is put behind the first, which then equals no protocol that was asked for.
            Role::Upgrade if is_text(value) => self.upgrade.get_or_insert_default().extend_from_slice(value),
            _ if is_text(value) => {}
            // Dropped or not, it is no field value.
            _ => return Err(HeadError::Field),
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
