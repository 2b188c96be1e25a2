//! What stands in each user's namespace beside the Secret: the ServiceAccount in whose name the user acts through Postern, what it
//! may do, and a Role for whoever is to read the token.
//!
//! These are a fence, so they are applied by force: an edit by hand lasts until the next look. Applying what is there already writes
//! nothing. The account that applies them must itself hold these rights, or the verbs `escalate` and `bind` on these names.

use super::call::Target;
use super::connect::Cluster;
use super::error::KubernetesError;
use super::mark::Owner;
use super::secrets::SECRET;
use serde_json::{Value, json};

/// The ServiceAccount of the user, its Role, and the RoleBinding between them.
pub const USER_ACCOUNT: &str = "postern-user";

/// The Role that may read the Secret `access-token` and nothing else. Nobody is bound to it until somebody binds.
pub const READER_ROLE: &str = "postern-token-reader";

const RBAC: &str = "apis/rbac.authorization.k8s.io/v1";

/// Makes what a namespace of `owner` needs, or puts it right.
///
/// # Errors
/// [`KubernetesError::Invalid`] if a RoleBinding of that name is there and refers to another Role, which no apply can change.
pub async fn ensure(cluster: &Cluster, namespace: &str, owner: &Owner) -> Result<(), KubernetesError> {
    let objects = [
        ("api/v1", "serviceaccounts", USER_ACCOUNT, account()),
        (RBAC, "roles", USER_ACCOUNT, role(&user_rules())),
        (RBAC, "roles", READER_ROLE, role(&reader_rules())),
        (RBAC, "rolebindings", USER_ACCOUNT, binding(namespace)),
    ];
    for (group, kind, name, mut body) in objects {
        body["metadata"] = json!({
            "name": name, "namespace": namespace, "labels": owner.labels(), "annotations": owner.annotations(),
        });
        let target = Target::object(group, Some(namespace), kind, name)?;
        cluster.apply::<Value>(&target, &body, true).await?;
    }
    Ok(())
}

fn account() -> Value {
    // Pods get no token of it: what acts for the user must end with the user's block.
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": false })
}

fn role(rules: &Value) -> Value {
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": rules })
}

fn binding(namespace: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": USER_ACCOUNT },
        "subjects": [{ "kind": "ServiceAccount", "name": USER_ACCOUNT, "namespace": namespace }],
    })
}

/// What a user may do through Postern. No ServiceAccounts, tokens, impersonation, Roles or bindings; no Secrets either, since a Secret
/// of type `kubernetes.io/service-account-token` would outlive the user's block.
pub fn user_rules() -> Value {
    let all = json!(["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]);
    let look = json!(["get", "list", "watch"]);
    let run = json!(["get", "create"]);
    json!([
        { "apiGroups": [""], "resources": ["pods", "services", "configmaps", "persistentvolumeclaims"], "verbs": all },
        { "apiGroups": [""], "resources": ["pods/log", "pods/status", "events", "endpoints"], "verbs": look },
        { "apiGroups": [""], "resources": ["pods/exec", "pods/attach", "pods/portforward"], "verbs": run },
        { "apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "daemonsets", "replicasets"], "verbs": all },
        { "apiGroups": ["apps"], "resources": ["deployments/scale", "statefulsets/scale"],
          "verbs": ["get", "update", "patch"] },
        { "apiGroups": ["batch"], "resources": ["jobs", "cronjobs"], "verbs": all },
        { "apiGroups": ["networking.k8s.io"], "resources": ["ingresses"], "verbs": all },
        { "apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": all },
        { "apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": look },
    ])
}

fn reader_rules() -> Value {
    json!([{ "apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["get"] }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_gets_no_right_over_secrets_accounts_tokens_or_rights() {
        for rule in user_rules().as_array().unwrap() {
            for resource in rule["resources"].as_array().unwrap() {
                let resource = resource.as_str().unwrap();
                let forbidden = ["secrets", "serviceaccounts", "token", "role", "*", "namespaces", "nodes"];
                assert!(!forbidden.iter().any(|part| resource.contains(part)), "{resource}");
            }
            for verb in rule["verbs"].as_array().unwrap() {
                assert!(!["*", "impersonate", "escalate", "bind"].contains(&verb.as_str().unwrap()), "{verb}");
            }
        }
    }
}
