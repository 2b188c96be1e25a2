//! WebSockets that are cut: both sides are told between two frames, and have a grace.

use super::upgrade::{IDLE, SWITCH, switch};
use super::{Fake, Notes, Peer, on_worker};
use crate::base::tick::TICK;
use crate::config::Upgrade;
use crate::telemetry::reason::Reason;
use crate::upstream::websocket::{Frames, Sender};
use crate::upstream::{Cut, Pools, tunnel};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;

const GRACE: Duration = Duration::from_secs(5);

/// What a client is told.
const TOLD: &[u8] = b"\x88\x0f\x03\xf0user_inactive";

/// A frame of a client, with a mask of zeros, and one of a server.
const FROM_CLIENT: &[u8] = b"\x81\x85\0\0\0\0hello";
const FROM_SERVER: &[u8] = b"\x81\x05world";
const CLOSE_OF_CLIENT: &[u8] = b"\x88\x82\0\0\0\0\x03\xf0";
const CLOSE_OF_SERVER: &[u8] = b"\x88\x02\x03\xf0";

/// A tunnel between a client and an upstream that sends `first`, then notes in hexadecimal all that it gets, frame by frame.
struct Scene {
    fake: Fake,
    client: DuplexStream,
    cut: Rc<Cut>,
    tunnel: JoinHandle<(u64, u64)>,
}

impl Scene {
    async fn new(first: &'static [u8], answers: bool) -> Self {
        let fake = Fake::start(move |peer, notes| serve(peer, notes, first, answers)).await;
        let (_, io) = switch(&Pools::new(), &fake.upstream()).await.unwrap();
        let (client, gateway) = tokio::io::duplex(1 << 16);
        let cut = Rc::new(Cut::default());
        let watched = Rc::clone(&cut);
        let tunnel = spawn_local(async move { tunnel(gateway, io, Upgrade::WebSocket, IDLE, &watched).await });
        Self { fake, client, cut, tunnel }
    }

    /// Reads exactly this.
    async fn reads(&mut self, expected: &[u8]) {
        let mut read = vec![0; expected.len()];
        self.client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, expected);
    }

    /// How long it takes until the tunnel has ended, and what the client still got.
    async fn end(mut self) -> (Duration, Vec<u8>) {
        let start = Instant::now();
        self.tunnel.await.unwrap();
        let took = start.elapsed();
        let mut rest = Vec::new();
        self.client.read_to_end(&mut rest).await.unwrap();
        self.fake.noted("end").await;
        (took, rest)
    }
}

async fn serve(mut peer: Peer, notes: Notes, first: &'static [u8], answers: bool) {
    peer.read_head().await.unwrap();
    peer.write([SWITCH.as_bytes(), first].concat()).await;
    let (mut frames, mut frame) = (Frames::new(Sender::Client), Vec::new());
    while let Ok(byte) = peer.io.read_u8().await {
        frame.push(byte);
        frames.advance(&[byte]).unwrap();
        if frames.is_between() {
            notes.add(note(&frame));
            frame.clear();
        }
        if frames.has_closed() && answers {
            peer.write(CLOSE_OF_SERVER).await;
            break;
        }
    }
    notes.add("end");
}

/// The first byte of a client's frame and its payload, without the mask.
fn note(frame: &[u8]) -> String {
    let at = if frame[1] == 0xff { 10 } else { 2 };
    let (mask, payload) = frame[at..].split_at(4);
    let payload: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    format!("{:x} {}", frame[0], payload.escape_ascii())
}

#[tokio::test(start_paused = true)]
async fn both_sides_are_told_and_the_tunnel_ends_when_both_have_answered() {
    on_worker(async || {
        let mut scene = Scene::new(FROM_SERVER, true).await;
        scene.reads(FROM_SERVER).await;
        scene.client.write_all(FROM_CLIENT).await.unwrap();
        scene.fake.noted("81 hello").await;
        scene.cut.set(Reason::UserInactive);
        scene.reads(TOLD).await;
        scene.client.write_all(CLOSE_OF_CLIENT).await.unwrap();
        let notes = scene.fake.notes.clone();
        let (took, rest) = scene.end().await;
        assert!(took < GRACE, "{took:?}");
        assert_eq!(
            (rest.as_slice(), notes.borrow().as_slice()),
            (&b""[..], &["81 hello", "88 \\x03\\xf0user_inactive", "end"].map(str::to_owned)[..])
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_side_that_never_answers_is_cut_after_the_grace() {
    on_worker(async || {
        for (upstream_answers, client_answers) in [(false, true), (true, false), (false, false)] {
            let mut scene = Scene::new(b"", upstream_answers).await;
            scene.client.write_all(FROM_CLIENT).await.unwrap();
            scene.fake.noted("81 hello").await;
            scene.cut.set(Reason::UserInactive);
            scene.reads(TOLD).await;
            if client_answers {
                scene.client.write_all(CLOSE_OF_CLIENT).await.unwrap();
                // It does not have to wait for the other side.
                let start = Instant::now();
                assert_eq!(scene.client.read(&mut [0]).await.unwrap(), 0);
                assert!(start.elapsed() < GRACE);
            }
            let (took, _) = scene.end().await;
            assert!(took > GRACE - 5 * TICK && took < GRACE + 5 * TICK, "{took:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_half_way_is_finished_and_nothing_after_it_passes() {
    on_worker(async || {
        let mut scene = Scene::new(b"", true).await;
        let large = [&b"\x82\xff\0\0\0\0\0\x01\0\0\0\0\0\0"[..], &[b'x'; 30_000]].concat();
        scene.client.write_all(&large).await.unwrap();
        tokio::time::sleep(TICK).await;
        scene.cut.set(Reason::UserInactive);
        tokio::time::sleep(TICK).await;
        // The rest of the frame, and one that comes too late.
        scene.client.write_all(&[&[b'x'; 0x1_0000 - 30_000][..], FROM_CLIENT].concat()).await.unwrap();
        scene.fake.noted("88 \\x03\\xf0user_inactive").await;
        let whole = format!("82 {}", "x".repeat(0x1_0000));
        assert_eq!(scene.fake.notes()[..2], [&*whole, "88 \\x03\\xf0user_inactive"], "a late frame passed");
        scene.reads(TOLD).await;
        scene.client.write_all(CLOSE_OF_CLIENT).await.unwrap();
        let (took, rest) = scene.end().await;
        assert!(took < GRACE, "{took:?}");
        assert_eq!(rest, b"");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_never_ends_is_cut_after_the_grace() {
    on_worker(async || {
        let mut scene = Scene::new(b"\x82\x05wor", false).await;
        scene.reads(b"\x82\x05wor").await;
        scene.cut.set(Reason::UserInactive);
        scene.fake.noted("88 \\x03\\xf0user_inactive").await;
        let (took, rest) = scene.end().await;
        assert!(took > GRACE - 5 * TICK && took < GRACE + 5 * TICK, "{took:?}");
        assert_eq!(rest, b"");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_has_said_close_is_told_nothing_and_who_has_ended_neither() {
    on_worker(async || {
        let mut scene = Scene::new(CLOSE_OF_SERVER, false).await;
        scene.reads(CLOSE_OF_SERVER).await;
        scene.cut.set(Reason::UserInactive);
        scene.fake.noted("88 \\x03\\xf0user_inactive").await;
        scene.client.write_all(CLOSE_OF_CLIENT).await.unwrap();
        let (took, rest) = scene.end().await;
        assert!(took < GRACE, "{took:?}");
        assert_eq!(rest, b"", "a second Close frame");

        let mut scene = Scene::new(b"", false).await;
        scene.client.write_all(FROM_CLIENT).await.unwrap();
        scene.fake.noted("81 hello").await;
        scene.client.shutdown().await.unwrap();
        scene.fake.noted("end").await;
        scene.cut.set(Reason::UserInactive);
        let (took, _) = scene.end().await;
        assert!(took < GRACE, "{took:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_framed_is_cut_at_once() {
    on_worker(async || {
        for (before, after) in [(&b"\x01\x02 no frames"[..], &b""[..]), (FROM_CLIENT, b"\x01\x02 no frames")] {
            let mut scene = Scene::new(FROM_SERVER, false).await;
            scene.reads(FROM_SERVER).await;
            scene.client.write_all(before).await.unwrap();
            tokio::time::sleep(TICK).await;
            scene.cut.set(Reason::UserInactive);
            if !after.is_empty() {
                scene.reads(TOLD).await;
                scene.client.write_all(after).await.unwrap();
            }
            let start = Instant::now();
            scene.tunnel.await.unwrap();
            assert!(start.elapsed() < GRACE);
        }
    })
    .await;
}
