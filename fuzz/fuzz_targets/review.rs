//! No review brings the webhook down; its patch fits the pod, and a pod that was patched gets no second one.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use postern::webhook::review::{KnownSecret, answer};
use serde_json::Value;

/// The patch that a review is answered with. Absent: there was no review, or it was refused.
fn patch(review: &[u8]) -> Option<Vec<Value>> {
    let answered =
        answer(review, |namespace| if namespace.is_empty() { KnownSecret::Absent } else { KnownSecret::Present });
    let body: Value = serde_json::from_str(&answered.ok()?.body).expect("an answer is JSON");
    let response = &body["response"];
    assert!(response["uid"].as_str().is_some_and(|uid| !uid.is_empty()));
    match (&response["patch"], response["allowed"] == true) {
        (Value::Null, is_allowed) => is_allowed.then(Vec::new),
        (patch, is_allowed) => {
            assert!(is_allowed);
            let patch = STANDARD.decode(patch.as_str().expect("a patch is text")).expect("a patch is base64");
            Some(serde_json::from_slice(&patch).expect("a patch is JSON"))
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(first) = patch(data) else { return };
    // What nobody reads may hold what serde_json does not take, such as numbers beyond any measure.
    let Ok(mut review) = serde_json::from_slice::<Value>(data) else { return };
    for addition in &first {
        let (parent, name) =
            addition["path"].as_str().expect("a path is text").rsplit_once('/').expect("a path has a slash");
        let value = addition["value"].clone();
        match review["request"]["object"].pointer_mut(parent).expect("what is added to is there") {
            Value::Array(list) if name == "-" => list.push(value),
            Value::Object(members) => drop(members.insert(name.to_owned(), value)),
            other => panic!("nothing can be added to {other}"),
        }
    }
    assert_eq!(patch(review.to_string().as_bytes()).as_deref(), Some(&[][..]));
});
