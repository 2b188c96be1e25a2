//! The loop, over a directory in memory and real files.

use super::stage::{Stage, id};
use crate::identity::{News, NoToken};
use crate::users::{Act, IssuerCause};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_file_is_empty_until_the_first_sign_in_and_then_holds_the_users_token() {
    let stage = Stage::new(&["alice", "bob"]).await;
    assert_eq!((stage.read("alice"), stage.read("bob")), (Some(String::new()), Some(String::new())));
    assert_eq!(stage.realm().reads, 0, "nobody is asked about before they sign in");
    stage.sign_in("alice").await;
    let claims = stage.claims("alice");
    for (name, expected) in [
        ("iss", json!("https://postern.example")),
        ("aud", json!("https://postern.example")),
        ("sub", json!("id-alice")),
        ("orig_iss", json!("http://127.0.0.1:1/realms/demo")),
        ("namespace", json!("alice")),
        ("namespace_kind", json!("own")),
        ("email", json!("alice@example.com")),
        ("preferred_username", json!("alice")),
        ("roles", json!(["reader"])),
        ("groups", json!(["/staff"])),
    ] {
        assert_eq!(claims[name], expected, "{name}");
    }
    assert!((1780..=1800).contains(&stage.left("alice")), "{}", stage.left("alice"));
    assert_eq!(stage.read("bob").as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn a_read_at_any_moment_finds_what_is_promised() {
    let stage = Stage::new(&["alice", "bob", "carol"]).await;
    for name in ["alice", "bob", "carol"] {
        stage.sign_in(name).await;
    }
    for _ in 0..6 * 180 {
        stage.pass(20).await;
        for name in ["alice", "bob", "carol"] {
            let left = stage.left(name);
            assert!((1075..=1800).contains(&left), "{left} s left for {name}");
        }
    }
    let (fills, empties) = stage.counts.writes();
    assert!((3 * 6 * 5..=3 * 6 * 6).contains(&fills), "{fills} writes in six hours");
    assert_eq!((empties, stage.counts.violations()), (3, 0));
    let text = stage.metrics.encode();
    assert!(text.contains("postern_floor_violations_total 0"), "{text}");
    assert!(text.contains("postern_delivery_users{token=\"filled\"} 3"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_blocked_user_has_nothing_until_they_sign_in_again() {
    let stage = Stage::new(&["alice"]).await;
    stage.sign_in("alice").await;
    let before = stage.read("alice");
    stage.block("alice", IssuerCause::Disabled);
    stage.pass(1).await;
    assert_eq!(stage.read("alice").as_deref(), Some(""));
    assert!(stage.links.bulletin().kept(&id("id-alice")).is_none());
    // A refreshed token is no sign-in, nor is time.
    stage.sign_in("alice").await;
    stage.pass(3600).await;
    assert_eq!(stage.read("alice").as_deref(), Some(""));
    stage.lift("alice");
    stage.sign_in("alice").await;
    stage.pass(3600).await;
    assert_eq!(stage.read("alice").as_deref(), Some(""));
    stage.return_of("alice").await;
    assert_eq!(stage.claims("alice")["epoch"], 1);
    assert_ne!(stage.read("alice"), before);
}

#[tokio::test(start_paused = true)]
async fn who_is_blocked_while_the_issuer_is_down_has_nothing_at_once() {
    let stage = Stage::new(&["alice", "bob"]).await;
    stage.sign_in("alice").await;
    stage.sign_in("bob").await;
    stage.realm().is_down = true;
    let act = Act { by: "olga".into(), reason: "left".into() };
    stage.users.block(&id("id-alice"), crate::users::Proof::Operator(act.clone())).unwrap().unwrap();
    stage.pass(1).await;
    assert_eq!((stage.read("alice").as_deref(), stage.left("bob") > 600), (Some(""), true));
    stage.users.disable_cluster(act).unwrap().unwrap();
    stage.pass(1).await;
    assert_eq!(stage.read("bob").as_deref(), Some(""));
}

#[tokio::test(start_paused = true)]
async fn while_the_issuer_is_down_tokens_are_refilled_for_as_long_as_is_allowed() {
    let stage = Stage::new(&["alice"]).await;
    stage.sign_in("alice").await;
    // Until a minute before the next write at the latest.
    while stage.left("alice") > 1150 {
        stage.pass_swept(20).await;
    }
    stage.realm().is_down = true;
    stage.pass_swept(100).await;
    assert!(stage.left("alice") > 1080, "refilled without the issuer");
    stage.pass_swept(3600).await;
    assert!(stage.left("alice") < 0);
    assert!(stage.counts.violations() > 0);
    stage.realm().is_down = false;
    stage.pass_swept(60).await;
    assert!(stage.left("alice") > 1080);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_minted_while_the_clocks_are_apart() {
    let stage = Stage::new(&["alice", "bob"]).await;
    stage.sign_in("alice").await;
    for ahead_ms in [31_000, -32_000] {
        stage.realm().ahead_ms = ahead_ms;
        stage.sign_in("bob").await;
        stage.pass(600).await;
        assert_eq!(stage.read("bob").as_deref(), Some(""), "{ahead_ms}");
    }
    stage.realm().ahead_ms = 29_000;
    stage.pass(3).await;
    assert!(stage.left("bob") > 1700);
}

#[tokio::test(start_paused = true)]
async fn a_changed_role_is_in_the_token_at_once() {
    let stage = Stage::new(&["alice"]).await;
    stage.sign_in("alice").await;
    stage.realm().users.get_mut("id-alice").unwrap().roles = vec!["writer".into()];
    stage.pass(1).await;
    assert_eq!(stage.claims("alice")["roles"], json!(["reader"]));
    stage.tell(News::Changed(id("id-alice")));
    stage.pass(2).await;
    assert_eq!(stage.claims("alice")["roles"], json!(["writer"]));
    // What changes nothing is written nowhere.
    let before = stage.read("alice");
    stage.tell(News::Changed(id("id-alice")));
    stage.pass(2).await;
    assert_eq!(stage.read("alice"), before);
}

#[tokio::test(start_paused = true)]
async fn what_the_files_owner_does_to_it_is_made_good() {
    let stage = Stage::new(&["alice", "bob"]).await;
    stage.sign_in("alice").await;
    for text in [Some(""), Some("nonsense"), None] {
        match text {
            Some(text) => std::fs::write(stage.path("alice"), text).unwrap(),
            None => std::fs::remove_file(stage.path("alice")).unwrap(),
        }
        std::fs::write(stage.path("bob"), "somebody's").unwrap();
        stage.pass(65).await;
        assert!(stage.left("alice") > 1080, "{text:?}");
        assert_eq!(stage.read("bob").as_deref(), Some(""));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_user_is_heard_of_and_a_service_account_is_nobody() {
    let stage = Stage::new(&[]).await;
    stage.add("alice");
    stage.add("service-account-cli");
    stage.tell(News::Created(id("id-alice")));
    stage.pass(2).await;
    assert_eq!(stage.read("alice").as_deref(), Some(""));
    stage.add("bob");
    stage.sign_in("bob").await;
    assert!(stage.left("bob") > 1700);
    stage.sign_in("service-account-cli").await;
    assert_eq!((stage.read("service-account-cli"), stage.shown("service-account-cli").is_none()), (None, true));
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_their_token_gets_that_of_the_file() {
    let stage = Stage::new(&["alice", "al_ice", "bob"]).await;
    let kept = stage.want("alice").await.unwrap();
    assert_eq!(Some(kept.token.expose()), stage.read("alice").as_deref());
    assert_eq!(kept.namespace, "alice");
    stage.pass(60).await;
    assert_eq!(stage.want("alice").await.unwrap().token, kept.token);
    assert_eq!(stage.want("al_ice").await.unwrap_err(), NoToken::NoNamespace);
    assert_eq!(stage.conditions("al_ice"), ["name_invalid"]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_gets_the_token_of_its_user_and_is_no_sign_of_them() {
    let stage = Stage::new(&["alice"]).await;
    stage.pass(60).await;
    assert_eq!(stage.want_for_pod("alice").await.unwrap_err(), NoToken::NeverSignedIn);
    assert_eq!(stage.read("alice").as_deref(), Some(""));
    stage.sign_in("alice").await;
    let kept = stage.want_for_pod("alice").await.unwrap();
    assert_eq!(Some(kept.token.expose()), stage.read("alice").as_deref());
    let named_ms = stage.clock.now().unix_ms - kept.named_unix_ms;
    assert!((59_000..70_000).contains(&named_ms), "named {named_ms} ms ago");
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_what_is_there_stays_until_its_time() {
    let stage = Stage::new(&["alice", "bob", "carol"]).await;
    stage.sign_in("alice").await;
    stage.sign_in("bob").await;
    stage.pass(60).await;
    stage.block("bob", IssuerCause::Disabled);
    stage.pass(2).await;
    let before = stage.read("alice");
    let stage = stage.restart().await;
    assert_eq!((stage.read("alice"), stage.counts.writes()), (before.clone(), (0, 0)));
    assert_eq!(stage.want("alice").await.unwrap().token.expose(), before.unwrap());
    assert_eq!((stage.read("bob").as_deref(), stage.read("carol").as_deref()), (Some(""), Some("")));
    stage.pass(3600).await;
    assert!(stage.left("alice") > 1070 && stage.read("bob").as_deref() == Some(""));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_breaks_off_leaves_nobody_without_a_token_for_ever() {
    let stage = Stage::new(&["alice", "bob"]).await;
    stage.realm().breaks = true;
    stage.sign_in("alice").await;
    stage.sign_in("bob").await;
    stage.pass(25).await;
    assert!(stage.left("alice") > 1700 && stage.left("bob") > 1700);
}

#[tokio::test(start_paused = true)]
async fn refills_that_come_all_at_once_take_turns_and_nobody_without_a_token_waits_behind_them() {
    let names: Vec<_> = (0..300).map(|number| format!("user-{number}")).collect();
    let stage = Stage::new(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for name in &names {
        stage.tell(News::SignedIn(id(&format!("id-{name}"))));
    }
    stage.pass(2).await;
    // Nothing is minted for so long that all are due, and each can wait for some minutes.
    stage.realm().ahead_ms = 31_000;
    stage.pass(700).await;
    stage.add("newcomer");
    (stage.realm().ahead_ms, stage.realm().reads) = (0, 0);
    let first = stage.counts.writes().0;
    let filled = || stage.counts.writes().0 - first;
    let (mut before, mut busy) = (0, 0);
    for second in 0..40 {
        if second == 10 {
            stage.sign_in("newcomer").await;
            assert!(stage.left("newcomer") > 1780);
            assert!(busy > 0 && filled() < 200, "others wait meanwhile: {} of them have theirs", filled());
        } else {
            stage.pass(1).await;
            assert!(filled() - before <= 20, "{} in second {second}", filled() - before);
        }
        busy += u64::from(filled() > before);
        before = filled();
    }
    assert!(names.iter().all(|name| stage.left(name) > 1700));
    // Nobody is asked about before their turn, and then again since it came late.
    assert_eq!((stage.realm().reads, filled()), (301, 301));
}
