//! What the benches mint: a user token for a user of their own namespace.

use postern::config::NamespaceToken;
use postern::token_service::{Grant, NamespaceKind};
use std::sync::Arc;

/// A token with all roles and groups of its user.
pub(crate) fn template() -> Arc<NamespaceToken> {
    Arc::new(NamespaceToken {
        audience: "orders".into(),
        roles: vec!["*".into()],
        groups: vec!["*".into()],
        ..NamespaceToken::default()
    })
}

/// For a user with these roles and groups.
pub(crate) fn grant<'a>(
    template: &'a Arc<NamespaceToken>,
    subject: &'a str,
    roles: &'a [String],
    groups: &'a [String],
) -> Grant<'a> {
    Grant {
        template,
        subject,
        original_issuer: "https://keycloak.example.com/realms/demo",
        namespace: "team-a",
        kind: NamespaceKind::Own,
        email: "alice@example.com",
        username: Some("alice"),
        authorized_party: Some("cli"),
        epoch: 0,
        roles,
        groups,
    }
}
