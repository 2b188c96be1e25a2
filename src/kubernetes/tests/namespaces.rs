//! The namespaces of users.

use super::server::{ApiServer, Fault};
use super::{alice, bob, start};
use crate::kubernetes::{Ensured, KubernetesError, Namespaces, Removal, grants};
use http::Method;
use serde_json::{Value, json};

const RBAC: &str = "apis/rbac.authorization.k8s.io/v1";

fn stored(server: &ApiServer, name: &str) -> Option<Value> {
    server.get("api/v1", "namespaces", None, name)
}

#[tokio::test]
async fn a_namespace_is_made_with_our_mark_and_known_by_it() {
    let (server, cluster) = start().await;
    let namespaces = Namespaces::new(cluster);
    let Ensured::Ours(made) = namespaces.ensure("alice", &alice()).await.unwrap() else { panic!("not ours") };
    assert!(made.mark.is_of(&alice()) && !made.is_terminating);
    let labels = &stored(&server, "alice").unwrap()["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "baseline");
    assert_eq!(namespaces.ensure("alice", &alice()).await, Ok(Ensured::Ours(made)));
    assert_eq!(server.requests(&Method::POST, "/namespaces").len(), 1);
}

#[tokio::test]
async fn a_namespace_of_others_or_of_another_user_is_taken_and_left_alone() {
    let (server, cluster) = start().await;
    let namespaces = Namespaces::new(cluster);
    let before = stored(&server, "team-a");
    assert!(matches!(namespaces.ensure("team-a", &alice()).await, Ok(Ensured::Taken(_))));
    assert_eq!(stored(&server, "team-a"), before);
    namespaces.ensure("bob", &bob()).await.unwrap();
    let Ok(Ensured::Taken(taken)) = namespaces.ensure("bob", &alice()).await else { panic!("not taken") };
    assert!(taken.mark.is_of(&bob()));
}

#[tokio::test]
async fn a_namespace_that_somebody_made_meanwhile_is_judged_not_an_error() {
    let (server, cluster) = start().await;
    let namespaces = Namespaces::new(cluster);
    // The first look comes before it is there.
    server.fail(Some(Method::GET), "/namespaces/team-a", Fault::Status(404, None), 1);
    assert!(matches!(namespaces.ensure("team-a", &alice()).await, Ok(Ensured::Taken(_))));
}

#[tokio::test]
async fn a_namespace_that_is_being_deleted_is_told() {
    let (server, cluster) = start().await;
    let namespaces = Namespaces::new(cluster);
    namespaces.ensure("alice", &alice()).await.unwrap();
    let mut object = stored(&server, "alice").unwrap();
    object["status"] = json!({ "phase": "Terminating" });
    server.put("api/v1", "namespaces", None, &object);
    let Ok(Ensured::Terminating(going)) = namespaces.ensure("alice", &alice()).await else { panic!("not told") };
    assert!(going.mark.is_of(&alice()));
}

#[tokio::test]
async fn a_namespace_is_deleted_only_with_our_mark_for_that_user() {
    let (server, cluster) = start().await;
    let namespaces = Namespaces::new(cluster);
    let foreign = namespaces.read("team-a").await.unwrap().unwrap();
    assert_eq!(namespaces.delete(&foreign, &alice()).await, Ok(Removal::NotOurs));
    let Ensured::Ours(ours) = namespaces.ensure("alice", &alice()).await.unwrap() else { panic!("not ours") };
    assert_eq!(namespaces.delete(&ours, &bob()).await, Ok(Removal::NotOurs));
    assert!(server.requests(&Method::DELETE, "").is_empty());
    assert_eq!(namespaces.delete(&ours, &alice()).await, Ok(Removal::Begun));
    assert_eq!(stored(&server, "alice"), None);
    assert_eq!(namespaces.delete(&ours, &alice()).await, Ok(Removal::Begun));
}

#[tokio::test]
async fn a_namespace_that_lost_its_mark_or_was_made_anew_since_is_not_deleted() {
    let (server, cluster) = start().await;
    let namespaces = Namespaces::new(cluster);
    let Ensured::Ours(seen) = namespaces.ensure("alice", &alice()).await.unwrap() else { panic!("not ours") };
    server.put("api/v1", "namespaces", None, &json!({ "metadata": { "name": "alice" } }));
    assert_eq!(namespaces.delete(&seen, &alice()).await, Ok(Removal::Stale));
    server.remove("api/v1", "namespaces", None, "alice");
    namespaces.ensure("alice", &alice()).await.unwrap();
    assert_eq!(namespaces.delete(&seen, &alice()).await, Ok(Removal::Stale));
    assert!(stored(&server, "alice").is_some());
}

#[tokio::test]
async fn what_stands_in_a_namespace_is_made_put_right_and_else_left_alone() {
    let (server, cluster) = start().await;
    let binding = |server: &ApiServer| server.get(RBAC, "rolebindings", Some("team-a"), "postern-user").unwrap();
    assert_eq!(grants::ensure(&cluster, "team-a").await, Ok(true));
    let made = binding(&server);
    assert_eq!(made["roleRef"]["kind"], "ClusterRole");
    assert_eq!(made["subjects"][0]["namespace"], "team-a");
    let account = server.get("api/v1", "serviceaccounts", Some("team-a"), "postern-user").unwrap();
    assert_eq!(account["automountServiceAccountToken"], false);
    let writes = server.requests(&Method::PATCH, "").len();
    assert_eq!(grants::ensure(&cluster, "team-a").await, Ok(false));
    assert_eq!(server.requests(&Method::PATCH, "").len(), writes);

    let mut wider = made.clone();
    wider["subjects"] = json!([{ "kind": "Group", "name": "system:authenticated" }]);
    server.put(RBAC, "rolebindings", Some("team-a"), &wider);
    assert_eq!(grants::ensure(&cluster, "team-a").await, Ok(true));
    assert_eq!(binding(&server)["subjects"], made["subjects"]);
}

#[tokio::test]
async fn what_a_users_tokens_are_bound_to_is_made_once_and_deleted() {
    let (server, cluster) = start().await;
    let session = |server: &ApiServer| server.get("api/v1", "secrets", Some("team-a"), "postern-session");
    assert_eq!(grants::open_session(&cluster, "team-a").await, Ok(true));
    let made = session(&server).unwrap();
    assert_eq!(grants::open_session(&cluster, "team-a").await, Ok(false));
    assert_eq!(session(&server), Some(made));
    grants::close_session(&cluster, "team-a").await.unwrap();
    grants::close_session(&cluster, "team-a").await.unwrap();
    assert_eq!(session(&server), None);
}

#[tokio::test]
async fn what_is_missing_in_our_rights_is_said() {
    let (server, cluster) = start().await;
    server.fail(None, "/rolebindings/", Fault::Status(403, None), 1);
    let error = grants::ensure(&cluster, "team-a").await.unwrap_err();
    assert!(
        matches!(&error, KubernetesError::Forbidden { what, .. } if what == "rolebindings/team-a/postern-user"),
        "{error}"
    );
}
