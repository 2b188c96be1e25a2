//! `[webhook]`: the admission webhook that mounts tokens into pods.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::reader::Reader;
use super::server::{ADDRESS, further_listener};
use super::tree::{Placed, Section};
use super::web;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[webhook]`, where it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// `listen`. Always TLS.
    pub listen: SocketAddr,
    /// `names` by which the API server calls: DNS names and addresses. At least one.
    pub names: Vec<String>,
    /// `directory` of the certificates, made with mode 0700 if absent. Default: `postern-webhook` beside the file; with
    /// `[kubernetes]` none: they are in a Secret.
    pub directory: Option<PathBuf>,
}

/// `[webhook]`.
pub(super) static WEBHOOK: Table = Table::of(&[
    Key::default("listen", ADDRESS, "\"off\"", "Where the API server is answered, always by TLS: an address, or the word `off`."),
    Key::optional(
        "names",
        Kind::list(&Kind::Text("a DNS name or an address")),
        "none, so they must be given where `listen` is",
        "The names by which the API server calls: for a Service its `SERVICE.NAMESPACE.svc`. The certificate that Postern makes is \
         for these.",
    )
    .example("[\"postern-webhook.postern.svc\"]"),
    Key::default(
        "directory",
        Kind::Path,
        "\"postern-webhook\"",
        "The folder of the certificates that Postern makes and renews itself, made with mode 0700 if absent. With `[kubernetes]` \
         there is none: they are in the Secret `postern-webhook-tls`.",
    ),
]);

impl Webhook {
    /// `others` are the addresses of the other listeners. The outer absence is a mistake.
    #[expect(clippy::option_option, reason = "off is no mistake, and a mistake is not off")]
    pub(super) fn read(
        section: &Section,
        others: &[Placed<&str>],
        is_in_cluster: bool,
        reader: &mut Reader<'_>,
    ) -> Option<Option<Self>> {
        let names = reader.parse_all(section, "names", web::server_name);
        let listen = section.text("listen")?;
        if listen.value == "off" {
            return Some(None);
        }
        let help = "give `webhook.listen` an address that no other section has";
        let address = further_listener(&listen, section, (others, help), reader)?;
        if !section.is_given("names") {
            let mistake = Mistake::at(section.key_span("listen"), "missing key `names` in `webhook`");
            let help = "write the name by which the API server calls, `names = [\"SERVICE.NAMESPACE.svc\"]`";
            reader.note(mistake.help(help).absence());
        }
        if is_in_cluster && section.is_given("directory") {
            let mistake =
                Mistake::at(section.key_span("directory"), "in a cluster certificates are not kept in a folder")
                    .label("each replica would have an authority of its own");
            reader.note(mistake.help("remove the key: they are kept in the Secret `postern-webhook-tls`"));
        }
        let directory = if is_in_cluster { None } else { Some(section.path("directory")?) };
        let is_whole = !names.is_empty() && names.len() == section.texts("names").count();
        Some(Some(Self { listen: address, names: Some(names).filter(|_| is_whole)?, directory }))
    }
}
