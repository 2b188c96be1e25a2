//! No text makes the reader panic, and no mistake shows a secret.

use super::project;
use crate::config::parse;
use proptest::prelude::*;
use std::path::Path;

/// Reads the text as it is and with `dev = true`, and renders what is wrong with it.
fn read(text: &str) -> String {
    let render = |text: &str| {
        parse(text, Path::new("a/gateway.toml")).map_or_else(|mistakes| mistakes.render(true), |_| String::new())
    };
    render(text) + &render(&format!("dev = true\n{text}"))
}

fn shipped(name: &str) -> String {
    std::fs::read_to_string(project("config").join(name)).unwrap()
}

/// A letter or mark of TOML, or a piece of a configuration.
const LIKE_TOML: &str = concat!(
    "([a-z\\[\\]{}=.,\"'#\\\\ \r\n\t0-9ä]",
    "|\\[\\[route\\]\\]\n|\\[issuer\\.a\\]\n|url|path = |upstream){0,120}"
);

const PIECES: &[&str] =
    &["", "\"", "[", "]", "{", "}", "=", "\n", ".", "ä\u{301}", "\r", "\0", "[[route]]", "1e9", "x = 1", "://@"];

const VALUES: &[&str] = &[
    "1",
    "-1",
    "1.5",
    "true",
    "\"\"",
    "\"*\"",
    "[]",
    "[1]",
    "[[]]",
    "{}",
    "{ x = 1 }",
    "1979-05-27",
    "nan",
    "\"\\u0000\"",
    "9223372036854775808",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in any::<String>()) {
        read(&text);
    }

    #[test]
    fn arbitrary_toml_like_text_never_panics(text in LIKE_TOML) {
        read(&text);
    }

    #[test]
    fn a_good_file_with_a_piece_replaced_never_panics(
        name in prop::sample::select(vec!["minimal.toml", "gateway.toml", "dev.toml"]),
        (start, length) in (any::<prop::sample::Index>(), 0..40_usize),
        piece in prop::sample::select(PIECES),
    ) {
        let mut text = shipped(name);
        let start = text.floor_char_boundary(start.index(text.len()));
        let end = text.ceil_char_boundary((start + length).min(text.len()));
        text.replace_range(start..end, piece);
        read(&text);
    }

    #[test]
    fn a_value_of_another_type_never_panics(
        line in any::<prop::sample::Index>(),
        value in prop::sample::select(VALUES),
    ) {
        let text = shipped("gateway.toml");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let line = line.index(lines.len());
        if let Some((key, _)) = lines[line].split_once(" = ") {
            lines[line] = format!("{key} = {value}");
        }
        read(&lines.join("\n"));
    }

    #[test]
    fn no_mutation_shows_the_secret(
        start in any::<prop::sample::Index>(),
        piece in prop::sample::select(vec!["", "\"", "[", "}", "=", "\n", "x"]),
    ) {
        let mut text = shipped("dev.toml").replace("gateway-secret", "hunter2hunter2");
        let start = text.floor_char_boundary(start.index(text.len()));
        let end = text.ceil_char_boundary(start + 1);
        // What cuts the secret or its key to pieces makes something else of them.
        let secret = text.find("client_secret").unwrap()..text.find("hunter2hunter2").unwrap() + 15;
        prop_assume!(!secret.contains(&start) && start != secret.start - 1);
        text.replace_range(start..end, piece);
        prop_assert!(!read(&text).contains("hunter2hunter2"), "{}", text);
    }
}
