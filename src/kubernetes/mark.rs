//! The mark by which Postern knows what it made, and for whom.

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The label that selects all that is ours: what it says is derived from the two annotations.
pub const USER_LABEL: &str = "postern.dev/user";

/// The annotation that holds the issuer's name in the configuration.
pub const ISSUER_ANNOTATION: &str = "postern.dev/issuer";

/// The annotation that holds `sub`.
pub const SUBJECT_ANNOTATION: &str = "postern.dev/subject";

/// The annotation that holds the user's block epoch at which a Secret was written. A block changes it, so no write that was decided on
/// before is done after, not even into a Secret that was empty already.
pub const EPOCH_ANNOTATION: &str = "postern.dev/epoch";

/// The user for whom something is made: the issuer's name in the configuration, and `sub`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// NAME of `[issuer.NAME]`.
    pub issuer: String,
    /// `sub`: any text.
    pub subject: String,
}

/// What an object says about whose it is. A user who may edit the object may have written it, so it is never proof of anything
/// but that an object without our mark is not ours to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Label and annotations agree.
    Of(Owner),
    /// Parts of a mark that do not agree, or not all of them.
    Broken,
    /// Nothing.
    None,
}

impl Owner {
    /// The user of these names.
    pub fn new(issuer: impl Into<String>, subject: impl Into<String>) -> Self {
        Self { issuer: issuer.into(), subject: subject.into() }
    }

    /// What the label says: a subject may be any text, a label may not.
    pub fn label(&self) -> String {
        // A NUL is in no name of an issuer, so two users never make the same text.
        let hash = digest(&SHA256, format!("{}\0{}", self.issuer, self.subject).as_bytes());
        let mut label = String::from("u");
        for byte in &hash.as_ref()[..16] {
            let _ = write!(label, "{byte:02x}");
        }
        label
    }

    /// `metadata.labels` of what is made for this user.
    pub(super) fn labels(&self) -> Value {
        json!({ USER_LABEL: self.label() })
    }

    /// `metadata.annotations` of what is made for this user.
    pub(super) fn annotations(&self) -> Value {
        json!({ ISSUER_ANNOTATION: self.issuer, SUBJECT_ANNOTATION: self.subject })
    }
}

impl Mark {
    /// The mark of an object.
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        let label = meta.labels.as_ref().and_then(|labels| labels.get(USER_LABEL));
        let annotation = |name| meta.annotations.as_ref().and_then(|annotations| annotations.get(name));
        match (label, annotation(ISSUER_ANNOTATION), annotation(SUBJECT_ANNOTATION)) {
            (None, None, None) => Self::None,
            (Some(label), Some(issuer), Some(subject)) => {
                let owner = Owner::new(issuer, subject);
                if owner.label() == *label { Self::Of(owner) } else { Self::Broken }
            }
            _ => Self::Broken,
        }
    }

    /// Whether it is the whole mark of this user.
    pub fn is_of(&self, owner: &Owner) -> bool {
        matches!(self, Self::Of(marked) if marked == owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(owner: &Owner) -> ObjectMeta {
        serde_json::from_value(json!({ "labels": owner.labels(), "annotations": owner.annotations() })).unwrap()
    }

    #[test]
    fn a_mark_names_its_user_whatever_the_subject_holds() {
        for subject in ["b7a1", "ü ö/\n", &"x".repeat(255)] {
            let owner = Owner::new("main", subject);
            assert!(Mark::of(&meta(&owner)).is_of(&owner));
            assert!(owner.label().len() <= 63);
        }
    }

    #[test]
    fn a_mark_that_lost_a_part_or_names_another_is_broken() {
        let (alice, bob) = (Owner::new("main", "alice"), Owner::new("main", "bob"));
        let mut stripped = meta(&alice);
        stripped.labels = None;
        assert_eq!(Mark::of(&stripped), Mark::Broken);
        let mut mixed = meta(&alice);
        mixed.annotations = meta(&bob).annotations;
        assert_eq!(Mark::of(&mixed), Mark::Broken);
        assert_eq!(Mark::of(&ObjectMeta::default()), Mark::None);
    }

    #[test]
    fn users_whose_names_join_to_the_same_text_have_different_labels() {
        assert_ne!(Owner::new("a", "b c").label(), Owner::new("a b", "c").label());
        assert_ne!(Owner::new("main", "1").label(), Owner::new("other", "1").label());
    }
}
