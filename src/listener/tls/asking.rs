//! Which clients are asked for a certificate: those of hosts that have a route which wants one.
//!
//! A browser that is asked puts a question to its user. The host that a client asks for by TLS (SNI) is all that is known of its
//! requests then.

use crate::config::{ClientCertificate, Route};
use std::collections::HashMap;
use std::sync::Arc;

/// Whether a client is asked for a certificate; of two answers the greater holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    Nothing = 0,
    /// One of the configured authorities.
    Ours = 1,
    /// Any: a token may be bound to one that no authority signed.
    Any = 2,
}

/// What routes want, by the host that a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asking {
    /// Of routes for any host.
    everywhere: Ask,
    /// Of hosts as routes name them, `*.` included.
    hosts: HashMap<String, Ask>,
}

impl Asking {
    pub(super) fn new(routes: &[Arc<Route>]) -> Self {
        let mut asking = Self { everywhere: Ask::Nothing, hosts: HashMap::new() };
        for route in routes {
            let ask = match &route.client_certificate {
                None => continue,
                Some(ClientCertificate::Required(_)) => Ask::Ours,
                Some(ClientCertificate::Asked) => Ask::Any,
            };
            if route.hosts.is_empty() {
                asking.everywhere = asking.everywhere.max(ask);
            }
            for host in &route.hosts {
                let known = asking.hosts.entry(host.clone()).or_insert(ask);
                *known = ask.max(*known);
            }
        }
        asking
    }

    /// Whether anybody is ever asked.
    pub(super) fn is_any(&self) -> bool {
        self.everywhere != Ask::Nothing || !self.hosts.is_empty()
    }

    /// What to ask a client for that asks for this host, in lower case. One that names none may want any.
    pub(super) fn of(&self, host: Option<&str>) -> Ask {
        let named = match host {
            None => self.hosts.values().copied().max(),
            Some(host) => {
                let wildcard = host.split_once('.').and_then(|(_, rest)| self.hosts.get(&format!("*.{rest}")));
                self.hosts.get(host).max(wildcard).copied()
            }
        };
        named.map_or(self.everywhere, |ask| ask.max(self.everywhere))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(everywhere: Ask, hosts: &[(&str, Ask)]) -> Asking {
        Asking { everywhere, hosts: hosts.iter().map(|(host, ask)| ((*host).to_owned(), *ask)).collect() }
    }

    #[test]
    fn a_client_is_asked_for_what_some_route_of_its_host_wants() {
        let hosts = [("a.example", Ask::Ours), ("*.example", Ask::Any), ("b.test", Ask::Ours)];
        let asking = made(Ask::Nothing, &hosts);
        for (host, ask) in [
            (Some("b.test"), Ask::Ours),
            (Some("a.example"), Ask::Any),
            (Some("b.example"), Ask::Any),
            (Some("a.b.example"), Ask::Nothing),
            (Some("example"), Ask::Nothing),
            (Some("localhost"), Ask::Nothing),
            (None, Ask::Any),
        ] {
            assert_eq!(asking.of(host), ask, "{host:?}");
        }
    }

    #[test]
    fn a_route_for_any_host_has_everybody_asked() {
        let asking = made(Ask::Ours, &[("a.example", Ask::Any)]);
        assert_eq!(
            [asking.of(Some("x")), asking.of(Some("a.example")), asking.of(None)],
            [Ask::Ours, Ask::Any, Ask::Any]
        );
        assert!(asking.is_any() && !made(Ask::Nothing, &[]).is_any());
    }
}
