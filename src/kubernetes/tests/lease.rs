//! Elections among replicas.

use super::server::{ApiServer, Fault, eventually};
use super::start;
use crate::base::clock::Clock;
use crate::kubernetes::lease::{Elector, Leadership, Terms};
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const GROUP: &str = "apis/coordination.k8s.io/v1";

/// A second, since a Lease counts in seconds. For tests in which a busy machine may cost the lead.
fn short() -> Terms {
    let ms = Duration::from_millis;
    Terms { term: ms(1_000), margin: ms(200), renew_every: ms(50), look_every: ms(50) }
}

/// Longer than a test waits for anything.
fn long() -> Terms {
    Terms { term: Duration::from_secs(120), margin: Duration::from_secs(2), ..short() }
}

struct Replica {
    leadership: Leadership,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    clock: Clock,
}

impl Replica {
    async fn start(server: &ApiServer, identity: &str, clock: &Clock, terms: Terms) -> Self {
        let cluster = server.connect().await;
        let (elector, leadership) = Elector::new(cluster, "delivery", identity, terms, clock.clone()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(elector.run(async move {
            let _ = stopped.await;
        }));
        Self { leadership, stop: Some(stop), task, clock: clock.clone() }
    }

    fn leads(&self) -> bool {
        self.leadership.is_leader(self.clock.now())
    }

    async fn drain(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        (&mut self.task).await.unwrap();
    }
}

fn lease(server: &ApiServer) -> Value {
    server.get(GROUP, "leases", Some("postern"), "delivery").unwrap()
}

#[tokio::test]
async fn the_first_leads_and_renews_with_times_of_six_digits() {
    let (server, _) = start().await;
    let a = Replica::start(&server, "a", &Clock::system(), long()).await;
    eventually("a leads", || a.leads()).await;
    let made = lease(&server);
    assert_eq!(made["spec"]["holderIdentity"], "a");
    // The fake refuses, as the real one does, what has not exactly six digits.
    eventually("a renews", || lease(&server)["spec"]["renewTime"] != made["spec"]["renewTime"]).await;
    let renewed = lease(&server);
    assert_eq!(renewed["spec"]["acquireTime"], made["spec"]["acquireTime"]);
    assert_eq!(renewed["spec"]["leaseTransitions"], made["spec"]["leaseTransitions"]);
}

#[tokio::test]
async fn a_leader_that_dies_is_followed_and_two_never_lead_at_once() {
    let (server, _) = start().await;
    let clock = Clock::system();
    let a = Replica::start(&server, "a", &clock, short()).await;
    eventually("a leads", || a.leads()).await;
    let b = Replica::start(&server, "b", &clock, short()).await;
    let number = lease(&server)["spec"]["leaseTransitions"].as_i64().unwrap();
    a.task.abort();
    eventually("b leads", || {
        let now = clock.now();
        assert!(!(a.leadership.is_leader(now) && b.leadership.is_leader(now)));
        b.leadership.is_leader(now)
    })
    .await;
    assert!(lease(&server)["spec"]["leaseTransitions"].as_i64().unwrap() > number);
}

#[tokio::test]
async fn a_drained_leader_gives_the_lease_back_and_another_leads_at_once() {
    let (server, _) = start().await;
    let clock = Clock::system();
    let mut a = Replica::start(&server, "a", &clock, long()).await;
    eventually("a leads", || a.leads()).await;
    let renewed = lease(&server)["spec"]["renewTime"].clone();
    a.drain().await;
    assert!(!a.leads());
    assert_eq!(lease(&server)["spec"].get("holderIdentity"), None, "{renewed}");
    let b = Replica::start(&server, "b", &clock, long()).await;
    eventually("b leads", || b.leads()).await;
    // At once: nobody waited for the term of a.
    assert_eq!(lease(&server)["spec"]["leaseTransitions"], 2);
}

#[tokio::test]
async fn a_leader_that_is_drained_during_a_renewal_gives_the_lease_back_too() {
    let (server, _) = start().await;
    // After a failure it would look before long.
    let terms = Terms { look_every: Duration::from_secs(60), ..long() };
    let mut a = Replica::start(&server, "a", &Clock::system(), terms).await;
    eventually("a leads", || a.leads()).await;
    server.fail(Some(Method::PUT), "/leases", Fault::Lost, 1);
    let before = server.requests(&Method::PUT, "/leases/").len();
    eventually("a renewal is under way", || server.requests(&Method::PUT, "/leases/").len() > before).await;
    a.drain().await;
    assert_eq!(lease(&server)["spec"].get("holderIdentity"), None);
}

#[tokio::test]
async fn who_does_not_lead_gives_nothing_back() {
    let (server, _) = start().await;
    let clock = Clock::system();
    let a = Replica::start(&server, "a", &clock, long()).await;
    eventually("a leads", || a.leads()).await;
    let mut b = Replica::start(&server, "b", &clock, long()).await;
    eventually("b has looked", || server.requests(&Method::GET, "/leases/").len() > 2).await;
    b.drain().await;
    assert_eq!(lease(&server)["spec"]["holderIdentity"], "a");
}

#[tokio::test]
async fn a_leader_that_is_cut_off_stops_by_itself_and_leads_again_later() {
    let (server, _) = start().await;
    let a = Replica::start(&server, "a", &Clock::system(), short()).await;
    eventually("a leads", || a.leads()).await;
    server.fail(None, "/leases", Fault::Status(503, None), usize::MAX);
    eventually("a does not lead", || !a.leads()).await;
    server.heal();
    eventually("a leads again", || a.leads()).await;
}

#[tokio::test]
async fn a_renewal_whose_answer_is_lost_costs_nobody_the_lead() {
    let (server, _) = start().await;
    let a = Replica::start(&server, "a", &Clock::system(), long()).await;
    eventually("a leads", || a.leads()).await;
    let number = lease(&server)["spec"]["leaseTransitions"].clone();
    server.fail(Some(Method::PUT), "/leases/", Fault::Lost, 3);
    let puts = server.requests(&Method::PUT, "/leases/").len();
    eventually("a has renewed again", || {
        assert!(a.leads());
        server.requests(&Method::PUT, "/leases/").len() > puts + 4
    })
    .await;
    assert_eq!(lease(&server)["spec"]["leaseTransitions"], number);
}

#[tokio::test]
async fn a_clock_that_is_hours_wrong_does_not_keep_the_lead() {
    let (server, _) = start().await;
    // What it wrote last lies in the future of all others.
    let a = Replica::start(&server, "a", &Clock::of_runtime(4_000_000_000), short()).await;
    eventually("a leads", || a.leads()).await;
    a.task.abort();
    let b = Replica::start(&server, "b", &Clock::system(), short()).await;
    eventually("b leads", || b.leads()).await;
}

#[tokio::test]
async fn a_clock_that_is_hours_wrong_does_not_take_the_lead() {
    let (server, _) = start().await;
    let a = Replica::start(&server, "a", &Clock::system(), long()).await;
    eventually("a leads", || a.leads()).await;
    let looks = server.requests(&Method::GET, "/leases/").len();
    let b = Replica::start(&server, "b", &Clock::of_runtime(4_000_000_000), long()).await;
    eventually("b has looked", || server.requests(&Method::GET, "/leases/").len() > looks + 4).await;
    assert!(a.leads() && !b.leads());
}

#[tokio::test]
async fn a_lease_that_somebody_touches_stays_with_its_holder() {
    let (server, _) = start().await;
    let a = Replica::start(&server, "a", &Clock::system(), long()).await;
    eventually("a leads", || a.leads()).await;
    for touch in 0..5 {
        let mut object = lease(&server);
        object["metadata"]["labels"] = json!({ "touched": touch.to_string() });
        server.put(GROUP, "leases", Some("postern"), &object);
        let renewed = object["spec"]["renewTime"].clone();
        eventually("a renews", || {
            assert!(a.leads());
            lease(&server)["spec"]["renewTime"] != renewed
        })
        .await;
    }
    assert_eq!(lease(&server)["spec"]["leaseTransitions"], 1);
}

#[tokio::test]
async fn a_lease_that_was_taken_by_another_is_lost_at_the_next_renewal() {
    let (server, _) = start().await;
    let a = Replica::start(&server, "a", &Clock::system(), long()).await;
    eventually("a leads", || a.leads()).await;
    let mut object = lease(&server);
    object["spec"]["holderIdentity"] = json!("z");
    server.put(GROUP, "leases", Some("postern"), &object);
    let mut leadership = a.leadership.clone();
    while leadership.is_leader(a.clock.now()) {
        leadership.changed().await;
    }
    assert_eq!(lease(&server)["spec"]["holderIdentity"], "z");
}
