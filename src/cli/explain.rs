//! `postern explain`: runs the stages that the gateway runs on one request, offline, and prints how each came out.

use crate::base::clock::Clock;
use crate::base::tls::{Asked, ClientTrust, ShownCertificate};
use crate::config::{self, Access, ClientCertificate, Config, Credential, Rate, Requirements, Route};
use crate::identity::status::Assumed;
use crate::identity::{LocalCache, Shared, Verifier};
use crate::issuer::Issuer;
use crate::pipeline::limit::Limits;
use crate::pipeline::{Connection, Context, Pipeline, Rejection, Stage, Stripped, Verdict};
use crate::telemetry::metrics::Metrics;
use crate::token_service::TokenService;
use crate::users::Users;
use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use http::{HeaderValue, Request};
use std::error::Error;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The configuration
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Method and path, such as "GET /orders/7"
    #[arg(short, long, value_name = "REQUEST")]
    request: String,
    /// The host asked for
    #[arg(long, default_value = "localhost")]
    host: String,
    /// A file with the bearer token; `-` reads standard input. Tokens do not belong on command lines
    #[arg(short, long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// A PEM file with the client certificate that is shown
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// More headers, such as "Accept: text/plain"
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The key set of an issuer, as `ISSUER=FILE`; or `FILE` where there is one issuer
    #[arg(short, long, value_name = "FILE")]
    keys: Vec<String>,
    /// What to assume about the user
    #[arg(long, value_enum, default_value = "active")]
    user: User,
    /// The time to judge by, in seconds since 1970; now if absent
    #[arg(long, value_name = "SECONDS")]
    at: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum User {
    /// Enabled
    Active,
    /// Disabled, deleted or logged out
    Inactive,
    /// The issuer does not answer
    Unknown,
}

/// Explains one request. The exit code says whether it is let in.
///
/// # Errors
/// The configuration, a key set, the token's file or the request cannot be read.
pub fn explain(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config =
        config::load(&arguments.config).map_err(|mistakes| anyhow!("the configuration cannot be used\n{mistakes}"))?;
    let clock = arguments.at.map_or_else(Clock::system, Clock::manual);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pipeline = pipeline(&config, arguments, &clock, runtime.handle())?;
    let (mut parts, ()) = arguments.request()?.into_parts();
    let mut context = context(&clock, arguments.certificate.as_deref())?;
    let (tokens, mut stripped) = (LocalCache::default(), Stripped::default());
    let decided = pipeline.decide(&tokens, &mut parts, &mut context, &mut stripped);
    let outcome = runtime.block_on(decided).map(|verdict| (verdict, stripped));
    let mut out = std::io::stdout().lock();
    write_steps(&mut out, &pipeline, &context, &outcome)?;
    Ok(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Arguments {
    fn request(&self) -> anyhow::Result<Request<()>> {
        let (method, target) = self.request.split_once(' ').unwrap_or(("GET", &self.request));
        let mut request = Request::builder().method(method).uri(target.trim()).header("host", &self.host);
        for header in &self.headers {
            let (name, value) = header.split_once(':').with_context(|| format!("`{header}` is no `NAME: VALUE`"))?;
            request = request.header(name.trim(), value.trim());
        }
        if let Some(path) = &self.token {
            let mut token = String::new();
            if path.as_os_str() == "-" {
                std::io::stdin().read_to_string(&mut token)?;
            } else {
                token = std::fs::read_to_string(path).with_context(|| format!("`{}`", path.display()))?;
            }
            let token = token.trim().trim_start_matches("Bearer ");
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request.body(()).with_context(|| format!("`{}` is no request", self.request))
    }

    fn keys_of(&self, issuer: &config::Issuer, is_only: bool) -> anyhow::Result<String> {
        let find = |entry: &String| match entry.split_once('=') {
            Some((name, path)) if name == issuer.name => Some(path.to_owned()),
            Some(_) => None,
            None => is_only.then(|| entry.clone()),
        };
        // An issuer whose keys are not given has none; a token of it cannot be judged.
        let Some(path) = self.keys.iter().find_map(find) else { return Ok(String::new()) };
        std::fs::read_to_string(&path).with_context(|| format!("key set `{path}`"))
    }
}

fn pipeline(
    config: &Config,
    arguments: &Arguments,
    clock: &Clock,
    control: &tokio::runtime::Handle,
) -> anyhow::Result<Pipeline> {
    let mut issuers = Vec::new();
    for issuer in &config.issuers {
        let keys = arguments.keys_of(issuer, config.issuers.len() == 1)?;
        let made = if keys.is_empty() {
            Issuer::new(Arc::clone(issuer), clock.clone())?
        } else {
            Issuer::offline(Arc::clone(issuer), clock.clone(), &keys)
                .with_context(|| format!("keys of issuer `{}`", issuer.name))?
        };
        issuers.push(Arc::new(made));
    }
    let assumed = match arguments.user {
        User::Active => Assumed::Active,
        User::Inactive => Assumed::Inactive,
        User::Unknown => Assumed::Unknown,
    };
    let asked = Pipeline::claims_asked(config);
    let token_service = Arc::new(TokenService::ephemeral(config.token_service.clone(), clock.clone())?);
    let users = Users::in_memory(clock.clone());
    let shared = Shared { users, links: Arc::default(), clock: clock.clone(), control: control.clone() };
    let verifier = Verifier::new(issuers, asked, &token_service, shared, 1)?.assuming(assumed);
    let pipeline = Pipeline::new(config, Arc::new(verifier), token_service, &Metrics::new(), clock.clone(), None)?;
    let files = config.server.tls.as_ref();
    let trust =
        files.and_then(|files| Some(ClientTrust::load(files.client_ca.as_deref()?, files.client_crl.as_deref())));
    Ok(pipeline.with_client_trust(trust.transpose()?.map(Arc::new)))
}

fn context(clock: &Clock, certificate: Option<&Path>) -> anyhow::Result<Context> {
    let shown = certificate.map(ShownCertificate::read).transpose()?;
    let asked = shown.map(|shown| Box::new(Asked { server_name: None, shown: Some(shown) }));
    let connection = Connection::new(IpAddr::from([127, 0, 0, 1]), false, Rc::new([]));
    let parent = HeaderValue::from_static("00-00000000000000000000000000000001-0000000000000001-00");
    let id = HeaderValue::from_static("explain");
    Ok(Context::new(clock.now(), Rc::new(connection.with_asked(asked)), id, parent))
}

/// The stages in their order: those that passed, the one that refused, and those that were not reached.
fn write_steps(
    out: &mut impl Write,
    pipeline: &Pipeline,
    context: &Context,
    outcome: &Result<(Verdict, Stripped), Rejection>,
) -> anyhow::Result<()> {
    const STAGES: [(Stage, &str); 9] = [
        (Stage::Strip, "strip"),
        (Stage::Route, "route"),
        (Stage::Limit, "limit"),
        (Stage::Certificate, "certificate"),
        (Stage::Authenticate, "authenticate"),
        (Stage::UserStatus, "user status"),
        (Stage::Authorize, "authorize"),
        (Stage::RouteLimit, "route limit"),
        (Stage::Inject, "inject"),
    ];
    let route = context.route.and_then(|index| pipeline.routes().get(index));
    let is_public = route.is_some_and(|route| route.access == Access::Public);
    let demands_certificate =
        route.is_some_and(|route| matches!(route.client_certificate, Some(ClientCertificate::Required(_))));
    for (stage, name) in STAGES {
        match outcome {
            // Few routes have this stage.
            _ if stage == Stage::Certificate && !demands_certificate => {}
            _ if is_public && (Stage::Authenticate..=Stage::Authorize).contains(&stage) => {
                writeln!(out, "  -        {name:<13} the route is public")?;
            }
            Err(rejection) if stage == context.stage => writeln!(out, "  refused  {name:<13} {}", cause(rejection))?,
            _ if stage < context.stage => {
                writeln!(out, "  ok       {name:<13} {}", said(stage, route.map(Arc::as_ref), pipeline, context))?
            }
            _ => writeln!(out, "  -        {name}")?,
        }
    }
    match outcome {
        Ok((Verdict::Preflight, _)) => writeln!(out, "answered by Postern: a preflight, for the route's `cors`")?,
        Ok((Verdict::Forward, stripped)) => {
            if let Some(target) = context.transformed.as_ref().and_then(|transformed| transformed.target.as_ref()) {
                writeln!(out, "rewritten to: {target}")?;
            }
            let names: Vec<_> = stripped.fields.iter().map(|(name, _)| name.as_str()).collect();
            writeln!(out, "forwarded with: {}", names.join(", "))?;
        }
        Err(Rejection { reason, .. }) => {
            writeln!(out, "{} {}: {}", reason.status().as_u16(), reason.code(), reason.title())?;
        }
    }
    Ok(())
}

/// What a stage that passed found.
fn said(stage: Stage, route: Option<&Route>, pipeline: &Pipeline, context: &Context) -> String {
    let issuer = context.token.as_ref().map(|token| token.issuer().config());
    match (stage, route) {
        (Stage::Route, Some(route)) => format!("`{}` ({})", route.name, route.path.text),
        (Stage::Limit, _) => limits_text(pipeline.limits(), route),
        (Stage::Certificate, _) => "of our authorities, with the names that the route demands".into(),
        (Stage::Authenticate, _) => {
            format!("a token of issuer `{}`", issuer.map(|issuer| issuer.name.as_str()).unwrap_or_default())
        }
        (Stage::UserStatus, _) => {
            let subject = context.caller.as_ref().map(|caller| caller.identity.subject.as_str()).unwrap_or_default();
            match issuer.and_then(|issuer| issuer.user_status.introspection()) {
                Some(_) => format!("`{subject}`: assumed (the gateway would introspect)"),
                None => format!("`{subject}`: not asked: `user_status` is \"none\""),
            }
        }
        (Stage::Authorize, Some(Route { access: Access::Token(required), .. })) => required_text(required),
        (Stage::RouteLimit, Some(route)) => route_limit_text(route),
        (Stage::Inject, Some(route)) => injected(route, context),
        _ => "identity, forwarding and hop-by-hop fields are gone".into(),
    }
}

/// What the gateway would count; here nothing was counted before.
fn limits_text(limits: &Limits, route: Option<&Route>) -> String {
    let text = |rate: Option<Rate>| rate.map_or("no limit".to_owned(), rate_text);
    let of_route = route.and_then(|route| route.limit.as_ref()?.address);
    format!(
        "requests of one address: {}{}; failed authentications: {}",
        text(limits.requests()),
        of_route.map(|rate| format!(", for this route {}", rate_text(rate))).unwrap_or_default(),
        text(limits.failures())
    )
}

fn route_limit_text(route: &Route) -> String {
    let Some(limit) = &route.limit else { return "no limit".into() };
    let limits = [("user", limit.user), ("namespace", limit.namespace), ("route", limit.route)];
    let given: Vec<_> = limits.iter().filter_map(|(of, rate)| Some(format!("{of}: {}", rate_text((*rate)?)))).collect();
    let together = if limit.shared { ", with other replicas" } else { "" };
    if given.is_empty() { "no limit".into() } else { given.join("; ") + together }
}

fn rate_text(Rate { rate, per, burst }: Rate) -> String {
    let per = if per == Duration::from_secs(1) { "s".to_owned() } else { format!("{}s", per.as_secs_f64()) };
    format!("{rate}/{per}, {burst} at once")
}

fn required_text(required: &Requirements) -> String {
    if required.is_empty() { "any valid token".into() } else { "every requirement is met".into() }
}

fn injected(route: &Route, context: &Context) -> String {
    let credential = match &route.credential {
        Credential::NamespaceToken(template) => {
            let namespace = context.namespace().unwrap_or_default();
            format!("a namespace token for `{namespace}`, audience `{}`", template.audience)
        }
        Credential::Pass => "the caller's own token".into(),
        Credential::Secret { header, .. } => format!("the secret in `{header}`"),
        Credential::Exchange(exchange) => {
            let (audience, issuer) = (&exchange.audience, &exchange.issuer.name);
            format!("a token for audience `{audience}` (the gateway would exchange the caller's at `{issuer}`)")
        }
        Credential::ClientCredentials(client) => {
            format!("a token of client `{}` (the gateway would get it)", client.client_id)
        }
        Credential::ServiceAccount(account) => {
            format!(
                "a token of ServiceAccount `{}` of the caller's namespace (the gateway would get it)",
                account.account
            )
        }
        Credential::None => "no credential".into(),
    };
    format!("{credential}; upstream `{}`", route.upstream.name)
}

/// The chain of causes, for the operator's eyes.
fn cause(rejection: &Rejection) -> String {
    let mut text = rejection.reason.code().to_owned();
    let mut next = rejection.cause.as_deref().map(|cause| cause as &dyn Error);
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}
