//! The parts of a streaming answer, as far as they have to be known to end it between two of them: messages of gRPC, events of an
//! event stream. What they say is never looked at.

use bytes::Buf;
use http::HeaderValue;

/// How far the parts of one answer have come. Fed with every byte, in pieces of any size.
#[derive(Debug, Clone)]
pub(super) enum Parts {
    /// A call of gRPC over HTTP/2.
    Messages(Messages),
    /// `text/event-stream`.
    Events(Events),
    /// Nobody knows: it can only break off.
    Unknown,
}

/// Messages of gRPC: a byte, a length of four, so many bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Messages {
    /// The prefix of the current message, as far as it has come.
    prefix: [u8; PREFIX],
    /// How much of it.
    read: usize,
    /// Bytes of the message that are still to come, once the prefix is whole.
    left: usize,
}

const PREFIX: usize = 5;

/// Events of an event stream (HTML, server-sent events): lines, and an empty one after each.
#[derive(Debug, Clone, Default)]
pub(super) struct Events {
    /// A line of the current event has come.
    has_begun: bool,
    line: Line,
    /// A line feed that comes now belongs to the end of the line before.
    is_after_return: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Empty,
    /// It belongs to no event, so none is begun by it.
    Comment,
    Field,
}

impl Parts {
    /// By the type of an answer, which goes to a client of HTTP/2 or not: gRPC is nowhere else.
    pub(super) fn of(content_type: Option<&HeaderValue>, is_http2: bool) -> Self {
        match content_type {
            Some(value) if is_http2 && is_grpc(value) => Self::Messages(Messages::default()),
            Some(value) if is_type(value, b"text/event-stream") => Self::Events(Events::default()),
            _ => Self::Unknown,
        }
    }

    /// Whether a part has ended and none has begun.
    pub(super) fn is_between(&self) -> bool {
        match self {
            Self::Messages(messages) => messages.read == 0,
            Self::Events(events) => !events.has_begun && events.line == Line::Empty,
            Self::Unknown => false,
        }
    }

    /// Takes bytes up to the end of the current part at most; gives how many, which is none only of nothing.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> usize {
        match self {
            Self::Messages(messages) => messages.advance(bytes),
            Self::Events(events) => events.advance(bytes),
            Self::Unknown => bytes.len(),
        }
    }
}

impl Messages {
    fn advance(&mut self, bytes: &[u8]) -> usize {
        let missing = (PREFIX - self.read).min(bytes.len());
        self.prefix[self.read..][..missing].copy_from_slice(&bytes[..missing]);
        self.read += missing;
        if self.read < PREFIX {
            return missing;
        }
        if missing > 0 {
            // Four bytes are a `usize` wherever this runs.
            self.left = usize::try_from((&self.prefix[1..]).get_u32()).unwrap_or(usize::MAX);
        }
        let length = self.left.min(bytes.len() - missing);
        self.left -= length;
        if self.left == 0 {
            self.read = 0;
        }
        missing + length
    }
}

impl Events {
    fn advance(&mut self, bytes: &[u8]) -> usize {
        for (at, byte) in bytes.iter().enumerate() {
            let is_rest_of_end = *byte == b'\n' && self.is_after_return;
            self.is_after_return = *byte == b'\r';
            match byte {
                b'\n' if is_rest_of_end => continue,
                b'\n' | b'\r' => {
                    let was_between = !self.has_begun && self.line == Line::Empty;
                    // An empty line ends the event, any other is a line of it, but for a comment.
                    self.has_begun = match self.line {
                        Line::Empty => false,
                        Line::Comment => self.has_begun,
                        Line::Field => true,
                    };
                    self.line = Line::Empty;
                    if !was_between && !self.has_begun {
                        return at + 1;
                    }
                }
                b':' if self.line == Line::Empty => self.line = Line::Comment,
                _ if self.line == Line::Empty => self.line = Line::Field,
                _ => {}
            }
        }
        bytes.len()
    }
}

/// Whether a content type is that of gRPC: `application/grpc`, perhaps with a suffix (`+proto`) or parameters. That of gRPC-Web is
/// another.
pub fn is_grpc(content_type: &HeaderValue) -> bool {
    is_type(content_type, b"application/grpc")
}

fn is_type(value: &HeaderValue, name: &[u8]) -> bool {
    let Some((start, rest)) = value.as_bytes().split_at_checked(name.len()) else { return false };
    start.eq_ignore_ascii_case(name) && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Where it is between parts, when the bytes come in pieces of these sizes.
    fn ends(mut parts: Parts, bytes: &[u8], pieces: &[usize]) -> Vec<usize> {
        let (mut at, mut ends) = (0, Vec::new());
        for size in pieces.iter().chain(std::iter::repeat(&usize::MAX)) {
            let end = at + (*size).min(bytes.len() - at);
            while at < end {
                let taken = parts.advance(&bytes[at..end]);
                assert!(taken > 0);
                at += taken;
                if parts.is_between() {
                    ends.push(at);
                }
            }
            if at == bytes.len() {
                return ends;
            }
        }
        ends
    }

    fn events() -> Parts {
        Parts::Events(Events::default())
    }

    proptest! {
        #[test]
        fn messages_end_where_they_end_however_they_are_cut(
            sizes in prop::collection::vec(prop_oneof![0..20_usize, 250..70_000_usize], 0..6),
            pieces in prop::collection::vec(1..300_usize, 0..40),
        ) {
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for size in sizes {
                bytes.push(0);
                bytes.extend(u32::try_from(size).unwrap().to_be_bytes());
                bytes.resize(bytes.len() + size, 7);
                expected.push(bytes.len());
            }
            prop_assert_eq!(ends(Parts::Messages(Messages::default()), &bytes, &pieces), expected);
        }

        #[test]
        fn an_event_is_whole_where_it_is_said_to_be(text in "[a:\r\n]{0,40}", pieces in prop::collection::vec(1..5_usize, 0..40)) {
            for end in ends(events(), text.as_bytes(), &pieces) {
                // A return may be half of the end of a line.
                let rest = text[..end].replace("\r\n", "\n").replace('\r', "\n");
                let open: Vec<_> = rest.rsplit("\n\n").next().unwrap().trim_start_matches('\n').lines().collect();
                prop_assert!(rest.ends_with('\n') || rest.is_empty());
                prop_assert!(open.iter().all(|line| line.is_empty() || line.starts_with(':')) , "{:?}", &text[..end]);
            }
        }
    }

    #[test]
    fn an_event_ends_with_an_empty_line_however_lines_end() {
        for text in ["data: 1\n\ndata: 2\n\n", "data: 1\r\rdata: 2\r\r"] {
            assert_eq!(ends(events(), text.as_bytes(), &[]), [9, 18], "{text:?}");
        }
        let text = "data: 1\r\n\r\ndata: 2\r\n\r\n";
        // The line feed behind is part of the end.
        assert_eq!(ends(events(), text.as_bytes(), &[]), [10, 21, 22]);
        assert!(ends(events(), b"id: 1\ndata: 1\n", &[5, 5]).is_empty());
    }

    #[test]
    fn a_comment_begins_no_event_and_ends_none() {
        assert_eq!(ends(events(), b": ping\n", &[]), [7]);
        assert!(ends(events(), b": ping", &[]).is_empty());
        assert_eq!(ends(events(), b": ping\ndata: 1\n\n", &[]), [7, 16]);
        assert_eq!(ends(events(), b"data: 1\n: ping\n\n", &[8, 7]), [16]);
    }

    #[test]
    fn types_are_told_apart_by_the_whole_name() {
        let of = |text, is_http2| Parts::of(Some(&HeaderValue::from_static(text)), is_http2);
        for text in ["application/grpc", "application/grpc+proto", "Application/gRPC; a=b"] {
            assert!(matches!(of(text, true), Parts::Messages(_)), "{text}");
            assert!(matches!(of(text, false), Parts::Unknown), "{text}");
        }
        for text in ["application/grpc-web", "application/grpc-web+proto", "application/grp", "text/event-streams", ""]
        {
            assert!(matches!(of(text, true), Parts::Unknown), "{text}");
        }
        assert!(matches!(of("text/event-stream;charset=utf-8", false), Parts::Events(_)));
        assert!(matches!(Parts::of(None, true), Parts::Unknown));
    }
}
