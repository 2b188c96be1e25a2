//! Users and clients of a realm, and those that every realm starts with.

use super::keys::{self, Claims};
use crate::base::secret::Secret;
use crate::config::Algorithm;
use serde::Deserialize;
use serde_json::{Value, json};

/// A user. Its `id` is the `sub` of tokens and never changes.
#[derive(Debug, Clone)]
pub struct User {
    /// The `sub` of its tokens.
    pub id: String,
    /// The name it signs in with.
    pub username: String,
    /// `None`: it cannot sign in, as the users of service accounts.
    pub password: Option<Secret>,
    /// A disabled user gets no token, and introspection calls its tokens inactive.
    pub enabled: bool,
    /// `None`: its tokens have no `email`, as with Keycloak.
    pub email: Option<String>,
    /// The attribute `namespace`.
    pub namespace: Option<String>,
    /// The realm roles.
    pub roles: Vec<String>,
    /// The groups.
    pub groups: Vec<String>,
}

/// What to change of a user; a member that is absent stays as it is, an empty text removes the claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserChange {
    /// Disables or enables.
    pub enabled: Option<bool>,
    /// A new password.
    pub password: Option<String>,
    /// A new e-mail address.
    pub email: Option<String>,
    /// A new namespace.
    pub namespace: Option<String>,
    /// The realm roles in place of the old ones.
    pub roles: Option<Vec<String>>,
    /// The groups in place of the old ones.
    pub groups: Option<Vec<String>>,
}

impl User {
    /// An enabled user without roles, whose password is its name and `-pw`.
    pub fn new(username: &str) -> Self {
        Self {
            id: keys::uuid(),
            username: username.to_owned(),
            password: Some(Secret::new(format!("{username}-pw"))),
            enabled: true,
            email: Some(format!("{username}@example.com")),
            namespace: None,
            roles: Vec::new(),
            groups: Vec::new(),
        }
    }

    pub(super) fn of_service_account(client: &str) -> Self {
        Self { password: None, email: None, ..Self::new(&format!("service-account-{client}")) }
    }

    pub(super) fn apply(&mut self, change: UserChange) {
        let text = |new: String| Some(new).filter(|text| !text.is_empty());
        if let Some(enabled) = change.enabled {
            self.enabled = enabled;
        }
        if let Some(password) = change.password {
            self.password = Some(Secret::new(password));
        }
        if let Some(email) = change.email {
            self.email = text(email);
        }
        if let Some(namespace) = change.namespace {
            self.namespace = text(namespace);
        }
        if let Some(roles) = change.roles {
            self.roles = roles;
        }
        if let Some(groups) = change.groups {
            self.groups = groups;
        }
    }

    /// The claims that tell who the user is now; those of [`User::CLAIMS`] that are absent, it does not have.
    pub(super) fn claims(&self) -> Claims {
        let mut claims = Claims::new();
        claims.insert("sub".into(), json!(self.id));
        claims.insert("realm_access".into(), json!({ "roles": self.roles }));
        claims.insert("preferred_username".into(), json!(self.username));
        claims.insert("email_verified".into(), json!(self.email.is_some()));
        claims.insert("groups".into(), json!(self.groups));
        claims.extend(self.email.iter().map(|email| ("email".into(), json!(email))));
        claims.extend(self.namespace.iter().map(|namespace| ("namespace".into(), json!(namespace))));
        claims
    }

    /// The names of the claims that follow the user rather than the token.
    pub(super) const CLAIMS: [&str; 7] =
        ["sub", "realm_access", "preferred_username", "email_verified", "groups", "email", "namespace"];

    /// The user as the control API shows it; without its password.
    pub(super) fn shown(&self) -> Value {
        json!({
            "id": self.id, "username": self.username, "enabled": self.enabled, "email": self.email,
            "namespace": self.namespace, "roles": self.roles, "groups": self.groups,
        })
    }

    /// alice may do everything, bob reads, carol has no e-mail address, dave is disabled.
    pub(super) fn defaults() -> Vec<Self> {
        let user = |name: &str, namespace: &str, roles: &[&str]| Self {
            namespace: Some(namespace.to_owned()),
            roles: roles.iter().map(ToString::to_string).collect(),
            groups: vec![format!("/{namespace}")],
            ..Self::new(name)
        };
        vec![
            user("alice", "team-a", &["reader", "writer", "admin"]),
            user("bob", "team-b", &["reader"]),
            Self { email: None, ..user("carol", "team-c", &["reader"]) },
            Self { enabled: false, ..user("dave", "team-d", &["reader"]) },
        ]
    }
}

/// A client of a realm.
#[derive(Debug, Clone)]
pub struct Client {
    /// The `client_id`, and the `azp` of tokens that it asked for.
    pub id: String,
    /// `None`: a public client, which may use the password grant and cannot introspect.
    pub secret: Option<Secret>,
    /// What its access tokens are signed with.
    pub algorithm: Algorithm,
    /// The `aud` of its access tokens, beside `account`.
    pub audiences: Vec<String>,
    /// Whether its access tokens are *lightweight*: without `sub`, `aud` and everything about the user.
    pub lightweight: bool,
    /// Whether its access tokens have the header `typ: at+jwt` (RFC 9068).
    pub at_jwt: bool,
}

impl Client {
    /// A public client whose tokens are for `gateway`, signed with RS256.
    pub fn public(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            secret: None,
            algorithm: Algorithm::Rs256,
            audiences: vec!["gateway".to_owned()],
            lightweight: false,
            at_jwt: false,
        }
    }

    /// A confidential client.
    pub fn confidential(id: &str, secret: Secret) -> Self {
        Self { secret: Some(secret), ..Self::public(id) }
    }

    /// `cli`, `cli-light`, `cli-at-jwt`, `cli-noaud`, `gateway`, and `cli-rs384` and so on for each algorithm.
    pub(super) fn defaults() -> Vec<Self> {
        let mut clients = vec![
            Self::public("cli"),
            Self { lightweight: true, ..Self::public("cli-light") },
            Self { at_jwt: true, ..Self::public("cli-at-jwt") },
            Self { audiences: Vec::new(), ..Self::public("cli-noaud") },
            Self::confidential("gateway", Secret::new("gateway-secret")),
        ];
        clients.extend(Algorithm::ALL.into_iter().map(|algorithm| Self {
            algorithm,
            ..Self::public(&format!("cli-{}", algorithm.name().to_ascii_lowercase()))
        }));
        clients
    }
}
