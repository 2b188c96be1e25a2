//! From a bearer token to verified facts.

use super::cache::{LocalCache, Sharded, TokenCache};
use super::claims::{ClaimError, Facts};
use super::status::{Standing, UserRecord};
use super::{Identity, json, jws, own};
use crate::base::clock::{Clock, Now};
use crate::config::ClaimPath;
use crate::issuer::{Issuer, JwksError, KeyLookup, VerifyingKey};
use crate::token_service::TokenService;
use arc_swap::ArcSwapOption;
use serde_json::{Map, Value};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use zeroize::Zeroizing;

/// Verifies tokens of all configured issuers, and remembers them.
#[derive(Debug)]
pub struct Verifier {
    sources: Vec<Arc<Source>>,
    /// Postern itself.
    pub(super) own: Arc<Source>,
    asked: Vec<ClaimPath>,
    pub(super) clock: Clock,
    /// Where calls to issuers run.
    pub(super) control: Handle,
    cache: TokenCache,
    /// Identities in use, so that all tokens of a user share one, and with it its credentials.
    identities: Sharded<u64, Weak<Identity>>,
    pub(super) users: Sharded<(String, String), Arc<UserRecord>>,
    pub(super) hasher: RandomState,
    pub(super) counts: super::status::Counts,
    pub(super) assumed: Option<super::status::Assumed>,
}

/// An issuer, and how asking it about users goes.
pub struct Source {
    /// The issuer.
    pub issuer: Arc<Issuer>,
    /// When a question last failed, in milliseconds of the monotonic clock; 0 once one was answered.
    pub(super) failed_ms: AtomicU64,
}

/// A token whose signature, issuer, audience and type were found good. Time, key and user are checked on every use.
pub struct VerifiedToken {
    bytes: Zeroizing<Box<[u8]>>,
    pub(super) source: Arc<Source>,
    key: Arc<VerifyingKey>,
    pub(super) facts: Facts,
    /// Who the token itself says the caller is; a lightweight token does not say.
    pub(super) stated: Option<Arc<Identity>>,
    /// The last answer about its user.
    pub(super) standing: ArcSwapOption<Standing>,
    pub(super) is_asking: AtomicBool,
    pub(super) answered: Notify,
    pub(super) user: OnceLock<Arc<UserRecord>>,
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
    /// The issuer's keys are not known, or too old.
    #[error("the keys of issuer `{issuer}` are not available")]
    KeysUnavailable {
        /// The issuer's name.
        issuer: String,
    },
}

impl Verifier {
    /// A verifier for `issuers`, and for the tokens of `own`, which reads the claims that routes ask about and keeps at most `capacity` tokens.
    ///
    /// `control` is the runtime that calls to issuers run on, so that a request that gives up cancels none.
    ///
    /// # Errors
    /// The keys that `own` publishes cannot be read back.
    pub fn new(
        issuers: Vec<Arc<Issuer>>,
        asked: Vec<ClaimPath>,
        own: &TokenService,
        clock: Clock,
        control: Handle,
        capacity: usize,
    ) -> Result<Self, JwksError> {
        Ok(Self {
            own: Arc::new(own::source(own, clock.clone())?),
            sources: issuers.into_iter().map(|issuer| Arc::new(Source::new(issuer))).collect(),
            asked,
            clock,
            control,
            cache: TokenCache::new(capacity),
            identities: Sharded::default(),
            users: Sharded::default(),
            hasher: RandomState::new(),
            counts: super::status::Counts::default(),
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

    /// Finds the token among the verified ones, or verifies it. Then holds it against this moment.
    ///
    /// Waits only for an early fetch of keys, where the token names one that is not known.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn verify(&self, local: &LocalCache, token: &[u8], now: Now) -> Result<Arc<VerifiedToken>, TokenError> {
        let hash = self.cache.hash(token);
        let known = local.get(hash, token);
        let verified = match known {
            Some(known) => known,
            None => {
                let verified = match self.cache.get(hash, token) {
                    Some(known) => known,
                    None => self.cache.insert(hash, Arc::new(self.first_sight(token).await?), now),
                };
                local.insert(hash, Arc::clone(&verified));
                verified
            }
        };
        verified.check(now)?;
        Ok(verified)
    }

    /// Whether the token is among the verified ones.
    pub fn is_known(&self, local: &LocalCache, token: &[u8]) -> bool {
        let hash = self.cache.hash(token);
        local.get(hash, token).is_some() || self.cache.get(hash, token).is_some()
    }

    async fn first_sight(&self, token: &[u8]) -> Result<VerifiedToken, TokenError> {
        let jws = jws::parse(token)?;
        let claims = json::parse_object(&jws.payload).ok_or(TokenError::Payload)?;
        let url = claims.get("iss").and_then(Value::as_str).ok_or(TokenError::Issuer)?;
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
        let (stated, whose) = if is_own {
            let (identity, original) = self.own_identity(&claims)?;
            (Some(Arc::new(identity)), original)
        } else {
            (self.identity(&claims, issuer), Arc::clone(source))
        };
        let user = OnceLock::new();
        if let Some(subject) = &facts.subject {
            let _ = user.set(self.user(&whose.issuer, subject));
        }
        Ok(VerifiedToken {
            bytes: Zeroizing::new(token.into()),
            source: Arc::clone(source),
            key,
            stated,
            facts,
            standing: ArcSwapOption::empty(),
            is_asking: AtomicBool::new(false),
            answered: Notify::new(),
            user,
        })
    }

    /// The configured issuer with this `url`.
    pub(super) fn source(&self, url: &str) -> Option<&Arc<Source>> {
        self.sources.iter().find(|source| source.issuer.config().url == url)
    }

    /// The one identity in use that says what `claims` say, or a new one.
    pub(super) fn identity(&self, claims: &Map<String, Value>, issuer: &Issuer) -> Option<Arc<Identity>> {
        let identity = Identity::read(claims, issuer.config(), &self.asked)?;
        let hash = self.hasher.hash_one((&identity.issuer.name, &identity.subject, &identity.authorized_party));
        let mut shard = self.identities.shard(hash);
        if let Some(known) = shard.get(&hash).and_then(Weak::upgrade)
            && known.says_the_same(&identity)
        {
            return Some(known);
        }
        let identity = Arc::new(identity);
        shard.insert(hash, Arc::downgrade(&identity));
        Some(identity)
    }

    /// Forgets what nobody uses any more. Called now and then by the control plane.
    pub fn sweep(&self) {
        let now = self.clock.now();
        self.cache.sweep(now);
        for mut shard in self.identities.shards() {
            shard.retain(|_, identity| identity.strong_count() > 0);
        }
        self.sweep_users(now);
    }
}

impl Source {
    pub(super) fn new(issuer: Arc<Issuer>) -> Self {
        Self { issuer, failed_ms: AtomicU64::new(0) }
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
        if self.key.is_retired() {
            return Err(TokenError::KeyWithdrawn);
        }
        if !self.source.issuer.is_fresh(now) {
            return Err(TokenError::KeysUnavailable { issuer: config.name.clone() });
        }
        Ok(())
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

    /// `sub`, where the token says it.
    pub fn subject(&self) -> Option<&str> {
        self.facts.subject.as_deref()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("issuer", &self.issuer.config().name).finish_non_exhaustive()
    }
}

impl fmt::Debug for VerifiedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedToken").field("facts", &self.facts).finish_non_exhaustive()
    }
}
