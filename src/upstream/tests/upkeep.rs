//! Health checks, names with several addresses, and sockets in the file system.

use super::http2::echo;
use super::{Fake, OK, at, fetch, get, on_worker};
use crate::config::{HealthCheck, Protocol, Target};
use crate::upstream::Pools;
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::task::spawn_local;

fn check() -> HealthCheck {
    HealthCheck {
        path: "/healthz".parse().unwrap(),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    }
}

/// Lets `count` rounds of checks pass.
async fn rounds(count: u32) {
    tokio::time::sleep(Duration::from_secs(5) * count).await;
}

#[tokio::test(start_paused = true)]
async fn while_no_endpoint_passes_its_checks_requests_fail_at_once() {
    on_worker(async || {
        let is_well = Rc::new(Cell::new(true));
        let health = Rc::clone(&is_well);
        let fake = Fake::start(move |mut peer, notes| {
            let health = Rc::clone(&health);
            async move {
                while let Some(head) = peer.read_head().await {
                    let line = head.lines().next().unwrap_or_default().to_owned();
                    let is_check = line.contains("/healthz");
                    notes.add(line);
                    let status = if is_check && !health.get() { "503" } else { "200" };
                    peer.write(OK.replace("200", status)).await;
                }
            }
        })
        .await;
        let (pools, upstream) = (Pools::new(), fake.upstream_with(|config| config.health_check = Some(check())));
        assert!(upstream.needs_upkeep());
        spawn_local(std::sync::Arc::clone(&upstream).run());
        rounds(1).await;
        fetch(&pools, &upstream, get("/")).await.unwrap();
        is_well.set(false);
        rounds(5).await;
        assert_eq!(upstream.states(), [0, 0, 1]);
        let error = fetch(&pools, &upstream, get("/")).await.unwrap_err();
        assert_eq!(error, "no endpoint of the upstream is healthy");
        is_well.set(true);
        rounds(4).await;
        assert_eq!(upstream.states(), [1, 0, 0]);
        fetch(&pools, &upstream, get("/")).await.unwrap();
        let asked = fake.notes().iter().filter(|note| *note == "GET / HTTP/1.1").count();
        assert_eq!(asked, 2, "the request that failed went nowhere");
        assert!(upstream.shared.metrics.checks_ok.get() >= 3 && upstream.shared.metrics.checks_failed.get() >= 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_or_is_gone_fails_its_checks_and_one_that_speaks_http2_passes() {
    on_worker(async || {
        let (mute, gone) = (Fake::silent().await, at("127.0.0.1", 1));
        let well = Fake::start(|peer, notes| echo(TokioIo::new(peer.io), peer.number, notes)).await;
        let upstream = well.upstream_with(|config| {
            config.targets = vec![mute.target(), gone, well.target()];
            config.protocol = Protocol::Http2;
            config.health_check = Some(check());
        });
        spawn_local(std::sync::Arc::clone(&upstream).run());
        rounds(5).await;
        assert_eq!(upstream.states(), [1, 0, 2]);
        let pools = Pools::new();
        for _ in 0..20 {
            fetch(&pools, &upstream, get("/")).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn the_addresses_of_a_name_are_endpoints_and_follow_it() {
    on_worker(async || {
        let fakes = [Fake::canned(OK).await, Fake::canned(OK).await, Fake::canned(OK).await];
        let address = |index: usize| SocketAddr::from(([127, 0, 0, 1], fakes[index].port));
        let upstream = fakes[0].upstream_with(|config| config.targets = vec![at("localhost", fakes[0].port)]);
        let pools = Pools::new();
        let resolved = |indexes: &[usize]| {
            let addresses: Vec<_> = indexes.iter().map(|index| address(*index)).collect();
            upstream.endpoints.resolved(&upstream.config, 0, &addresses).unwrap()
        };
        let call = async |count: usize| {
            for _ in 0..count {
                fetch(&pools, &upstream, get("/")).await.unwrap();
            }
            fakes.each_ref().map(|fake| fake.notes().iter().filter(|note| *note != "end").count())
        };
        assert!(!resolved(&[0]), "one address stays a name");
        assert_eq!(call(3).await, [3, 0, 0]);
        assert!(resolved(&[0, 1]) && !resolved(&[1, 0, 0]));
        let [first, second, third] = call(60).await;
        assert!(first > 8 && second > 5 && third == 0);
        assert!(resolved(&[1, 2]));
        let [after, ..] = call(30).await;
        assert_eq!(after, first, "it is gone from the name");
        assert_eq!(fakes[1].connections(), 1, "what stays keeps its connection");
        assert!(resolved(&[2]));
        assert_eq!(upstream.states(), [1, 0, 0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn names_are_looked_up_in_the_background() {
    on_worker(async || {
        let fake = Fake::canned(OK).await;
        let upstream = fake.upstream_with(|config| config.targets = vec![at("localhost", fake.port)]);
        assert!(upstream.needs_upkeep() && !fake.upstream().needs_upkeep());
        spawn_local(std::sync::Arc::clone(&upstream).run());
        let lookups = || upstream.shared.metrics.lookups_ok.get();
        while lookups() < 3 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        fetch(&Pools::new(), &upstream, get("/")).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_upstream_may_be_a_socket_in_the_file_system() {
    on_worker(async || {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let connections = Rc::new(Cell::new(0));
        let count = Rc::clone(&connections);
        spawn_local(async move {
            while let Ok((mut io, _)) = listener.accept().await {
                count.set(count.get() + 1);
                spawn_local(async move {
                    let mut buffer = [0; 1024];
                    while let Ok(1..) = io.read(&mut buffer).await {
                        io.write_all(OK.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        let fake = Fake::silent().await;
        let (pools, upstream) =
            (Pools::new(), fake.upstream_with(|config| config.targets = vec![Target::Unix(path.clone())]));
        assert_eq!(upstream.host, "localhost");
        for _ in 0..3 {
            assert_eq!(fetch(&pools, &upstream, get("/")).await.unwrap().body, "ok");
        }
        assert_eq!(connections.get(), 1);
        let upstream =
            fake.upstream_with(|config| config.targets = vec![Target::Unix(folder.path().join("none.sock"))]);
        let error = fetch(&pools, &upstream, get("/")).await.unwrap_err();
        assert!(error.contains("none.sock` takes no connections"), "{error}");
    })
    .await;
}
