//! Several endpoints: which one a request goes to, and where it goes next.

use super::{Call, Fake, OK, at, fetch, get, on_worker, request};
use crate::config::{self, OutlierDetection};
use crate::upstream::{Pools, RequestBody, Upstream};
use bytes::Bytes;
use http::Method;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_local;

pub(super) const DETECTION: OutlierDetection = OutlierDetection {
    consecutive_failures: 3,
    base_ejection_time: Duration::from_secs(30),
    max_ejection_time: Duration::from_secs(300),
    max_ejection_percent: 50,
};

fn over(fakes: &[&Fake], change: impl FnOnce(&mut config::Upstream)) -> Arc<Upstream> {
    fakes[0].upstream_with(|config| {
        config.targets = fakes.iter().map(|fake| fake.target()).collect();
        change(config);
    })
}

async fn broken() -> Fake {
    Fake::canned("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n").await
}

#[tokio::test]
async fn requests_are_spread_and_each_endpoint_is_called_by_its_own_name() {
    on_worker(async || {
        let fakes = [Fake::canned(OK).await, Fake::canned(OK).await, Fake::canned(OK).await];
        let (pools, upstream) = (Pools::new(), over(&[&fakes[0], &fakes[1], &fakes[2]], |_| {}));
        for _ in 0..90 {
            fetch(&pools, &upstream, get("/")).await.unwrap();
        }
        for fake in &fakes {
            assert_eq!(fake.connections(), 1);
            assert!(fake.notes().len() >= 10, "{}", fake.notes().len());
            assert_eq!(fake.notes()[0], format!("GET / HTTP/1.1\r\nhost: 127.0.0.1:{}", fake.port));
        }
    })
    .await;
}

#[tokio::test]
async fn the_less_loaded_of_two_gets_the_request() {
    on_worker(async || {
        let busy = Fake::start(|mut peer, notes| async move {
            peer.read_head().await;
            notes.add("asked");
            std::future::pending::<()>().await;
        })
        .await;
        let free = Fake::canned(OK).await;
        let (pools, upstream) = (Pools::new(), over(&[&busy, &free], |_| {}));
        while busy.notes().is_empty() {
            let (pools, upstream) = (pools.clone(), Arc::clone(&upstream));
            let mut one = spawn_local(async move { fetch(&pools, &upstream, get("/")).await.unwrap() });
            tokio::select! {
                _ = &mut one => {}
                () = busy.noted("asked") => {}
            }
        }
        for _ in 0..50 {
            fetch(&pools, &upstream, get("/")).await.unwrap();
        }
        assert_eq!(busy.notes(), ["asked"]);
    })
    .await;
}

#[tokio::test]
async fn any_request_goes_on_to_the_next_endpoint_if_one_takes_no_connection() {
    on_worker(async || {
        let fake = Fake::canned(OK).await;
        let (none, nobody) = (at("127.0.0.1", 1), at("127.0.0.1", 2));
        let upstream = fake.upstream_with(|config| config.targets = vec![none.clone(), fake.target(), nobody.clone()]);
        let pools = Pools::new();
        for _ in 0..30 {
            let post = Call { body: RequestBody::Full(Bytes::from_static(b"{}")), ..request(Method::POST, "/") };
            fetch(&pools, &upstream, post).await.unwrap();
        }
        assert_eq!(fake.notes().len(), 30);
        let upstream = fake.upstream_with(|config| config.targets = vec![none, nobody]);
        let error = fetch(&pools, &upstream, get("/")).await.unwrap_err();
        assert!(error.starts_with("the upstream cannot be reached"), "{error}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_one_request_after_the_other_is_left_out_for_a_while() {
    on_worker(async || {
        let (bad, good) = (broken().await, Fake::canned(OK).await);
        let (pools, upstream) =
            (Pools::new(), over(&[&bad, &good], |config| config.outlier_detection = Some(DETECTION)));
        let statuses = async || {
            let mut failed = 0;
            for _ in 0..60 {
                failed += usize::from(fetch(&pools, &upstream, get("/")).await.unwrap().status == 500);
            }
            failed
        };
        assert_eq!((statuses().await, upstream.states()), (3, [1, 1, 0]));
        assert_eq!((statuses().await, upstream.shared.metrics.ejections.get()), (0, 1));
        tokio::time::sleep(Duration::from_secs(31)).await;
        pools.sweep();
        assert_eq!(upstream.states(), [2, 0, 0]);
        assert_eq!((statuses().await, upstream.shared.metrics.ejections.get()), (3, 2));
        // The second time is longer.
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert_eq!(upstream.states(), [1, 1, 0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_more_endpoints_are_ejected_than_may_be() {
    on_worker(async || {
        let fakes = [broken().await, broken().await, broken().await];
        let (pools, upstream) = (
            Pools::new(),
            over(&[&fakes[0], &fakes[1], &fakes[2]], |config| config.outlier_detection = Some(DETECTION)),
        );
        for _ in 0..60 {
            assert_eq!(fetch(&pools, &upstream, get("/")).await.unwrap().status, 500);
        }
        assert_eq!(upstream.states(), [2, 1, 0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn where_all_may_be_ejected_requests_fail_at_once_until_the_time_is_over() {
    on_worker(async || {
        let (bad, pools) = (broken().await, Pools::new());
        let detection = OutlierDetection { max_ejection_percent: 100, ..DETECTION };
        let upstream = bad.upstream_with(|config| config.outlier_detection = Some(detection));
        for _ in 0..3 {
            fetch(&pools, &upstream, get("/")).await.unwrap();
        }
        let error = fetch(&pools, &upstream, get("/")).await.unwrap_err();
        assert_eq!((error.as_str(), bad.notes().len()), ("no endpoint of the upstream is healthy", 3));
        tokio::time::sleep(Duration::from_secs(31)).await;
        pools.sweep();
        fetch(&pools, &upstream, get("/")).await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_back_gets_its_share_little_by_little() {
    on_worker(async || {
        let (back, good, pools) = (Fake::canned(OK).await, Fake::canned(OK).await, Pools::new());
        let slow_start = Duration::from_secs(600);
        let upstream = over(&[&back, &good], |config| config.slow_start = slow_start);
        let endpoint = Arc::clone(&upstream.endpoints.current()[0]);
        tokio::time::sleep(upstream.endpoints.eject(&endpoint, &DETECTION).unwrap()).await;
        let share = async || {
            pools.sweep();
            let before = back.notes().len();
            for _ in 0..400 {
                fetch(&pools, &upstream, get("/")).await.unwrap();
            }
            back.notes().len() - before
        };
        // A tenth of a half, of 400.
        let first = share().await;
        assert!((1..80).contains(&first), "{first}");
        tokio::time::sleep(slow_start).await;
        let last = share().await;
        assert!((120..280).contains(&last), "{last}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_known_about_an_endpoint_outlives_a_reload() {
    on_worker(async || {
        let (bad, good, pools) = (broken().await, Fake::canned(OK).await, Pools::new());
        let upstream = over(&[&bad, &good], |config| config.outlier_detection = Some(DETECTION));
        for _ in 0..60 {
            fetch(&pools, &upstream, get("/")).await.unwrap();
        }
        let later = over(&[&bad, &good], |config| config.idle_timeout = Duration::from_secs(7));
        later.adopt(&upstream);
        assert_eq!(later.states(), [1, 1, 0]);
        let other = over(&[&good, &bad], |_| {});
        other.adopt(&upstream);
        assert_eq!(other.states(), [2, 0, 0]);
    })
    .await;
}
