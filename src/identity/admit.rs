//! What is known against the user of a token: held against it before anything else, whatever the issuer's answer was.
//!
//! A token that was admitted is looked at again only when something changed; that it is so costs two loads
//! ([`crate::users::Users::is_current`]).

use super::Identity;
use super::link::SignInReply;
use super::status::{SHORT_WAIT, Standing, StatusError, UserRecord, Verdict};
use super::verifier::{VerifiedToken, Verifier};
use crate::base::clock::Now;
use crate::base::tick::Deadline;
use crate::users::{Cause, Judgement, TokenClaims};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Verifier {
    /// Whether nothing is known against the token. Waits only where its user was blocked, and may have signed in since.
    ///
    /// # Errors
    /// [`StatusError::Refused`], or [`StatusError::Unknown`] if it cannot be learnt.
    pub(super) async fn admit(&self, token: &VerifiedToken, now: Now) -> Result<(), StatusError> {
        match self.judge(token, now) {
            Judgement::Admitted => Ok(()),
            Judgement::Refused(cause) => Err(StatusError::Refused(cause)),
            Judgement::Unknown => Err(StatusError::Unknown),
            Judgement::NeedsSignInProof => {
                let reply = self.look_for_sign_in(token).await;
                match self.judge(token, self.clock.now()) {
                    Judgement::Admitted => Ok(()),
                    Judgement::Refused(cause) => Err(StatusError::Refused(cause)),
                    Judgement::Unknown => Err(StatusError::Unknown),
                    Judgement::NeedsSignInProof if reply == Some(SignInReply::Unreachable) => Err(StatusError::Unknown),
                    Judgement::NeedsSignInProof => Err(StatusError::Refused(Cause::SignInTooOld)),
                }
            }
        }
    }

    /// Grows with everything that may end an open stream. While it stands still, only time can.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.users.generation().wrapping_add(self.refusals.load(Ordering::Acquire))
    }

    /// Whether an open stream may go on: nothing is known against its user, and its token was not ended. Counts as use of the token.
    ///
    /// # Errors
    /// As [`Verifier::confirm`]; never [`StatusError::Unknown`], for what is not known ends no stream.
    pub fn may_go_on(&self, token: &VerifiedToken, now: Now) -> Result<(), StatusError> {
        if !self.users.is_current(&token.status.seen, now) {
            match self.judge(token, now) {
                Judgement::Admitted | Judgement::Unknown => {}
                Judgement::Refused(cause) => return Err(StatusError::Refused(cause)),
                Judgement::NeedsSignInProof => return Err(StatusError::Refused(Cause::SignInTooOld)),
            }
        }
        let Some(asking) = &token.source.status else { return Ok(()) };
        token.touch(asking, now);
        match token.status.standing.load().as_deref() {
            Some(Standing { verdict: Verdict::Inactive { is_past_expiry: false }, .. }) => Err(StatusError::Inactive),
            Some(Standing { verdict: Verdict::Mismatch(error), .. }) => Err(StatusError::Mismatch(*error)),
            _ => Ok(()),
        }
    }

    /// As [`Verifier::confirm`], for an operator: whoever may open the cluster has to get in while it is closed.
    ///
    /// # Errors
    /// As [`Verifier::confirm`].
    pub async fn confirm_operator(
        self: &Arc<Self>,
        token: &Arc<VerifiedToken>,
        now: Now,
    ) -> Result<Arc<Identity>, StatusError> {
        match self.confirm(token, now).await {
            Err(StatusError::Refused(Cause::ClusterClosed | Cause::ClusterExpired)) => {}
            outcome => return outcome,
        }
        let identity = self.ask_status(token, now).await?;
        let Some(user) = token.status.user.get() else { return Err(StatusError::Unknown) };
        match self.users.judge_beside_cluster(&claims(token, user)) {
            Judgement::Admitted => Ok(self.renewed(identity)),
            Judgement::Refused(cause) => Err(StatusError::Refused(cause)),
            Judgement::NeedsSignInProof => Err(StatusError::Refused(Cause::SignInTooOld)),
            Judgement::Unknown => Err(StatusError::Unknown),
        }
    }

    /// Holds the token against what is known. One whose user the issuer has still to name is judged once it did.
    fn judge(&self, token: &VerifiedToken, now: Now) -> Judgement {
        let Some(user) = token.status.user.get() else { return Judgement::Admitted };
        if !token.is_own() {
            self.renew(token);
        }
        self.users.admit(&token.status.seen, now, || claims(token, user))
    }

    /// Gives a token identities of its user's present epoch: what was made for those of a former one is not found any more.
    pub(super) fn renew(&self, token: &VerifiedToken) {
        let stated = token.stated.load_full();
        if let Some(stated) = stated {
            let renewed = self.renewed(Arc::clone(&stated));
            if !Arc::ptr_eq(&renewed, &stated) {
                token.stated.store(Some(renewed));
            }
        }
        let standing = token.status.standing.load();
        if let Some(known) = standing.as_ref()
            && let Verdict::Active(identity) = &known.verdict
        {
            let renewed = self.renewed(Arc::clone(identity));
            if !Arc::ptr_eq(&renewed, identity) {
                let verdict = Verdict::Active(renewed);
                let renewed = Arc::new(Standing { asked_ms: known.asked_ms, verdict });
                // If an answer came meanwhile, it is the newer one and looks after itself.
                token.status.standing.compare_and_swap(&standing, Some(renewed));
            }
        }
    }

    /// The same identity, of its user's present epoch.
    pub(super) fn renewed(&self, identity: Arc<Identity>) -> Arc<Identity> {
        let epoch = self.users.epoch(&identity.issuer.name, &identity.subject);
        if identity.epoch == epoch { identity } else { self.shared(identity.at(epoch)) }
    }

    /// Has the issuer's watch look for the sign-in that the token's session began with. `None` if nobody looks.
    async fn look_for_sign_in(&self, token: &VerifiedToken) -> Option<SignInReply> {
        let asking = token.source.status.as_ref()?;
        let (user, session) = (token.status.user.get()?.id()?, token.facts.session.clone()?);
        let question = asking.link.ask_for_sign_in(user, session);
        let wait = asking.timeout.min(SHORT_WAIT);
        // An issuer that does not answer in time is one that is not reached.
        Deadline::after(wait).bound(question).await.unwrap_or(Some(SignInReply::Unreachable))
    }
}

/// What of a token is judged.
fn claims<'a>(token: &'a VerifiedToken, user: &'a UserRecord) -> TokenClaims<'a> {
    TokenClaims {
        issuer: &user.issuer,
        subject: &user.subject,
        session: token.facts.session.as_deref(),
        issued: token.facts.issued,
        id: token.facts.id.as_deref(),
        epoch: token.stated.load().as_ref().filter(|_| token.is_own()).map(|stated| stated.epoch),
    }
}

impl Identity {
    /// The same caller under another epoch, without credentials.
    pub(super) fn at(&self, epoch: u64) -> Self {
        Self {
            issuer: Arc::clone(&self.issuer),
            subject: self.subject.clone(),
            epoch,
            authorized_party: self.authorized_party.clone(),
            username: self.username.clone(),
            email: self.email.clone(),
            namespace: self.namespace.clone(),
            roles: self.roles.clone(),
            groups: self.groups.clone(),
            scopes: self.scopes.clone(),
            claims: self.claims.clone(),
            credentials: crate::token_service::CredentialCache::default(),
        }
    }
}
