//! Programs outside sign in through Postern: `/auth/token`.

use crate::support::{ANY, Answer, Client, File, Gateway, Seen, Stage, Upstream, bearer, eventually, head};
use postern::dev::{Endpoint, Illness};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const FORM: &str = "content-type: application/x-www-form-urlencoded";

/// Callers come through a proxy on this machine, which says who they are.
const SERVER: &str = "trusted_proxies = ['127.0.0.0/8']";

/// No log.
const OFF: &str = "access = 'off'\naudit = 'off'";

/// `ANY` and the endpoint; three wrong passwords a user and address, eight an address.
fn rest() -> String {
    format!(
        "{ANY}[auth_token]\nissuer = 'main'\nfailures_per_user = {{ most = 3, per = '5m' }}\n\
         failures_per_address = {{ most = 8, per = '10m' }}\ntimeout = '20s'\n[auth_token.clients]\n\
         cli = {{ grants = ['password', 'refresh_token'] }}\ncli-noaud = {{ grants = ['refresh_token'], offline_access = true }}\n"
    )
}

fn start(stage: &Stage, log: &str) -> Gateway {
    let file = File { server: SERVER, log, rest: &rest(), ..File::default() };
    stage.gateway(file)
}

fn post(gateway: &Gateway, lines: &[&str], body: &str) -> Answer {
    let length = format!("content-length: {}", body.len());
    let mut client = gateway.connect();
    client.send(head("POST", "/auth/token", &[lines, &[&length]].concat()) + body);
    client.read()
}

/// Signs in from that address.
fn sign_in(gateway: &Gateway, address: &str, username: &str, password: &str) -> Answer {
    let from = format!("x-forwarded-for: {address}");
    let body = format!("grant_type=password&client_id=cli&username={username}&password={password}&scope=openid");
    post(gateway, &[FORM, &from], &body)
}

/// The status and the error, after a look at what every answer has.
#[track_caller]
fn outcome(answer: &Answer) -> (u16, String) {
    let fields = ["cache-control", "pragma", "content-type"].map(|name| answer.header(name).unwrap_or_default());
    assert_eq!(fields, ["no-store", "no-cache", "application/json"], "{answer:?}");
    let body = answer.json();
    assert!(answer.status == 200 || body["error_description"].is_string(), "{body}");
    (answer.status, body["error"].as_str().unwrap_or_default().to_owned())
}

#[track_caller]
fn check(answer: &Answer, status: u16, error: &str) {
    assert_eq!(outcome(answer), (status, error.to_owned()), "{}", answer.text());
}

fn refresh(token: &str) -> String {
    format!("grant_type=refresh_token&client_id=cli&refresh_token={token}")
}

#[test]
fn a_program_signs_in_and_refreshes_and_is_let_in_with_what_it_got() {
    let stage = Stage::new();
    let gateway = start(&stage, OFF);
    let signed_in = sign_in(&gateway, "203.0.113.7", "alice", "alice-pw");
    check(&signed_in, 200, "");
    let tokens = signed_in.json();
    assert_eq!((&tokens["token_type"], tokens["expires_in"].is_u64()), (&json!("Bearer"), true));
    assert!(tokens["id_token"].is_string() && tokens["refresh_token"].is_string());
    gateway.call("/orders/1", tokens["access_token"].as_str().unwrap()).passed();
    let refreshed = post(&gateway, &[FORM], &refresh(tokens["refresh_token"].as_str().unwrap()));
    check(&refreshed, 200, "");
    gateway.call("/orders/1", refreshed.json()["access_token"].as_str().unwrap()).passed();
    check(&post(&gateway, &[FORM], &refresh("made-up")), 400, "invalid_grant");
    // Whether the name or the password is wrong, or the account disabled, is not told.
    for (username, password) in [("alice", "wrong"), ("nobody", "alice-pw"), ("dave", "dave-pw")] {
        let refused = sign_in(&gateway, "203.0.113.7", username, password);
        check(&refused, 400, "invalid_grant");
        assert_eq!(refused.json()["error_description"], "Invalid user credentials");
    }
    let calls = |outcome: &str| {
        gateway.metric(&format!("postern_endpoint_calls_total{{endpoint=\"auth_token\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!((calls("ok"), calls("refused")), (2, 4));
}

#[test]
fn wrong_passwords_from_one_address_keep_nobody_else_out() {
    let stage = Stage::new();
    let gateway = start(&stage, OFF);
    for _ in 0..3 {
        check(&sign_in(&gateway, "203.0.113.66", "Alice", "guess"), 400, "invalid_grant");
    }
    // The right one is not tried any more from there, in whatever case; the issuer does not hear of it.
    let asked = stage.issuer.demo().counters().token;
    for name in ["alice", "ALICE"] {
        let refused = sign_in(&gateway, "203.0.113.66", name, "alice-pw");
        check(&refused, 429, "temporarily_unavailable");
        assert_eq!(refused.header("retry-after"), Some("100"));
    }
    assert_eq!(stage.issuer.demo().counters().token, asked);
    // She herself, and somebody else at the guesser's address.
    check(&sign_in(&gateway, "203.0.113.7", "alice", "alice-pw"), 200, "");
    check(&sign_in(&gateway, "203.0.113.66", "bob", "bob-pw"), 200, "");
    stage.clock.advance(Duration::from_secs(100));
    check(&sign_in(&gateway, "203.0.113.66", "alice", "alice-pw"), 200, "");
}

#[test]
fn one_address_does_not_try_one_password_with_many_names() {
    let stage = Stage::new();
    let gateway = start(&stage, OFF);
    check(&sign_in(&gateway, "203.0.113.66", "bob", "bob-pw"), 200, "");
    for n in 0..8 {
        check(&sign_in(&gateway, "203.0.113.66", &format!("user-{n}"), "winter"), 400, "invalid_grant");
    }
    let refused = sign_in(&gateway, "203.0.113.66", "alice", "alice-pw");
    check(&refused, 429, "temporarily_unavailable");
    assert_eq!(refused.header("retry-after"), Some("75"));
    // Who signed in from there before still does, and so does everybody from elsewhere.
    check(&sign_in(&gateway, "203.0.113.66", "bob", "bob-pw"), 200, "");
    check(&sign_in(&gateway, "203.0.113.7", "alice", "alice-pw"), 200, "");
    // A made-up chain before the proxy's own entry changes nothing.
    check(&sign_in(&gateway, "203.0.113.7, 203.0.113.66", "alice", "alice-pw"), 429, "temporarily_unavailable");
}

#[test]
fn counts_outlive_a_reload_and_a_flood_of_bad_tokens_does_not_stop_a_sign_in() {
    let stage = Stage::new();
    let rest = rest() + "[limits]\nfailed_authentications = { rate = 1, burst = 5 }\n";
    let file = File { server: SERVER, log: OFF, rest: &rest, ..File::default() };
    let gateway = stage.gateway(file);
    for _ in 0..3 {
        check(&sign_in(&gateway, "127.0.0.1", "alice", "guess"), 400, "invalid_grant");
    }
    gateway.inner.reload(stage.config(file)).unwrap();
    check(&sign_in(&gateway, "127.0.0.1", "alice", "alice-pw"), 429, "temporarily_unavailable");
    for _ in 0..6 {
        gateway.get("/orders/1", &[&bearer("a.b.c")]);
    }
    gateway.get("/orders/1", &[&bearer("a.b.c")]).refused(429, "too_many_failed_authentications");
    check(&sign_in(&gateway, "127.0.0.1", "bob", "bob-pw"), 200, "");
}

#[test]
fn what_is_no_sound_call_is_refused_and_the_issuer_does_not_hear_of_it() {
    let stage = Stage::new();
    let gateway = start(&stage, OFF);
    let good = "grant_type=password&client_id=cli&username=alice&password=alice-pw";
    let asked = stage.issuer.demo().counters().token;
    let answer = gateway.get("/auth/token", &[]);
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
    assert_eq!(post(&gateway, &["content-type: application/json"], "{}").status, 415);
    assert_eq!(post(&gateway, &[], good).status, 415);
    assert_eq!(post(&gateway, &[FORM], &format!("{good}&scope={}", "a".repeat(70_000))).status, 413);
    for (more, error) in [
        ("&client_secret=s3cret", "invalid_client"),
        ("&username=bob", "invalid_request"),
        ("&allow_redirects=True&allow_redirects=True", "invalid_request"),
        ("&scope=openid+offline_access", "invalid_scope"),
        ("&totp=%zz", "invalid_request"),
    ] {
        check(&post(&gateway, &[FORM], &format!("{good}{more}")), 400, error);
    }
    for (from, to, error) in [
        ("=cli&", "=admin-cli&", "invalid_client"),
        ("=cli&", "=cli-noaud&", "unauthorized_client"),
        ("=password&", "=client_credentials&", "unsupported_grant_type"),
        ("&password=alice-pw", "", "invalid_request"),
    ] {
        check(&post(&gateway, &[FORM], &good.replacen(from, to, 1)), 400, error);
    }
    let with_secret = post(&gateway, &[FORM, "authorization: Basic Y2xpOg=="], good);
    check(&with_secret, 401, "invalid_client");
    assert!(with_secret.header("www-authenticate").is_some_and(|challenge| challenge.starts_with("Basic ")));
    check(&post(&gateway, &[FORM, "origin: https://evil.test"], good), 400, "invalid_request");
    check(&post(&gateway, &[FORM, "origin: null"], good), 400, "invalid_request");
    let mut in_url = gateway.connect();
    in_url.send(head("POST", &format!("/auth/token?{good}"), &[FORM, "content-length: 0"]));
    check(&in_url.read(), 400, "invalid_request");
    assert_eq!(stage.issuer.demo().counters().token, asked);
    assert_eq!(stage.upstream.requests(), 0);
    check(&post(&gateway, &[FORM], good), 200, "");
    // What is not on the list is left out: the issuer would ask for this.
    check(
        &post(&gateway, &[FORM], &format!("{good}&allow_redirects=True&redirect_uri=https%3A%2F%2Fevil.test")),
        200,
        "",
    );
}

#[test]
fn while_the_issuer_is_ill_the_answer_is_503_and_nothing_is_held_against_anybody() {
    let stage = Stage::new();
    let gateway = start(&stage, OFF);
    let demo = stage.issuer.demo();
    for illness in [Illness::Refuse, Illness::ServerError, Illness::Garbage] {
        demo.set_illness(Endpoint::Token, Some(illness));
        for _ in 0..4 {
            let answer = sign_in(&gateway, "203.0.113.7", "alice", "alice-pw");
            check(&answer, 503, "temporarily_unavailable");
            assert_eq!(answer.header("retry-after"), Some("5"));
        }
    }
    demo.set_illness(Endpoint::Token, None);
    check(&sign_in(&gateway, "203.0.113.7", "alice", "alice-pw"), 200, "");
}

/// An issuer that says whatever it is told, and records what it was asked.
struct Puppet {
    server: Upstream,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<Mutex<Vec<Seen>>>,
}

impl Puppet {
    /// `origin` is where its document says that its token endpoint is; without one at itself.
    fn start(origin: Option<&'static str>) -> Self {
        let answer = Arc::new(Mutex::new((200, String::new())));
        let asked = Arc::<Mutex<Vec<Seen>>>::default();
        let (says, records) = (Arc::clone(&answer), Arc::clone(&asked));
        let server = Upstream::serving(move |mut peer| {
            while let Some(seen) = peer.read() {
                let own = format!("http://{}", seen.header("host").unwrap_or_default());
                let (status, body) = match seen.line.split(' ').nth(1).unwrap_or_default() {
                    "/.well-known/openid-configuration" => {
                        let token = format!("{}/token", origin.unwrap_or(&own));
                        let keys = format!("{own}/keys");
                        (200, json!({"issuer": own, "jwks_uri": keys, "token_endpoint": token}).to_string())
                    }
                    "/keys" => {
                        let key = postern::dev::SigningKey::generate(postern::config::Algorithm::Es256).unwrap();
                        (200, json!({"keys": [key.jwk()]}).to_string())
                    }
                    _ => {
                        records.lock().unwrap().push(seen);
                        says.lock().unwrap().clone()
                    }
                };
                let head = format!(
                    "HTTP/1.1 {status} X\r\nset-cookie: a=b\r\nx-more: 1\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                peer.send(head + &body);
            }
        });
        Self { server, answer, asked }
    }

    fn gateway(&self, stage: &Stage) -> Gateway {
        let issuer = format!(
            "[issuer.main]\nurl = 'http://{}'\naudience = 'gateway'\nuser_status = 'none'\n\
             keys = {{ refresh = '1h', max_stale = '30d' }}\n",
            self.server.addr()
        );
        stage.gateway(File { server: SERVER, issuer: "", log: OFF, rest: &(rest() + &issuer), ..File::default() })
    }

    fn says(&self, status: u16, body: &Value) {
        *self.answer.lock().unwrap() = (status, body.to_string());
    }
}

#[test]
fn the_issuer_is_told_the_callers_address_and_nothing_that_a_caller_made_up() {
    let (stage, puppet) = (Stage::new(), Puppet::start(None));
    let gateway = puppet.gateway(&stage);
    puppet.says(200, &json!({"access_token": "a", "token_type": "bearer", "refresh_expires_in": 7, "secret": "s"}));
    let lines = [
        FORM,
        "x-forwarded-for: 198.51.100.1, 203.0.113.7",
        "forwarded: for=198.51.100.1",
        "x-real-ip: 198.51.100.1",
        "cookie: a=b",
        "x-more: 1",
        "user-agent: curl",
    ];
    let answer = post(&gateway, &lines, "password=p%26+%C3%A4&username=al+ice&client_id=cli&grant_type=password");
    check(&answer, 200, "");
    assert_eq!(answer.json(), json!({"access_token": "a", "token_type": "bearer", "refresh_expires_in": 7}));
    assert_eq!((answer.header("set-cookie"), answer.header("x-more")), (None, None));
    let seen = puppet.asked.lock().unwrap().last().cloned().unwrap();
    assert_eq!(seen.line, "POST /token HTTP/1.1");
    assert_eq!(seen.all("x-forwarded-for").collect::<Vec<_>>(), ["203.0.113.7"]);
    for name in ["forwarded", "x-real-ip", "cookie", "x-more", "authorization"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert!(seen.header("user-agent").is_some_and(|agent| agent.starts_with("postern/")));
    let form = "grant_type=password&client_id=cli&username=al+ice&password=p%26+%C3%A4";
    assert_eq!(String::from_utf8(seen.body).unwrap(), form);
}

#[test]
fn only_sound_answers_are_passed_back() {
    let (stage, puppet) = (Stage::new(), Puppet::start(None));
    let gateway = puppet.gateway(&stage);
    let tokens =
        |scope: &str| json!({"access_token": "a", "token_type": "Bearer", "refresh_token": "r", "scope": scope});
    for (status, body) in [
        (201, tokens("openid")),
        (302, tokens("openid")),
        (429, json!({"error": "slow_down"})),
        (403, json!({"error": "invalid_grant"})),
        (400, json!({"error": "no_such_error"})),
        (200, json!({"access_token": "a"})),
        (200, json!({"access_token": ["a"], "token_type": "Bearer"})),
        (200, json!("a".repeat(100_000))),
    ] {
        puppet.says(status, &body);
        check(&sign_in(&gateway, "203.0.113.7", "alice", "p"), 503, "temporarily_unavailable");
    }
    puppet.says(200, &tokens("openid offline_access"));
    check(&sign_in(&gateway, "203.0.113.7", "alice", "p"), 400, "invalid_scope");
    let offline = "grant_type=refresh_token&client_id=cli-noaud&refresh_token=r&scope=offline_access";
    check(&post(&gateway, &[FORM], offline), 200, "");
    puppet.says(401, &json!({"error": "invalid_client", "error_description": "Invalid client"}));
    check(&sign_in(&gateway, "203.0.113.7", "alice", "p"), 400, "invalid_client");
    // None of these was a wrong password.
    puppet.says(200, &tokens("openid"));
    check(&sign_in(&gateway, "203.0.113.7", "alice", "p"), 200, "");
}

#[test]
fn passwords_go_to_no_foreign_origin() {
    let (stage, puppet) = (Stage::new(), Puppet::start(Some("http://127.0.0.1:1")));
    let gateway = puppet.gateway(&stage);
    check(&sign_in(&gateway, "203.0.113.7", "alice", "p"), 503, "temporarily_unavailable");
    assert!(puppet.asked.lock().unwrap().is_empty());
}

#[test]
fn each_issue_is_a_line_in_the_audit_log_and_no_log_holds_a_secret() {
    let stage = Stage::new();
    let (audit, access) = (stage.path("audit.log"), stage.path("access.log"));
    let gateway = start(&stage, "audit = { file = 'audit.log' }\naccess = { file = 'access.log' }");
    let tokens = sign_in(&gateway, "203.0.113.7", "alice", "alice-pw").json();
    let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
    check(&sign_in(&gateway, "2001:db8::7", "hunter2", "correct-horse"), 400, "invalid_grant");
    let refreshed = post(&gateway, &[FORM], &refresh(&text("refresh_token"))).json();
    check(&post(&gateway, &[FORM], &refresh("correct-horse")), 400, "invalid_grant");
    eventually("the access lines are written", || {
        std::fs::read_to_string(&access).is_ok_and(|lines| lines.lines().count() >= 4)
    });
    let lines = std::fs::read_to_string(&audit).unwrap();
    let records: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<_> = records
        .iter()
        .map(|record| {
            ["event", "issuer", "client", "grant", "address", "outcome", "cause", "username"]
                .map(|name| record[name].as_str().unwrap_or("-"))
        })
        .collect();
    let expected = [
        ["token_issue", "main", "cli", "password", "203.0.113.7", "issued", "-", "alice"],
        ["token_issue", "main", "cli", "password", "2001:db8::7", "refused", "invalid_grant", "-"],
        ["token_issue", "main", "cli", "refresh_token", "127.0.0.1", "issued", "-", "alice"],
    ];
    assert_eq!(shown, expected, "{lines}");
    assert_eq!(records[0]["subject"], stage.issuer.demo().user("alice").unwrap().id);
    assert!(records[0]["session"].is_string());
    let everything = lines + &std::fs::read_to_string(&access).unwrap() + &gateway.admin("/metrics").text();
    let mut secrets = vec!["alice-pw".to_owned(), "hunter2".to_owned(), "correct-horse".to_owned()];
    for token in ["access_token", "refresh_token", "id_token"] {
        secrets.extend(text(token).split('.').skip(1).map(str::to_owned));
        secrets.extend(refreshed[token].as_str().unwrap_or("..").split('.').skip(1).map(str::to_owned));
    }
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        assert!(!everything.contains(secret.as_str()), "{secret} is in\n{everything}");
    }
}

#[test]
fn without_the_section_the_path_is_a_routes_affair() {
    let stage = Stage::new();
    let gateway =
        stage.gateway(File { rest: &ANY.replace("credential = 'none'", "access = 'public'"), ..File::default() });
    let mut client = Client::connect(gateway.addr());
    client.send(head("POST", "/auth/token", &[FORM, "content-length: 3"]) + "a=b");
    client.read().passed();
}
