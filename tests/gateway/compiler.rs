//! `.cargo/rustc.sh`, by which cargo calls the compiler: what it adds, and for whom.

use std::path::Path;
use std::process::Command;

const RELEASE: &str = "--crate-name postern --out-dir /x/release/deps -C opt-level=3 -L dependency=/x/release/deps";

/// The compiler here is `echo`, which says `-vV` when it is asked who it is.
const ECHO: &str = "-vV";

/// What it is given beside `arguments`, where a profile lies that `by` counted. The script is copied, and read by a shell: a file that was just
/// written cannot be run while another thread starts a process.
fn added(by: &str, arguments: &str, count: Option<&str>) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let wrapper = folder.path().join("rustc.sh");
    std::fs::copy(ours("rustc.sh"), &wrapper).unwrap();
    std::fs::write(folder.path().join("release.by"), format!("{by}\n")).unwrap();
    let mut command = Command::new("sh");
    command.arg(&wrapper).arg("echo").args(arguments.split(' ')).env_remove("POSTERN_COUNT");
    if let Some(folder) = count {
        command.env("POSTERN_COUNT", folder);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let given = String::from_utf8(output.stdout).unwrap().replace(folder.path().to_str().unwrap(), "HERE");
    let added = given.trim().strip_prefix(arguments).expect("what cargo says comes first");
    added.split_whitespace().map(str::to_owned).collect()
}

fn ours(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cargo").join(name)
}

#[test]
fn what_runs_in_the_gateway_of_a_release_build_is_laid_out_by_the_profile_that_lies_beside_the_source() {
    let profile = ["-Cprofile-use=HERE/release.profdata", "-Cllvm-args=-no-pgo-warn-mismatch"];
    assert_eq!(added(ECHO, RELEASE, None), profile);
    assert!(std::fs::metadata(ours("release.profdata")).unwrap().len() > 100_000);
    let by = std::fs::read_to_string(ours("release.by")).unwrap();
    assert!(by.starts_with("rustc ") && by.contains("\nhost: ") && by.ends_with('\n'), "{by}");
}

#[test]
fn another_compiler_and_other_builds_go_without() {
    let of = |out: &str, level: &str| format!("--out-dir {out} -C opt-level={level} -L dependency=/x/release/deps");
    for (by, arguments, counts) in [
        ("rustc 1.94.0", RELEASE, None),
        (ECHO, &of("/x/debug/deps", "3"), None),
        (ECHO, &of("/x/suite/deps", "3"), None),
        (ECHO, &of("/x/release/build/y", "0"), None),
        (ECHO, &of("/x/release/deps", "s"), Some("/counts")),
        (ECHO, &of("/x/debug/deps", "0"), Some("/counts")),
        (ECHO, &format!("{RELEASE} --target aarch64-unknown-linux-gnu"), None),
        (ECHO, "--crate-name x", None),
    ] {
        assert_eq!(added(by, arguments, counts), Vec::<String>::new(), "{by} {arguments:?}");
    }
}

#[test]
fn a_build_that_counts_uses_no_profile() {
    for by in [ECHO, "rustc 1.94.0"] {
        assert_eq!(added(by, RELEASE, Some("/counts")), ["-Cprofile-generate=/counts"]);
    }
}
