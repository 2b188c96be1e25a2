//! `postern token`: inspect any token, mint one as the gateway would, verify one against a key set.

use super::operate;
use crate::base::clock::Clock;
use crate::base::json::{self, Json};
use crate::config::{self, NamespaceToken};
use crate::identity::{claims, jws};
use crate::issuer::parse_jwks;
use crate::token_service::{CredentialCache, Grant, NamespaceKind, TokenService};
use anyhow::{Context, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use serde_json::Value;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// What to do with a token.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show header and claims of a token; verifies nothing
    Inspect {
        /// A file with the token; standard input if absent
        file: Option<PathBuf>,
    },
    /// Mint a namespace token with the signing key of a configuration
    Mint(Mint),
    /// Verify signature and times of a token against a key set
    Verify {
        /// A file with the token; standard input if absent
        file: Option<PathBuf>,
        /// A file with the key set (JWKS)
        #[arg(short, long, value_name = "FILE")]
        keys: PathBuf,
    },
    /// Take tokens back, through the operators' API of a running gateway
    Revoke(Box<operate::Revoke>),
}

/// Arguments of `token mint`.
#[derive(Debug, Args)]
pub struct Mint {
    /// The configuration
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// `sub`
    #[arg(long)]
    subject: String,
    /// `aud`
    #[arg(long)]
    audience: String,
    /// `namespace`
    #[arg(long)]
    namespace: String,
    /// `orig_iss`; the first issuer of the configuration if absent
    #[arg(long)]
    original_issuer: Option<String>,
    /// `email`
    #[arg(long, default_value = "")]
    email: String,
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or holds no token, key set or configuration.
pub fn token(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Inspect { file } => inspect(&read(file.as_deref())?),
        Command::Mint(arguments) => mint(&arguments),
        Command::Revoke(which) => operate::revoke(&which),
        Command::Verify { file, keys } => verify(&read(file.as_deref())?, &keys),
    }
}

fn read(file: Option<&Path>) -> anyhow::Result<String> {
    let mut text = String::new();
    match file {
        Some(path) => text = std::fs::read_to_string(path).with_context(|| format!("`{}`", path.display()))?,
        None => {
            std::io::stdin().take(1024 * 1024).read_to_string(&mut text)?;
        }
    }
    Ok(text.trim().trim_start_matches("Bearer ").to_owned())
}

fn inspect(token: &str) -> anyhow::Result<ExitCode> {
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        bail!("this is no JWT: it has {} parts instead of 3", token.split('.').count());
    };
    let mut out = std::io::stdout().lock();
    for (name, part) in [("header", header), ("claims", payload)] {
        let text = URL_SAFE_NO_PAD.decode(part).with_context(|| format!("the {name} are no base64url"))?;
        let value: Value = serde_json::from_slice(&text).with_context(|| format!("the {name} are no JSON"))?;
        writeln!(out, "{name}: {value:#}")?;
        for date in ["iat", "nbf", "exp"] {
            if let Some(seconds) = value.get(date).and_then(Value::as_u64) {
                writeln!(out, "  {date}: {}", describe(seconds))?;
            }
        }
    }
    match jws::parse(token.as_bytes()) {
        Ok(_) => writeln!(out, "form: good; nothing was verified")?,
        Err(error) => writeln!(out, "form: Postern refuses it: {error}")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A date, and how far away it is.
fn describe(seconds: u64) -> String {
    let now = u64::try_from(Clock::system().now().unix_seconds()).unwrap_or(0);
    // Later than the year 9999 is no date.
    let at = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds.min(253_402_300_799)));
    let date = at.map(|at| humantime::format_rfc3339_seconds(at).to_string()).unwrap_or_default();
    let away = humantime::format_duration(std::time::Duration::from_secs(seconds.abs_diff(now)));
    if seconds > now { format!("{date} (in {away})") } else { format!("{date} ({away} ago)") }
}

fn mint(arguments: &Mint) -> anyhow::Result<ExitCode> {
    let config =
        config::load(&arguments.config).map_err(|mistakes| anyhow!("the configuration cannot be used\n{mistakes}"))?;
    if !claims::is_namespace_name(&arguments.namespace) {
        bail!("`{}` is no name of a namespace", arguments.namespace);
    }
    let first = config.issuers.first().map(|issuer| issuer.url.clone());
    let original_issuer = arguments.original_issuer.clone().or(first).context("--original-issuer is needed")?;
    let clock = Clock::system();
    let service = TokenService::start(config.token_service, clock.clone())?;
    let template = Arc::new(NamespaceToken { audience: arguments.audience.clone(), ..NamespaceToken::default() });
    let grant = Grant {
        template: &template,
        subject: &arguments.subject,
        original_issuer: &original_issuer,
        namespace: &arguments.namespace,
        kind: NamespaceKind::Own,
        email: &arguments.email,
        username: None,
        authorized_party: None,
        epoch: 0,
        roles: &[],
        groups: &[],
    };
    let minted = service.credential(&CredentialCache::default(), &grant, clock.now())?;
    let token = minted.header().to_str()?.trim_start_matches("Bearer ");
    writeln!(std::io::stdout(), "{token}")?;
    Ok(ExitCode::SUCCESS)
}

fn verify(token: &str, keys: &Path) -> anyhow::Result<ExitCode> {
    let text = std::fs::read(keys).with_context(|| format!("`{}`", keys.display()))?;
    let keys = parse_jwks(&text).with_context(|| format!("`{}`", keys.display()))?;
    let verdict = judge(token, &keys.keys);
    let mut out = std::io::stdout();
    match verdict {
        Ok(said) => writeln!(out, "good: {said}").map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Err(why) => writeln!(out, "refused: {why}").map(|()| ExitCode::FAILURE).map_err(Into::into),
    }
}

fn judge(token: &str, keys: &[crate::issuer::VerifyingKey]) -> Result<String, String> {
    let jws = jws::parse(token.as_bytes()).map_err(|error| error.to_string())?;
    let is_its = |key: &&crate::issuer::VerifyingKey| {
        key.fits(jws.algorithm) && jws.kid.as_deref().is_none_or(|kid| key.kid() == Some(kid))
    };
    let mut fitting = keys.iter().filter(is_its).peekable();
    if fitting.peek().is_none() {
        return Err("the key set holds no key with this `kid` that fits its `alg`".into());
    }
    if !fitting.any(|key| key.verify(jws.algorithm, jws.message, &jws.signature)) {
        return Err("the signature does not verify".into());
    }
    let claims = json::parse_object(&jws.payload).ok_or("the payload is no sound JSON object")?;
    let now = Clock::system().now().unix_seconds();
    match claims.get("exp").and_then(Json::as_i64) {
        Some(expires) if expires > now => Ok(format!("signed with {}, {} s left", jws.algorithm.name(), expires - now)),
        Some(expires) => Err(format!("it expired {} s ago", now - expires)),
        None => Err("it has no `exp`".into()),
    }
}
