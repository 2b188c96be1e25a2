//! `{namespace}` in the `to` of an upstream: a host that follows the user.

use super::web::{self, WebError};
use url::{Host, Url};

/// The one variable.
pub(super) const NAMESPACE: &str = "{namespace}";

/// As long as a namespace can be, so that the longest host is judged.
const SAMPLE: &str = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn";

/// Why the `to` of an upstream is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ToError {
    #[error(transparent)]
    Web(#[from] WebError),
    #[error("`{0}` holds something else in braces than one `{{namespace}}`, the only variable there is")]
    Variable(String),
    #[error(
        "`{0}` must have `{{namespace}}` as a whole label of its host, before one that is fixed and no number, as in \
         `http://notebook.{{namespace}}.svc:8888`"
    )]
    Label(String),
    #[error("`{0}` is no socket: write `unix:` and an absolute path of at most 107 bytes, as in `unix:/run/app.sock`")]
    Socket(String),
}

/// An origin, and its host with the variable where there is one.
pub(super) fn origin(text: &str) -> Result<(Url, Option<String>), ToError> {
    let shown = || web::without_user(text);
    let Some((before, after)) = text.split_once(NAMESPACE) else {
        return match text.contains(['{', '}']) && text.contains("://") {
            true => Err(ToError::Variable(shown())),
            false => Ok((web::any_origin(text)?, None)),
        };
    };
    if [before, after].iter().any(|part| part.contains(['{', '}'])) {
        return Err(ToError::Variable(shown()));
    }
    let no_label = || ToError::Label(shown());
    let (_, labels) = before.split_once("://").ok_or_else(no_label)?;
    let is_label = labels.is_empty() || labels.ends_with('.');
    if !is_label || !after.starts_with('.') || labels.contains(['/', '@', ':', '[', '?', '#', '\\', '%']) {
        return Err(no_label());
    }
    let sample = web::any_origin(&format!("{before}{SAMPLE}{after}")).map_err(|error| match error {
        // As it was written.
        WebError::Path(_) => WebError::Path(shown()).into(),
        WebError::Scheme(_) => WebError::Scheme(shown()).into(),
        // A host that ends in a number is an address, or nothing.
        _ => no_label(),
    })?;
    let Some(Host::Domain(host)) = sample.host() else { return Err(no_label()) };
    let (front, rest) = host.split_at_checked(labels.len()).ok_or_else(no_label)?;
    let rest = rest.strip_prefix(SAMPLE).ok_or_else(no_label)?;
    let host = format!("{front}{NAMESPACE}{rest}");
    Ok((sample, Some(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn host(text: &str, expected: &str) {
        assert_eq!(origin(text).unwrap().1.as_deref(), Some(expected), "{text}");
    }

    #[test]
    fn a_namespace_is_one_label_of_a_host() {
        host("http://notebook.{namespace}.svc:8888", "notebook.{namespace}.svc");
        host("https://{namespace}.Example.com", "{namespace}.example.com");
        host("http://a.b.{namespace}.svc.cluster.local/", "a.b.{namespace}.svc.cluster.local");
        assert_eq!(origin("http://127.0.0.1:9000").unwrap().1, None);
    }

    #[test]
    fn it_stands_nowhere_else_and_is_the_only_variable() {
        for text in [
            "http://{namespace}",
            "http://svc.{namespace}",
            "http://svc.{namespace}:80",
            "http://svc.{namespace}.",
            "http://a-{namespace}.svc",
            "http://{namespace}-a.svc",
            "http://{namespace}{namespace}.svc",
            "http://{namespace}.{namespace}.svc",
            "http://{user}.svc",
            "http://{namespace}.{user}.svc",
            "http://{Namespace}.svc",
            "http://{ namespace }.svc",
            "http://{namespace.svc",
            "http://10.{namespace}.0.1",
            "http://{namespace}.0x7f",
            "http://a:{namespace}.svc",
            "http://a/{namespace}.svc",
            "http://a@{namespace}.svc",
            "http://user:{namespace}.x@host",
            "http://a.svc/?{namespace}.x",
            "{namespace}://a.svc",
            "{namespace}.svc",
            "http://%6e.{namespace}.svc",
            "http://[{namespace}.::1]",
            "ftp://{namespace}.svc",
            "http://{namespace}.svc/path",
        ] {
            assert!(origin(text).is_err(), "{text}");
        }
        let long = format!("http://{}{{namespace}}.svc", "a.".repeat(94));
        assert!(origin(&long).is_err(), "{}", long.len());
        assert!(origin(&format!("http://{}{{namespace}}.svc", "a.".repeat(93))).is_ok());
    }
}
