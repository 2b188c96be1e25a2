//! What every test needs: a stage with issuer, upstream and clock, and a gateway on it.

mod client;
mod collector;
mod gate;
pub(crate) mod h2;
mod liar;
#[allow(dead_code, reason = "the tests of a single connection need more of it")]
#[path = "../../../src/redis/tests/server.rs"]
pub(crate) mod redis;
pub(crate) mod tls;
mod token_endpoint;
mod upstream;

pub(crate) use client::{Answer, Client, head};
pub(crate) use collector::{Collector, TakenSpan};
pub(crate) use gate::Gate;
pub(crate) use liar::Liar;
pub(crate) use token_endpoint::{TokenEndpoint, granted};
pub(crate) use upstream::{Peer, Seen, Upstream};

use postern::app;
use postern::base::clock::Clock;
use postern::config::{self, Config};
use postern::dev::Issuer;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// When every test begins, in seconds since 1970.
pub(crate) const START: u64 = 1_800_000_000;

/// Longer than anything takes that happens at all, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The other side of a gateway.
pub(crate) struct Stage {
    pub(crate) clock: Clock,
    /// Started when it is first needed: it makes an RSA key.
    pub(crate) issuer: LazyLock<Issuer, Box<dyn FnOnce() -> Issuer + Send>>,
    pub(crate) upstream: Upstream,
    folder: TempDir,
}

/// What a configuration says beyond `Stage::text`: lines for its sections, and further sections.
#[derive(Clone, Copy)]
pub(crate) struct File<'a> {
    /// Lines of `[server]`.
    pub(crate) server: &'a str,
    /// Lines of `[issuer.main]`; without any there is no issuer.
    pub(crate) issuer: &'a str,
    /// Lines of `[log]`.
    pub(crate) log: &'a str,
    /// Lines of `[token_service]`.
    pub(crate) tokens: &'a str,
    /// Routes and other sections.
    pub(crate) rest: &'a str,
}

/// One route for everything, without a credential.
pub(crate) const ANY: &str = "[[route]]\nname = 'any'\npath = '/**'\nupstream = 'up'\ncredential = 'none'\n";

/// One route for everything and everybody.
pub(crate) const PUBLIC: &str = "[[route]]\nname = 'public'\npath = '/**'\nupstream = 'up'\naccess = 'public'\n";

/// One as [`ANY`], for as many bad tokens as a test likes.
pub(crate) const ANY_UNLIMITED: &str = "[[route]]\nname = 'any'\npath = '/**'\nupstream = 'up'\ncredential = 'none'\n\
                                        [limits]\nfailed_authentications = 'off'\n";

impl Default for File<'_> {
    fn default() -> Self {
        Self { server: "", issuer: "user_status = 'none'", log: "access = 'off'", tokens: "", rest: ANY }
    }
}

impl Stage {
    /// An issuer, an upstream that answers `ok`, and a clock that stands still.
    pub(crate) fn new() -> Self {
        Self::with(Upstream::start())
    }

    pub(crate) fn with(upstream: Upstream) -> Self {
        let clock = Clock::manual(START);
        let its_clock = clock.clone();
        let start = move || Issuer::start("127.0.0.1:0".parse().unwrap(), its_clock).unwrap();
        Self { clock, issuer: LazyLock::new(Box::new(start)), upstream, folder: tempfile::tempdir().unwrap() }
    }

    /// A path in a folder that goes away with the stage.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The configuration as text.
    pub(crate) fn text(&self, file: File<'_>) -> String {
        let File { server, issuer, log, tokens, rest } = file;
        // Keys are fetched once and hold; tests of their age say otherwise.
        let keys = if issuer.contains("keys =") { "" } else { "keys = { refresh = '1h', max_stale = '30d' }" };
        let issuer = match issuer {
            "" => String::new(),
            lines => {
                format!("[issuer.main]\nurl = '{}'\naudience = 'gateway'\n{keys}\n{lines}", self.issuer.url("demo"))
            }
        };
        let workers = if server.contains("workers =") { "" } else { "workers = 1" };
        format!(
            "version = 1\ndev = true\n[server]\nlisten = '127.0.0.1:0'\n{workers}\n{server}\n[admin]\nlisten = '127.0.0.1:0'\n\
             [log]\n{log}\n[token_service]\nissuer = 'https://postern.example'\n{tokens}\n\
             {issuer}\n[upstream.up]\nto = 'http://{}'\n{rest}\n",
            self.upstream.addr()
        )
    }

    /// The configuration, checked.
    pub(crate) fn config(&self, file: File<'_>) -> Config {
        let text = self.text(file);
        config::parse(&text, &self.path("postern.toml")).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    /// A gateway that has its issuer's keys.
    pub(crate) fn gateway(&self, file: File<'_>) -> Gateway {
        let gateway = self.unready_gateway(file);
        eventually("the gateway is ready", || gateway.inner.is_ready());
        gateway
    }

    /// A gateway that may still wait for keys.
    pub(crate) fn unready_gateway(&self, file: File<'_>) -> Gateway {
        Gateway { inner: app::Gateway::start(self.config(file), self.clock.clone()).unwrap() }
    }
}

/// Introspection as most tests have it; `more` are further keys.
pub(crate) fn introspection(more: &str) -> String {
    // Longer than an issuer takes on a machine that does much else; tests of the limit say theirs.
    let timeout = if more.contains("timeout") { "" } else { "timeout = '20s', " };
    format!(
        "user_status = {{ introspection = {{ client_id = 'gateway', client_secret = 'gateway-secret', bound = '30s', {timeout}{more} }} }}"
    )
}

/// A running gateway, which ends when dropped.
pub(crate) struct Gateway {
    pub(crate) inner: app::Gateway,
}

impl Gateway {
    /// Its public address.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.inner.addresses()[0]
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.addr())
    }

    /// `GET path` with these lines in its head.
    pub(crate) fn get(&self, path: &str, lines: &[&str]) -> Answer {
        self.connect().get(path, lines)
    }

    /// `GET path` with a bearer token.
    pub(crate) fn call(&self, path: &str, token: &str) -> Answer {
        self.get(path, &[&bearer(token)])
    }

    /// `POST path` of the operators' API with these lines in its head.
    pub(crate) fn ask_operators(&self, path: &str, lines: &[&str], body: &str) -> Answer {
        let mut client = Client::connect(self.inner.operator_address().unwrap());
        let length = format!("content-length: {}", body.len());
        client.send(head("POST", path, &[lines, &[&length]].concat()) + body);
        client.read()
    }

    /// The same of somebody who has a token, in JSON.
    pub(crate) fn operate(&self, token: &str, path: &str, body: &Value) -> Answer {
        self.ask_operators(path, &[&bearer(token), "content-type: application/json"], &body.to_string())
    }

    /// What the admin listener says.
    pub(crate) fn admin(&self, path: &str) -> Answer {
        Client::connect(self.inner.admin_address().unwrap()).get(path, &[])
    }

    /// The value of one line of `/metrics`, written as there, labels included.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.admin("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no `{name}` in\n{text}")).parse().unwrap()
    }
}

/// The line that presents a token.
pub(crate) fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

/// Waits until `is_so`, for what other threads do.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
