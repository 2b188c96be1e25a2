//! `postern dev --tour`: the whole story, played on free ports and checked step by step.
//!
//! The tour owns the issuer and the upstream. Whoever plays it starts a gateway on [`Tour::config`] and passes
//! its addresses to [`Tour::play`]: this module knows nothing of how a gateway is built.

mod chapters;
mod report;
mod verify;

pub use report::Outcome;

use super::echo::Echo;
use super::http_client::{self, Answer, SendError, get, with_token};
use super::issuer::Issuer;
use crate::base::clock::Clock;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use report::Report;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// `bound` and `keys.refresh` of the tour's configuration.
const BOUND: Duration = Duration::from_secs(1);
/// How long something that must come, but has no promised moment, is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// The parts around the gateway, running, and a configuration that joins them.
pub struct Tour {
    issuer: Issuer,
    echo: Echo,
    clock: Clock,
    config: String,
}

impl Tour {
    /// Starts issuer and upstream on free ports and chooses one for the gateway.
    ///
    /// The gateway's port is free when it is chosen; if it is taken before the gateway has it, prepare again.
    pub fn prepare(clock: Clock) -> io::Result<Self> {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let issuer = Issuer::start(free, clock.clone())?;
        let echo = Echo::start(free)?;
        // Minted tokens name the gateway's address as their issuer, so it must be known beforehand.
        let gateway = TcpListener::bind(free)?.local_addr()?;
        let config = config(&issuer, &echo, gateway);
        Ok(Self { issuer, echo, clock, config })
    }

    /// The configuration to start the gateway with, in TOML. It holds a secret: read it as that of `dev`.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// Plays against the gateway at these addresses, and writes each step with its result.
    pub async fn play(&self, gateway: SocketAddr, admin: SocketAddr, out: &mut dyn Write) -> io::Result<Outcome> {
        let mut report = Report::new(out);
        report.line("A tour of Postern, on free ports of this machine")?;
        report.line(&format!("  issuer    {}", self.issuer.url("demo")))?;
        report.line(&format!("  upstream  http://{}", self.echo.addr()))?;
        report.line(&format!("  gateway   http://{gateway}"))?;
        let mut guide = Guide { issuer: &self.issuer, echo: &self.echo, clock: &self.clock, gateway, report };
        guide.story(admin).await?;
        guide.report.finish()
    }
}

fn config(issuer: &Issuer, echo: &Echo, gateway: SocketAddr) -> String {
    let (url, upstream) = (issuer.url("demo"), echo.addr());
    format!(
        r#"version = 1
dev = true

[server]
listen = "{gateway}"

[issuer.demo]
url = "{url}"
audience = "gateway"
keys = {{ refresh = "1s" }}

[issuer.demo.user_status.introspection]
client_id = "gateway"
client_secret = "gateway-secret"
bound = "1s"
when_unknown = {{ allow_for = "1m" }}

[upstream.orders]
to = "http://{upstream}"

[[route]]
name = "api"
path = "/api/**"
upstream = "orders"
headers = {{ x-auth-user = "username" }}

[[route]]
name = "reports"
path = "/reports/**"
upstream = "orders"
access = {{ any_role = ["admin"] }}

[token_service]
issuer = "http://{gateway}"

[log]
level = "error"
access = "off"

[admin]
listen = "127.0.0.1:0"
"#
    )
}

/// What the chapters are told with.
struct Guide<'a> {
    issuer: &'a Issuer,
    echo: &'a Echo,
    clock: &'a Clock,
    gateway: SocketAddr,
    report: Report<'a>,
}

impl Guide<'_> {
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, SendError> {
        http_client::send(self.gateway, request).await
    }

    /// Sends `GET path` with a token, and says the status and reason of the answer.
    async fn call(&self, path: &str, token: &str) -> String {
        describe(&self.send(with_token(get(path), token)).await)
    }

    /// The step of [`Guide::call`], which must come out as `expected`.
    async fn step(&mut self, step: &str, path: &str, token: &str, expected: &str) -> io::Result<()> {
        let observed = self.call(path, token).await;
        self.report.check(step, expected, &observed)
    }

    /// Calls until the answer is one of `wanted`. Passes if no call that began later than `limit` was answered otherwise.
    async fn step_within(&mut self, step: &str, token: &str, wanted: &[&str], limit: Duration) -> io::Result<()> {
        let start = Instant::now();
        let (observed, is_ok) = loop {
            let asked = start.elapsed();
            let answer = self.call("/api/orders", token).await;
            if wanted.contains(&answer.as_str()) {
                break (format!("{answer} after {} ms", asked.as_millis()), true);
            }
            if asked > limit {
                break (format!("{answer} after {} ms", asked.as_millis()), false);
            }
            tokio::time::sleep(PAUSE).await;
        };
        let expected = format!("{} within {} ms", wanted.join(" or "), limit.as_millis());
        self.report.judge(step, &expected, &observed, is_ok)
    }
}

/// The status and, of a refusal, the reason: `401 missing_token`.
fn describe(answer: &Result<Answer, SendError>) -> String {
    match answer {
        Ok(answer) if answer.status.is_success() => answer.status.as_str().to_owned(),
        Ok(answer) => match answer.json()["reason"].as_str() {
            Some(reason) => format!("{} {reason}", answer.status.as_str()),
            None => format!("{} without a reason", answer.status.as_str()),
        },
        Err(error) => format!("no answer ({error})"),
    }
}
