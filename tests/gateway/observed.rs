//! What operators look at names what there is: the dashboard and the alerts metrics, the alerts sections of the runbook.

use crate::support::{Collector, File, Stage};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The names of metrics in a text.
fn metrics_named(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(move |c| !is_part(c)).filter(|word| word.starts_with("postern_"))
}

/// All values of this key in a tree of JSON.
fn values<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(key).and_then(Value::as_str));
            map.values().for_each(|value| values(value, key, found));
        }
        Value::Array(list) => list.iter().for_each(|value| values(value, key, found)),
        _ => {}
    }
}

/// What stands behind this word in the lines of a file in YAML.
fn lines_of<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(": ")).collect()
}

/// The dashboard's queries, and the texts of the alerts without their comments.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/postern.json")).unwrap();
    let mut found = Vec::new();
    ["expr", "definition"].into_iter().for_each(|key| values(&dashboard, key, &mut found));
    let alerts = read("deploy/prometheus/alerts.yaml");
    let rules = alerts.lines().filter(|line| !line.trim_start().starts_with('#')).map(str::to_owned);
    found.into_iter().map(str::to_owned).chain(rules).collect()
}

/// The names that series of a running gateway can have, also where it has none of a family yet; and the names of its families.
fn shown() -> (BTreeSet<String>, BTreeSet<String>) {
    let (stage, collector) = (Stage::new(), Collector::start());
    let gateway = stage.gateway(File { log: &collector.traces("sample = '100%'"), ..File::default() });
    gateway.call("/x", &stage.issuer.token("alice")).passed();
    let text = gateway.admin("/metrics").text();
    let families: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let series = families.iter().flat_map(|(name, kind)| {
        let suffixes: &[&str] = match *kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        suffixes.iter().map(move |suffix| format!("{name}{suffix}"))
    });
    (series.collect(), families.iter().map(|(name, _)| (*name).to_owned()).collect())
}

/// The names that the code registers, as it has them: without prefix, and mostly without suffix.
fn registered() -> BTreeSet<String> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut names = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
                continue;
            }
            let text = std::fs::read_to_string(&entry).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            if code.contains("registry.register") || code.contains("impl Collector for") {
                let texts = code.lines().flat_map(|line| line.split('"').skip(1).step_by(2));
                names.extend(texts.filter(|name| !name.contains(' ')).map(str::to_owned));
            }
        }
    }
    names
}

#[test]
fn every_metric_that_operators_look_at_is_registered() {
    let ((series, families), registered) = (shown(), registered());
    let queries = queries();
    let named: BTreeSet<_> = queries.iter().flat_map(|query| metrics_named(query)).collect();
    assert!(named.len() > 40, "{named:?}");
    let is_known = |name: &str| {
        if series.contains(name) {
            return true;
        }
        // One that a gateway without its subject does not show: it must be in the code.
        let stem = ["_total", "_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let stem = stem.unwrap_or(name);
        let bare = stem.strip_prefix("postern_").unwrap();
        let names = [bare, bare.strip_suffix("_seconds").unwrap_or(bare)];
        !families.contains(stem) && names.into_iter().any(|bare| registered.contains(bare))
    };
    let unknown: Vec<_> = named.into_iter().filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_panel_of_the_dashboard_has_a_query_for_the_chosen_instances() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/postern.json")).unwrap();
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{}", panel["title"]);
        for target in targets {
            assert!(target["expr"].as_str().unwrap().contains("instance=~\"$instance\""), "{}", panel["title"]);
        }
    }
}

#[test]
fn every_alert_has_its_section_in_the_runbook() {
    let (alerts, runbook) = (read("deploy/prometheus/alerts.yaml"), read("docs/runbook.md"));
    let (names, links) = (lines_of(&alerts, "alert"), lines_of(&alerts, "runbook"));
    assert!(names.len() > 20 && names.len() == links.len(), "{names:?}\n{links:?}");
    let sections: Vec<_> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    for (name, link) in names.iter().zip(links) {
        assert_eq!(link, format!("docs/runbook.md#{}", name.to_lowercase()));
        assert!(sections.contains(name), "docs/runbook.md has no section {name}");
    }
    assert_eq!(sections, names, "the runbook has no section of an alert that is gone, and the same order");
}

#[test]
fn every_link_of_the_runbook_leads_somewhere() {
    let runbook = read("docs/runbook.md");
    let links = runbook.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    for link in links {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        let page = if file.is_empty() { runbook.clone() } else { read(&format!("docs/{file}")) };
        let is_there = anchor.is_empty() || page.lines().any(|line| line.starts_with('#') && slug(line) == anchor);
        assert!(is_there, "{link}");
    }
}

/// The anchor of a heading.
fn slug(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    words
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
