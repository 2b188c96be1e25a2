//! `[delivery]`: each user's token, kept fresh where notebooks and jobs read it.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::issuer::Issuer;
use super::reader::Reader;
use super::route::Known;
use super::tree::Section;
use super::{NamespaceToken, TokenService};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// `[delivery]`, where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// `issuer`: the NAME of `[issuer.NAME]` whose users get tokens. Its `user_status` is `keycloak`.
    pub issuer: String,
    /// `namespace`: how a user's namespace is called. Default `{username}`.
    pub namespace: NamespaceTemplate,
    /// `audience`, `roles` and `groups`: what the tokens say. By default `token_service.audience`, and all that the user has.
    pub token: Arc<NamespaceToken>,
    /// `offboard_after`: so long a user must be unknown to the issuer before what was theirs is removed. Default `24h`.
    pub offboard_after: Duration,
    /// `on_offboard`. Default `remove`.
    pub on_offboard: OnOffboard,
    /// `files = { directory = "…" }`: a file for each user. Default: `GET /token` alone.
    pub files: Option<PathBuf>,
}

/// What is removed of a user who is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnOffboard {
    /// `remove`: everything; another user may have the name.
    Remove,
    /// `keep-namespace`: the token; the namespace stays theirs.
    KeepNamespace,
}

/// The name of a namespace, with a place for the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceTemplate {
    before: String,
    after: String,
}

/// Why a template is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The place for the name is missing, or there are two.
    #[error(
        "`{0}` must hold `{{username}}` exactly once: else users share a namespace, or nobody knows which is whose"
    )]
    Place(String),
    /// Beside it are characters that no namespace name has.
    #[error("`{0}` can make no namespace name: beside `{{username}}` write `a` to `z`, `0` to `9` and `-`")]
    Letters(String),
}

const PLACE: &str = "{username}";

impl NamespaceTemplate {
    /// Reads a template such as `user-{username}`.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let (before, after) = text.split_once(PLACE).ok_or_else(|| TemplateError::Place(text.to_owned()))?;
        if after.contains(PLACE) {
            return Err(TemplateError::Place(text.to_owned()));
        }
        let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !before.bytes().chain(after.bytes()).all(is_fit) || before.starts_with('-') || after.ends_with('-') {
            return Err(TemplateError::Letters(text.to_owned()));
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }

    /// The name for a user. Whether it can be a namespace's is not looked at.
    pub fn apply(&self, username: &str) -> String {
        format!("{}{username}{}", self.before, self.after)
    }
}

/// `[delivery]`.
pub(super) static DELIVERY: Table = Table::of(&[
    Key::required(
        "issuer",
        Kind::Text("an issuer's name"),
        "Whose users get tokens. Its `user_status` must be `keycloak`, which tells of users who have no token in use.",
    )
    .example("\"main\""),
    Key::default(
        "namespace",
        Kind::Text("a template"),
        "\"{username}\"",
        "How a user's namespace is called: `{username}` exactly once, fixed letters around it. A name that is invalid, of the \
         system or another user's is reported; nothing is bent until it fits.",
    ),
    Key::optional(
        "audience",
        Kind::Text("an audience"),
        "`token_service.audience`, so that the token opens routes for `self`",
        "`aud` of the tokens.",
    )
    .example("\"postern\""),
    Key::default(
        "roles",
        Kind::list_or_empty(&Kind::Text("a role, or a beginning and `*`")),
        "[\"*\"]",
        "Realm roles that the tokens carry, of those that the user has; `*` at the end matches any ending.",
    ),
    Key::default(
        "groups",
        Kind::list_or_empty(&Kind::Text("a group, or a beginning and `*`")),
        "[\"*\"]",
        "Groups that the tokens carry, by their paths, likewise.",
    ),
    Key::default(
        "offboard_after",
        Kind::at_least(Duration::from_mins(1)),
        "\"24h\"",
        "So long every look must have said that there is no such user before what was theirs is removed.",
    ),
    Key::default(
        "on_offboard",
        Kind::word(&["remove", "keep-namespace"]),
        "\"remove\"",
        "What is removed then: everything, or all but the namespace, which nobody else gets.",
    ),
    Key::optional(
        "files",
        Kind::Table(&FILES),
        "`GET /token` alone",
        "A file for each user, named by user id, replaced whole.",
    ),
]);

static FILES: Table = Table::of(&[Key::required(
    "directory",
    Kind::Path,
    "The folder of the files, made with mode 0700 if absent. Nothing else may lie in it.",
)
.example("\"tokens\"")]);

/// A token of the longest life, which the reserve is reckoned with.
const LIFETIME: Duration = Duration::from_mins(30);

impl Delivery {
    /// The outer absence is a mistake.
    #[expect(clippy::option_option, reason = "absent is no mistake, and a mistake is not absent")]
    pub(super) fn read(
        root: &Section,
        issuers: &Known<Issuer>,
        token_service: Option<&TokenService>,
        reader: &mut Reader<'_>,
    ) -> Option<Option<Self>> {
        if !root.is_given("delivery") {
            return Some(None);
        }
        let section = root.section("delivery")?;
        let name = section.text("issuer")?;
        let issuer = issuers.find(&name, reader);
        if let Some(issuer) = &issuer
            && issuer.user_status.keycloak().is_none()
        {
            let message = format!("`user_status` of issuer `{}` is not `keycloak`", name.value);
            let mistake =
                Mistake::at(name.span.clone(), message).label("nobody tells of users who have no token in use");
            reader.note(mistake.help("write `user_status = { keycloak = { … } }` in the issuer's section"));
        }
        let namespace = reader.parse(section, "namespace", NamespaceTemplate::parse);
        let files = match section.section("files") {
            Some(files) => Some(files.path("directory")?),
            None if section.is_given("files") => return None,
            None => None,
        };
        let token_service = token_service?;
        if token_service.lifetime < LIFETIME {
            let place = section.span.clone();
            let mistake = Mistake::at(place, "`[delivery]` needs tokens that live for 30 minutes")
                .label("18 of them are kept in reserve: for readers, for mounted copies, and for outages")
                .help("leave `token_service.lifetime` away");
            reader.note(mistake);
        }
        let audience = section.text("audience").map_or(token_service.audience.as_str(), |audience| audience.value);
        let token = NamespaceToken {
            audience: audience.to_owned(),
            roles: section.strings("roles"),
            groups: section.strings("groups"),
            ..NamespaceToken::default()
        };
        let on_offboard = match section.text("on_offboard")?.value {
            "keep-namespace" => OnOffboard::KeepNamespace,
            _ => OnOffboard::Remove,
        };
        Some(Some(Self {
            issuer: name.value.to_owned(),
            namespace: namespace?,
            token: Arc::new(token),
            offboard_after: section.duration("offboard_after")?,
            on_offboard,
            files,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, TemplateError>) {
        let applied = NamespaceTemplate::parse(text).map(|template| template.apply("alice"));
        assert_eq!(
            applied.as_deref().map_err(|error| format!("{error}")),
            expected.map_err(|error| format!("{error}"))
        );
    }

    #[test]
    fn a_template_holds_the_name_once_and_can_make_a_namespace() {
        check("{username}", Ok("alice"));
        check("user-{username}", Ok("user-alice"));
        check("{username}-2", Ok("alice-2"));
        for text in ["", "alice", "{user}", "{username}{username}", "{username}-{username}", "{ username }"] {
            check(text, Err(TemplateError::Place(text.into())));
        }
        for text in ["-{username}", "{username}-", "User-{username}", "{username}.x", "{{username}}", "a/{username}"] {
            check(text, Err(TemplateError::Letters(text.into())));
        }
    }
}
