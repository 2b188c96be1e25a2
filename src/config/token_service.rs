//! `[token_service]`: Postern as an issuer.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::named;
use super::nearest::did_you_mean;
use super::reader::Reader;
use super::route::{Credential, Known, Route};
use super::tree::Section;
use super::upstream::Upstream;
use super::web;
use crate::base::secret::Secret;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How Postern's own tokens are made and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenService {
    /// `issuer`: the `iss` of minted tokens, and where discovery and keys are served. Default: the origin of the first
    /// `server.listen` where that is loopback with a fixed port; else it must be given.
    pub issuer: String,
    /// `audience` of the tokens that users may present to Postern itself (issuer `self`). Default: the value of `issuer`.
    pub audience: String,
    /// `algorithm` of keys that Postern makes. Default ES256.
    pub algorithm: SigningAlgorithm,
    /// `lifetime` of a minted token. Default `30m`, from `20m` to `30m`.
    pub lifetime: Duration,
    /// `signing_keys`.
    pub signing_keys: SigningKeys,
    /// `[token_service.clients.NAME]`: who may introspect Postern's tokens and read its feed of events.
    pub clients: Vec<Client>,
}

/// One caller of Postern's introspection endpoint and of its feed of events: an upstream that wants to ask or be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// NAME of the section, and its `client_id`. Unique.
    pub name: String,
    /// `secret` that it authenticates with.
    pub secret: Secret,
    /// `audience`: it sees tokens for this audience, and what befalls their users; nothing else.
    pub audience: String,
}

/// Algorithms that Postern signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256.
    Es256,
    /// RSA PKCS#1 v1.5, 2048 bits.
    Rs256,
    /// Ed25519.
    EdDsa,
}

/// Where signing keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SigningKeys {
    /// `{ directory = "…", rotate_every = "30d" }`: made and rotated by Postern. Default: `postern-keys` beside the file.
    Directory {
        /// The folder, made with mode 0700 if absent.
        path: PathBuf,
        /// How long a key signs. Default 30 days, at least 2 hours.
        rotate_every: Duration,
    },
    /// `{ rotate_every = "30d" }` with `[kubernetes]`: made and rotated by the token service, in a Secret that all replicas share.
    Secret {
        /// As above.
        rotate_every: Duration,
    },
    /// `{ files = ["new.pem", "old.pem"] }`: PKCS#8 PEM; the first signs, all are published.
    Files(Vec<PathBuf>),
}

/// `[token_service]`.
pub(super) static TOKEN_SERVICE: Table = Table::of(&[
    Key::optional(
        "issuer",
        Kind::Text("a URL"),
        "the origin of the first `server.listen`, where that is a loopback address with a fixed \
         port; else it must be given",
        "`iss` of minted tokens, and where discovery and keys are served.",
    )
    .example("\"https://postern.example.com\""),
    Key::optional(
        "audience",
        Kind::Text("an audience"),
        "the value of `issuer`",
        "`aud` of the tokens that users may present to Postern itself (issuer `self`). No \
         upstream may have it.",
    )
    .example("\"postern\""),
    Key::default(
        "algorithm",
        Kind::word(&["ES256", "RS256", "EdDSA"]),
        "\"ES256\"",
        "The algorithm of the keys that Postern makes.",
    ),
    Key::default(
        "lifetime",
        Kind::duration(Duration::from_mins(20), Duration::from_mins(30)),
        "\"30m\"",
        "How long a minted token lives.",
    ),
    Key::default(
        "signing_keys",
        Kind::Table(&SIGNING_KEYS),
        "{}",
        "Where signing keys come from: a `directory` in which Postern makes and rotates them, or \
         `files` of yours.",
    ),
    Key::optional(
        "clients",
        Kind::Named(&CLIENT),
        "none",
        "Who may introspect Postern's tokens and read its feed of events: upstreams that want to ask or be told. NAME \
         is the client id.",
    ),
]);

static CLIENT: Table = Table::of(&[
    Key::required("secret", Kind::Secret, "What it authenticates with.").example("{ file = \"/run/secrets/orders\" }"),
    Key::required(
        "audience",
        Kind::Text("an audience"),
        "It sees tokens for this audience, and what befalls their users; nothing else. Some upstream must have it.",
    )
    .example("\"orders\""),
]);

static SIGNING_KEYS: Table = Table::of(&[
    Key::default(
        "directory",
        Kind::Path,
        "\"postern-keys\"",
        "The folder of the keys, made with mode 0700 if absent. With `[kubernetes]` there is none: keys are in the Secret \
         `postern-signing-keys`.",
    ),
    Key::default(
        "rotate_every",
        Kind::at_least(Duration::from_hours(2)),
        "\"30d\"",
        "How long a key signs. It is published before, and until its last token died.",
    ),
    Key::optional(
        "files",
        Kind::list(&Kind::File),
        "keys of `directory`",
        "PKCS#8 PEM files instead of a folder: the first signs, all are published.",
    )
    .example("[\"new.pem\", \"old.pem\"]"),
]);

impl TokenService {
    pub(super) fn read(root: &Section, server: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let section = root.section("token_service")?;
        let is_in_cluster = root.is_given("kubernetes");
        let keys = section.section("signing_keys");
        let signing_keys = keys.and_then(|keys| SigningKeys::read(keys, is_in_cluster, reader));
        let clients = Client::read_all(section, reader);
        let issuer = match section.text("issuer") {
            Some(text) => reader.parse(section, "issuer", web::issuer_url).map(|_| text.value.to_owned()),
            None if section.is_given("issuer") => None,
            None => default_issuer(section, server, reader),
        }?;
        let algorithm = match section.text("algorithm")?.value {
            "RS256" => SigningAlgorithm::Rs256,
            "EdDSA" => SigningAlgorithm::EdDsa,
            _ => SigningAlgorithm::Es256,
        };
        Some(Self {
            audience: section.text("audience").map_or(issuer.as_str(), |audience| audience.value).to_owned(),
            issuer,
            algorithm,
            lifetime: section.duration("lifetime")?,
            signing_keys: signing_keys?,
            clients,
        })
    }
}

impl Client {
    fn read_all(section: &Section, reader: &mut Reader<'_>) -> Vec<Self> {
        let clients = named(section, "clients", reader).into_iter().filter_map(|(name, client)| {
            Some(Self {
                name: name.value.clone(),
                secret: client.secret("secret")?,
                audience: client.text("audience")?.value.to_owned(),
            })
        });
        clients.collect()
    }

    /// Holds the audiences of `[token_service.clients]` against those that tokens are minted for.
    pub(super) fn check(root: &Section, upstreams: &Known<Upstream>, routes: &[Arc<Route>], reader: &mut Reader<'_>) {
        // Where a section has a mistake, its audience is not known.
        let is_complete = upstreams.all.iter().all(|(_, upstream)| upstream.is_some());
        if !is_complete || routes.len() < root.list("route").len() {
            return;
        }
        let of_upstreams = upstreams.all.iter().filter_map(|(_, upstream)| Some(upstream.as_ref()?.audience.as_str()));
        let of_routes = routes.iter().filter_map(|route| match &route.credential {
            Credential::NamespaceToken(token) => Some(token.audience.as_str()),
            _ => None,
        });
        let mut known: Vec<_> = of_upstreams.collect();
        known.extend(of_routes);
        known.sort_unstable();
        known.dedup();
        if let Some(token_service) = root.section("token_service") {
            Self::check_audiences(token_service, &known, reader);
        }
    }

    /// Each sees the tokens of one audience: one that no upstream has would see nothing, ever.
    fn check_audiences(section: &Section, known: &[&str], reader: &mut Reader<'_>) {
        for (_, client) in section.map("clients") {
            let Some(audience) = client.section().and_then(|client| client.text("audience")) else { continue };
            if !known.contains(&audience.value) {
                let meant = did_you_mean(audience.value, known.iter().copied());
                let message = format!("no token is minted for the audience `{}`{meant}", audience.value);
                let mistake = Mistake::at(audience.span, message);
                reader.note(mistake.help(format!("audiences of upstreams: {}", known.join(", "))).absence());
            }
        }
    }
}

/// The origin of the first listener, where callers and upstreams on this machine reach it.
fn default_issuer(section: &Section, server: &Section, reader: &mut Reader<'_>) -> Option<String> {
    let listen = server.texts("listen").next()?;
    let address = web::socket_address(listen.value).ok()?;
    if address.ip().is_loopback() && address.port() != 0 {
        let scheme = if server.is_given("tls") { "https" } else { "http" };
        return Some(format!("{scheme}://{address}"));
    }
    let place = if server.is_given("listen") { listen.span } else { section.span.clone() };
    let mistake = Mistake::at(place, "missing key `issuer` in `token_service`")
        .label("not a loopback address with a fixed port, so upstreams cannot be told where the keys are")
        .help(
            "write the URL that upstreams reach Postern by: `[token_service]` with `issuer = \
         \"https://postern.example.com\"`",
        );
    reader.note(mistake.absence());
    None
}

impl SigningKeys {
    fn read(section: &Section, is_in_cluster: bool, reader: &mut Reader<'_>) -> Option<Self> {
        if !section.is_given("files") && is_in_cluster {
            if section.is_given("directory") {
                let mistake = Mistake::at(section.key_span("directory"), "in a cluster keys are not kept in a folder")
                    .label("replicas would sign with keys that the others do not know");
                reader.note(mistake.help("remove the key: they are kept in the Secret `postern-signing-keys`"));
            }
            return Some(Self::Secret { rotate_every: section.duration("rotate_every")? });
        }
        if !section.is_given("files") {
            return Some(Self::Directory {
                path: section.path("directory")?,
                rotate_every: section.duration("rotate_every")?,
            });
        }
        for other in ["directory", "rotate_every"] {
            if section.is_given(other) {
                let mistake = Mistake::at(section.key_span(other), format!("`{other}` and `files` exclude each other"));
                reader.note(mistake.related(section.key_span("files"), "keys that Postern neither makes nor rotates"));
            }
        }
        Some(Self::Files(section.paths("files")))
    }
}
