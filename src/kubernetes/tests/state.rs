//! Keys and values that replicas share.

use super::server::{ApiServer, Fault};
use super::start;
use crate::kubernetes::state::{Edit, State};
use crate::kubernetes::{Change, KubernetesError};
use http::Method;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::mpsc;

const SHARDS: u16 = 4;

async fn state(server: &ApiServer) -> State {
    State::new(server.connect().await, "postern-state", SHARDS).unwrap()
}

async fn put(state: &State, key: &str, value: &str) {
    state.update(key, |_| (Edit::Put(value.as_bytes().to_vec()), ())).await.unwrap();
}

async fn read(state: &State, key: &str) -> Option<String> {
    state.read(key).await.unwrap().map(|value| String::from_utf8(value).unwrap())
}

#[tokio::test]
async fn what_is_written_is_read_by_every_replica_and_removed() {
    let (server, _) = start().await;
    let (a, b) = (state(&server).await, state(&server).await);
    assert_eq!(read(&a, "main/alice").await, None);
    for key in ["main/alice", "main/ü\0/", &"x".repeat(2048)] {
        put(&a, key, key).await;
        assert_eq!(read(&b, key).await.as_deref(), Some(key));
    }
    assert_eq!(b.load().await.unwrap().len(), 3);
    b.update("main/alice", |_| (Edit::Remove, ())).await.unwrap();
    assert_eq!(read(&a, "main/alice").await, None);
    assert_eq!(a.load().await.unwrap().len(), 2);
}

#[tokio::test]
async fn two_replicas_that_count_lose_no_step() {
    let (server, _) = start().await;
    let replicas = [Arc::new(state(&server).await), Arc::new(state(&server).await)];
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let state = Arc::clone(&replicas[task % 2]);
        tasks.spawn(async move {
            for _ in 0..10 {
                let count = |value: Option<&[u8]>| {
                    let next = value.map_or(0, |value| std::str::from_utf8(value).unwrap().parse().unwrap()) + 1;
                    (Edit::Put(u32::to_string(&next).into_bytes()), ())
                };
                // Others may write without end; what was said not to be done was not done.
                while let Err(error) = state.update("counter", count).await {
                    assert!(matches!(error, KubernetesError::Conflict { .. }), "{error}");
                }
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(read(&replicas[0], "counter").await.as_deref(), Some("40"));
}

#[tokio::test]
async fn a_conflict_makes_the_closure_decide_anew_on_what_stands_there_then() {
    let (server, _) = start().await;
    let state = state(&server).await;
    put(&state, "alice", "active").await;
    server.fail(Some(Method::PATCH), "/secrets/", Fault::Status(409, None), 2);
    let mut asked = 0;
    let said = state
        .update("alice", |value| {
            asked += 1;
            assert_eq!(value, Some(&b"active"[..]));
            (Edit::Put(b"blocked".to_vec()), asked)
        })
        .await;
    assert_eq!(said, Ok(3));
    assert_eq!(read(&state, "alice").await.as_deref(), Some("blocked"));
}

#[tokio::test]
async fn what_changes_nothing_writes_nothing() {
    let (server, _) = start().await;
    let state = state(&server).await;
    put(&state, "alice", "active").await;
    let before = server.requests(&Method::PATCH, "").len();
    put(&state, "alice", "active").await;
    state.update("alice", |_| (Edit::Keep, ())).await.unwrap();
    state.update("nobody", |_| (Edit::Remove, ())).await.unwrap();
    assert_eq!(server.requests(&Method::PATCH, "").len(), before);
}

#[tokio::test]
async fn many_changes_cost_one_write_a_secret() {
    let (server, _) = start().await;
    let state = state(&server).await;
    let keys: Vec<String> = (0..200).map(|number| format!("main/user-{number}")).collect();
    state.update_many(&keys, |key, _| Edit::Put(key.as_bytes().to_vec())).await.unwrap();
    let before = server.requests(&Method::PATCH, "").len();
    assert!(before <= usize::from(SHARDS) * 2, "{before}");
    state
        .update_many(&keys, |key, value| {
            assert_eq!(value, Some(key.as_bytes()));
            Edit::Put(b"other".to_vec())
        })
        .await
        .unwrap();
    assert_eq!(server.requests(&Method::PATCH, "").len(), before + usize::from(SHARDS));
    assert_eq!(state.load().await.unwrap().len(), 200);
}

#[tokio::test]
async fn a_part_that_is_not_as_we_write_it_is_never_taken_for_empty() {
    let (server, _) = start().await;
    let state = state(&server).await;
    put(&state, "alice", "blocked").await;
    for number in 0..SHARDS {
        let name = format!("postern-state-{number}");
        if let Some(mut object) = server.get("api/v1", "secrets", Some("postern"), &name) {
            for (_, value) in object["data"].as_object_mut().unwrap() {
                *value = json!("eA==");
            }
            server.put("api/v1", "secrets", Some("postern"), &object);
        }
    }
    assert!(matches!(state.read("alice").await, Err(KubernetesError::Unexpected { .. })));
    assert!(matches!(state.load().await, Err(KubernetesError::Unexpected { .. })));
}

#[tokio::test]
async fn a_state_with_another_number_of_parts_is_refused() {
    let (server, _) = start().await;
    put(&state(&server).await, "alice", "blocked").await;
    let other = State::new(server.connect().await, "postern-state", SHARDS * 2).unwrap();
    let error = other.load().await.unwrap_err();
    assert!(matches!(&error, KubernetesError::Invalid { message, .. } if message.contains("4 parts")), "{error}");
}

#[tokio::test]
async fn a_key_that_is_none_and_a_failing_server_are_errors() {
    let (server, _) = start().await;
    let state = state(&server).await;
    for key in [String::new(), "x".repeat(2049)] {
        assert!(matches!(state.read(&key).await, Err(KubernetesError::Invalid { .. })));
    }
    server.fail(None, "/secrets/", Fault::Status(500, None), usize::MAX);
    assert!(matches!(state.load().await, Err(KubernetesError::Server { .. })));
}

#[tokio::test]
async fn what_a_replica_writes_another_is_told() {
    let (server, _) = start().await;
    let (a, b) = (state(&server).await, state(&server).await);
    let watches = b.watches().unwrap();
    assert_eq!(watches.len(), usize::from(SHARDS));
    let (to, mut changes) = mpsc::channel(10);
    for watch in watches {
        tokio::spawn(watch.run(to.clone()));
    }
    for _ in 0..SHARDS {
        assert_eq!(changes.recv().await, Some(Change::Synced));
    }
    put(&a, "alice", "blocked").await;
    loop {
        let Some(Change::Seen(shard)) = changes.recv().await else { panic!("not told") };
        if let Some((key, value)) = shard.pairs().next() {
            assert_eq!((key, value), ("alice", &b"blocked"[..]));
            break;
        }
    }
    let part = b.read_part(b.part_of("alice").unwrap()).await.unwrap().unwrap();
    assert_eq!(part.pairs().collect::<Vec<_>>(), [("alice", &b"blocked"[..])]);
}

#[tokio::test]
async fn secrets_are_asked_for_by_name_alone_as_the_rights_say() {
    let (server, _) = start().await;
    let state = state(&server).await;
    put(&state, "alice", "blocked").await;
    let (to, mut changes) = mpsc::channel(10);
    for watch in state.watches().unwrap() {
        tokio::spawn(watch.run(to.clone()));
    }
    for _ in 0..SHARDS {
        while changes.recv().await != Some(Change::Synced) {}
    }
    let asked = server.requests(&Method::GET, "/namespaces/postern/secrets?");
    assert!(asked.len() >= usize::from(SHARDS), "{asked:?}");
    for at in asked {
        let by_name = |number| at.contains(&format!("fieldSelector=metadata.name%3Dpostern-state-{number}&"));
        assert!((0..SHARDS).any(by_name), "{at}");
    }
}

#[tokio::test]
async fn what_a_watch_told_before_a_write_of_ours_is_known_to_be_older() {
    let (server, _) = start().await;
    let (writer, other) = (state(&server).await, state(&server).await);
    put(&writer, "main/alice", "1").await;
    let index = writer.part_of("main/alice").unwrap();
    let before = other.read_part(index).await.unwrap().unwrap();
    assert!(!writer.is_behind(index, &before), "it is what was written");
    put(&writer, "main/alice", "2").await;
    assert!(writer.is_behind(index, &before));
    // Who wrote nothing since takes what comes.
    assert!(!other.is_behind(index, &before));
    let after = other.read_part(index).await.unwrap().unwrap();
    assert!(!writer.is_behind(index, &after));
}
