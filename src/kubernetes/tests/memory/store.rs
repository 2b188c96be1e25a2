//! The objects, and what may be done to them.

use super::apply::{Owners, managed_fields, own_changes};
use super::body::Feed;
use super::route::Route;
use super::{json_answer, status};
use http::{Method, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// An object and who set which of its fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stored {
    pub(crate) object: Value,
    pub(crate) owners: Owners,
}

/// Something that a watch tells.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) version: u64,
    pub(crate) kind: &'static str,
    pub(crate) route: Option<Route>,
    pub(crate) object: Value,
    /// The object before, which may have been among the selected.
    pub(crate) before: Option<Value>,
}

#[derive(Default)]
pub(crate) struct Store {
    objects: BTreeMap<Route, Stored>,
    events: Vec<Event>,
    version: u64,
    pub(crate) compacted: u64,
}

/// An answer, or a status to answer with.
pub(crate) type Answer = Result<Response<Feed>, (u16, Value)>;

impl Store {
    pub(crate) fn handle(&mut self, method: &Method, route: &Route, at: &str, body: &[u8]) -> Answer {
        let sent: Value = serde_json::from_slice(body).unwrap_or_default();
        let manager = query(at, "fieldManager").unwrap_or("unknown");
        let missing = || (404, status(404, "NotFound", &json!({})));
        if route.subresource.as_deref() == Some("token") {
            self.objects.get(&Route { subresource: None, ..route.clone() }).ok_or_else(missing)?;
            return Ok(json_answer(201, &token(&sent)?));
        }
        if method == Method::GET && route.name.is_none() {
            return self.list(route, at);
        }
        if method == Method::GET {
            return self.objects.get(route).map(|found| json_answer(200, &found.object)).ok_or_else(missing);
        }
        self.check_namespace(route)?;
        if method == Method::POST {
            let route = route.of_item(sent["metadata"]["name"].as_str().unwrap());
            if self.objects.contains_key(&route) {
                return Err((409, status(409, "AlreadyExists", &json!({}))));
            }
            check_lease(&sent)?;
            return Ok(json_answer(201, &self.overwrite(&route, &sent, manager)));
        }
        if method == Method::PATCH && at.contains("force=") {
            return self.apply(route, &sent, manager, at.contains("force=true"));
        }
        let found = self.objects.get(route).cloned().ok_or_else(missing)?;
        if method == Method::DELETE {
            check(&found.object, &sent["preconditions"])?;
            self.remove(route);
            return Ok(json_answer(200, &found.object));
        }
        check(&found.object, &sent["metadata"])?;
        let mut object = sent.clone();
        if method == Method::PATCH {
            object = found.object.clone();
            merge(&mut object, &sent);
        }
        check_lease(&object)?;
        Ok(json_answer(200, &self.overwrite(route, &object, manager)))
    }

    fn check_namespace(&self, route: &Route) -> Result<(), (u16, Value)> {
        let Some(namespace) = &route.namespace else { return Ok(()) };
        match self.objects.get(&Route::object("api/v1", "namespaces", None, namespace)) {
            None => Err((404, status(404, "NotFound", &json!({ "kind": "namespaces" })))),
            Some(found) if !found.object["metadata"]["deletionTimestamp"].is_null() => {
                Err((403, status(403, "Forbidden", &json!({ "causes": [{ "reason": "NamespaceTerminating" }] }))))
            }
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn get(&self, route: &Route) -> Option<Value> {
        self.objects.get(route).map(|found| found.object.clone())
    }

    pub(crate) fn stored(&self, route: &Route) -> Option<Stored> {
        self.objects.get(route).cloned()
    }

    /// Puts an object as a whole; what changes is the manager's by update.
    pub(crate) fn overwrite(&mut self, route: &Route, object: &Value, manager: &str) -> Value {
        let mut stored = self.stored(route).unwrap_or_default();
        own_changes(&mut stored, object, manager);
        stored.object = object.clone();
        self.keep(route, stored)
    }

    /// Stores an object under a new version, and tells.
    pub(crate) fn keep(&mut self, route: &Route, mut stored: Stored) -> Value {
        let before = self.get(route);
        self.version += 1;
        let meta = &mut stored.object["metadata"];
        let uid = before
            .as_ref()
            .map_or_else(|| json!(format!("uid-{}", self.version)), |old| old["metadata"]["uid"].clone());
        meta["uid"] = uid;
        meta["resourceVersion"] = json!(self.version.to_string());
        meta["managedFields"] = managed_fields(&stored.owners);
        if let Some(namespace) = &route.namespace {
            meta["namespace"] = json!(namespace);
        }
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        let object = stored.object.clone();
        self.objects.insert(route.clone(), stored);
        self.events.push(Event {
            version: self.version,
            kind,
            route: Some(route.clone()),
            object: object.clone(),
            before,
        });
        object
    }

    pub(crate) fn remove(&mut self, route: &Route) {
        if route.kind == "namespaces" {
            let within: Vec<_> = self.objects.keys().filter(|object| object.namespace == route.name).cloned().collect();
            within.iter().for_each(|object| self.remove(object));
        }
        let Some(mut stored) = self.objects.remove(route) else { return };
        self.version += 1;
        let before = Some(stored.object.clone());
        stored.object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let route = Some(route.clone());
        self.events.push(Event { version: self.version, kind: "DELETED", route, object: stored.object, before });
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.version;
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// What happened after a version.
    pub(crate) fn since(&self, version: u64) -> &[Event] {
        &self.events[self.events.partition_point(|event| event.version <= version)..]
    }

    pub(crate) fn bookmark(&mut self) {
        self.version += 1;
        let object = json!({ "kind": "any", "metadata": { "resourceVersion": self.version.to_string() } });
        self.events.push(Event { version: self.version, kind: "BOOKMARK", route: None, object, before: None });
    }

    /// A page, as all was when the first one was asked for.
    fn list(&self, route: &Route, at: &str) -> Answer {
        let token = query(at, "continue").and_then(|token| token.split_once('.'));
        let (version, from) = token
            .map_or((self.version, 0), |(version, from)| (version.parse().unwrap_or(0), from.parse().unwrap_or(0)));
        if version < self.compacted {
            return Err((410, status(410, "Expired", &json!({}))));
        }
        let all = self.as_of(version, route);
        let all: Vec<&Value> = all.into_values().filter(|object| is_selected(object, at)).collect();
        let limit: usize = query(at, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let from = all.len().min(from);
        let to = from.saturating_add(limit).min(all.len());
        let rest = if to < all.len() { format!("{version}.{to}") } else { String::new() };
        let metadata = json!({ "resourceVersion": version.to_string(), "continue": rest });
        Ok(json_answer(200, &json!({ "kind": "List", "metadata": metadata, "items": all[from..to] })))
    }

    /// What there was: what there is, with all that happened since undone.
    fn as_of(&self, version: u64, route: &Route) -> BTreeMap<&Route, &Value> {
        let mut all: BTreeMap<_, _> =
            self.objects.iter().filter(|(at, _)| route.holds(at)).map(|(at, found)| (at, &found.object)).collect();
        for event in self.since(version).iter().rev() {
            let Some(changed) = event.route.as_ref().filter(|changed| route.holds(changed)) else { continue };
            match &event.before {
                Some(before) => all.insert(changed, before),
                None => all.remove(changed),
            };
        }
        all
    }
}

/// A parameter of the query, as it stands there.
pub(crate) fn query<'a>(at: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = at.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Whether the selectors of a request select an object.
pub(crate) fn is_selected(object: &Value, at: &str) -> bool {
    let decode = |text: &str| text.replace("%3D", "=").replace("%2F", "/");
    let meta = &object["metadata"];
    let by_field = query(at, "fieldSelector")
        .is_none_or(|wanted| meta["name"] == json!(decode(wanted).strip_prefix("metadata.name=").unwrap()));
    let by_label = query(at, "labelSelector").is_none_or(|wanted| match decode(wanted).split_once('=') {
        Some((label, value)) => meta["labels"][label] == json!(value),
        None => !meta["labels"][&decode(wanted)].is_null(),
    });
    by_field && by_label
}

fn check(object: &Value, wanted: &Value) -> Result<(), (u16, Value)> {
    let is_as = |name: &str| wanted[name].is_null() || wanted[name] == object["metadata"][name];
    if is_as("uid") && is_as("resourceVersion") { Ok(()) } else { Err((409, status(409, "Conflict", &json!({})))) }
}

/// The times of a Lease must have six digits.
fn check_lease(object: &Value) -> Result<(), (u16, Value)> {
    let times =
        ["renewTime", "acquireTime"].map(|name| object["spec"][name].as_str().unwrap_or("2000-01-01T00:00:00.000000Z"));
    let is_exact = times.iter().all(|time| time.len() == 27);
    if object["kind"] != "Lease" || is_exact { Ok(()) } else { Err((400, status(400, "BadRequest", &json!({})))) }
}

fn token(sent: &Value) -> Result<Value, (u16, Value)> {
    let seconds = sent["spec"]["expirationSeconds"].as_u64().unwrap_or(3_600);
    if seconds < 600 {
        return Err((422, status(422, "Invalid", &json!({}))));
    }
    let mut answer = sent.clone();
    // Not what was asked for: what the server says counts.
    answer["status"] = json!({ "token": "a.b.c", "expirationTimestamp": "2026-01-01T00:00:00Z" });
    Ok(answer)
}

/// RFC 7396.
fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (name, change) in changes {
        if change.is_null() {
            object.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut object[name.as_str()], change);
        }
    }
}
