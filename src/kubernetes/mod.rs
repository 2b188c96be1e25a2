//! The API server of Kubernetes, as Postern uses it.
//!
//! [`Cluster`] is a connection as one account. What is read and written through it:
//!
//! - [`Secrets`]: the Secret `access-token` of a user's namespace. Every write names the [`Version`] that it was decided on, and what
//!   came in between is a value ([`Write`]), not an error.
//! - [`Namespaces`] and [`grants`]: the namespace of a user, and what stands in it beside the Secret.
//! - [`Watch`]: what others do to these, told as [`Change`]s.
//! - [`lease`]: which replica leads. [`state`]: what all replicas remember. [`own_secret`]: the few texts that they share.
//! - [`token_request`], [`secret_value`]: credentials that Kubernetes makes or keeps.
//!
//! All of it runs on the control plane. Nothing here decides about users, and nothing is tried again behind the caller's back, except
//! in the loops that are made for it: [`Watch::run`], [`lease::Elector::run`], [`secret_value::Follow::run`], [`state::State::update`].
//!
//! ```no_run
//! use postern::base::secret::Secret;
//! use postern::kubernetes::{Access, Aim, Cluster, Ensured, KubernetesError, Namespaces, Owner, Secrets, Write, grants};
//!
//! # async fn example() -> Result<(), KubernetesError> {
//! let cluster = Cluster::connect(Access::Kubeconfig("/etc/postern/kubeconfig".into())).await?;
//! let (namespaces, secrets) = (Namespaces::new(cluster.clone()), Secrets::new(cluster.clone()));
//! let alice = Owner::new("main", "5bd9c1d6-alice");
//!
//! let Ensured::Ours(namespace) = namespaces.ensure("alice", &alice).await? else { return Ok(()) };
//! grants::ensure(&cluster, &namespace.name).await?;
//! let seen = match secrets.read("alice").await? {
//!     Some(seen) => seen,
//!     None => match secrets.create("alice", &alice).await? {
//!         Write::Done(made) => made,
//!         Write::Stale | Write::Held { .. } => return Ok(()), // Read again, decide again.
//!     },
//! };
//! let aim = Aim { namespace: "alice", on: &seen.version, owner: &alice, epoch: 0 };
//! match secrets.fill(aim, &Secret::new("a token")).await? {
//!     Write::Done(filled) => assert!(filled.holds(&Secret::new("a token"))),
//!     Write::Stale => {}          // Blocked, edited or deleted meanwhile: read again, decide again.
//!     Write::Held { .. } => {}    // Edited by hand before: empty it, then fill it.
//! }
//! # Ok(())
//! # }
//! ```

pub mod grants;
pub mod lease;
pub mod own_secret;
pub mod secret_value;
pub mod state;
pub mod token_request;

mod call;
mod connect;
mod error;
mod mark;
mod namespaces;
mod present;
mod secrets;
mod standing;
mod version;
mod watch;
mod webhook_configuration;

pub use connect::{Access, Cluster};
pub use error::{KubernetesError, Write};
pub use mark::{EPOCH_ANNOTATION, ISSUER_ANNOTATION, Mark, Owner, SUBJECT_ANNOTATION, USER_LABEL};
pub use namespaces::{Ensured, Namespace, Namespaces, Removal};
pub use present::Present;
pub use secrets::{Aim, Content, SECRET, Secrets, TOKEN_KEY, UserSecret};
pub use standing::Standing;
pub use version::{Revision, Version};
pub use watch::{Change, Watch, Watched};
pub use webhook_configuration::{Bundle, WebhookConfiguration};

#[cfg(test)]
pub(crate) mod tests;
