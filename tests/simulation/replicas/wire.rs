//! How replicas reach the API server: late, not at all, or with answers that are lost; and what can be seen on the way.

use super::memory::body::{Feed, Feeder};
use super::memory::failure;
use super::switch::Switch;
use super::world::{Caught, Role, Shared, Weather, World};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use postern::base::clock::Clock;
use postern::delivery::counts::Counts;
use postern::kubernetes::Cluster;
use postern::kubernetes::lease::Leadership;
use postern::telemetry::metrics::Metrics;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::oneshot;
use tower_service::Service;

/// The way of one replica, from its start to its death.
pub(crate) struct Line {
    pub(crate) world: Shared,
    pub(crate) slot: usize,
    pub(crate) number: u32,
    pub(crate) clock: Clock,
    pub(crate) leadership: OnceLock<Leadership>,
    /// What it counts of its users' tokens.
    pub(crate) counts: Arc<Counts>,
    /// How many violations of the floor were seen of it.
    pub(crate) counted: AtomicU64,
    pub(crate) is_dead: AtomicBool,
    frozen: Arc<Switch>,
    stalled: Arc<Switch>,
}

/// What becomes of a request.
struct Fate {
    there: u64,
    back: u64,
    kind: FateKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum FateKind {
    Done,
    /// Done, and the answer is lost.
    Lost,
    /// Answered with this status, not done.
    Status(u16),
    Refused,
    /// Neither done nor answered.
    Swallowed,
}

/// A request, read.
struct Asked {
    method: Method,
    at: String,
    body: Bytes,
}

impl Line {
    pub(crate) fn new(world: &Shared, slot: usize, clock: Clock) -> Arc<Self> {
        let mut guard = world.lock().unwrap();
        guard.slots[slot].incarnation += 1;
        let place = &guard.slots[slot];
        let (frozen, stalled) = (Arc::clone(&place.frozen), Arc::clone(&place.stalled));
        let number = place.incarnation;
        drop(guard);
        Arc::new(Self {
            world: Arc::clone(world),
            slot,
            number,
            counts: Counts::new(&Metrics::new(), clock.clone()),
            counted: AtomicU64::new(0),
            clock,
            leadership: OnceLock::new(),
            is_dead: AtomicBool::new(false),
            frozen,
            stalled,
        })
    }

    pub(crate) fn cluster(self: &Arc<Self>) -> Cluster {
        Cluster::over(Client::new(Wire(Arc::clone(self)), "postern"))
    }

    /// Waits while the replica is paused; for ever once it is dead.
    pub(crate) async fn thaw(&self) {
        self.frozen.off().await;
        if self.is_dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    /// Whether it believes to lead.
    pub(crate) fn leads(&self) -> bool {
        self.leadership.get().is_some_and(|leadership| leadership.is_leader(self.clock.now()))
    }

    async fn carry(self: Arc<Self>, asked: Asked, answer: oneshot::Sender<io::Result<Response<Feed>>>) {
        let namespace = namespace_of(&asked);
        let was_paused = self.frozen.is_on();
        // What was sent before a process was killed is done.
        self.thaw().await;
        let fate = self.world.lock().unwrap().fate();
        sleep(fate.there).await;
        let result = match fate.kind {
            FateKind::Swallowed => return,
            FateKind::Refused => Err(io::Error::other("connection refused")),
            FateKind::Status(status) => Ok(failure(status, None)),
            FateKind::Done | FateKind::Lost => {
                let memory = Arc::clone(&self.world.lock().unwrap().memory);
                let response = memory.answer(&asked.method, &asked.at, &asked.body);
                if let Some(namespace) = namespace {
                    let mut world = self.world.lock().unwrap();
                    world.look_at(&namespace, Some(self.slot));
                    world.counts.late_writes += u64::from(was_paused);
                    if asked.method == Method::PATCH && response.status() == 409 {
                        world.counts.conflicts += 1;
                        let slot = self.slot;
                        world.log(|| format!("  {slot}: conflict in {namespace}"));
                    }
                }
                if fate.kind == FateKind::Lost { Err(io::Error::other("connection reset")) } else { Ok(response) }
            }
        };
        sleep(fate.back).await;
        self.thaw().await;
        let _ = answer.send(result.map(|response| self.passed_on(&asked, response)));
    }

    /// The events of a watch take the way too.
    fn passed_on(self: &Arc<Self>, asked: &Asked, response: Response<Feed>) -> Response<Feed> {
        if !asked.at.contains("watch=true") || response.status() != 200 {
            return response;
        }
        let (feed, passed) = Feed::channel();
        let (head, body) = response.into_parts();
        let asked_s = asked.at.split("timeoutSeconds=").nth(1).and_then(|text| text.split('&').next());
        let lasts = Duration::from_secs(asked_s.and_then(|text| text.parse().ok()).unwrap_or(60));
        let line = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = feed.closed() => {}
                () = line.pump(body, &feed) => feed.cut().await,
                () = tokio::time::sleep(lasts) => {}
            }
        });
        Response::from_parts(head, passed)
    }

    async fn pump(&self, mut body: Feed, feed: &Feeder) {
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            let delay = self.world.lock().unwrap().delay();
            sleep(delay).await;
            self.stalled.off().await;
            self.thaw().await;
            if feed.send(data).is_err() {
                return;
            }
        }
    }

    /// Looks at what is sent at the moment at which it is.
    fn inspect(&self, asked: &Asked) {
        let mut world = self.world.lock().unwrap();
        world.counts.requests += 1;
        world.asked.count(kind_of(asked));
        let Some(namespace) = namespace_of(asked).filter(|_| is_fill(asked)) else { return };
        if !self.leads() {
            let (slot, number) = (self.slot, self.number);
            world.fail(format!("replica {slot}.{number} fills {namespace} and does not lead by its own reckoning"));
        }
        if world.slots[self.slot].role == Role::Gateway {
            world.fail(format!("a gateway fills {namespace}"));
        }
        if std::mem::take(&mut world.is_ambushed) {
            let slot = self.slot;
            world.log(|| format!("{slot} is paused right before it fills {namespace}"));
            world.counts.ambushes += 1;
            world.slots[slot].frozen.set(true);
            world.caught = Some(Caught { slot, namespace });
        }
    }
}

impl World {
    fn delay(&mut self) -> u64 {
        match self.api {
            Weather::Slow => self.luck.between(50, 1_500),
            _ => self.luck.between(1, 15),
        }
    }

    fn fate(&mut self) -> Fate {
        let (there, back) = (self.delay(), self.delay());
        let fate = |kind| Fate { there, back, kind };
        match self.api {
            Weather::Down => fate(FateKind::Refused),
            Weather::Hanging if self.luck.chance(30) => {
                Fate { there: self.luck.between(5_000, 40_000), back, kind: FateKind::Lost }
            }
            Weather::Hanging => fate(FateKind::Swallowed),
            Weather::Flaky(percent) if self.luck.chance(percent) => {
                let status = self.luck.pick(&[500, 503, 429, 504]);
                fate(self.luck.pick(&[
                    FateKind::Lost,
                    FateKind::Refused,
                    FateKind::Status(status),
                    FateKind::Swallowed,
                ]))
            }
            Weather::Fair | Weather::Slow | Weather::Flaky(_) => fate(FateKind::Done),
        }
    }
}

/// What a request is for, in two words.
fn kind_of(asked: &Asked) -> &'static str {
    let is_about = |name: &str| asked.at.contains(name);
    let objects = [
        ("/leases", ["get lease", "put lease", "make lease"]),
        ("postern-users-", ["get users", "patch users", "patch users"]),
        ("postern-delivery-", ["get records", "patch records", "patch records"]),
        ("/secrets/access-token", ["get token", "patch token", "patch token"]),
        ("/secrets/postern-session", ["get session", "patch session", "delete session"]),
        ("/serviceaccounts/", ["get account", "patch account", "patch account"]),
        ("/rolebindings/", ["get binding", "patch binding", "patch binding"]),
        ("/api/v1/namespaces", ["get namespace", "make namespace", "make namespace"]),
    ];
    let watches = [
        ("metadata.name%3Dpostern-users-", ["list users", "watch users"]),
        ("metadata.name%3Dpostern-delivery-", ["list records", "watch records"]),
        ("metadata.name%3Daccess-token", ["list tokens", "watch tokens"]),
        ("/api/v1/namespaces?labelSelector", ["list namespaces", "watch namespaces"]),
    ];
    if let Some((_, kinds)) = watches.iter().find(|(part, _)| is_about(part)) {
        return kinds[usize::from(is_about("watch=true"))];
    }
    let object = objects.iter().find(|(part, _)| is_about(part));
    let (_, kinds) = object.unwrap_or_else(|| panic!("{} is not asked for", asked.at));
    match asked.method {
        Method::GET => kinds[0],
        Method::DELETE => kinds[2],
        _ => kinds[1],
    }
}

/// Whose token a request is about.
fn namespace_of(asked: &Asked) -> Option<String> {
    let rest = asked.at.strip_prefix("/api/v1/namespaces/")?;
    let (namespace, rest) = rest.split_once('/')?;
    let is_write = asked.method != Method::GET && rest.starts_with("secrets/access-token");
    is_write.then(|| namespace.to_owned())
}

fn is_fill(asked: &Asked) -> bool {
    let body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap_or_default();
    body["data"]["AUTH_TOKEN"].as_str().is_some_and(|text| !text.is_empty())
}

pub(crate) async fn sleep(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// What a client of Kubernetes sends its requests to.
struct Wire(Arc<Line>);

type Answering = Pin<Box<dyn Future<Output = io::Result<Response<Feed>>> + Send>>;

impl Service<Request<Body>> for Wire {
    type Response = Response<Feed>;
    type Error = io::Error;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let (head, body) = request.into_parts();
        // It is all there.
        let read = pin!(body.collect()).poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(Ok(body)) = read else { panic!("a body that is not there") };
        let asked = Asked { method: head.method, at: head.uri.to_string(), body: body.to_bytes() };
        self.0.inspect(&asked);
        let (answer, answered) = oneshot::channel();
        // Whoever asked may give up: what is on its way arrives nevertheless.
        tokio::spawn(Arc::clone(&self.0).carry(asked, answer));
        Box::pin(async move {
            match answered.await {
                Ok(answer) => answer,
                Err(_) => std::future::pending().await,
            }
        })
    }
}
