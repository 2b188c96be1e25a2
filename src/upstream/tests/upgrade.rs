//! Connections that switch protocols.

use super::{Call, Fake, Notes, Peer, chain, get, on_worker};
use crate::base::tick::TICK;
use crate::config::Upgrade;
use crate::upstream::{Answer, Cut, Pools, SendError, Upgraded, Upstream, tunnel};
use http::{HeaderMap, HeaderValue};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;
use tokio::time::Instant;

pub(super) const IDLE: Duration = Duration::from_secs(25);
pub(super) const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";

fn websocket() -> Call {
    Call { upgrade: Some(HeaderValue::from_static("websocket")), ..get("/chat") }
}

pub(super) async fn switch(pools: &Pools, upstream: &Arc<Upstream>) -> Result<(HeaderMap, Upgraded), SendError> {
    let mut fields = HeaderMap::new();
    match websocket().send(pools, upstream, &mut fields).await? {
        Answer::Switched(io) => Ok((fields, io)),
        Answer::Response { status, .. } => panic!("{status}"),
    }
}

async fn echo(mut peer: Peer, notes: Notes) {
    notes.add(peer.read_head().await.unwrap());
    peer.write([SWITCH, "early"].concat()).await;
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = peer.io.read(&mut buffer).await {
        peer.write(&buffer[..length]).await;
    }
    peer.write("bye").await;
    notes.add("ended");
}

#[tokio::test]
async fn bytes_pass_both_ways_and_so_do_the_ends() {
    on_worker(async || {
        let fake = Fake::start(echo).await;
        let (pools, upstream) = (Pools::new(), fake.upstream());
        let (fields, io) = switch(&pools, &upstream).await.unwrap();
        assert_eq!(
            fake.notes(),
            ["GET /chat HTTP/1.1\r\nhost: orders.example\r\nconnection: upgrade\r\nupgrade: websocket"]
        );
        let field = |name: &str| fields[name].to_str().unwrap().to_owned();
        assert_eq!(
            [field("connection"), field("upgrade"), field("sec-websocket-accept")],
            ["upgrade", "websocket", "x"]
        );

        let (client, gateway) = tokio::io::duplex(64);
        let tunnel = spawn_local(async move { tunnel(gateway, io, Upgrade::WebSocket, IDLE, &Cut::default()).await });
        let (mut reader, mut writer) = tokio::io::split(client);
        let sent = vec![b'm'; 100_000];
        let copy = sent.clone();
        spawn_local(async move {
            writer.write_all(&copy).await.unwrap();
            // The end of this direction only.
            writer.shutdown().await.unwrap();
        });
        let mut received = Vec::new();
        reader.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, [b"early", &sent[..], b"bye"].concat());
        assert_eq!(tunnel.await.unwrap(), (100_000, 100_008));
        assert_eq!(pools.idle_connections(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    on_worker(async || {
        let fake = Fake::start(echo).await;
        let (_, io) = switch(&Pools::new(), &fake.upstream()).await.unwrap();
        let (mut client, gateway) = tokio::io::duplex(64);
        let tunnel = spawn_local(async move { tunnel(gateway, io, Upgrade::WebSocket, IDLE, &Cut::default()).await });
        client.read_exact(&mut [0; 5]).await.unwrap();
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            client.write_all(b"m").await.unwrap();
            client.read_u8().await.unwrap();
        }
        let start = Instant::now();
        assert_eq!(tunnel.await.unwrap(), (3, 8));
        assert!(start.elapsed() >= IDLE && start.elapsed() <= IDLE + 5 * TICK, "{:?}", start.elapsed());
        fake.noted("ended").await;
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_ends_when_either_side_breaks() {
    on_worker(async || {
        let fake = Fake::start(echo).await;
        let (_, io) = switch(&Pools::new(), &fake.upstream()).await.unwrap();
        let (client, gateway) = tokio::io::duplex(2);
        let tunnel = spawn_local(async move { tunnel(gateway, io, Upgrade::WebSocket, IDLE, &Cut::default()).await });
        drop(client);
        tunnel.await.unwrap();
        fake.noted("ended").await;
    })
    .await;
}

#[tokio::test]
async fn a_switch_to_anything_but_what_was_asked_for_is_refused() {
    on_worker(async || {
        for answer in [
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket, h2c\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        ] {
            let fake = Fake::canned(answer).await;
            let error = switch(&Pools::new(), &fake.upstream()).await.expect_err(answer);
            assert!(chain(&error).contains("switches to a protocol"), "{answer:?}: {}", chain(&error));
            fake.noted("end").await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_may_decline_to_switch() {
    on_worker(async || {
        let fake = Fake::canned("HTTP/1.1 426 Upgrade Required\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nno").await;
        let pools = Pools::new();
        let Ok(Answer::Response { status, .. }) =
            websocket().send(&pools, &fake.upstream(), &mut HeaderMap::new()).await
        else {
            panic!("no response")
        };
        assert_eq!(status, 426);
        assert_eq!(pools.idle_connections(), 1);
    })
    .await;
}
