//! Part of stage 4: the client certificate that a route demands, held against the connection on each request.
//!
//! One connection may carry requests for several hosts (RFC 9113 §9.1.1), so what was settled when it was opened settles nothing.

use super::reject::Rejection;
use super::{Context, Pipeline, host_name};
use crate::base::tls::Names;
use crate::config::{AllowedNames, San};
use crate::telemetry::reason::Reason;
use http::request::Parts;

/// Whether the request came on a connection whose client showed such a certificate.
///
/// # Errors
/// 403; or 421 where another connection may do, because this one was opened for another host, or before anybody was asked.
#[cold]
pub(super) fn demand(
    pipeline: &Pipeline,
    allowed: &AllowedNames,
    request: &Parts,
    context: &Context,
) -> Result<(), Rejection> {
    let Err(refused) = judge(pipeline, allowed, context) else { return Ok(()) };
    if is_misdirected(pipeline, request, context) { Err(Reason::MisdirectedRequest.into()) } else { Err(refused) }
}

fn judge(pipeline: &Pipeline, allowed: &AllowedNames, context: &Context) -> Result<(), Rejection> {
    let asked = context.connection.asked.as_ref();
    let shown = asked.and_then(|asked| asked.shown.as_ref()).ok_or(Reason::ClientCertificateMissing)?;
    // Without authorities nothing is good.
    let trust = pipeline.client_trust.as_ref().ok_or(Reason::ClientCertificateInvalid)?;
    let judged = shown.judge(trust, context.now);
    judged.map_err(|error| Rejection::because(Reason::ClientCertificateInvalid, error))?;
    if meets(allowed, shown.names()) { Ok(()) } else { Err(Reason::WrongClientCertificate.into()) }
}

fn meets(allowed: &AllowedNames, names: &Names) -> bool {
    let has = |san: &San| match san {
        San::Dns(name) => names.dns.contains(name),
        San::Uri(uri) => names.uris.contains(uri),
    };
    let has_common_name = || names.common_name.as_ref().is_some_and(|name| allowed.any_common_name.contains(name));
    (allowed.any_san.is_empty() || allowed.any_san.iter().any(has))
        && (allowed.any_common_name.is_empty() || has_common_name())
}

/// Whether the host that the connection was opened for leads to another demand than the host of the request (RFC 9110 §15.5.20).
fn is_misdirected(pipeline: &Pipeline, request: &Parts, context: &Context) -> bool {
    let Some(asked) = &context.connection.asked else { return context.connection.is_tls };
    let Some(opened_for) = &asked.server_name else { return false };
    let demand_of = |host: &str| {
        let found = pipeline.router.find(host, &request.method, request.uri.path());
        found.ok().map(|index| pipeline.routes[index].client_certificate.as_ref())
    };
    let wanted = context.route.map(|index| pipeline.routes[index].client_certificate.as_ref());
    host_name(&context.host) != **opened_for && demand_of(opened_for) != wanted
}
