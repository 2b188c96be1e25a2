//! The house, held by a test: who may import whom, how long a file may be, what is nowhere, what is documented.

use postern::telemetry::reason::Reason;
use std::path::{Path, PathBuf};

/// Lower never imports higher, and equals do not import each other. `src/lib.rs` tells people the same.
const LEVELS: &[&[&str]] = &[
    &["base"],
    &["config", "telemetry"],
    &["issuer", "upstream", "token_service", "router", "kubernetes", "redis"],
    &["users", "rates"],
    &["identity", "replica"],
    &["watch", "endpoints", "delivery", "broker"],
    &["pipeline", "listener", "admin", "operator", "doctor", "dev", "webhook"],
    &["app"],
    &["cli"],
];

/// Beyond the levels: who logs reads how.
const ALSO: &[(&str, &str)] = &[("telemetry", "config")];

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Every `.rs` file below a folder: its path from there, and its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![project(folder)];
    while let Some(path) = folders.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap().path();
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let name = entry.strip_prefix(project(folder)).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(&entry).unwrap()));
            }
        }
    }
    assert!(found.len() > 10, "no sources in {folder}");
    found
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|modules| modules.contains(&module))
}

/// What stands after each `crate::` of a line that is no comment.
fn modules_named(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split("//").next().unwrap_or_default();
    let ends = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    code.split("crate::").skip(1).map(move |rest| rest.split(ends).next().unwrap_or_default())
}

#[test]
fn no_module_imports_one_of_its_own_level_or_higher() {
    let mut wrong = Vec::new();
    for (file, text) in sources("src") {
        let module = file.split(['/', '.']).next().unwrap();
        if matches!(module, "lib" | "main") {
            continue;
        }
        let own = level(module).unwrap_or_else(|| panic!("src/{file} belongs to no level"));
        // Tests may take keys and issuers from `dev`.
        let is_test = file.ends_with("/tests.rs") || file.contains("/tests/");
        for (number, line) in text.lines().enumerate() {
            assert!(!line.contains("crate::{"), "src/{file}:{}: modules are imported one by one", number + 1);
            for named in modules_named(line).filter(|named| *named != module) {
                let Some(other) = level(named) else { continue };
                let is_allowed = other < own || ALSO.contains(&(module, named)) || (is_test && named == "dev");
                if !is_allowed {
                    wrong.push(format!("src/{file}:{}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_tells_the_levels_as_they_are() {
    let map = std::fs::read_to_string(project("src/lib.rs")).unwrap();
    for (level, modules) in LEVELS.iter().enumerate() {
        let row = map.lines().find_map(|line| line.strip_prefix(&format!("//! | {level} | "))).expect("a row");
        let mut told: Vec<_> =
            row.trim_end_matches([' ', '|']).split(", ").map(|name| name.trim_matches(['[', ']', '`'])).collect();
        let mut known = modules.to_vec();
        told.sort_unstable();
        known.sort_unstable();
        assert_eq!(told, known, "level {level}");
        for module in *modules {
            assert!(map.contains(&format!("pub mod {module};")), "{module}");
        }
    }
}

#[test]
fn no_file_is_longer_than_four_hundred_lines() {
    let mut long = Vec::new();
    for folder in ["src", "tests/gateway"] {
        for (file, text) in sources(folder) {
            let lines = text.lines().count();
            if lines > 400 {
                long.push(format!("{folder}/{file}: {lines} lines"));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn a_folder_of_modules_has_its_mod_rs_and_no_file_beside_it() {
    for folder in ["src", "tests/gateway"] {
        let files: Vec<_> = sources(folder).into_iter().map(|(file, _)| file).collect();
        for file in &files {
            let Some((folder_of, _)) = file.rsplit_once('/') else { continue };
            assert!(files.contains(&format!("{folder_of}/mod.rs")), "{folder}/{folder_of} has no mod.rs");
            assert!(!files.contains(&format!("{folder_of}.rs")), "{folder}/{folder_of}.rs stands beside its folder");
        }
    }
}

#[test]
fn nothing_is_left_for_later_or_switched_off() {
    // Written apart, so that this file does not find itself.
    let words = ["todo", "unimplemented", "dbg"].map(|word| format!("{word}!("));
    let words = [&words[..], &[["#[", "ignore"].concat(), ["FIX", "ME"].concat(), ["TO", "DO"].concat()]].concat();
    for folder in ["src", "tests/gateway"] {
        for (file, text) in sources(folder) {
            for (number, line) in text.lines().enumerate() {
                let found = words.iter().find(|word| line.contains(word.as_str()));
                assert_eq!(found, None, "{folder}/{file}:{}", number + 1);
            }
        }
    }
}

#[test]
fn every_reason_and_its_status_are_documented() {
    let page = std::fs::read_to_string(project("docs/refusals.md")).unwrap();
    for reason in Reason::ALL {
        let row = format!("| `{}` | {} |", reason.code(), reason.status().as_u16());
        assert!(page.contains(&row), "docs/refusals.md has no row that begins with {row}");
    }
}

#[test]
fn only_the_configuration_knows_toml() {
    for (file, text) in sources("src") {
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        assert!(!code.contains("toml::") || file.starts_with("config/"), "src/{file}");
    }
}

#[test]
fn each_test_that_the_table_about_traffic_names_is_there() {
    let page = std::fs::read_to_string(project("docs/traffic.md")).unwrap();
    let suite = std::fs::read_dir(project("tests/traffic")).unwrap().map(|entry| entry.unwrap().path());
    let suite = suite.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap());
    let all = sources("src").into_iter().chain(sources("tests")).map(|(_, text)| text).chain(suite);
    let all = all.collect::<Vec<_>>().concat();
    let proofs = page.lines().filter(|line| line.starts_with("| ")).filter_map(|row| row.split(" | ").nth(1));
    let mut count = 0;
    for name in proofs.flat_map(|proof| proof.split('`').skip(1).step_by(2)) {
        let is_there = match name.rsplit_once('.') {
            Some((_, "rs")) => project(name).is_file(),
            Some((_, "py")) => project("tests/traffic").join(name).is_file(),
            None if name.starts_with("test_") => all.contains(&format!("\ndef {name}(")),
            // Names of faults and of keys are shorter.
            None if name.matches('_').count() > 2 => all.contains(&format!("fn {name}(")),
            _ => continue,
        };
        assert!(is_there, "docs/traffic.md names `{name}`");
        count += 1;
    }
    assert!(count > 100, "{count}");
}
