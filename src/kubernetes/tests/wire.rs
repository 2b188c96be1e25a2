//! What may come instead of an answer.

use super::server::{ApiServer, Fault};
use super::start;
use crate::kubernetes::{Access, Cluster, KubernetesError, Secrets};
use http::Method;
use serde_json::json;
use std::time::Duration;

async fn error_of(fault: Fault) -> KubernetesError {
    let (server, cluster) = start().await;
    server.fail(None, "/secrets/", fault, usize::MAX);
    Secrets::new(cluster).read("team-a").await.unwrap_err()
}

#[tokio::test]
async fn a_401_that_is_cut_short_is_known_by_its_status() {
    assert_eq!(error_of(Fault::Cut(401)).await, KubernetesError::Unauthorized);
}

#[tokio::test]
async fn statuses_whose_body_is_cut_short_are_known_too() {
    assert!(matches!(error_of(Fault::Cut(403)).await, KubernetesError::Forbidden { .. }));
    assert!(matches!(error_of(Fault::Cut(409)).await, KubernetesError::Conflict { .. }));
    assert!(matches!(error_of(Fault::Cut(500)).await, KubernetesError::Server { status: 500, .. }));
}

#[tokio::test]
async fn a_429_tells_how_long_to_wait_and_is_not_tried_again_behind_the_callers_back() {
    let (server, cluster) = start().await;
    server.fail(None, "/secrets/", Fault::Status(429, Some(7)), usize::MAX);
    let error = Secrets::new(cluster).read("team-a").await.unwrap_err();
    assert_eq!(error, KubernetesError::Throttled { after: Some(Duration::from_secs(7)) });
    assert!(error.is_passing());
    assert_eq!(server.requests(&Method::GET, "/secrets/").len(), 1);
}

#[tokio::test]
async fn a_server_that_fails_is_told_from_one_that_is_not_reached() {
    let failed = error_of(Fault::Status(503, Some(2))).await;
    assert!(matches!(failed, KubernetesError::Server { status: 503, .. }), "{failed}");
    assert_eq!(failed.retry_after(), Some(Duration::from_secs(2)));
    let cut = error_of(Fault::Cut(200)).await;
    assert!(matches!(cut, KubernetesError::Unreachable { .. }), "{cut}");
    let closed = error_of(Fault::Closed).await;
    assert!(matches!(closed, KubernetesError::Unreachable { .. }), "{closed}");
}

#[tokio::test]
async fn where_nobody_listens_the_error_says_so() {
    let server = ApiServer::start().await;
    let cluster = server.connect().await;
    server.stop().await;
    let error = Secrets::new(cluster).read("team-a").await.unwrap_err();
    assert!(matches!(&error, KubernetesError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_none_is_not_quoted() {
    let error = error_of(Fault::Body("{\"data\":{\"AUTH_TOKEN\":\"aHVudGVyMg==\"},")).await;
    assert!(matches!(error, KubernetesError::Unexpected { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("aHVudGVy"), "{error:?}");
}

#[tokio::test]
async fn a_token_that_changed_on_disk_is_read_again_when_the_old_one_is_refused() {
    let (server, cluster) = start().await;
    let secrets = Secrets::new(cluster);
    server.accept_only("first");
    assert_eq!(secrets.read("team-a").await, Ok(None));
    server.accept_only("second");
    server.write_token("second");
    assert_eq!(secrets.read("team-a").await, Ok(None));
    // Refused for good: read again once, then told.
    server.accept_only("third");
    assert_eq!(secrets.read("team-a").await, Err(KubernetesError::Unauthorized));
    let before = server.requests(&Method::GET, "/secrets/").len();
    assert_eq!(secrets.read("team-a").await, Err(KubernetesError::Unauthorized));
    assert_eq!(server.requests(&Method::GET, "/secrets/").len(), before + 1);
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_before_anything_is_sent() {
    let (server, cluster) = start().await;
    for name in ["../kube-system", "Team", "a/b", ""] {
        let error = Secrets::new(cluster.clone()).read(name).await.unwrap_err();
        assert!(matches!(error, KubernetesError::Invalid { .. }), "{name}: {error}");
    }
    assert!(server.requests(&Method::GET, "").is_empty());
}

async fn connect_with(cluster: serde_json::Value) -> Result<Cluster, KubernetesError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kubeconfig");
    let file = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{ "name": "x", "cluster": cluster }], "users": [{ "name": "x", "user": { "token": "t" } }],
        "contexts": [{ "name": "x", "context": { "cluster": "x", "user": "x" } }],
    });
    std::fs::write(&path, file.to_string()).unwrap();
    Cluster::connect(Access::Kubeconfig(path)).await
}

#[tokio::test]
async fn a_kubeconfig_that_would_give_our_credentials_away_is_refused() {
    for cluster in [
        json!({ "server": "https://10.0.0.1:6443", "insecure-skip-tls-verify": true }),
        json!({ "server": "http://10.0.0.1:6443" }),
        json!({ "server": "https://10.0.0.1:6443", "proxy-url": "http://10.0.0.2:3128" }),
    ] {
        let result = connect_with(cluster.clone()).await;
        assert!(matches!(result, Err(KubernetesError::Setup(_))), "{cluster}");
    }
    assert_eq!(connect_with(json!({ "server": "https://10.0.0.1:6443" })).await.unwrap().namespace(), "default");
}

#[tokio::test]
async fn a_kubeconfig_that_is_not_there_and_a_pod_that_is_none_are_named() {
    let missing = Cluster::connect(Access::Kubeconfig("/nonexistent/kubeconfig".into())).await;
    assert!(matches!(missing, Err(KubernetesError::Setup(text)) if text.contains("/nonexistent/kubeconfig")));
}
