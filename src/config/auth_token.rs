//! `[auth_token]`: Keycloak's tokens for programs outside, which reach Postern only.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::issuer::{Issuer, IssuerKind};
use super::named;
use super::reader::Reader;
use super::route::Known;
use super::tree::Section;
use std::time::Duration;

/// `[auth_token]`, where it is given: `/auth/token` under `token_service.issuer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthToken {
    /// `issuer`: NAME of the `[issuer.NAME]` whose token endpoint is asked.
    pub issuer: String,
    /// `[auth_token.clients.NAME]`: who may ask; never empty.
    pub clients: Vec<ExternalClient>,
    /// `failures_per_user`: wrong sign-ins for one username from one address. Default 10 in 10 minutes.
    pub failures_per_user: Failures,
    /// `failures_per_address`: wrong sign-ins from one address, for whomever. Default 100 in 10 minutes.
    pub failures_per_address: Failures,
    /// `timeout` of one call. Default 10 s.
    pub timeout: Duration,
}

/// A client of the issuer that has no secret: a program on somebody's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalClient {
    /// NAME of the section, and its `client_id`.
    pub id: String,
    /// `grants` that it may use; never empty.
    pub grants: Vec<GrantType>,
    /// `offline_access`: whether it may ask for that scope. Default false.
    pub offline_access: bool,
}

/// A grant that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantType {
    /// `password` (RFC 6749 §4.3).
    Password,
    /// `refresh_token` (RFC 6749 §6).
    RefreshToken,
}

/// How often something may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failures {
    /// `most`: so many at once, after a rest.
    pub most: u32,
    /// `per`: the time in which so many come back, one by one.
    pub per: Duration,
}

impl GrantType {
    /// The name as `grant_type` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::RefreshToken => "refresh_token",
        }
    }

    /// The grant of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Password, Self::RefreshToken].into_iter().find(|grant| grant.name() == name)
    }
}

/// `[auth_token]`.
pub(super) static AUTH_TOKEN: Table = Table::of(&[
    Key::required(
        "issuer",
        Kind::Text("an issuer's name"),
        "The `[issuer]` whose token endpoint is asked. Its origin is held to the same rule as its other endpoints.",
    )
    .example("\"main\""),
    Key::required(
        "clients",
        Kind::Named(&CLIENT),
        "Who may ask. NAME is the client id at the issuer, of a client that has no secret.",
    )
    .example("{ cli = { grants = [\"password\", \"refresh_token\"] } }"),
    Key::default(
        "failures_per_user",
        Kind::Table(&FAILURES),
        "{ most = 10, per = \"10m\" }",
        "Wrong sign-ins for one username from one address; those beyond are answered with 429. Other addresses of the \
         same user are not touched.",
    ),
    Key::default(
        "failures_per_address",
        Kind::Table(&FAILURES),
        "{ most = 100, per = \"10m\" }",
        "Wrong sign-ins from one address, whomever they are for. Beyond it only users sign in who did so from that \
         address within a day.",
    ),
    Key::default("timeout", Kind::DURATION, "\"10s\"", "How long the issuer may take to answer."),
]);

static CLIENT: Table = Table::of(&[
    Key::required("grants", Kind::list(&GRANT), "The grants that it may use.")
        .example("[\"password\", \"refresh_token\"]"),
    Key::default(
        "offline_access",
        Kind::Flag,
        "false",
        "Whether it may ask for the scope `offline_access`: for a refresh token that outlives the session.",
    ),
]);

const GRANT: Kind = Kind::Word {
    words: &["password", "refresh_token"],
    note: "other grants need a browser, or the client's secret: programs that have those ask the issuer itself",
};

static FAILURES: Table = Table::of(&[
    Key::required("most", Kind::Integer { least: 1, most: 100_000 }, "So many at once, after a rest.").example("10"),
    Key::required(
        "per",
        Kind::duration(Duration::from_secs(1), Duration::from_hours(24)),
        "The time in which so many come back, one by one.",
    )
    .example("\"10m\""),
]);

impl AuthToken {
    pub(super) fn read(section: &Section, issuers: &Known<Issuer>, reader: &mut Reader<'_>) -> Option<Self> {
        let name = section.text("issuer");
        if let Some(name) = &name
            && let Some(issuer) = issuers.find(name, reader)
            && issuer.kind != IssuerKind::Oidc
        {
            let message = format!("issuer `{}` has no token endpoint", name.value);
            reader.note(Mistake::at(name.span.clone(), message).label("it is of kind `kubernetes`"));
        }
        let clients = ExternalClient::read_all(section, reader);
        if section.value("clients").is_some() && section.map("clients").is_empty() {
            let mistake = Mistake::at(section.value_span("clients"), "`auth_token.clients` is empty");
            reader.note(mistake.label("expected at least one").help("without clients leave `[auth_token]` out"));
        }
        Some(Self {
            issuer: name?.value.to_owned(),
            clients,
            failures_per_user: Failures::read(section.section("failures_per_user")?)?,
            failures_per_address: Failures::read(section.section("failures_per_address")?)?,
            timeout: section.duration("timeout")?,
        })
    }
}

impl ExternalClient {
    fn read_all(section: &Section, reader: &mut Reader<'_>) -> Vec<Self> {
        let clients = named(section, "clients", reader).into_iter().filter_map(|(name, client)| {
            Some(Self {
                id: name.value.clone(),
                grants: client.texts("grants").filter_map(|grant| GrantType::from_name(grant.value)).collect(),
                offline_access: client.flag("offline_access")?,
            })
        });
        clients.collect()
    }
}

impl Failures {
    fn read(section: &Section) -> Option<Self> {
        Some(Self { most: section.integer("most")?, per: section.duration("per")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_grant_has_a_word_and_every_word_a_grant() {
        let Kind::Word { words, .. } = GRANT else { panic!("not words") };
        assert!(words.iter().all(|word| GrantType::from_name(word).is_some_and(|grant| grant.name() == *word)));
        assert_eq!(GrantType::from_name("client_credentials"), None);
    }
}
