//! Metrics of the credentials that upstreams are given. No label tells whose they are.

use super::metrics::RouteLabel;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// All of them.
#[derive(Debug, Default)]
pub struct Credentials {
    calls: Family<CallLabels, Counter>,
    purges: Family<RouteLabel, Counter>,
    retries: Family<RouteLabel, Counter>,
}

/// How calls of one client for credentials ended: `postern_credential_calls_total`.
#[derive(Debug)]
pub struct CredentialCalls {
    /// A credential came.
    pub ok: Counter,
    /// The server said no.
    pub refused: Counter,
    /// It made one that is less than what was asked for.
    pub insufficient: Counter,
    /// No usable answer.
    pub failed: Counter,
}

/// What became of the credentials of one route.
#[derive(Debug)]
pub struct RouteCredentials {
    /// `postern_credential_purges_total`: those that the upstream did not take and that were forgotten.
    pub purges: Counter,
    /// `postern_credential_retries_total`: requests that were sent again with a fresh one.
    pub retries: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    credential: &'static str,
    client: String,
    outcome: &'static str,
}

impl Credentials {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Calls for credentials that somebody else makes, by client and outcome";
        registry.register("credential_calls", help, self.calls.clone());
        let help = "Credentials that an upstream did not take and that were forgotten";
        registry.register("credential_purges", help, self.purges.clone());
        let help = "Requests that were sent again with a fresh credential";
        registry.register("credential_retries", help, self.retries.clone());
    }

    /// The handles of one client that gets credentials.
    pub fn calls(&self, credential: &'static str, client: &str) -> CredentialCalls {
        let [ok, refused, insufficient, failed] = ["ok", "refused", "insufficient", "failed"].map(|outcome| {
            let labels = CallLabels { credential, client: client.to_owned(), outcome };
            self.calls.get_or_create(&labels).clone()
        });
        CredentialCalls { ok, refused, insufficient, failed }
    }

    pub(super) fn of_route(&self, name: &str) -> RouteCredentials {
        let label = RouteLabel { route: name.to_owned() };
        RouteCredentials {
            purges: self.purges.get_or_create(&label).clone(),
            retries: self.retries.get_or_create(&label).clone(),
        }
    }
}
