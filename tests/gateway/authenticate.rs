//! Good and bad tokens, end to end: the answer, and that the upstream saw nothing of what was refused.

use crate::support::{ANY, ANY_UNLIMITED, File, Gateway, START, Stage, bearer, introspection};
use postern::config::Algorithm;
use postern::dev::{OldKeys, Signer, SigningKey, TokenKind, TokenSpec};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

fn alice() -> TokenSpec {
    TokenSpec::user("alice")
}

/// The upstream gets none of these.
#[track_caller]
fn check_refused(stage: &Stage, gateway: &Gateway, cases: &[(&str, TokenSpec, &str)]) {
    for (what, spec, reason) in cases {
        let answer = gateway.call("/x", &stage.issuer.issue(spec));
        assert_eq!(answer.outcome(), (401, (*reason).to_owned()), "{what}");
        answer.refused(401, reason);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"postern\", error=\"invalid_token\""));
    }
    assert_eq!(stage.upstream.requests(), 0);
}

#[test]
fn a_header_that_is_not_one_bearer_token_is_refused() {
    let stage = Stage::new();
    let gateway = stage.gateway(File::default());
    let good = bearer(&stage.issuer.token("alice"));
    let invalid_request = "Bearer realm=\"postern\", error=\"invalid_request\"";
    for (lines, status, reason, challenge) in [
        (&[][..], 401, "missing_token", "Bearer realm=\"postern\""),
        (&[&good[..], &good], 400, "malformed_authorization", invalid_request),
        (&[&good, "authorization: Basic YTpi"], 400, "malformed_authorization", invalid_request),
        (&["authorization: Basic YTpi"], 400, "malformed_authorization", invalid_request),
        (&["authorization: Bearer"], 400, "malformed_authorization", invalid_request),
        (&["authorization:"], 400, "malformed_authorization", invalid_request),
        (&[&good.replace("Bearer ", "Bearer\t")], 400, "malformed_authorization", invalid_request),
        (&[&good.replace("Bearer ", "Bearer Bearer ")], 400, "malformed_authorization", invalid_request),
        (&[&good.replace("Bearer ", "DPoP ")], 400, "malformed_authorization", invalid_request),
        (&[&format!("{good}, {good}")], 400, "malformed_authorization", invalid_request),
        (&[&format!("{good} x")], 400, "malformed_authorization", invalid_request),
        (&["authorization: Bearer caf\u{e9}"], 400, "malformed_authorization", invalid_request),
        (
            &["authorization: Bearer nonsense"],
            401,
            "invalid_token",
            "Bearer realm=\"postern\", error=\"invalid_token\"",
        ),
    ] {
        let answer = gateway.get("/x", lines);
        assert_eq!(answer.outcome(), (status, reason.to_owned()), "{lines:?}");
        assert_eq!(answer.header("www-authenticate"), Some(challenge), "{lines:?}");
    }
    assert_eq!(stage.upstream.requests(), 0);
    gateway.get("/x", &[&good.replace("Bearer", "bEARER")]).passed();
    gateway.get("/x?access_token=nonsense", &[&good]).passed();
}

#[test]
fn a_token_in_the_query_or_a_cookie_is_none() {
    let stage = Stage::new();
    let gateway = stage.gateway(File::default());
    let token = stage.issuer.token("alice");
    gateway
        .get(&format!("/x?access_token={token}"), &[&format!("cookie: access_token={token}")])
        .refused(401, "missing_token");
}

#[test]
fn sound_tokens_pass_whatever_signs_them_and_however_they_are_typed() {
    let stage = Stage::new();
    let demo = stage.issuer.demo();
    // All are published before the gateway fetches.
    for algorithm in Algorithm::ALL {
        demo.signing_key(algorithm);
    }
    let gateway = stage.gateway(File::default());
    for algorithm in Algorithm::ALL {
        let client = format!("cli-{}", algorithm.name().to_ascii_lowercase());
        gateway.call("/x", &stage.issuer.issue(&alice().client(&client))).passed();
    }
    for spec in [
        alice().client("cli-at-jwt"),
        alice().header("typ", "application/at+jwt"),
        alice().without_header("typ"),
        alice().without_claim("typ"),
        alice().claim("aud", "gateway"),
        alice().claim("aud", json!(["other", "gateway"])),
        alice().without_claim("iat"),
        alice().claim("exp", json!(START as f64 + 0.5)),
        alice().lifetime(-29),
        alice().claim("nbf", START + 30),
        alice().issued_ago(-30),
        alice().header("jku", "https://evil.example/keys").header("b64", true),
    ] {
        gateway.call("/x", &stage.issuer.issue(&spec)).passed();
    }
}

#[test]
fn forged_tokens_are_refused() {
    let stage = Stage::new();
    let demo = stage.issuer.demo();
    let ours = demo.signing_key(Algorithm::Rs256);
    let ec = demo.signing_key(Algorithm::Es256);
    let foreign = Arc::new(SigningKey::generate(Algorithm::Rs256).unwrap());
    let other = stage.issuer.realm("other").unwrap().signing_key(Algorithm::Rs256);
    let gateway = stage.gateway(File::default());
    let by = |key: &Arc<SigningKey>| alice().signed_by(Signer::Key(Arc::clone(key)));
    let public = ours.jwk()["n"].as_str().unwrap().as_bytes().to_vec();
    check_refused(
        &stage,
        &gateway,
        &[
            ("another key under our kid", by(&foreign).header("kid", ours.kid()), "invalid_token"),
            ("another key without a kid", by(&foreign).without_header("kid"), "invalid_token"),
            ("a key that it brings itself", by(&foreign).header("jwk", foreign.jwk().clone()), "invalid_token"),
            ("the key of another realm", by(&other), "invalid_token"),
            ("an unknown kid", alice().header("kid", "nowhere"), "invalid_token"),
            ("a kid that is no text", alice().header("kid", 7), "invalid_token"),
            ("an algorithm that the key is not for", alice().header("alg", "PS256"), "invalid_token"),
            ("a longer hash than the key is for", alice().header("alg", "RS512"), "invalid_token"),
            ("a key of another kind", by(&ec).header("kid", ours.kid()), "invalid_token"),
            ("HS256 with the public key", alice().signed_by(Signer::Hs256(public)), "invalid_token"),
            ("alg none", alice().header("alg", "none").signed_by(Signer::Bytes(Vec::new())), "invalid_token"),
            ("alg None with a signature", alice().header("alg", "None"), "invalid_token"),
            ("no alg", alice().without_header("alg"), "invalid_token"),
            ("no signature", alice().signed_by(Signer::Bytes(Vec::new())), "invalid_token"),
            ("zeros as a signature", alice().signed_by(Signer::Bytes(vec![0; 256])), "invalid_token"),
            (
                "zeros as an ECDSA signature",
                by(&ec).signed_by(Signer::Bytes(vec![0; 64])).header("alg", "ES256").header("kid", ec.kid()),
                "invalid_token",
            ),
        ],
    );
}

#[test]
fn tokens_that_are_for_others_or_of_another_kind_are_refused() {
    let stage = Stage::new();
    let gateway = stage.gateway(File::default());
    let issuer = stage.issuer.url("demo");
    check_refused(
        &stage,
        &gateway,
        &[
            ("another audience", alice().claim("aud", "other"), "wrong_audience"),
            ("an audience that begins with ours", alice().claim("aud", "gateway2"), "wrong_audience"),
            ("an empty list of audiences", alice().claim("aud", json!([])), "wrong_audience"),
            ("a client without our audience", alice().client("cli-noaud"), "wrong_audience"),
            ("no audience", alice().without_claim("aud"), "invalid_token"),
            ("an audience that is no text", alice().claim("aud", json!(["gateway", 7])), "invalid_token"),
            ("another issuer", alice().claim("iss", "https://evil.example"), "invalid_token"),
            ("a slash behind the issuer", alice().claim("iss", format!("{issuer}/")), "invalid_token"),
            ("no issuer", alice().without_claim("iss"), "invalid_token"),
            ("an ID token", alice().kind(TokenKind::Id).claim("aud", "gateway"), "invalid_token"),
            ("a refresh token", alice().kind(TokenKind::Refresh), "invalid_token"),
            ("a refresh token signed like ours", alice().claim("typ", "Refresh"), "invalid_token"),
            ("an offline token", alice().claim("typ", "Offline"), "invalid_token"),
            ("a logout token", alice().kind(TokenKind::Logout).claim("aud", "gateway"), "invalid_token"),
            ("a security event", alice().header("typ", "secevent+jwt"), "invalid_token"),
            ("a token within a token", alice().header("cty", "JWT"), "invalid_token"),
            ("a bound token", alice().claim("cnf", json!({ "x5t#S256": "x" })), "invalid_token"),
            ("a lightweight token", alice().client("cli-light"), "invalid_token"),
            ("no subject", alice().without_claim("sub"), "invalid_token"),
            ("an empty subject", alice().claim("sub", ""), "invalid_token"),
            ("a subject that is no text", alice().claim("sub", 7), "invalid_token"),
            ("a critical extension", alice().header("crit", json!(["exp"])).header("exp", 1), "invalid_token"),
            ("an unencoded payload", alice().header("b64", false), "invalid_token"),
        ],
    );
    let of_another = stage.issuer.realm("other").unwrap().issue(&alice());
    gateway.call("/x", &of_another).refused(401, "invalid_token");
}

#[test]
fn tokens_out_of_their_time_are_refused() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { issuer: "max_token_age = '10m'\nuser_status = 'none'", ..File::default() });
    check_refused(
        &stage,
        &gateway,
        &[
            ("expired", alice().lifetime(-30), "token_expired"),
            ("expired long ago", alice().issued_ago(600).lifetime(60), "token_expired"),
            ("no exp", alice().without_claim("exp"), "invalid_token"),
            ("an exp that is no number", alice().claim("exp", (START + 60).to_string()), "invalid_token"),
            ("a negative exp", alice().claim("exp", -1), "invalid_token"),
            ("an exp beyond all years", alice().claim("exp", json!(1e300)), "invalid_token"),
            ("not valid before later", alice().claim("nbf", START + 31), "token_not_yet_valid"),
            ("issued later", alice().issued_ago(-31), "token_not_yet_valid"),
            ("older than max_token_age", alice().issued_ago(631), "token_expired"),
            ("of unknown age", alice().without_claim("iat"), "token_expired"),
        ],
    );
    gateway.call("/x", &stage.issuer.issue(&alice().issued_ago(630))).passed();
}

#[test]
fn tokens_that_are_no_sound_json_are_refused() {
    let stage = Stage::new();
    let key = stage.issuer.demo().signing_key(Algorithm::Rs256);
    let gateway = stage.gateway(File::default());
    let header = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, key.kid());
    let claims = format!(
        r#""iss":"{}","sub":"u","aud":"gateway","exp":{},"typ":"Bearer""#,
        stage.issuer.url("demo"),
        START + 60
    );
    let token = |header: &str, payload: &str| key.compact(header.as_bytes(), payload.as_bytes()).unwrap();
    let good = token(&header, &format!("{{{claims}}}"));
    let nested = format!("{{{claims},\"x\":{}1{}}}", "[".repeat(20), "]".repeat(20));
    for bad in [
        token(&header, &format!("{{{claims},\"sub\":\"root\"}}")),
        token(&header, &format!("{{{claims},\"s\\u0075b\":\"root\"}}")),
        token(&header, &format!("{{{claims},\"x\":{{\"a\":1,\"a\":2}}}}")),
        token(&header.replace('}', ",\"kid\":\"x\"}"), &format!("{{{claims}}}")),
        token(&header, &nested),
        token(&header, &format!("[{{{claims}}}]")),
        token(&header, &format!("{{{claims}}}{{}}")),
        token(&header, ""),
        token("", &format!("{{{claims}}}")),
        token(&header, &format!("{{{claims},\"pad\":\"{}\"}}", "a".repeat(12 * 1024))),
        format!("{good}="),
        format!("{good}."),
        format!("{good}.x"),
        good.replacen('.', "..", 1),
        good[..good.rfind('.').unwrap()].to_owned(),
    ] {
        gateway.call("/x", &bad).refused(401, "invalid_token");
    }
    assert_eq!(stage.upstream.requests(), 0);
    gateway.call("/x", &good).passed();
    let long = token(&header, &format!("{{{claims},\"pad\":\"{}\"}}", "a".repeat(11 * 1024)));
    gateway.call("/x", &long).passed();
}

#[test]
fn a_lightweight_token_passes_where_introspection_completes_it_and_is_verified_first() {
    let stage = Stage::new();
    let route = ANY.replace("credential", "headers = { x-auth-user = 'sub', x-auth-roles = 'roles' }\ncredential");
    let issuer = format!("lightweight = true\n{}", introspection(""));
    let gateway = stage.gateway(File { issuer: &issuer, rest: &route, ..File::default() });
    let spec = alice().client("cli-light");
    let kid = stage.issuer.demo().signing_key(Algorithm::Rs256).kid().to_owned();
    let foreign = Signer::Key(SigningKey::generate(Algorithm::Rs256).unwrap().into());
    let forged = stage.issuer.issue(&spec.clone().signed_by(foreign).header("kid", kid));
    gateway.call("/x", &forged).refused(401, "invalid_token");
    assert_eq!(stage.issuer.demo().counters().introspection, 0, "a stranger's token was shown to the issuer");

    gateway.call("/x", &stage.issuer.issue(&spec)).passed();
    let seen = stage.upstream.last();
    assert_eq!(seen.header("x-auth-user"), Some(&*stage.issuer.demo().user("alice").unwrap().id));
    assert_eq!(seen.header("x-auth-roles"), Some("reader,writer,admin"));
}

#[test]
fn one_changed_byte_anywhere_in_a_cached_token_is_refused() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { rest: ANY_UNLIMITED, ..File::default() });
    let token = stage.issuer.token("alice");
    let mut client = gateway.connect();
    client.get("/x", &[&bearer(&token)]).passed();
    assert_eq!(gateway.metric("postern_cached_tokens"), 1);
    for at in 0..token.len() {
        let mut changed = token.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let answer = client.get("/x", &[&bearer(&String::from_utf8(changed).unwrap())]);
        assert_eq!(answer.outcome(), (401, "invalid_token".to_owned()), "byte {at}");
    }
    for changed in [&token[1..], &token[..token.len() - 1], &format!("{token}A"), &format!("A{token}")] {
        client.get("/x", &[&bearer(changed)]).refused(401, "invalid_token");
    }
    assert_eq!(stage.upstream.requests(), 1);
    assert_eq!(gateway.metric("postern_cached_tokens"), 1);
    client.get("/x", &[&bearer(&token)]).passed();
}

#[test]
fn a_cached_token_of_one_route_opens_no_other() {
    let stage = Stage::new();
    let other = stage.issuer.realm("other").unwrap();
    let routes = format!(
        "[issuer.second]\nurl = '{}'\naudience = ['gateway', 'second']\nuser_status = 'none'\n\
         [[route]]\npath = '/first'\nupstream = 'up'\ncredential = 'none'\nissuers = ['main']\n\
         [[route]]\npath = '/second'\nupstream = 'up'\ncredential = 'none'\nissuers = ['second']\n\
         [[route]]\npath = '/self'\nupstream = 'up'\ncredential = 'none'\nissuers = ['self']\n\
         [[route]]\npath = '/admin'\nupstream = 'up'\ncredential = 'none'\naccess = {{ any_role = ['admin'] }}\n",
        other.url()
    );
    let gateway = stage.gateway(File { rest: &routes, ..File::default() });
    let (first, second) = (stage.issuer.token("bob"), other.issue(&alice()));
    for _ in 0..2 {
        gateway.call("/first", &first).passed();
        gateway.call("/second", &first).refused(401, "wrong_issuer");
        gateway.call("/admin", &first).refused(403, "role_missing");
        gateway.call("/second", &second).passed();
        gateway.call("/first", &second).refused(401, "wrong_issuer");
        gateway.call("/admin", &second).passed();
        gateway.call("/self", &first).refused(401, "wrong_issuer");
    }
    // An audience that only one issuer's tokens may have does not help another's.
    gateway.call("/first", &stage.issuer.issue(&alice().claim("aud", "second"))).refused(401, "wrong_audience");
    assert_eq!(stage.upstream.requests(), 6);
}

#[test]
fn expiry_and_age_are_checked_on_every_use() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { issuer: "max_token_age = '10m'\nuser_status = 'none'", ..File::default() });
    let short = stage.issuer.issue(&alice().lifetime(60));
    let long = stage.issuer.token("alice");
    gateway.call("/x", &short).passed();
    gateway.call("/x", &long).passed();
    stage.clock.advance(Duration::from_secs(89));
    gateway.call("/x", &short).passed();
    stage.clock.advance(Duration::from_secs(1));
    gateway.call("/x", &short).refused(401, "token_expired");
    stage.clock.advance(Duration::from_secs(540));
    gateway.call("/x", &long).passed();
    stage.clock.advance(Duration::from_secs(1));
    gateway.call("/x", &long).refused(401, "token_expired");
}

#[test]
fn a_cached_token_ends_with_the_key_that_signed_it() {
    let stage = Stage::new();
    let gateway = stage.gateway(File { server: "", ..File::default() });
    let token = stage.issuer.token("alice");
    gateway.call("/x", &token).passed();
    stage.issuer.demo().rotate_keys(OldKeys::Drop).unwrap();
    // A token of the new key makes the gateway fetch.
    gateway.call("/x", &stage.issuer.token("alice")).passed();
    gateway.call("/x", &token).refused(401, "invalid_token");
}
