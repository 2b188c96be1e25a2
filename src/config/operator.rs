//! `[operator]`: the API behind `postern user`, `postern token revoke` and `postern cluster`, on a listener of its own.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::issuer::Issuer;
use super::reader::Reader;
use super::route::Known;
use super::server::{ADDRESS, further_listener};
use super::tls::{KEY_PAIR, KeyPair};
use super::tree::{Placed, Section};
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[operator]`, where it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator {
    /// `listen`.
    pub listen: SocketAddr,
    /// `tls`. Absent only on loopback, and never with [`OperatorAccess::ClientCa`].
    pub tls: Option<KeyPair>,
    /// `access`.
    pub access: OperatorAccess,
}

/// `operator.access`: who is an operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorAccess {
    /// `{ issuer, role, audience }`: who presents such a token.
    Role {
        /// NAME of `[issuer.NAME]`.
        issuer: String,
        /// The role that the token must hold.
        role: String,
        /// What the token's `aud` must contain.
        audience: String,
    },
    /// `{ client_ca }`: who has a client certificate of these authorities (PEM).
    ClientCa(PathBuf),
}

/// `[operator]`.
pub(super) static OPERATOR: Table = Table::of(&[
    Key::default("listen", ADDRESS, "\"off\"", "Where the API is served: an address, or the word `off`."),
    Key::optional(
        "tls",
        Kind::Table(&KEY_PAIR),
        "clear text, on loopback only",
        "TLS 1.2 and 1.3. Needed unless on loopback, and with `client_ca`.",
    ),
    Key::optional(
        "access",
        Kind::Table(&ACCESS),
        "nobody, so it must be given where `listen` is",
        "Who may block users, revoke tokens and close the cluster: `issuer`, `role` and `audience` of a token, or the \
         `client_ca` of a certificate.",
    ),
]);

static ACCESS: Table = Table::of(&[
    Key::optional(
        "issuer",
        Kind::Text("an issuer's name"),
        "no token is accepted",
        "The issuer of an operator's token.",
    )
    .example("\"main\""),
    Key::optional("role", Kind::Text("a role"), "no token is accepted", "The role that such a token must hold.")
        .example("\"postern-operator\""),
    Key::optional("audience", Kind::Text("an audience"), "no token is accepted", "What its `aud` must contain.")
        .example("\"postern-operator\""),
    Key::optional(
        "client_ca",
        Kind::File,
        "no certificate is asked for",
        "PEM file of the authorities that sign operators' certificates.",
    )
    .example("\"tls/operators.pem\""),
]);

impl Operator {
    /// `others` are the addresses of the other listeners. The outer absence is a mistake.
    #[expect(clippy::option_option, reason = "off is no mistake, and a mistake is not off")]
    pub(super) fn read(
        section: &Section,
        others: &[Placed<&str>],
        issuers: &Known<Issuer>,
        reader: &mut Reader<'_>,
    ) -> Option<Option<Self>> {
        let access = section.section("access").and_then(|access| OperatorAccess::read(access, issuers, reader));
        let listen = section.text("listen")?;
        if listen.value == "off" {
            return Some(None);
        }
        let help = "give `operator.listen` an address that neither `[server]` nor `[admin]` has";
        let address = further_listener(&listen, section, (others, help), reader)?;
        if !section.is_given("access") {
            let mistake = Mistake::at(section.key_span("listen"), "missing key `access` in `operator`");
            reader.note(mistake.help(ACCESS_HELP).absence());
        }
        if !section.is_given("tls") {
            if !address.ip().is_loopback() {
                let mistake = Mistake::at(listen.span, "the operators' API needs `tls` off loopback");
                reader.note(mistake.label("their tokens would go in clear text").absence());
            } else if matches!(access, Some(OperatorAccess::ClientCa(_))) {
                let mistake = Mistake::at(section.value_span("access"), "`client_ca` needs `tls` beside it");
                reader.note(mistake.label("a certificate is shown in TLS only").absence());
            }
        }
        let tls = match section.section("tls") {
            Some(tls) => Some(KeyPair::read(tls)?),
            None => None,
        };
        Some(Some(Self { listen: address, tls, access: access? }))
    }
}

const ACCESS_HELP: &str = "write `access = { issuer = \"main\", role = \"postern-operator\", audience = \
                           \"postern-operator\" }` or `access = { client_ca = \"tls/operators.pem\" }`";

impl OperatorAccess {
    fn read(section: &Section, issuers: &Known<Issuer>, reader: &mut Reader<'_>) -> Option<Self> {
        let of_role = ["issuer", "role", "audience"];
        let given: Vec<_> = of_role.into_iter().filter(|key| section.is_given(key)).collect();
        if let Some(name) = section.text("issuer") {
            issuers.find(&name, reader);
        }
        if section.is_given("client_ca") {
            for key in given {
                let mistake = Mistake::at(section.key_span(key), format!("`{key}` and `client_ca` exclude each other"));
                reader.note(mistake.related(section.key_span("client_ca"), "operators are known by a certificate"));
            }
            return section.path("client_ca").map(Self::ClientCa);
        }
        if let Some(absent) = of_role.into_iter().find(|key| !section.is_given(key)) {
            let message = format!("missing key `{absent}` in `operator.access`");
            reader.note(Mistake::at(section.span.clone(), message).help(ACCESS_HELP).absence());
        }
        let text = |key| section.text(key).map(|text| text.value.to_owned());
        Some(Self::Role { issuer: text("issuer")?, role: text("role")?, audience: text("audience")? })
    }
}
