//! Tests of the reader as a whole: shipped files, golden mistakes, generated pages, arbitrary text.

mod arbitrary;
mod defaults;
mod generated;
mod meaning;
mod mistakes;
mod shipped;

use super::{Config, Diagnostics};
use std::path::{Path, PathBuf};

/// A file that is right, to build on.
const GOOD: &str = r#"
version = 1
[issuer.main]
url = "https://keycloak.example.com/realms/demo"
audience = "gateway"
user_status = "none"
[upstream.orders]
to = "http://127.0.0.1:9000"
[[route]]
path = "/orders/**"
upstream = "orders"
"#;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn parse(text: &str) -> Result<Config, Diagnostics> {
    super::parse(text, Path::new("gateway.toml"))
}
