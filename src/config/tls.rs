//! `[server.tls]`: the certificates that clients are shown, and those that clients may show.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::reader::Reader;
use super::tree::{Placed, Section};
use std::path::PathBuf;

/// A certificate and its key: PEM files, read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// `certificate`: the chain, leaf first.
    pub certificate: PathBuf,
    /// `key`: the private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
}

/// `server.tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// `certificate` and `key`: what clients are shown that name no host, or one that no certificate has.
    pub default: KeyPair,
    /// `[[server.tls.by_name]]`: further ones, each for the DNS names that stand in it.
    pub by_name: Vec<KeyPair>,
    /// `unknown_name`. Default `"default"`.
    pub unknown_name: UnknownName,
    /// `client_ca`: the authorities of clients' certificates. Absent: no route can demand one.
    pub client_ca: Option<PathBuf>,
    /// `client_crl`: what those authorities took back. Absent: nothing.
    pub client_crl: Option<PathBuf>,
}

/// What becomes of a client that names no host, or one that no certificate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownName {
    /// It is shown the default certificate.
    Default,
    /// The handshake fails.
    Refuse,
}

/// A certificate and its key, in any section.
pub(super) static KEY_PAIR: Table = Table::of(&[CERTIFICATE, KEY]);

const CERTIFICATE: Key =
    Key::required("certificate", Kind::File, "PEM file of the chain, leaf first; read again when it changes.")
        .example("\"tls/server.pem\"");

const KEY: Key = Key::required(
    "key",
    Kind::File,
    "PEM file of the private key (PKCS#8, PKCS#1 or SEC1); read again when it changes.",
)
.example("\"tls/server.key\"");

/// `server.tls`.
pub(super) static SERVER_TLS: Table = Table::of(&[
    CERTIFICATE,
    KEY,
    Key::optional(
        "by_name",
        Kind::Tables(&KEY_PAIR),
        "one certificate for every host",
        "Further certificates. A client is shown the one that has the name it asks for (SNI): exactly, else as \
         `*.` and the rest. The names are those in the certificate.",
    ),
    Key::default(
        "unknown_name",
        Kind::word(&["default", "refuse"]),
        "\"default\"",
        "What becomes of a client that names no host, or one that no certificate has: it is shown `certificate`, or its \
         handshake is refused.",
    ),
    Key::optional(
        "client_ca",
        Kind::File,
        "no route can demand a client certificate",
        "PEM file of the authorities that sign clients' certificates, for routes with `client_certificate`.",
    )
    .example("\"tls/clients-ca.pem\""),
    Key::optional(
        "client_crl",
        Kind::File,
        "no certificate is taken back",
        "PEM file of the revocation lists of those authorities: one of each, the intermediate ones too. A certificate of an \
         authority without a list, or with one whose next is overdue, is refused.",
    )
    .example("\"tls/clients-crl.pem\""),
]);

impl KeyPair {
    pub(super) fn read(section: &Section) -> Option<Self> {
        Some(Self { certificate: section.path("certificate")?, key: section.path("key")? })
    }
}

impl ServerTls {
    pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        if section.is_given("client_crl") && !section.is_given("client_ca") {
            let mistake = Mistake::at(section.key_span("client_crl"), "`client_crl` needs `client_ca` beside it");
            reader.note(mistake.label("there are no authorities whose lists these could be").absence());
        }
        let by_name = section.list("by_name").iter().filter_map(Placed::section).filter_map(KeyPair::read);
        Some(Self {
            by_name: by_name.collect(),
            default: KeyPair::read(section)?,
            unknown_name: match section.text("unknown_name")?.value {
                "refuse" => UnknownName::Refuse,
                _ => UnknownName::Default,
            },
            client_ca: section.path("client_ca"),
            client_crl: section.path("client_crl"),
        })
    }
}
