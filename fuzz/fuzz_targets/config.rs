//! Any text is either a configuration or a report of its mistakes that can be shown.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use postern::config::{Mode, parse};
use std::path::Path;

fuzz_target!(|text: &str| -> Corpus {
    // What the text names is read: nothing of this machine but what is beside a file that does not exist.
    if text.contains("\"/") || text.contains("'/") || text.contains("..") || text.contains('\\') {
        return Corpus::Reject;
    }
    for mode in [Mode::Production, Mode::Dev] {
        if let Err(mistakes) = parse(text, Path::new("/nonexistent/postern.toml"), mode) {
            assert!(!mistakes.to_string().is_empty());
        }
    }
    Corpus::Keep
});
