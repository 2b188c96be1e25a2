//! `log.traces`: which requests leave spans, and where they go.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::reader::Reader;
use super::tree::Section;
use super::web;
use crate::base::secret::Secret;
use std::path::PathBuf;
use url::Url;

/// `log.traces`, where they are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// `to`: where a collector takes OTLP over HTTP, its path included.
    pub to: Url,
    /// `sample`: how many of a million requests that continue no trace begin a sampled one.
    pub sample: u32,
    /// `service`: `service.name` of the spans. Default `postern`.
    pub service: String,
    /// `token`: sent to the collector as bearer token.
    pub token: Option<Secret>,
    /// `ca`: PEM file of the authorities trusted instead of the host's.
    pub ca: Option<PathBuf>,
}

/// All of them.
const MILLION: u32 = 1_000_000;

pub(super) static TRACES: Table = Table::of(&[
    Key::required(
        "to",
        Kind::Text("a URL"),
        "Where the collector takes OTLP over HTTP, its path included. In clear text elsewhere than on loopback only without `token`.",
    )
    .example("\"http://127.0.0.1:4318/v1/traces\""),
    Key::default(
        "sample",
        Kind::Text("a percentage such as `1%`"),
        "\"1%\"",
        "How many of the requests that continue no trace begin a sampled one, `0%` to `100%`. One that continues a trace is sampled if the \
         caller's is.",
    ),
    Key::default("service", Kind::Text("a name"), "\"postern\"", "`service.name` of the spans."),
    Key::optional("token", Kind::Secret, "none is sent", "What the collector is shown as bearer token.")
        .example("{ file = \"/run/secrets/collector\" }"),
    Key::optional(
        "ca",
        Kind::File,
        "the host's authorities",
        "PEM file of the authorities that sign the collector's certificate, trusted instead of the host's.",
    )
    .example("\"tls/collector-ca.pem\""),
]);

/// Why a value is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum TracesError {
    #[error("`{0}` is no percentage: write `1%` or `0.05%`, at most `100%` and with four decimals at most")]
    NoPercentage(String),
}

impl Traces {
    pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let has_token = section.is_given("token");
        let to = reader.parse(section, "to", |text| if has_token { web::issuer_url(text) } else { web::web_url(text) });
        if let Some(to) = &to
            && reader.is_dev()
            && !web::is_on_loopback(to.as_str())
        {
            let mistake = Mistake::at(section.value_span("to"), "`dev = true` needs everything on loopback");
            reader.note(mistake.label(format!("`{to}` is not")));
        }
        let sample = reader.parse(section, "sample", percentage);
        Some(Self {
            to: to?,
            sample: sample?,
            service: section.text("service")?.value.to_owned(),
            token: section.secret("token"),
            ca: section.path("ca"),
        })
    }
}

/// A part of a million.
fn percentage(text: &str) -> Result<u32, TracesError> {
    let refused = || TracesError::NoPercentage(text.to_owned());
    let number = text.strip_suffix('%').ok_or_else(refused)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(decimals) {
        return Err(refused());
    }
    let parts: u32 = format!("{whole}{decimals:0<4}").parse().map_err(|_| refused())?;
    if parts > MILLION { Err(refused()) } else { Ok(parts) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_a_part_of_a_million() {
        for (text, parts) in [("0%", 0), ("1%", 10_000), ("0.05%", 500), ("100%", MILLION), ("99.9999%", 999_999)] {
            assert_eq!(percentage(text), Ok(parts), "{text}");
        }
        for text in ["1", "%", "-1%", "101%", "100.1%", "1.%", ".5%", "1e1%", "0.00001%", "1 %", "12345%"] {
            assert!(percentage(text).is_err(), "{text}");
        }
    }
}
