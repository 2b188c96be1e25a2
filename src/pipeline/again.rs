//! What an upstream answers with 401 although the caller may pass: its credential may be of no use any more. It is forgotten, and the
//! request is sent again with a fresh one, once, where that is safe.
//!
//! Only a credential of some age is forgotten, so one that no upstream ever takes is got anew once in that time and no more often.

use super::forward::forward;
use super::inject::namespace_token;
use super::obtain::obtain;
use super::record::Record;
use super::{Context, Pipeline, Rejection, Worker};
use crate::config::Credential;
use crate::telemetry::reason::Reason;
use crate::upstream::{Body, is_idempotent};
use http::HeaderValue;
use http::header::{AUTHORIZATION, TE};

/// An upstream that does not take a younger one does not take it for another reason.
const OLD_MS: u64 = 10_000;

impl Context {
    /// Whether the upstream was given a credential of Postern's making or getting that is old enough to be doubted.
    pub(super) fn has_old_credential(&self) -> bool {
        let minted_ms = self.minted.as_ref().map(|minted| minted.minted_ms);
        let obtained_ms = || self.obtained.as_ref().map(|obtained| obtained.credential.asked_ms());
        let since_ms = minted_ms.or_else(obtained_ms);
        since_ms.is_some_and(|since_ms| self.now.monotonic_ms.saturating_sub(since_ms) > OLD_MS)
    }

    /// Forgets the credential, if nobody did before.
    fn purge(&self) -> bool {
        match (&self.minted, &self.obtained, &self.caller) {
            (Some(minted), _, Some(caller)) => caller.identity.credentials.purge(minted),
            (None, Some(obtained), _) => obtained.slot.purge(&obtained.credential),
            _ => false,
        }
    }
}

/// Does what is to be done about a doubted credential. The answer is in `record` then: the one that is there, or another.
///
/// # Errors
/// As [`forward`], of the second time; or the caller may not pass any more.
pub(super) async fn again(worker: &Worker, pipeline: &Pipeline, record: &mut Record) -> Result<(), Rejection> {
    let metrics = pipeline.metrics(record.context.route);
    if record.context.purge() {
        metrics.credentials.purges.inc();
    }
    let mut outcome = Ok(());
    if !record.has_body && is_idempotent(&record.request.method) {
        match fresh(pipeline, &mut record.context).await {
            Ok(credential) => {
                metrics.credentials.retries.inc();
                record.forget_answer();
                let fields = &mut record.stripped.fields;
                // It is added where it is needed.
                fields.retain(|(name, _)| *name != AUTHORIZATION && *name != TE);
                fields.push((AUTHORIZATION, credential));
                outcome = forward(worker, pipeline, None, record).await;
            }
            // The caller gets the answer that is there.
            Err(rejection) if rejection.reason == Reason::CredentialUnavailable => {}
            Err(rejection) => outcome = Err(rejection),
        }
    }
    record.is_doubted = false;
    if outcome.is_ok() {
        record.stripped.fields = Vec::new();
    }
    outcome
}

/// Another credential of the same kind.
async fn fresh(pipeline: &Pipeline, context: &mut Context) -> Result<HeaderValue, Rejection> {
    let route = context.route.and_then(|index| pipeline.routes.get(index)).ok_or(Reason::CredentialUnavailable)?;
    if let Credential::NamespaceToken(template) = &route.credential {
        let caller = context.caller.as_ref().ok_or(Reason::CredentialUnavailable)?;
        let minted = namespace_token(pipeline, template, caller, pipeline.now())?;
        let header = minted.header().clone();
        context.minted = Some(minted);
        return Ok(header);
    }
    obtain(pipeline, context).await?;
    let obtained = context.obtained.as_ref().ok_or(Reason::CredentialUnavailable)?;
    Ok(obtained.credential.header().clone())
}

impl Record {
    /// Of an answer that is not passed on.
    fn forget_answer(&mut self) {
        self.body = Body::default();
        self.request.headers.clear();
        self.status = None;
    }
}
