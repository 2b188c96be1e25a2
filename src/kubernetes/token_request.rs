//! A token of a ServiceAccount, by TokenRequest.

use super::call::Target;
use super::connect::Cluster;
use super::error::KubernetesError;
use crate::base::secret::Secret;
use k8s_openapi::api::authentication::v1 as authentication;
use serde_json::json;
use std::time::Duration;

/// The shortest life that the API server gives a token.
const SHORTEST: Duration = Duration::from_secs(600);

/// What a token is to be good for.
#[derive(Debug, Clone)]
pub struct TokenRequest<'a> {
    /// Where the ServiceAccount is.
    pub namespace: &'a str,
    /// Its name.
    pub account: &'a str,
    /// Who takes the token. Empty: the API server itself.
    pub audiences: &'a [String],
    /// How long it is to live; less than ten minutes is taken as ten.
    pub lifetime: Duration,
    /// What it dies with, beside the ServiceAccount.
    pub bound_to: Option<&'a Bound>,
}

/// An object of the same namespace. A token that is bound to it is refused within seconds of its deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// What kind of object.
    pub kind: BoundKind,
    /// Its name.
    pub name: String,
    /// Its uid, where another object of that name would not do. Either way the token is bound to the one that is there now.
    pub uid: Option<String>,
}

/// The kinds that a token can be bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoundKind {
    /// A pod.
    Pod,
    /// A Secret.
    Secret,
}

/// A token that the API server made.
#[derive(Debug, Clone)]
pub struct AccountToken {
    /// The token.
    pub token: Secret,
    /// When the API server says it ends, in milliseconds since 1970 of *its* clock. Not always what was asked for.
    pub expires_unix_ms: u64,
}

/// Asks for a token. What comes has the life that the server gave it.
///
/// # Errors
/// [`KubernetesError::NotFound`] without the ServiceAccount, [`KubernetesError::Conflict`] if the bound object is not there or another,
/// [`KubernetesError::Forbidden`] without the right for this ServiceAccount.
pub async fn request(cluster: &Cluster, asked: &TokenRequest<'_>) -> Result<AccountToken, KubernetesError> {
    let target = Target::object("api/v1", Some(asked.namespace), "serviceaccounts", asked.account)?;
    let target = target.subresource("token");
    let mut spec = json!({ "audiences": asked.audiences, "expirationSeconds": asked.lifetime.max(SHORTEST).as_secs() });
    if let Some(bound) = asked.bound_to {
        let kind = match bound.kind {
            BoundKind::Pod => "Pod",
            BoundKind::Secret => "Secret",
        };
        spec["boundObjectRef"] = json!({ "apiVersion": "v1", "kind": kind, "name": bound.name });
        if let Some(uid) = &bound.uid {
            spec["boundObjectRef"]["uid"] = uid.as_str().into();
        }
    }
    let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
    let answer: authentication::TokenRequest = cluster.post(&target, &body).await?;
    let unexpected = || KubernetesError::Unexpected { what: target.what().to_owned() };
    let status = answer.status.ok_or_else(unexpected)?;
    let expires_unix_ms = u64::try_from(status.expiration_timestamp.0.as_millisecond()).map_err(|_| unexpected())?;
    if status.token.is_empty() {
        return Err(unexpected());
    }
    Ok(AccountToken { token: Secret::new(status.token), expires_unix_ms })
}
