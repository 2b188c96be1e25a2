//! The feed of security event tokens (RFC 8417) that upstreams poll (RFC 8936): what befell users for whom they hold a token.
//!
//! [`Feed::run`] hears of minted tokens and of decisions, and queues what follows from them; [`poll`] delivers. Each client
//! sees the users for whom a token for its audience was minted and still lives, and nobody else.

mod outbox;
pub mod poll;
mod set;
mod tell;

pub use outbox::OutboxError;

use super::counts::Counts;
use crate::base::clock::Clock;
use crate::config::Config;
use crate::token_service::Receipt;
use crate::users::{Decision, Users};
use arc_swap::ArcSwap;
use outbox::{Outbox, Tally};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tell::{Receivers, Teller};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, watch};

/// How often is let go of what nobody needs any more.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// After a failure to write.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// So much is taken up by one write.
const BATCH: usize = 1000;

/// The feed. One a process; it outlives every reload of the configuration.
#[derive(Debug)]
pub struct Feed {
    outbox: Outbox,
    users: Arc<Users>,
    receivers: ArcSwap<Receivers>,
    clock: Clock,
    counts: Arc<Counts>,
    receipts: mpsc::UnboundedSender<Receipt>,
    /// Taken by [`Feed::run`].
    inbox: Mutex<Option<Inbox>>,
    /// Moves when something was queued, and when the process is about to end.
    moved: watch::Sender<Moved>,
    waiters: poll::Waiters,
}

#[derive(Debug)]
struct Inbox {
    receipts: mpsc::UnboundedReceiver<Receipt>,
    decisions: broadcast::Receiver<Arc<Decision>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Moved {
    rounds: u64,
    is_ending: bool,
}

/// What is to be taken up.
#[derive(Debug, Default)]
struct News {
    receipts: Vec<Receipt>,
    decisions: Vec<Arc<Decision>>,
    /// Whether to look at everybody: at the start, and when too much was decided at once.
    is_all: bool,
    is_sweep: bool,
}

impl Feed {
    /// Opens the outbox, a file that is made if it is not there; `users` are those whose decisions are told.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn open(path: &Path, users: Arc<Users>, counts: Arc<Counts>, clock: Clock) -> Result<Arc<Self>, OutboxError> {
        Ok(Self::with(Outbox::open(path)?, users, counts, clock))
    }

    /// One that forgets everything with the process.
    ///
    /// # Errors
    /// None that is known.
    pub fn in_memory(users: Arc<Users>, counts: Arc<Counts>, clock: Clock) -> Result<Arc<Self>, OutboxError> {
        Ok(Self::with(Outbox::in_memory()?, users, counts, clock))
    }

    fn with(outbox: Outbox, users: Arc<Users>, counts: Arc<Counts>, clock: Clock) -> Arc<Self> {
        let (receipts, received) = mpsc::unbounded_channel();
        let inbox = Inbox { receipts: received, decisions: users.subscribe() };
        let feed = Arc::new(Self {
            outbox,
            users,
            receivers: ArcSwap::default(),
            clock,
            counts,
            receipts,
            inbox: Mutex::new(Some(inbox)),
            moved: watch::Sender::default(),
            waiters: poll::Waiters::default(),
        });
        feed.counts.show(&feed);
        feed
    }

    /// Puts a configuration in force: at the start, and at each reload.
    pub fn configure(&self, config: &Config) {
        self.receivers.store(Arc::new(Receivers::new(config)));
    }

    /// Where the token service notes what it mints ([`crate::token_service::TokenService::send_receipts`]).
    pub fn receipts(&self) -> mpsc::UnboundedSender<Receipt> {
        self.receipts.clone()
    }

    /// Lets no poll wait any longer, since the process is about to end.
    pub fn end_waiting(&self) {
        self.moved.send_modify(|moved| moved.is_ending = true);
    }

    /// How many tokens wait, by client.
    pub fn waiting(&self) -> BTreeMap<Box<str>, u64> {
        self.outbox.waiting()
    }

    /// Takes up what is minted and decided, for ever. Once, on the control plane.
    pub async fn run(self: Arc<Self>) {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut inbox) = inbox else { return };
        let mut sweep = tokio::time::interval(SWEEP_EVERY);
        // What was decided while no process listened.
        let mut news = News { is_all: true, ..News::default() };
        loop {
            inbox.drain(&mut news);
            let feed = Arc::clone(&self);
            let taken = tokio::task::spawn_blocking(move || {
                let outcome = feed.take_up(&news);
                (news, outcome)
            });
            news = match taken.await {
                Ok((_, Ok(()))) => News::default(),
                Ok((not_taken, Err(error))) => {
                    self.failed(&error);
                    tokio::time::sleep(RETRY_AFTER).await;
                    // Decisions need not be kept: looking at everybody finds them.
                    News { decisions: Vec::new(), is_all: true, ..not_taken }
                }
                // The process is ending.
                Err(_) => return,
            };
            if news.is_all {
                continue;
            }
            tokio::select! {
                receipt = inbox.receipts.recv() => news.receipts.extend(receipt),
                decision = inbox.decisions.recv() => match decision {
                    Ok(decision) => news.decisions.push(decision),
                    Err(RecvError::Lagged(_)) => news.is_all = true,
                    Err(RecvError::Closed) => return,
                },
                _ = sweep.tick() => news.is_sweep = true,
            }
        }
    }

    /// One durable change. Blocks for the disk.
    fn take_up(&self, news: &News) -> Result<(), OutboxError> {
        let receivers = self.receivers.load_full();
        let now = self.clock.now().unix_seconds();
        let tally = self.outbox.change(|tables| {
            let mut teller = Teller { tables, receivers: &receivers, users: &self.users, now };
            for receipt in &news.receipts {
                teller.receipt(receipt)?;
            }
            for decision in &news.decisions {
                teller.decision(decision)?;
            }
            if news.is_all {
                teller.all()?;
            }
            if news.is_sweep {
                tables.sweep(|client| receivers.has(client), now)?;
            }
            Ok(tables.tally)
        })?;
        self.count(tally);
        Ok(())
    }

    fn count(&self, tally: Tally) {
        self.counts.events_queued.inc_by(tally.queued);
        self.counts.events_dropped.inc_by(tally.dropped);
        if tally.dropped > 0 {
            tracing::warn!(dropped = tally.dropped, "security events were not fetched in time, and are lost");
        }
        if tally.queued > 0 {
            self.moved.send_modify(|moved| moved.rounds += 1);
        }
    }

    fn failed(&self, error: &OutboxError) {
        self.counts.outbox_failures.inc();
        tracing::error!(error = error as &dyn std::error::Error, "security events");
    }
}

impl Inbox {
    /// Adds what else is there. Decisions first: a token that one of them ends was noted before it was handed out, so it is found
    /// among the receipts.
    fn drain(&mut self, news: &mut News) {
        loop {
            match self.decisions.try_recv() {
                Ok(decision) if news.decisions.len() < BATCH => news.decisions.push(decision),
                Ok(_) | Err(TryRecvError::Lagged(_)) => news.is_all = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        while let Ok(receipt) = self.receipts.try_recv() {
            news.receipts.push(receipt);
        }
    }
}

#[cfg(test)]
mod tests;
