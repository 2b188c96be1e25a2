//! Each user's token, kept fresh where it is read: in a file of theirs, and behind `GET /token`.
//!
//! What is to be found there is decided by [`plan`], a function of values: **empty** until the first sign-in and while anything is
//! against the user ([`crate::users`] says what), else a token with at least ten minutes left ([`reserve`] reckons). [`run`] is the
//! loop that hears, plans and has things done; it is the only one that changes anything. What is known of a user ([`record`]) is on
//! the disk ([`store`]) before it is acted on; what was written is read back. Which namespace is whose is for [`names`], who may be
//! removed for [`offboard`].
//!
//! Who is blocked is never kept here: it is asked of [`Users`] at each plan, and once more right before a token is minted.

mod act;
mod book;
pub mod counts;
pub mod desk;
pub mod directory;
pub mod files;
mod follow;
mod hear;
pub mod home;
mod jobs;
mod keep;
pub mod leads;
pub mod names;
pub mod offboard;
mod pace;
pub mod plan;
pub mod record;
mod removal;
pub mod reserve;
mod roster;
pub mod run;
pub mod secrets;
mod settle;
pub mod sink;
pub mod store;
mod view;
mod write;

#[cfg(test)]
mod tests;

pub use directory::Directory;
pub use leads::{Asked, Fence, Leads};
pub use roster::Roster;
pub use store::StoreError;
pub use view::{Condition, Shown, ShownUser};

use crate::base::clock::Clock;
use crate::config::{self, NamespaceTemplate, WhenUnknown};
use crate::identity::{Bulletin, Link, News, Shared};
use crate::kubernetes::{Cluster, KubernetesError, Present};
use crate::token_service::TokenService;
use crate::users::{Decision, Users};
use arc_swap::ArcSwap;
use book::Book;
use counts::Counts;
use files::Files;
use names::Names;
use record::Issue;
use secrets::UserSecrets;
use sink::{Memory, Sink};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::{FileStore, SharedStore, Store};
use tokio::sync::{broadcast, mpsc};

/// What a delivery is to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The NAME of `[issuer.NAME]` whose users get tokens.
    pub issuer: Arc<str>,
    /// How a user's namespace is called.
    pub namespace: NamespaceTemplate,
    /// What the tokens say.
    pub issue: Issue,
    /// For how long tokens are minted while the issuer is silent.
    pub allow_for: Duration,
    /// So long a user must be unknown to the issuer before what was theirs is removed.
    pub offboard_after: Duration,
    /// Whether a namespace stays with a user who is gone.
    pub keeps_namespaces: bool,
}

impl Settings {
    /// Those of a configuration.
    pub fn new(delivery: &config::Delivery, issuer: &config::Issuer) -> Self {
        let when_unknown = issuer.user_status.introspection().map(|introspection| introspection.when_unknown);
        Self {
            issuer: issuer.name.as_str().into(),
            namespace: delivery.namespace.clone(),
            issue: Issue { template: Arc::clone(&delivery.token), original_issuer: issuer.url.clone() },
            allow_for: match when_unknown {
                Some(WhenUnknown::AllowFor(allow_for)) => allow_for,
                Some(WhenUnknown::Deny) | None => Duration::ZERO,
            },
            offboard_after: delivery.offboard_after,
            keeps_namespaces: delivery.on_offboard == config::OnOffboard::KeepNamespace,
        }
    }
}

/// What a delivery works with.
pub struct Parts<R> {
    /// The issuer.
    pub roster: R,
    /// Its link, for the ceiling of calls to it.
    pub link: Link,
    /// Gives the token service in force.
    pub token_service: Arc<dyn Fn() -> Arc<TokenService> + Send + Sync>,
    /// Users, news and the time.
    pub shared: Shared,
    /// Where tokens are put.
    pub sink: Sink,
    /// Counters.
    pub counts: Arc<Counts>,
}

/// What a delivery needs that is one of several replicas in a cluster.
pub struct InCluster {
    /// Where users' Secrets are, and in whose own namespace the state is.
    pub cluster: Cluster,
    /// Whether this replica fills.
    pub leads: Leads,
    /// Asks all replicas who is blocked; `None` where that is known here alone.
    pub fence: Option<Fence>,
    /// Which namespaces have their Secret: told to whoever must say so at once.
    pub present: Arc<Present>,
}

/// Why a delivery cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// What is known of users cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder of the tokens cannot be used.
    #[error("`{path}` cannot be used for tokens")]
    Folder {
        /// The folder.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The cluster cannot be asked.
    #[error(transparent)]
    Cluster(#[from] KubernetesError),
    /// There is one already.
    #[error("tokens are kept by another delivery of this process")]
    Another,
}

/// Where a configuration wants tokens to be put.
///
/// # Errors
/// The folder cannot be used.
pub fn sink(files: Option<&Path>, issuer: &str) -> Result<Sink, DeliveryError> {
    let Some(path) = files else { return Ok(Sink::Memory(Arc::new(Memory::default()))) };
    let opened = Files::open(path, issuer);
    opened
        .map(|files| Sink::Files(Arc::new(files)))
        .map_err(|source| DeliveryError::Folder { path: path.display().to_string(), source })
}

/// Tokens in Secrets of a cluster.
pub fn secrets(cluster: Cluster) -> Sink {
    Sink::Secrets(UserSecrets::new(cluster))
}

/// Keeps tokens fresh. One a process; it outlives every reload of the configuration.
pub struct Delivery<R> {
    settings: Settings,
    roster: ArcSwap<R>,
    link: Link,
    token_service: Arc<dyn Fn() -> Arc<TokenService> + Send + Sync>,
    users: Arc<Users>,
    bulletin: Arc<Bulletin>,
    clock: Clock,
    sink: Sink,
    store: Store,
    leads: Leads,
    fence: Option<Fence>,
    /// What is followed; `None` where nobody else writes.
    cluster: Option<(Cluster, Arc<Present>)>,
    counts: Arc<Counts>,
    /// Changed by the loop alone; others look.
    book: Mutex<Book>,
    /// Taken by [`Delivery::run`].
    inbox: Mutex<Option<Inbox>>,
}

#[derive(Debug)]
struct Inbox {
    decisions: broadcast::Receiver<Arc<Decision>>,
    news: mpsc::UnboundedReceiver<News>,
}

impl<R> fmt::Debug for Delivery<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<R: Roster> Delivery<R> {
    /// A delivery that does nothing until it is run. `store`: the file that what is known is kept in.
    ///
    /// # Errors
    /// [`DeliveryError`]: nothing is ever begun anew because something is wrong with what is there.
    pub fn open(settings: Settings, parts: Parts<R>, store: &Path) -> Result<Arc<Self>, DeliveryError> {
        let (store, kept) = FileStore::open(store)?;
        let store = Store::File(Arc::new(Mutex::new(store)));
        Self::with(settings, parts, store, Book::restore(kept, Names::new(None)), None)
    }

    /// One of several replicas, likewise; its sink is [`secrets()`] of the same cluster. What is known is kept in Secrets of Postern's own
    /// namespace. Nothing is asked of the cluster before it is run.
    ///
    /// # Errors
    /// There is another delivery in this process.
    pub fn in_cluster(settings: Settings, parts: Parts<R>, beside: InCluster) -> Result<Arc<Self>, DeliveryError> {
        let store = SharedStore::new(store::shared::state(beside.cluster.clone())?);
        let own = beside.cluster.namespace().to_owned();
        let book = Book::shared(Names::new(Some(own)));
        Self::with(settings, parts, Store::Shared(Arc::new(store)), book, Some(beside))
    }

    fn with(
        settings: Settings,
        parts: Parts<R>,
        store: Store,
        book: Book,
        beside: Option<InCluster>,
    ) -> Result<Arc<Self>, DeliveryError> {
        let Parts { roster, link, token_service, shared: Shared { users, links, clock, control: _ }, sink, counts } =
            parts;
        let bulletin = Arc::clone(links.bulletin());
        let news = bulletin.listen().ok_or(DeliveryError::Another)?;
        let inbox = Inbox { decisions: users.subscribe(), news };
        let (leads, fence, cluster) = match beside {
            Some(InCluster { cluster, leads, fence, present }) => (leads, fence, Some((cluster, present))),
            None => (Leads::Alone, None, None),
        };
        Ok(Arc::new(Self {
            settings,
            roster: ArcSwap::from_pointee(roster),
            link,
            token_service,
            users,
            bulletin,
            clock,
            sink,
            store,
            leads,
            fence,
            cluster,
            counts,
            book: Mutex::new(book),
            inbox: Mutex::new(Some(inbox)),
        }))
    }

    /// Whether all is known that the cluster holds about users. Until then nothing is done.
    pub fn is_ready(&self) -> bool {
        let book = self.book();
        !book.is_shared || book.followed.is_whole
    }

    /// Asks the issuer in another way from now on: its section of the configuration changed.
    pub fn set_roster(&self, roster: R) {
        self.roster.store(Arc::new(roster));
    }

    /// The settings it began with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Each change under this lock is whole in itself.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
