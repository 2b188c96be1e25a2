//! A token that is taken is spelled in the one way in which its parts can be spelled, and an object that is taken is what another parser reads.
#![no_main]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use postern::base::json::parse_object;
use postern::identity::jws;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    if let Ok(token) = jws::parse(data) {
        let (payload, signature) = (URL_SAFE_NO_PAD.encode(token.payload), URL_SAFE_NO_PAD.encode(token.signature));
        assert!(data.ends_with(format!(".{payload}.{signature}").as_bytes()));
    }
    if let Some(object) = parse_object(data) {
        assert_eq!(object.to_value(), serde_json::from_slice::<Value>(data).unwrap());
        assert_eq!(object.clone().into_owned(), object);
    }
    // The same bytes as a header, so that the fuzzer need not find base64 first.
    let _ = jws::parse(format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(data)).as_bytes());
});
