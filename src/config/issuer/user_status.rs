//! `issuer.NAME.user_status`: how it is known that a token's user is still enabled.

use crate::base::secret::Secret;
use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::reader::Reader;
use crate::config::scalar::duration_text;
use crate::config::tree::Section;
use crate::config::web;
use std::time::Duration;
use url::Url;

/// `user_status`: how it is known that a token's user is still enabled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserStatus {
    /// The word `"none"`: it is not known; a token is good until it expires.
    None,
    /// `{ introspection = { … } }`: any RFC 7662 server. Knows the end of sessions only.
    Introspection(Introspection),
    /// `{ keycloak = { … } }`: Keycloak, by introspection and by its Admin API. Knows users as well.
    Keycloak(Keycloak),
}

/// What `user_status.introspection` and `user_status.keycloak` have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introspection {
    /// `client_id` that Postern introspects with. For Keycloak it must be in the tokens' `aud`.
    pub client_id: String,
    /// `client_secret`: `{ file = "…" }` or `{ env = "…" }`.
    pub client_secret: Secret,
    /// `bound`: no request passes on an answer that was asked for longer ago. Default `30s`.
    pub bound: Duration,
    /// `timeout`: how long a request waits for an answer at most. Default `2s`.
    pub timeout: Duration,
    /// `when_unknown`. Default `"deny"`.
    pub when_unknown: WhenUnknown,
}

/// `user_status.keycloak`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keycloak {
    /// The keys that it shares with `user_status.introspection`. The client has a service account that may read users and
    /// events.
    pub introspection: Introspection,
    /// `admin_url`: the realm in the Admin API, without a final slash. Default: `url` with `/admin/realms/` for `/realms/`, at
    /// `address` if that is given. Has the origin of `url` or `address`, or one of `endpoint_origins`.
    pub admin_url: Url,
    /// `max_calls_per_second`: the ceiling of calls about users, introspection and reads together. Default 100.
    pub max_calls_per_second: u32,
    /// `end_sessions = true`: the client that ends a user's old sessions at Keycloak on block and on lift: that of
    /// `end_sessions_client`, else the one above. Default: they are left to end.
    pub end_sessions: Option<EndSessions>,
    /// `backchannel_logout = { clients = […] }`: login clients whose logout tokens are accepted; never empty. Default: no logout
    /// token is accepted.
    pub backchannel_clients: Option<Vec<String>>,
}

/// A client that may manage users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndSessions {
    /// `client_id`.
    pub client_id: String,
    /// `client_secret`.
    pub client_secret: Secret,
}

/// What happens to a request whose user's status cannot be learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenUnknown {
    /// `"deny"`: 503.
    Deny,
    /// `{ allow_for = "5m" }`: the last *active* answer for the same user holds this long, counted from that answer.
    AllowFor(Duration),
}

impl Keycloak {
    /// For how many tokens in use at the same time the bound surely holds: half of the calls are kept for asking about them again,
    /// each once in two thirds of `bound`.
    pub fn tokens_in_use(&self) -> u64 {
        let bound_ms = u64::try_from(self.introspection.bound.as_millis()).unwrap_or(u64::MAX);
        u64::from(self.max_calls_per_second).saturating_mul(bound_ms) / 3000
    }
}

impl UserStatus {
    /// How tokens are introspected, if they are.
    pub fn introspection(&self) -> Option<&Introspection> {
        match self {
            Self::None => None,
            Self::Introspection(introspection) => Some(introspection),
            Self::Keycloak(keycloak) => Some(&keycloak.introspection),
        }
    }

    /// What Keycloak's Admin API is asked with, if it is.
    pub fn keycloak(&self) -> Option<&Keycloak> {
        match self {
            Self::Keycloak(keycloak) => Some(keycloak),
            Self::None | Self::Introspection(_) => None,
        }
    }
}

/// A value of `user_status` that is no word.
pub(super) static USER_STATUS: Table = Table::one_of(&[
    Key::optional(
        "introspection",
        Kind::Table(&INTROSPECTION),
        "",
        "Asks any RFC 7662 server about each token. It knows the end of sessions only.",
    ),
    Key::optional(
        "keycloak",
        Kind::Table(&KEYCLOAK),
        "",
        "Asks Keycloak about each token and each user, and follows its events.",
    ),
]);

static INTROSPECTION: Table = Table::of(&[CLIENT_ID, CLIENT_SECRET, BOUND, TIMEOUT, ON_UNKNOWN]);

static KEYCLOAK: Table = Table::of(&[
    CLIENT_ID,
    CLIENT_SECRET,
    BOUND,
    TIMEOUT,
    ON_UNKNOWN,
    Key::optional(
        "admin_url",
        Kind::Text("a URL"),
        "`url` with `/admin/realms/` for `/realms/`, at `address` if that is given",
        "The realm in the Admin API. Its origin is that of `url` or `address`, or one of `endpoint_origins`.",
    )
    .example("\"https://keycloak.example.com/admin/realms/demo\""),
    Key::default(
        "max_calls_per_second",
        Kind::Integer { least: 1, most: 10_000 },
        "100",
        "The ceiling of calls about users. Half of it is kept for tokens in use, each of which is asked about before it \
         is `bound` old; `postern check` says for how many that is enough.",
    ),
    Key::default(
        "end_sessions",
        Kind::Flag,
        "false",
        "End a blocked user's sessions at Keycloak too. Needs a client that may manage users.",
    ),
    Key::optional(
        "end_sessions_client",
        Kind::Table(&END_SESSIONS_CLIENT),
        "the client above",
        "The client that may manage users, for `end_sessions`.",
    ),
    Key::optional(
        "backchannel_logout",
        Kind::Table(&BACKCHANNEL_LOGOUT),
        "no logout token is accepted",
        "OpenID Connect Back-Channel Logout, taken at `/backchannel-logout/NAME` under `token_service.issuer`.",
    ),
]);

const CLIENT_ID: Key = Key::required(
    "client_id",
    Kind::Text("a client"),
    "The client that Postern asks as. For Keycloak it must be in the tokens' `aud`.",
)
.example("\"gateway\"");

const CLIENT_SECRET: Key =
    Key::required("client_secret", Kind::Secret, "Its secret.").example("{ file = \"/run/secrets/keycloak\" }");

const BOUND: Key = Key::default(
    "bound",
    Kind::at_least(Duration::from_secs(1)),
    "\"30s\"",
    "No request passes on an answer that was asked for longer ago.",
);

const TIMEOUT: Key =
    Key::default("timeout", Kind::DURATION, "\"2s\"", "How long a request waits for an answer at most.");

const ON_UNKNOWN: Key = Key::default(
    "when_unknown",
    Kind::WordOr(&["deny"], &WHEN_UNKNOWN),
    "\"deny\"",
    "What happens when no answer is to be had: `deny` is 503.",
);

static WHEN_UNKNOWN: Table = Table::of(&[Key::required(
    "allow_for",
    Kind::DURATION,
    "The last *active* answer for the same user holds this long, counted from that answer. Longer than `bound`.",
)
.example("\"5m\"")]);

static END_SESSIONS_CLIENT: Table = Table::of(&[
    Key::required("client_id", Kind::Text("a client"), "The client.").example("\"gateway-manage-users\""),
    Key::required("client_secret", Kind::Secret, "Its secret.").example("{ file = \"/run/secrets/manage-users\" }"),
]);

static BACKCHANNEL_LOGOUT: Table = Table::of(&[Key::required(
    "clients",
    Kind::list(&Kind::Text("a client")),
    "The login clients whose logout tokens are accepted: the `aud` of those tokens.",
)
.example("[\"cli\"]")]);

/// Where the issuer is: what bears on where its client secret may be sent.
pub(super) struct Place<'a> {
    /// Absent where it was wrong.
    pub(super) url: Option<&'a str>,
    pub(super) address: Option<&'a Url>,
    pub(super) endpoint_origins: &'a [String],
}

impl UserStatus {
    pub(super) fn read(issuer: &Section, place: &Place<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(status) = issuer.section("user_status") else {
            return issuer.text("user_status").map(|_| Self::None);
        };
        match status.section("keycloak") {
            Some(keycloak) => Keycloak::read(keycloak, issuer, place, reader).map(Self::Keycloak),
            None => Introspection::read(status.section("introspection")?, reader).map(Self::Introspection),
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

impl Keycloak {
    fn read(section: &Section, issuer: &Section, place: &Place<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let introspection = Introspection::read(section, reader);
        let admin_url = read_admin_url(section, issuer, place, reader);
        let is_ended = section.flag("end_sessions")?;
        let other = section.section("end_sessions_client").and_then(EndSessions::read);
        if !is_ended && section.is_given("end_sessions_client") {
            let mistake = Mistake::at(section.key_span("end_sessions_client"), "no session is ended by this client");
            reader.note(mistake.help("write `end_sessions = true` beside it"));
        }
        let backchannel_clients = match section.section("backchannel_logout") {
            Some(logout) => Some(logout.value("clients").map(|_| logout.strings("clients"))?),
            None => None,
        };
        let introspection = introspection?;
        let end_sessions = match (is_ended, section.is_given("end_sessions_client")) {
            (false, _) => None,
            (true, true) => Some(other?),
            (true, false) => Some(EndSessions {
                client_id: introspection.client_id.clone(),
                client_secret: introspection.client_secret.clone(),
            }),
        };
        let bound = introspection.bound;
        let keycloak = Self {
            introspection,
            admin_url: admin_url?,
            max_calls_per_second: section.integer("max_calls_per_second")?,
            end_sessions,
            backchannel_clients,
        };
        if keycloak.tokens_in_use() == 0 {
            let place = section.value_span("max_calls_per_second");
            let mistake = Mistake::at(place, "with so few calls `bound` cannot be kept for a single token");
            let label = format!("`bound` is `{}`", duration_text(bound));
            reader.note(mistake.related(section.value_span("bound"), label));
        }
        Some(keycloak)
    }
}

impl EndSessions {
    fn read(section: &Section) -> Option<Self> {
        Some(Self {
            client_id: section.text("client_id")?.value.to_owned(),
            client_secret: section.secret("client_secret")?,
        })
    }
}

/// No client secret goes elsewhere than where the issuer is, or where the operator says that its endpoints are.
fn read_admin_url(section: &Section, issuer: &Section, place: &Place<'_>, reader: &mut Reader<'_>) -> Option<Url> {
    if !section.is_given("admin_url") {
        let derived = derived_admin_url(place.url?, place.address);
        if derived.is_none() {
            let mistake = Mistake::at(section.span.clone(), "missing key `admin_url` in `user_status.keycloak`")
                .related(issuer.value_span("url"), "this is no `…/realms/NAME`, so its Admin API is not known")
                .help("write it: `admin_url = \"https://keycloak.example.com/admin/realms/demo\"`");
            reader.note(mistake.absence());
        }
        return derived;
    }
    let url = reader.parse(section, "admin_url", |text| web::issuer_url(text.trim_end_matches('/')))?;
    let origin = url.origin().ascii_serialization();
    let own = [Url::parse(place.url?).ok().map(|url| url.origin()), place.address.map(Url::origin)];
    let is_own = own.into_iter().flatten().any(|own| own == url.origin());
    if !is_own && !place.endpoint_origins.contains(&origin) {
        let mistake = Mistake::at(section.value_span("admin_url"), format!("`{origin}` is not the issuer's origin"))
            .label("Postern would send its client's token there")
            .related(issuer.value_span("url"), "the issuer")
            .help(format!("if that is meant, write `endpoint_origins = [\"{origin}\"]` in the issuer's section"));
        reader.note(mistake);
    }
    Some(url)
}

/// `…/realms/NAME` is `…/admin/realms/NAME` in the Admin API.
fn derived_admin_url(url: &str, address: Option<&Url>) -> Option<Url> {
    let (front, realm) = url.trim_end_matches('/').rsplit_once("/realms/")?;
    if realm.is_empty() || realm.contains('/') {
        return None;
    }
    let public = Url::parse(&format!("{front}/admin/realms/{realm}")).ok()?;
    match address {
        Some(address) => address.join(public.path()).ok(),
        None => Some(public),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, address: Option<&str>, expected: Option<&str>) {
        let address = address.map(|address| Url::parse(address).unwrap());
        assert_eq!(derived_admin_url(url, address.as_ref()).as_ref().map(Url::as_str), expected, "{url}");
    }

    #[test]
    fn half_of_the_calls_in_two_thirds_of_the_bound_are_for_those_in_use() {
        let keycloak = |max_calls_per_second, bound| Keycloak {
            introspection: Introspection {
                client_id: "gateway".into(),
                client_secret: Secret::new("secret"),
                bound: Duration::from_secs(bound),
                timeout: Duration::from_secs(2),
                when_unknown: WhenUnknown::Deny,
            },
            admin_url: Url::parse("https://kc/admin/realms/demo").unwrap(),
            max_calls_per_second,
            end_sessions: None,
            backchannel_clients: None,
        };
        for (calls, bound, tokens) in [(100, 30, 1000), (10_000, 30, 100_000), (500, 30, 5000), (1, 3, 1), (1, 2, 0)] {
            assert_eq!(keycloak(calls, bound).tokens_in_use(), tokens, "{calls} {bound}");
        }
    }

    #[test]
    fn the_admin_api_of_a_realm_is_beside_it() {
        check("https://kc/realms/demo", None, Some("https://kc/admin/realms/demo"));
        check("https://kc/auth/realms/demo/", None, Some("https://kc/auth/admin/realms/demo"));
        check("https://kc/realms/realms", None, Some("https://kc/admin/realms/realms"));
        check("https://kc/realms/demo", Some("https://kc.svc:8443"), Some("https://kc.svc:8443/admin/realms/demo"));
        check("https://kc/demo", None, None);
        check("https://kc/realms/", None, None);
        check("https://kc/realms/a/b", None, None);
    }
}
