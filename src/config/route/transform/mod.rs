//! What a route changes of requests and answers: the path, headers, and what scripts of other origins may read (CORS).

mod cors;
mod headers;
mod rewrite;

pub use crate::config::headers::is_never_from_client;
pub use cors::{Cors, Origins};
pub use headers::{Piece, RequestHeaders, ResponseHeaders, SetHeader, Template, Variable};
pub use rewrite::{Rewrite, RewritePiece};

pub(super) use cors::CORS;
pub(super) use headers::{REQUEST_HEADERS, RESPONSE_HEADERS};
pub(super) use rewrite::REWRITE;

use super::{Access, Credential, IdentityHeader, PathPattern, Route};
use crate::config::reader::Reader;
use crate::config::tree::Section;
use http::{HeaderName, Method};

/// What a route changes; a route that changes nothing has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transform {
    /// `rewrite`: the path that the upstream gets.
    pub rewrite: Option<Rewrite>,
    /// `request_headers`.
    pub request: RequestHeaders,
    /// `response_headers`.
    pub response: ResponseHeaders,
    /// `cors`.
    pub cors: Option<Cors>,
}

/// What is known of the route so far; what was wrong is absent.
pub(super) struct Surface<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) upstream: Option<&'a str>,
    pub(super) path: Option<&'a PathPattern>,
    pub(super) methods: Option<&'a [Method]>,
    pub(super) access: Option<&'a Access>,
    pub(super) credential: Option<&'a Credential>,
    pub(super) headers: &'a [IdentityHeader],
    pub(super) allow_encoded_slash: bool,
}

impl Transform {
    pub(super) fn read(route: &Section, surface: &Surface<'_>, reader: &mut Reader<'_>) -> Option<Box<Self>> {
        if !["rewrite", "request_headers", "response_headers", "cors"].into_iter().any(|key| route.is_given(key)) {
            return None;
        }
        Some(Box::new(Self {
            rewrite: Rewrite::read(route, surface, reader),
            request: RequestHeaders::read(route, surface, reader),
            response: ResponseHeaders::read(route, surface, reader),
            cors: Cors::read(route, surface.methods, reader),
        }))
    }
}

impl Route {
    /// The headers by which this route tells its upstream who is calling: no client may send them, on any route.
    pub fn headers_of_identity(&self) -> impl Iterator<Item = &HeaderName> {
        let set = self.transform.iter().flat_map(|transform| &transform.request.set);
        let set = set.filter(|header| header.value.names_caller()).map(|header| &header.name);
        self.headers.iter().map(|header| &header.name).chain(set)
    }

    /// Folded names of what this route sets or removes of a client's headers.
    pub fn headers_taken(&self) -> impl Iterator<Item = &String> {
        self.transform.iter().flat_map(|transform| &transform.request.taken)
    }
}
