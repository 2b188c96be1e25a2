//! The reference page of a configuration.

use super::ROOT;
use super::description::{Kind, Presence, Table, choices};
use super::scalar::{duration_text, size_text};
use super::secrets::SOURCES;
use std::fmt::Write as _;

/// What stands before the tables of keys.
const INTRODUCTION: &str = include_str!("reference.md");

/// The reference page, in Markdown.
pub fn reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    describe("The file", "", &ROOT, &mut page);
    describe("Secrets", "client_secret", &SOURCES, &mut page);
    page.truncate(page.trim_end().len());
    page + "\n"
}

/// A section for the table, then one for each table that it holds.
fn describe(title: &str, path: &str, table: &Table, page: &mut String) {
    let _ = write!(page, "## {title}\n\n");
    if table.is_choice {
        let names: Vec<_> = table.names().collect();
        let _ = match names.as_slice() {
            [name] => write!(page, "A table with `{name}`.\n\n"),
            _ => write!(page, "A table with exactly one of {}.\n\n", choices(&names)),
        };
    }
    page.push_str("| key | value | default | meaning |\n|---|---|---|---|\n");
    for key in table.keys {
        let default = match key.presence {
            Presence::Required => "**required**".to_owned(),
            Presence::Optional(words) => words.to_owned(),
            Presence::Default("{}") => "its defaults".to_owned(),
            Presence::Default(text) => format!("`{text}`"),
        };
        let example = match key.example {
            "" => String::new(),
            example => format!(" Example: `{} = {example}`", key.name),
        };
        let cells =
            [format!("`{}`", key.name), in_words(&key.kind, key.name, path), default, key.doc.to_owned() + &example];
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
    page.push('\n');
    for key in table.keys {
        if let Some(table) = inner(&key.kind) {
            let (heading, path) = heading(&key.kind, key.name, path);
            describe(&heading, &path, table, page);
        }
    }
}

/// The table that a key holds.
fn inner(kind: &Kind) -> Option<&'static Table> {
    match kind {
        Kind::Table(table) | Kind::WordOr(_, table) | Kind::Named(table) | Kind::Tables(table) => Some(table),
        _ => None,
    }
}

/// The heading of a key's table, and the path of the keys within it.
fn heading(kind: &Kind, name: &str, path: &str) -> (String, String) {
    let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match kind {
        Kind::Named(_) => (format!("`[{path}.NAME]`"), format!("{path}.NAME")),
        Kind::Tables(_) => (format!("`[[{path}]]`"), path),
        Kind::Table(_) if !path.contains('.') => (format!("`[{path}]`"), path),
        _ => (format!("`{path}`"), path),
    }
}

/// What a key may hold, with its bounds.
fn in_words(kind: &Kind, name: &str, path: &str) -> String {
    let section = |words: &[&str]| {
        let (heading, _) = heading(kind, name, path);
        let words = words.iter().map(|word| format!("`\"{word}\"` or "));
        format!("{}[{heading}](#{})", words.collect::<String>(), anchor(&heading))
    };
    match kind {
        Kind::Integer { least, most } if least == most => format!("{least}"),
        Kind::Integer { least, most } => format!("a whole number, {least} to {most}"),
        Kind::Duration { least, most } => match most.as_secs() > 365 * 86_400 {
            true if least.as_millis() <= 1 => "a duration".to_owned(),
            true => format!("a duration, at least `{}`", duration_text(*least)),
            false => format!("a duration, `{}` to `{}`", duration_text(*least), duration_text(*most)),
        },
        Kind::Size { least, .. } if *least > 0 => format!("a size, at least `{}`", size_text(*least)),
        Kind::Size { .. } => "a size".to_owned(),
        Kind::Secret => "[a secret](#secrets)".to_owned(),
        Kind::Table(_) | Kind::Named(_) | Kind::Tables(_) => section(&[]),
        Kind::WordOr(words, _) => section(words),
        // That the rest are strings goes without saying here.
        kind => kind.words().replace("a string: ", ""),
    }
}

/// The anchor that Markdown viewers make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ' '));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}
