//! Which route a request takes: host first, then path, then method; the most specific wins, whatever the order in the file.
//!
//! The ranks are those of [`Route`], which `check` uses to refuse two routes that could match one request equally well.

pub mod path;

use crate::config::Route;
use http::Method;
use std::collections::HashMap;
use std::sync::Arc;

/// Routes, ready to be searched. Costs grow with the depth of the path, not with the number of routes.
#[derive(Debug, Default)]
pub struct Router {
    exact: HashMap<String, Node>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Node>,
    any: Node,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<String, Node>,
    star: Option<Box<Node>>,
    /// Routes whose pattern ends here, those with `methods` first.
    here: Vec<Candidate>,
    /// Routes whose pattern ends here in `**`, likewise.
    below: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    methods: Option<Vec<Method>>,
    index: usize,
}

/// Why no route was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// No route has such a host and path.
    Unknown,
    /// A route has, but not for this method.
    Method,
}

/// Methods that a route takes if it does not say. `CONNECT` and `TRACE` are refused before any route is looked for.
const DEFAULT_METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];

impl Router {
    /// Prepares the routes.
    pub fn new(routes: &[Arc<Route>]) -> Self {
        let mut router = Self::default();
        for (index, route) in routes.iter().enumerate() {
            for host in &route.hosts {
                match host.strip_prefix("*.") {
                    Some(suffix) => router.wildcard.entry(suffix.to_owned()).or_default().insert(route, index),
                    None => router.exact.entry(host.clone()).or_default().insert(route, index),
                }
            }
            if route.hosts.is_empty() {
                router.any.insert(route, index);
            }
        }
        router
    }

    /// Finds the route of a request, as its index. `host` is in lower case without port; `path` has passed
    /// [`path::canonical`].
    ///
    /// # Errors
    /// [`NoRoute`].
    pub fn find(&self, host: &str, method: &Method, path: &str) -> Result<usize, NoRoute> {
        let exact = if self.exact.is_empty() { None } else { self.exact.get(host) };
        let wildcard = if self.wildcard.is_empty() {
            None
        } else {
            host.split_once('.').filter(|(label, _)| !label.is_empty()).and_then(|(_, suffix)| self.wildcard.get(suffix))
        };
        let rest = path.strip_prefix('/').ok_or(NoRoute::Unknown)?;
        let mut outcome = NoRoute::Unknown;
        for tree in [exact, wildcard, Some(&self.any)].into_iter().flatten() {
            match tree.find(Some(rest), method) {
                Ok(index) => return Ok(index),
                Err(NoRoute::Method) => outcome = NoRoute::Method,
                Err(NoRoute::Unknown) => {}
            }
        }
        Err(outcome)
    }
}

impl Node {
    fn insert(&mut self, route: &Route, index: usize) {
        let mut node = self;
        for segment in &route.path.segments {
            node = match segment {
                Some(literal) => node.literal.entry(literal.clone()).or_default(),
                None => node.star.get_or_insert_default(),
            };
        }
        let list = if route.path.open_ended { &mut node.below } else { &mut node.here };
        let candidate = Candidate { methods: route.methods.clone(), index };
        let at = if candidate.methods.is_some() { 0 } else { list.len() };
        list.insert(at, candidate);
    }

    /// Depth first, literal before `*` before `**`. `rest` is the path after the last slash; `None` at its end.
    fn find(&self, rest: Option<&str>, method: &Method) -> Result<usize, NoRoute> {
        let Some(rest) = rest else {
            return choose(&self.here, method);
        };
        let (segment, after) = match rest.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (rest, None),
        };
        let mut outcome = NoRoute::Unknown;
        let literal = self.literal.get(segment);
        let star = self.star.as_deref().filter(|_| !segment.is_empty());
        for found in [literal, star].into_iter().flatten() {
            match found.find(after, method) {
                Ok(index) => return Ok(index),
                Err(NoRoute::Method) => outcome = NoRoute::Method,
                Err(NoRoute::Unknown) => {}
            }
        }
        match choose(&self.below, method) {
            Err(NoRoute::Unknown) => Err(outcome),
            found => found,
        }
    }
}

fn choose(candidates: &[Candidate], method: &Method) -> Result<usize, NoRoute> {
    let takes = |candidate: &&Candidate| match &candidate.methods {
        Some(methods) => methods.contains(method),
        None => DEFAULT_METHODS.contains(method),
    };
    match candidates.iter().find(takes) {
        Some(candidate) => Ok(candidate.index),
        None if candidates.is_empty() => Err(NoRoute::Unknown),
        None => Err(NoRoute::Method),
    }
}
