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
async fn the_fence_of_a_namespace_is_put_up_put_right_and_else_left_alone() {
    let (server, cluster) = start().await;
    grants::ensure(&cluster, "team-a", &alice()).await.unwrap();
    let role = |server: &ApiServer| server.get(RBAC, "roles", Some("team-a"), "postern-user").unwrap();
    let made = role(&server);
    assert_eq!(made["rules"], grants::user_rules());
    grants::ensure(&cluster, "team-a", &alice()).await.unwrap();
    assert_eq!(role(&server), made);

    let mut wider = made.clone();
    wider["rules"] = json!([{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }]);
    server.put(RBAC, "roles", Some("team-a"), &wider);
    grants::ensure(&cluster, "team-a", &alice()).await.unwrap();
    assert_eq!(role(&server)["rules"], grants::user_rules());

    let reader = server.get(RBAC, "roles", Some("team-a"), "postern-token-reader").unwrap();
    let only =
        json!([{ "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["access-token"], "verbs": ["get"] }]);
    assert_eq!(reader["rules"], only);
    let binding = server.get(RBAC, "rolebindings", Some("team-a"), "postern-user").unwrap();
    assert_eq!(binding["subjects"][0]["namespace"], "team-a");
    assert!(server.get("api/v1", "serviceaccounts", Some("team-a"), "postern-user").is_some());
}

#[tokio::test]
async fn what_is_missing_in_our_rights_is_said() {
    let (server, cluster) = start().await;
    server.fail(None, "/roles/", Fault::Status(403, None), 1);
    let error = grants::ensure(&cluster, "team-a", &alice()).await.unwrap_err();
    assert!(
        matches!(&error, KubernetesError::Forbidden { what, .. } if what == "roles/team-a/postern-user"),
        "{error}"
    );
}
