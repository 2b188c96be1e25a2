//! The keys of `[issuer.NAME]`, and how they become an [`Issuer`].

use super::{Algorithm, ClaimPath, Introspection, Issuer, KeyPolicy, UserStatus, WhenUnknown};
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

static USER_STATUS: Table = Table::one_of(&[Key::optional(
    "introspection",
    Kind::Table(&INTROSPECTION),
    "",
    "Asks an RFC 7662 server, Keycloak among them.",
)]);

static INTROSPECTION: Table = Table::of(&[
    Key::required(
        "client_id",
        Kind::Text("a client"),
        "The client that Postern introspects as. For Keycloak it must be in the tokens' `aud`.",
    )
    .example("\"gateway\""),
    Key::required("client_secret", Kind::Secret, "Its secret.").example("{ file = \"/run/secrets/keycloak\" }"),
    Key::default(
        "bound",
        Kind::at_least(Duration::from_secs(1)),
        "\"30s\"",
        "No request passes on an answer that was asked for longer ago.",
    ),
    Key::default("timeout", Kind::DURATION, "\"2s\"", "How long a request waits for an answer at most."),
    Key::default(
        "when_unknown",
        Kind::WordOr(&["deny"], &WHEN_UNKNOWN),
        "\"deny\"",
        "What happens when no answer is to be had: `deny` is 503.",
    ),
]);

static WHEN_UNKNOWN: Table = Table::of(&[Key::required(
    "allow_for",
    Kind::DURATION,
    "The last *active* answer for the same user holds this long, counted from that answer. Longer than `bound`.",
)
.example("\"5m\"")]);

impl Issuer {
    pub(in crate::config) fn read(name: &str, section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let url = reader.parse(section, "url", |text| web::issuer_url(text).map(|_| text.to_owned()));
        let address = reader.parse(section, "address", web::safe_origin);
        let endpoint_origins = reader.parse_all(section, "endpoint_origins", web::safe_origin);
        let roles_claims = reader.parse_all(section, "roles_claims", claim);
        let mut one_claim = |key| reader.parse(section, key, claim);
        let [groups_claim, namespace_claim, username_claim, email_claim] =
            ["groups_claim", "namespace_claim", "username_claim", "email_claim"].map(&mut one_claim);
        let keys = section.section("keys").and_then(|keys| KeyPolicy::read(keys, reader));
        let user_status = UserStatus::read(section, reader);
        let lightweight = section.flag("lightweight")?;
        if lightweight && matches!(user_status, Some(UserStatus::None)) {
            let mistake = Mistake::at(section.value_span("lightweight"), "`lightweight` needs introspection")
                .label("such tokens hold neither `sub` nor `aud`")
                .related(section.value_span("user_status"), "which would supply them");
            reader.note(mistake);
        }
        Some(Self {
            name: name.to_owned(),
            url: url?,
            audiences: section.strings("audience"),
            algorithms: section.texts("algorithms").filter_map(|name| Algorithm::from_name(name.value)).collect(),
            leeway: section.duration("leeway")?,
            max_token_age: section.duration("max_token_age"),
            address,
            ca: section.path("ca"),
            endpoint_origins: endpoint_origins.iter().map(|url| url.origin().ascii_serialization()).collect(),
            lightweight,
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

impl UserStatus {
    fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        match section.section("user_status") {
            None => section.text("user_status").map(|_| Self::None),
            Some(status) => Introspection::read(status.section("introspection")?, reader).map(Self::Introspection),
        }
    }
}

impl Introspection {
    fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let bound = section.duration("bound")?;
        let when_unknown = match section.section("when_unknown") {
            None => section.text("when_unknown").map(|_| WhenUnknown::Deny),
            Some(allow) => allow.duration("allow_for").map(|allow_for| {
                if allow_for <= bound {
                    let mistake = Mistake::at(allow.value_span("allow_for"), "`allow_for` is not longer than `bound`")
                        .label("an answer is as good as new until it is `bound` old")
                        .related(section.value_span("bound"), format!("`bound` is `{}`", duration_text(bound)));
                    reader.note(mistake);
                }
                WhenUnknown::AllowFor(allow_for)
            }),
        };
        Some(Self {
            client_id: section.text("client_id")?.value.to_owned(),
            client_secret: section.secret("client_secret")?,
            bound,
            timeout: section.duration("timeout")?,
            when_unknown: when_unknown?,
        })
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
