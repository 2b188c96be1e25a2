//! Which namespace is a user's: by the template, or none. Nothing is guessed and nothing is bent until it fits: a name that
//! cannot be had is said, and the user has no namespace until somebody settles it.

use super::record::User;
use crate::config::NamespaceTemplate;
use crate::identity::claims::is_namespace_name;
use crate::users::UserId;
use std::collections::HashMap;

/// Why a user has no namespace, or not the one that their name asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// No namespace can be called so.
    #[error("`{}` is no namespace name (RFC 1123): 1 to 63 of `a` to `z`, `0` to `9` and inner `-`", .0.escape_debug())]
    Invalid(String),
    /// It belongs to the system, or to Postern.
    #[error("`{0}` belongs to the system")]
    System(String),
    /// It is another user's.
    #[error("`{name}` belongs to `{owner}`, which may be an earlier user of the same name")]
    Taken {
        /// The namespace.
        name: String,
        /// Whose it is.
        owner: UserId,
    },
    /// They have one, and are called otherwise now.
    #[error("the user's name asks for `{0}` now; the namespace that they have stays theirs")]
    Renamed(String),
}

impl NameProblem {
    /// The word for metrics and lists.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "name_invalid",
            Self::System(_) => "name_of_system",
            Self::Taken { .. } => "name_taken",
            Self::Renamed(_) => "renamed",
        }
    }
}

/// Whose a namespace is.
#[derive(Debug, Default)]
pub struct Names {
    owners: HashMap<String, UserId>,
    own: Option<String>,
}

impl Names {
    /// `own`: the namespace that Postern itself runs in, which nobody can have.
    pub fn new(own: Option<String>) -> Self {
        Self { owners: HashMap::new(), own }
    }

    /// Takes over that a user has a namespace.
    pub fn restore(&mut self, user: &UserId, name: &str) {
        self.owners.insert(name.to_owned(), user.clone());
    }

    /// Gives the user a namespace if they have none and one is to be had; says what is in the way otherwise.
    pub fn settle(&mut self, template: &NamespaceTemplate, id: &UserId, user: &mut User) {
        let username = &user.record.facts.username;
        if username.is_empty() {
            return;
        }
        let asked = self.wanted(template, username);
        user.live.name_problem = match (&user.record.namespace, asked) {
            (Some(has), Ok(name)) => (*has != name).then_some(NameProblem::Renamed(name)),
            (Some(_), Err(problem)) => Some(NameProblem::Renamed(problem.name().to_owned())),
            (None, Err(problem)) => Some(problem),
            (None, Ok(name)) => match self.owners.get(&name) {
                Some(owner) if owner != id => Some(NameProblem::Taken { name, owner: owner.clone() }),
                _ => {
                    self.owners.insert(name.clone(), id.clone());
                    user.record.namespace = Some(name);
                    None
                }
            },
        };
    }

    fn wanted(&self, template: &NamespaceTemplate, username: &str) -> Result<String, NameProblem> {
        let name = template.apply(username);
        if !is_namespace_name(&name) {
            return Err(NameProblem::Invalid(name));
        }
        if is_of_system(&name) || self.own.as_ref() == Some(&name) {
            return Err(NameProblem::System(name));
        }
        Ok(name)
    }

    /// Whose a namespace is.
    pub fn owner(&self, name: &str) -> Option<&UserId> {
        self.owners.get(name)
    }

    /// Whoever had it has it no more.
    pub fn release(&mut self, user: &UserId, name: &str) {
        if self.owners.get(name) == Some(user) {
            self.owners.remove(name);
        }
    }
}

impl NameProblem {
    fn name(&self) -> &str {
        match self {
            Self::Invalid(name) | Self::System(name) | Self::Renamed(name) | Self::Taken { name, .. } => name,
        }
    }
}

/// Names that Kubernetes, OpenShift or Postern keep for themselves.
fn is_of_system(name: &str) -> bool {
    matches!(name, "default" | "openshift" | "postern")
        || ["kube-", "openshift-", "postern-"].iter().any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::record::{Facts, Record};

    fn template(text: &str) -> NamespaceTemplate {
        NamespaceTemplate::parse(text).unwrap()
    }

    fn id(subject: &str) -> UserId {
        UserId::new("main", subject).unwrap()
    }

    fn named(username: &str) -> User {
        let facts = Facts { username: username.into(), enabled: true, ..Facts::default() };
        User { record: Record { facts, ..Record::default() }, ..User::default() }
    }

    #[track_caller]
    fn check(text: &str, username: &str, namespace: Option<&str>, code: Option<&str>) {
        let mut user = named(username);
        Names::new(Some("gateway".into())).settle(&template(text), &id("1"), &mut user);
        assert_eq!(user.record.namespace.as_deref(), namespace, "{username}");
        assert_eq!(user.live.name_problem.as_ref().map(NameProblem::code), code, "{username}");
    }

    #[test]
    fn a_name_is_taken_as_it_is_or_not_at_all() {
        check("{username}", "alice", Some("alice"), None);
        check("u-{username}-x", "alice", Some("u-alice-x"), None);
        for bad in
            ["Alice", "al_ice", "alice@example.com", "-alice", "alice-", "álice", "a b", &"a".repeat(64), "a.b", "../x"]
        {
            check("{username}", bad, None, Some("name_invalid"));
        }
        check("u-{username}", "-x", Some("u--x"), None);
        check("u-{username}", &"a".repeat(62), None, Some("name_invalid"));
    }

    #[test]
    fn names_of_the_system_are_nobodys() {
        for system in
            ["default", "kube-system", "kube-anything", "openshift", "openshift-x", "postern", "postern-x", "gateway"]
        {
            check("{username}", system, None, Some("name_of_system"));
        }
        check("kube-{username}", "alice", None, Some("name_of_system"));
        check("{username}", "kube", Some("kube"), None);
    }

    #[test]
    fn a_user_of_the_same_name_with_another_id_is_told_apart() {
        let (mut names, template) = (Names::default(), template("{username}"));
        let (mut first, mut second) = (named("alice"), named("alice"));
        names.settle(&template, &id("1"), &mut first);
        names.settle(&template, &id("2"), &mut second);
        assert_eq!((first.record.namespace.as_deref(), second.record.namespace.as_deref()), (Some("alice"), None));
        let taken = NameProblem::Taken { name: "alice".into(), owner: id("1") };
        assert_eq!(second.live.name_problem, Some(taken));
        // Nobody else gives it away.
        names.release(&id("2"), "alice");
        names.settle(&template, &id("2"), &mut second);
        assert_eq!(second.record.namespace, None);
        names.release(&id("1"), "alice");
        names.settle(&template, &id("2"), &mut second);
        assert_eq!((second.record.namespace.as_deref(), &second.live.name_problem), (Some("alice"), &None));
    }

    #[test]
    fn who_is_called_otherwise_keeps_what_they_have() {
        let (mut names, template) = (Names::default(), template("{username}"));
        let mut user = named("alice");
        names.settle(&template, &id("1"), &mut user);
        for (called, asked) in [("alicia", "alicia"), ("Alice", "Alice"), ("kube-x", "kube-x")] {
            user.record.facts.username = called.into();
            names.settle(&template, &id("1"), &mut user);
            assert_eq!(user.record.namespace.as_deref(), Some("alice"));
            assert_eq!(user.live.name_problem, Some(NameProblem::Renamed(asked.into())));
        }
    }
}
