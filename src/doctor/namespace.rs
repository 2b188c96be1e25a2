//! Whether users could choose the namespace that their tokens are for.

use super::Finding;
use crate::config::ClaimPath;
use crate::issuer::keycloak::{Profile, Unmanaged};

const PROMISE: &str = "nobody gets a token for the namespace of another: only administrators may edit it";

/// The attribute that the mapper reads is taken to be named as the claim.
pub(super) fn judge(profile: &Profile, claim: &ClaimPath) -> Vec<Finding> {
    let whole = claim.parts().join(".");
    let last = claim.parts().last().map(String::as_str).unwrap_or_default();
    let declared: Vec<_> =
        profile.attributes.iter().filter(|attribute| attribute.name == whole || attribute.name == last).collect();
    let mut findings = Vec::new();
    if let Some(attribute) = declared.iter().find(|attribute| attribute.is_edited_by_users) {
        let name = &attribute.name;
        let finding = Finding::broken("namespace", format!("users may edit their own attribute `{name}`"))
            .breaks(PROMISE)
            .remedy(format!(
                "Realm settings, User profile, Attributes, `{name}`, Permission: Who can edit: Admin alone"
            ));
        findings.push(finding);
    } else if let Some(attribute) = declared.first() {
        let text = format!("attribute `{}` is edited by administrators alone", attribute.name);
        findings.push(Finding::ok("namespace", text));
    } else if profile.unmanaged == Unmanaged::ForAdministrators {
        let text = format!("attribute `{last}` is not declared, and such attributes are for administrators alone");
        findings.push(Finding::ok("namespace", text));
    } else if profile.unmanaged == Unmanaged::Dropped {
        let text = format!("no attribute `{last}` is declared, so claim `{whole}` comes from elsewhere, if it comes");
        let remedy = "look at the mapper of that claim: what it reads only administrators may edit";
        findings.push(Finding::note("namespace", text).remedy(remedy));
    }
    if profile.unmanaged == Unmanaged::ForUsers {
        let remedy = "Realm settings, General, Unmanaged attributes: Disabled, or Only administrators can write";
        let finding = if declared.is_empty() {
            let text = format!("attribute `{last}` is not declared, and users may edit attributes that are not");
            Finding::broken("namespace", text).breaks(PROMISE)
        } else {
            let text = "users may edit attributes that are not declared";
            Finding::risk("namespace", text).breaks("claims that routes ask for are what administrators say")
        };
        findings.push(finding.remedy(remedy));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;
    use crate::issuer::keycloak::ProfileAttribute;

    #[track_caller]
    fn check(claim: &str, declared: Option<(&str, bool)>, unmanaged: Unmanaged, expected: &[Severity]) {
        let attribute =
            |(name, is_edited_by_users): (&str, bool)| ProfileAttribute { name: name.to_owned(), is_edited_by_users };
        let email = attribute(("email", true));
        let attributes = [email].into_iter().chain(declared.map(attribute)).collect();
        let findings = judge(&Profile { attributes, unmanaged }, &ClaimPath::parse(claim).unwrap());
        let severities: Vec<_> = findings.iter().map(|finding| finding.severity).collect();
        assert_eq!(severities, expected, "{findings:#?}");
    }

    #[test]
    fn a_namespace_that_users_may_edit_is_broken() {
        use Severity::{Broken, Ok};
        check("namespace", Some(("namespace", false)), Unmanaged::Dropped, &[Ok]);
        check("namespace", Some(("namespace", true)), Unmanaged::Dropped, &[Broken]);
        check("tenant.namespace", Some(("namespace", true)), Unmanaged::Dropped, &[Broken]);
        check("tenant.namespace", Some(("tenant.namespace", true)), Unmanaged::Dropped, &[Broken]);
    }

    #[test]
    fn attributes_that_are_not_declared_count_as_the_realm_treats_them() {
        use Severity::{Broken, Note, Ok, Risk};
        check("namespace", None, Unmanaged::ForUsers, &[Broken]);
        check("namespace", None, Unmanaged::ForAdministrators, &[Ok]);
        check("namespace", None, Unmanaged::Dropped, &[Note]);
        check("namespace", Some(("namespace", false)), Unmanaged::ForUsers, &[Ok, Risk]);
        check("namespace", Some(("namespace", true)), Unmanaged::ForUsers, &[Broken, Risk]);
    }
}
