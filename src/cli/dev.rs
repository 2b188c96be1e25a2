//! `postern dev`: issuer, upstream and gateway on one machine, and the commands to try them with.

use crate::app::Gateway;
use crate::base::clock::Clock;
use crate::config::{self, Access, Config, Route, Target};
use crate::dev::echo::Echo;
use crate::dev::tour::Tour;
use crate::dev::{Client, Issuer};
use anyhow::{Context, Result, anyhow, bail};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use url::{Host, Url};

/// What `postern dev` runs unless `-c` names another file.
const BUILT_IN: &str = include_str!("../../config/dev.toml");
/// How often the tour is prepared anew when somebody takes the port that it chose.
const ATTEMPTS: usize = 3;

/// Runs everything until Ctrl-C, or plays the tour and fails if a step did not come out as promised.
pub fn dev(tour: bool, config: Option<PathBuf>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if tour {
        if config.is_some() {
            bail!("the tour has a configuration of its own: leave `-c` out");
        }
        runtime.block_on(play())
    } else {
        runtime.block_on(serve(config))
    }
}

async fn play() -> Result<()> {
    let clock = Clock::system();
    let scratch = Scratch::make()?;
    let mut attempt = 1;
    let (tour, gateway) = loop {
        let tour = Tour::prepare(clock.clone()).context("cannot start the parts of the tour")?;
        let config = read(tour.config(), &scratch.0.join("tour.toml"))?;
        match Gateway::start(config, clock.clone()) {
            Ok(gateway) => break (tour, gateway),
            Err(_) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(error).context("cannot start the gateway"),
        }
    };
    let public = *gateway.addresses().first().context("the gateway has no address")?;
    let admin = gateway.admin_address().context("the gateway has no admin listener")?;
    let outcome = tour.play(public, admin, &mut io::stdout()).await?;
    drop(gateway);
    match outcome.failed {
        0 => Ok(()),
        1 => bail!("1 step did not come out as promised"),
        n => bail!("{n} steps did not come out as promised"),
    }
}

async fn serve(file: Option<PathBuf>) -> Result<()> {
    let scratch = Scratch::make()?;
    let (text, origin) = match &file {
        Some(path) => {
            (std::fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?, path.clone())
        }
        // What the built-in file keeps beside itself, such as signing keys, is thrown away at the end.
        None => (BUILT_IN.to_owned(), scratch.0.join("dev.toml")),
    };
    let config = read(&text, &origin)?;
    crate::telemetry::start_log(&config.log);
    let clock = Clock::system();
    let issuers = start_issuers(&config, &clock)?;
    let upstreams = start_upstreams(&config)?;
    let listeners = config.server.listen.iter().map(|addr| (addr, "server.listen"));
    for (addr, key) in listeners.chain(config.admin.listen.iter().map(|addr| (addr, "admin.listen"))) {
        // The gateway shares its port among threads, so it would not notice another Postern on it.
        TcpListener::bind(addr).map_err(|error| taken(&error, *addr, key))?;
    }
    let guide = Guide::read(&config);
    let gateway = Gateway::start(config, clock).context("cannot start the gateway")?;
    let mut terminated = signal(SignalKind::terminate())?;
    io::stdout().write_all(guide.text(gateway.addresses(), gateway.admin_address(), &upstreams).as_bytes())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    drop(gateway);
    drop((issuers, upstreams));
    Ok(())
}

fn read(text: &str, origin: &Path) -> Result<Config> {
    config::parse(text, origin).map_err(|mistakes| anyhow!("{mistakes}"))
}

/// Starts an issuer on each address that an `[issuer]` names, and lets the gateway introspect there.
fn start_issuers(config: &Config, clock: &Clock) -> Result<Vec<Issuer>> {
    let mut started: Vec<Issuer> = Vec::new();
    for issuer in &config.issuers {
        let key = format!("issuer.{}.url", issuer.name);
        let (addr, realm) = realm_address(&issuer.url).with_context(|| {
            format!("`{key}` is `{}`: `dev` runs issuers at `http://127.0.0.1:PORT/realms/NAME`", issuer.url)
        })?;
        let running = started.iter().find(|running| running.addr() == addr).cloned();
        let running = match running {
            Some(running) => running,
            None => Issuer::start(addr, clock.clone()).map_err(|error| taken(&error, addr, &key))?,
        };
        let realm = running.realm(&realm)?;
        let mut audiences = issuer.audiences.clone();
        if let Some(introspection) = issuer.user_status.introspection() {
            audiences.push(introspection.client_id.clone());
            realm.add_client(Client::confidential(&introspection.client_id, introspection.client_secret.clone()));
        }
        audiences.sort();
        audiences.dedup();
        realm.add_client(Client { audiences, ..Client::public("cli") });
        started.push(running);
    }
    Ok(started)
}

/// Starts an echo upstream on each address that an `[upstream]` names.
fn start_upstreams(config: &Config) -> Result<Vec<Echo>> {
    let mut started: Vec<Echo> = Vec::new();
    for upstream in &config.upstreams {
        let key = format!("upstream.{}.to", upstream.name);
        for target in &upstream.targets {
            let addr = echo_address(target).filter(|addr| addr.ip().is_loopback() && !upstream.is_tls);
            let addr = addr.with_context(|| format!("`{key}`: `dev` runs upstreams at `http://127.0.0.1:PORT`"))?;
            if !started.iter().any(|running| running.addr() == addr) {
                started.push(Echo::start(addr).map_err(|error| taken(&error, addr, &key))?);
            }
        }
    }
    Ok(started)
}

fn echo_address(target: &Target) -> Option<SocketAddr> {
    match target {
        Target::Host { host, port } => Some(SocketAddr::new(host.parse().ok()?, *port)),
        Target::Unix(_) => None,
    }
}

/// Address and name of the realm in `http://127.0.0.1:8081/realms/demo`.
fn realm_address(url: &str) -> Option<(SocketAddr, String)> {
    let url = Url::parse(url).ok().filter(|url| url.scheme() == "http")?;
    let port = url.port_or_known_default()?;
    let addr = match url.host()? {
        Host::Ipv4(ip) if ip.is_loopback() => SocketAddr::from((ip, port)),
        Host::Ipv6(ip) if ip.is_loopback() => SocketAddr::from((ip, port)),
        _ => return None,
    };
    let realm = url.path().strip_prefix("/realms/")?;
    (!realm.is_empty() && !realm.contains('/')).then(|| (addr, realm.to_owned()))
}

fn taken(error: &io::Error, addr: SocketAddr, key: &str) -> anyhow::Error {
    if error.kind() == io::ErrorKind::AddrInUse {
        anyhow!(
            "`{addr}` is in use by another program\n  end that program, or write another port for `{key}` into a copy \
             of config/dev.toml and start `postern dev -c COPY`"
        )
    } else {
        anyhow!("cannot listen on `{addr}` (`{key}`): {error}")
    }
}

/// A folder of our own that goes away with us.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Result<Self> {
        let base = std::env::temp_dir();
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        for attempt in 0..100 {
            let path = base.join(format!("postern-dev-{}-{attempt}", std::process::id()));
            match builder.create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot make `{}`", path.display())),
            }
        }
        bail!("`{}` is full of folders of ours", base.display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the folder of temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What is printed at the start.
struct Guide {
    issuer: String,
    path: String,
    refused_within: String,
}

impl Guide {
    fn read(config: &Config) -> Self {
        let issuer = config.issuers.first();
        let bound = issuer.and_then(|issuer| Some(issuer.user_status.introspection()?.bound));
        Self {
            issuer: issuer.map(|issuer| issuer.url.clone()).unwrap_or_default(),
            path: example_path(&config.routes),
            refused_within: bound.map_or_else(
                || "(this configuration does not ask for the user's status)".to_owned(),
                |bound| format!("within {}", humantime::format_duration(bound)),
            ),
        }
    }

    /// What runs where, then what to paste.
    fn text(&self, gateway: &[SocketAddr], admin: Option<SocketAddr>, upstreams: &[Echo]) -> String {
        let mut text = String::from("\nPostern runs with all it needs; Ctrl-C ends it.\n\n");
        let mut say = |what: &str, url: String, note: &str| {
            // Writing into a text cannot fail.
            let _ = writeln!(text, "{}", format!("  {what:<9} {url:<36} {note}").trim_end());
        };
        for addr in gateway {
            say("gateway", format!("http://{addr}"), "");
        }
        let users = "alice, bob, carol (password NAME-pw); dave is disabled";
        say("issuer", self.issuer.clone(), users);
        for upstream in upstreams {
            say("upstream", format!("http://{}", upstream.addr()), "answers with what it received");
        }
        if let Some(admin) = admin {
            say("admin", format!("http://{admin}/metrics"), "also /healthz and /readyz");
        }
        if let Some(gateway) = gateway.first() {
            text.push_str(&self.commands(*gateway));
        }
        text
    }

    /// Commands for any POSIX shell, with curl and sed.
    fn commands(&self, gateway: SocketAddr) -> String {
        let Self { issuer, path, refused_within } = self;
        let (origin, realm) = issuer.split_once("/realms/").unwrap_or((issuer, ""));
        format!(
            r#"
Sign alice in and keep her token:
  TOKEN=$(curl -s {issuer}/protocol/openid-connect/token \
    -d grant_type=password -d client_id=cli -d username=alice -d password=alice-pw \
    | sed 's/.*"access_token":"\([^"]*\)".*/\1/')

Call through the gateway; the answer shows what the upstream received:
  curl -i -H "Authorization: Bearer $TOKEN" http://{gateway}{path}

Disable alice; the same call is then refused {refused_within}:
  curl -X POST '{origin}/dev/users/alice/disable?realm={realm}'

Enable her again:
  curl -X POST '{origin}/dev/users/alice/enable?realm={realm}'

Rotate the issuer's keys; her token is then refused until she signs in again (`old=keep` would leave it good):
  curl -X POST '{origin}/dev/keys/rotate?old=drop&realm={realm}'

"#
        )
    }
}

/// A path that alice may call: of the first route without requirements, else of the first that wants a token.
fn example_path(routes: &[Arc<Route>]) -> String {
    let takes_token = |route: &&Arc<Route>| matches!(route.access, Access::Token(_));
    let is_open = |route: &&Arc<Route>| matches!(&route.access, Access::Token(needs) if needs.is_empty());
    let route = routes.iter().find(is_open).or_else(|| routes.iter().find(takes_token));
    route.map_or_else(|| "/".to_owned(), |route| route.path.text.replace("**", "hello").replace('*', "hello"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        read(BUILT_IN, Path::new("config/dev.toml")).unwrap()
    }

    #[test]
    fn a_realm_is_found_only_at_a_loopback_address() {
        let addr = |url| realm_address(url).map(|(addr, realm)| format!("{addr} {realm}"));
        assert_eq!(addr("http://127.0.0.1:8081/realms/demo").as_deref(), Some("127.0.0.1:8081 demo"));
        assert_eq!(addr("http://[::1]:8081/realms/x").as_deref(), Some("[::1]:8081 x"));
        for url in ["https://127.0.0.1/realms/demo", "http://192.0.2.1/realms/demo", "http://127.0.0.1:1/demo", "x"] {
            assert_eq!(addr(url), None, "{url}");
        }
    }

    #[test]
    fn a_taken_port_is_named_with_the_key_to_change() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let error = Issuer::start(addr, Clock::system()).err().unwrap();
        let text = taken(&error, addr, "issuer.main.url").to_string();
        assert!(text.contains(&addr.to_string()) && text.contains("`issuer.main.url`"), "{text}");
    }

    #[test]
    fn the_built_in_configuration_is_one_that_dev_can_run() {
        let config = config();
        assert!(config.issuers.iter().all(|issuer| realm_address(&issuer.url).is_some()));
        let mut addresses = config.upstreams.iter().flat_map(|upstream| &upstream.targets).map(echo_address);
        assert!(addresses.all(|addr| addr.is_some_and(|addr| addr.ip().is_loopback())));
        assert!(config.upstreams.iter().all(|upstream| !upstream.is_tls));
        let guide = Guide::read(&config);
        assert!(guide.path.starts_with('/') && !guide.path.contains('*'), "{}", guide.path);
        assert_eq!(guide.issuer, config.issuers[0].url);
    }

    #[test]
    fn a_scratch_folder_is_private_and_goes_away() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::make().unwrap();
        let path = scratch.0.clone();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(scratch);
        assert!(!path.exists());
    }
}
