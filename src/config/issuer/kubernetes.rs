//! What an issuer of kind `kubernetes` has of its own, and what it cannot have.

use super::IssuerKind;
use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::reader::Reader;
use crate::config::route::beginning;
use crate::config::secrets;
use crate::config::tree::Section;

/// `token`. A file and nothing else: the kubelet replaces the token while Postern runs.
pub(super) static TOKEN: Table = Table::of(&[Key::required(
    "file",
    Kind::Path,
    "The file that holds it. It is read anew for each fetch, so a token that is replaced in time needs no reload.",
)
.example("\"/var/run/secrets/kubernetes.io/serviceaccount/token\"")]);

/// What says nothing of a service account, or needs what an API server has not, and why.
const FOREIGN: &[(&str, &str)] = &[
    ("lightweight", "its tokens hold everything"),
    ("opaque", "its tokens are JWTs"),
    ("roles_claims", "service accounts have no roles; a route can ask for their namespace or group"),
    ("groups_claim", "a service account's groups follow from its namespace"),
    ("namespace_claim", "a service account's namespace is that of `sub`"),
    ("username_claim", "a service account's name is `sub`"),
    ("email_claim", "service accounts have no e-mail address"),
];

/// `kind` with what belongs to it.
pub(super) fn read_kind(section: &Section, reader: &mut Reader<'_>) -> Option<IssuerKind> {
    if section.text("kind")?.value != "kubernetes" {
        if section.is_given("token") {
            let mistake =
                Mistake::at(section.key_span("token"), "only an issuer of kind `kubernetes` is shown a token");
            reader.note(mistake.help("keys of other issuers are public"));
        }
        if section.is_given("user_tokens") {
            let mistake = Mistake::at(section.key_span("user_tokens"), "only issuers of kind `kubernetes` have pods");
            reader.note(mistake.help("users of other issuers get their own token without this key"));
        }
        return Some(IssuerKind::Oidc);
    }
    let user_tokens = reader.parse_all(section, "user_tokens", beginning);
    let Some(token) = section.section("token") else {
        return (!section.is_given("token")).then_some(IssuerKind::Kubernetes { token: None, user_tokens });
    };
    let file = token.path("file")?;
    // Not among the files that a change of which is a reload: it changes each hour, and nothing else with it.
    reader.keep(&token.value_span("file"), secrets::from_file(&file))?;
    Some(IssuerKind::Kubernetes { token: Some(file), user_tokens })
}

/// Notes what an issuer of this kind cannot have.
pub(super) fn check(section: &Section, reader: &mut Reader<'_>) {
    let of_kind = |mistake: Mistake| mistake.related(section.value_span("kind"), "the issuer is of kind `kubernetes`");
    for (key, label) in FOREIGN {
        // `lightweight = false` says nothing wrong.
        let is_refusal = matches!(*key, "lightweight" | "opaque") && section.flag(key) == Some(false);
        if section.is_given(key) && !is_refusal {
            let mistake = Mistake::at(section.key_span(key), format!("`{key}` means nothing for kind `kubernetes`"));
            reader.note(of_kind(mistake.label(*label)));
        }
    }
    if section.section("user_status").is_some() {
        let mistake = Mistake::at(section.value_span("user_status"), "an API server cannot be introspected");
        let help =
            "write `user_status = \"none\"`: a token is good until it expires, or until `warnafter` if it says so";
        reader.note(of_kind(mistake).help(help));
    }
}
