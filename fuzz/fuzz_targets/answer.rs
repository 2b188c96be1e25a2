//! Whatever answer Postern takes, hyper's client takes too and reads as the same: status, fields, body, trailers, where it ends,
//! and whether the connection may be used again. Postern may refuse what hyper takes.
//!
//! What may differ in an answer that is taken, all of it something that Postern leaves out:
//! - fields that concern one connection (RFC 9110 §7.6.1), those that `Connection` names, and trailers that may not stand there
//!   (RFC 9110 §6.5.1);
//! - `Content-Length`: a body tells its length itself. Where none follows, it stands there as a plain number, but never beside 204;
//! - a connection that hyper would use again: HTTP/1.0's, one with a body beside 204, one whose `Connection: close` holds more
//!   bytes than ASCII;
//! - the two largest lengths that fit 64 bits, which hyper has taken for itself.
#![no_main]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::rt::{Read, ReadBufCursor, Write};
use libfuzzer_sys::fuzz_target;
use postern::upstream::{Chunk, ChunkDecoder, Framing, is_forbidden_trailer, parse_response_head};
use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// As many as Postern takes.
const MAX_FIELDS: usize = 128;
const MAX_INTERIM: usize = 16;
/// How often hyper's connection is polled behind an answer, until it knows whether it goes on.
const MAX_ROUNDS: usize = 4;
const PROTOCOL: &str = "websocket";

/// What a reader made of an answer.
struct Answer {
    status: StatusCode,
    fields: HeaderMap,
    framing: Framing,
    /// What was handed out as body; of a tunnel, what came through it.
    body: Vec<u8>,
    trailers: HeaderMap,
    /// Whether the body ended as it should.
    is_whole: bool,
    /// Whether that was so before the connection ended.
    ends_itself: bool,
    is_reusable: bool,
}

fuzz_target!(|input: (u8, &[u8])| {
    let (flags, data) = input;
    let method = if flags & 1 == 1 { Method::HEAD } else { Method::GET };
    let upgrade = (flags & 2 == 2).then_some(HeaderValue::from_static(PROTOCOL));
    let Some(ours) = read_by_postern(data, &method, upgrade.as_ref()) else { return };
    if matches!(ours.framing, Framing::Length(length) if length > u64::MAX - 2) {
        return;
    }
    let theirs = read_by_hyper(data, &method).expect("hyper refuses the head");
    assert_eq!(ours.status, theirs.status);
    assert_eq!(ours.fields, passed_on(&theirs, &ours));
    if !ours.is_whole {
        // Cut off or refused half way: what was handed out until then is the same.
        assert!(theirs.body.starts_with(&ours.body));
        return;
    }
    assert!(theirs.is_whole);
    assert_eq!(ours.body, theirs.body);
    let mut trailers = theirs.trailers;
    for name in ours.trailers.keys() {
        assert!(!is_forbidden_trailer(name));
    }
    for name in trailers.keys().cloned().collect::<Vec<_>>() {
        if is_forbidden_trailer(&name) {
            trailers.remove(name);
        }
    }
    assert_eq!(ours.trailers, trailers);
    assert_eq!(ours.ends_itself, theirs.ends_itself);
    assert!(!ours.is_reusable || theirs.is_reusable);
});

/// The fields of an answer as hyper read it that Postern passes on. A map compares the values of each name in their order, and no
/// other order has a meaning (RFC 9110 §5.3).
fn passed_on(read: &Answer, ours: &Answer) -> HeaderMap {
    let named: Vec<String> = read
        .fields
        .get_all("connection")
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(|token| String::from_utf8_lossy(token).trim_matches([' ', '\t']).to_ascii_lowercase())
        .filter(|token| token != "close")
        .collect();
    let is_kept = |name: &HeaderName| {
        let of_connection = ["connection", "keep-alive", "te", "transfer-encoding", "upgrade", "host"];
        !of_connection.contains(&name.as_str())
            && !name.as_str().starts_with("proxy-")
            && !named.iter().any(|n| n == name.as_str())
    };
    let mut kept = HeaderMap::new();
    for (name, value) in read.fields.iter().filter(|(name, _)| is_kept(name)) {
        if name != "content-length" {
            kept.append(name, value.clone());
        } else if matches!(ours.framing, Framing::Empty | Framing::Length(0)) && ours.status != StatusCode::NO_CONTENT {
            let length: u64 = value.to_str().unwrap().parse().unwrap();
            assert!(kept.insert(name, HeaderValue::from(length)).is_none());
        }
    }
    if ours.framing == Framing::Tunnel {
        kept.insert("connection", HeaderValue::from_static("upgrade"));
        kept.insert("upgrade", HeaderValue::from_static(PROTOCOL));
    }
    kept
}

/// What Postern makes of an answer that is followed by the end of the connection; `None` where it refuses the head.
fn read_by_postern(mut rest: &[u8], method: &Method, upgrade: Option<&HeaderValue>) -> Option<Answer> {
    let mut interim = 0;
    let (head, fields) = loop {
        let (head, fields, length) = parse_response_head(rest, method == Method::HEAD, upgrade).ok()??;
        rest = &rest[length..];
        if !head.status.is_informational() || head.framing == Framing::Tunnel {
            break (head, fields);
        }
        interim += 1;
        if interim > MAX_INTERIM {
            return None;
        }
    };
    let (mut body, mut trailers, mut is_whole) = (Vec::new(), HeaderMap::new(), true);
    match head.framing {
        Framing::Empty => {}
        Framing::Length(length) => {
            let here = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
            is_whole = here as u64 == length;
            body.extend_from_slice(&rest[..here]);
            rest = &rest[here..];
        }
        Framing::UntilClose | Framing::Tunnel => {
            body.extend_from_slice(rest);
            rest = &[];
        }
        Framing::Chunked => {
            let (mut decoder, mut input) = (ChunkDecoder::default(), Bytes::copy_from_slice(rest));
            is_whole = loop {
                match decoder.decode(&mut input) {
                    Ok(Some(Chunk::Data(data))) => body.extend_from_slice(&data),
                    Ok(Some(Chunk::End(given))) => {
                        trailers = given;
                        break true;
                    }
                    Ok(None) | Err(_) => break false,
                }
            };
            rest = &rest[rest.len() - input.len()..];
        }
    }
    let ends_itself = is_whole && head.framing != Framing::UntilClose;
    let is_reusable = ends_itself && head.framing != Framing::Tunnel && head.keep_alive && rest.is_empty();
    let (status, framing) = (head.status, head.framing);
    Some(Answer { status, fields, framing, body, trailers, is_whole, ends_itself, is_reusable })
}

/// The same by hyper's client.
fn read_by_hyper(data: &[u8], method: &Method) -> Option<Answer> {
    let has_ended = Rc::new(Cell::new(false));
    let memory = Memory { unread: data, is_asked: false, has_ended: Rc::clone(&has_ended) };
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&woken));
    let cx = &mut Context::from_waker(&waker);

    let Poll::Ready(Ok((mut sender, mut connection))) =
        pin!(http1::Builder::new().max_headers(MAX_FIELDS).handshake::<_, Empty<Bytes>>(memory)).poll(cx)
    else {
        panic!("there is nothing to wait for in a handshake");
    };
    let request = Request::builder().method(method).uri("/").version(Version::HTTP_11).header("host", "a");
    let answer = async {
        let response = sender.send_request(request.body(Empty::new()).unwrap()).await.ok()?;
        let (head, mut incoming) = response.into_parts();
        let (mut body, mut trailers, mut is_whole) = (Vec::new(), HeaderMap::new(), true);
        while let Some(frame) = incoming.frame().await {
            match frame.map(|frame| frame.into_data().map_err(|frame| frame.into_trailers())) {
                Ok(Ok(data)) => body.extend_from_slice(&data),
                Ok(Err(Ok(given))) => trailers = given,
                Ok(Err(Err(_))) => panic!("a frame of no kind"),
                Err(_) => {
                    is_whole = false;
                    break;
                }
            }
        }
        let ends_itself = is_whole && !has_ended.get();
        let (status, framing) = (head.status, Framing::Empty); // how it is framed hyper does not say
        let fields = head.headers;
        Some(Answer { status, fields, framing, body, trailers, is_whole, ends_itself, is_reusable: false })
    };
    let mut answer = Box::pin(answer);
    let mut is_over = false;
    let read = loop {
        let was_woken = woken.0.swap(false, Ordering::Relaxed);
        if !was_woken && has_ended.replace(true) {
            panic!("hyper waits after the end");
        }
        is_over = is_over || connection.poll_without_shutdown(cx).is_ready();
        if let Poll::Ready(read) = answer.as_mut().poll(cx) {
            break read;
        }
    };
    drop(answer);
    let mut read = read?;
    for _ in 0..MAX_ROUNDS {
        is_over = is_over || connection.poll_without_shutdown(cx).is_ready();
    }
    read.is_reusable = read.ends_itself && !is_over && sender.is_ready();
    if read.status == StatusCode::SWITCHING_PROTOCOLS {
        assert!(is_over);
        let parts = connection.into_parts();
        read.body = [&parts.read_buf, parts.io.unread].concat();
    }
    Some(read)
}

/// A connection on which an answer is ready once something was asked, and which ends when it is told to.
struct Memory<'a> {
    unread: &'a [u8],
    is_asked: bool,
    has_ended: Rc<Cell<bool>>,
}

impl Read for Memory<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if !self.is_asked || self.unread.is_empty() && !self.has_ended.get() {
            return Poll::Pending;
        }
        let (now, later) = self.unread.split_at(buf.remaining().min(self.unread.len()));
        buf.put_slice(now);
        self.unread = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
