//! Tokens of ServiceAccounts, and credentials that lie in a Secret.

use super::server::{ApiServer, Fault, eventually, in_time};
use super::start;
use crate::base::secret::Secret;
use crate::kubernetes::KubernetesError;
use crate::kubernetes::secret_value::{Follow, SecretKey, Value};
use crate::kubernetes::token_request::{Bound, BoundKind, TokenRequest, request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

#[tokio::test]
async fn a_token_ends_when_the_server_says_so() {
    let (server, cluster) = start().await;
    server.put("api/v1", "serviceaccounts", Some("team-a"), &json!({ "metadata": { "name": "postern-user" } }));
    let bound = Bound { kind: BoundKind::Secret, name: "session".to_owned(), uid: Some("u1".to_owned()) };
    let asked = TokenRequest {
        namespace: "team-a",
        account: "postern-user",
        audiences: &["https://kubernetes.default.svc".to_owned()],
        // Raised to the ten minutes below which the server says 422.
        lifetime: Duration::from_secs(30),
        bound_to: Some(&bound),
    };
    let token = request(&cluster, &asked).await.unwrap();
    assert_eq!(token.token, Secret::new("a.b.c"));
    assert_eq!(token.expires_unix_ms, 1_767_225_600_000);
    assert!(!format!("{token:?}").contains("a.b.c"));
}

#[tokio::test]
async fn a_token_of_no_account_and_an_answer_without_one_are_errors() {
    let (server, cluster) = start().await;
    let asked = TokenRequest {
        namespace: "team-a",
        account: "nobody",
        audiences: &[],
        lifetime: Duration::from_secs(600),
        bound_to: None,
    };
    let missing = request(&cluster, &asked).await.unwrap_err();
    assert!(matches!(missing, KubernetesError::NotFound { .. }), "{missing}");
    server.fail(None, "/token", Fault::Body("{\"spec\":{\"audiences\":[]}}"), 1);
    let empty = request(&cluster, &asked).await.unwrap_err();
    assert!(matches!(empty, KubernetesError::Unexpected { .. }), "{empty}");
}

fn put(server: &ApiServer, text: &[u8]) {
    let object =
        json!({ "kind": "Secret", "metadata": { "name": "api-key" }, "data": { "key": STANDARD.encode(text) } });
    server.put("api/v1", "secrets", Some("team-a"), &object);
}

fn known(text: &str) -> Value {
    Value::Known(Arc::new(Secret::new(text)))
}

async fn becomes(value: &mut watch::Receiver<Value>, wanted: &Value) {
    in_time(value.wait_for(|value| value == wanted)).await.unwrap();
}

#[tokio::test]
async fn a_value_is_read_followed_and_missed() {
    let (server, cluster) = start().await;
    let of = SecretKey { namespace: "team-a".to_owned(), name: "api-key".to_owned(), key: "key".to_owned() };
    let (follow, mut value) = Follow::new(&cluster, of).unwrap();
    assert_eq!(*value.borrow(), Value::Unknown);
    let task = tokio::spawn(follow.run());
    becomes(&mut value, &Value::Missing).await;
    put(&server, b"k1\n");
    becomes(&mut value, &known("k1")).await;
    put(&server, b"k2");
    becomes(&mut value, &known("k2")).await;
    put(&server, b"\xff");
    becomes(&mut value, &Value::Missing).await;
    put(&server, b"k3");
    becomes(&mut value, &known("k3")).await;
    server.remove("api/v1", "secrets", Some("team-a"), "api-key");
    becomes(&mut value, &Value::Missing).await;
    drop(value);
    task.await.unwrap();
}

#[tokio::test]
async fn a_value_stays_known_while_the_server_is_away() {
    let (server, cluster) = start().await;
    put(&server, b"k1");
    let of = SecretKey { namespace: "team-a".to_owned(), name: "api-key".to_owned(), key: "key".to_owned() };
    let (follow, mut value) = Follow::new(&cluster, of).unwrap();
    tokio::spawn(follow.run());
    becomes(&mut value, &known("k1")).await;
    eventually("the watch is open", || !server.requests(&http::Method::GET, "watch=true").is_empty()).await;
    server.fail(None, "/secrets", Fault::Status(503, None), usize::MAX);
    server.drop_watches();
    let tried = || server.requests(&http::Method::GET, "watch=true").len();
    eventually("it was tried in vain", || tried() > 2).await;
    assert_eq!(*value.borrow(), known("k1"));
    put(&server, b"k2");
    server.heal();
    becomes(&mut value, &known("k2")).await;
}
