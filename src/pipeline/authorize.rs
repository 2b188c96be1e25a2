//! Stage 6: the route's own demands, held against the caller as the issuer describes them now. Pure.

use super::reject::Rejection;
use crate::config::Requirements;
use crate::identity::Identity;
use crate::telemetry::reason::Reason;
use serde_json::Value;

/// Whether the caller meets every requirement.
///
/// # Errors
/// 403 with the kind of the first requirement that is not met.
pub fn authorize(required: &Requirements, caller: &Identity) -> Result<(), Rejection> {
    let holds = |list: &[String], wanted: &String| list.contains(wanted);
    let any = |wanted: &[String], held: &[String]| wanted.is_empty() || wanted.iter().any(|name| holds(held, name));
    if !any(&required.any_role, &caller.roles) || !required.all_roles.iter().all(|role| holds(&caller.roles, role)) {
        return Err(Reason::RoleMissing.into());
    }
    if !any(&required.any_group, &caller.groups) {
        return Err(Reason::GroupMissing.into());
    }
    if !required.all_scopes.iter().all(|scope| holds(&caller.scopes, scope)) {
        return Err(Reason::ScopeMissing.into());
    }
    let has_value = |held: &Value, wanted: &Value| match held {
        Value::Array(list) => list.contains(wanted),
        held => held == wanted,
    };
    for (path, wanted) in &required.claims {
        if !caller.claim(path).is_some_and(|held| has_value(held, wanted)) {
            return Err(Reason::ClaimMissing.into());
        }
    }
    let own = caller.namespace.as_ref();
    if !required.namespaces.is_empty() && !own.is_some_and(|own| required.namespaces.contains(own)) {
        return Err(Reason::NamespaceMissing.into());
    }
    Ok(())
}
