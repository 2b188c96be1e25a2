//! `credential.service-account` and `credential.secret.kubernetes`: credentials that Kubernetes makes or keeps.

use super::Access;
use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::reader::Reader;
use crate::config::tree::Section;
use std::time::Duration;

/// `credential.service-account`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// `account`: its name, in the user's namespace. Default `postern-user`.
    pub account: String,
    /// `namespace`: whose word the user's namespace is. Default `"recorded"`.
    pub namespace: NamespaceSource,
    /// `timeout`: how long a request waits for the token. Default `5s`.
    pub timeout: Duration,
}

/// `credential.service-account.namespace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceSource {
    /// `"recorded"`: the token service's alone.
    Recorded,
    /// `"claimed"`: where it recorded none, that of the user's issuer.
    Claimed,
}

/// `credential.secret.kubernetes`, and what stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSecret {
    /// `secret`: its name, in Postern's own namespace.
    pub secret: String,
    /// `key` of its data.
    pub key: String,
    /// `prefix` of `credential.secret`.
    pub prefix: String,
}

pub(super) static SERVICE_ACCOUNT: Table = Table::of(&[
    Key::default(
        "account",
        Kind::Text("a ServiceAccount's name"),
        "\"postern-user\"",
        "The ServiceAccount, in the user's own namespace.",
    ),
    Key::default(
        "namespace",
        Kind::word(&["recorded", "claimed"]),
        "\"recorded\"",
        "Which namespace is the user's own: the one that the token service recorded, or, where it recorded none, the one \
         that the issuer's `namespace_claim` says.",
    ),
    Key::default("timeout", Kind::DURATION, "\"5s\"", "How long a request waits for the token at most."),
]);

pub(super) static STORED_SECRET: Table = Table::of(&[
    Key::required("secret", Kind::Text("a Secret's name"), "The Secret, in Postern's own namespace.")
        .example("\"orders-api-key\""),
    Key::required("key", Kind::Text("a key"), "Which of its data; one line end after it is dropped.")
        .example("\"token\""),
]);

impl ServiceAccount {
    pub(super) const DEFAULT_ACCOUNT: &str = "postern-user";
    const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

    pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let account = reader.parse(section, "account", object_name);
        Some(Self {
            namespace: match section.text("namespace")?.value {
                "claimed" => NamespaceSource::Claimed,
                _ => NamespaceSource::Recorded,
            },
            timeout: section.duration("timeout")?,
            account: account?,
        })
    }
}

impl Default for ServiceAccount {
    fn default() -> Self {
        let account = Self::DEFAULT_ACCOUNT.to_owned();
        Self { account, namespace: NamespaceSource::Recorded, timeout: Self::DEFAULT_TIMEOUT }
    }
}

impl StoredSecret {
    pub(super) fn read(section: &Section, prefix: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let secret = reader.parse(section, "secret", object_name);
        let key = reader.parse(section, "key", data_key);
        Some(Self { secret: secret?, key: key?, prefix: prefix.to_owned() })
    }
}

/// Without `[kubernetes]` nobody knows where the API server is.
pub(super) fn check_cluster(route: &Section, has_cluster: bool, reader: &mut Reader<'_>) {
    if !has_cluster {
        let mistake = Mistake::at(route.value_span("credential"), "this credential needs `[kubernetes]`");
        reader.note(mistake.help("write a section `[kubernetes]` with `role = \"gateway\"`").absence());
    }
}

/// Notes what a public route has not, whose credential is this.
pub(super) fn is_for_a_user(route: &Section, access: &Access, reader: &mut Reader<'_>) -> bool {
    if *access == Access::Public {
        let message = "a public route has no user whose ServiceAccount could be used";
        let mistake = Mistake::at(route.value_span("credential"), message);
        reader.note(mistake.related(route.value_span("access"), "everybody passes, and no token is checked"));
    }
    *access != Access::Public
}

/// Why a name is refused.
#[derive(Debug, thiserror::Error)]
enum NameError {
    #[error("`{0}` is no name of a Kubernetes object: write lower-case letters, digits, `-` and `.`")]
    Object(String),
    #[error("`{0}` is no key of a Secret: write letters, digits, `-`, `_` and `.`")]
    Key(String),
}

/// A DNS subdomain (RFC 1123).
fn object_name(text: &str) -> Result<String, NameError> {
    let is_end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(is_end)
            && bytes.last().is_some_and(is_end)
            && bytes.iter().all(|byte| is_end(byte) || *byte == b'-')
    };
    let is_name = text.len() <= 253 && text.split('.').all(is_label);
    if is_name { Ok(text.to_owned()) } else { Err(NameError::Object(text.to_owned())) }
}

fn data_key(text: &str) -> Result<String, NameError> {
    let is_key = text.len() <= 253
        && !matches!(text, "" | "." | "..")
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if is_key { Ok(text.to_owned()) } else { Err(NameError::Key(text.to_owned())) }
}
