//! The keys of `[issuer.NAME]`, and how they become an [`Issuer`].

use super::kubernetes::{self, TOKEN};
use super::user_status::{Place, USER_STATUS};
use super::{Algorithm, ClaimPath, Issuer, KeyPolicy, UserStatus};
use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::reader::Reader;
use crate::config::scalar::duration_text;
use crate::config::tree::Section;
use crate::config::web;
use std::time::Duration;

const CLAIM: Kind = Kind::Text("a claim's name, from the outside in");

const ALGORITHM: Kind = Kind::Word {
    words: &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"],
    note: "`none` and HMAC (`HS256`, …) do not exist here: whoever can check an HMAC can also forge it",
};

/// `[issuer.NAME]`.
pub(in crate::config) static ISSUER: Table = Table::of(&[
    Key::default(
        "kind",
        Kind::word(&["oidc", "kubernetes"]),
        "\"oidc\"",
        "What issues the tokens: an OpenID provider such as Keycloak, or the API server of a Kubernetes cluster, whose \
         tokens are those of service accounts.",
    ),
    Key::required(
        "url",
        Kind::Text("a URL"),
        "The exact `iss` of its tokens; discovery starts there. `http://` only on loopback.",
    )
    .example("\"https://keycloak.example.com/realms/demo\""),
    Key::required(
        "audience",
        Kind::OneOrMany(&Kind::Text("an audience")),
        "A token's `aud` must contain one of these.",
    )
    .example("\"gateway\""),
    Key::default(
        "algorithms",
        Kind::list(&ALGORITHM),
        r#"["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]"#,
        "JWS algorithms that are accepted; a key must be made for the one that a token names.",
    ),
    Key::default(
        "leeway",
        Kind::duration(Duration::ZERO, Duration::from_secs(120)),
        "\"30s\"",
        "The difference of clocks allowed for `exp`, `nbf` and `iat`.",
    ),
    Key::optional("max_token_age", Kind::DURATION, "no limit but `exp`", "A token whose `iat` is older is refused.")
        .example("\"12h\""),
    Key::optional(
        "address",
        Kind::Text("an origin"),
        "the origin of `url`",
        "Where discovery and keys are fetched when `url` cannot be reached from here; takes the place of the origin of \
         `url` in every endpoint. `http://` only on loopback.",
    )
    .example("\"https://keycloak.keycloak.svc:8443\""),
    Key::optional(
        "ca",
        Kind::File,
        "the host's authorities",
        "PEM file of the authorities that may sign the issuer's certificate.",
    )
    .example("\"tls/keycloak-ca.pem\""),
    Key::optional(
        "token",
        Kind::Table(&TOKEN),
        "nothing is shown",
        "For kind `kubernetes`: the bearer token that discovery and keys are asked with, at the origin of `address` (else \
         `url`) and at `endpoint_origins`.",
    ),
    Key::default(
        "user_tokens",
        Kind::list_or_empty(&Kind::Text("a service account, or a beginning and `*`")),
        "[\"*\"]",
        "For kind `kubernetes`: service accounts whose token `GET /token` takes for the user token of their namespace; `*` at the \
         end matches any ending, `[]` is none. Never `postern-user`, whose tokens Postern makes.",
    ),
    Key::default(
        "endpoint_origins",
        Kind::list_or_empty(&Kind::Text("an origin")),
        "[]",
        "Further origins that its endpoints may have; else they have the issuer's.",
    )
    .example("[\"https://keys.example.com:8443\"]"),
    Key::default(
        "lightweight",
        Kind::Flag,
        "false",
        "Accept tokens without `sub` and `aud`, which introspection then supplies. Needs such a `user_status`.",
    ),
    Key::default(
        "opaque",
        Kind::Flag,
        "false",
        "Accept tokens that are no JWT, judged by introspection alone. Needs a `user_status` that introspects, and no \
         route may accept two such issuers.",
    ),
    Key::default(
        "roles_claims",
        Kind::list(&CLAIM),
        r#"["realm_access.roles", "roles"]"#,
        "Where a token holds roles. A dot within a name is written `\\.`.",
    ),
    Key::default("groups_claim", CLAIM, "\"groups\"", "Where a token holds groups."),
    Key::default(
        "namespace_claim",
        CLAIM,
        "\"namespace\"",
        "Where a token holds the user's own namespace. Only administrators may be able to edit it.",
    ),
    Key::default("username_claim", CLAIM, "\"preferred_username\"", "Where a token holds the user's name."),
    Key::default("email_claim", CLAIM, "\"email\"", "Where a token holds the user's e-mail address."),
    Key::default("keys", Kind::Table(&KEYS), "{}", "How its key set is kept."),
    Key::required(
        "user_status",
        Kind::WordOr(&["none"], &USER_STATUS),
        "How it is known that a token's user is still enabled; with `none` it is not, and a token is good until it \
         expires.",
    )
    .example(r#"{ introspection = { client_id = "gateway", client_secret = { file = "/run/secrets/keycloak" } } }"#),
]);

static KEYS: Table = Table::of(&[
    Key::default("refresh", Kind::at_least(Duration::from_secs(1)), "\"5m\"", "Time between fetches of the key set."),
    Key::default(
        "max_stale",
        Kind::at_least(Duration::from_secs(1)),
        "\"1h\"",
        "How long the last good keys are used while the issuer is down; then the answer is 503.",
    ),
    Key::default("timeout", Kind::DURATION, "\"5s\"", "How long one fetch may take."),
]);

impl Issuer {
    pub(in crate::config) fn read(name: &str, section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let kind = kubernetes::read_kind(section, reader);
        let url = reader.parse(section, "url", |text| web::issuer_url(text).map(|_| text.to_owned()));
        let address = reader.parse(section, "address", web::safe_origin);
        let endpoint_origins = reader.parse_all(section, "endpoint_origins", web::safe_origin);
        let roles_claims = reader.parse_all(section, "roles_claims", claim);
        let mut one_claim = |key| reader.parse(section, key, claim);
        let [groups_claim, namespace_claim, username_claim, email_claim] =
            ["groups_claim", "namespace_claim", "username_claim", "email_claim"].map(&mut one_claim);
        let keys = section.section("keys").and_then(|keys| KeyPolicy::read(keys, reader));
        let origins: Vec<_> = endpoint_origins.iter().map(|url| url.origin().ascii_serialization()).collect();
        let place = Place { url: url.as_deref(), address: address.as_ref(), endpoint_origins: &origins };
        let user_status = UserStatus::read(section, &place, reader);
        let is_kubernetes = section.text("kind").is_some_and(|kind| kind.value == "kubernetes");
        if is_kubernetes {
            kubernetes::check(section, reader);
        }
        for (key, label) in
            [("lightweight", "such tokens hold neither `sub` nor `aud`"), ("opaque", "such tokens hold nothing")]
        {
            if section.flag(key)? && matches!(user_status, Some(UserStatus::None)) && !is_kubernetes {
                let mistake = Mistake::at(section.value_span(key), format!("`{key}` needs introspection"))
                    .label(label)
                    .related(section.value_span("user_status"), "which would supply what they lack");
                reader.note(mistake);
            }
        }
        Some(Self {
            name: name.to_owned(),
            kind: kind?,
            url: url?,
            audiences: section.strings("audience"),
            algorithms: section.texts("algorithms").filter_map(|name| Algorithm::from_name(name.value)).collect(),
            leeway: section.duration("leeway")?,
            max_token_age: section.duration("max_token_age"),
            address,
            ca: section.path("ca"),
            endpoint_origins: origins,
            lightweight: section.flag("lightweight")?,
            opaque: section.flag("opaque")?,
            roles_claims,
            groups_claim: groups_claim?,
            namespace_claim: namespace_claim?,
            username_claim: username_claim?,
            email_claim: email_claim?,
            keys: keys?,
            user_status: user_status?,
        })
    }
}

impl KeyPolicy {
    fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let (refresh, max_stale) = (section.duration("refresh")?, section.duration("max_stale")?);
        if max_stale < refresh {
            let mistake = Mistake::at(section.value_span("max_stale"), "`max_stale` is shorter than `refresh`")
                .label("keys would be too old before they are fetched again")
                .related(section.value_span("refresh"), format!("`refresh` is `{}`", duration_text(refresh)));
            reader.note(mistake);
        }
        Some(Self { refresh, max_stale, timeout: section.duration("timeout")? })
    }
}

/// Why a claim's name is refused.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no claim: write names joined by dots, as in `realm_access.roles`")]
pub(in crate::config) struct ClaimError(String);

pub(in crate::config) fn claim(text: &str) -> Result<ClaimPath, ClaimError> {
    ClaimPath::parse(text).ok_or_else(|| ClaimError(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_a_word_and_every_word_an_algorithm() {
        let Kind::Word { words, .. } = ALGORITHM else { panic!("not words") };
        assert_eq!(words, Algorithm::ALL.map(Algorithm::name));
    }
}
