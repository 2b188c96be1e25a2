//! The Secret `access-token` of a user's namespace: made empty, filled, emptied, removed, and read back.
//!
//! It is output: nothing that stands in it is ever taken for true, since the user may edit it. What is recognised ([`Standing`]) is a
//! condition to be told, and the state a write is decided on.

use super::call::Target;
use super::connect::Cluster;
use super::error::{KubernetesError, Write};
use super::mark::{EPOCH_ANNOTATION, Mark, Owner};
use super::standing::{Fields, Standing};
use super::version::Version;
use crate::base::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// The name of the Secret in every user's namespace.
pub const SECRET: &str = "access-token";

/// Its key that holds the token.
pub const TOKEN_KEY: &str = "AUTH_TOKEN";

const GROUP: &str = "api/v1";
const KIND: &str = "secrets";

/// The Secret as it stands on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSecret {
    /// Where it is.
    pub namespace: String,
    /// The state that the next write is decided on.
    pub version: Version,
    /// Whose it says it is.
    pub mark: Mark,
    /// What stands in [`TOKEN_KEY`].
    pub content: Content,
    /// At which block epoch of its user it was written, as it says; 0: it does not.
    pub epoch: u64,
    /// Nothing can be written into it: `immutable`, or of a type that is not ours. Only removing it helps.
    pub is_fixed: bool,
    /// It is being deleted, and waits for somebody's finalizer.
    pub is_going: bool,
    pub(super) fields: Fields,
}

/// What stands in [`TOKEN_KEY`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The key is not there.
    Missing,
    /// There, and empty: before the first sign-in, and while the user is blocked.
    Empty,
    /// A token, or what somebody wrote instead.
    Token(Secret),
    /// No text.
    Unreadable,
}

impl UserSecret {
    /// How it stands for this user.
    pub fn standing(&self, owner: &Owner) -> Standing {
        self.fields.standing(&self.mark, owner)
    }

    /// Whether exactly this token stands in it.
    pub fn holds(&self, token: &Secret) -> bool {
        matches!(&self.content, Content::Token(held) if held == token)
    }

    /// Whether nobody can read a token from it.
    pub fn is_empty(&self) -> bool {
        matches!(self.content, Content::Empty | Content::Missing)
    }

    pub(super) fn of(object: core::Secret) -> Result<Self, KubernetesError> {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let what = format!("{KIND}/{namespace}/{SECRET}");
        let version = Version::of(&object.metadata, &what)?;
        let held = object.data.unwrap_or_default().remove(TOKEN_KEY);
        let content =
            match held.map(|bytes| String::from_utf8(bytes.0).map_err(|error| Zeroizing::new(error.into_bytes()))) {
                None => Content::Missing,
                Some(Ok(text)) if text.is_empty() => Content::Empty,
                Some(Ok(text)) => Content::Token(Secret::new(text)),
                Some(Err(_)) => Content::Unreadable,
            };
        let epoch = object.metadata.annotations.as_ref().and_then(|told| told.get(EPOCH_ANNOTATION)?.parse().ok());
        let is_ours_by_type = object.type_.as_deref().is_none_or(|kind| kind == "Opaque");
        Ok(Self {
            mark: Mark::of(&object.metadata),
            fields: Fields::of(&object.metadata),
            content,
            epoch: epoch.unwrap_or(0),
            is_fixed: object.immutable == Some(true) || !is_ours_by_type,
            is_going: object.metadata.deletion_timestamp.is_some(),
            namespace,
            version,
        })
    }
}

/// What a write was decided on, and for whom it is.
#[derive(Debug, Clone, Copy)]
pub struct Aim<'a> {
    /// Where the Secret is.
    pub namespace: &'a str,
    /// The state that was seen: in any other one nothing is written.
    pub on: &'a Version,
    /// Whose it is.
    pub owner: &'a Owner,
    /// Their block epoch, which is noted in the Secret.
    pub epoch: u64,
}

/// Reads and writes the Secrets of users.
#[derive(Clone)]
pub struct Secrets {
    cluster: Cluster,
}

impl Secrets {
    /// The Secrets of this cluster.
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster }
    }

    /// The Secret of a namespace, as the server holds it now; `None` if there is none, or no such namespace.
    ///
    /// # Errors
    /// All but [`KubernetesError::NotFound`].
    pub async fn read(&self, namespace: &str) -> Result<Option<UserSecret>, KubernetesError> {
        match self.cluster.get(&target(namespace)?).await {
            Ok(object) => UserSecret::of(object).map(Some),
            Err(KubernetesError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes the Secret, empty and marked, where [`Self::read`] found none.
    ///
    /// [`Write::Stale`] if there is one by now: what others put into it is left alone, and the next read tells how it stands.
    ///
    /// # Errors
    /// [`KubernetesError::NotFound`] without the namespace, [`KubernetesError::Terminating`] while it is being deleted.
    pub async fn create(&self, namespace: &str, owner: &Owner) -> Result<Write<UserSecret>, KubernetesError> {
        // An apply, since a right to create by POST cannot be limited to a name.
        let target = target(namespace)?;
        match Write::of(self.cluster.apply(&target, &body(namespace, None, owner, None), false).await)? {
            Write::Done(applied) if applied.is_new => {
                let made = UserSecret::of(applied.object)?;
                let is_kept = made.content == Content::Empty && made.mark.is_of(owner);
                if is_kept { Ok(Write::Done(made)) } else { Err(not_kept(&target)) }
            }
            Write::Done(_) | Write::Stale => Ok(Write::Stale),
            Write::Held { managers } => Ok(Write::Held { managers }),
        }
    }

    /// Puts a token in, and the mark where it was lost, if the Secret is still as it was seen. Never overrides what others have
    /// set: that is [`Write::Held`], and needs [`Self::empty`] before.
    ///
    /// # Errors
    /// [`KubernetesError::NotKept`] if the server holds something else than what was written.
    pub async fn fill(&self, aim: Aim<'_>, token: &Secret) -> Result<Write<UserSecret>, KubernetesError> {
        self.write(aim, Some(token), false).await
    }

    /// Takes the token out, if the Secret is still as it was seen. What others have set in our fields is overridden.
    ///
    /// # Errors
    /// As [`Self::fill`].
    pub async fn empty(&self, aim: Aim<'_>) -> Result<Write<UserSecret>, KubernetesError> {
        self.write(aim, None, true).await
    }

    async fn write(
        &self,
        aim: Aim<'_>,
        token: Option<&Secret>,
        force: bool,
    ) -> Result<Write<UserSecret>, KubernetesError> {
        let target = target(aim.namespace)?;
        let body = body(aim.namespace, Some((aim.on, aim.epoch)), aim.owner, token);
        match Write::of(self.cluster.apply(&target, &body, force).await)? {
            Write::Done(applied) => {
                let written = UserSecret::of(applied.object)?;
                let is_kept = match token {
                    Some(token) => written.holds(token),
                    None => written.content == Content::Empty,
                };
                let is_same = written.version.uid == aim.on.uid && written.epoch == aim.epoch;
                let is_kept = is_kept && is_same && written.mark.is_of(aim.owner);
                if is_kept { Ok(Write::Done(written)) } else { Err(not_kept(&target)) }
            }
            Write::Stale => Ok(Write::Stale),
            Write::Held { managers } => Ok(Write::Held { managers }),
        }
    }

    /// Removes the Secret, if it is still as it was seen. One that is gone already is done.
    ///
    /// # Errors
    /// All but a conflict, which is [`Write::Stale`].
    pub async fn delete(&self, namespace: &str, seen: &Version) -> Result<Write<()>, KubernetesError> {
        Write::of(self.cluster.delete(&target(namespace)?, &seen.preconditions()).await)
    }
}

fn target(namespace: &str) -> Result<Target, KubernetesError> {
    Target::object(GROUP, Some(namespace), KIND, SECRET)
}

/// All that we own of the Secret. `data`, never `stringData`: the owner of a field of `stringData` is not asked when `data` changes.
fn body(namespace: &str, seen: Option<(&Version, u64)>, owner: &Owner, token: Option<&Secret>) -> Value {
    let mut metadata = json!({
        "name": SECRET, "namespace": namespace, "labels": owner.labels(), "annotations": owner.annotations(),
    });
    if let Some((seen, epoch)) = seen {
        metadata["annotations"][EPOCH_ANNOTATION] = json!(epoch.to_string());
        // The uid keeps an apply from making the object anew after somebody deleted it.
        metadata["uid"] = json!(seen.uid);
        metadata["resourceVersion"] = json!(seen.resource_version);
    }
    let value = token.map_or_else(String::new, |token| STANDARD.encode(token.expose()));
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": { TOKEN_KEY: value } })
}

fn not_kept(target: &Target) -> KubernetesError {
    KubernetesError::NotKept { what: target.what().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_written_as_data_with_the_state_it_was_decided_on() {
        let seen = Version { uid: "u1".to_owned(), resource_version: "7".to_owned() };
        let owner = Owner::new("main", "alice");
        let body = body("team-a", Some((&seen, 3)), &owner, Some(&Secret::new("abc")));
        assert_eq!(body["data"], json!({ "AUTH_TOKEN": "YWJj" }));
        assert_eq!((&body["metadata"]["uid"], &body["metadata"]["resourceVersion"]), (&json!("u1"), &json!("7")));
        assert_eq!(body["metadata"]["annotations"][EPOCH_ANNOTATION], json!("3"));
        assert!(body.get("stringData").is_none());
    }

    #[test]
    fn a_secret_is_never_formatted_with_its_token() {
        let object = json!({ "metadata": { "namespace": "a", "uid": "u", "resourceVersion": "1" },
            "data": { "AUTH_TOKEN": STANDARD.encode("hunter2"), "other": STANDARD.encode("hunter3") } });
        let secret = UserSecret::of(serde_json::from_value(object).unwrap()).unwrap();
        assert!(secret.holds(&Secret::new("hunter2")));
        assert!(!format!("{secret:?}").contains("hunter"));
    }

    #[test]
    fn what_is_no_token_and_what_cannot_be_written_to_is_told() {
        let read = |change: Value| {
            let mut object =
                json!({ "metadata": { "namespace": "a", "uid": "u", "resourceVersion": "1" }, "type": "Opaque" });
            object.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            UserSecret::of(serde_json::from_value(object).unwrap()).unwrap()
        };
        assert_eq!(read(json!({})).content, Content::Missing);
        assert_eq!(read(json!({ "data": { "AUTH_TOKEN": "" } })).content, Content::Empty);
        assert_eq!(read(json!({ "data": { "AUTH_TOKEN": "/w==" } })).content, Content::Unreadable);
        assert!(read(json!({ "immutable": true })).is_fixed);
        assert!(read(json!({ "type": "kubernetes.io/tls" })).is_fixed);
        assert!(!read(json!({})).is_fixed);
    }
}
