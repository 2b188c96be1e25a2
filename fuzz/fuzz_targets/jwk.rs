//! Nothing that an issuer publishes brings the gateway down.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = postern::issuer::parse_jwks(data);
});
