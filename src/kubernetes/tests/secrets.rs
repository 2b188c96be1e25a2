//! The user's Secret: what a write promises.

use super::server::{ApiServer, Fault};
use super::{alice, bob, start};
use crate::base::secret::Secret;
use crate::kubernetes::{Aim, Content, KubernetesError, Owner, Secrets, Standing, UserSecret, Write};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};
use std::sync::LazyLock;

const GROUP: &str = "api/v1";

static ALICE: LazyLock<Owner> = LazyLock::new(alice);

/// For alice, on what was seen.
fn aim(seen: &UserSecret) -> Aim<'_> {
    Aim { namespace: &seen.namespace, on: &seen.version, owner: &ALICE, epoch: 2 }
}

fn token(text: &str) -> Secret {
    Secret::new(text)
}

fn done(write: Result<Write<UserSecret>, KubernetesError>) -> UserSecret {
    match write.unwrap() {
        Write::Done(secret) => secret,
        other => panic!("not done: {other:?}"),
    }
}

fn stored(server: &ApiServer) -> Value {
    server.get(GROUP, "secrets", Some("team-a"), "access-token").unwrap()
}

/// Changes the stored object as its user may.
fn edit(server: &ApiServer, change: impl FnOnce(&mut Value)) {
    let mut object = stored(server);
    change(&mut object);
    server.put(GROUP, "secrets", Some("team-a"), &object);
}

async fn filled() -> (ApiServer, Secrets, UserSecret) {
    let (server, cluster) = start().await;
    let secrets = Secrets::new(cluster);
    let made = done(secrets.create("team-a", &alice()).await);
    let seen = done(secrets.fill(aim(&made), &token("t1")).await);
    (server, secrets, seen)
}

#[tokio::test]
async fn a_secret_is_made_empty_and_marked_filled_and_emptied() {
    let (server, cluster) = start().await;
    let secrets = Secrets::new(cluster);
    assert_eq!(secrets.read("team-a").await, Ok(None));
    let made = done(secrets.create("team-a", &alice()).await);
    assert_eq!((&made.content, made.standing(&alice())), (&Content::Empty, Standing::Ours));
    assert_eq!(stored(&server)["data"], json!({ "AUTH_TOKEN": "" }));

    let filled = done(secrets.fill(aim(&made), &token("t1")).await);
    assert!(filled.holds(&token("t1")) && filled.version != made.version);
    assert_eq!((made.epoch, filled.epoch), (0, 2));
    assert_eq!(secrets.read("team-a").await, Ok(Some(filled.clone())));
    assert_eq!(stored(&server)["data"]["AUTH_TOKEN"], STANDARD.encode("t1"));

    let emptied = done(secrets.empty(aim(&filled)).await);
    assert!(emptied.is_empty() && emptied.mark.is_of(&alice()));
    assert_eq!(stored(&server)["data"], json!({ "AUTH_TOKEN": "" }));
}

#[tokio::test]
async fn a_leader_that_was_paused_cannot_refill_what_was_emptied() {
    let (server, secrets, seen) = filled().await;
    done(secrets.empty(aim(&seen)).await);
    assert_eq!(secrets.fill(aim(&seen), &token("t2")).await, Ok(Write::Stale));
    assert_eq!(stored(&server)["data"], json!({ "AUTH_TOKEN": "" }));
}

#[tokio::test]
async fn a_refill_never_forces() {
    let (server, secrets, seen) = filled().await;
    done(secrets.fill(aim(&seen), &token("t2")).await);
    for request in server.requests(&Method::PATCH, "/secrets/") {
        assert!(request.contains("force=false"), "{request}");
    }
}

#[tokio::test]
async fn a_secret_that_was_edited_by_hand_is_told_not_overridden_and_healed_by_emptying_first() {
    let (server, secrets, _) = filled().await;
    edit(&server, |object| object["data"]["AUTH_TOKEN"] = json!(STANDARD.encode("by hand")));
    let seen = secrets.read("team-a").await.unwrap().unwrap();
    let by = vec!["kubectl-edit".to_owned()];
    assert_eq!(seen.standing(&alice()), Standing::Edited { by: by.clone() });
    assert_eq!(secrets.fill(aim(&seen), &token("t2")).await, Ok(Write::Held { managers: by }));

    let emptied = done(secrets.empty(aim(&seen)).await);
    assert_eq!(emptied.standing(&alice()), Standing::Ours);
    assert!(done(secrets.fill(aim(&emptied), &token("t2")).await).holds(&token("t2")));
}

#[tokio::test]
async fn emptying_overrides_hand_edits_but_not_what_was_done_since() {
    let (server, secrets, seen) = filled().await;
    edit(&server, |object| object["data"]["AUTH_TOKEN"] = json!(STANDARD.encode("by hand")));
    assert_eq!(secrets.empty(aim(&seen)).await, Ok(Write::Stale));
    assert_eq!(stored(&server)["data"]["AUTH_TOKEN"], STANDARD.encode("by hand"));
}

#[tokio::test]
async fn a_stripped_mark_is_told_and_comes_back_with_the_next_fill() {
    let (server, secrets, _) = filled().await;
    edit(&server, |object| {
        object["metadata"].as_object_mut().unwrap().remove("labels");
        object["metadata"].as_object_mut().unwrap().remove("annotations");
    });
    let seen = secrets.read("team-a").await.unwrap().unwrap();
    assert_eq!(seen.standing(&alice()), Standing::Stripped);
    assert_eq!(done(secrets.fill(aim(&seen), &token("t2")).await).standing(&alice()), Standing::Ours);
}

#[tokio::test]
async fn a_secret_that_was_deleted_is_not_made_anew_by_a_fill() {
    let (server, secrets, seen) = filled().await;
    server.remove(GROUP, "secrets", Some("team-a"), "access-token");
    assert_eq!(secrets.read("team-a").await, Ok(None));
    assert_eq!(secrets.fill(aim(&seen), &token("t2")).await, Ok(Write::Stale));
    assert_eq!(secrets.empty(aim(&seen)).await, Ok(Write::Stale));
    assert_eq!(server.get(GROUP, "secrets", Some("team-a"), "access-token"), None);
}

#[tokio::test]
async fn a_secret_of_others_is_foreign_and_not_taken_over() {
    let (server, cluster) = start().await;
    let secrets = Secrets::new(cluster);
    let theirs = json!({ "kind": "Secret", "metadata": { "name": "access-token" }, "data": { "AUTH_TOKEN": "eA==" } });
    server.put(GROUP, "secrets", Some("team-a"), &theirs);
    let seen = secrets.read("team-a").await.unwrap().unwrap();
    assert_eq!(seen.standing(&alice()), Standing::Foreign);
    let held = Write::Held { managers: vec!["kubectl-edit".to_owned()] };
    assert_eq!(secrets.create("team-a", &alice()).await, Ok(held));
    assert_eq!(stored(&server)["data"], json!({ "AUTH_TOKEN": "eA==" }));
}

#[tokio::test]
async fn making_what_somebody_made_meanwhile_is_stale() {
    let (server, cluster) = start().await;
    let secrets = Secrets::new(cluster);
    let theirs = json!({ "kind": "Secret", "metadata": { "name": "access-token" }, "data": { "other": "eA==" } });
    server.put(GROUP, "secrets", Some("team-a"), &theirs);
    assert_eq!(secrets.create("team-a", &alice()).await, Ok(Write::Stale));
    assert_eq!(stored(&server)["data"]["other"], "eA==");
}

#[tokio::test]
async fn a_secret_of_another_user_is_told_as_theirs() {
    let (_server, secrets, seen) = filled().await;
    assert_eq!(seen.standing(&bob()), Standing::Another(alice()));
    let same_subject = Owner::new("other", alice().subject);
    assert_eq!(secrets.read("team-a").await.unwrap().unwrap().standing(&same_subject), Standing::Another(alice()));
}

#[tokio::test]
async fn a_secret_is_removed_only_as_it_was_seen() {
    let (server, secrets, seen) = filled().await;
    edit(&server, |object| object["data"]["more"] = json!("eA=="));
    assert_eq!(secrets.delete("team-a", &seen.version).await, Ok(Write::Stale));
    let seen = secrets.read("team-a").await.unwrap().unwrap();
    assert_eq!(secrets.delete("team-a", &seen.version).await, Ok(Write::Done(())));
    assert_eq!(secrets.delete("team-a", &seen.version).await, Ok(Write::Done(())));
    assert_eq!(secrets.read("team-a").await, Ok(None));
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_found_by_reading() {
    let (server, secrets, seen) = filled().await;
    server.fail(Some(Method::PATCH), "/secrets/", Fault::Lost, 1);
    let error = secrets.fill(aim(&seen), &token("t2")).await.unwrap_err();
    assert!(matches!(error, KubernetesError::Unreachable { .. }), "{error}");
    assert!(secrets.read("team-a").await.unwrap().unwrap().holds(&token("t2")));
}

#[tokio::test]
async fn an_answer_that_does_not_hold_what_was_written_is_an_error() {
    let (server, secrets, seen) = filled().await;
    let other = r#"{"metadata":{"namespace":"team-a","uid":"u","resourceVersion":"9"},"data":{"AUTH_TOKEN":"eA=="}}"#;
    server.fail(Some(Method::PATCH), "/secrets/", Fault::Body(other), 2);
    let not_kept = Err(KubernetesError::NotKept { what: "secrets/team-a/access-token".to_owned() });
    assert_eq!(secrets.fill(aim(&seen), &token("t2")).await, not_kept);
    assert_eq!(secrets.empty(aim(&seen)).await, not_kept);
}

#[tokio::test]
async fn without_its_namespace_or_while_that_goes_nothing_is_made() {
    let (server, cluster) = start().await;
    let secrets = Secrets::new(cluster);
    let missing = secrets.create("nowhere", &alice()).await;
    assert!(matches!(missing, Err(KubernetesError::NotFound { .. })), "{missing:?}");
    let going = json!({ "metadata": { "name": "team-a", "deletionTimestamp": "2026-01-01T00:00:00Z" } });
    server.put(GROUP, "namespaces", None, &going);
    let going = secrets.create("team-a", &alice()).await;
    assert!(matches!(going, Err(KubernetesError::Terminating { .. })), "{going:?}");
}

#[tokio::test]
async fn a_block_of_a_user_whose_secret_is_empty_stops_a_leader_that_was_paused_too() {
    let (server, cluster) = start().await;
    let secrets = Secrets::new(cluster);
    let made = done(secrets.create("team-a", &alice()).await);
    let touched = done(secrets.empty(Aim { epoch: 1, ..aim(&made) }).await);
    assert!(made.version.is_before(&touched.version) && touched.epoch == 1);
    assert_eq!(secrets.fill(aim(&made), &token("t1")).await, Ok(Write::Stale));
    assert_eq!(stored(&server)["data"], json!({ "AUTH_TOKEN": "" }));
}
