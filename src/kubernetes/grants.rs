//! What stands in each user's namespace beside the Secret of the token: the ServiceAccount in whose name the user acts through Postern,
//! the RoleBinding that gives it the ClusterRole of that name, and the Secret that its tokens are bound to.
//!
//! The ClusterRole is an administrator's (`deploy/kubernetes/rights-users.yaml`): Postern may bind it and nothing else. Each is read
//! first and written only if it is not right, by force: an edit by hand lasts until the next look.

use super::call::Target;
use super::connect::Cluster;
use super::error::KubernetesError;
use serde_json::{Value, json};

/// The ServiceAccount of the user, its RoleBinding, and the ClusterRole that is bound.
pub const USER_ACCOUNT: &str = "postern-user";

/// The Secret that the tokens of [`USER_ACCOUNT`] are bound to: where it is deleted, they are dead within seconds.
pub const SESSION: &str = "postern-session";

const CORE: &str = "api/v1";
const RBAC: &str = "apis/rbac.authorization.k8s.io/v1";

/// Makes the account and its binding, or puts them right. Whether there was anything to do.
///
/// # Errors
/// [`KubernetesError::Invalid`] if a RoleBinding of that name is there and refers to another role, which no apply can change.
pub async fn ensure(cluster: &Cluster, namespace: &str) -> Result<bool, KubernetesError> {
    let account = Target::object(CORE, Some(namespace), "serviceaccounts", USER_ACCOUNT)?;
    // Pods get no token of it: what acts for the user must end with the user's block.
    let wanted = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": false });
    let made = put_right(cluster, &account, namespace, wanted, &["automountServiceAccountToken"]).await?;
    let binding = Target::object(RBAC, Some(namespace), "rolebindings", USER_ACCOUNT)?;
    let wanted = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": USER_ACCOUNT },
        "subjects": [{ "kind": "ServiceAccount", "name": USER_ACCOUNT, "namespace": namespace }],
    });
    Ok(put_right(cluster, &binding, namespace, wanted, &["roleRef", "subjects"]).await? || made)
}

/// Makes the Secret [`SESSION`] where there is none. Whether there was none.
///
/// # Errors
/// [`KubernetesError::Terminating`] while the namespace is being deleted.
pub async fn open_session(cluster: &Cluster, namespace: &str) -> Result<bool, KubernetesError> {
    let target = Target::object(CORE, Some(namespace), "secrets", SESSION)?;
    let wanted = json!({ "apiVersion": "v1", "kind": "Secret", "type": "Opaque" });
    put_right(cluster, &target, namespace, wanted, &[]).await
}

/// Deletes the Secret [`SESSION`], whichever it is. One that is gone already is done.
///
/// # Errors
/// It may still be there.
pub async fn close_session(cluster: &Cluster, namespace: &str) -> Result<(), KubernetesError> {
    let target = Target::object(CORE, Some(namespace), "secrets", SESSION)?;
    cluster.delete(&target, &json!({})).await
}

/// Applies `wanted` unless it is there with these members as they are to be. Whether it was applied.
async fn put_right(
    cluster: &Cluster,
    target: &Target,
    namespace: &str,
    mut wanted: Value,
    members: &[&str],
) -> Result<bool, KubernetesError> {
    match cluster.get::<Value>(target).await {
        Ok(found) if members.iter().all(|name| found[name] == wanted[name]) => return Ok(false),
        Ok(_) | Err(KubernetesError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    wanted["metadata"] = json!({ "name": target.name(), "namespace": namespace });
    cluster.apply::<Value>(target, &wanted, true).await.map(|_| true)
}
