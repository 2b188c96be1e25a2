//! Bodies of requests, as a client sends them through hyper's server.

use super::{Call, Fake, chain, on_worker, respond};
use crate::upstream::{Body, KeepTrailer, Pools, RequestBody, Upstream};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::spawn_local;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A client's connection to a gateway that only forwards.
pub(super) struct Client {
    pub(super) io: DuplexStream,
    errors: Rc<RefCell<Vec<String>>>,
}

impl Client {
    pub(super) fn connect(pools: &Pools, upstream: &Arc<Upstream>, max_bytes: Option<u64>) -> Self {
        let (io, server) = tokio::io::duplex(64 * 1024);
        let errors = Rc::new(RefCell::new(Vec::new()));
        let noted = errors.clone();
        let (pools, upstream) = (pools.clone(), upstream.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (pools, upstream, noted) = (pools.clone(), upstream.clone(), noted.clone());
            async move {
                Ok::<_, Infallible>(respond(&pools, &upstream, to_outgoing(request, max_bytes)).await.unwrap_or_else(
                    |error| {
                        noted.borrow_mut().push(chain(&error));
                        Response::builder().status(502).body(Body::full("failed")).unwrap()
                    },
                ))
            }
        });
        spawn_local(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .half_close(true)
                .serve_connection(TokioIo::new(server), service);
            connection.await.ok()
        });
        Self { io, errors }
    }

    pub(super) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.io.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads until `end` has come.
    pub(super) async fn read_until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            let byte = self.io.read_u8().await;
            read.push(byte.unwrap_or_else(|_| {
                panic!("ended after {:?}, {:?}", String::from_utf8_lossy(&read), self.errors.borrow())
            }));
        }
        String::from_utf8(read).unwrap()
    }

    /// Waits for the error of a request.
    pub(super) async fn error(&self) -> String {
        while self.errors.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.errors.borrow_mut().remove(0)
    }
}

fn to_outgoing(request: Request<Incoming>, max_bytes: Option<u64>) -> Call {
    let (parts, body) = request.into_parts();
    Call {
        method: parts.method,
        target: parts.uri.path_and_query().unwrap().clone(),
        host: "orders.example".parse().unwrap(),
        fields: Vec::new(),
        upgrade: None,
        body: RequestBody::Incoming {
            body,
            max_bytes,
            keep_trailer: Some(KeepTrailer::new(|name| name != "x-auth-user")),
            cut: Rc::default(),
        },
    }
}

/// Notes each request's head and, in one more note, what came behind it until the connection was closed.
async fn recorder() -> Fake {
    Fake::start(|mut peer, notes| async move {
        while let Some(head) = peer.read_head().await {
            notes.add(head);
            notes.add(String::from_utf8(peer.read_rest().await).unwrap());
            notes.add("closed");
        }
    })
    .await
}

#[tokio::test]
async fn a_body_of_known_length_keeps_it_and_the_connection_is_reused() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, notes| async move {
            while let Some(head) = peer.read_head().await {
                let mut body = [0; 5];
                peer.io.read_exact(&mut body).await.unwrap();
                notes.add(format!("{head}\r\n\r\n{}", String::from_utf8_lossy(&body)));
                peer.write(OK).await;
            }
        })
        .await;
        let pools = Pools::new();
        let mut client = Client::connect(&pools, &fake.upstream(), Some(5));
        for _ in 0..2 {
            client.write("POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
            client.read_until("\r\n\r\nok").await;
        }
        let sent = "POST /p HTTP/1.1\r\nhost: orders.example\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(fake.notes(), [sent, sent]);
        assert_eq!(fake.connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_chunked_body_goes_on_in_chunks_with_the_trailers_that_may_pass() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, notes| async move {
            while let Some(head) = peer.read_head().await {
                notes.add(head);
                let mut body = Vec::new();
                while !body.ends_with(b"0\r\nx-sum: 1\r\n\r\n") {
                    body.push(peer.io.read_u8().await.unwrap());
                }
                notes.add(String::from_utf8(body).unwrap());
                peer.write(OK).await;
            }
        })
        .await;
        let pools = Pools::new();
        let mut client = Client::connect(&pools, &fake.upstream(), None);
        client.write("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        client.write("5;ext=1\r\nhello\r\n").await;
        fake.noted("PUT / HTTP/1.1\r\nhost: orders.example\r\ntransfer-encoding: chunked").await;
        client.write("c\r\n world again\r\n0\r\nX-Sum: 1\r\nX-Auth-User: root\r\nAuthorization: x\r\n\r\n").await;
        client.read_until("\r\n\r\nok").await;
        let body = fake.notes().remove(1);
        let expected = ["5\r\nhello\r\nc\r\n world again\r\n0\r\nx-sum: 1\r\n\r\n"];
        assert!(expected.contains(&body.as_str()), "{body:?}");
        assert_eq!(pools.idle_connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_body_that_the_client_breaks_off_is_not_completed_on_its_behalf() {
    on_worker(async || {
        for (start, passed) in [
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf", "half"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "4\r\nhalf\r\n"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n", "4\r\nhalf\r\n"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nx\r\n", "4\r\nhalf\r\n"),
        ] {
            let fake = recorder().await;
            let pools = Pools::new();
            let mut client = Client::connect(&pools, &fake.upstream(), None);
            client.write(start).await;
            client.io.shutdown().await.unwrap();
            let error = client.error().await;
            assert!(error.starts_with("the body of the request cannot be passed on"), "{start:?}: {error}");
            fake.noted("closed").await;
            assert!(passed.starts_with(&fake.notes()[1]), "{start:?}: {:?}", fake.notes());
            assert_eq!((pools.idle_connections(), fake.connections()), (0, 1));
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_sent_or_not_completed() {
    on_worker(async || {
        let fake = recorder().await;
        let pools = Pools::new();
        let mut client = Client::connect(&pools, &fake.upstream(), Some(4));
        client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").await;
        assert!(client.error().await.ends_with("larger than 4 bytes"));
        assert_eq!(fake.connections(), 0, "a length over the limit needs no upstream");

        let mut client = Client::connect(&pools, &fake.upstream(), Some(4));
        client.write("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n").await;
        while fake.connections() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        client.write("1\r\n!\r\n0\r\n\r\n").await;
        assert!(client.error().await.ends_with("larger than 4 bytes"));
        fake.noted("closed").await;
        assert_eq!(fake.notes()[1], "4\r\nfour\r\n");
    })
    .await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_passed_on_and_the_connection_closed() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, notes| async move {
            peer.read_head().await;
            peer.write("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
            peer.read_rest().await;
            notes.add("closed");
        })
        .await;
        let pools = Pools::new();
        let mut client = Client::connect(&pools, &fake.upstream(), None);
        client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nfirst").await;
        let answer = client.read_until("\r\n\r\nno").await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        fake.noted("closed").await;
        assert_eq!(pools.idle_connections(), 0);
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_answers_and_stops_reading_is_heard() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, _| async move {
            peer.read_head().await;
            peer.write("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").await;
            // Not read, not closed: the rest of the upload is stuck.
            std::future::pending::<()>().await;
        })
        .await;
        let pools = Pools::new();
        let client = Client::connect(&pools, &fake.upstream(), None);
        let (mut reader, mut writer) = tokio::io::split(client.io);
        spawn_local(async move {
            writer.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 67108864\r\n\r\n").await.unwrap();
            let block = vec![b'u'; 65536];
            while writer.write_all(&block).await.is_ok() {}
        });
        let mut start = [0; 12];
        reader.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 413");
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_answers_and_closes_is_heard() {
    on_worker(async || {
        let fake = Fake::start(|mut peer, _| async move {
            peer.read_head().await;
            peer.write("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").await;
            // Closed with most of the request unread, the connection is reset.
        })
        .await;
        let body = RequestBody::Full(vec![b'u'; 64 << 20].into());
        let upload = Call { body, ..super::request(http::Method::POST, "/") };
        let answer = super::fetch(&Pools::new(), &fake.upstream(), upload).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (413, &b"no"[..]));
    })
    .await;
}

#[tokio::test]
async fn a_request_goes_on_while_its_answer_is_coming() {
    on_worker(async || {
        // Echoes each byte at once: nothing works here unless both directions move together.
        let fake = Fake::start(|mut peer, _| async move {
            while peer.read_head().await.is_some() {
                peer.write("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n").await;
                for _ in 0..6 {
                    let byte = peer.io.read_u8().await.unwrap();
                    peer.write([byte]).await;
                }
            }
        })
        .await;
        let pools = Pools::new();
        let mut client = Client::connect(&pools, &fake.upstream(), None);
        client.write("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n").await;
        client.read_until("\r\n\r\n").await;
        for byte in "abcdef".chars() {
            client.write(byte.to_string()).await;
            assert_eq!(client.read_until(&byte.to_string()).await, byte.to_string());
        }
        while pools.idle_connections() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_large_upload_arrives_whole_and_waits_for_an_upstream_that_reads_late() {
    const SIZE: usize = 64 << 20;
    on_worker(async || {
        let fake = Fake::start(|mut peer, notes| async move {
            peer.read_head().await;
            notes.add("asked");
            tokio::time::sleep(Duration::from_secs(10)).await;
            notes.add("reading");
            let (mut total, mut buffer) = (0, vec![0; 65536]);
            while total < SIZE {
                total += peer.io.read(&mut buffer).await.unwrap();
            }
            peer.write(OK).await;
        })
        .await;
        let pools = Pools::new();
        let mut client = Client::connect(&pools, &fake.upstream(), None);
        client.write(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n")).await;
        let block = vec![b'u'; 65536];
        let mut written = 0;
        let mut written_early = None;
        while written < SIZE {
            client.write(&block).await;
            written += 65536;
            if written_early.is_none() && fake.notes().iter().any(|note| note == "reading") {
                written_early = Some(written);
            }
        }
        client.read_until("\r\n\r\nok").await;
        // What fits into the buffers of the sockets; without back-pressure it would be all.
        assert!(written_early.is_some_and(|bytes| bytes < SIZE / 2), "{written_early:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_arrives_whole_and_waits_for_a_client_that_reads_late() {
    const SIZE: usize = 64 << 20;
    on_worker(async || {
        for chunked in [false, true] {
            let fake = Fake::start(move |mut peer, notes| async move {
                peer.read_head().await;
                let framing =
                    if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {SIZE}") };
                peer.write(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await;
                let block = vec![b'd'; 65536];
                for round in 0..SIZE / 65536 {
                    if chunked {
                        peer.write("10000\r\n").await;
                    }
                    peer.write(&block).await;
                    if chunked {
                        peer.write("\r\n").await;
                    }
                    if round == SIZE / 65536 / 2 {
                        notes.add("half");
                    }
                }
                peer.write(if chunked { "0\r\n\r\n" } else { "" }).await;
                peer.read_rest().await;
            })
            .await;
            let pools = Pools::new();
            let response = respond(&pools, &fake.upstream(), super::get("/")).await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(fake.notes().is_empty(), "half of the body went somewhere before anybody read it");
            let mut body = response.into_body();
            let (mut total, mut largest) = (0, 0);
            while let Some(frame) = body.frame().await {
                let length = frame.unwrap().into_data().unwrap().len();
                total += length;
                largest = largest.max(length);
            }
            assert_eq!(total, SIZE);
            assert!(largest <= 65536 + 16384, "{largest}");
            assert_eq!(pools.idle_connections(), 1);
        }
    })
    .await;
}
