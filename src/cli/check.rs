//! `postern check FILE…`: says what is wrong with a configuration, all of it at once.

use crate::config::{self, Config, Issuer, UserStatus};
use crate::doctor;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Checks each file: prints its mistakes to standard error, or one line to standard output.
/// Fails if any file has a mistake.
pub fn check(files: &[PathBuf]) -> ExitCode {
    let has_colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut code = ExitCode::SUCCESS;
    for file in files {
        // Nobody is left to tell when the terminal is gone; the exit code still says it.
        let _ = match report(file, has_colour) {
            Ok(line) => writeln!(io::stdout(), "{line}"),
            Err(mistakes) => {
                code = ExitCode::FAILURE;
                write!(io::stderr(), "{mistakes}")
            }
        };
    }
    code
}

fn report(file: &Path, has_colour: bool) -> Result<String, String> {
    let config = config::load(file).map_err(|mistakes| mistakes.render(has_colour))?;
    let mut lines = vec![format!("{}: ok ({})", file.display(), summary(&config))];
    for issuer in &config.issuers {
        let delivers = config.delivery.as_ref().is_some_and(|delivery| delivery.issuer == issuer.name);
        lines.extend(note(issuer, delivers));
    }
    Ok(lines.join("\n"))
}

/// What is no mistake, and worth knowing. `delivers` says whether its users get tokens.
fn note(issuer: &Issuer, delivers: bool) -> Option<String> {
    let name = &issuer.name;
    match &issuer.user_status {
        UserStatus::Introspection(_) => Some(format!(
            "  issuer `{name}`: source `introspection` knows the end of sessions only; source `keycloak` knows users too"
        )),
        UserStatus::Keycloak(keycloak) => {
            let in_use = doctor::tokens_in_use(keycloak);
            let fresh = if delivers { format!(", {}", doctor::tokens_kept_fresh(keycloak)) } else { String::new() };
            Some(format!("  issuer `{name}`: {in_use}{fresh}"))
        }
        UserStatus::None => None,
    }
}

fn summary(config: &Config) -> String {
    let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    [
        counted(config.issuers.len(), "issuer"),
        counted(config.upstreams.len(), "upstream"),
        counted(config.routes.len(), "route"),
    ]
    .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    #[test]
    fn a_good_file_is_counted() {
        let line = report(&file("config/minimal.toml"), false).unwrap();
        assert!(line.ends_with("minimal.toml: ok (1 issuer, 1 upstream, 1 route)"), "{line}");
    }

    #[test]
    fn what_introspection_alone_cannot_know_is_said() {
        let shown = report(&file("config/dev.toml"), false).unwrap();
        assert!(shown.contains("ok (1 issuer") && shown.contains("knows the end of sessions only"), "{shown}");
    }

    #[test]
    fn for_how_many_tokens_the_bound_holds_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("postern.toml");
        let text = std::fs::read_to_string(file("config/dev.toml")).unwrap();
        let text = text
            .replace("user_status.introspection", "user_status.keycloak")
            .replace("bound = \"5s\"", "bound = \"30s\"");
        let shown = |text: &str| {
            std::fs::write(&path, text).unwrap();
            report(&path, false).unwrap().lines().nth(1).unwrap_or_default().trim().to_owned()
        };
        let expected = "issuer `main`: up to 1,000 tokens in use at bound 30s and 100 calls/s";
        assert_eq!(shown(&text), expected);
        // A quarter of the calls, for the 660 s between two writes, three to a user.
        let delivering = format!("{text}\n[delivery]\nissuer = \"main\"\n[state]\npath = {:?}\n", folder.path());
        assert_eq!(shown(&delivering), format!("{expected}, up to 5,500 users with a token kept fresh at 100 calls/s"));
    }

    #[test]
    fn colour_comes_only_when_asked_for() {
        let shown = |has_colour| report(&file("no-such.toml"), has_colour).unwrap_err();
        assert!(shown(true).contains('\u{1b}') && !shown(false).contains('\u{1b}'));
    }

    #[test]
    fn one_bad_file_fails_the_whole_command() {
        let [good, bad] = [file("config/minimal.toml"), file("no-such.toml")];
        assert_eq!(check(std::slice::from_ref(&good)), ExitCode::SUCCESS);
        assert_eq!(check(&[good, bad]), ExitCode::FAILURE);
    }
}
