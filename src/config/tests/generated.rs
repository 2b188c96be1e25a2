//! What is generated from the description is as it lies in the repository. After a change that is meant:
//! `POSTERN_BLESS=1 cargo test --lib generated`.

use super::project;
use crate::config::description::{Kind, Presence, Table};
use crate::config::route::ROUTE;
use crate::config::{DEFAULT_METHODS, ROOT, reference, schema, secrets};
use std::fs;
use toml::de::DeTable;

#[track_caller]
fn check(path: &str, generated: &str) {
    if std::env::var_os("POSTERN_BLESS").is_some() {
        fs::write(project(path), generated).unwrap();
    }
    let kept = fs::read_to_string(project(path)).unwrap_or_default();
    assert!(kept == generated, "`{path}` is not what is generated: see the head of this test");
}

#[test]
fn the_reference_page_is_up_to_date() {
    check("docs/configuration.md", &reference());
}

#[test]
fn the_schema_is_up_to_date() {
    check("config/postern.schema.json", &(serde_json::to_string_pretty(&schema()).unwrap() + "\n"));
}

#[test]
fn the_methods_that_a_route_takes_if_it_does_not_say_are_named() {
    let key = ROUTE.keys.iter().find(|key| key.name == "methods").unwrap();
    let named = DEFAULT_METHODS.map(|method| format!("`{method}`")).join(", ");
    assert!(matches!(key.presence, Presence::Optional(said) if said == named));
}

/// Every table of the description, the outermost first.
fn tables(table: &'static Table, found: &mut Vec<&'static Table>) {
    found.push(table);
    for key in table.keys {
        match key.kind {
            Kind::Table(table) | Kind::WordOr(_, table) | Kind::Named(table) | Kind::Tables(table) => {
                tables(table, found)
            }
            _ => {}
        }
    }
}

#[test]
fn every_key_is_described_once_in_sentences_and_shown() {
    let mut found = vec![&secrets::SOURCES];
    tables(&ROOT, &mut found);
    for key in found.iter().flat_map(|table| table.keys) {
        assert!(key.doc.ends_with('.') && !key.doc.contains('\n'), "`{}`: {}", key.name, key.doc);
        let is_table = matches!(key.kind, Kind::Table(_) | Kind::Named(_) | Kind::Tables(_));
        let is_shown = matches!(key.presence, Presence::Default(_)) || !key.example.is_empty() || is_table;
        assert!(is_shown, "`{}` has neither a default nor an example", key.name);
        for text in [key.example].into_iter().filter(|text| !text.is_empty()) {
            DeTable::parse(&format!("x = {text}")).unwrap_or_else(|error| panic!("`{}`: {error}", key.name));
        }
    }
    for table in found {
        let mut names: Vec<_> = table.names().collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "a key is described twice: {names:?}");
    }
}

#[test]
fn every_example_is_of_its_kind() {
    let mut found = vec![&secrets::SOURCES];
    tables(&ROOT, &mut found);
    for key in found.iter().flat_map(|table| table.keys).filter(|key| !key.example.is_empty()) {
        // Only what needs no file beside it can be read here; the shapes of the others are the same.
        let needs_a_file =
            matches!(key.kind, Kind::File | Kind::List { of: Kind::File, .. }) || key.example.contains("{ file =");
        let mistakes = crate::config::reader::mistakes_of(key, key.example);
        assert!(needs_a_file || mistakes.is_empty(), "`{}`: {mistakes:?}", key.name);
    }
}
