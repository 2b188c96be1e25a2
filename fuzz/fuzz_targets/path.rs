//! A path that is taken has no empty and no dot segment, neither as it stands nor decoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::router::path::canonical;

fuzz_target!(|path: &str| {
    if canonical(path).is_ok() {
        let decoded = path.replace("%2e", ".").replace("%2E", ".").replace("%2f", "/").replace("%2F", "/");
        for text in [path, &decoded] {
            let segments: Vec<&str> = text[1..].split('/').collect();
            assert!(segments.iter().all(|segment| !matches!(*segment, "." | "..")), "{path}");
            assert!(!segments[..segments.len() - 1].contains(&""), "{path}");
        }
        assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b';' | b'?' | b'#')), "{path}");
    }
});
