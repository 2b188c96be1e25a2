//! Watches: what happened since a version, and what happens.

use super::body::{Feed, Feeder};
use super::route::Route;
use super::store::{Event, is_selected, query};
use super::{Memory, failure};
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use tokio::sync::broadcast::error::RecvError;

/// A watch that is open.
struct Open {
    memory: Weak<Memory>,
    route: Route,
    at: String,
    /// How far it was told.
    told: u64,
}

pub(crate) fn open(memory: Arc<Memory>, route: &Route, at: &str) -> Response<Feed> {
    let told: u64 = query(at, "resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    if told < memory.store().compacted {
        return failure(410, None);
    }
    let (feed, body) = Feed::channel();
    let mut changes = memory.changes_of(&route.kind);
    let opened = memory.drops.load(Ordering::Relaxed);
    let mut open = Open { memory: Arc::downgrade(&memory), route: route.clone(), at: at.to_owned(), told };
    tokio::spawn(async move {
        loop {
            let Some(memory) = open.memory.upgrade() else { return };
            let is_dropped = memory.drops.load(Ordering::Relaxed) != opened;
            drop(memory);
            if !open.tell(&feed) {
                return;
            }
            if is_dropped {
                // What happened before is told before.
                feed.cut().await;
                return;
            }
            tokio::select! {
                biased;
                () = feed.closed() => return,
                changed = changes.recv() => if matches!(changed, Err(RecvError::Closed)) { return },
            }
        }
    });
    Response::new(body)
}

impl Open {
    /// Tells what happened since it last told; `false` if nobody listens any more.
    fn tell(&mut self, feed: &Feeder) -> bool {
        let Some(memory) = self.memory.upgrade() else { return false };
        let store = memory.store();
        for event in store.since(self.told) {
            self.told = event.version;
            if let Some(line) = line(event, &self.route, &self.at)
                && feed.send(line).is_err()
            {
                return false;
            }
        }
        true
    }
}

fn line(event: &Event, route: &Route, at: &str) -> Option<Bytes> {
    let is_ours = event.route.as_ref().is_none_or(|changed| route.holds(changed));
    if !is_ours {
        return None;
    }
    let is_selected_now = event.route.is_none() || is_selected(&event.object, at);
    let was_selected = event.before.as_ref().is_some_and(|before| is_selected(before, at));
    let kind = match (event.kind, was_selected, is_selected_now) {
        ("DELETED", true, _) | ("MODIFIED", true, false) => "DELETED",
        ("MODIFIED", false, true) => "ADDED",
        (kind, _, true) => kind,
        _ => return None,
    };
    let event: Value = json!({ "type": kind, "object": event.object });
    Some(format!("{event}\n").into())
}
