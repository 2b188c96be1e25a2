//! `postern doctor`: what of an issuer's settings would break a promise.

use crate::base::clock::Clock;
use crate::base::secret::Secret;
use crate::config;
use crate::doctor::{self, Token};
use anyhow::{Context, anyhow};
use clap::Args;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The configuration
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// A file with an access token of a user, to see what introspection says of it; `-` reads standard input. May be given for
    /// several login clients
    #[arg(short, long = "token", value_name = "FILE")]
    tokens: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what was found. The exit code says whether nothing is broken.
///
/// # Errors
/// The configuration or a token cannot be read.
pub fn doctor(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config =
        config::load(&arguments.config).map_err(|mistakes| anyhow!("the configuration cannot be used\n{mistakes}"))?;
    let tokens = arguments.tokens.iter().map(|path| read(path)).collect::<anyhow::Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(doctor::examine(&config, &tokens, &Clock::system()))?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(if report.content { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read(path: &Path) -> anyhow::Result<Token> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().take(1024 * 1024).read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("`{}`", path.display()))?;
    }
    let token = text.trim().trim_start_matches("Bearer ");
    Ok(Token { name: path.display().to_string(), text: Secret::new(token) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_fails_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let dev = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/dev.toml")).unwrap();
        let url = dev.lines().find_map(|line| line.strip_prefix("url = \"http://")?.split('/').next()).unwrap();
        let config = folder.path().join("postern.toml");
        std::fs::write(&config, dev.replace(url, "127.0.0.1:1")).unwrap();
        let run = |tokens: Vec<PathBuf>| doctor(&Arguments { config: config.clone(), tokens, json: true });
        assert_eq!(run(Vec::new()).unwrap(), ExitCode::FAILURE);
        let missing = folder.path().join("token");
        assert!(run(vec![missing.clone()]).unwrap_err().to_string().contains("token"));
        std::fs::write(&missing, "opaque").unwrap();
        assert!(run(vec![missing]).unwrap_err().to_string().contains("no JWT"));
    }
}
