//! An HTTP/1.1 client that sends whatever bytes it is given.

use super::PATIENCE;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

/// One connection, with or without TLS.
pub(crate) struct Client {
    io: BufReader<Box<dyn Stream>>,
    tcp: TcpStream,
}

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// What came of a handshake.
pub(crate) struct Handshake {
    /// The certificate that the server showed, in DER.
    pub(crate) certificate: Vec<u8>,
    pub(crate) is_resumed: bool,
}

/// One answer, read whole.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Lines of the head after the first, as sent.
    pub(crate) lines: Vec<String>,
    pub(crate) body: Vec<u8>,
    /// Lines behind the last chunk.
    pub(crate) trailers: Vec<String>,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let tcp = connect(addr);
        let io: Box<dyn Stream> = Box::new(tcp.try_clone().unwrap());
        Self { io: BufReader::new(io), tcp }
    }

    /// Over TLS.
    pub(crate) fn connect_tls(addr: SocketAddr, config: Arc<ClientConfig>) -> Self {
        Self::shake_hands(addr, &config, "localhost").unwrap().0
    }

    /// Over TLS, asking for this host. Also what came of the handshake, which the server may refuse.
    pub(crate) fn shake_hands(
        addr: SocketAddr,
        config: &Arc<ClientConfig>,
        host: &'static str,
    ) -> io::Result<(Self, Handshake)> {
        let tcp = connect(addr);
        let mut tls = ClientConnection::new(Arc::clone(config), host.try_into().unwrap()).unwrap();
        while tls.is_handshaking() {
            tls.complete_io(&mut &tcp)?;
        }
        let certificate = tls.peer_certificates().unwrap()[0].to_vec();
        let is_resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let io: Box<dyn Stream> = Box::new(StreamOwned::new(tls, tcp.try_clone().unwrap()));
        Ok((Self { io: BufReader::new(io), tcp }, Handshake { certificate, is_resumed }))
    }

    /// `GET /x` of this host with these lines in its head.
    pub(crate) fn get_from(&mut self, host: &str, lines: &[&str]) -> Answer {
        self.send(head("GET", "/x", lines).replace("api.example", host));
        self.read()
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).unwrap();
    }

    /// The same to a gateway that may have seen enough.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let io = self.io.get_mut();
        io.write_all(bytes)?;
        io.flush()
    }

    /// `GET path` with these lines in its head.
    pub(crate) fn get(&mut self, path: &str, lines: &[&str]) -> Answer {
        self.send(head("GET", path, lines));
        self.read()
    }

    /// The next answer to anything but HEAD.
    pub(crate) fn read(&mut self) -> Answer {
        let mut answer = self.read_head();
        let has_no_body = matches!(answer.status, 100..200 | 204 | 304);
        if let Some(length) = answer.header("content-length").filter(|_| !has_no_body) {
            answer.body = vec![0; length.parse().unwrap()];
            self.io.read_exact(&mut answer.body).unwrap();
        } else if answer.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.read_chunk() {
                answer.body.extend_from_slice(&chunk);
            }
            answer.trailers = self.read_lines();
        } else if !has_no_body {
            self.io.read_to_end(&mut answer.body).unwrap();
        }
        answer
    }

    /// The next head, body not included.
    pub(crate) fn read_head(&mut self) -> Answer {
        let mut lines = self.read_lines();
        assert!(!lines.is_empty(), "the connection ended without an answer");
        let first = lines.remove(0);
        let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status in {first:?}"));
        Answer { status, lines, body: Vec::new(), trailers: Vec::new() }
    }

    /// The next chunk of a body; none is the end, behind which lines follow.
    pub(crate) fn read_chunk(&mut self) -> Option<Vec<u8>> {
        let mut line = String::new();
        self.io.read_line(&mut line).unwrap();
        let size =
            usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("no size of a chunk: {line:?}"));
        if size == 0 {
            return None;
        }
        let mut chunk = vec![0; size + 2];
        self.io.read_exact(&mut chunk).unwrap();
        chunk.truncate(size);
        Some(chunk)
    }

    /// So many bytes.
    pub(crate) fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.io.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// All that comes until the connection ends; a reset ends it too.
    pub(crate) fn read_rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.io.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the connection does not end: {error}"),
        }
        rest
    }

    /// Some bytes; none when the connection has ended, by a reset too.
    pub(crate) fn read_some(&mut self) -> usize {
        self.io.read(&mut [0; 64 * 1024]).unwrap_or(0)
    }

    /// Ends the client's half.
    pub(crate) fn finish(&mut self) {
        self.tcp.shutdown(Shutdown::Write).unwrap();
    }

    /// Lines up to an empty one; none at the end of the connection.
    pub(crate) fn read_lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            self.io.read_until(b'\n', &mut line).unwrap();
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if text.is_empty() {
                return lines;
            }
            lines.push(text);
        }
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(addr).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.set_write_timeout(Some(PATIENCE)).unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

/// A head with `Host`.
pub(crate) fn head(method: &str, path: &str, lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!("{method} {path} HTTP/1.1\r\nhost: api.example\r\n{lines}\r\n")
}

impl Answer {
    /// The value of a field; the first, if there are several.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.lines.iter().filter_map(|line| line.split_once(':'));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The status, and the reason where Postern refused; empty where it did not.
    pub(crate) fn outcome(&self) -> (u16, String) {
        (self.status, self.json()["reason"].as_str().unwrap_or_default().to_owned())
    }

    /// Asserts that the upstream answered.
    #[track_caller]
    pub(crate) fn passed(&self) {
        assert_eq!((self.status, self.json()["reason"].as_str()), (200, None), "{}", self.text());
    }

    /// Asserts that Postern refused, in the form that it promises.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, reason: &str) {
        assert_eq!(self.outcome(), (status, reason.to_owned()), "{self:?}");
        let body = self.json();
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!((&body["status"], &body["type"]), (&status.into(), &"about:blank".into()));
        assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"));
    }
}
