//! Any text is either a configuration or a report of its mistakes that can be shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::config::parse;
use std::path::Path;

fuzz_target!(|text: &str| {
    if let Err(mistakes) = parse(text, Path::new("/nonexistent/postern.toml")) {
        assert!(!mistakes.to_string().is_empty());
    }
});
