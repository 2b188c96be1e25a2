//! `to`: where the requests of an upstream go.

use super::Upstream;
use crate::config::diagnostic::{Mistake, Span};
use crate::config::follow::{self, ToError};
use crate::config::reader::Reader;
use crate::config::tree::Section;
use std::path::PathBuf;
use url::{Host, Url};

/// One member of `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    Host {
        /// The host name or address (IPv6 without brackets). One that follows the user holds `{namespace}`.
        host: String,
        /// The port, 80 or 443 where absent.
        port: u16,
    },
    /// `unix:PATH`: a socket in the file system, in clear text.
    Unix(PathBuf),
}

/// How long the path of a socket may be (`sun_path` of unix(7), without the final NUL).
const LONGEST_SOCKET: usize = 107;

/// A member of `to` as it stands in the file.
struct Given {
    target: Target,
    is_tls: bool,
    span: Span,
    shown: String,
}

impl Target {
    /// Whether it holds `{namespace}`.
    pub(super) fn follows_user(&self) -> bool {
        matches!(self, Self::Host { host, .. } if host.contains('{'))
    }

    /// That of one namespace.
    pub(super) fn of_namespace(&self, namespace: &str) -> Self {
        match self {
            Self::Host { host, port } => Self::Host { host: host.replace(follow::NAMESPACE, namespace), port: *port },
            Self::Unix(_) => self.clone(),
        }
    }
}

/// All members, and whether they are spoken to over TLS. None if there is a mistake in them.
pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Option<(Vec<Target>, bool)> {
    let texts: Vec<_> = section.texts("to").map(|text| (text.value.to_owned(), text.span)).collect();
    let all = section.list("to").len();
    let given: Vec<_> =
        texts.into_iter().filter_map(|(text, span)| Some(reader.keep(&span, one(&text))?.at(span))).collect();
    let is_tls = given.first().is_some_and(|first| first.is_tls);
    let mut is_good = given.len() == all && all > 0;
    if let (Some(first), Some(other)) = (given.first(), given.iter().find(|other| other.is_tls != is_tls)) {
        is_good = false;
        let message = "`to` has members over TLS and others in clear text".to_owned();
        reader.note(Mistake::at(other.span.clone(), message).related(first.span.clone(), "the first is another kind"));
    }
    if let Some(following) = given.iter().find(|given| given.target.follows_user())
        && given.len() > 1
    {
        is_good = false;
        let message = "an upstream that follows the user has one `to`".to_owned();
        reader.note(Mistake::at(following.span.clone(), message));
    }
    if section.is_given("tls")
        && let Some(clear) = given.iter().find(|given| !given.is_tls)
    {
        let message = format!("`tls` is for `https://` upstreams, and `{}` is none", clear.shown);
        reader.note(Mistake::at(section.key_span("tls"), message).related(clear.span.clone(), "in clear text"));
    }
    is_good.then(|| (given.into_iter().map(|given| given.target).collect(), is_tls))
}

impl Upstream {
    /// Whether its host follows the user: there is one for each namespace.
    pub fn follows_user(&self) -> bool {
        self.targets.iter().any(Target::follows_user)
    }
}

/// A member without its place.
struct One(Target, bool, String);

impl One {
    fn at(self, span: Span) -> Given {
        Given { target: self.0, is_tls: self.1, span, shown: self.2 }
    }
}

fn one(text: &str) -> Result<One, ToError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.starts_with('/') && path.len() <= LONGEST_SOCKET && !path.contains('\0') {
            true => Ok(One(Target::Unix(path.into()), false, text.to_owned())),
            false => Err(ToError::Socket(text.to_owned())),
        };
    }
    let (to, followed) = follow::origin(text)?;
    let shown = followed.as_deref().map(|host| format!("{}://{host}", to.scheme()));
    let shown = shown.unwrap_or_else(|| to.origin().ascii_serialization());
    let is_tls = to.scheme() == "https";
    // An origin has both.
    let (host, port) = (followed.or_else(|| host_of(&to)), to.port_or_known_default());
    let target = host.zip(port).map(|(host, port)| Target::Host { host, port });
    Ok(One(target.ok_or_else(|| ToError::Variable(text.to_owned()))?, is_tls, shown))
}

fn host_of(to: &Url) -> Option<String> {
    Some(match to.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    })
}
