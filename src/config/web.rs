//! Names, addresses and URLs, as configurations hold them.

use std::net::{IpAddr, SocketAddr};
use url::{Host, Url};

/// Why a name, an address or a URL is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WebError {
    #[error("`{0}` is no URL: write one such as `https://keycloak.example.com/realms/demo`")]
    NoUrl(String),
    #[error("`{0}` is neither an `http://` nor an `https://` URL")]
    Scheme(String),
    #[error("`{0}` is in clear text: `http://` is for loopback addresses only, write `https://`")]
    ClearText(String),
    #[error("`{0}` must have no user, password, query or fragment")]
    Superfluous(String),
    #[error("`{0}` must have no path: write scheme, host and port, as in `https://example.com:8443`")]
    Path(String),
    #[error("`{0}` is no address: write an IP address and a port, as in `127.0.0.1:8080`")]
    NoAddress(String),
    #[error("`{0}` is no host: write a name such as `api.example.com`, in lower case and without a port")]
    NoHost(String),
    #[error(
        "`{0}` is no name of a server: write one such as `postern-webhook.postern.svc`, in lower case, or an IP address"
    )]
    NoServerName(String),
    #[error("`{0}` is no host pattern: `*.` may stand once, at the front, for one label")]
    NoHostPattern(String),
    #[error("`{0}` is no name: write 1 to 64 letters, digits, `-`, `_` or `.`")]
    NoName(String),
    #[error("`{0}` is no namespace: write an RFC 1123 label, 1 to 63 of `a` to `z`, `0` to `9` and inner `-`")]
    NoNamespace(String),
}

/// The URL of an issuer, kept as written: `iss` is compared byte by byte.
pub(super) fn issuer_url(text: &str) -> Result<Url, WebError> {
    let url = web_url(text)?;
    if url.scheme() == "http" && !url.host().is_some_and(|host| is_loopback(&host)) {
        return Err(WebError::ClearText(text.to_owned()));
    }
    Ok(url)
}

/// Scheme, host and port, in clear text on loopback only.
pub(super) fn safe_origin(text: &str) -> Result<Url, WebError> {
    issuer_url(text)?;
    any_origin(text)
}

/// Scheme, host and port.
pub(super) fn any_origin(text: &str) -> Result<Url, WebError> {
    let url = web_url(text)?;
    if url.path() == "/" { Ok(url) } else { Err(WebError::Path(text.to_owned())) }
}

/// Any URL to send requests to.
pub(super) fn web_url(text: &str) -> Result<Url, WebError> {
    let url = Url::parse(text).map_err(|_| WebError::NoUrl(without_user(text)))?;
    // The parser drops white space and takes odd hosts; who compares URLs as text would not.
    let is_odd_host = matches!(url.host(), Some(Host::Domain(name)) if !is_domain(name));
    if !matches!(url.scheme(), "http" | "https") {
        return Err(WebError::Scheme(without_user(text)));
    }
    if is_odd_host || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(WebError::NoUrl(without_user(text)));
    }
    let is_bare = url.username().is_empty() && url.password().is_none();
    if !is_bare || url.query().is_some() || url.fragment().is_some() {
        return Err(WebError::Superfluous(without_user(text)));
    }
    Ok(url)
}

/// The text up to its query, for messages: a password in a URL is a secret as well.
pub(super) fn without_user(text: &str) -> String {
    let text = &text[..text.find(['?', '#']).unwrap_or(text.len())];
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme_end), Some(at)) if scheme_end + 3 <= at => format!("{}…{}", &text[..scheme_end + 3], &text[at..]),
        _ => text.to_owned(),
    }
}

/// Whether the host cannot be anywhere but on this machine.
pub(super) fn is_on_loopback(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| url.host().is_some_and(|host| is_loopback(&host)))
}

/// Whether a host is this machine.
pub(super) fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

/// An address to listen on.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, WebError> {
    text.parse().map_err(|_| WebError::NoAddress(text.to_owned()))
}

/// A host as a route names it: a name, an address, or `*.` and a name.
pub(super) fn host_pattern(text: &str) -> Result<String, WebError> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    if name.contains('*') {
        return Err(WebError::NoHostPattern(text.to_owned()));
    }
    let is_lower_case = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    match bare.parse::<IpAddr>() {
        // As a `Host` header has it (RFC 3986 §3.2.2).
        Ok(IpAddr::V6(address)) if name == text => Ok(format!("[{address}]")),
        _ if is_lower_case && is_domain(name) => Ok(text.to_owned()),
        _ => Err(WebError::NoHost(text.to_owned())),
    }
}

/// A name that a certificate can have: a DNS name in lower case, or an IP address.
pub(super) fn server_name(text: &str) -> Result<String, WebError> {
    let is_name = is_domain(text) && !text.bytes().any(|byte| byte.is_ascii_uppercase());
    match text.parse::<IpAddr>() {
        Err(_) if !is_name => Err(WebError::NoServerName(text.to_owned())),
        // Four numbers are no name.
        Err(_) if text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) => {
            Err(WebError::NoServerName(text.to_owned()))
        }
        _ => Ok(text.to_owned()),
    }
}

fn is_domain(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        inner && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// The name of an issuer, an upstream or a route: it stands in logs and metrics.
pub(super) fn name(text: &str) -> Result<String, WebError> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if is_plain && (1..=64).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(WebError::NoName(text.to_owned()))
    }
}

/// The name of a Kubernetes namespace (RFC 1123 §2.1).
pub(super) fn namespace(text: &str) -> Result<String, WebError> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-');
    if is_label && (1..=63).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(WebError::NoNamespace(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_text_is_for_loopback_only() {
        for text in ["http://localhost/a", "http://127.0.0.9:80", "http://[::1]:80/x", "http://a.localhost"] {
            assert!(issuer_url(text).is_ok(), "{text}");
        }
        for text in ["http://example.com", "http://10.0.0.1", "http://localhost.example.com", "http://[::2]"] {
            assert_eq!(issuer_url(text), Err(WebError::ClearText(text.to_owned())));
        }
    }

    #[test]
    fn a_url_that_holds_more_than_an_issuer_has_is_refused() {
        for text in ["https://a/?q", "https://a/#f", "https://u@a/", "https://a /", "ftp://a", "a", "https://a{b}.c"] {
            assert!(issuer_url(text).is_err(), "{text}");
        }
        assert_eq!(any_origin("http://a/b"), Err(WebError::Path("http://a/b".to_owned())));
        assert!(any_origin("http://a:9000").is_ok());
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        for text in ["https://user:hunter2@a/", "ftp://hunter2@a", "https://u:hunter2@a b/", "https://a?p=hunter2"] {
            let error = issuer_url(text).unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_host_is_a_name_an_address_or_one_wildcard_label() {
        for text in ["api.example.com", "*.example.com", "127.0.0.1", "[::1]", "a"] {
            assert_eq!(host_pattern(text).as_deref(), Ok(text));
        }
        assert_eq!(host_pattern("0:0::1").as_deref(), Ok("[::1]"));
        for text in ["API.example.com", "a:80", "*", "a.*.b", "*.*.b", "", "a..b", "*.[::1]", "[a]", "-a"] {
            assert!(host_pattern(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_server_is_a_name_or_an_address() {
        for text in ["postern-webhook.postern.svc", "localhost", "127.0.0.1", "::1", "a1.b2"] {
            assert_eq!(server_name(text).as_deref(), Ok(text));
        }
        for text in
            ["", "*.svc", "Postern.svc", "a.svc:8443", "https://a.svc", "a.svc.", "[::1]", "1.2.3", "256.1.1.1", "a b"]
        {
            assert!(server_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_namespace_is_a_label() {
        for (text, is_ok) in
            [("team-a", true), ("a", true), ("", false), ("Team", false), ("-a", false), ("a.b", false)]
        {
            assert_eq!(namespace(text).is_ok(), is_ok, "{text}");
        }
    }
}
