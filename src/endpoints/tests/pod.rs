//! Pods that ask for the token of their namespace's user.

use super::token::{answer, shown};
use super::*;
use crate::identity::{News, NoToken};

const CLUSTER: &str = "http://127.0.0.1:1";

impl Stage {
    /// One on which `alice` and `bob` have the namespaces `team-a` and `team-b`, and a token each.
    fn with_namespaces() -> Self {
        let stage = Self::new();
        for (subject, namespace) in [("alice", "team-a"), ("bob", "team-b")] {
            stage.links.bulletin().record(&user(subject), Some(namespace));
            stage.keep(subject, 1000);
        }
        stage
    }

    /// A token of a service account, made so many seconds ago.
    fn pod(&self, namespace: &str, name: &str, ago: i64) -> Authorization {
        let issued = self.clock.now().unix_seconds() - ago;
        let claims = json!({
            "iss": CLUSTER, "aud": ["gateway"], "iat": issued, "nbf": issued, "exp": issued + 3600, "jti": "1",
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": "u1"}},
        });
        self.signed(&json!({"alg": "ES256", "kid": self.key.kid()}), &claims)
    }

    /// The status of the answer to a pod, and the token or the reason.
    async fn trade(&self, namespace: &str, name: &str) -> (u16, String) {
        let (status, body, is_failed) = self.get(&self.pod(namespace, name, 0)).await;
        assert!(!is_failed, "{body}");
        let said = body.get("access_token").or_else(|| body.get("reason")).and_then(Value::as_str);
        (status, said.unwrap_or_default().to_owned())
    }
}

fn said(status: u16, word: &str) -> (u16, String) {
    (status, word.to_owned())
}

#[tokio::test]
async fn a_pod_gets_the_token_of_its_own_namespaces_user_and_no_other() {
    let stage = Stage::with_namespaces();
    assert_eq!(stage.trade("team-a", "builder").await, said(200, "token of alice"));
    assert_eq!(stage.trade("team-b", "ci-7").await, said(200, "token of bob"));
    for namespace in ["team-c", "postern", "default", "alice"] {
        assert_eq!(stage.trade(namespace, "builder").await, said(403, "no_user_of_namespace"), "{namespace}");
    }
    stage.links.bulletin().record(&user("alice"), None);
    assert_eq!(stage.trade("team-a", "builder").await, said(403, "no_user_of_namespace"));
}

#[tokio::test]
async fn only_listed_accounts_may_and_never_the_one_whose_tokens_postern_makes() {
    let stage = Stage::with_namespaces();
    // The last is matched by `postern-*`.
    for name in ["default", "builder2", "a-ci-7", "postern-user"] {
        assert_eq!(stage.trade("team-a", name).await, said(403, "account_not_listed"), "{name}");
    }
}

#[tokio::test]
async fn while_its_user_is_out_a_pod_gets_nothing_and_is_told_why() {
    let stage = Stage::with_namespaces();
    stage.block("alice");
    assert_eq!(stage.trade("team-a", "builder").await, said(403, "blocked"));
    stage.lift("alice");
    assert_eq!(stage.trade("team-a", "builder").await, said(403, "awaiting_sign_in"));
    assert_eq!(stage.trade("team-b", "builder").await, said(200, "token of bob"));
    // Then no token is good, a pod's neither.
    stage.users.disable_cluster(act()).unwrap();
    assert_eq!(stage.get(&stage.pod("team-b", "builder", 0)).await.0, 401);
}

#[tokio::test]
async fn that_a_pod_asks_is_no_sign_of_its_user() {
    let stage = Stage::with_namespaces();
    stage.links.bulletin().keep(&user("alice"), None);
    let (heard, news) = tokio::sync::mpsc::unbounded_channel();
    let mut told = stage.links.bulletin().listen().unwrap();
    let passed_on = tokio::spawn(async move {
        let first = told.recv().await.unwrap();
        let is_wanted = matches!(first, News::Wanted { .. });
        heard.send(first).unwrap();
        is_wanted
    });
    answer(news, Err(NoToken::NeverSignedIn));
    assert_eq!(stage.trade("team-a", "builder").await, said(403, "never_signed_in"));
    assert!(passed_on.await.unwrap(), "a sign-in was told of");
}

#[tokio::test]
async fn less_than_ten_minutes_are_never_handed_out() {
    let stage = Stage::with_namespaces();
    let news = stage.links.bulletin().listen().unwrap();
    answer(news, Err(NoToken::NotNow));
    stage.keep("alice", 600);
    assert_eq!(stage.trade("team-a", "builder").await, said(200, "token of alice"));
    stage.keep("alice", 599);
    assert_eq!(stage.trade("team-a", "builder").await, said(503, ""));
}

#[tokio::test]
async fn a_token_of_the_namespace_that_was_there_before_is_none() {
    let stage = Stage::with_namespaces();
    // Clocks may differ by 30 s.
    for (ago, status) in [(0, 200), (30, 200), (31, 403), (600, 403)] {
        let (answered, body, _) = stage.get(&stage.pod("team-a", "builder", ago)).await;
        assert_eq!(answered, status, "{ago} s: {body}");
        assert_eq!(body.get("reason"), (status == 403).then_some(&json!("token_too_old")), "{ago} s");
    }
}

#[tokio::test]
async fn what_is_no_good_token_of_the_cluster_obtains_nothing() {
    let stage = Stage::with_namespaces();
    let Authorization::One(header) = stage.pod("team-a", "builder", 0) else { unreachable!("it is one") };
    let token = header.to_str().unwrap().trim_start_matches("Bearer ").to_owned();
    let forged = token.replacen('.', ".e", 1);
    let (status, _, is_failed) = stage.get(&shown(&forged)).await;
    assert_eq!((status, is_failed), (401, true));
    let (status, _, _) = stage.get(&stage.pod("team-a", "builder", 3700)).await;
    assert_eq!(status, 401, "expired");
    stage
        .users
        .block(&UserId::new("cluster", "system:serviceaccount:team-a:builder").unwrap(), Proof::Operator(act()))
        .unwrap();
    assert_eq!(stage.get(&shown(&token)).await.0, 401, "an operator blocked the account");
}
