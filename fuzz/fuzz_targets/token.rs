//! A token that is taken is spelled in the one way in which its parts can be spelled.
#![no_main]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use postern::identity::jws;

fuzz_target!(|data: &[u8]| {
    if let Ok(token) = jws::parse(data) {
        let (payload, signature) = (URL_SAFE_NO_PAD.encode(token.payload), URL_SAFE_NO_PAD.encode(token.signature));
        assert!(data.ends_with(format!(".{payload}.{signature}").as_bytes()));
    }
    // The same bytes as a header, so that the fuzzer need not find base64 first.
    let _ = jws::parse(format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(data)).as_bytes());
});
