//! An upstream that records what it gets, to the byte.

use super::PATIENCE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

/// A server with a thread for each connection.
pub(crate) struct Upstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    is_over: AtomicBool,
}

/// One request as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The request line.
    pub(crate) line: String,
    /// Fields in their order, names as sent.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Lines behind the last chunk.
    pub(crate) trailers: Vec<String>,
}

/// One connection.
pub(crate) struct Peer {
    io: BufReader<TcpStream>,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Answers every request with `200` and `ok`.
    pub(crate) fn start() -> Self {
        Self::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    }

    /// Answers every request with the same bytes.
    pub(crate) fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::serving(move |mut peer| {
            while peer.read().is_some() {
                peer.send(&bytes);
            }
        })
    }

    /// Gives each connection to `serve`.
    pub(crate) fn serving(serve: impl Fn(Peer) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let upstream = Self { addr, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            while let Ok((io, _)) = listener.accept() {
                if shared.is_over.load(Ordering::SeqCst) {
                    return;
                }
                io.set_nodelay(true).unwrap();
                io.set_read_timeout(Some(3 * PATIENCE)).unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let peer = Peer { io: BufReader::new(io), shared: Arc::clone(&shared) };
                let serve = serve.clone();
                std::thread::spawn(move || serve(peer));
            }
        });
        upstream
    }

    /// Serves each connection like this, and tells of each when its gateway closed it.
    pub(crate) fn watched(serve: impl Fn(&mut Peer) + Clone + Send + 'static) -> (Self, Receiver<&'static str>) {
        let (tell, ends) = channel();
        let upstream = Self::serving(move |mut peer| {
            serve(&mut peer);
            while peer.read_bytes(1).is_some() {}
            let _ = tell.send("closed");
        });
        (upstream, ends)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// How many connections were opened.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The last request.
    #[track_caller]
    pub(crate) fn last(&self) -> Seen {
        self.shared.seen.lock().unwrap().last().cloned().expect("no request came")
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.addr);
    }
}

impl Peer {
    /// The next request, recorded; `None` at the end.
    pub(crate) fn read(&mut self) -> Option<Seen> {
        let mut seen = self.read_head()?;
        if let Some(length) = seen.header("content-length") {
            seen.body = vec![0; length.parse().unwrap()];
            self.io.read_exact(&mut seen.body).ok()?;
        } else if seen.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.read_chunk()? {
                seen.body.extend_from_slice(&chunk);
            }
            seen.trailers = self.read_lines()?;
        }
        self.record(seen.clone());
        Some(seen)
    }

    /// The next head, not recorded.
    pub(crate) fn read_head(&mut self) -> Option<Seen> {
        let mut lines = self.read_lines()?;
        if lines.is_empty() {
            return None;
        }
        let line = lines.remove(0);
        let field =
            |line: String| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned())).unwrap();
        let fields = lines.into_iter().map(field).collect();
        Some(Seen { line, fields, ..Seen::default() })
    }

    pub(crate) fn record(&self, seen: Seen) {
        self.shared.seen.lock().unwrap().push(seen);
    }

    /// `Some(None)` is the last chunk, `None` the end of the connection.
    pub(crate) fn read_chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let mut line = String::new();
        self.io.read_line(&mut line).ok()?;
        let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
        if size == 0 {
            return Some(None);
        }
        let mut chunk = vec![0; size + 2];
        self.io.read_exact(&mut chunk).ok()?;
        chunk.truncate(size);
        Some(Some(chunk))
    }

    /// So many bytes, or `None` at the end.
    pub(crate) fn read_bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.io.read_exact(&mut bytes).ok()?;
        Some(bytes)
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A gateway that has seen enough may have closed the connection.
        let _ = self.io.get_mut().write_all(bytes.as_ref());
    }

    /// Whether the gateway still takes bytes.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.io.get_mut().write_all(bytes).is_ok()
    }

    /// The next short frame of a WebSocket: its first byte, and its payload without the mask.
    pub(crate) fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.read_bytes(2)?;
        let mask = self.read_bytes(4)?;
        let mut payload = self.read_bytes(usize::from(head[1] & 0x7f))?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Some((head[0], payload))
    }

    fn read_lines(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            self.io.read_until(b'\n', &mut line).ok()?;
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
            if text.is_empty() {
                return Some(lines);
            }
            lines.push(text);
        }
    }
}

impl Seen {
    /// The value of a field; the first, if there are several.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The values of a field.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let is_it = move |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(is_it).map(|(_, value)| value.as_str())
    }

    /// What the bearer token says that was sent.
    #[track_caller]
    pub(crate) fn token(&self) -> postern::dev::Claims {
        postern::dev::decode(self.bearer()).expect("a token").1
    }

    /// The bearer token that was sent.
    #[track_caller]
    pub(crate) fn bearer(&self) -> &str {
        self.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).expect("a bearer token")
    }
}
