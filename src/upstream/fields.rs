//! Which fields concern one connection, or one message, and so are never passed on.

use http::header::{HeaderMap, HeaderName};

/// Whether a field frames a message or concerns one connection only (RFC 9110 §7.6.1). `te` is among them: its one
/// use that is passed on, `te: trailers`, is handled where HTTP/2 is spoken. `Trailer` is not: it announces
/// fields that are passed on.
pub(super) fn is_of_connection(name: &str) -> bool {
    // Asked of every field, and most of them end here.
    if !matches!(name.as_bytes(), [b'c' | b'h' | b'k' | b'p' | b't' | b'u', ..]) {
        return false;
    }
    match name {
        "connection" | "keep-alive" | "te" | "transfer-encoding" | "upgrade" | "content-length" | "host" => true,
        _ => name.starts_with("proxy-"),
    }
}

/// Whether a trailer field could change how a message is framed, routed, authenticated or processed, which
/// RFC 9110 §6.5.1 forbids.
pub fn is_forbidden_trailer(name: &HeaderName) -> bool {
    is_of_connection(name.as_str())
        || matches!(
            name.as_str(),
            "age"
                | "authorization"
                | "cache-control"
                | "content-encoding"
                | "content-range"
                | "content-type"
                | "cookie"
                | "date"
                | "expect"
                | "expires"
                | "forwarded"
                | "location"
                | "max-forwards"
                | "range"
                | "retry-after"
                | "set-cookie"
                | "trailer"
                | "vary"
                | "warning"
                | "www-authenticate"
        )
}

/// The trailers that may be passed on: not forbidden, and wanted by `keep`.
pub(super) fn kept_trailers(trailers: HeaderMap, keep: &dyn Fn(&HeaderName) -> bool) -> HeaderMap {
    let mut kept = HeaderMap::new();
    let mut last = None;
    for (name, value) in trailers {
        // A name is given once for all its values.
        if let Some(name) = name {
            last = (!is_forbidden_trailer(&name) && keep(&name)).then_some(name);
        }
        if let Some(name) = &last {
            kept.append(name, value);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_trailer_that_frames_routes_or_authenticates_is_dropped_with_all_its_values() {
        let mut trailers = HeaderMap::new();
        for (name, value) in [
            ("grpc-status", "0"),
            ("content-length", "5"),
            ("authorization", "Bearer a"),
            ("authorization", "Bearer b"),
            ("proxy-anything", "1"),
            ("x-unwanted", "1"),
            ("x-sum", "1"),
            ("x-sum", "2"),
        ] {
            trailers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let kept = kept_trailers(trailers, &|name| name != "x-unwanted");
        let mut left: Vec<_> = kept.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(left, [("grpc-status", "0"), ("x-sum", "1"), ("x-sum", "2")]);
    }
}
