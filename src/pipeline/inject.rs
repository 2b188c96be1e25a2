//! Stage 7: what the upstream is told about the caller: a credential, identity headers, where the request came from.

use super::forbidden::fold;
use super::obtain::refused;
use super::reject::Rejection;
use super::strip::{Presented, Stripped};
use super::{Caller, Context, Pipeline};
use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::config::{Credential, HeaderSource, NamespaceToken, Route, SecretValue};
use crate::identity::Identity;
use crate::telemetry::reason::Reason;
use crate::token_service::{Grant, Minted, NamespaceKind};
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use std::borrow::Cow;
use std::sync::Arc;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Adds the credential and the headers that the route asks for.
///
/// # Errors
/// 403 where a namespace is needed that the caller lacks, 503 where no credential can be made.
pub fn inject(
    pipeline: &Pipeline,
    route: &Route,
    stripped: &mut Stripped,
    context: &mut Context,
) -> Result<(), Rejection> {
    let caller = context.caller.as_ref();
    match &route.credential {
        Credential::None => {}
        Credential::Pass => {
            if let (Some(_), Presented::One(token)) = (caller, &stripped.authorization) {
                let mut token = token.clone();
                token.set_sensitive(true);
                stripped.fields.push((AUTHORIZATION, token));
            }
        }
        Credential::Secret { header, value } => {
            let value = match value {
                SecretValue::Given(secret) => given(secret)?,
                SecretValue::Stored(_) => stored(pipeline, context)?,
            };
            let folded = fold(header.as_str());
            stripped.fields.retain(|(name, _)| fold(name.as_str()) != folded);
            stripped.fields.push((header.clone(), value));
        }
        Credential::NamespaceToken(template) => {
            let caller = caller.ok_or(Reason::CredentialUnavailable)?;
            let minted = namespace_token(pipeline, template, caller, context.now)?;
            stripped.fields.push((AUTHORIZATION, minted.header().clone()));
            context.minted = Some(minted);
        }
        Credential::Exchange(_) | Credential::ClientCredentials(_) | Credential::ServiceAccount(_) => {
            match &context.obtained {
                Some(obtained) => stripped.fields.push((AUTHORIZATION, obtained.credential.header().clone())),
                // `explain` shows that there is one.
                None if pipeline.broker.is_none() => {
                    stripped.fields.push((AUTHORIZATION, HeaderValue::from_static("Bearer")))
                }
                None => return Err(Reason::CredentialUnavailable.into()),
            }
        }
    }
    if pipeline.follows_user(context) && context.own_namespace().is_none() {
        return Err(Reason::NamespaceMissing.into());
    }
    if let Some(caller) = &context.caller {
        for header in &route.headers {
            if let Some(value) = source(&header.source, &caller.identity, context.namespace()) {
                stripped.fields.push((header.name.clone(), value));
            }
        }
    }
    about_the_request(stripped, context);
    Ok(())
}

/// A secret of the configuration.
fn given(secret: &Secret) -> Result<HeaderValue, Rejection> {
    let unusable = |error| Rejection::because(Reason::CredentialUnavailable, error);
    let mut value = HeaderValue::from_str(secret.expose()).map_err(unusable)?;
    value.set_sensitive(true);
    Ok(value)
}

/// What stands in the route's Secret now. `explain`, which asks nobody, shows that there is one.
fn stored(pipeline: &Pipeline, context: &Context) -> Result<HeaderValue, Rejection> {
    match (&pipeline.broker, context.route) {
        (Some(broker), Some(route)) => broker.stored(route).map_err(refused),
        _ => Ok(HeaderValue::from_static("stored")),
    }
}

/// A namespace token for the caller.
///
/// # Errors
/// As [`inject`].
pub(super) fn namespace_token(
    pipeline: &Pipeline,
    template: &Arc<NamespaceToken>,
    caller: &Caller,
    now: Now,
) -> Result<Arc<Minted>, Rejection> {
    let identity = &caller.identity;
    let (namespace, kind) = match &template.target {
        Some(target) => (target.0.as_str(), NamespaceKind::Target),
        None => (identity.namespace.as_deref().ok_or(Reason::NamespaceMissing)?, NamespaceKind::Own),
    };
    let grant = Grant {
        template,
        subject: &identity.subject,
        original_issuer: &identity.issuer.url,
        namespace,
        kind,
        email: identity.email.as_deref().unwrap_or_default(),
        username: identity.username.as_deref(),
        authorized_party: identity.authorized_party.as_deref(),
        epoch: identity.epoch,
        roles: &identity.roles,
        groups: &identity.groups,
    };
    pipeline
        .token_service
        .credential(&identity.credentials, &grant, now)
        .map_err(|error| Rejection::because(Reason::CredentialUnavailable, error))
}

/// The value of an identity header; nothing where there is nothing to say.
pub(super) fn source(source: &HeaderSource, identity: &Identity, namespace: Option<&str>) -> Option<HeaderValue> {
    let text = match source {
        HeaderSource::Subject => encode(&identity.subject, false),
        HeaderSource::Username => encode(identity.username.as_deref()?, false),
        HeaderSource::Email => encode(identity.email.as_deref()?, false),
        HeaderSource::Namespace => encode(namespace?, false),
        HeaderSource::Issuer => encode(&identity.issuer.url, false),
        HeaderSource::Roles => list(&identity.roles),
        HeaderSource::Groups => list(&identity.groups),
    };
    HeaderValue::from_str(&text).ok()
}

fn list(names: &[String]) -> Cow<'static, str> {
    names.iter().map(|name| encode(name, true)).collect::<Vec<_>>().join(",").into()
}

/// Visible ASCII as it is; every other byte of the UTF-8, and `%`, percent-encoded; in a list `,` too, which ends a member.
fn encode(text: &str, in_list: bool) -> Cow<'_, str> {
    let stays = |byte: u8| byte.is_ascii_graphic() && byte != b'%' && !(in_list && byte == b',');
    // As nearly all names.
    if text.bytes().all(stays) {
        return text.into();
    }
    let mut out = String::with_capacity(2 * text.len());
    for byte in text.bytes() {
        if stays(byte) {
            out.push(char::from(byte));
        } else {
            use std::fmt::Write;
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out.into()
}

/// Who called, through which name and scheme, and the ids that join logs and traces.
fn about_the_request(stripped: &mut Stripped, context: &Context) {
    let connection = &context.connection;
    let is_trusted = connection.trusts(connection.peer);
    let forwarded_for = match stripped.forwarded_for.take() {
        Some(chain) if is_trusted => {
            let chain = [chain.as_bytes(), b", ", connection.peer_text.as_bytes()].concat();
            HeaderValue::from_bytes(&chain).unwrap_or_else(|_| connection.peer_text.clone())
        }
        _ => connection.peer_text.clone(),
    };
    // A proxy that ends TLS says so.
    let said = stripped.forwarded_proto.take().filter(|said| is_trusted && (said == "https" || said == "http"));
    let scheme = said.unwrap_or(HeaderValue::from_static(if connection.is_tls { "https" } else { "http" }));
    stripped.fields.push((X_FORWARDED_FOR, forwarded_for));
    stripped.fields.push((X_FORWARDED_PROTO, scheme));
    if !context.host.is_empty() {
        stripped.fields.push((X_FORWARDED_HOST, context.host.clone()));
    }
    stripped.fields.push((X_REQUEST_ID, context.request_id.clone()));
    stripped.fields.push((TRACEPARENT, context.traceparent.clone()));
    // The state of a trace that does not go on means nothing (W3C Trace Context §3.3).
    if let (Some(state), Some(_)) = (stripped.tracestate.take(), &stripped.traceparent) {
        stripped.fields.push((TRACESTATE, state));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_visible_ascii_and_members_stay_apart() {
        assert_eq!(encode("alice", false), "alice");
        assert_eq!(encode("Zoë, 100%\r\n", false), "Zo%C3%AB,%20100%25%0D%0A");
        assert_eq!(list(&["a,b".into(), "c d".into()]), "a%2Cb,c%20d");
    }
}
