//! A poll of the feed of events is read without a panic, and names what is in its body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::endpoints::events::poll::PollRequest;

fuzz_target!(|data: &[u8]| {
    let Ok(request) = PollRequest::parse(data) else { return };
    let body: serde_json::Value = serde_json::from_slice(data).expect("what we take is JSON to others");
    let count = |name: &str| body[name].as_array().map_or(0, Vec::len) + body[name].as_object().map_or(0, |members| members.len());
    assert_eq!((request.acknowledged.len(), request.errors.len()), (count("ack"), count("setErrs")));
});
