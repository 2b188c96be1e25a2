//! `access`: who may pass a route.

use super::{Access, Requirements};
use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::issuer::claim;
use crate::config::reader::Reader;
use crate::config::tree::{Section, Value};
use crate::config::web;

/// A table of `access`.
pub(super) static ACCESS: Table = Table::of(&[
    Key::optional("any_role", Kind::list(&Kind::Text("a role")), "not required", "At least one of these roles.")
        .example(r#"["admin", "auditor"]"#),
    Key::optional("all_roles", Kind::list(&Kind::Text("a role")), "not required", "Each of these roles.")
        .example(r#"["reader", "staff"]"#),
    Key::optional("any_group", Kind::list(&Kind::Text("a group")), "not required", "At least one of these groups.")
        .example(r#"["/sales"]"#),
    Key::optional(
        "all_scopes",
        Kind::list(&Kind::Text("a scope")),
        "not required",
        "Each of these words of the claim `scope`.",
    )
    .example(r#"["orders:read"]"#),
    Key::optional(
        "claims",
        Kind::Map { key: "a claim", value: &Kind::Scalar },
        "not required",
        "The value that each of these claims must have, or, where the claim is a list, hold.",
    )
    .example(r#"{ "dept" = "sales", "address.country" = "NL" }"#),
    Key::optional(
        "namespace",
        Kind::OneOrMany(&Kind::Text("a namespace")),
        "not required",
        "The user's own namespace must be one of these.",
    )
    .example("\"team-a\""),
]);

impl Access {
    pub(super) fn read(route: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        if let Some(section) = route.section("access") {
            return Some(Self::Token(Requirements::read(section, reader)));
        }
        match route.text("access") {
            Some(_) => Some(Self::Public),
            // What is given but wrong must never be taken for the absence of a requirement.
            None if route.is_given("access") => None,
            None => Some(Self::Token(Requirements::default())),
        }
    }
}

impl Requirements {
    fn read(section: &Section, reader: &mut Reader<'_>) -> Self {
        if section.is_given("claims") && section.map("claims").is_empty() && section.value("claims").is_some() {
            let mistake = Mistake::at(section.value_span("claims"), "`claims` is empty");
            reader.note(mistake.label("expected at least one"));
        }
        let mut claims = Vec::new();
        for (name, value) in section.map("claims") {
            if let (Some(path), Value::Scalar(value)) = (reader.keep(&name.span, claim(&name.value)), &value.value) {
                claims.push((path, value.clone()));
            }
        }
        Self {
            any_role: section.strings("any_role"),
            all_roles: section.strings("all_roles"),
            any_group: section.strings("any_group"),
            all_scopes: reader.parse_all(section, "all_scopes", scope),
            claims,
            namespaces: reader.parse_all(section, "namespace", web::namespace),
        }
    }
}

/// Why a scope is refused.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no scope: write one word for each (RFC 6749 §3.3)")]
pub(super) struct ScopeError(String);

pub(super) fn scope(text: &str) -> Result<String, ScopeError> {
    let is_word = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
    if is_word { Ok(text.to_owned()) } else { Err(ScopeError(text.to_owned())) }
}
