//! A reload makes another verifier. What the former knew of tokens in use is taken over as they come, so that a reload does not have the
//! issuer asked about all of them at once, under a ceiling that holds back first sights.

use super::Identity;
use super::source::Asking;
use super::status::{LastActive, Standing, Status, Verdict};
use super::verifier::{VerifiedToken, Verifier};
use crate::base::clock::Now;
use arc_swap::ArcSwapOption;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

/// The verifier before, for a while.
#[derive(Debug, Default)]
pub(super) struct Former(Mutex<Option<Arc<Verifier>>>);

impl Verifier {
    /// The same verifier, which takes over what `former` knows of tokens whose issuer is configured as it was, if routes ask about the
    /// same claims. Once it is in force, [`Self::retire`] the former.
    #[must_use]
    pub fn after(self, former: &Arc<Self>) -> Self {
        if self.asked == former.asked {
            self.former.set(Some(Arc::clone(former)));
        }
        self
    }

    /// Another verifier has taken over: from now on this one looks after tokens of open streams only.
    pub fn retire(&self) {
        for asking in self.sources.iter().filter_map(|source| source.status.as_ref()) {
            asking.is_retired.store(true, Ordering::Relaxed);
        }
        self.former.set(None);
    }

    /// Takes over a young answer about a token that this verifier has just seen for the first time.
    pub(super) fn take_over(&self, token: &Arc<VerifiedToken>, now: Now) {
        let Some(former) = self.former.get() else { return };
        let Some(known) = former.cache().get(former.cache().hash(token.bytes()), token.bytes()) else { return };
        self.inherit(token, &known, now);
    }

    /// The opaque token, if the former verifier knew it and has a young answer about it.
    pub(super) fn take_over_opaque(&self, bytes: &[u8], now: Now) -> Option<Arc<VerifiedToken>> {
        let former = self.former.get()?;
        let known = former.cache().get(former.opaque_hash(bytes), bytes)?;
        let source = self.source(&known.issuer().config().url)?;
        let user = self.user(&known.status.user.get()?.issuer, known.subject()?);
        let token = Arc::new(VerifiedToken {
            bytes: known.bytes.clone(),
            source: Arc::clone(source),
            key: None,
            facts: known.facts.clone(),
            stated: ArcSwapOption::empty(),
            status: Status::of(user),
        });
        self.inherit(&token, &known, now).then(|| self.cache().insert(self.opaque_hash(bytes), token))
    }

    /// Whether there was a young active answer to inherit.
    fn inherit(&self, token: &Arc<VerifiedToken>, known: &VerifiedToken, now: Now) -> bool {
        let Some(asking) = token.source.status.as_ref() else { return false };
        let standing = known.status.standing.load_full();
        let Some(Standing { asked_ms, verdict: Verdict::Active(identity) }) = standing.as_deref() else { return false };
        let Some(user) = token.status.user.get().filter(|user| *user.subject == *identity.subject) else {
            return false;
        };
        let is_young = now.monotonic_ms < asked_ms.saturating_add(asking.bound_ms);
        if !is_young || known.issuer().config() != token.issuer().config() {
            return false;
        }
        let issuer = Arc::clone(token.issuer().config());
        let identity = self.shared(Identity { issuer, ..identity.at(identity.epoch) });
        let session = token.facts.session.clone();
        user.note_active(LastActive { asked_ms: *asked_ms, identity: Arc::clone(&identity), session });
        let standing = Standing { asked_ms: *asked_ms, verdict: Verdict::Active(identity) };
        token.status.standing.store(Some(Arc::new(standing)));
        token.touch(asking, now);
        asking.calls().take_over(token, *asked_ms, asking);
        true
    }

    /// Lets go of the former verifier once its answers are too old.
    pub(super) fn sweep_former(&self, now: Now) {
        let is_of_use = |asking: &Asking| now.monotonic_ms < self.began_ms.saturating_add(asking.bound_ms);
        if !self.sources.iter().filter_map(|source| source.status.as_ref()).any(is_of_use) {
            self.former.set(None);
        }
    }
}

impl Former {
    fn get(&self) -> Option<Arc<Verifier>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, former: Option<Arc<Verifier>>) {
        let before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), former);
        // Not under the lock: it may be the last of it.
        drop(before);
    }
}
