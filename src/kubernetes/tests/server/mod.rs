//! A fake API server on a real socket: what [`Memory`] answers, and faults that a test orders.

use super::memory::body::Feed;
use super::memory::{Memory, failure};
use crate::kubernetes::{Access, Cluster};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to a request instead of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// This status, with a body of that kind and perhaps `Retry-After`.
    Status(u16, Option<u64>),
    /// This text as the body of a 200.
    Body(&'static str),
    /// The head of this status; then the connection ends in the middle of the body.
    Cut(u16),
    /// Done, and then not answered.
    Lost,
    /// Not answered and not done.
    Closed,
    /// Done, but not before it is let go.
    Held(Arc<tokio::sync::Notify>),
    /// Done, but not answered before it is let go.
    Late(Arc<tokio::sync::Notify>),
}

struct Ordered {
    method: Option<Method>,
    path: String,
    fault: Fault,
    left: usize,
}

#[derive(Default)]
struct Inner {
    faults: Vec<Ordered>,
    requests: Vec<(Method, String)>,
    token: Option<String>,
}

/// The server; it ends when it is dropped.
pub(crate) struct ApiServer {
    memory: Arc<Memory>,
    inner: Arc<Mutex<Inner>>,
    directory: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ApiServer {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (memory, inner) = (Memory::new(), Arc::<Mutex<Inner>>::default());
        let served = (Arc::clone(&memory), Arc::clone(&inner));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (memory, inner) = served.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&memory), Arc::clone(&inner), request));
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{ "name": "fake", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "fake", "user": { "tokenFile": directory.path().join("token") } }],
            "contexts": [{ "name": "fake", "context": { "cluster": "fake", "user": "fake", "namespace": "postern" } }],
        });
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        std::fs::write(directory.path().join("token"), "first").unwrap();
        Self { memory, inner, directory, task }
    }

    /// Ends it, and every connection to it.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// A connection as a client of it, whose own namespace is `postern`.
    pub(crate) async fn connect(&self) -> Cluster {
        Cluster::connect(Access::Kubeconfig(self.directory.path().join("kubeconfig"))).await.unwrap()
    }

    /// Writes what clients read their token from.
    pub(crate) fn write_token(&self, token: &str) {
        std::fs::write(self.directory.path().join("token"), token).unwrap();
    }

    /// Refuses every other token from now on.
    pub(crate) fn accept_only(&self, token: &str) {
        self.inner.lock().unwrap().token = Some(token.to_owned());
    }

    /// Orders a fault for the next `times` requests of `method` whose path and query hold `path`.
    pub(crate) fn fail(&self, method: Option<Method>, path: &str, fault: Fault, times: usize) {
        let ordered = Ordered { method, path: path.to_owned(), fault, left: times };
        self.inner.lock().unwrap().faults.push(ordered);
    }

    /// Ends what [`Self::fail`] ordered.
    pub(crate) fn heal(&self) {
        self.inner.lock().unwrap().faults.clear();
    }

    /// The requests of this method whose path and query hold `path`.
    pub(crate) fn requests(&self, method: &Method, path: &str) -> Vec<String> {
        let inner = self.inner.lock().unwrap();
        let wanted = inner.requests.iter().filter(|(asked, at)| asked == method && at.contains(path));
        wanted.map(|(_, at)| at.clone()).collect()
    }

    /// [`Memory::put`].
    pub(crate) fn put(&self, group: &str, kind: &str, namespace: Option<&str>, object: &Value) -> Value {
        self.memory.put(group, kind, namespace, object)
    }

    /// [`Memory::get`].
    pub(crate) fn get(&self, group: &str, kind: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        self.memory.get(group, kind, namespace, name)
    }

    /// [`Memory::remove`].
    pub(crate) fn remove(&self, group: &str, kind: &str, namespace: Option<&str>, name: &str) {
        self.memory.remove(group, kind, namespace, name);
    }

    /// [`Memory::compact`].
    pub(crate) fn compact(&self) {
        self.memory.compact();
    }

    /// [`Memory::bookmark`].
    pub(crate) fn bookmark(&self) {
        self.memory.bookmark();
    }

    /// [`Memory::drop_watches`].
    pub(crate) fn drop_watches(&self) {
        self.memory.drop_watches();
    }
}

async fn answer(
    memory: Arc<Memory>,
    inner: Arc<Mutex<Inner>>,
    request: Request<Incoming>,
) -> io::Result<Response<Feed>> {
    let (head, body) = request.into_parts();
    let at = head.uri.path_and_query().unwrap().to_string();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let fault = {
        let mut inner = inner.lock().unwrap();
        inner.requests.push((head.method.clone(), at.clone()));
        let token = head.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        match &inner.token {
            Some(wanted) if token != format!("Bearer {wanted}") => Some(Fault::Cut(401)),
            _ => inner.next_fault(&head.method, &at),
        }
    };
    let fault = match fault {
        Some(Fault::Status(status, after)) => return Ok(failure(status, after)),
        Some(Fault::Body(text)) => return Ok(Response::new(Feed::whole(text.as_bytes().to_vec()))),
        Some(Fault::Cut(status)) => return Ok(cut(status)),
        Some(Fault::Closed) => return Err(io::Error::other("closed")),
        Some(Fault::Held(gate)) => {
            gate.notified().await;
            None
        }
        fault @ (Some(Fault::Lost | Fault::Late(_)) | None) => fault,
    };
    let answered = memory.answer(&head.method, &at, &body);
    match fault {
        Some(Fault::Lost) => return Err(io::Error::other("lost")),
        Some(Fault::Late(gate)) => gate.notified().await,
        _ => {}
    }
    Ok(answered)
}

impl Inner {
    fn next_fault(&mut self, method: &Method, at: &str) -> Option<Fault> {
        let is_meant = |ordered: &&mut Ordered| {
            ordered.left > 0
                && ordered.method.as_ref().is_none_or(|wanted| wanted == method)
                && at.contains(&ordered.path)
        };
        let ordered = self.faults.iter_mut().find(is_meant)?;
        ordered.left -= 1;
        Some(ordered.fault.clone())
    }
}

/// An answer that breaks off in its body.
fn cut(status: u16) -> Response<Feed> {
    let (feeder, feed) = Feed::channel();
    let _ = feeder.send(Bytes::from_static(b"{\"kind\":\"Stat"));
    tokio::spawn(feeder.cut());
    let mut response = Response::new(feed);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// Waits until something holds; a test that waits in vain fails by this.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to pass: {what}");
}

/// What comes of waiting; a test that waits in vain fails by this.
pub(crate) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("it never came to pass")
}
