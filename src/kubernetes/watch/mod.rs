//! What others do to the objects that concern us, told as it happens: a list, then a watch from where the list stood.
//!
//! The loop survives whatever ends a watch. Where events may have been missed (410), it lists again and tells the difference to what it
//! told before: nothing is told twice in the same state, and what went meanwhile is told as [`Change::Gone`].

mod lines;

use super::call::{OBJECT_LIMIT, Target, unreachable};
use super::connect::Cluster;
use super::error::KubernetesError;
use super::mark::USER_LABEL;
use super::namespaces::Namespace;
use super::secrets::{SECRET, UserSecret};
use super::version::{Revision, Version};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::core::Status;
use lines::Lines;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use url::form_urlencoded::byte_serialize;

/// How long the server is asked to keep a watch open. A connection that died without a word is found by then.
const WATCH: Duration = Duration::from_secs(60);

/// How much longer than that is waited for its end.
const SLACK: Duration = Duration::from_secs(15);

/// Objects on one page of a list.
const PAGE: usize = 50;

/// The largest page that is read: each object may be as large as they get.
const PAGE_LIMIT: usize = PAGE * OBJECT_LIMIT / 2;

/// The pauses after failures in a row: the first, doubled until the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The longest that the server can make us wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What is told of the watched objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// There, in this state.
    Seen(T),
    /// Not there any more, or not among the watched: its mark was taken off.
    Gone {
        /// The namespace of a Secret, the name of a namespace.
        key: String,
        /// As of when. Watches may be told late: what was made anew meanwhile has a later version.
        revision: Revision,
    },
    /// All that was there when the server answered has been told, and what comes will be told as it happens.
    Synced,
    /// Until the next [`Change::Synced`] what was told may be behind.
    Interrupted(KubernetesError),
}

/// What can be watched.
pub trait Watched: Send + Sized + 'static {
    /// How it comes from the server.
    type Wire: DeserializeOwned + Send;

    /// Reads it.
    ///
    /// # Errors
    /// [`KubernetesError::Unexpected`] for what cannot come from a server.
    fn of(wire: Self::Wire) -> Result<Self, KubernetesError>;

    /// What it is known by among the watched.
    fn key(&self) -> &str;

    /// Its state.
    fn version(&self) -> &Version;
}

impl Watched for UserSecret {
    type Wire = core::Secret;

    fn of(wire: core::Secret) -> Result<Self, KubernetesError> {
        Self::of(wire)
    }

    fn key(&self) -> &str {
        &self.namespace
    }

    fn version(&self) -> &Version {
        &self.version
    }
}

impl Watched for Namespace {
    type Wire = core::Namespace;

    fn of(wire: core::Namespace) -> Result<Self, KubernetesError> {
        Self::of(wire)
    }

    fn key(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &Version {
        &self.version
    }
}

/// A watch that has not begun.
pub struct Watch<T> {
    cluster: Cluster,
    target: Target,
    /// Which of them, as a query.
    selector: String,
    /// What was told, and in which state.
    known: BTreeMap<String, Version>,
    /// From where to watch on; `None`: list first.
    position: Option<String>,
    is_behind: bool,
    failures: u32,
    of: std::marker::PhantomData<fn() -> T>,
}

impl Watch<UserSecret> {
    /// All Secrets of the name [`SECRET`], in all namespaces, whoever made them.
    ///
    /// # Errors
    /// None that can happen.
    pub fn user_secrets(cluster: &Cluster) -> Result<Self, KubernetesError> {
        let target = Target::list("api/v1", None, "secrets")?;
        Ok(Self::new(cluster, target, format!("fieldSelector=metadata.name%3D{SECRET}")))
    }
}

impl Watch<Namespace> {
    /// All namespaces that have our label, whatever it says.
    ///
    /// # Errors
    /// None that can happen.
    pub fn namespaces(cluster: &Cluster) -> Result<Self, KubernetesError> {
        let label: String = byte_serialize(USER_LABEL.as_bytes()).collect();
        Ok(Self::new(cluster, Target::list("api/v1", None, "namespaces")?, format!("labelSelector={label}")))
    }
}

/// Why the loop does not go on as it was.
enum Halt {
    /// Nobody listens any more.
    Unwanted,
    /// Nothing that concerns who listens; to be tried again.
    Again,
    Failed(KubernetesError),
}

impl From<KubernetesError> for Halt {
    fn from(error: KubernetesError) -> Self {
        Self::Failed(error)
    }
}

#[derive(Deserialize)]
#[serde(bound = "W: DeserializeOwned")]
struct Page<W> {
    metadata: ListMeta,
    items: Option<Vec<W>>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

impl<T: Watched> Watch<T> {
    pub(super) fn new(cluster: &Cluster, target: Target, selector: String) -> Self {
        Self {
            cluster: cluster.clone(),
            target,
            selector,
            known: BTreeMap::new(),
            position: None,
            is_behind: true,
            failures: 0,
            of: std::marker::PhantomData,
        }
    }

    /// Tells what there is and what becomes of it, until nobody listens. If who listens is slow, the loop waits.
    pub async fn run(mut self, to: mpsc::Sender<Change<T>>) {
        loop {
            let halt = tokio::select! {
                biased;
                () = to.closed() => return,
                turn = self.turn(&to) => turn,
            };
            let mut wait = None;
            match halt {
                Ok(()) => continue,
                Err(Halt::Unwanted) => return,
                Err(Halt::Again) => {}
                Err(Halt::Failed(error)) => {
                    wait = error.retry_after();
                    self.is_behind = true;
                    if to.send(Change::Interrupted(error)).await.is_err() {
                        return;
                    }
                }
            }
            let pause = (FIRST_PAUSE * 2u32.saturating_pow(self.failures.min(16))).min(LONGEST_PAUSE);
            self.failures = self.failures.saturating_add(1);
            tokio::select! {
                biased;
                () = to.closed() => return,
                () = tokio::time::sleep(pause.max(wait.unwrap_or_default().min(LONGEST_WAIT))) => {}
            }
        }
    }

    /// A list if one is due, then one watch to its end.
    async fn turn(&mut self, to: &mpsc::Sender<Change<T>>) -> Result<(), Halt> {
        let position = match self.position.clone() {
            Some(position) => position,
            None => self.list(to).await?,
        };
        self.position = Some(position.clone());
        self.follow(&position, to).await
    }

    /// Tells what is there and what is not any more; gives the position to watch from.
    async fn list(&mut self, to: &mpsc::Sender<Change<T>>) -> Result<String, Halt> {
        let mut listed = HashSet::new();
        let mut query = format!("{}&limit={PAGE}", self.selector);
        let position = loop {
            let page: Page<T::Wire> = match self.cluster.page(&self.target, &query, PAGE_LIMIT).await {
                // The list took longer than the server keeps its beginning.
                Err(KubernetesError::Expired { .. }) => return Err(Halt::Again),
                page => page?,
            };
            for wire in page.items.into_iter().flatten() {
                let object = T::of(wire)?;
                listed.insert(object.key().to_owned());
                self.tell(object, to).await?;
            }
            match page.metadata.continue_.filter(|rest| !rest.is_empty()) {
                Some(rest) => {
                    let rest: String = byte_serialize(rest.as_bytes()).collect();
                    query = format!("{}&limit={PAGE}&continue={rest}", self.selector);
                }
                None => break page.metadata.resource_version,
            }
        };
        let unexpected = || KubernetesError::Unexpected { what: self.target.what().to_owned() };
        let position = position.filter(|version| !version.is_empty()).ok_or_else(unexpected)?;
        let gone: Vec<String> = self.known.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        for key in gone {
            self.known.remove(&key);
            say(to, Change::Gone { key, revision: Revision::new(&position) }).await?;
        }
        self.is_behind = false;
        say(to, Change::Synced).await?;
        Ok(position)
    }

    /// One watch, until the server ends it.
    async fn follow(&mut self, position: &str, to: &mpsc::Sender<Change<T>>) -> Result<(), Halt> {
        let from: String = byte_serialize(position.as_bytes()).collect();
        let query = format!(
            "{}&watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={}",
            self.selector,
            WATCH.as_secs()
        );
        let opened = match self.cluster.open(&self.target, &query).await {
            Err(KubernetesError::Expired { .. }) => return Err(self.expired()),
            opened => opened?,
        };
        if self.is_behind {
            self.is_behind = false;
            say(to, Change::Synced).await?;
        }
        let began = Instant::now();
        let mut lines = Lines::new(opened.into_body(), OBJECT_LIMIT);
        loop {
            let line = match tokio::time::timeout_at(began + WATCH + SLACK, lines.next()).await {
                Err(_) => Err("the watch did not end in time".into()),
                Ok(line) => line,
            };
            match line.map_err(|error| unreachable(&self.target, &*error))? {
                Some(line) => self.take(&line, to).await?,
                // A server that ends each watch at once is not asked in a circle.
                None if began.elapsed() < FIRST_PAUSE => return Err(Halt::Again),
                None => return Ok(()),
            }
            self.failures = 0;
        }
    }

    async fn take(&mut self, line: &[u8], to: &mpsc::Sender<Change<T>>) -> Result<(), Halt> {
        let unexpected = || KubernetesError::Unexpected { what: self.target.what().to_owned() };
        let event: Event = serde_json::from_slice(line).map_err(|_| unexpected())?;
        if event.kind == "ERROR" {
            let told: Status = serde_json::from_value(event.object).unwrap_or_default();
            return match KubernetesError::of_status(self.target.what(), told.code, None, &told) {
                KubernetesError::Expired { .. } => Err(self.expired()),
                error => Err(Halt::Failed(error)),
            };
        }
        let version = event.object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        let version = version.ok_or_else(unexpected)?.to_owned();
        match event.kind.as_str() {
            "BOOKMARK" => {}
            "ADDED" | "MODIFIED" => {
                let wire = serde_json::from_value(event.object).map_err(|_| unexpected())?;
                self.tell(T::of(wire)?, to).await?;
            }
            "DELETED" => {
                let wire = serde_json::from_value(event.object).map_err(|_| unexpected())?;
                let key = T::of(wire)?.key().to_owned();
                self.known.remove(&key);
                say(to, Change::Gone { key, revision: Revision::new(&version) }).await?;
            }
            _ => return Err(Halt::Failed(unexpected())),
        }
        // Only now: what was not told is watched again.
        self.position = Some(version);
        Ok(())
    }

    fn expired(&mut self) -> Halt {
        self.position = None;
        Halt::Again
    }

    async fn tell(&mut self, object: T, to: &mpsc::Sender<Change<T>>) -> Result<(), Halt> {
        if self.known.get(object.key()) == Some(object.version()) {
            return Ok(());
        }
        self.known.insert(object.key().to_owned(), object.version().clone());
        say(to, Change::Seen(object)).await
    }
}

async fn say<T>(to: &mpsc::Sender<Change<T>>, change: Change<T>) -> Result<(), Halt> {
    to.send(change).await.map_err(|_| Halt::Unwanted)
}
