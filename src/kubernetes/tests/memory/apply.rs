//! Server-side apply, as far as we use it.

use super::route::Route;
use super::store::{Answer, Store, Stored};
use super::{json_answer, status};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Who set a field: the manager, and whether by `Apply` or by `Update`.
type Owner = (String, &'static str);

/// Field owners, by the path of the field.
pub(crate) type Owners = BTreeMap<Vec<String>, BTreeSet<Owner>>;

/// Maps whose entries are owned one by one; everything else is owned as a whole.
const MAPS: &[&[&str]] = &[&["data"], &["metadata", "labels"], &["metadata", "annotations"]];

fn leaves(object: &Value) -> BTreeMap<Vec<String>, Value> {
    let mut found = BTreeMap::new();
    for path in MAPS {
        let map = path.iter().try_fold(object, |at, name| at.get(name)).and_then(Value::as_object);
        for (key, value) in map.into_iter().flatten() {
            let path = path.iter().map(|part| (*part).to_owned()).chain([key.clone()]).collect();
            found.insert(path, value.clone());
        }
    }
    for (key, value) in object.as_object().into_iter().flatten() {
        if !["apiVersion", "kind", "metadata", "data", "status"].contains(&key.as_str()) {
            found.insert(vec![key.clone()], value.clone());
        }
    }
    found
}

/// An overwrite: fields that change become the manager's alone, fields that go have no owner.
pub(crate) fn own_changes(stored: &mut Stored, object: &Value, manager: &str) {
    let (old, new) = (leaves(&stored.object), leaves(object));
    for (path, value) in &new {
        if old.get(path) != Some(value) {
            stored.owners.insert(path.clone(), BTreeSet::from([(manager.to_owned(), "Update")]));
        }
    }
    stored.owners.retain(|path, _| new.contains_key(path));
}

pub(crate) fn managed_fields(owners: &Owners) -> Value {
    let mut entries: BTreeMap<&Owner, Value> = BTreeMap::new();
    for (path, by) in owners {
        for owner in by {
            let mut at = entries.entry(owner).or_insert_with(|| json!({}));
            for part in path {
                at = &mut at[format!("f:{part}")];
                if at.is_null() {
                    *at = json!({});
                }
            }
        }
    }
    let entry = |((manager, operation), fields): (&Owner, Value)| json!({ "manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields });
    entries.into_iter().map(entry).collect()
}

fn set(object: &mut Value, path: &[String], value: Option<&Value>) {
    let (last, parents) = path.split_last().unwrap();
    let parent = parents.iter().fold(object, |at, part| &mut at[part.as_str()]);
    match value {
        Some(value) => parent[last.as_str()] = value.clone(),
        None => {
            parent.as_object_mut().unwrap().remove(last);
        }
    }
}

impl Store {
    pub(crate) fn apply(&mut self, route: &Route, sent: &Value, manager: &str, force: bool) -> Answer {
        let me: Owner = (manager.to_owned(), "Apply");
        let meta = &sent["metadata"];
        let found = self.stored(route);
        let is_new = found.is_none();
        if is_new && !meta["uid"].is_null() {
            return Err((409, status(409, "Conflict", &json!({}))));
        }
        let bare =
            || json!({ "apiVersion": sent["apiVersion"], "kind": sent["kind"], "metadata": { "name": meta["name"] } });
        let before = found.unwrap_or_else(|| Stored { object: bare(), owners: Owners::new() });
        let (wanted, held) = (leaves(sent), leaves(&before.object));
        let mut after = before.clone();
        let mut causes = Vec::new();
        for (path, value) in &wanted {
            let owners = after.owners.entry(path.clone()).or_default();
            if held.get(path) == Some(value) {
                owners.insert(me.clone());
                continue;
            }
            let others = owners.iter().filter(|owner| **owner != me && held.contains_key(path));
            for (other, _) in others.filter(|_| !force) {
                let message = format!("conflict with \"{other}\" using v1");
                causes.push(json!({ "reason": "FieldManagerConflict", "message": message, "field": path.join(".") }));
            }
            *owners = BTreeSet::from([me.clone()]);
            set(&mut after.object, path, Some(value));
        }
        if !causes.is_empty() {
            return Err((409, status(409, "Conflict", &json!({ "causes": causes }))));
        }
        let given_up: Vec<_> =
            after.owners.iter().filter(|(path, by)| by.contains(&me) && !wanted.contains_key(*path)).collect();
        for path in given_up.into_iter().map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            let owners = after.owners.get_mut(&path).unwrap();
            owners.remove(&me);
            if owners.is_empty() {
                after.owners.remove(&path);
                set(&mut after.object, &path, None);
            }
        }
        let is_stale = !meta["resourceVersion"].is_null()
            && meta["resourceVersion"] != before.object["metadata"]["resourceVersion"];
        if is_stale && !is_new {
            return Err((409, status(409, "Conflict", &json!({}))));
        }
        if !is_new && after.object == before.object && after.owners == before.owners {
            return Ok(json_answer(200, &before.object));
        }
        Ok(json_answer(if is_new { 201 } else { 200 }, &self.keep(route, after)))
    }
}
