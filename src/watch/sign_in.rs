//! Whether a user who was blocked has signed in since: asked of the issuer when a token of theirs comes.
//!
//! What proves it is a session that the issuer lists and that began late enough. A refreshed token proves nothing, nor does a
//! session that is not listed; nor does a browser's LOGIN event, which Keycloak writes for an old session in the same words.

use super::{Directory, Watch, locked};
use crate::users::{Judgement, TokenClaims, UserId};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// For so long a session that was not listed is not looked for again.
const UNLISTED_MS: u64 = 10_000;

/// From so many users on, those not looked for lately are forgotten.
const LOOKS_KEPT: usize = 10_000;

/// What came of looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignIn {
    /// The session counts: the token may be judged again.
    Proven,
    /// It does not.
    NotProven,
    /// The issuer gave no usable answer.
    Unknown,
}

/// One at a time for each user.
#[derive(Debug, Default)]
pub(super) struct Looks(Mutex<BTreeMap<Arc<str>, Arc<tokio::sync::Mutex<Look>>>>);

#[derive(Debug, Default)]
struct Look {
    /// When the last call began, in milliseconds of the monotonic clock.
    asked_ms: u64,
    has_failed: bool,
    /// Sessions that were not listed, and when they were asked for.
    unlisted: BTreeMap<String, u64>,
}

impl Looks {
    fn of(&self, user: &UserId, now_ms: u64) -> Arc<tokio::sync::Mutex<Look>> {
        let mut looks = locked(&self.0);
        if looks.len() >= LOOKS_KEPT {
            let is_recent = |look: &Look| now_ms.saturating_sub(look.asked_ms) < UNLISTED_MS;
            looks.retain(|_, look| look.try_lock().map_or(true, |look| is_recent(&look)));
        }
        Arc::clone(looks.entry(Arc::clone(user.subject())).or_default())
    }
}

impl<D: Directory> Watch<D> {
    /// Looks whether a session of a user began after their block was lifted, and tells [`Users`](crate::users::Users). One call
    /// a user at a time, for all who wait; an answer that was asked for before this was called is not enough.
    pub async fn sign_in(&self, user: &UserId, session: &str) -> SignIn {
        let arrived_ms = self.clock.now().monotonic_ms;
        let look = self.looks.of(user, arrived_ms);
        let mut look = look.lock().await;
        let outcome = match self.known(user, session) {
            Some(known) => known,
            None if look.asked_ms > arrived_ms && look.has_failed => SignIn::Unknown,
            None if look.was_unlisted(session, self.clock.now().monotonic_ms) => SignIn::NotProven,
            None => self.look(user, session, &mut look).await,
        };
        let count = match outcome {
            SignIn::Proven => &self.counters.sign_ins_proven,
            SignIn::NotProven => &self.counters.sign_ins_missing,
            SignIn::Unknown => &self.counters.sign_ins_unknown,
        };
        count.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    /// What needs no look.
    pub(super) fn known(&self, user: &UserId, session: &str) -> Option<SignIn> {
        let claims = TokenClaims {
            issuer: user.issuer(),
            subject: user.subject(),
            session: Some(session),
            issued: None,
            id: None,
            epoch: None,
        };
        match self.users.judge(&claims, self.clock.now()) {
            Judgement::Admitted => Some(SignIn::Proven),
            Judgement::Refused(_) => Some(SignIn::NotProven),
            Judgement::NeedsSignInProof | Judgement::Unknown => None,
        }
    }

    async fn look(&self, user: &UserId, session: &str, look: &mut Look) -> SignIn {
        let _turn = self.ceiling.begin_read().await;
        let now_ms = self.clock.now().monotonic_ms;
        look.asked_ms = now_ms;
        let answer = self.directory.sessions(user.subject()).await;
        look.has_failed = answer.is_err();
        let Ok(answer) = answer else { return SignIn::Unknown };
        let Some(sessions) = answer.value else {
            // It seems that there is no such user any more, which a read of the user shows for sure.
            self.errands.read(user.subject(), true);
            return SignIn::NotProven;
        };
        for listed in &sessions {
            self.signed_in(user, &listed.id, listed.began_ms);
        }
        if sessions.iter().all(|listed| listed.id != session) {
            look.unlisted.retain(|_, asked_ms| now_ms.saturating_sub(*asked_ms) < UNLISTED_MS);
            look.unlisted.insert(session.to_owned(), now_ms);
        }
        self.known(user, session).unwrap_or(SignIn::NotProven)
    }
}

impl Look {
    fn was_unlisted(&self, session: &str, now_ms: u64) -> bool {
        self.unlisted.get(session).is_some_and(|asked_ms| now_ms.saturating_sub(*asked_ms) < UNLISTED_MS)
    }
}
