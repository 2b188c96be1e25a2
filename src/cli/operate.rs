//! `postern user`, `postern tokens`, `postern offboard`, `postern cluster` and `postern token revoke`: the operators' API from the
//! command line.

use crate::base::http_client::{BearerToken, HttpClient, Reply};
use crate::base::secret::Secret;
use crate::base::tls;
use crate::config;
use anyhow::{Context, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use url::Url;

/// No act takes longer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where an operator's token is looked for if no file is named.
const TOKEN_VARIABLE: &str = "POSTERN_OPERATOR_TOKEN";

/// Where the operators' API is, and who is asking.
#[derive(Debug, Args)]
pub struct Caller {
    /// The configuration, whose `[operator]` says where the API is
    #[arg(short, long, value_name = "FILE", required_unless_present = "address")]
    config: Option<PathBuf>,
    /// Where the API is, if not where the configuration says: `https://host:port`
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    address: Option<Url>,
    /// A file with an operator's token; without it the variable POSTERN_OPERATOR_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// An operator's certificate (PEM), where the API knows operators by one
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// The authorities that sign the API's certificate (PEM), instead of the host's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// Where everybody for whom a token is kept is shown.
const DELIVERY: &str = "/v1/delivery/show";

/// What to do about a user.
#[derive(Debug, Subcommand)]
pub enum User {
    /// Show what is known about a user
    Show(Who),
    /// Show everybody for whom a token is kept, and what is to be known of them
    List(Caller),
    /// Block a user, whatever the issuer says; nothing of theirs passes from now on
    Block(WhoAndWhy),
    /// End an operator's block; the user has to sign in again
    Unblock(WhoAndWhy),
}

/// One user.
#[derive(Debug, Args)]
pub struct Who {
    /// The NAME of `[issuer.NAME]`
    issuer: String,
    /// `sub`
    subject: String,
    #[command(flatten)]
    caller: Caller,
}

/// One user, and a reason.
#[derive(Debug, Args)]
pub struct WhoAndWhy {
    #[command(flatten)]
    who: Who,
    /// For the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// What to do about everybody.
#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Show whether anybody is let in
    Show(Caller),
    /// Refuse everybody from now on
    Disable(Why),
    /// Let people in again; each has to sign in
    Enable(Why),
}

/// A reason.
#[derive(Debug, Args)]
pub struct Why {
    /// For the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    caller: Caller,
}

/// Arguments of `offboard`.
#[derive(Debug, Args)]
pub struct Offboard {
    /// Only show: what is to be removed Postern removes by itself, when every guard allows it
    #[arg(long, required = true)]
    dry_run: bool,
    #[command(flatten)]
    caller: Caller,
}

/// Arguments of `token revoke`: which tokens are taken back.
#[derive(Debug, Args)]
pub struct Revoke {
    /// The NAME of `[issuer.NAME]`
    #[arg(long, value_name = "NAME")]
    issuer: String,
    /// The one with this `jti`
    #[arg(long, value_name = "ID", group = "which", allow_hyphen_values = true)]
    jti: Option<String>,
    /// Those of the session with this `sid`
    #[arg(long, value_name = "ID", group = "which", allow_hyphen_values = true)]
    sid: Option<String>,
    /// Those of the user with this `sub`, issued until now or before `--issued-before`
    #[arg(long, value_name = "SUBJECT", group = "which", allow_hyphen_values = true)]
    sub: Option<String>,
    /// Issued before this time, such as 2026-01-31T12:00:00Z; alone: everybody's
    #[arg(long, value_name = "TIME", conflicts_with_all = ["jti", "sid"], required_unless_present = "which")]
    issued_before: Option<String>,
    /// For the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    caller: Caller,
}

/// Runs `postern user`.
///
/// # Errors
/// The API cannot be reached, or refuses.
pub fn user(command: &User) -> anyhow::Result<ExitCode> {
    let (path, Who { issuer, subject, caller }, reason) = match command {
        User::List(caller) => {
            return caller.show(DELIVERY, &json!({}), |answer| answer.get("users").cloned().unwrap_or_default());
        }
        User::Show(who) => ("/v1/user/show", who, None),
        User::Block(WhoAndWhy { who, reason }) => ("/v1/user/block", who, Some(reason)),
        User::Unblock(WhoAndWhy { who, reason }) => ("/v1/user/unblock", who, Some(reason)),
    };
    let mut body = json!({ "issuer": issuer, "subject": subject });
    if let Some(reason) = reason {
        body["reason"] = reason.as_str().into();
    }
    caller.ask(path, &body)
}

/// Runs `postern tokens`: those that end first come first.
///
/// # Errors
/// As [`user`].
pub fn tokens(caller: &Caller) -> anyhow::Result<ExitCode> {
    let members = ["issuer", "subject", "username", "namespace", "seconds_left", "conditions"];
    caller.show(DELIVERY, &json!({}), |answer| {
        let mut users = answer.get("users").and_then(Value::as_array).cloned().unwrap_or_default();
        users.retain(|user| user["seconds_left"].is_u64());
        users.sort_by_key(|user| user["seconds_left"].as_u64());
        let picked = |user: &Value| members.iter().map(|name| ((*name).to_owned(), user[*name].clone())).collect();
        users.iter().map(|user| Value::Object(picked(user))).collect()
    })
}

/// Runs `postern offboard`.
///
/// # Errors
/// As [`user`].
pub fn offboard(arguments: &Offboard) -> anyhow::Result<ExitCode> {
    arguments.caller.show(DELIVERY, &json!({}), |answer| {
        let mut gone = answer.get("users").and_then(Value::as_array).cloned().unwrap_or_default();
        gone.retain(|user| user["gone_seconds"].is_u64());
        json!({ "gone": gone, "would_go_now": answer["would_go"], "held": answer["held"] })
    })
}

/// Runs `postern cluster`.
///
/// # Errors
/// As [`user`].
pub fn cluster(command: &Cluster) -> anyhow::Result<ExitCode> {
    match command {
        Cluster::Show(caller) => caller.ask("/v1/cluster/show", &json!({})),
        Cluster::Disable(Why { reason, caller }) => caller.ask("/v1/cluster/disable", &json!({ "reason": reason })),
        Cluster::Enable(Why { reason, caller }) => caller.ask("/v1/cluster/enable", &json!({ "reason": reason })),
    }
}

/// Runs `postern token revoke`.
///
/// # Errors
/// As [`user`].
pub fn revoke(which: &Revoke) -> anyhow::Result<ExitCode> {
    let Revoke { issuer, jti, sid, sub, issued_before, reason, caller } = which;
    let mut body = json!({ "issuer": issuer, "reason": reason });
    for (name, value) in [("jti", jti), ("sid", sid), ("sub", sub), ("issued_before", issued_before)] {
        if let Some(value) = value {
            body[name] = value.as_str().into();
        }
    }
    caller.ask("/v1/tokens/revoke", &body)
}

impl Caller {
    /// Asks the API and prints its answer.
    fn ask(&self, path: &str, body: &Value) -> anyhow::Result<ExitCode> {
        self.show(path, body, Value::clone)
    }

    /// Asks the API and prints what is to be seen of its answer.
    fn show(&self, path: &str, body: &Value, seen: impl FnOnce(&Value) -> Value) -> anyhow::Result<ExitCode> {
        let mut url = self.api()?;
        url.set_path(path);
        let certificate = self.certificate.as_deref().zip(self.key.as_deref());
        let tls = tls::client_config(self.ca.as_deref(), certificate, &[b"http/1.1"])?;
        let client = HttpClient::new(&tls, TIMEOUT)?;
        let token = self.token()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let Reply { status, body } = runtime.block_on(client.post_json(&url, token.as_ref(), body))?;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|_| anyhow!("`{url}` answered {status}, and no JSON: it is not the operators' API"))?;
        if status != 200 {
            let detail = answer.get("detail").and_then(Value::as_str).unwrap_or("no reason given");
            bail!("refused with {status}: {detail}");
        }
        writeln!(std::io::stdout(), "{:#}", seen(&answer))?;
        Ok(ExitCode::SUCCESS)
    }

    fn api(&self) -> anyhow::Result<Url> {
        if let Some(address) = &self.address {
            return Ok(address.clone());
        }
        let path = self.config.as_deref().context("neither a configuration nor an address is given")?;
        let config = config::load(path).map_err(|mistakes| anyhow!("the configuration cannot be used\n{mistakes}"))?;
        let operator = config.operator.context("`[operator]` is off in this configuration")?;
        let mut address = operator.listen;
        // Where everything is listened on, this machine is meant.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        let scheme = if operator.tls.is_some() { "https" } else { "http" };
        Ok(Url::parse(&format!("{scheme}://{address}"))?)
    }

    fn token(&self) -> anyhow::Result<Option<BearerToken>> {
        let text = match &self.token_file {
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("`{}`", path.display()))?,
            None => match std::env::var(TOKEN_VARIABLE) {
                Ok(text) => text,
                Err(_) => return Ok(None),
            },
        };
        let text = text.trim();
        let token = Secret::new(text.strip_prefix("Bearer ").unwrap_or(text));
        BearerToken::new(&token).context("the token has characters that no header can hold").map(Some)
    }
}
