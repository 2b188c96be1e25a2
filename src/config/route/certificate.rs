//! `client_certificate`: what a route demands of the connection that a request comes on.

use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::reader::Reader;
use crate::config::tree::Section;
use crate::config::web;

/// What a route has to do with clients' certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificate {
    /// `"asked"`: clients are asked for one, and need none.
    Asked,
    /// `"required"`, or a table of names: a good one of `server.tls.client_ca`, with these names.
    Required(AllowedNames),
}

/// Whose certificates will do; each list that is given must be met.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedNames {
    /// `any_san`: at least one of these is among its names.
    pub any_san: Vec<San>,
    /// `any_common_name`: its one common name is among these.
    pub any_common_name: Vec<String>,
}

/// A name in a certificate (RFC 5280 §4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum San {
    /// Of a host, in lower case.
    Dns(String),
    /// A URI, such as a SPIFFE ID; compared byte by byte.
    Uri(String),
}

/// A table of `client_certificate`.
pub(super) static CLIENT_CERTIFICATE: Table = Table::of(&[
    Key::optional(
        "any_san",
        Kind::list(&Kind::Text("a name of a host or a URI")),
        "any name",
        "At least one of these must be among the certificate's names: names of hosts, and URIs such as SPIFFE IDs, whole.",
    )
    .example(r#"["spiffe://example.com/ns/shop/sa/orders", "orders.example.com"]"#),
    Key::optional(
        "any_common_name",
        Kind::list(&Kind::Text("a common name")),
        "any name",
        "The common name of the certificate's subject must be one of these.",
    )
    .example(r#"["orders"]"#),
]);

impl ClientCertificate {
    pub(super) fn read(route: &Section, root: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        // What is given but wrong is noted already.
        route.value("client_certificate")?;
        let is_asked = route.text("client_certificate").is_some_and(|word| word.value == "asked");
        check_server(route, root, is_asked, reader);
        if is_asked {
            return Some(Self::Asked);
        }
        let names = route.section("client_certificate").map(|section| AllowedNames::read(section, reader));
        Some(Self::Required(names.unwrap_or_default()))
    }
}

impl AllowedNames {
    fn read(section: &Section, reader: &mut Reader<'_>) -> Self {
        if !section.is_given("any_san") && !section.is_given("any_common_name") {
            let mistake = Mistake::at(section.span.clone(), "`client_certificate` names nobody");
            reader.note(mistake.help("write `any_san` or `any_common_name`, or \"required\" for everybody").absence());
        }
        Self { any_san: reader.parse_all(section, "any_san", san), any_common_name: section.strings("any_common_name") }
    }
}

/// Only TLS shows certificates, and only an authority tells good ones.
fn check_server(route: &Section, root: &Section, is_asked: bool, reader: &mut Reader<'_>) {
    let Some(server) = root.section("server") else { return };
    let is_there = match server.section("tls") {
        Some(tls) => is_asked || tls.is_given("client_ca"),
        // What is wrong with it is said there.
        None => server.is_given("tls"),
    };
    if !is_there {
        let key = if is_asked { "server.tls" } else { "server.tls.client_ca" };
        let message = format!("`client_certificate` needs `{key}`");
        let mistake = Mistake::at(route.value_span("client_certificate"), message);
        reader.note(mistake.label("no client could show a good one").absence());
    }
}

/// Why a name is refused.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is neither a host such as `orders.example.com`, in lower case, nor a URI such as `spiffe://example.com/orders`"
)]
struct SanError(String);

fn san(text: &str) -> Result<San, SanError> {
    let is_uri = text.contains(':') && text.bytes().all(|byte| byte.is_ascii_graphic());
    let is_host = || web::server_name(text).is_ok() && text.parse::<std::net::IpAddr>().is_err();
    match is_uri && text.parse::<std::net::IpAddr>().is_err() {
        true => Ok(San::Uri(text.to_owned())),
        false if is_host() => Ok(San::Dns(text.to_owned())),
        false => Err(SanError(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_host_or_a_uri() {
        assert_eq!(san("orders.example.com").unwrap(), San::Dns("orders.example.com".into()));
        for uri in ["spiffe://example.com/ns/a", "urn:uuid:1", "https://example.com:8443/"] {
            assert_eq!(san(uri).unwrap(), San::Uri(uri.into()));
        }
        for text in ["", "Orders.example.com", "*.example.com", "10.0.0.1", "::1", "a b", "a@b", "spiffe://a b"] {
            assert!(san(text).is_err(), "{text}");
        }
    }
}
