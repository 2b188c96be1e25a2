//! `GET /token`. The test is who keeps the tokens.

use super::*;
use crate::base::secret::Secret;
use crate::identity::{KeptToken, News, NoToken};
use http::header::ALLOW;
use tokio::sync::mpsc::UnboundedReceiver;

impl Stage {
    /// A token of a user's issuer, as `Authorization`.
    pub(super) fn bearer(&self, issuer: &str, subject: &str) -> Authorization {
        let now = self.clock.now().unix_seconds();
        let head = json!({"alg": "ES256", "typ": "JWT", "kid": self.key.kid()});
        let claims = json!({
            "iss": issuer, "aud": "gateway", "iat": now, "exp": now + 300, "sub": subject, "sid": "s1", "typ": "Bearer",
        });
        self.signed(&head, &claims)
    }

    /// A token of the issuers, with these claims, as `Authorization`.
    pub(super) fn signed(&self, head: &Value, claims: &Value) -> Authorization {
        let token = self.key.compact(head.to_string().as_bytes(), claims.to_string().as_bytes()).unwrap();
        shown(&token)
    }

    pub(super) fn keep(&self, subject: &str, seconds: i64) {
        self.links.bulletin().keep(&user(subject), Some(self.kept(subject, seconds)));
    }

    pub(super) fn kept(&self, subject: &str, seconds: i64) -> Arc<KeptToken> {
        Arc::new(KeptToken {
            token: Secret::new(format!("token of {subject}")),
            expires: self.clock.now().unix_seconds() + seconds,
            epoch: self.users.epoch("main", subject),
            namespace: subject.to_owned(),
            named_unix_ms: self.clock.now().unix_ms,
            roles: Vec::new(),
            groups: Vec::new(),
        })
    }

    pub(super) async fn get(&self, authorization: &Authorization) -> (u16, Value, bool) {
        self.call(Endpoint::Token, authorization, "").await
    }
}

pub(super) fn shown(token: &str) -> Authorization {
    Authorization::One(HeaderValue::from_str(&format!("Bearer {token}")).unwrap())
}

/// Answers the next who wants a token.
pub(super) fn answer(mut news: UnboundedReceiver<News>, answer: Result<Arc<KeptToken>, NoToken>) {
    tokio::spawn(async move {
        while let Some(news) = news.recv().await {
            if let News::Wanted { user: who, reply } = news {
                assert_eq!(who, user("alice"));
                reply.send(answer.clone()).unwrap();
            }
        }
    });
}

#[tokio::test]
async fn a_user_gets_the_token_that_is_kept_for_them() {
    let stage = Stage::new();
    stage.keep("alice", 1000);
    stage.keep("bob", 1000);
    let (status, body, is_failed) = stage.get(&stage.bearer(URL, "alice")).await;
    let expected = json!({
        "access_token": "token of alice", "token_type": "Bearer", "expires_in": 1000, "namespace": "alice",
    });
    assert_eq!((status, body, is_failed), (200, expected, false));
}

#[tokio::test]
async fn no_token_of_ours_obtains_another() {
    let stage = Stage::new();
    stage.keep("alice", 1000);
    for audience in ["https://postern.example", "orders"] {
        let (status, body, _) = stage.get(&shown(&stage.mint("alice", audience))).await;
        assert_eq!((status, body.get("access_token")), (401, None), "{audience}");
    }
}

#[tokio::test]
async fn only_a_user_of_that_issuer_who_is_let_in_is_answered() {
    let stage = Stage::new();
    stage.keep("alice", 1000);
    let elsewhere = stage.bearer("http://127.0.0.1:1/realms/other", "alice");
    assert_eq!(stage.get(&elsewhere).await.0, 401);
    assert_eq!(stage.get(&Authorization::Nothing).await.0, 401);
    assert_eq!(stage.get(&Authorization::Several).await.0, 400);
    assert_eq!(stage.get(&header("orders", "s3cret")).await.0, 400);
    let (status, _, is_failed) = stage.get(&shown("e30.e30.e30")).await;
    assert_eq!((status, is_failed), (401, true));
    stage.block("alice");
    assert_eq!(stage.get(&stage.bearer(URL, "alice")).await.0, 401);
}

#[tokio::test]
async fn what_is_void_or_ends_soon_is_not_handed_out() {
    let stage = Stage::new();
    let news = stage.links.bulletin().listen().unwrap();
    answer(news, Ok(stage.kept("alice", 1500)));
    let expires_in = async || stage.get(&stage.bearer(URL, "alice")).await.1["expires_in"].clone();
    assert_eq!(expires_in().await, 1500, "none is kept");
    stage.keep("alice", 599);
    assert_eq!(expires_in().await, 1500, "less than ten minutes are left");
    stage.keep("alice", 600);
    assert_eq!(expires_in().await, 600);
    // Of an earlier epoch: whatever is kept, and whatever is answered.
    stage.keep("alice", 1000);
    stage.users.disable_cluster(act()).unwrap();
    stage.users.enable_cluster(act(), &[]).unwrap();
    stage.sign_in_with("alice", "s1");
    assert_eq!(stage.get(&stage.bearer(URL, "alice")).await.0, 503);
}

impl Stage {
    fn sign_in_with(&self, subject: &str, session: &str) {
        let began_ms = self.clock.now().unix_ms + 10_000;
        self.users.signed_in(&user(subject), Some(session), began_ms).unwrap().unwrap();
    }
}

#[tokio::test]
async fn why_there_is_none_is_said() {
    for (reason, status) in [(NoToken::NoNamespace, 403), (NoToken::NotNow, 503)] {
        let stage = Stage::new();
        answer(stage.links.bulletin().listen().unwrap(), Err(reason));
        let (answered, _, is_failed) = stage.get(&stage.bearer(URL, "alice")).await;
        assert_eq!((answered, is_failed), (status, false), "{reason:?}");
    }
}

#[tokio::test]
async fn it_is_asked_for_by_get() {
    let stage = Stage::new();
    let (method, bearer) = (Method::POST, stage.bearer(URL, "alice"));
    let refused = stage.endpoints.admit(&Endpoint::Token, &Head::of(&method, &bearer, None));
    let response = refused.unwrap_err().response;
    assert_eq!((response.status().as_u16(), &response.headers()[ALLOW]), (405, &HeaderValue::from_static("GET")));
}
