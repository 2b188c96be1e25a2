//! Each `tests/webhook/NAME.review.json` gives `NAME.answer.json`, where the patch is decoded. After a change that is meant:
//! `POSTERN_BLESS=1 cargo test --lib webhook::tests::cases`, and read the diff.

use super::support::{answer, apply};
use crate::webhook::Outcome;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn reviews() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/webhook");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.to_str().unwrap().ends_with(".review.json"));
    files.sort();
    assert!(files.len() >= 40, "only {} files", files.len());
    files
}

fn read(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn every_review_gives_its_answer() {
    let mut failed = Vec::new();
    for file in reviews() {
        let answered = answer(&read(&file));
        let found = json!({ "outcome": answered.outcome.code(), "answer": answered.review, "patch": answered.patch });
        let found = serde_json::to_string_pretty(&found).unwrap() + "\n";
        let golden = PathBuf::from(file.to_str().unwrap().replace(".review.", ".answer."));
        if std::env::var_os("POSTERN_BLESS").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        if fs::read_to_string(&golden).unwrap_or_default() != found {
            failed.push(format!("{}:\n{found}", golden.display()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// As when a webhook that came after ours changed the pod, and the API server asks again (`reinvocationPolicy: IfNeeded`).
#[test]
fn a_second_admission_changes_nothing() {
    let mut patched = 0;
    for file in reviews() {
        let mut review = read(&file);
        let first = answer(&review);
        apply(&first.patch, &mut review["request"]["object"]);
        let second = answer(&review);
        assert!(second.patch.is_empty(), "{}", file.display());
        match first.outcome {
            Outcome::Patched => {
                assert_eq!(second.outcome, Outcome::Unchanged, "{}", file.display());
                patched += 1;
            }
            outcome => assert_eq!(second.outcome, outcome, "{}", file.display()),
        }
    }
    assert!(patched > 10);
}
