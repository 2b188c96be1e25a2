//! Which of several routes takes a request.

use super::{PathPattern, Route};
use crate::config::diagnostic::{Mistake, Span};
use crate::config::reader::Reader;
use http::Method;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How specific a route is for one of its hosts. Of the routes that match a request the *least* rank wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// First the host.
    pub host: HostRank,
    /// Then the path, segment by segment from the left: the first difference decides.
    pub path: Vec<SegmentRank>,
    /// Then whether `methods` is absent.
    pub is_any_method: bool,
}

/// How specific a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostRank {
    /// A name or an address.
    Exact,
    /// `*.` and a name.
    Wildcard,
    /// No `host`.
    Any,
}

/// How specific a segment of a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentRank {
    /// A literal.
    Literal,
    /// `*`.
    Any,
    /// `**`.
    Open,
}

impl PathPattern {
    /// How specific it is: of two patterns that match the same path the lesser wins. Only two patterns that are the
    /// same match a path at the same rank, because a literal stands in both at the same places.
    pub fn rank(&self) -> Vec<SegmentRank> {
        let segments = self.segments.iter().map(|segment| match segment {
            Some(_) => SegmentRank::Literal,
            None => SegmentRank::Any,
        });
        segments.chain(self.open_ended.then_some(SegmentRank::Open)).collect()
    }
}

impl Route {
    /// The rank for each host that the route answers; the host is `None` where it answers any.
    pub fn ranks(&self) -> impl Iterator<Item = (Option<&str>, Rank)> {
        let any = self.hosts.is_empty().then_some(None);
        self.hosts.iter().map(|host| Some(host.as_str())).chain(any).map(|host| {
            let host_rank = match host {
                None => HostRank::Any,
                Some(host) if host.starts_with("*.") => HostRank::Wildcard,
                Some(_) => HostRank::Exact,
            };
            (host, Rank { host: host_rank, path: self.path.rank(), is_any_method: self.methods.is_none() })
        })
    }

    /// Whether a request exists that both, which have the same path, match at the same rank. Wildcard hosts stand for
    /// one label, so two that differ match no host in common.
    fn is_ambiguous_with(&self, other: &Self) -> bool {
        let is_same_host = self.ranks().any(|(host, _)| other.ranks().any(|(other, _)| host == other));
        is_same_host && share_a_method(self.methods.as_deref(), other.methods.as_deref())
    }
}

fn share_a_method(a: Option<&[Method]>, b: Option<&[Method]>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.iter().any(|method| b.contains(method)),
        _ => false,
    }
}

/// Notes each route that can match the same request as an earlier one at the same rank, and gives their indices. Each
/// route comes with the place of its path.
pub(in crate::config) fn find_ambiguous(routes: &[(Arc<Route>, Span)], reader: &mut Reader<'_>) -> HashSet<usize> {
    let mut ambiguous = HashSet::new();
    let mut by_path: HashMap<&str, Vec<&(Arc<Route>, Span)>> = HashMap::new();
    for (index, route_and_span) in routes.iter().enumerate() {
        let (route, span) = route_and_span;
        let earlier = by_path.entry(&route.path.text).or_default();
        let first = earlier.iter().find(|(other, _)| route.is_ambiguous_with(other)).map(|(_, first)| first.clone());
        earlier.push(route_and_span);
        let Some(first) = first else { continue };
        let mistake = Mistake::at(span.clone(), "two routes can match the same request at the same rank")
            .label("neither this route")
            .related(first, "nor this one is more specific")
            .help("tell them apart by `path`, `host` or `methods`, or make them one");
        reader.note(mistake);
        ambiguous.insert(index);
    }
    ambiguous
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the most to the least specific, as the reference has it.
    #[test]
    fn the_more_specific_pattern_has_the_lesser_rank() {
        let ordered =
            ["/a/b/c", "/a/b/*", "/a/b/**", "/a/*/c", "/a/*/*", "/a/*/**", "/a/**", "/*/b/c", "/*/*/c", "/*/**", "/**"];
        let ranks = ordered.map(|text| PathPattern::parse(text).unwrap().rank());
        assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
    }

    #[test]
    fn host_comes_before_path_and_path_before_methods() {
        let rank = |host, path: &str, is_any_method| Rank {
            host,
            path: PathPattern::parse(path).unwrap().rank(),
            is_any_method,
        };
        let ordered = [
            rank(HostRank::Exact, "/a", false),
            rank(HostRank::Exact, "/a", true),
            rank(HostRank::Exact, "/**", false),
            rank(HostRank::Wildcard, "/a", false),
            rank(HostRank::Any, "/a", false),
        ];
        assert!(ordered.is_sorted_by(|a, b| a < b));
    }
}
