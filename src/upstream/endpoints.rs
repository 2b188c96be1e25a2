//! The endpoints of an upstream: those of its file, and the addresses of its names, which change while it runs.

use crate::config::{self, OutlierDetection, Target};
use crate::upstream::UpstreamError;
use crate::upstream::endpoint::{Address, Endpoint, Health, State};
use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::pki_types::ServerName;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Those in use, and what says that they are others now.
#[derive(Debug)]
pub(super) struct Endpoints {
    version: AtomicU64,
    current: ArcSwap<Vec<Arc<Endpoint>>>,
    /// Told when an address of a name takes no connection.
    pub(super) stale: Notify,
    /// Held while one is ejected, so that no two workers eject more together than they may. Nobody waits for it.
    ejecting: Mutex<()>,
}

impl Endpoints {
    pub(super) fn new(config: &config::Upstream) -> Result<Self, UpstreamError> {
        let endpoints: Result<Vec<_>, _> =
            (0..config.targets.len()).map(|target| Ok(Arc::new(of_file(config, target)?))).collect();
        Ok(Self {
            version: AtomicU64::new(0),
            current: ArcSwap::from_pointee(endpoints?),
            stale: Notify::new(),
            ejecting: Mutex::default(),
        })
    }

    /// Changes with the endpoints.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn current(&self) -> Arc<Vec<Arc<Endpoint>>> {
        self.current.load_full()
    }

    fn set(&self, endpoints: Vec<Arc<Endpoint>>) {
        self.current.store(Arc::new(endpoints));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Goes on with what is known about the same endpoints under a configuration before.
    pub(super) fn adopt(&self, config: &config::Upstream, former: &Self, of: &config::Upstream) {
        if config.targets == of.targets && config.is_tls == of.is_tls && config.tls.server_name == of.tls.server_name {
            self.set(former.current().to_vec());
        }
    }

    /// Takes the addresses of a name. One that has a single address, or one of each family, stays a name, which is looked up for
    /// each connection; of several, those of the family that has more are endpoints of their own. True if that changes anything.
    pub(super) fn resolved(
        &self,
        config: &config::Upstream,
        target: usize,
        addresses: &[SocketAddr],
    ) -> Result<bool, UpstreamError> {
        let current = self.current();
        let addresses = of_one_family(addresses);
        let is_first = current.iter().any(|old| old.target == target && matches!(old.address, Address::Name { .. }));
        let wanted: Vec<_> = match addresses.len() {
            0 | 1 => vec![of_file(config, target)?.address],
            _ => addresses.into_iter().map(Address::Socket).collect(),
        };
        let (of_target, mut others): (Vec<_>, Vec<_>) = current.iter().cloned().partition(|old| old.target == target);
        if of_target.len() == wanted.len() && of_target.iter().all(|old| wanted.contains(&old.address)) {
            return Ok(false);
        }
        for address in wanted {
            others.push(match of_target.iter().find(|old| old.address == address) {
                Some(old) => Arc::clone(old),
                None => Arc::new(Endpoint { address, health: Health::new(!is_first), ..of_file(config, target)? }),
            });
        }
        others.sort_by_key(|endpoint| endpoint.target);
        self.set(others);
        Ok(true)
    }

    /// Ejects an endpoint, if so many may be out. Gives for how long.
    pub(super) fn eject(&self, endpoint: &Endpoint, detection: &OutlierDetection) -> Option<Duration> {
        let _one_at_a_time = self.ejecting.try_lock().ok()?;
        let (now, all) = (Instant::now(), self.current());
        let out = all.iter().filter(|other| other.health.state(now) == State::Ejected).count();
        let may = endpoint.health.state(now) != State::Ejected && out < most_ejected(all.len(), detection);
        may.then(|| endpoint.health.eject(detection, now))
    }
}

/// How many of the endpoints may be ejected at once.
pub(super) fn most_ejected(endpoints: usize, detection: &OutlierDetection) -> usize {
    endpoints * usize::from(detection.max_ejection_percent) / 100
}

/// Each address once, of the family that has more of them; the order is always the same.
fn of_one_family(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let (mut v4, mut v6): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| address.is_ipv4());
    for list in [&mut v4, &mut v6] {
        list.sort_unstable();
        list.dedup();
    }
    if v6.len() > v4.len() { v6 } else { v4 }
}

/// A member of `to`, as it stands there.
fn of_file(config: &config::Upstream, target: usize) -> Result<Endpoint, UpstreamError> {
    let (address, authority, name) = match &config.targets[target] {
        Target::Unix(path) => (Address::Unix(path.clone()), "localhost".to_owned(), "localhost"),
        Target::Host { host, port } => {
            let ip: Option<IpAddr> = host.parse().ok();
            let bracketed = match ip {
                Some(IpAddr::V6(_)) => format!("[{host}]"),
                _ => host.clone(),
            };
            let default_port = if config.is_tls { 443 } else { 80 };
            let authority = if *port == default_port { bracketed } else { format!("{bracketed}:{port}") };
            let name = || Address::Name { host: host.clone(), port: *port };
            (ip.map_or_else(name, |ip| Address::Socket(SocketAddr::new(ip, *port))), authority, host.as_str())
        }
    };
    let host = HeaderValue::try_from(authority)
        .map_err(|_| UpstreamError::Host { name: config.name.clone(), host: name.to_owned() })?;
    // A host that follows the user is none yet: nobody connects to it.
    let is_verified = config.is_tls && !config.follows_user();
    let server_name = is_verified.then(|| {
        let server_name = config.tls.server_name.as_deref().unwrap_or(name).to_owned();
        ServerName::try_from(server_name.clone())
            .map_err(|_| UpstreamError::ServerName { name: config.name.clone(), server_name })
    });
    Ok(Endpoint { target, address, host, server_name: server_name.transpose()?, health: Health::new(false) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_are_those_of_one_family_each_once() {
        for (given, expected) in [
            (&["10.0.0.2:80", "10.0.0.1:80", "10.0.0.2:80"][..], &["10.0.0.1:80", "10.0.0.2:80"][..]),
            (&["[::1]:80", "127.0.0.1:80"], &["127.0.0.1:80"]),
            (&["[fd00::1]:80", "10.0.0.1:80", "[fd00::2]:80"], &["[fd00::1]:80", "[fd00::2]:80"]),
            (&[], &[]),
        ] {
            assert_eq!(of_one_family(&addresses(given)), addresses(expected));
        }
    }
}
