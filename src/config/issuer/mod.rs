//! `[issuer.NAME]`: who may issue tokens, and how they are checked.

mod kubernetes;
mod read;
mod user_status;

pub use user_status::{EndSessions, Introspection, Keycloak, UserStatus, WhenUnknown};

pub(super) use read::{ISSUER, claim};

use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// One issuer of tokens. Issuers are separate: a key of one never verifies a token of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// NAME of `[issuer.NAME]`; routes, logs and metrics use it. `self` is reserved.
    pub name: String,
    /// `kind`: what issues its tokens. Default `oidc`.
    pub kind: IssuerKind,
    /// `url`: the exact `iss`. `http://` only on loopback.
    pub url: String,
    /// `audience`: a string or a list; a token's `aud` must contain one of them. Mandatory, not empty.
    pub audiences: Vec<String>,
    /// `algorithms`: JWS algorithms accepted. Default: all that [`Algorithm`] knows.
    pub algorithms: Vec<Algorithm>,
    /// `leeway` for `exp`, `nbf` and `iat`. Default `30s`, at most `120s`.
    pub leeway: Duration,
    /// `max_token_age`: a token whose `iat` is older is refused. Default: no limit but `exp`.
    pub max_token_age: Option<Duration>,
    /// `address`: where discovery and keys are fetched when `url` cannot be reached from here; replaces the
    /// origin of `url` and of every endpoint that has that origin.
    pub address: Option<Url>,
    /// `ca`: PEM file of the authorities that may sign the issuer's certificate. Default: the host's.
    pub ca: Option<PathBuf>,
    /// `endpoint_origins`: further origins (`https://host:port`) that its endpoints may have.
    pub endpoint_origins: Vec<String>,
    /// `lightweight`: accept tokens without `sub` and `aud`, which introspection then supplies.
    /// Needs a `user_status` that introspects. Default false.
    pub lightweight: bool,
    /// `opaque`: accept tokens that are no JWT, judged by introspection alone. Needs a `user_status` that introspects; of the
    /// issuers that one route accepts at most one may be opaque, since such a token names none. Default false.
    pub opaque: bool,
    /// `roles_claims`: where a token holds roles. Default `["realm_access.roles", "roles"]`.
    pub roles_claims: Vec<ClaimPath>,
    /// `groups_claim`. Default `groups`.
    pub groups_claim: ClaimPath,
    /// `namespace_claim`: the user's own namespace. Default `namespace`. Only administrators may be able to edit it.
    pub namespace_claim: ClaimPath,
    /// `username_claim`. Default `preferred_username`.
    pub username_claim: ClaimPath,
    /// `email_claim`. Default `email`.
    pub email_claim: ClaimPath,
    /// `keys`: how its key set is kept.
    pub keys: KeyPolicy,
    /// `user_status`: mandatory.
    pub user_status: UserStatus,
}

impl Issuer {
    /// Whether some of its tokens are traded for those of users.
    pub fn gives_user_tokens(&self) -> bool {
        matches!(&self.kind, IssuerKind::Kubernetes { user_tokens, .. } if !user_tokens.is_empty())
    }
}

/// `kind`: what issues the tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerKind {
    /// `"oidc"`: Keycloak, or another OpenID provider.
    Oidc,
    /// `"kubernetes"`: the API server of a cluster; its tokens are those of service accounts.
    Kubernetes {
        /// `token = { file = … }`: shown for discovery and keys, and read anew each time, since it is replaced before it expires. Default:
        /// nothing is shown.
        token: Option<PathBuf>,
        /// `user_tokens`: names, or beginnings and `*`, of the service accounts whose token may be traded for the user token of their
        /// namespace. Default `["*"]`.
        user_tokens: Vec<String>,
    },
}

/// `issuer.NAME.keys`: how a key set is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPolicy {
    /// `refresh`: time between fetches. Default `5m`, at least `1s`.
    pub refresh: Duration,
    /// `max_stale`: how long the last good keys are used while the issuer is down; then 503. Default `1h`.
    pub max_stale: Duration,
    /// `timeout` of one fetch. Default `5s`.
    pub timeout: Duration,
}

/// A JWS algorithm (RFC 7518 §3.1, RFC 8037). `none` and HMAC do not exist here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are those of the RFCs.
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// Every algorithm, in the order of the documentation.
    pub const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// The name as it stands in a token's header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of that exact name (they are case-sensitive).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }
}

/// Where a claim stands: member names from the outside in, as in `realm_access.roles`.
/// A member whose own name holds a dot is written with `\.`, as in `https://example\.com/roles`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimPath(Vec<String>);

impl ClaimPath {
    /// Reads the dotted form; `None` where it or one of its parts is empty.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = vec![String::new()];
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => parts.last_mut()?.push(chars.next()?),
                '.' => parts.push(String::new()),
                c => parts.last_mut()?.push(c),
            }
        }
        parts.iter().all(|part| !part.is_empty()).then_some(Self(parts))
    }

    /// The member names, outermost first.
    pub fn parts(&self) -> &[String] {
        &self.0
    }
}
