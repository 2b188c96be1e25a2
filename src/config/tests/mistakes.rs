//! Each `tests/mistakes/NAME.toml` gives the report `NAME.txt`. After a change that is meant: `POSTERN_BLESS=1 cargo test --lib mistakes`, and read the
//! diff.

use super::project;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_mistake_gives_its_report() {
    let mut files: Vec<PathBuf> =
        fs::read_dir(project("tests/mistakes")).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(files.len() >= 30, "only {} files", files.len());
    let failed: Vec<String> = files.iter().filter_map(|file| check(file).err()).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn check(file: &Path) -> Result<(), String> {
    let text = fs::read_to_string(file).unwrap();
    let origin = Path::new("tests/mistakes").join(file.file_name().unwrap());
    let report = match crate::config::parse(&text, &origin) {
        Ok(_) => return Err(format!("{} has no mistake", origin.display())),
        Err(mistakes) => mistakes.to_string(),
    };
    let golden = file.with_extension("txt");
    if std::env::var_os("POSTERN_BLESS").is_some() {
        fs::write(&golden, &report).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    if report == expected { Ok(()) } else { Err(format!("{}:\n{report}", golden.display())) }
}
