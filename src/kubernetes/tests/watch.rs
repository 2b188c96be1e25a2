//! Watches: nothing is missed, nothing is told twice.

use super::server::{ApiServer, Fault, eventually, in_time};
use super::{alice, start};
use crate::kubernetes::{Change, Cluster, KubernetesError, Namespace, Namespaces, UserSecret, Watch};
use http::Method;
use serde_json::json;
use tokio::sync::mpsc;

fn put(server: &ApiServer, namespace: &str, text: &str) {
    let object = json!({ "kind": "Secret", "metadata": { "name": "access-token" }, "data": { "AUTH_TOKEN": text } });
    server.put("api/v1", "secrets", Some(namespace), &object);
}

fn remove(server: &ApiServer, namespace: &str) {
    server.remove("api/v1", "secrets", Some(namespace), "access-token");
}

fn watch(cluster: &Cluster) -> mpsc::Receiver<Change<UserSecret>> {
    let (to, changes) = mpsc::channel(100);
    tokio::spawn(Watch::user_secrets(cluster).unwrap().run(to));
    changes
}

/// What is told next, in short.
async fn next(changes: &mut mpsc::Receiver<Change<UserSecret>>) -> String {
    match in_time(changes.recv()).await.expect("the watch goes on") {
        Change::Seen(secret) => format!("seen {}", secret.namespace),
        Change::Gone { key, .. } => format!("gone {key}"),
        Change::Synced => "synced".to_owned(),
        Change::Interrupted(_) => "interrupted".to_owned(),
    }
}

async fn expect(changes: &mut mpsc::Receiver<Change<UserSecret>>, told: &[&str]) {
    for wanted in told {
        assert_eq!(next(changes).await, *wanted);
    }
}

fn watches(server: &ApiServer) -> Vec<String> {
    server.requests(&Method::GET, "watch=true")
}

#[tokio::test]
async fn what_is_there_is_told_and_then_what_happens() {
    let (server, cluster) = start().await;
    put(&server, "team-a", "eA==");
    server.put("api/v1", "secrets", Some("team-a"), &json!({ "metadata": { "name": "other" } }));
    let mut changes = watch(&cluster);
    expect(&mut changes, &["seen team-a", "synced"]).await;
    put(&server, "team-b", "eA==");
    expect(&mut changes, &["seen team-b"]).await;
    put(&server, "team-b", "eQ==");
    expect(&mut changes, &["seen team-b"]).await;
    remove(&server, "team-a");
    expect(&mut changes, &["gone team-a"]).await;
}

#[tokio::test]
async fn a_dropped_watch_goes_on_where_it_was_without_a_new_list() {
    let (server, cluster) = start().await;
    put(&server, "team-a", "eA==");
    let mut changes = watch(&cluster);
    expect(&mut changes, &["seen team-a", "synced"]).await;
    eventually("the watch is open", || watches(&server).len() == 1).await;
    server.fail(None, "watch=true", Fault::Closed, 2);
    server.drop_watches();
    expect(&mut changes, &["interrupted"]).await;
    // Meanwhile:
    put(&server, "team-b", "eA==");
    remove(&server, "team-a");
    expect(&mut changes, &["interrupted", "interrupted", "synced", "seen team-b", "gone team-a"]).await;
    assert_eq!(server.requests(&Method::GET, "limit=").len(), 1);
}

#[tokio::test]
async fn after_a_410_the_list_is_compared_and_what_went_is_told() {
    let (server, cluster) = start().await;
    put(&server, "team-a", "eA==");
    put(&server, "team-b", "eA==");
    let mut changes = watch(&cluster);
    expect(&mut changes, &["seen team-a", "seen team-b", "synced"]).await;
    eventually("the watch is open", || watches(&server).len() == 1).await;
    server.fail(None, "watch=true", Fault::Closed, 1);
    server.drop_watches();
    expect(&mut changes, &["interrupted"]).await;
    remove(&server, "team-a");
    server.put("api/v1", "namespaces", None, &json!({ "metadata": { "name": "team-c" } }));
    put(&server, "team-c", "eA==");
    server.compact();
    // team-b is as it was, and is not told again.
    expect(&mut changes, &["interrupted", "seen team-c", "gone team-a", "synced"]).await;
    remove(&server, "team-b");
    expect(&mut changes, &["gone team-b"]).await;
}

#[tokio::test]
async fn an_expiry_told_inside_a_watch_leads_to_a_list() {
    let (server, cluster) = start().await;
    let expired = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\"}}\n";
    server.fail(None, "watch=true", Fault::Body(expired), 1);
    let mut changes = watch(&cluster);
    expect(&mut changes, &["synced", "synced"]).await;
    assert_eq!(server.requests(&Method::GET, "limit=").len(), 2);
}

#[tokio::test]
async fn an_error_told_inside_a_watch_and_what_is_no_event_are_interruptions() {
    let (server, cluster) = start().await;
    let error = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":500}}\n";
    server.fail(None, "watch=true", Fault::Body(error), 1);
    server.fail(None, "watch=true", Fault::Body("no event\n"), 1);
    let mut changes = watch(&cluster);
    expect(&mut changes, &["synced"]).await;
    let Some(Change::Interrupted(error)) = changes.recv().await else { panic!("not told") };
    assert!(matches!(error, KubernetesError::Server { status: 500, .. }), "{error}");
    // That answer had begun as a watch does.
    expect(&mut changes, &["synced"]).await;
    let Some(Change::Interrupted(error)) = changes.recv().await else { panic!("not told") };
    assert!(matches!(error, KubernetesError::Unexpected { .. }), "{error}");
    expect(&mut changes, &["synced"]).await;
}

#[tokio::test]
async fn a_bookmark_moves_the_position_so_that_quiet_objects_need_no_new_list() {
    let (server, cluster) = start().await;
    put(&server, "team-a", "eA==");
    let mut changes = watch(&cluster);
    expect(&mut changes, &["seen team-a", "synced"]).await;
    eventually("the watch is open", || watches(&server).len() == 1).await;
    server.put("api/v1", "secrets", Some("team-b"), &json!({ "metadata": { "name": "busy" } }));
    server.bookmark();
    put(&server, "team-b", "eA==");
    expect(&mut changes, &["seen team-b"]).await;
    server.bookmark();
    server.compact();
    let before = watches(&server)[0].clone();
    server.drop_watches();
    expect(&mut changes, &["interrupted", "synced"]).await;
    put(&server, "team-b", "eQ==");
    expect(&mut changes, &["seen team-b"]).await;
    assert_ne!(watches(&server).last(), Some(&before));
    assert_eq!(server.requests(&Method::GET, "limit=").len(), 1);
}

#[tokio::test]
async fn a_long_list_comes_in_pages() {
    let (server, cluster) = start().await;
    for number in 0..120 {
        let name = format!("user-{number:03}");
        server.put("api/v1", "namespaces", None, &json!({ "metadata": { "name": name } }));
        put(&server, &name, "eA==");
    }
    let mut changes = watch(&cluster);
    for number in 0..120 {
        expect(&mut changes, &[&format!("seen user-{number:03}")]).await;
    }
    expect(&mut changes, &["synced"]).await;
    assert_eq!(server.requests(&Method::GET, "limit=").len(), 3);
}

#[tokio::test]
async fn what_goes_between_the_pages_of_a_list_is_told() {
    let (server, cluster) = start().await;
    for number in 0..60 {
        put(&server, &format!("user-{number:02}"), "eA==");
    }
    // Without room for more the second page is not asked for yet.
    let (to, mut changes) = mpsc::channel(1);
    tokio::spawn(Watch::user_secrets(&cluster).unwrap().run(to));
    expect(&mut changes, &["seen user-00", "seen user-01"]).await;
    remove(&server, "user-01");
    for number in 2..60 {
        expect(&mut changes, &[&format!("seen user-{number:02}")]).await;
    }
    expect(&mut changes, &["synced", "gone user-01"]).await;
}

#[tokio::test]
async fn a_list_whose_pages_expire_begins_again() {
    let (server, cluster) = start().await;
    for number in 0..60 {
        put(&server, &format!("user-{number:02}"), "eA==");
    }
    server.fail(None, "continue=", Fault::Status(410, None), 1);
    let mut changes = watch(&cluster);
    for number in 0..60 {
        expect(&mut changes, &[&format!("seen user-{number:02}")]).await;
    }
    expect(&mut changes, &["synced"]).await;
}

#[tokio::test]
async fn a_refused_or_failing_list_is_told_and_tried_again() {
    let (server, cluster) = start().await;
    server.fail(None, "limit=", Fault::Status(403, None), 1);
    server.fail(None, "limit=", Fault::Cut(200), 1);
    put(&server, "team-a", "eA==");
    let mut changes = watch(&cluster);
    expect(&mut changes, &["interrupted", "interrupted", "seen team-a", "synced"]).await;
}

#[tokio::test]
async fn the_watch_ends_when_nobody_listens() {
    let (server, cluster) = start().await;
    let (to, mut changes) = mpsc::channel(1);
    let task = tokio::spawn(Watch::user_secrets(&cluster).unwrap().run(to));
    changes.recv().await.unwrap();
    eventually("the watch is open", || watches(&server).len() == 1).await;
    drop(changes);
    task.await.unwrap();
}

#[tokio::test]
async fn a_namespace_that_loses_our_label_is_gone_for_the_watch() {
    let (server, cluster) = start().await;
    let namespaces = Namespaces::new(cluster.clone());
    namespaces.ensure("alice", &alice()).await.unwrap();
    let (to, mut changes) = mpsc::channel::<Change<Namespace>>(10);
    tokio::spawn(Watch::namespaces(&cluster).unwrap().run(to));
    let Some(Change::Seen(seen)) = changes.recv().await else { panic!("not seen") };
    assert!(seen.mark.is_of(&alice()));
    assert_eq!(changes.recv().await, Some(Change::Synced));
    server.put("api/v1", "namespaces", None, &json!({ "metadata": { "name": "alice" } }));
    let Some(Change::Gone { key, revision }) = changes.recv().await else { panic!("not gone") };
    assert_eq!(key, "alice");
    // It is as of when it went, not as of what was seen last.
    assert!(seen.version.revision().is_before(&revision));
}
