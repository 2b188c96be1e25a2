//! `[[route]]`: which requests are let through, to where, and with what credential.

mod access;
mod certificate;
mod credential;
mod kubernetes;
mod limit;
mod obtained;
mod path;
mod rank;
mod read;
pub mod transform;

pub use certificate::{AllowedNames, ClientCertificate, San};
pub use kubernetes::{NamespaceSource, ServiceAccount, StoredSecret};
pub use limit::RouteLimit;
pub use obtained::{ClientCredentials, Exchange, TokenEndpoint};
pub use path::{PathPattern, PathPatternError};
pub use rank::{HostRank, Rank, SegmentRank};

pub(super) use credential::{beginning, own_audience};
pub(super) use rank::find_ambiguous;
pub(super) use read::{Known, ROUTE, Surroundings};

use transform::Transform;

use super::issuer::{ClaimPath, Issuer};
use super::upstream::Upstream;
use crate::base::secret::Secret;
use http::{HeaderName, Method};
use std::sync::Arc;
use std::time::Duration;

/// Methods that a route takes if it does not say. One that a gateway knows nothing of is let through only where somebody wrote it: some
/// servers take `delete` for `DELETE`.
pub const DEFAULT_METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

/// One route. Of several that match a request the one with the least [`Rank`] takes it.
#[derive(Debug, Clone)]
pub struct Route {
    /// `name`: unique; logs and metrics use it.
    pub name: String,
    /// `host`: a name or a list; `*.example.com` matches one label. Default: any host. Lower case, without port.
    pub hosts: Vec<String>,
    /// `path`: see [`PathPattern`].
    pub path: PathPattern,
    /// `methods`: absent → [`DEFAULT_METHODS`].
    pub methods: Option<Vec<Method>>,
    /// `issuers` accepted here, by name; `self` names Postern's own tokens. Default: every `[issuer]`, not `self`.
    pub issuers: Vec<IssuerName>,
    /// `access`: who may pass. Absent → any valid token of the issuers.
    pub access: Access,
    /// `client_certificate` that a request needs besides. Default: none.
    pub client_certificate: Option<ClientCertificate>,
    /// `upstream`: its name.
    pub upstream: Arc<Upstream>,
    /// `credential` given to the upstream. Default `"namespace-token"`; on a public route `"none"`.
    pub credential: Credential,
    /// `headers`: identity headers added, such as `{ x-auth-user = "sub" }`.
    pub headers: Vec<IdentityHeader>,
    /// `response_timeout`: overrides the upstream's.
    pub response_timeout: Option<Duration>,
    /// `allow_encoded_slash` in the last, captured part of `path`. Default false.
    pub allow_encoded_slash: bool,
    /// `max_body_bytes` of a request. Default: no limit.
    pub max_body_bytes: Option<u64>,
    /// `stream_ends`: what ends a stream, besides the block of its user. Default `"session"`.
    pub stream_ends: StreamEnds,
    /// `rewrite`, `request_headers`, `response_headers` and `cors`; absent where none is given.
    pub transform: Option<Box<Transform>>,
    /// `limit`: how often it may be asked for. Default: no limit.
    pub limit: Option<Box<RouteLimit>>,
}

/// What ends an upload, a streaming answer or a WebSocket, besides the block of its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEnds {
    /// `"session"`: the end of the session that the token belongs to.
    Session,
    /// `"token"`: that, or the expiry of the token.
    Token,
}

/// An issuer as a route names it.
#[derive(Debug, Clone)]
pub enum IssuerName {
    /// One of `[issuer.NAME]`.
    Configured(Arc<Issuer>),
    /// `self`: tokens that Postern minted for `token_service.audience`.
    Own,
}

/// Who may pass a route.
#[derive(Debug, Clone, PartialEq)]
pub enum Access {
    /// `access = "public"`: everybody; a token that is sent is neither checked nor forwarded.
    Public,
    /// A valid token that meets the requirements; with none, any valid token.
    Token(Requirements),
}

/// What a token must hold; each that is given must be met.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Requirements {
    /// `any_role`: at least one of these.
    pub any_role: Vec<String>,
    /// `all_roles`: each of these.
    pub all_roles: Vec<String>,
    /// `any_group`: at least one of these.
    pub any_group: Vec<String>,
    /// `all_scopes`: each of these words of `scope`.
    pub all_scopes: Vec<String>,
    /// `claims`: claim path → the value it must have, or, where the claim is a list, hold.
    pub claims: Vec<(ClaimPath, serde_json::Value)>,
    /// `namespace = "name"`: the user's own namespace must be one of these.
    pub namespaces: Vec<String>,
}

impl Requirements {
    /// True if nothing is required beyond a valid token.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the upstream is given to know the caller by.
#[derive(Debug, Clone, PartialEq)]
pub enum Credential {
    /// `"namespace-token"`, or `{ namespace-token = { … } }` for more than the defaults.
    NamespaceToken(Arc<NamespaceToken>),
    /// `"pass"`: the caller's own token.
    Pass,
    /// `{ secret = { header = "x-api-key", value = { file = "…" }, prefix = "Bearer " } }`.
    Secret {
        /// The header that carries it. Default `authorization`.
        header: HeaderName,
        /// What it carries.
        value: SecretValue,
    },
    /// `{ exchange = { … } }`: the caller's token, exchanged at its issuer (RFC 8693).
    Exchange(Arc<Exchange>),
    /// `{ client-credentials = { … } }`: a token of a client of Postern's own (RFC 6749 §4.4).
    ClientCredentials(Arc<ClientCredentials>),
    /// `"service-account"`, or `{ service-account = { … } }`: a token of a ServiceAccount of the user's own namespace.
    ServiceAccount(Arc<ServiceAccount>),
    /// `"none"`.
    None,
}

/// What a fixed header carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretValue {
    /// `prefix` and `value` together, as it is sent.
    Given(Secret),
    /// `kubernetes`: what stands in a Secret at the time.
    Stored(Arc<StoredSecret>),
}

/// `credential.namespace-token`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceToken {
    /// `target`: a namespace that is not the user's own; the route must hold a requirement. Default: the user's own.
    pub target: Option<TargetNamespace>,
    /// `audience`. Default: that of the upstream (already filled in here).
    pub audience: String,
    /// `roles` that the token carries, of those that the user has; `"*"` at the end matches any ending. Default: none.
    pub roles: Vec<String>,
    /// `groups`, likewise.
    pub groups: Vec<String>,
}

/// The name of a Kubernetes namespace (an RFC 1123 label).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetNamespace(pub String);

/// A header that tells the upstream who is calling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityHeader {
    /// The header's name.
    pub name: HeaderName,
    /// Where its value comes from.
    pub source: HeaderSource,
}

/// Where the value of an identity header comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderSource {
    /// `"sub"`.
    Subject,
    /// `"username"`.
    Username,
    /// `"email"`.
    Email,
    /// `"roles"`, joined by `,`.
    Roles,
    /// `"groups"`, joined by `,`.
    Groups,
    /// `"namespace"`: of the token that is minted, else the user's own.
    Namespace,
    /// `"issuer"`: its URL.
    Issuer,
}

impl HeaderSource {
    /// The description lets no other word pass.
    fn named(word: &str) -> Self {
        match word {
            "username" => Self::Username,
            "email" => Self::Email,
            "roles" => Self::Roles,
            "groups" => Self::Groups,
            "namespace" => Self::Namespace,
            "issuer" => Self::Issuer,
            _ => Self::Subject,
        }
    }
}
