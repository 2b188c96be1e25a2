//! What several of the tests need.

use crate::webhook::review::{self, KnownSecret, Outcome};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// What is answered to a review: the answer without its patch, the patch, and what became of it.
pub(super) struct Answered {
    pub(super) review: Value,
    pub(super) patch: Vec<Value>,
    pub(super) outcome: Outcome,
}

/// Answers a review. The namespace `bare` has no Secret, and nobody looked at `unknown`.
pub(super) fn answer(review: &Value) -> Answered {
    let secrets = |namespace: &str| match namespace {
        "bare" => KnownSecret::Absent,
        "unknown" => KnownSecret::Unknown,
        _ => KnownSecret::Present,
    };
    let answer = review::answer(review.to_string().as_bytes(), secrets).unwrap();
    let mut body: Value = serde_json::from_str(&answer.body).unwrap();
    let response = body["response"].as_object_mut().unwrap();
    assert_eq!(response["uid"], review["request"]["uid"]);
    assert_eq!(response.contains_key("patch"), response.contains_key("patchType"));
    let patch = match response.remove("patch") {
        Some(patch) => serde_json::from_slice(&STANDARD.decode(patch.as_str().unwrap()).unwrap()).unwrap(),
        None => Vec::new(),
    };
    Answered { review: body, patch, outcome: answer.outcome }
}

/// The review of a pod that is being created.
pub(super) fn creation(pod: &Value) -> Value {
    json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "u", "resource": { "group": "", "version": "v1", "resource": "pods" }, "namespace": "alice",
            "operation": "CREATE", "object": pod,
        },
    })
}

/// Applies a patch that only adds (RFC 6902 §4.1). The paths are read by serde_json.
pub(super) fn apply(patch: &[Value], object: &mut Value) {
    for operation in patch {
        assert_eq!(operation["op"], "add", "{operation}");
        let (parent, name) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
        let value = operation["value"].clone();
        match object.pointer_mut(parent).unwrap_or_else(|| panic!("there is no {parent}")) {
            Value::Array(list) => {
                assert_eq!(name, "-", "{operation}");
                list.push(value);
            }
            Value::Object(members) => drop(members.insert(name.to_owned(), value)),
            other => panic!("nothing can be added to {other}"),
        }
    }
}

/// Mounts of a container at the folder of the token.
pub(super) fn token_mounts(container: &Value) -> usize {
    let mounts = container["volumeMounts"].as_array();
    mounts.map_or(0, |mounts| mounts.iter().filter(|mount| mount["mountPath"] == "/etc/secrets/ezua").count())
}
