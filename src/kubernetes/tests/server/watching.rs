//! Watches: what happened since a version, and what happens.

use super::body::Feed;
use super::route::Route;
use super::store::{Event, is_selected, query};
use super::{Inner, failure};
use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

pub(super) fn open(
    inner: Arc<Mutex<Inner>>,
    mut changes: watch::Receiver<u64>,
    route: &Route,
    at: &str,
) -> Response<Feed> {
    let mut told: u64 = query(at, "resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    if told < inner.lock().unwrap().store.compacted {
        return failure(410, None);
    }
    let (feed, body) = Feed::channel();
    let (route, at) = (route.clone(), at.to_owned());
    let opened = *changes.borrow_and_update();
    tokio::spawn(async move {
        loop {
            let is_dropped = *changes.borrow_and_update() != opened;
            let events: Vec<Event> = {
                let inner = inner.lock().unwrap();
                inner.store.events.iter().filter(|event| event.version > told).cloned().collect()
            };
            for event in events {
                told = event.version;
                if let Some(line) = line(&event, &route, &at)
                    && feed.send(line).is_err()
                {
                    return;
                }
            }
            if is_dropped {
                // What happened before is told before.
                feed.cut().await;
                return;
            }
            tokio::select! {
                () = feed.closed() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    });
    Response::new(body)
}

fn line(event: &Event, route: &Route, at: &str) -> Option<Bytes> {
    let is_ours = event.route.as_ref().is_none_or(|changed| route.holds(changed));
    let is_selected_now = event.route.is_none() || is_selected(&event.object, at);
    let was_selected = event.before.as_ref().is_some_and(|before| is_selected(before, at));
    let kind = match (event.kind, was_selected, is_selected_now) {
        _ if !is_ours => return None,
        ("DELETED", true, _) | ("MODIFIED", true, false) => "DELETED",
        ("MODIFIED", false, true) => "ADDED",
        (kind, _, true) => kind,
        _ => return None,
    };
    let event: Value = json!({ "type": kind, "object": event.object });
    Some(format!("{event}\n").into())
}
