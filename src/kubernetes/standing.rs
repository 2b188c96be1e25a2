//! How an object stands that others may edit too, by its mark and by what the server noted of who set which field.

use super::call::MANAGER;
use super::mark::{EPOCH_ANNOTATION, ISSUER_ANNOTATION, Mark, Owner, SUBJECT_ANNOTATION, USER_LABEL};
use super::secrets::TOKEN_KEY;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

/// How a Secret stands for one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Marked for this user, and nobody else has set a field of ours.
    Ours,
    /// Marked for this user; others have set fields of ours, by hand or with a tool.
    Edited {
        /// Their names as field managers, each once.
        by: Vec<String>,
    },
    /// Written by us, as the server noted, but the mark is gone or broken.
    Stripped,
    /// Marked for another user.
    Another(Owner),
    /// Made by others: neither our mark nor anything that we wrote.
    Foreign,
}

/// Who set the fields that are ours to set. From `metadata.managedFields`, which the server keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    has_written: bool,
    others: Vec<String>,
}

impl Fields {
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        let mut fields = Self::default();
        for entry in meta.managed_fields.iter().flatten() {
            let Some(set) = entry.fields_v1.as_ref().map(|set| &set.0) else { continue };
            let touches_ours = sets_token(set) || sets_mark(set);
            let is_ours = entry.manager.as_deref() == Some(MANAGER) && entry.operation.as_deref() == Some("Apply");
            if is_ours {
                fields.has_written |= touches_ours;
            } else if touches_ours {
                let name = entry.manager.clone().unwrap_or_default();
                if !fields.others.contains(&name) {
                    fields.others.push(name);
                }
            }
        }
        fields
    }

    pub(super) fn standing(&self, mark: &Mark, owner: &Owner) -> Standing {
        match mark {
            Mark::Of(marked) if marked != owner => Standing::Another(marked.clone()),
            Mark::Of(_) if self.others.is_empty() => Standing::Ours,
            Mark::Of(_) => Standing::Edited { by: self.others.clone() },
            Mark::Broken | Mark::None if self.has_written => Standing::Stripped,
            // A broken mark that somebody else wrote makes nothing ours.
            Mark::Broken | Mark::None => Standing::Foreign,
        }
    }
}

fn sets_token(set: &Value) -> bool {
    has(set, &["f:data", &format!("f:{TOKEN_KEY}")]) || has(set, &["f:stringData", &format!("f:{TOKEN_KEY}")])
}

fn sets_mark(set: &Value) -> bool {
    has(set, &["f:metadata", "f:labels", &format!("f:{USER_LABEL}")])
        || has(set, &["f:metadata", "f:annotations", &format!("f:{EPOCH_ANNOTATION}")])
        || has(set, &["f:metadata", "f:annotations", &format!("f:{ISSUER_ANNOTATION}")])
        || has(set, &["f:metadata", "f:annotations", &format!("f:{SUBJECT_ANNOTATION}")])
}

fn has(set: &Value, path: &[&str]) -> bool {
    path.iter().try_fold(set, |at, name| at.get(name)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn alice() -> Owner {
        Owner::new("main", "alice")
    }

    fn check(marked: Option<&Owner>, managed: Value) -> Standing {
        let mut meta = json!({ "managedFields": managed });
        if let Some(owner) = marked {
            meta["labels"] = owner.labels();
            meta["annotations"] = owner.annotations();
        }
        let meta: ObjectMeta = serde_json::from_value(meta).unwrap();
        Fields::of(&meta).standing(&Mark::of(&meta), &alice())
    }

    fn sets(manager: &str, operation: &str, key: &str) -> Value {
        json!({ "manager": manager, "operation": operation, "fieldsV1": { "f:data": { ".": {}, key: {} } } })
    }

    #[test]
    fn a_token_that_others_wrote_is_edited_and_other_keys_are_nobodys_business() {
        let ours = sets("postern", "Apply", "f:AUTH_TOKEN");
        assert_eq!(check(Some(&alice()), json!([ours])), Standing::Ours);
        assert_eq!(check(Some(&alice()), json!([ours, sets("helm", "Update", "f:mine")])), Standing::Ours);
        let edited = check(Some(&alice()), json!([sets("kubectl-edit", "Update", "f:AUTH_TOKEN")]));
        assert_eq!(edited, Standing::Edited { by: vec!["kubectl-edit".to_owned()] });
        let epoch = json!({ "f:metadata": { "f:annotations": { "f:postern.dev/epoch": {} } } });
        let noted = json!({ "manager": "kubectl-annotate", "operation": "Update", "fieldsV1": epoch });
        let edited = check(Some(&alice()), json!([ours, noted]));
        assert_eq!(edited, Standing::Edited { by: vec!["kubectl-annotate".to_owned()] });
    }

    #[test]
    fn a_manager_that_calls_itself_as_we_do_but_does_not_apply_is_another() {
        let edited = check(Some(&alice()), json!([sets("postern", "Update", "f:AUTH_TOKEN")]));
        assert_eq!(edited, Standing::Edited { by: vec!["postern".to_owned()] });
    }

    #[test]
    fn without_its_mark_only_what_we_wrote_is_ours() {
        assert_eq!(check(None, json!([sets("postern", "Apply", "f:AUTH_TOKEN")])), Standing::Stripped);
        assert_eq!(check(None, json!([sets("kubectl", "Update", "f:AUTH_TOKEN")])), Standing::Foreign);
        assert_eq!(check(None, json!([])), Standing::Foreign);
    }

    #[test]
    fn the_mark_of_another_user_stays_theirs() {
        let bob = Owner::new("main", "bob");
        let standing = check(Some(&bob), json!([sets("postern", "Apply", "f:AUTH_TOKEN")]));
        assert_eq!(standing, Standing::Another(bob));
    }
}
