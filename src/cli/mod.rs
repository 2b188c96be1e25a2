//! The command line: its commands and their arguments. Only this module writes to the terminal.

pub mod check;
pub mod dev;
pub mod doctor;
pub mod explain;
pub mod operate;
pub mod run;
pub mod token;

use crate::config;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// An authenticating reverse proxy: a Keycloak token in, a fresh namespace token out.
#[derive(Debug, Parser)]
#[command(name = "postern", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine: an issuer shaped like Keycloak, an echo upstream, the gateway
    Dev {
        /// Play the whole story by itself on free ports; exit 0 only if all came out as promised
        #[arg(long)]
        tour: bool,
        /// Run this file instead of the built-in one
        #[arg(short, long, value_name = "FILE", conflicts_with = "tour")]
        config: Option<PathBuf>,
    },
    /// Run the gateway
    Run {
        /// The configuration
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say what is wrong with configurations, all of it at once
    Check {
        /// The files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Show step by step why a request is let in or not; offline
    Explain(explain::Arguments),
    /// Say which settings of the issuers would break a promise; reads only
    Doctor(doctor::Arguments),
    /// Look at, make, verify or take back tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Show, list, block and unblock users, through the operators' API of a running gateway
    #[command(subcommand)]
    User(operate::User),
    /// Show who has a token, and how long it has to live, through the operators' API of a running gateway
    Tokens(operate::Caller),
    /// Show who would be off-boarded, through the operators' API of a running gateway
    Offboard(operate::Offboard),
    /// Refuse everybody, or let people in again, through the operators' API of a running gateway
    #[command(subcommand)]
    Cluster(operate::Cluster),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Print the reference of the configuration, in Markdown
    Reference,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    match Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell when the terminal is gone.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Cli {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut out = std::io::stdout();
        match self.command {
            Command::Dev { tour, config } => dev::dev(tour, config)?,
            Command::Run { config } => run::run(&config)?,
            Command::Check { files } => return Ok(check::check(&files)),
            Command::Explain(arguments) => return explain::explain(&arguments),
            Command::Doctor(arguments) => return doctor::doctor(&arguments),
            Command::Token(command) => return token::token(command),
            Command::User(command) => return operate::user(&command),
            Command::Tokens(caller) => return operate::tokens(&caller),
            Command::Offboard(arguments) => return operate::offboard(&arguments),
            Command::Cluster(command) => return operate::cluster(&command),
            Command::Schema => writeln!(out, "{:#}", config::schema())?,
            Command::Reference => write!(out, "{}", config::reference())?,
            Command::Completions { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "postern", &mut out);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
