//! The story, chapter by chapter.

use super::{BOUND, Guide, PATIENCE, PAUSE, describe, verify::verify};
use crate::dev::http_client::{self, Answer, get, post, with_token};
use crate::dev::{Claims, OldKeys, TokenKind, TokenSpec, User};
use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Shortest and longest time that a minted token may have left when it is handed out, in seconds.
const LEFT: std::ops::RangeInclusive<i64> = 600..=1800;

impl Guide<'_> {
    pub(super) async fn story(&mut self, admin: SocketAddr) -> io::Result<()> {
        self.report.chapter("Signing in and calling")?;
        self.readiness(admin).await?;
        let Some(alice) = self.sign_in("alice").await? else { return Ok(()) };
        self.report.chapter("What the upstream received")?;
        self.reception(&alice).await?;
        self.report.chapter("What is refused")?;
        self.refusals(&alice).await?;
        self.report.chapter("A user is disabled")?;
        self.disabling(&alice).await?;
        self.report.chapter("Keys are rotated")?;
        self.rotation().await?;
        self.report.chapter("The issuer is down")?;
        self.outage().await
    }

    /// Waits until the gateway says that it has the issuer's keys.
    async fn readiness(&mut self, admin: SocketAddr) -> io::Result<()> {
        let start = Instant::now();
        let mut observed = String::new();
        while observed != "200" && start.elapsed() < PATIENCE {
            observed = describe(&http_client::send(admin, get("/readyz")).await);
            tokio::time::sleep(PAUSE).await;
        }
        self.report.check("GET /readyz of the admin listener", "200", &observed)
    }

    /// The password grant, as a user's program does it. Without a token there is no story.
    async fn sign_in(&mut self, user: &str) -> io::Result<Option<String>> {
        let password = format!("{user}-pw");
        let form =
            [("grant_type", "password"), ("client_id", "cli"), ("username", user), ("password", password.as_str())];
        let request = post("/realms/demo/protocol/openid-connect/token", &form);
        let answer = http_client::send(self.issuer.addr(), request).await;
        self.report.check(&format!("{user} signs in at the issuer with a password"), "200", &describe(&answer))?;
        Ok(answer.ok().and_then(|answer| answer.json()["access_token"].as_str().map(str::to_owned)))
    }

    async fn reception(&mut self, alice: &str) -> io::Result<()> {
        let mut request = with_token(get("/api/orders?open=1"), alice);
        for name in ["x-auth-user", "x_auth_user", "x-forwarded-user"] {
            request.headers_mut().insert(name, HeaderValue::from_static("root"));
        }
        let answer = self.send(request).await;
        self.report.check("GET /api/orders with alice's token and a forged X-Auth-User", "200", &describe(&answer))?;
        let Ok(answer) = answer else { return Ok(()) };
        let received = Received::read(&answer);

        let minted = received.credential.strip_prefix("Bearer ").unwrap_or("");
        let issuer = format!("http://{}", self.gateway);
        let verified = verify(self.gateway, &issuer, minted).await;
        let observed = verified.as_ref().map_or_else(Clone::clone, |_| "it holds".to_owned());
        self.report.check("the signature of its token, by Postern's discovery and key set", "it holds", &observed)?;
        self.claims(&verified.unwrap_or_default(), &issuer)?;

        let is_kept_back = !received.headers.iter().any(|(_, value)| value.contains(alice));
        let observed = if is_kept_back { "not forwarded" } else { "forwarded" };
        self.report.check("alice's own token", "not forwarded", observed)?;
        let users = received.values_of("x-auth-user");
        self.report.check("X-Auth-User", r#"["alice"]"#, &json!(users).to_string())?;
        let others = received.values_of("x-forwarded-user");
        self.report.check("X-Forwarded-User, forged as well", "[]", &json!(others).to_string())?;

        let carol = self.issuer.token("carol");
        let received = self.send(with_token(get("/api/orders"), &carol)).await.map(|answer| Received::read(&answer));
        let email = received.map_or(Value::Null, |received| received.token["payload"]["email"].clone());
        self.report.check("`email` in the token for carol, who has none", r#""""#, &email.to_string())
    }

    /// The claims of the token minted for alice.
    fn claims(&mut self, claims: &Claims, issuer: &str) -> io::Result<()> {
        let id = self.issuer.demo().user("alice").map(|alice| alice.id);
        let expected = [
            ("iss", json!(issuer)),
            ("sub", json!(id)),
            ("aud", json!("orders")),
            ("namespace", json!("team-a")),
            ("orig_iss", json!(self.issuer.url("demo"))),
        ];
        for (name, expected) in expected {
            let observed = claims.get(name).unwrap_or(&Value::Null);
            self.report.check(&format!("its `{name}`"), &expected.to_string(), &observed.to_string())?;
        }
        let left = claims.get("exp").and_then(Value::as_i64).map(|exp| exp - self.clock.now().unix_seconds());
        let observed = left.map_or_else(|| "no `exp`".to_owned(), |left| format!("{left} s left"));
        let is_ok = left.is_some_and(|left| LEFT.contains(&left));
        self.report.judge("its `exp`", "from 600 to 1800 s left", &observed, is_ok)
    }

    async fn refusals(&mut self, alice: &str) -> io::Result<()> {
        let before = self.echo.requests();
        let none = self.send(get("/api/orders")).await;
        self.report.check("GET /api/orders without a token", "401 missing_token", &describe(&none))?;
        let challenge = none.ok().and_then(|answer| answer.headers.get(WWW_AUTHENTICATE).cloned());
        let observed = challenge.as_ref().and_then(|value| value.to_str().ok()).unwrap_or("absent");
        self.report.judge("its WWW-Authenticate", "Bearer …", observed, observed.starts_with("Bearer"))?;
        let other = self.issuer.issue(&TokenSpec::user("alice").claim("aud", "another-api"));
        self.step("a token for another audience", "/api/orders", &other, "401 wrong_audience").await?;
        self.step("a token with one changed byte", "/api/orders", &forge(alice), "401 invalid_token").await?;
        let expired = self.issuer.issue(&TokenSpec::user("alice").issued_ago(900).lifetime(600));
        self.step("a token that expired 5 minutes ago", "/api/orders", &expired, "401 token_expired").await?;
        let id = self.issuer.issue(&TokenSpec::user("alice").kind(TokenKind::Id).claim("aud", "gateway"));
        self.step("an ID token", "/api/orders", &id, "401 invalid_token").await?;
        let bob = self.issuer.token("bob");
        self.step("GET /reports/2026 as bob, who lacks `admin`", "/reports/2026", &bob, "403 role_missing").await?;
        self.step("GET /nowhere", "/nowhere", alice, "404 no_route").await?;
        let reached = (self.echo.requests() - before).to_string();
        self.report.check("requests among these that reached the upstream", "0", &reached)?;
        self.step("GET /reports/2026 as alice, who has `admin`", "/reports/2026", alice, "200").await
    }

    async fn disabling(&mut self, alice: &str) -> io::Result<()> {
        self.step("GET /api/orders as alice", "/api/orders", alice, "200").await?;
        self.issuer.demo().set_enabled("alice", false);
        self.step_within("alice is disabled; the same call", alice, &["401 user_inactive"], BOUND).await?;
        self.issuer.demo().set_enabled("alice", true);
        self.step_within("alice is enabled; the same call", alice, &["200"], PATIENCE).await
    }

    async fn rotation(&mut self) -> io::Result<()> {
        let first = self.issuer.token("alice");
        self.step("a token signed with the first key", "/api/orders", &first, "200").await?;
        self.issuer.demo().rotate_keys(OldKeys::Keep)?;
        let second = self.issuer.token("alice");
        self.step("a key is added; a token signed with it", "/api/orders", &second, "200").await?;
        self.step("the token signed with the first key", "/api/orders", &first, "200").await?;
        self.issuer.demo().rotate_keys(OldKeys::Drop)?;
        // Introspection no longer knows such a token either: whichever is noticed first refuses it.
        let gone = ["401 invalid_token", "401 user_inactive"];
        self.step_within("the old keys are dropped; the token signed with the first", &first, &gone, BOUND).await?;
        let third = self.issuer.token("alice");
        self.step("a token signed with the newest key", "/api/orders", &third, "200").await
    }

    async fn outage(&mut self) -> io::Result<()> {
        let (bob, erin) = ("bob", "erin");
        self.issuer.demo().add_user(User { namespace: Some("team-e".to_owned()), ..User::new(erin) });
        let (bob, erin) = (self.issuer.token(bob), self.issuer.token(erin));
        self.step("bob calls", "/api/orders", &bob, "200").await?;
        self.issuer.stop();
        // Longer than the bound: what is known of bob is then too old, and `allow_for` decides.
        tokio::time::sleep(BOUND + Duration::from_millis(200)).await;
        self.step("bob calls again, known keys and `allow_for` in force", "/api/orders", &bob, "200").await?;
        self.step("erin calls for the first time", "/api/orders", &erin, "503 user_status_unknown").await?;
        self.issuer.restart()?;
        self.step_within("the issuer is back; erin calls", &erin, &["200"], PATIENCE).await
    }
}

/// What the echo upstream says that it received.
struct Received {
    headers: Vec<(String, String)>,
    credential: String,
    token: Value,
}

impl Received {
    fn read(answer: &Answer) -> Self {
        let said = answer.json();
        let headers: Vec<(String, String)> = serde_json::from_value(said["headers"].clone()).unwrap_or_default();
        let credential = headers.iter().find(|(name, _)| name == "authorization").map(|(_, value)| value.clone());
        Self { credential: credential.unwrap_or_default(), token: said["token"].clone(), headers }
    }

    /// The values of every header that an upstream may take for this one: `_` counts as `-`.
    fn values_of(&self, name: &str) -> Vec<&str> {
        let is_meant = |(known, value): &'_ (String, String)| known.replace('_', "-") == name && !value.is_empty();
        self.headers.iter().filter(|header| is_meant(header)).map(|(_, value)| value.as_str()).collect()
    }
}

/// The token with another byte in the middle of its signature.
fn forge(token: &str) -> String {
    let middle = token.rfind('.').map_or(0, |dot| dot + (token.len() - dot) / 2);
    let other = if token[middle..].starts_with('A') { "B" } else { "A" };
    format!("{}{other}{}", &token[..middle], &token[middle + 1..])
}

#[cfg(test)]
mod tests {
    use super::super::{Report, config};
    use super::*;
    use crate::base::clock::Clock;
    use crate::dev::Issuer;
    use crate::dev::echo::Echo;

    /// An upstream without a gateway before it lets everything through.
    #[tokio::test]
    async fn a_gateway_that_refuses_nothing_fails_the_tour() {
        let free = "127.0.0.1:0".parse().unwrap();
        let clock = Clock::system();
        let (issuer, echo) = (Issuer::start(free, clock.clone()).unwrap(), Echo::start(free).unwrap());
        let mut out = Vec::new();
        let report = Report::new(&mut out);
        let mut guide = Guide { issuer: &issuer, echo: &echo, clock: &clock, gateway: echo.addr(), report };
        let alice = issuer.token("alice");
        guide.refusals(&alice).await.unwrap();
        guide.reception(&alice).await.unwrap();
        guide.report.finish().unwrap();
        let out = String::from_utf8(out).unwrap();
        let passed: Vec<_> = out.lines().filter(|line| line.starts_with("  ok")).collect();
        let expected = [
            "  ok      GET /reports/2026 as alice, who has `admin` → 200",
            "  ok      GET /api/orders with alice's token and a forged X-Auth-User → 200",
        ];
        assert_eq!(passed, expected, "{out}");
    }

    #[test]
    fn the_tours_configuration_names_the_running_parts() {
        let free = "127.0.0.1:0".parse().unwrap();
        let (issuer, echo) = (Issuer::start(free, Clock::system()).unwrap(), Echo::start(free).unwrap());
        let text: toml::Table = config(&issuer, &echo, "127.0.0.1:1234".parse().unwrap()).parse().unwrap();
        assert_eq!(text["issuer"]["demo"]["url"].as_str(), Some(issuer.url("demo").as_str()));
        assert_eq!(text["upstream"]["orders"]["to"].as_str(), Some(format!("http://{}", echo.addr()).as_str()));
        assert_eq!(text["token_service"]["issuer"].as_str(), Some("http://127.0.0.1:1234"));
    }

    #[test]
    fn a_forged_token_differs_in_one_byte_of_its_signature() {
        for token in ["aa.bb.cccc", "aa.bb.AAAA"] {
            let forged = forge(token);
            let changed: Vec<_> = token.bytes().zip(forged.bytes()).map(|(a, b)| a != b).collect();
            assert_eq!((forged.len(), changed.iter().filter(|changed| **changed).count()), (token.len(), 1));
            assert_eq!(forged[..6], token[..6]);
        }
    }
}
