//! What a path of the API means.

/// An object or a collection of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Route {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

impl Route {
    pub(crate) fn object(group: &str, kind: &str, namespace: Option<&str>, name: &str) -> Self {
        Self {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.map(str::to_owned),
            name: Some(name.to_owned()),
            subresource: None,
        }
    }

    pub(crate) fn parse(path: &str) -> Self {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (group, rest) = parts.split_at(if parts[0] == "api" { 2 } else { 3 });
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let part = |at: usize| rest.get(at).map(|part| (*part).to_owned());
        Self { group: group.join("/"), kind: rest[0].to_owned(), namespace, name: part(1), subresource: part(2) }
    }

    /// Whether an object belongs to this collection.
    pub(crate) fn holds(&self, object: &Self) -> bool {
        self.group == object.group
            && self.kind == object.kind
            && (self.namespace.is_none() || self.namespace == object.namespace)
    }

    pub(crate) fn of_item(&self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self.clone() }
    }
}
