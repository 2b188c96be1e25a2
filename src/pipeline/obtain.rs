//! Part of stage 7: a credential that somebody else makes. The only part of injecting that may wait.

use super::forward::may_have;
use super::{Context, Pipeline, Rejection};
use crate::broker::Unavailable;
use crate::telemetry::reason::Reason;

/// Gets the credential of the request's route into `context`. `explain`, which asks nobody, goes on without.
///
/// # Errors
/// 503 where it cannot be had, 403 where it would be for a namespace that the caller lacks; 401 where something became known against the caller while it was waited for.
pub(super) async fn obtain(pipeline: &Pipeline, context: &mut Context) -> Result<(), Rejection> {
    let (Some(broker), Some(route)) = (&pipeline.broker, context.route) else { return Ok(()) };
    let caller = context.token.as_ref().zip(context.caller.as_ref().map(|caller| &caller.identity));
    let generation = pipeline.verifier.generation();
    let obtained = broker.obtain(route, caller).await;
    let obtained = obtained.map_err(refused)?;
    may_have(pipeline, context, generation)?;
    context.obtained = Some(obtained);
    Ok(())
}

/// What is told where there is no credential.
pub(super) fn refused(error: Unavailable) -> Rejection {
    match error {
        Unavailable::NoNamespace => Reason::NamespaceMissing.into(),
        Unavailable::Because(_) => Rejection::because(Reason::CredentialUnavailable, error),
    }
}
