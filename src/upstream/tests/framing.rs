//! What of an answer is accepted, and how it is read.

use super::{Fake, fetch, get, on_worker, request};
use crate::upstream::{Framing, Pools, parse_response_head};
use http::{HeaderValue, Method};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Answers that two readers could understand differently, and answers that are none.
const REFUSED: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 5 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: \r\n\r\nhello",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "HTTP/1.1 200 OK\r\nX-A: a\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\nok",
    "HTTP/1.1 200 OK\r\nX-A: a\rX-Split: evil\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nKeep-Alive: a\rX-Split: evil\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nConnection: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nConnection: close\r\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 O\rK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX-Nul: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 O\0K\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX-A: a\r\n folded\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\n X-A: a\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nNo colon\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\n: empty\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 000 Zero\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 600 High\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 20 Short\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 2000 Long\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/0.9 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "<html>an answer of HTTP/0.9</html>\r\n\r\n",
    "\x16\x03\x01 this is not HTTP\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\nConnection: Upgrade\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\n\r\n",
];

#[tokio::test]
async fn an_answer_that_could_be_read_in_two_ways_is_refused_and_its_connection_closed() {
    on_worker(async || {
        for answer in REFUSED {
            let fake = Fake::canned(*answer).await;
            let (pools, upstream) = (Pools::new(), fake.upstream());
            let error = fetch(&pools, &upstream, get("/")).await.expect_err(answer);
            assert!(error.starts_with("the upstream failed"), "{answer:?}: {error}");
            assert_eq!(pools.idle_connections(), 0, "{answer:?}");
            assert_eq!(fake.connections(), 1, "asked again after {answer:?}");
            fake.noted("end").await;
        }
    })
    .await;
}

#[tokio::test]
async fn endless_heads_and_too_many_fields_are_refused() {
    on_worker(async || {
        let long = format!("HTTP/1.1 200 OK\r\nX-Big: {}\r\nContent-Length: 2\r\n\r\nok", "a".repeat(2_000_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", "x: y\r\n".repeat(128));
        let hints = format!(
            "{}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(2000)
        );
        for answer in [long, many, hints] {
            let fake = Fake::canned(answer).await;
            let error = fetch(&Pools::new(), &fake.upstream(), get("/")).await.unwrap_err();
            assert!(error.starts_with("the upstream failed: the head of the answer is refused"), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn interim_responses_are_skipped() {
    on_worker(async || {
        let fake = Fake::canned(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let answer = fetch(&Pools::new(), &fake.upstream(), get("/")).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"ok"[..]));
        assert!(!answer.fields.contains_key("link"));
    })
    .await;
}

#[tokio::test]
async fn an_answer_in_pieces_of_one_byte_is_read_like_one_in_one_piece() {
    on_worker(async || {
        let answer = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
                      5;ext=1\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 7\r\nContent-Length: 3\r\n\r\n";
        let fake = Fake::start(move |mut peer, _| async move {
            while peer.read_head().await.is_some() {
                for byte in answer.as_bytes() {
                    peer.write([*byte]).await;
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
        })
        .await;
        let (pools, upstream) = (Pools::new(), fake.upstream());
        let answer = fetch(&pools, &upstream, get("/")).await.unwrap();
        assert_eq!(&answer.body[..], b"hello!");
        assert_eq!(answer.trailers.len(), 1);
        assert_eq!(answer.trailers["x-sum"], "7");
        assert_eq!(answer.fields["trailer"], "x-sum");
        assert_eq!(pools.idle_connections(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_not_taken_for_whole() {
    on_worker(async || {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npartial",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\npartial\r\n0\r\n",
            "HTTP/1.1 200 OK\r\nContent-Le",
            "",
        ] {
            let fake = Fake::start(move |mut peer, _| async move {
                peer.read_head().await;
                peer.write(answer).await;
            })
            .await;
            let error = fetch(&Pools::new(), &fake.upstream(), get("/")).await.expect_err(answer);
            let expected = ["ended the body too early", "closed before the answer"];
            assert!(expected.iter().any(|text| error.contains(text)), "{answer:?}: {error}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_in_bad_chunks_fails_and_closes_the_connection() {
    on_worker(async || {
        let fake = Fake::canned("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nhello\r\n0\r\n\r\n").await;
        let pools = Pools::new();
        let error = fetch(&pools, &fake.upstream(), get("/")).await.unwrap_err();
        assert!(error.contains("no hexadecimal number"), "{error}");
        fake.noted("end").await;
        assert_eq!(pools.idle_connections(), 0);
    })
    .await;
}

#[tokio::test]
async fn answers_without_a_body_keep_their_length_and_their_connection() {
    on_worker(async || {
        for (method, answer, length) in [
            (Method::HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", Some("1000")),
            (Method::HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
            (Method::HEAD, "HTTP/1.1 200 OK\r\n\r\n", None),
            (Method::GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n", Some("1000")),
            (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", None),
            (Method::GET, "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", None),
            (Method::GET, "HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", Some("0")),
            (Method::HEAD, "HTTP/1.1 200\r\nContent-Length: 0012\r\n\r\n", Some("12")),
        ] {
            let fake = Fake::canned(answer).await;
            let (pools, upstream) = (Pools::new(), fake.upstream());
            for _ in 0..2 {
                let whole = fetch(&pools, &upstream, request(method.clone(), "/")).await.unwrap();
                assert_eq!(whole.body.len(), 0, "{answer:?}");
                let given = whole.fields.get("content-length").map(|value| value.to_str().unwrap());
                assert_eq!(given, length, "{answer:?}");
            }
            assert_eq!(fake.connections(), 1, "{answer:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn fields_of_the_connection_are_not_passed_on_and_others_are_as_they_came() {
    on_worker(async || {
        let fake = Fake::canned(
            "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n\
             Proxy-Authenticate: Basic\r\nProxy-Connection: close\r\nTE: gzip\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n\
             X-Latin: caf\u{e9}\r\nX-Empty:\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let answer = fetch(&Pools::new(), &fake.upstream(), get("/")).await.unwrap();
        let mut names: Vec<_> = answer.fields.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["set-cookie", "x-empty", "x-latin"]);
        assert_eq!(answer.fields.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(answer.fields["x-latin"].as_bytes(), "caf\u{e9}".as_bytes());
    })
    .await;
}

#[tokio::test]
async fn hyper_reads_the_accepted_answers_the_same_way() {
    on_worker(async || {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 005\r\nX: y\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nh\r\n4\r\nello\r\n0\r\nX: y\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nuntil the end",
            "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.0 200 OK\r\n\r\nuntil the end",
            "HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 599\r\nContent-Length: 0\r\n\r\n",
        ] {
            let fake = Fake::start(move |mut peer, _| async move {
                peer.read_head().await;
                peer.write(answer).await;
            })
            .await;
            let ours = fetch(&Pools::new(), &fake.upstream(), get("/")).await.expect(answer);
            let (client, mut server) = tokio::io::duplex(4096);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
            tokio::task::spawn_local(async move { connection.await.ok() });
            tokio::task::spawn_local(async move {
                server.read_exact(&mut [0; 18]).await.unwrap();
                server.write_all(answer.as_bytes()).await.unwrap();
            });
            let sent = sender.send_request(http::Request::get("/").body(Empty::<bytes::Bytes>::new()).unwrap());
            let theirs = sent.await.unwrap();
            assert_eq!(ours.status, theirs.status(), "{answer:?}");
            assert_eq!(ours.body, theirs.into_body().collect().await.unwrap().to_bytes(), "{answer:?}");
        }
    })
    .await;
}

proptest! {
    #[test]
    fn any_bytes_are_either_a_head_or_not_and_no_part_of_a_head_is_one(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "HTTP/1\\.[01] [0-9]{3} ?[a-zA-Z\\r\\n\\x00]{0,4}\r\n([a-zA-Z-]{1,8}: ?[ -~\\t\\r\\n\\x00]{0,12}\r\n){0,4}\r\n"
                .prop_map(String::into_bytes),
            "HTTP/1\\.1 (101|200|204|304) OK\r\n(Content-Length: [0-9, +]{0,3}\r\n){0,2}\
             (Transfer-Encoding: (chunked|gzip|chunked, )\r\n){0,2}((Connection|Upgrade): (upgrade|close|websocket|x)\r\n){0,3}\r\n"
                .prop_map(String::into_bytes),
        ],
        is_head in any::<bool>(),
        asks in any::<bool>(),
    ) {
        let upgrade = asks.then(|| HeaderValue::from_static("websocket"));
        let whole = parse_response_head(&bytes, is_head, upgrade.as_ref());
        if let Ok(Some((head, _, length))) = &whole {
            for cut in 0..*length {
                prop_assert!(matches!(parse_response_head(&bytes[..cut], is_head, upgrade.as_ref()), Ok(None)));
            }
            prop_assert!((100..=599).contains(&head.status.as_u16()));
            prop_assert!(asks || head.framing != Framing::Tunnel);
            let text = String::from_utf8_lossy(&bytes[..*length]).to_ascii_lowercase();
            prop_assert!(text.matches("\r\ncontent-length:").count() + text.matches("\r\ntransfer-encoding:").count() <= 1);
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']));
        }
    }
}
