//! `[redis]`: through which Redis replicas outside of Kubernetes share what they know.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::reader::Reader;
use super::tree::Section;
use super::web;
use crate::base::secret::Secret;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use url::Url;

/// `[redis]`, where replicas share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Where it is: of `url`.
    pub place: RedisPlace,
    /// Which of its databases: of `url`. Default: 0.
    pub database: u32,
    /// `username`. Default: the Redis's own `default`.
    pub username: Option<String>,
    /// `password`. Default: none is asked for.
    pub password: Option<Secret>,
    /// `ca`: PEM file of the authorities trusted. Default: the host's.
    pub ca: Option<PathBuf>,
    /// `prefix` of all keys.
    pub prefix: String,
}

/// Where a Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisPlace {
    /// `redis://` and `rediss://`.
    Network {
        /// A name or an address.
        host: String,
        /// Default: 6379.
        port: u16,
        /// `rediss://`.
        is_tls: bool,
    },
    /// `unix:PATH`: a socket on this machine.
    Socket(PathBuf),
}

/// As a URL.
impl fmt::Display for RedisPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { host, port, is_tls } => {
                let scheme = if *is_tls { "rediss" } else { "redis" };
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                write!(f, "{scheme}://{host}:{port}")
            }
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[redis]`.
pub(super) static REDIS: Table = Table::of(&[
    Key::required(
        "url",
        Kind::Text("a Redis's URL"),
        "Where it is: `rediss://HOST:PORT/DATABASE` with TLS, `redis://` without, or `unix:` and the path of a socket. \
         Port and database may be left out: 6379 and 0.",
    )
    .example("\"rediss://redis.example.com\""),
    Key::optional("username", Kind::Text("a user of Redis"), "its user `default`", "Who Postern is there (ACL).")
        .example("\"postern\""),
    Key::optional(
        "password",
        Kind::Secret,
        "none is sent",
        "Its password. A changed file is taken up by the next connection.",
    )
    .example("{ file = \"/run/secrets/redis\" }"),
    Key::optional(
        "ca",
        Kind::File,
        "the host's authorities",
        "PEM file of the authorities that are trusted. For `rediss://`.",
    )
    .example("\"tls/redis-ca.pem\""),
    Key::default(
        "clear_text",
        Kind::Flag,
        "false",
        "`redis://` to another machine: who can write to that network can let blocked users in, and reads the password.",
    ),
    Key::default(
        "prefix",
        Kind::Text("a name"),
        "\"postern\"",
        "What all keys begin with. Replicas that share have the same; two installations that do not, have two.",
    ),
]);

/// Why a URL is refused.
#[derive(Debug, thiserror::Error)]
enum UrlError {
    #[error("`{0}` is no URL of a Redis: write one such as `rediss://redis.example.com:6379/0`")]
    NoUrl(String),
    #[error("`{0}` must have no user, password, query or fragment: write `username` and `password`")]
    Superfluous(String),
    #[error(transparent)]
    Host(#[from] web::WebError),
}

impl Redis {
    /// The outer absence is a mistake.
    #[expect(clippy::option_option, reason = "absent is no mistake, and a mistake is not absent")]
    pub(super) fn read(root: &Section, reader: &mut Reader<'_>) -> Option<Option<Self>> {
        if !root.is_given("redis") {
            return Some(None);
        }
        let section = root.section("redis")?;
        if root.is_given("kubernetes") {
            let mistake = Mistake::at(root.key_span("redis"), "in a cluster replicas share through its Secrets");
            let mistake = mistake.related(root.key_span("kubernetes"), "the cluster");
            reader.note(mistake.help("remove `[redis]`"));
        }
        let url = reader.parse(section, "url", parse);
        let prefix = reader.parse(section, "prefix", web::name);
        if section.is_given("username") && !section.is_given("password") {
            let mistake = Mistake::at(section.key_span("username"), "`username` needs `password` beside it");
            reader.note(mistake.absence());
        }
        if let Some((place, _)) = &url {
            check_place(place, section, reader);
        }
        let (place, database) = url?;
        let username = section.text("username").map(|name| name.value.to_owned());
        // What is given and cannot be read was noted.
        let is_whole = |key, is_read: bool| is_read || !section.is_given(key);
        let (password, ca) = (section.secret("password"), section.path("ca"));
        if !is_whole("password", password.is_some()) || !is_whole("ca", ca.is_some()) {
            return None;
        }
        Some(Some(Self { place, database, username, password, ca, prefix: prefix? }))
    }

    /// Whether it cannot be anywhere but on this machine.
    pub(super) fn is_on_this_machine(&self) -> bool {
        is_here(&self.place)
    }
}

/// Clear text off this machine is written out, and `ca` is for TLS.
fn check_place(place: &RedisPlace, section: &Section, reader: &mut Reader<'_>) {
    let is_tls = matches!(place, RedisPlace::Network { is_tls: true, .. });
    if !is_tls && !is_here(place) && section.flag("clear_text") == Some(false) {
        let mistake = Mistake::at(section.value_span("url"), "what replicas share would go in clear text");
        let mistake = mistake.label("`redis://` is for this machine");
        let help = "write `rediss://`; or `clear_text = true` if nobody else reaches the network between";
        reader.note(mistake.help(help));
    }
    if !is_tls && section.is_given("ca") {
        let mistake = Mistake::at(section.key_span("ca"), "`ca` is for TLS, and `url` has none");
        reader.note(mistake.related(section.value_span("url"), "without TLS").help("write `rediss://`"));
    }
}

fn is_here(place: &RedisPlace) -> bool {
    match place {
        RedisPlace::Network { host, .. } => match host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => web::is_loopback(&url::Host::Domain(host)),
        },
        RedisPlace::Socket(_) => true,
    }
}

fn parse(text: &str) -> Result<(RedisPlace, u32), UrlError> {
    let no_url = || UrlError::NoUrl(web::without_user(text));
    if let Some(path) = text.strip_prefix("unix:") {
        let is_path = path.starts_with('/') && !path.starts_with("//") && path.len() > 1;
        return if is_path { Ok((RedisPlace::Socket(path.into()), 0)) } else { Err(no_url()) };
    }
    let url = Url::parse(text).map_err(|_| no_url())?;
    let is_bare = url.username().is_empty() && url.password().is_none();
    if !is_bare || url.query().is_some() || url.fragment().is_some() {
        return Err(UrlError::Superfluous(web::without_user(text)));
    }
    let is_tls = match url.scheme() {
        "redis" => false,
        "rediss" => true,
        _ => return Err(no_url()),
    };
    let host = url.host_str().ok_or_else(no_url)?;
    let host = web::server_name(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host))?;
    let database = match url.path() {
        "" | "/" => 0,
        path => path.strip_prefix('/').and_then(|number| number.parse().ok()).ok_or_else(no_url)?,
    };
    Ok((RedisPlace::Network { host, port: url.port().unwrap_or(6379), is_tls }, database))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_which_database() {
        let network = |host: &str, port, is_tls| RedisPlace::Network { host: host.to_owned(), port, is_tls };
        let cases = [
            ("redis://127.0.0.1", network("127.0.0.1", 6379, false), 0),
            ("rediss://redis.example.com:6380/3", network("redis.example.com", 6380, true), 3),
            ("redis://[::1]:1/", network("::1", 1, false), 0),
            ("unix:/run/redis/redis 1.sock", RedisPlace::Socket("/run/redis/redis 1.sock".into()), 0),
        ];
        for (text, place, database) in cases {
            assert_eq!(parse(text).ok(), Some((place.clone(), database)), "{text}");
            assert_eq!(parse(&place.to_string()).unwrap().0, place);
        }
        for text in [
            "redis://",
            "http://a",
            "a:6379",
            "redis://a/b",
            "redis://a/-1",
            "unix:a",
            "unix:///a",
            "unix:/",
            "redis:a",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        for text in ["redis://:hunter2@a", "rediss://u:hunter2@a/0", "redis://a?password=hunter2", "x://u:hunter2@a"] {
            let error = parse(text).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }
}
