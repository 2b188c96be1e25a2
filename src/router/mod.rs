//! Which route a request takes: host first, then path, then method; the most specific wins, whatever the order in the file.
//!
//! The ranks are those of [`Route`], which `check` uses to refuse two routes that could match one request equally well.

pub mod path;

use crate::config::{DEFAULT_METHODS, Route};
use http::Method;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Routes, ready to be searched. Costs grow with the depth of the path, hardly with the number of routes.
#[derive(Debug, Default)]
pub struct Router {
    exact: HashMap<String, Node>,
    /// By what follows `*.`.
    wildcard: HashMap<String, Node>,
    any: Node,
}

#[derive(Debug, Default)]
struct Node {
    /// Ordered: a few comparisons cost less than a hash.
    literal: BTreeMap<String, Node>,
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

    /// Whether any route asks about the host.
    pub fn has_hosts(&self) -> bool {
        !self.exact.is_empty() || !self.wildcard.is_empty()
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
            host.split_once('.')
                .filter(|(label, _)| !label.is_empty())
                .and_then(|(_, suffix)| self.wildcard.get(suffix))
        };
        let rest = path.strip_prefix('/').ok_or(NoRoute::Unknown)?;
        let trees = [exact, wildcard, Some(&self.any)];
        let found = trees.into_iter().flatten().find_map(|tree| tree.find(Some(rest)));
        choose(found.ok_or(NoRoute::Unknown)?, method)
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

    /// The most specific pattern that matches: depth first, literal before `*` before `**`. `rest` is the path after the last
    /// slash; `None` at its end.
    fn find(&self, rest: Option<&str>) -> Option<&[Candidate]> {
        let listed = |list: &'_ [Candidate]| !list.is_empty();
        let Some(rest) = rest else {
            return Some(self.here.as_slice()).filter(|list| listed(list));
        };
        let (segment, after) = match rest.bytes().position(|byte| byte == b'/') {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let literal = self.literal.get(segment);
        let star = self.star.as_deref().filter(|_| !segment.is_empty());
        let deeper = [literal, star].into_iter().flatten().find_map(|node| node.find(after));
        deeper.or_else(|| Some(self.below.as_slice()).filter(|list| listed(list)))
    }
}

/// The routes of the most specific pattern share host and path; only among them the method decides. A request whose method none
/// takes is refused rather than given to a looser route.
fn choose(candidates: &[Candidate], method: &Method) -> Result<usize, NoRoute> {
    let takes = |candidate: &&Candidate| match &candidate.methods {
        Some(methods) => methods.contains(method),
        // `CONNECT` and `TRACE` are refused before any route is looked for.
        None => DEFAULT_METHODS.contains(method),
    };
    candidates.iter().find(takes).map(|candidate| candidate.index).ok_or(NoRoute::Method)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// A router for routes given as `HOST PATH METHODS`; absent parts are `-`.
    fn router(routes: &[&str]) -> Router {
        let mut text = String::from(
            "version = 1\n[issuer.i]\nurl = \"https://i\"\naudience = \"a\"\nuser_status = \"none\"\n[upstream.u]\nto = \"http://127.0.0.1:1\"\n",
        );
        for (index, route) in routes.iter().enumerate() {
            let parts: Vec<_> = route.split(' ').collect();
            text.push_str(&format!("[[route]]\nname = \"{index}\"\nupstream = \"u\"\npath = \"{}\"\n", parts[1]));
            if parts[0] != "-" {
                text.push_str(&format!("host = \"{}\"\n", parts[0]));
            }
            if parts[2] != "-" {
                text.push_str(&format!("methods = [\"{}\"]\n", parts[2]));
            }
        }
        let config = crate::config::parse(&text, Path::new("t.toml")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        Router::new(&config.routes)
    }

    #[track_caller]
    fn check(router: &Router, request: &str, found: Result<usize, NoRoute>) {
        let parts: Vec<_> = request.split(' ').collect();
        let method: Method = parts[0].parse().unwrap();
        assert_eq!(router.find(parts[1], &method, parts[2]), found, "{request}");
    }

    #[test]
    fn the_most_specific_path_wins_whatever_the_order() {
        let router = router(&["- /** -", "- /a/** -", "- /a/*/c -", "- /a/b/c -", "- /a/b/** -", "- /a -"]);
        check(&router, "GET h /", Ok(0));
        check(&router, "GET h /x/y", Ok(0));
        check(&router, "GET h /a", Ok(5));
        check(&router, "GET h /a/", Ok(1));
        check(&router, "GET h /a/x", Ok(1));
        check(&router, "GET h /a/x/c", Ok(2));
        check(&router, "GET h /a/b/c", Ok(3));
        check(&router, "GET h /a/b/d", Ok(4));
        check(&router, "GET h /ab", Ok(0));
    }

    #[test]
    fn patterns_match_whole_segments_and_case() {
        let router = router(&["- /api/** -", "- /users/*/avatar -"]);
        check(&router, "GET h /api", Err(NoRoute::Unknown));
        check(&router, "GET h /apix/y", Err(NoRoute::Unknown));
        check(&router, "GET h /API/x", Err(NoRoute::Unknown));
        check(&router, "GET h /users/7/avatar", Ok(1));
        check(&router, "GET h /users//avatar", Err(NoRoute::Unknown));
        check(&router, "GET h /users/7/avatar/", Err(NoRoute::Unknown));
    }

    #[test]
    fn a_literal_that_leads_nowhere_does_not_hide_a_star() {
        let router = router(&["- /a/b/c -", "- /a/*/d -"]);
        check(&router, "GET h /a/b/d", Ok(1));
    }

    #[test]
    fn hosts_come_before_paths() {
        let router = router(&["- /a/b -", "*.example.com /** -", "api.example.com /** -"]);
        check(&router, "GET api.example.com /a/b", Ok(2));
        check(&router, "GET web.example.com /a/b", Ok(1));
        check(&router, "GET x.web.example.com /a/b", Ok(0));
        check(&router, "GET example.com /a/b", Ok(0));
    }

    #[test]
    fn a_method_that_is_not_taken_falls_to_no_looser_route() {
        let router = router(&["- /admin/** GET", "- /** -", "- /x POST", "- /x -"]);
        check(&router, "GET h /admin/x", Ok(0));
        check(&router, "POST h /admin/x", Err(NoRoute::Method));
        check(&router, "POST h /x", Ok(2));
        check(&router, "PUT h /x", Ok(3));
        check(&router, "PROPFIND h /y", Err(NoRoute::Method));
        check(&router, "get h /y", Err(NoRoute::Method));
    }
}
