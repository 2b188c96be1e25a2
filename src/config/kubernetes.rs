//! `[kubernetes]`: which part of Postern this process is in a cluster, and how it reaches the API server.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::reader::Reader;
use super::tree::Section;
use super::web;
use std::path::PathBuf;

/// `[kubernetes]`, where Postern runs in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// `role` of this process.
    pub role: Role,
    /// `kubeconfig`: a file. Default: the ServiceAccount of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// `namespace` of Postern itself. Default: that of the pod, or of the kubeconfig's context.
    pub namespace: Option<String>,
}

/// What a process does in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// `gateway`: checks requests and forwards them.
    Gateway,
    /// `token-service`: keeps users' Secrets, the signing keys, and the webhook.
    TokenService,
}

const GATEWAY: &str = "gateway";
const TOKEN_SERVICE: &str = "token-service";

/// `[kubernetes]`.
pub(super) static KUBERNETES: Table = Table::of(&[
    Key::required(
        "role",
        Kind::word(&[GATEWAY, TOKEN_SERVICE]),
        "What this process does: `gateway` checks requests and forwards them; `token-service` keeps users' Secrets, makes the \
         signing keys, and may have `[webhook]`.",
    )
    .example("\"gateway\""),
    Key::optional(
        "kubeconfig",
        Kind::File,
        "the ServiceAccount of the pod",
        "How the API server is reached: the current context of this file.",
    )
    .example("\"kubeconfig\""),
    Key::optional(
        "namespace",
        Kind::Text("a namespace"),
        "the namespace of the pod, or of the kubeconfig's context",
        "Postern's own namespace. What its replicas share lies there, in Secrets.",
    )
    .example("\"postern\""),
]);

impl Kubernetes {
    /// The outer absence is a mistake. Whether the other sections fit is looked at too: `root` has them.
    #[expect(clippy::option_option, reason = "absent is no mistake, and a mistake is not absent")]
    pub(super) fn read(root: &Section, reader: &mut Reader<'_>) -> Option<Option<Self>> {
        if !root.is_given("kubernetes") {
            return Some(None);
        }
        let section = root.section("kubernetes")?;
        let namespace = reader.parse(section, "namespace", web::namespace);
        let role = match section.text("role")?.value {
            GATEWAY => Role::Gateway,
            _ => Role::TokenService,
        };
        check_sections(root, section, role, reader);
        if section.is_given("namespace") && namespace.is_none() {
            return None;
        }
        let kubeconfig = section.path("kubeconfig");
        if section.is_given("kubeconfig") && kubeconfig.is_none() {
            return None;
        }
        Some(Some(Self { role, kubeconfig, namespace }))
    }
}

/// Notes what the role cannot do without, and what it does not do.
fn check_sections(root: &Section, section: &Section, role: Role, reader: &mut Reader<'_>) {
    let place = section.value_span("role");
    let refuse = |section: &Section, key: &str, message: &str, label: &str, help: &str| {
        let mistake = Mistake::at(section.key_span(key), message).label(label);
        mistake.related(place.clone(), "the role").help(help)
    };
    match role {
        Role::Gateway => {
            let help = "write it into the configuration of the token service";
            if root.is_given("delivery") {
                let label = "users' Secrets are kept by the token service";
                reader.note(refuse(root, "delivery", "the role `gateway` has no `[delivery]`", label, help));
            }
            if let Some(webhook) = root.section("webhook")
                && webhook.text("listen").is_some_and(|listen| listen.value != "off")
            {
                let label = "what strangers reach answers no API server";
                reader.note(refuse(webhook, "listen", "the role `gateway` has no `[webhook]`", label, help));
            }
        }
        Role::TokenService => {
            if let Some(delivery) = root.section("delivery")
                && delivery.is_given("files")
            {
                let label = "tokens are put into Secrets, and nowhere else";
                reader.note(refuse(
                    delivery,
                    "files",
                    "in a cluster tokens are not kept in `files`",
                    label,
                    "remove the key",
                ));
            }
            if reader.is_absent(root, "delivery") {
                let mistake = Mistake::at(place.clone(), "the role `token-service` needs `[delivery]`");
                let help = "say whose users get tokens: `[delivery]` with `issuer = \"NAME\"`";
                reader.note(mistake.label("nobody's token would be kept").help(help).absence());
            }
        }
    }
}

/// Only the token service can do without routes. `kubernetes` is absent where it has a mistake.
pub(super) fn check_routes(root: &Section, kubernetes: Option<&Option<Kubernetes>>, reader: &mut Reader<'_>) {
    let needs_routes = match kubernetes {
        Some(Some(kubernetes)) => kubernetes.role == Role::Gateway,
        Some(None) => true,
        None => false,
    };
    if needs_routes && reader.is_absent(root, "route") {
        let mistake = Mistake::at(root.span.clone(), "missing key `route`");
        let help = "say which requests are let through, to where, and with what credential: `[[route]]`";
        reader.note(mistake.help(help).absence());
    }
}
