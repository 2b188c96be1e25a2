//! The chunked transfer coding (RFC 9112 §7.1), read strictly: hexadecimal digits only, CRLF only, extensions dropped.

use crate::upstream::fields;
use crate::upstream::http1::head::{LineError, section_end};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The longest line that gives the size of a chunk, its extensions included.
const MAX_SIZE_LINE: usize = 1024;
/// The largest trailer section.
const MAX_TRAILERS: usize = 16 * 1024;
/// The most fields in it.
const MAX_TRAILER_FIELDS: usize = 64;
/// More digits than any chunk needs, few enough not to overflow.
const MAX_SIZE_DIGITS: usize = 15;

/// Takes the chunks off a body, however it is cut into pieces.
#[derive(Debug, Default)]
pub struct ChunkDecoder {
    state: State,
}

#[derive(Debug, Default)]
enum State {
    /// At the line that gives a size.
    #[default]
    Size,
    /// Inside a chunk, so many bytes before its end.
    Data(u64),
    /// At the CRLF behind a chunk.
    DataEnd,
    /// In the trailer section, whose first line not seen whole begins there.
    Trailers { line: usize },
    /// Behind it all.
    Ended,
}

/// What a [`ChunkDecoder`] found next.
#[derive(Debug, PartialEq)]
pub enum Chunk {
    /// Some bytes of the body; not always a whole chunk.
    Data(Bytes),
    /// The end, with the trailers that may be passed on.
    End(HeaderMap),
}

/// Why a chunk is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)] // The messages say it.
pub enum ChunkError {
    #[error("the size of a chunk is no hexadecimal number")]
    Size,
    #[error("the extension of a chunk holds a control character")]
    Extension,
    #[error("a chunk does not end where its size says")]
    End,
    #[error("a line of the chunked coding is refused")]
    Line(#[from] LineError),
    #[error("the trailer section is malformed: {0}")]
    Trailers(httparse::Error),
}

impl ChunkDecoder {
    /// Takes the next piece off `input`. `None`: more input is needed; what is left of it belongs in front of that.
    ///
    /// # Errors
    /// Malformed input. The decoder must not be used any more.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Chunk>, ChunkError> {
        loop {
            match &mut self.state {
                State::Size => {
                    let Some(size) = take_size(input)? else { return Ok(None) };
                    self.state = if size == 0 { State::Trailers { line: 0 } } else { State::Data(size) };
                }
                State::Data(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                    *left -= length as u64;
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(Some(Chunk::Data(input.split_to(length))));
                }
                State::DataEnd => {
                    match &input[..input.len().min(2)] {
                        b"\r\n" => input.advance(2),
                        b"" | b"\r" => return Ok(None),
                        _ => return Err(ChunkError::End),
                    }
                    self.state = State::Size;
                }
                State::Trailers { line } => {
                    let Some(end) = section_end(input, line, MAX_TRAILERS)? else { return Ok(None) };
                    let trailers = parse_trailers(&input.split_to(end))?;
                    self.state = State::Ended;
                    return Ok(Some(Chunk::End(trailers)));
                }
                State::Ended => return Ok(Some(Chunk::End(HeaderMap::new()))),
            }
        }
    }
}

/// Takes a size line off `input`, if it is there as a whole.
fn take_size(input: &mut Bytes) -> Result<Option<u64>, ChunkError> {
    let window = &input[..input.len().min(MAX_SIZE_LINE)];
    let Some(line_feed) = window.iter().position(|byte| *byte == b'\n') else {
        if window.len() == MAX_SIZE_LINE {
            return Err(LineError::TooLong(MAX_SIZE_LINE).into());
        }
        return Ok(None);
    };
    let Some(line) = window[..line_feed].strip_suffix(b"\r") else { return Err(LineError::BareLineFeed.into()) };
    let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    if digits == 0 || digits > MAX_SIZE_DIGITS || !matches!(line.get(digits), None | Some(b';')) {
        return Err(ChunkError::Size);
    }
    if line[digits..].iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(ChunkError::Extension);
    }
    let size = line[..digits]
        .iter()
        .filter_map(|digit| char::from(*digit).to_digit(16))
        .fold(0, |size, digit| size << 4 | u64::from(digit));
    input.advance(line_feed + 1);
    Ok(Some(size))
}

/// The fields of a whole trailer section that may be passed on.
fn parse_trailers(section: &Bytes) -> Result<HeaderMap, ChunkError> {
    let mut trailers = HeaderMap::new();
    if section.len() == 2 {
        return Ok(trailers);
    }
    let mut slots = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let parsed = match httparse::parse_headers(section, &mut slots).map_err(ChunkError::Trailers)? {
        httparse::Status::Complete((length, parsed)) if length == section.len() => parsed,
        _ => return Err(ChunkError::Trailers(httparse::Error::NewLine)),
    };
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(section.slice_ref(field.value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(ChunkError::Trailers(httparse::Error::HeaderName));
        };
        if !fields::is_forbidden_trailer(&name) {
            trailers.append(name, value);
        }
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body, its trailers and what is left of the input; `None` where it wants more.
    type Decoded = Result<Option<(Vec<u8>, Vec<String>, Vec<u8>)>, ChunkError>;

    /// Decodes pieces as a connection would: what is left goes in front of the next piece.
    fn decode(pieces: &[&[u8]]) -> Decoded {
        let (mut decoder, mut body, mut rest) = (ChunkDecoder::default(), Vec::new(), Bytes::new());
        let mut ended = None;
        for piece in pieces {
            let mut input = Bytes::from([&rest[..], piece].concat());
            while ended.is_none() {
                match decoder.decode(&mut input)? {
                    Some(Chunk::Data(data)) => body.extend_from_slice(&data),
                    Some(Chunk::End(trailers)) => {
                        ended = Some(trailers.iter().map(|(n, v)| format!("{n}={}", v.to_str().unwrap())).collect());
                    }
                    None => break,
                }
            }
            rest = input;
        }
        Ok(ended.map(|trailers| (body, trailers, rest.to_vec())))
    }

    #[test]
    fn chunks_extensions_and_trailers_are_read() {
        let input =
            b"5\r\nhello\r\n1;a=b;c=\"d;e\"\r\n \r\n00a\r\n0123456789\r\n0\r\nGrpc-Status: 0\r\nHost: x\r\n\r\nnext";
        let (body, trailers, rest) = decode(&[input]).unwrap().unwrap();
        assert_eq!(body, b"hello 0123456789");
        assert_eq!(trailers, ["grpc-status=0"]);
        assert_eq!(rest, b"next");
    }

    #[test]
    fn a_chunk_that_two_parsers_could_read_differently_is_refused() {
        let refused: &[&[u8]] = &[
            b"\r\n",
            b"5\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5 ;a\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"g\r\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            b"5;a\0b\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello!\r\n0\r\n\r\n",
            b"5\r\nhello0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhello\r0\r\n\r\n",
            b"0\r\n\n",
            b"0\r\nx: y\n\r\n",
            b"0\r\nx : y\r\n\r\n",
            b"0\r\nx: y\r\n z\r\n\r\n",
            b"0\r\nx: \0\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"0000000000000001\r\n",
        ];
        for input in refused {
            assert!(decode(&[input]).is_err(), "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn endless_size_lines_and_trailers_are_refused() {
        let line = [b"1;".as_slice(), &[b'a'; MAX_SIZE_LINE]].concat();
        assert_eq!(decode(&[&line]), Err(LineError::TooLong(MAX_SIZE_LINE).into()));
        let trailers = [b"0\r\nx: ".as_slice(), &[b'a'; MAX_TRAILERS]].concat();
        assert_eq!(decode(&[&trailers]), Err(LineError::TooLong(MAX_TRAILERS).into()));
        let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(MAX_TRAILER_FIELDS + 1));
        assert_eq!(decode(&[many.as_bytes()]), Err(ChunkError::Trailers(httparse::Error::TooManyHeaders)));
    }

    #[test]
    fn a_body_that_stops_anywhere_has_not_ended() {
        let input = b"5\r\nhello\r\n0\r\nx: y\r\n\r\n";
        for cut in 0..input.len() {
            assert_eq!(decode(&[&input[..cut]]), Ok(None), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_read_alike(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..64),
                proptest::collection::vec(proptest::sample::select(b"0123aF;\r\n x:=\0".as_slice()), 0..64),
                Just(b"5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nx: y\r\n\r\nrest".to_vec()),
            ],
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            places.sort_unstable();
            places.push(bytes.len());
            let mut start = 0;
            let mut pieces = Vec::new();
            for place in places {
                pieces.push(&bytes[start..place]);
                start = place;
            }
            prop_assert_eq!(decode(&pieces), decode(&[&bytes]));
        }
    }
}
