//! From a bearer token to verified facts.

use super::cache::{LocalCache, SharedByHash, TokenCache};
use super::claims::{ClaimError, Facts};
use super::link::Links;
use super::news::Bulletin;
use super::opaque::Strangers;
use super::source::Source;
use super::status::{Status, UserRecord};
use super::succession::Former;
use super::{Identity, jws, own};
use crate::base::clock::{Clock, Now};
use crate::base::json::{self, Json};
use crate::base::tls::Thumbprint;
use crate::config::ClaimPath;
use crate::issuer::{Issuer, JwksError, KeyLookup, VerifyingKey};
use crate::token_service::TokenService;
use crate::users::Users;
use arc_swap::ArcSwapOption;
use std::fmt;
use std::hash::RandomState;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

/// Verifies tokens of all configured issuers, and remembers them.
#[derive(Debug)]
pub struct Verifier {
    pub(super) sources: Vec<Arc<Source>>,
    /// Postern itself.
    pub(super) own: Arc<Source>,
    pub(super) asked: Vec<ClaimPath>,
    pub(super) clock: Clock,
    /// Where calls to issuers run.
    pub(super) control: Handle,
    cache: TokenCache,
    /// Identities in use, so that all tokens of a user share one, and with it its credentials.
    pub(super) identities: SharedByHash<Weak<Identity>>,
    pub(super) users: Arc<Users>,
    pub(super) bulletin: Arc<Bulletin>,
    pub(super) records: SharedByHash<Arc<UserRecord>>,
    pub(super) strangers: Arc<Strangers>,
    pub(super) hasher: RandomState,
    pub(super) counts: super::status::Counts,
    /// Answers by which a token ended.
    pub(super) refusals: AtomicU64,
    /// When it was made, in milliseconds of the monotonic clock.
    pub(super) began_ms: u64,
    pub(super) former: Former,
    pub(super) assumed: Option<super::status::Assumed>,
}

/// What a verifier shares with those before and after it.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What is known against users.
    pub users: Arc<Users>,
    /// The ways to those who watch issuers.
    pub links: Arc<Links>,
    /// The time.
    pub clock: Clock,
    /// The runtime that calls to issuers run on, so that a request that gives up cancels none.
    pub control: Handle,
}

/// A token whose signature, issuer, audience and type were found good. Time, key and user are checked on every use.
pub struct VerifiedToken {
    pub(super) bytes: Zeroizing<Box<[u8]>>,
    pub(super) source: Arc<Source>,
    /// What signed it; nothing did where only the issuer's word counts.
    pub(super) key: Option<Arc<VerifyingKey>>,
    pub(super) facts: Facts,
    /// Who the token itself says the caller is; a lightweight token does not say.
    pub(super) stated: ArcSwapOption<Identity>,
    pub(super) status: Status,
}

/// Why a token is refused, or cannot be judged. The log gets this; the client gets only its class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No token at all.
    #[error(transparent)]
    Malformed(#[from] jws::Malformed),
    /// The payload is not a sound JSON object.
    #[error("the token's payload is not a sound JSON object")]
    Payload,
    /// `iss` names no issuer that is configured.
    #[error("`iss` names no configured issuer")]
    Issuer,
    /// The issuer's configuration does not allow this algorithm.
    #[error("issuer `{issuer}` does not allow {algorithm}")]
    Algorithm {
        /// The issuer's name.
        issuer: String,
        /// The token's `alg`.
        algorithm: &'static str,
    },
    /// No key of the issuer has this `kid` and fits the algorithm.
    #[error("issuer `{issuer}` publishes no such key")]
    Key {
        /// The issuer's name.
        issuer: String,
    },
    /// The signature does not fit.
    #[error("the signature does not verify")]
    Signature,
    /// A claim is missing, wrong, or not for us.
    #[error(transparent)]
    Claims(#[from] ClaimError),
    /// `exp` has passed.
    #[error("the token expired")]
    Expired,
    /// `nbf` or `iat` lies in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Older than the issuer's `max_token_age`.
    #[error("the token is older than `max_token_age`")]
    TooOld,
    /// The issuer no longer publishes the key that signed it.
    #[error("the key that signed the token was withdrawn")]
    KeyWithdrawn,
    /// The issuer does not know the token, or says that it is no longer good.
    #[error("the issuer says that the token is not active")]
    NotActive,
    /// Only the issuer can say what the token is, and it did not in time.
    #[error("the issuer did not say what the token is")]
    Unknown,
    /// The issuer's keys are not known, or too old.
    #[error("the keys of issuer `{issuer}` are not available")]
    KeysUnavailable {
        /// The issuer's name.
        issuer: String,
    },
}

impl Verifier {
    /// A verifier for `issuers`, and for the tokens of `own`, which reads the claims that routes ask about and keeps at most `capacity` tokens.
    /// [`Verifier::tasks`] are to be run for it.
    ///
    /// # Errors
    /// The keys that `own` publishes cannot be read back.
    pub fn new(
        issuers: Vec<Arc<Issuer>>,
        asked: Vec<ClaimPath>,
        own: &TokenService,
        shared: Shared,
        capacity: usize,
    ) -> Result<Self, JwksError> {
        let Shared { users, links, clock, control } = shared;
        Ok(Self {
            own: Arc::new(own::source(own, clock.clone(), &links)?),
            sources: issuers.into_iter().map(|issuer| Arc::new(Source::new(issuer, &links))).collect(),
            asked,
            began_ms: clock.now().monotonic_ms,
            former: Former::default(),
            clock,
            control,
            cache: TokenCache::new(capacity),
            identities: SharedByHash::default(),
            users,
            bulletin: Arc::clone(links.bulletin()),
            records: SharedByHash::default(),
            strangers: Arc::default(),
            hasher: RandomState::new(),
            counts: super::status::Counts::default(),
            refusals: AtomicU64::new(0),
            assumed: None,
        })
    }

    /// The verified tokens.
    pub fn cache(&self) -> &TokenCache {
        &self.cache
    }

    /// The issuers, in the order of the configuration.
    pub fn issuers(&self) -> impl Iterator<Item = &Arc<Issuer>> {
        self.sources.iter().map(|source| &source.issuer)
    }

    /// Whether this verifier has verified it, and none before it.
    pub(super) fn has_made(&self, token: &VerifiedToken) -> bool {
        self.sources.iter().chain([&self.own]).any(|source| Arc::ptr_eq(source, &token.source))
    }

    /// Finds the token among the verified ones, or verifies it. Then holds it against this moment.
    ///
    /// Waits only for an early fetch of keys, where the token names one that is not known. A token that is bound to a certificate
    /// is refused.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn verify(&self, local: &LocalCache, token: &[u8], now: Now) -> Result<Arc<VerifiedToken>, TokenError> {
        self.verify_shown(local, token, None, now).await
    }

    /// The same for a caller who may have shown a certificate, to which the token may be bound.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn verify_shown(
        &self,
        local: &LocalCache,
        token: &[u8],
        shown: Option<&Thumbprint>,
        now: Now,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        let hash = self.cache.hash(token);
        let known = local.get(hash, token);
        let verified = match known {
            Some(known) => known,
            // An opaque token is known by another hash.
            None if !jws::has_form(token) => return Err(jws::Malformed::Parts.into()),
            None => {
                let verified = match self.cache.get(hash, token) {
                    Some(known) => known,
                    None => {
                        let verified = self.cache.insert(hash, Arc::new(self.first_sight(local, token).await?));
                        self.take_over(&verified, now);
                        verified
                    }
                };
                local.insert(hash, Arc::clone(&verified));
                verified
            }
        };
        verified.check(now)?;
        verified.check_binding(shown)?;
        Ok(verified)
    }

    /// Whether the token is among the verified ones.
    pub fn is_known(&self, local: &LocalCache, token: &[u8]) -> bool {
        let hash = if jws::has_form(token) { self.cache.hash(token) } else { self.opaque_hash(token) };
        local.get(hash, token).is_some() || self.cache.get(hash, token).is_some()
    }

    async fn first_sight(&self, local: &LocalCache, token: &[u8]) -> Result<VerifiedToken, TokenError> {
        let jws = local.last_header.borrow_mut().parse(token)?;
        let claims = json::parse_object(&jws.payload).ok_or(TokenError::Payload)?;
        let url = claims.get("iss").and_then(Json::as_str).ok_or(TokenError::Issuer)?;
        let is_own = self.own.issuer.config().url == url;
        let source = if is_own { &self.own } else { self.source(url).ok_or(TokenError::Issuer)? };
        let issuer = &source.issuer;
        let name = || issuer.config().name.clone();
        if !issuer.config().algorithms.contains(&jws.algorithm) {
            return Err(TokenError::Algorithm { issuer: name(), algorithm: jws.algorithm.name() });
        }
        let key = match issuer.key_for(jws.kid.as_deref(), jws.algorithm).await {
            KeyLookup::Key(key) => key,
            KeyLookup::Unknown => return Err(TokenError::Key { issuer: name() }),
            KeyLookup::Unavailable => return Err(TokenError::KeysUnavailable { issuer: name() }),
        };
        if !key.verify(jws.algorithm, jws.message, &jws.signature) {
            return Err(TokenError::Signature);
        }
        let facts = Facts::read(&claims, issuer.config())?;
        let stated = if is_own { Some(self.own_identity(&claims)?) } else { self.identity(&claims, issuer) };
        let user = stated.as_ref().map(|stated| self.user(&stated.issuer.name, &stated.subject));
        Ok(VerifiedToken {
            bytes: Zeroizing::new(token.into()),
            source: Arc::clone(source),
            key: Some(key),
            stated: ArcSwapOption::from(stated),
            facts,
            status: user.map(Status::of).unwrap_or_default(),
        })
    }

    /// The configured issuer with this `url`.
    pub(super) fn source(&self, url: &str) -> Option<&Arc<Source>> {
        self.sources.iter().find(|source| source.issuer.config().url == url)
    }

    /// Forgets what nobody uses any more. Called now and then by the control plane.
    pub fn sweep(&self) {
        let now = self.clock.now();
        self.cache.sweep(now);
        for mut shard in self.identities.shards() {
            shard.retain(|_, identity| identity.strong_count() > 0);
        }
        self.sweep_users(now);
        self.strangers.sweep(now);
        self.sweep_former(now);
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        // Tokens in use know their issuer, which knows them.
        for asking in self.sources.iter().filter_map(|source| source.status.as_ref()) {
            asking.calls().clear();
        }
    }
}

impl VerifiedToken {
    /// Holds the token against this moment; every use of a token comes through here.
    ///
    /// # Errors
    /// Of [`TokenError`], those about time and keys.
    pub fn check(&self, now: Now) -> Result<(), TokenError> {
        let config = self.source.issuer.config();
        let leeway = i64::try_from(config.leeway.as_secs()).unwrap_or(0);
        let seconds = now.unix_seconds();
        if seconds >= self.facts.expires.saturating_add(leeway) {
            return Err(TokenError::Expired);
        }
        let is_future = |date: Option<i64>| date.is_some_and(|date| date > seconds.saturating_add(leeway));
        if is_future(self.facts.not_before) || is_future(self.facts.issued) {
            return Err(TokenError::NotYetValid);
        }
        if let Some(max_age) = config.max_token_age {
            let max_age = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
            // A token that does not say when it was issued cannot show that it is young.
            let is_young = |issued: i64| seconds.saturating_sub(issued) <= max_age.saturating_add(leeway);
            if !self.facts.issued.is_some_and(is_young) {
                return Err(TokenError::TooOld);
            }
        }
        if self.is_key_retired() {
            return Err(TokenError::KeyWithdrawn);
        }
        if self.key.is_some() && !self.source.issuer.is_fresh(now) {
            return Err(TokenError::KeysUnavailable { issuer: config.name.clone() });
        }
        Ok(())
    }

    /// Holds what the token is bound to against what its bearer showed (RFC 8705 §3).
    pub(super) fn check_binding(&self, shown: Option<&Thumbprint>) -> Result<(), TokenError> {
        let Some(bound) = &self.facts.bound else { return Ok(()) };
        if shown == Some(&**bound) { Ok(()) } else { Err(ClaimError::Bound.into()) }
    }

    pub(super) fn is_key_retired(&self) -> bool {
        self.key.as_ref().is_some_and(|key| key.is_retired())
    }

    /// Whether this is the same token, byte for byte.
    pub(super) fn is(&self, token: &[u8]) -> bool {
        **self.bytes == *token
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The issuer that signed it.
    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.source.issuer
    }

    /// `sub`, where the token itself says it, so that an answer need not.
    pub(super) fn stated_subject(&self) -> Option<&str> {
        self.subject().filter(|_| self.key.is_some())
    }

    /// `iat`, in seconds since 1970, where the token says it.
    pub fn issued(&self) -> Option<i64> {
        self.facts.issued
    }

    /// `sub`, where the token says it.
    pub fn subject(&self) -> Option<&str> {
        self.facts.subject.as_deref()
    }
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedToken").field("facts", &self.facts).finish_non_exhaustive()
    }
}
