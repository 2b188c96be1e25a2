//! Everything Postern knows and asks of one issuer: its keys, where its endpoints are, whether a token is active.
//!
//! [`Issuer::run`] fetches on the control plane. Workers read the keys without a lock ([`Issuer::keys`],
//! [`Issuer::key_for`]); only a token with an unknown `kid` waits, for one early fetch.

mod bucket;
mod counters;
mod discovery;
mod fetch;
mod grant;
mod introspect;
mod jwk;
mod key_set;
pub mod keycloak;
mod refresh;
mod token_endpoint;
mod unknown_kids;
mod verifying_key;

pub use counters::Counters;
pub use discovery::{DiscoveryError, Endpoints};
pub use fetch::FetchError;
pub use grant::GrantError;
pub use introspect::{IntrospectError, Introspected};
pub use jwk::{JwkError, Jwks, JwksError, MAX_ENTRIES, parse_jwks};
pub use key_set::{Found, KeySet};
pub use refresh::KeyLookup;
pub use token_endpoint::TokenEndpointError;
pub use verifying_key::VerifyingKey;

use crate::base::clock::{Clock, Now};
use crate::base::http_client::{HttpClient, HttpError};
use crate::base::tls::{self, TlsError};
use crate::config;
use arc_swap::ArcSwapOption;
use discovery::Discovery;
use introspect::Introspection;
use refresh::Refresh;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// One issuer.
pub struct Issuer {
    config: Arc<config::Issuer>,
    clock: Clock,
    keys: KeySet,
    refresh: Refresh,
    counters: Counters,
    /// What its discovery document said last.
    endpoints: ArcSwapOption<Endpoints>,
    /// How it is asked; `None` for one whose keys were handed over.
    remote: Option<Remote>,
    credentials_refused: AtomicBool,
}

/// How an issuer is asked.
struct Remote {
    http: HttpClient,
    discovery: Discovery,
    introspection: Option<Introspection>,
}

/// Why an issuer cannot be asked at all.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// Its `ca` cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The HTTP client cannot be built.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Its `url`, or one of `endpoint_origins`, is none.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
}

impl Issuer {
    /// An issuer without keys yet; [`Self::run`] gets them.
    ///
    /// # Errors
    /// A `ca` that cannot be used, a `url` or an origin that is none.
    pub fn new(config: Arc<config::Issuer>, clock: Clock) -> Result<Self, IssuerError> {
        let tls = tls::client_config(config.ca.as_deref(), None, &[b"http/1.1"])?;
        let remote = Remote {
            http: HttpClient::new(&tls, config.keys.timeout)?,
            discovery: Discovery::new(&config)?,
            introspection: Introspection::new(&config.user_status),
        };
        let max_stale = config.keys.max_stale;
        Ok(Self::with(config, clock, KeySet::new(max_stale), Some(remote)))
    }

    /// An issuer whose keys are those of a JWK Set at hand, for ever; it is never asked.
    ///
    /// # Errors
    /// A text that is no set with a usable key.
    pub fn offline(config: Arc<config::Issuer>, clock: Clock, jwks: &str) -> Result<Self, JwksError> {
        let issuer = Self::without_keys(config, clock);
        issuer.replace_keys(jwks.as_bytes())?;
        Ok(issuer)
    }

    /// An issuer that is never asked, and has no keys until [`Issuer::replace_keys`].
    pub fn without_keys(config: Arc<config::Issuer>, clock: Clock) -> Self {
        Self::with(config, clock, KeySet::new(Duration::MAX), None)
    }

    fn with(config: Arc<config::Issuer>, clock: Clock, keys: KeySet, remote: Option<Remote>) -> Self {
        Self {
            config,
            clock,
            keys,
            refresh: Refresh::new(),
            counters: Counters::default(),
            endpoints: ArcSwapOption::empty(),
            remote,
            credentials_refused: AtomicBool::new(false),
        }
    }

    /// Puts the keys of another JWK Set in force; keys that it lacks are retired.
    ///
    /// # Errors
    /// A text that is no set with a usable key; the old keys stay.
    pub fn replace_keys(&self, jwks: &[u8]) -> Result<(), JwksError> {
        self.keys.replace(parse_jwks(jwks)?, self.clock.now());
        Ok(())
    }

    /// Starts with the keys and endpoints of the same issuer under a former configuration, so that a reload
    /// leaves no gap. Does nothing where the two are not asked in the same way: then the keys must be fetched.
    pub fn adopt(&self, former: &Self) {
        let way = |config: &'_ config::Issuer| {
            let config::Issuer { kind, url, address, ca, endpoint_origins, .. } = config.clone();
            let introspects = config.user_status.introspection().is_some();
            (kind, url, address, ca, endpoint_origins, introspects)
        };
        if way(&self.config) == way(&former.config) && self.remote.is_some() && former.remote.is_some() {
            self.endpoints.store(former.endpoints.load_full());
            self.keys.adopt(&former.keys);
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &Arc<config::Issuer> {
        &self.config
    }

    /// Its keys.
    pub fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// What was fetched and asked so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What its discovery document said last.
    pub fn endpoints(&self) -> Option<Arc<Endpoints>> {
        self.endpoints.load_full()
    }

    /// Whether there are keys. They may be stale: a gateway whose issuer is long gone still serves its public routes.
    pub fn is_ready(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Whether its keys may be used; where not, the caller answers 503, also for a token verified before.
    pub fn is_fresh(&self, now: Now) -> bool {
        self.keys.is_fresh(now)
    }
}

#[cfg(test)]
mod tests;
