//! The real binary: exit codes, and what it prints to the letter.

use crate::support::{ANY, Client, File, START, Stage, eventually};
use postern::base::clock::Clock;
use postern::config::Algorithm;
use postern::dev::TokenSpec;
use postern::token_service::TokenService;
use postern::token_service::publish::Document;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// How a command ended: exit code, standard output, standard error.
type Ended = (i32, String, String);

/// Runs `postern` in a folder, with this on its standard input.
fn postern_in(folder: &Path, arguments: &[&str], input: &str) -> Ended {
    let mut child = Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read it may have ended.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn postern(arguments: &[&str]) -> Ended {
    postern_in(project(), arguments, "")
}

#[test]
fn check_says_ok_or_shows_every_mistake_and_fails() {
    let (code, out, err) = postern(&["check", "config/minimal.toml", "config/gateway.toml"]);
    let ok = "config/minimal.toml: ok (1 issuer, 1 upstream, 1 route)\nconfig/gateway.toml: ok (1 issuer, 1 upstream, 1 route)\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, ok, ""));
    let (code, out, err) = postern(&["check", "tests/mistakes/many.toml", "config/minimal.toml"]);
    let golden = std::fs::read_to_string(project().join("tests/mistakes/many.txt")).unwrap();
    assert_eq!((code, out.lines().count(), err), (1, 1, golden));
    let (code, _, err) = postern(&["check", "no-such.toml"]);
    assert!(code == 1 && err.contains("cannot read `no-such.toml`"), "{err}");
}

#[test]
fn what_the_command_line_does_not_know_is_an_error() {
    for arguments in [&[][..], &["bogus"], &["check"], &["run"], &["explain", "-c", "config/minimal.toml"]] {
        let (code, out, err) = postern(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.contains("Usage: postern"), "{err}");
    }
    assert_eq!(postern(&["--version"]).1, format!("postern {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn what_is_generated_is_what_is_shipped() {
    for (command, file) in [("schema", "config/postern.schema.json"), ("reference", "docs/configuration.md")] {
        let (code, out, _) = postern(&[command]);
        let shipped = std::fs::read_to_string(project().join(file)).unwrap();
        assert!(code == 0 && out == shipped, "`postern {command}` differs from {file}");
    }
    let (code, out, _) = postern(&["completions", "bash"]);
    assert!(code == 0 && out.contains("_postern()") && out.contains("explain"));
}

const EXPLAINED: &str = "
[issuer.asked]
url = 'http://127.0.0.1:1/realms/asked'
audience = 'gateway'
user_status = { introspection = { client_id = 'gateway', client_secret = 'x' } }
[[route]]
name = 'orders'
path = '/orders/**'
upstream = 'up'
headers = { x-auth-user = 'sub' }
[[route]]
name = 'admin'
path = '/admin'
upstream = 'up'
credential = 'pass'
access = { any_role = ['boss'] }
[[route]]
name = 'public'
path = '/public'
upstream = 'up'
access = 'public'
[[route]]
path = '/moved/**'
upstream = 'up'
access = 'public'
rewrite = { strip_prefix = '/moved', add_prefix = '/v2' }
request_headers = { remove = ['cookie'] }
cors = { origins = 'https://app.example.com' }
";

/// A folder with a configuration, the issuer's keys and tokens.
fn explained() -> Stage {
    let stage = Stage::new();
    stage.issuer.demo().signing_key(Algorithm::Es256);
    std::fs::write(stage.path("postern.toml"), stage.text(File { rest: EXPLAINED, ..File::default() })).unwrap();
    std::fs::write(stage.path("keys.json"), stage.issuer.demo().key_set().to_string()).unwrap();
    let good = TokenSpec::user("alice").claim("sub", "u-1");
    let asked = good.clone().claim("iss", "http://127.0.0.1:1/realms/asked");
    for (name, spec) in [
        ("good", good.clone()),
        ("homeless", good.clone().without_claim("namespace")),
        ("expired", good.clone().lifetime(-60)),
        ("forged", good.header("alg", "RS512")),
        ("asked", asked),
    ] {
        std::fs::write(stage.path(name), stage.issuer.issue(&spec)).unwrap();
    }
    stage
}

fn explain(stage: &Stage, arguments: &[&str]) -> Ended {
    let at = START.to_string();
    let common =
        ["explain", "-c", "postern.toml", "--keys", "main=keys.json", "--keys", "asked=keys.json", "--at", &at, "-r"];
    postern_in(&stage.path(""), &[&common[..], arguments].concat(), "")
}

#[test]
fn explain_shows_each_step_of_a_request_that_is_let_in() {
    let stage = explained();
    let expected = r#"  ok       strip         identity, forwarding and hop-by-hop fields are gone
  ok       route         `orders` (/orders/**)
  ok       limit         requests of one address: no limit; failed authentications: 100/s, 1000 at once
  ok       authenticate  a token of issuer `main`
  ok       user status   `u-1`: not asked: `user_status` is "none"
  ok       authorize     any valid token
  ok       route limit   no limit
  ok       inject        a namespace token for `team-a`, audience `up`; upstream `up`
forwarded with: accept, authorization, x-auth-user, x-forwarded-for, x-forwarded-proto, x-forwarded-host, x-request-id, traceparent
"#;
    let ended =
        explain(&stage, &["GET /orders/7", "-t", "good", "-H", "Accept: text/plain", "-H", "X_Auth_User: root"]);
    assert_eq!(ended, (0, expected.into(), String::new()));
    let (code, out, _) = explain(&stage, &["/public"]);
    assert!(code == 0 && out.contains("-        authenticate  the route is public"), "{out}");
    let (code, out, _) = explain(&stage, &["/orders/7", "-t", "asked"]);
    assert!(code == 0 && out.contains("`u-1`: assumed (the gateway would introspect)"), "{out}");
}

#[test]
fn explain_shows_what_the_route_changes_and_knows_a_preflight() {
    let stage = explained();
    let (code, out, _) = explain(&stage, &["/moved/x?y", "-H", "Cookie: a=1", "-H", "Accept: text/plain"]);
    assert!(code == 0 && out.contains("rewritten to: /v2/x?y\nforwarded with: accept, x-forwarded-for"), "{out}");
    let origin = ["-H", "Origin: https://app.example.com", "-H", "Access-Control-Request-Method: GET"];
    let (code, out, _) = explain(&stage, &[&["OPTIONS /moved/x"][..], &origin[..]].concat());
    assert!(code == 0 && out.ends_with("answered by Postern: a preflight, for the route's `cors`\n"), "{out}");
}

#[test]
fn explain_shows_where_a_request_is_refused_and_why() {
    let stage = explained();
    let expected = r#"  ok       strip         identity, forwarding and hop-by-hop fields are gone
  ok       route         `admin` (/admin)
  ok       limit         requests of one address: no limit; failed authentications: 100/s, 1000 at once
  ok       authenticate  a token of issuer `main`
  ok       user status   `u-1`: not asked: `user_status` is "none"
  refused  authorize     role_missing
  -        route limit
  -        inject
403 role_missing: A role is missing
"#;
    assert_eq!(explain(&stage, &["/admin", "-t", "good"]), (1, expected.into(), String::new()));
    let expected = r#"  ok       strip         identity, forwarding and hop-by-hop fields are gone
  ok       route         `orders` (/orders/**)
  ok       limit         requests of one address: no limit; failed authentications: 100/s, 1000 at once
  refused  authenticate  token_expired: the token expired
  -        user status
  -        authorize
  -        route limit
  -        inject
401 token_expired: The token has expired
"#;
    assert_eq!(explain(&stage, &["/orders/7", "-t", "expired"]), (1, expected.into(), String::new()));
    for (arguments, stage_name, said) in [
        (&["/public", "-H", "Host: other"][..], "strip", "400 malformed_request"),
        (&["TRACE /public"], "strip", "405 method_not_allowed"),
        (&["/nowhere"], "route", "404 no_route"),
        (&["/a//b"], "route", "400 path_not_canonical"),
        (&["PROPFIND /public"], "route", "405 method_not_allowed"),
        (&["/orders/a%2Fb"], "route", "400 path_not_canonical"),
        (&["/orders/7"], "authenticate", "401 missing_token"),
        (&["/orders/7", "-t", "forged"], "authenticate", "401 invalid_token"),
        (&["/orders/7", "-t", "asked", "--user", "inactive"], "user status", "401 user_inactive"),
        (&["/orders/7", "-t", "asked", "--user", "unknown"], "user status", "503 user_status_unknown"),
        (&["/orders/7", "-t", "homeless"], "inject", "403 namespace_missing"),
    ] {
        let (code, out, err) = explain(&stage, arguments);
        let refused: Vec<_> = out.lines().filter_map(|line| line.strip_prefix("  refused  ")).collect();
        assert!(matches!(refused.as_slice(), [only] if only.starts_with(stage_name)), "{arguments:?}\n{out}{err}");
        assert!(code == 1 && out.lines().last().unwrap().starts_with(said), "{arguments:?}\n{out}{err}");
    }
}

#[test]
fn explain_leaves_nothing_behind_and_asks_nobody() {
    let stage = explained();
    explain(&stage, &["/orders/7", "-t", "good"]);
    assert!(!stage.path("postern-keys").exists());
    let counters = stage.issuer.demo().counters();
    assert_eq!((counters.keys, counters.discovery, stage.upstream.requests()), (0, 0, 0));
}

#[test]
fn a_minted_token_is_inspected_and_verified() {
    let stage = explained();
    let folder = stage.path("");
    let mint =
        ["token", "mint", "-c", "postern.toml", "--subject", "u-1", "--audience", "orders", "--namespace", "team-a"];
    let (code, token, err) = postern_in(&folder, &mint, "");
    assert_eq!((code, err.as_str(), token.lines().count()), (0, "", 1));

    let (code, out, _) = postern_in(&folder, &["token", "inspect"], &format!("Bearer {token}"));
    for part in ["\"typ\": \"at+jwt\"", "\"aud\": \"orders\"", "\"namespace\": \"team-a\"", "  exp: 20", "form: good"] {
        assert!(code == 0 && out.contains(part), "{part} is not in\n{out}");
    }
    let service = TokenService::start(stage.config(File::default()).token_service, Clock::system()).unwrap();
    std::fs::write(stage.path("own.json"), service.document(Document::Keys)).unwrap();
    let (code, out, _) = postern_in(&folder, &["token", "verify", "-k", "own.json"], &token);
    assert!(code == 0 && out.starts_with("good: signed with ES256, 17"), "{out}");
    let (code, out, _) = postern_in(&folder, &["token", "verify", "-k", "keys.json"], &token);
    assert!(code == 1 && out.starts_with("refused: the key set holds no key"), "{out}");
    let changed = token.replacen('.', ".x", 1);
    let (code, out, _) = postern_in(&folder, &["token", "verify", "-k", "own.json"], &changed);
    assert!(code == 1 && out.starts_with("refused: "), "{out}");
    let (code, out, err) = postern_in(&folder, &["token", "inspect"], "nonsense");
    assert!(code == 1 && out.is_empty() && err.contains("this is no JWT"), "{err}");
}

/// `postern run`, killed when dropped.
struct Running {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Running {
    fn start(stage: &Stage) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_postern"))
            .args(["run", "-c", "postern.toml"])
            .current_dir(stage.path(""))
            .env("NO_COLOR", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, sink) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| *sink.lock().unwrap() += &(line + "\n"))
        });
        Self { child, log }
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// The address behind these words in the log.
    fn address(&self, words: &str) -> SocketAddr {
        let find = |log: &str| {
            let line = log.lines().find(|line| line.contains(words))?;
            line.split("address=").nth(1)?.trim().parse().ok()
        };
        eventually("it says where it listens", || find(&self.log()).is_some());
        find(&self.log()).unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn run_serves_reloads_when_the_file_changes_and_ends_on_sigterm() {
    let stage = Stage::new();
    let write = |path: &str| {
        let rest = format!("[[route]]\npath = '{path}'\nupstream = 'up'\naccess = 'public'\n{ANY}");
        let text =
            stage.text(File { server: "drain_wait = '0s'\ndrain_deadline = '5m'", rest: &rest, ..File::default() });
        std::fs::write(stage.path("postern.toml"), text).unwrap();
    };
    write("/old");
    let mut running = Running::start(&stage);
    let (public, admin) = (running.address("listening"), running.address("health and metrics"));
    let status = |addr, path: &str| Client::connect(addr).get(path, &[]).status;
    eventually("it is ready", || status(admin, "/readyz") == 200);
    assert_eq!((status(public, "/old"), status(public, "/new")), (200, 401));

    write("/new");
    eventually("the file is read again", || status(public, "/new") == 200);
    assert_eq!(status(public, "/old"), 401);

    std::fs::write(stage.path("postern.toml"), "version = 1\nrout = []\n").unwrap();
    running.signal("HUP");
    eventually("it says what is wrong", || running.log().contains("unknown key `rout`"));
    assert!(running.log().contains("the old configuration stays in force"), "{}", running.log());
    assert_eq!(status(public, "/new"), 200);

    running.signal("TERM");
    eventually("it ends", || running.child.try_wait().unwrap().is_some());
    assert_eq!(running.child.wait().unwrap().code(), Some(0), "{}", running.log());
}

#[test]
fn run_does_not_start_on_a_file_with_mistakes_or_a_taken_address() {
    let stage = Stage::new();
    std::fs::write(stage.path("postern.toml"), "version = 1\nrout = []\n").unwrap();
    let (code, out, err) = postern_in(&stage.path(""), &["run", "-c", "postern.toml"], "");
    assert!(code == 1 && out.is_empty() && err.contains("unknown key `rout`"), "{err}");
    let taken = stage.upstream.addr();
    let text = stage.text(File::default()).replacen("listen = '127.0.0.1:0'", &format!("listen = '{taken}'"), 1);
    std::fs::write(stage.path("postern.toml"), text).unwrap();
    let (code, _, err) = postern_in(&stage.path(""), &["run", "-c", "postern.toml"], "");
    assert!(code == 1 && err.contains(&format!("cannot listen on `{taken}`")), "{err}");
}
