//! The files of `config/`.

use super::project;
use crate::config::description::{Kind, Presence, Table};
use crate::config::{ROOT, load};
use std::fs;
use toml::de::{DeTable, DeValue};

#[test]
fn every_shipped_file_passes() {
    let mut count = 0;
    for file in fs::read_dir(project("config")).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "toml") {
            load(&file).unwrap_or_else(|mistakes| panic!("{mistakes}"));
            count += 1;
        }
    }
    assert_eq!(count, 3);
}

#[test]
fn gateway_toml_has_every_key_and_each_default() {
    let text = fs::read_to_string(project("config/gateway.toml")).unwrap();
    let tree = DeTable::parse(&text).unwrap();
    check_table(&text, tree.get_ref(), &ROOT, "");
}

fn check_table(text: &str, given: &DeTable<'_>, description: &Table, path: &str) {
    for key in description.keys {
        let value = given.get(key.name).map(|value| value.get_ref());
        let place = format!("{path}{}", key.name);
        match (value, key.kind) {
            (Some(DeValue::Table(inner)), Kind::Table(table)) => check_table(text, inner, table, &format!("{place}.")),
            (Some(DeValue::Table(named)), Kind::Named(table)) => {
                named.values().for_each(|inner| check_table(text, inner.get_ref().as_table().unwrap(), table, &place));
            }
            (Some(DeValue::Array(list)), Kind::Tables(table)) => {
                list.iter().for_each(|inner| check_table(text, inner.get_ref().as_table().unwrap(), table, &place));
            }
            (Some(value), _) => {
                if let Presence::Default(default) = key.presence {
                    let default = DeValue::parse(default).unwrap();
                    assert_eq!(plain(value), plain(default.get_ref()), "`{place}` is not the default");
                }
            }
            (None, kind) => {
                assert!(text.lines().any(|line| is_comment_on(line, key.name)), "`{place}` is absent");
                if let Kind::WordOr(_, table) | Kind::Table(table) = kind {
                    table.keys.iter().for_each(|key| {
                        assert!(
                            text.lines().any(|line| is_comment_on(line, key.name)),
                            "`{place}.{}` is absent",
                            key.name
                        );
                    });
                }
            }
        }
    }
}

/// Whether the line is a comment that gives the key, by itself or within a table.
fn is_comment_on(line: &str, key: &str) -> bool {
    let Some(comment) = line.strip_prefix('#') else { return false };
    comment.trim_start().starts_with(&format!("[upstream.orders.{key}]"))
        || comment.split(['{', ',', '#']).any(|part| part.trim_start().starts_with(&format!("{key} = ")))
}

/// Without places.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Array(list) => list.iter().map(|member| plain(member.get_ref()) + ",").collect(),
        DeValue::Table(_) => "a table".to_owned(),
        value => format!("{value:?}"),
    }
}
