//! Tokens that are no JWS: what they are worth, and whose they are, only their issuer can say.
//!
//! Anybody can send any text, so until the issuer knows it a token is a **stranger**: few may wait, each address in turn, under a quarter of the
//! issuer's ceiling, and one that was refused is refused for a while without a question. A token that the issuer knows is remembered as
//! any other.

use super::ask::Answered;
use super::cache::LocalCache;
use super::claims::{self, ClaimError, Facts};
use super::jws::{self, MAX_BYTES, Malformed};
use super::source::{Source, millis};
use super::status::{Standing, Status, Verdict};
use super::verifier::{TokenError, VerifiedToken, Verifier};
use crate::base::clock::Now;
use crate::base::json::Object;
use crate::base::tick::Deadline;
use crate::base::tls::Thumbprint;
use crate::issuer::Introspected;
use arc_swap::ArcSwapOption;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Notify;
use zeroize::Zeroizing;

/// A token of which nothing is known yet.
pub(super) struct Stranger {
    bytes: Zeroizing<Box<[u8]>>,
    /// Of it and the issuer's name.
    hash: u64,
    pub(super) source: Arc<Source>,
    /// Who sent it first.
    pub(super) client: IpAddr,
    /// Where it waits.
    home: Arc<Strangers>,
    /// Until when some request waits for it, in milliseconds of the monotonic clock.
    pub(super) wanted_ms: AtomicU64,
    /// What it turned out to be; `None` within if that was not to be learnt.
    outcome: OnceLock<Option<Result<Arc<VerifiedToken>, TokenError>>>,
    known: Notify,
}

/// The strangers.
#[derive(Debug, Default)]
pub(super) struct Strangers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Those that somebody waits for.
    waiting: HashMap<u64, Arc<Stranger>>,
    /// Those that the issuer did not know, and until when that is believed.
    refused: HashMap<u64, u64>,
}

/// How long a refused token is refused without asking.
const REFUSED_FOR_MS: u64 = 5_000;

/// How many refused tokens are remembered. A flood of more is held back by the ceiling.
const MOST_REFUSED: usize = 4096;

impl Verifier {
    /// Finds an opaque token among the known ones, or asks the one issuer that may know it. Then holds it against this moment.
    ///
    /// # Errors
    /// [`TokenError`]; [`TokenError::Unknown`] if the issuer did not say in time.
    pub async fn verify_opaque(
        self: &Arc<Self>,
        local: &LocalCache,
        token: &[u8],
        issuer: &str,
        shown: Option<&Thumbprint>,
        (client, now): (IpAddr, Now),
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        if token.len() > MAX_BYTES {
            return Err(Malformed::TooLong.into());
        }
        let hash = self.opaque_hash(token);
        let verified = match local.get(hash, token) {
            Some(known) => known,
            None => {
                let verified = match self.cache().get(hash, token) {
                    Some(known) => known,
                    None => match self.take_over_opaque(token, now) {
                        Some(known) => known,
                        None => self.learn(token, issuer, client, now).await?,
                    },
                };
                local.insert(hash, Arc::clone(&verified));
                verified
            }
        };
        verified.check(self.clock.now())?;
        verified.check_binding(shown)?;
        Ok(verified)
    }

    /// Of the whole token: nothing says that its end differs from those of others.
    pub(super) fn opaque_hash(&self, token: &[u8]) -> u64 {
        self.hasher.hash_one(token)
    }

    /// Waits for what the issuer says of a stranger.
    async fn learn(
        self: &Arc<Self>,
        token: &[u8],
        issuer: &str,
        client: IpAddr,
        now: Now,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        let hash = self.hasher.hash_one((issuer, token));
        let source = self.sources.iter().find(|source| source.issuer.config().name == issuer);
        let source = source.filter(|source| source.issuer.config().opaque).ok_or(TokenError::Issuer)?;
        if self.assumed.is_some() {
            return Err(TokenError::Unknown);
        }
        let wait = source.wait(false, now).ok_or(TokenError::Unknown)?;
        let (stranger, is_new) = {
            let mut state = self.strangers.state();
            if state.refused.get(&hash).is_some_and(|until_ms| now.monotonic_ms < *until_ms) {
                return Err(TokenError::NotActive);
            }
            match state.waiting.get(&hash) {
                Some(known) => (Arc::clone(known), false),
                None => {
                    let new = Arc::new(Stranger::new(token, hash, source, client, &self.strangers));
                    state.waiting.insert(hash, Arc::clone(&new));
                    (new, true)
                }
            }
        };
        if **stranger.bytes != *token {
            return Err(TokenError::Unknown);
        }
        let mut known = std::pin::pin!(stranger.known.notified());
        known.as_mut().enable();
        stranger.wanted_ms.fetch_max(now.monotonic_ms.saturating_add(millis(wait)), Ordering::Relaxed);
        if is_new {
            let (verifier, stranger) = (Arc::clone(self), Arc::clone(&stranger));
            self.control.spawn(async move { verifier.want_stranger(stranger) });
        }
        self.counts.waited.fetch_add(1, Ordering::Relaxed);
        if stranger.outcome.get().is_none() {
            let _ = Deadline::after(wait).bound(known).await;
        }
        stranger.outcome.get().cloned().flatten().unwrap_or(Err(TokenError::Unknown))
    }

    /// Asks the issuer about a stranger; the token that it is, if it is one.
    pub(super) async fn meet(&self, stranger: &Stranger) -> (Option<Arc<VerifiedToken>>, Answered) {
        let asked_ms = self.clock.now().monotonic_ms;
        let text = std::str::from_utf8(&stranger.bytes).unwrap_or_default();
        let answer = stranger.source.issuer.introspect(text).await;
        let outcome = match self.heard(&stranger.source, answer) {
            None => None,
            Some(Introspected::Inactive) => Some(Err(TokenError::NotActive)),
            Some(Introspected::Active(answer)) => Some(self.made(stranger, &answer, asked_ms).map_err(|error| {
                self.note_mismatch(&stranger.source, error);
                TokenError::Claims(error)
            })),
        };
        let now = self.clock.now();
        let outcome =
            outcome.map(|outcome| outcome.map(|token| self.cache().insert(self.opaque_hash(&stranger.bytes), token)));
        if matches!(outcome, Some(Err(_))) {
            self.strangers.refuse(stranger.hash, now);
        }
        let token = outcome.clone().and_then(Result::ok);
        stranger.turn_out(outcome);
        (token, Answered::Active { asked_ms })
    }

    /// A token made of what its issuer says, which has to be all of it: whose it is, for whom, and until when.
    fn made(&self, stranger: &Stranger, answer: &Object<'_>, asked_ms: u64) -> Result<Arc<VerifiedToken>, ClaimError> {
        let issuer = &stranger.source.issuer;
        claims::check_answer(answer, issuer.config(), None)?;
        let facts = Facts::read(answer, issuer.config())?;
        let identity = self.identity(answer, issuer).ok_or(ClaimError::Unusable("sub"))?;
        let user = self.user(&identity.issuer.name, &identity.subject);
        self.note_active(&user, &identity, facts.session.clone(), asked_ms);
        let status = Status::of(user);
        status.standing.store(Some(Arc::new(Standing { asked_ms, verdict: Verdict::Active(Arc::clone(&identity)) })));
        status.is_asking.store(true, Ordering::Relaxed); // Until this call is over.
        Ok(Arc::new(VerifiedToken {
            bytes: stranger.bytes.clone(),
            source: Arc::clone(&stranger.source),
            key: None,
            facts,
            stated: ArcSwapOption::from(Some(identity)),
            status,
        }))
    }
}

/// Whether a token has the form of a JWS; anything else may be an opaque token.
pub fn is_opaque(token: &[u8]) -> bool {
    !jws::has_form(token)
}

impl Strangers {
    fn state(&self) -> MutexGuard<'_, State> {
        // Single look-ups and insertions: sound after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refuse(&self, hash: u64, now: Now) {
        let mut state = self.state();
        if state.refused.len() >= MOST_REFUSED {
            state.refused.retain(|_, until_ms| now.monotonic_ms < *until_ms);
        }
        if state.refused.len() < MOST_REFUSED {
            state.refused.insert(hash, now.monotonic_ms.saturating_add(REFUSED_FOR_MS));
        }
    }

    /// Forgets what is no longer believed.
    pub(super) fn sweep(&self, now: Now) {
        self.state().refused.retain(|_, until_ms| now.monotonic_ms < *until_ms);
    }
}

impl Stranger {
    fn new(token: &[u8], hash: u64, source: &Arc<Source>, client: IpAddr, home: &Arc<Strangers>) -> Self {
        Self {
            bytes: Zeroizing::new(token.into()),
            hash,
            source: Arc::clone(source),
            client,
            home: Arc::clone(home),
            wanted_ms: AtomicU64::new(0),
            outcome: OnceLock::new(),
            known: Notify::new(),
        }
    }
}

impl Stranger {
    /// Nobody was asked about it.
    pub(super) fn give_up(&self) {
        self.turn_out(None);
    }

    fn turn_out(&self, outcome: Option<Result<Arc<VerifiedToken>, TokenError>>) {
        self.home.state().waiting.remove(&self.hash);
        let _ = self.outcome.set(outcome);
        self.known.notify_waiters();
    }
}

impl std::fmt::Debug for Stranger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stranger").field("source", &self.source).finish_non_exhaustive()
    }
}
