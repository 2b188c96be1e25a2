//! Introspection of minted tokens.

use super::super::client::tests::header;
use super::super::*;
use super::{START, Stage, URL, act};
use crate::users::{Revocation, Tokens};
use serde_json::json;

#[tokio::test]
async fn an_upstream_is_told_what_its_token_says() {
    let stage = Stage::new();
    let token = stage.mint("alice", "orders");
    let mut answer = stage.introspect("orders", &token).await;
    assert!(answer.as_object_mut().unwrap().remove("jti").is_some());
    let issued = START - 10;
    let expected = json!({
        "active": true, "token_type": "Bearer", "iss": "https://postern.example", "sub": "alice", "aud": "orders",
        "iat": issued, "nbf": issued, "exp": issued + 1800, "namespace": "team-a", "namespace_kind": "own",
        "orig_iss": URL, "email": "", "preferred_username": "alice", "username": "alice", "client_id": "cli",
    });
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn whatever_is_not_the_callers_own_is_inactive_and_no_more() {
    let stage = Stage::new();
    let inactive = json!({ "active": false });
    let token = stage.mint("alice", "orders");
    assert_eq!(stage.introspect("billing", &token).await, inactive);
    let set = stage.service.sign_event(br#"{"aud":"orders","exp":4000000000,"nbf":0,"sub":"alice"}"#).unwrap();
    let (head, rest) = token.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let foreign = Stage::new().mint("alice", "orders");
    for odd in ["x", "a.b.c", &set, &foreign, &format!("{head}.{payload}.{}", &signature[1..])] {
        assert_eq!(stage.introspect("orders", odd).await, inactive, "{odd}");
    }
    assert_eq!(stage.introspect("orders", &token).await["active"], true);
    stage.pass(1790);
    assert_eq!(stage.introspect("orders", &token).await, inactive);
}

#[tokio::test]
async fn a_token_from_before_a_block_stays_inactive_after_the_user_signed_in_again() {
    let stage = Stage::new();
    let (old, bobs) = (stage.mint("alice", "orders"), stage.mint("bob", "orders"));
    stage.block("alice");
    assert_eq!(stage.introspect("orders", &old).await["active"], false);
    stage.pass(60);
    stage.lift("alice");
    assert_eq!(stage.introspect("orders", &old).await["active"], false);
    stage.pass(60);
    stage.sign_in("alice");
    assert_eq!(stage.introspect("orders", &old).await["active"], false);
    // Also in the same second, so it does not hang on a comparison of clocks.
    let new = stage.mint("alice", "orders");
    assert_eq!(stage.introspect("orders", &new).await["active"], true);
    assert_eq!(stage.introspect("orders", &bobs).await["active"], true);
}

#[tokio::test]
async fn what_an_operator_takes_back_is_inactive() {
    let stage = Stage::new();
    let (one, bobs) = (stage.mint("alice", "orders"), stage.mint("bob", "orders"));
    let revoke = |tokens| {
        let revocation = Revocation { issuer: "main".into(), tokens, act: act(), until_ms: None };
        stage.users.revoke(revocation).unwrap().unwrap();
    };
    let id = stage.introspect("orders", &one).await["jti"].as_str().unwrap().to_owned();
    revoke(Tokens::Id(id));
    assert_eq!(stage.introspect("orders", &one).await["active"], false);
    let two = stage.mint("alice", "orders");
    assert_eq!(stage.introspect("orders", &two).await["active"], true);
    revoke(Tokens::User { subject: "alice".into(), issued_before_ms: START * 1000 });
    assert_eq!(stage.introspect("orders", &two).await["active"], false);
    assert_eq!(stage.introspect("orders", &stage.mint("alice", "orders")).await["active"], true);
    assert_eq!(stage.introspect("orders", &bobs).await["active"], true);
    revoke(Tokens::All { issued_before_ms: START * 1000 });
    assert_eq!(stage.introspect("orders", &bobs).await["active"], false);
    let three = stage.mint("bob", "orders");
    assert_eq!(stage.introspect("orders", &three).await["active"], true);
    stage.users.disable_cluster(act()).unwrap().unwrap();
    assert_eq!(stage.introspect("orders", &three).await["active"], false);
    stage.users.enable_cluster(act(), &[]).unwrap().unwrap();
    assert_eq!(stage.introspect("orders", &three).await["active"], false);
}

#[tokio::test]
async fn only_a_known_client_with_a_sound_form_is_answered() {
    let stage = Stage::new();
    let call = async |authorization: Authorization, body: &str| {
        let (status, answer, is_failed) = stage.call(Endpoint::Introspect, &authorization, body).await;
        (status, answer["error"].as_str().unwrap_or_default().to_owned(), is_failed)
    };
    let known = || header("orders", "s3cret");
    assert_eq!(call(header("orders", "wrong"), "token=x").await, (401, "invalid_client".into(), true));
    assert_eq!(call(Authorization::Nothing, "token=x").await, (401, "invalid_client".into(), false));
    assert_eq!(call(Authorization::Several, "token=x").await, (400, "invalid_request".into(), true));
    for body in ["", "token=", "token=a&token=b", "x=y", "token=%zz"] {
        assert_eq!(call(known(), body).await, (400, "invalid_request".into(), false), "{body}");
    }
    let form = HeaderValue::from_static("application/x-www-form-urlencoded");
    let json = HeaderValue::from_static("application/json");
    for (method, kind, status) in [
        (Method::GET, Some(&form), 405),
        (Method::PUT, Some(&form), 405),
        (Method::POST, Some(&json), 415),
        (Method::POST, None, 415),
    ] {
        let reply = stage.endpoints.admit(&Endpoint::Introspect, &Head::of(&method, &known(), kind)).unwrap_err();
        assert_eq!(reply.response.status().as_u16(), status);
        assert_eq!(reply.response.headers().get("allow").is_some(), status == 405);
    }
}
