//! An API server in memory: objects with resource versions and field owners, lists in pages, selectors, server-side apply, watches.
//!
//! Only the rules: no sockets, no faults. Tests over sockets and the simulation of replicas have their own around it.

mod apply;
pub(crate) mod body;
mod route;
mod store;
mod watching;

use body::Feed;
use http::{Method, Response, StatusCode};
use route::Route;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use store::Store;
use tokio::sync::broadcast;

/// The objects, and who is told of them.
pub(crate) struct Memory {
    store: Mutex<Store>,
    /// Told of each change of a kind. Those who wait are woken in their order, so that a simulation plays the same each time.
    changes: Mutex<BTreeMap<String, broadcast::Sender<()>>>,
    /// How often all watches were cut off.
    drops: AtomicU64,
}

/// The namespaces that are there at first.
const NAMESPACES: [&str; 3] = ["postern", "team-a", "team-b"];

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        let memory = Self { store: Mutex::default(), changes: Mutex::default(), drops: AtomicU64::new(0) };
        for name in NAMESPACES {
            memory.put("api/v1", "namespaces", None, &json!({ "metadata": { "name": name } }));
        }
        Arc::new(memory)
    }

    /// What a server answers; `at` is path and query.
    pub(crate) fn answer(self: &Arc<Self>, method: &Method, at: &str, body: &[u8]) -> Response<Feed> {
        let route = Route::parse(at.split('?').next().unwrap());
        if method == Method::GET && at.contains("watch=true") {
            return watching::open(Arc::clone(self), &route, at);
        }
        let answered = self.change(told(&route.kind), |store| store.handle(method, &route, at, body));
        answered.unwrap_or_else(|(status, told)| json_answer(status, &told))
    }

    /// Makes or overwrites an object as somebody else does, with a tool that calls itself `kubectl-edit`.
    pub(crate) fn put(&self, group: &str, kind: &str, namespace: Option<&str>, object: &Value) -> Value {
        let route = Route::object(group, kind, namespace, object["metadata"]["name"].as_str().unwrap());
        self.change(Some(kind), |store| store.overwrite(&route, object, "kubectl-edit"))
    }

    /// An object as it is.
    pub(crate) fn get(&self, group: &str, kind: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        self.store().get(&Route::object(group, kind, namespace, name))
    }

    /// Deletes an object as somebody else does; with a namespace all that is in it.
    pub(crate) fn remove(&self, group: &str, kind: &str, namespace: Option<&str>, name: &str) {
        self.change(told(kind), |store| store.remove(&Route::object(group, kind, namespace, name)));
    }

    /// Forgets all events until now: a watch from before gets 410.
    pub(crate) fn compact(&self) {
        self.store().compact();
    }

    /// Tells all watches how far they are.
    pub(crate) fn bookmark(&self) {
        self.change(None, Store::bookmark);
    }

    /// Cuts all open watches off.
    pub(crate) fn drop_watches(&self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
        self.changes.lock().unwrap().values().for_each(|changes| drop(changes.send(())));
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    /// Whoever watches objects of that kind, or of any, is told, if something changed.
    fn change<T>(&self, kind: Option<&str>, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store();
        let before = store.version();
        let outcome = change(&mut store);
        let has_changed = store.version() != before;
        drop(store);
        if has_changed {
            let all = self.changes.lock().unwrap();
            let told = all.iter().filter(|(told, _)| kind.is_none_or(|kind| kind == *told));
            told.for_each(|(_, changes)| drop(changes.send(())));
        }
        outcome
    }

    fn changes_of(&self, kind: &str) -> broadcast::Receiver<()> {
        let mut all = self.changes.lock().unwrap();
        all.entry(kind.to_owned()).or_insert_with(|| broadcast::Sender::new(1)).subscribe()
    }
}

/// Whom a change of this kind may concern. What is in a namespace goes with it.
fn told(kind: &str) -> Option<&str> {
    (kind != "namespaces").then_some(kind)
}

pub(crate) fn json_answer(status: u16, value: &Value) -> Response<Feed> {
    let mut response = Response::new(Feed::whole(value.to_string().into_bytes()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

pub(crate) fn status(code: u16, reason: &str, details: &Value) -> Value {
    json!({ "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason, "details": details })
}

/// An answer that says nothing but its status, and perhaps when to ask again.
pub(crate) fn failure(code: u16, after: Option<u64>) -> Response<Feed> {
    let mut response = json_answer(code, &status(code, "", &json!({})));
    if let Some(after) = after {
        response.headers_mut().insert("retry-after", after.into());
    }
    response
}
