//! Back-channel logout.

use super::super::*;
use super::{START, Stage, user};
use crate::identity::link::Hint;
use crate::users::{Judgement, State, TokenClaims};
use serde_json::{Value, json};

#[tokio::test]
async fn a_logout_token_ends_the_session_that_it_names_and_no_more() {
    let stage = Stage::new();
    let link = stage.links.of("main", 100);
    let mut hints = link.hints().subscribe();
    let judge = |session: Option<&str>, issued: u64| {
        let issued = i64::try_from(issued).ok();
        let claims = TokenClaims { issuer: "main", subject: "alice", session, issued, id: None, epoch: None };
        stage.users.judge(&claims, stage.clock.now()) == Judgement::Admitted
    };
    assert_eq!(stage.log_out(json!({})).await, (200, Value::Null, false));
    assert_eq!([judge(Some("s1"), START), judge(Some("s2"), START)], [false, true]);
    assert_eq!(stage.users.ended_session(&"main".into(), "s1").unwrap().user, user("alice"));
    assert!(matches!(hints.try_recv(), Ok(Hint::Reintrospect(of)) if of == user("alice")));
    // Without `sid`: all sessions begun before.
    assert_eq!(stage.log_out(json!({"jti": "2", "sid": null})).await.0, 200);
    assert_eq!([judge(Some("s2"), START), judge(None, START), judge(Some("s3"), START + 1)], [false, false, true]);
    // Without `sub`.
    assert_eq!(stage.log_out(json!({"jti": "3", "sub": null, "sid": "s4"})).await.0, 200);
    assert!(!judge(Some("s4"), START + 1));
    assert!(stage.users.list().iter().all(|view| view.state == State::Active));
}

#[tokio::test]
async fn a_logout_token_with_a_wrong_claim_is_refused() {
    let stage = Stage::new();
    let now = i64::try_from(START).unwrap();
    let event = "http://schemas.openid.net/event/backchannel-logout";
    for (claims, wrong) in [
        (json!({"aud": "gateway"}), "aud"),
        (json!({"aud": ["cli", 1]}), "aud"),
        (json!({"aud": null}), "aud"),
        (json!({"iat": now + 31}), "iat"),
        (json!({"iat": now - 331}), "iat"),
        (json!({"iat": null}), "iat"),
        (json!({"iat": "1800000000"}), "iat"),
        (json!({"exp": now - 30}), "exp"),
        (json!({"exp": null}), "exp"),
        (json!({"jti": null}), "jti"),
        (json!({"jti": ""}), "jti"),
        (json!({"jti": 7}), "jti"),
        (json!({"jti": "x".repeat(513)}), "jti"),
        (json!({"events": null}), "events"),
        (json!({"events": {}}), "events"),
        (json!({"events": [event]}), "events"),
        (json!({"events": {event: true}}), "events"),
        (json!({"nonce": "n"}), "nonce"),
        (json!({"typ": "Bearer"}), "typ"),
        (json!({"sub": null, "sid": null}), "sid"),
        (json!({"sid": ["s1"]}), "sid"),
        (json!({"sub": 1}), "sub"),
    ] {
        let (status, answer, _) = stage.log_out(claims.clone()).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{claims}");
        let said = answer["error_description"].as_str().unwrap();
        assert!(said.contains(&format!("`{wrong}`")), "{claims}: {said}");
    }
    assert!(stage.users.ended_sessions().is_empty());
    for claims in [json!({"aud": ["x", "cli"], "jti": "4"}), json!({"iat": now - 300, "typ": null, "jti": "5"})] {
        assert_eq!(stage.log_out(claims).await.0, 200);
    }
}

#[tokio::test]
async fn of_a_forged_logout_token_nobody_learns_what_was_wrong() {
    let stage = Stage::new();
    let refused = |(status, answer, is_failed): (u16, Value, bool)| {
        let expected = json!({"error": "invalid_request", "error_description": "the logout token is not valid"});
        assert_eq!((status, answer, is_failed), (400, expected, true));
    };
    let kid = stage.key.kid();
    for head in [
        json!({"alg": "ES256", "typ": "JWT", "kid": kid}),
        json!({"alg": "ES256", "kid": kid}),
        json!({"alg": "ES256", "typ": "logout+jwt", "kid": "unknown"}),
        json!({"alg": "none", "typ": "logout+jwt"}),
        json!({"alg": "HS256", "typ": "logout+jwt", "kid": kid}),
        json!({"alg": "ES256", "typ": "logout+jwt", "kid": kid, "crit": ["x"]}),
    ] {
        refused(stage.log_out_as(head, json!({})).await);
    }
    refused(stage.log_out(json!({"iss": "http://127.0.0.1:1/realms/other"})).await);
    refused(stage.post_logout("a.b.c").await);
    refused(stage.post_logout(&"a".repeat(17_000)).await);
    refused(stage.post_logout(&stage.mint("alice", "orders")).await);
    let other = Stage::new();
    let head = json!({"alg": "ES256", "typ": "logout+jwt", "kid": kid});
    let stolen =
        other.key.compact(head.to_string().as_bytes(), br#"{"iss":"http://127.0.0.1:1/realms/demo"}"#).unwrap();
    refused(stage.post_logout(&stolen).await);
    assert!(stage.users.ended_sessions().is_empty());
    let (status, answer, _) =
        stage.call(Endpoint::Logout("main".into()), &Authorization::Nothing, "logout_token=a&logout_token=a").await;
    assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")));
    for name in ["other", "nobody", ""] {
        let (status, ..) = stage.call(Endpoint::Logout(name.into()), &Authorization::Nothing, "logout_token=a").await;
        assert_eq!(status, 404, "{name}");
    }
}

#[tokio::test]
async fn a_logout_token_that_comes_twice_does_its_work_once() {
    let stage = Stage::new();
    let mut decisions = stage.users.subscribe();
    for _ in 0..2 {
        assert_eq!(stage.log_out(json!({"sid": null})).await, (200, Value::Null, false));
    }
    assert!(decisions.try_recv().is_ok() && decisions.try_recv().is_err());
    // Another token with the same number would be one that the issuer never sent; nothing is done for it either.
    assert_eq!(stage.log_out(json!({"sid": "s9"})).await.0, 200);
    assert!(decisions.try_recv().is_err());
}
