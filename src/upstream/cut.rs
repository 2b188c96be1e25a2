//! Ends from outside what a request still has going on.

use crate::telemetry::reason::Reason;
use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};

/// Set at most once; every task that waits for it is woken. Belongs to one thread.
#[derive(Debug, Default)]
pub struct Cut {
    reason: Cell<Option<Reason>>,
    /// Whoever sends neither sends on nor breaks off, until the answer has come to the end of one of its parts.
    holds_sender: Cell<bool>,
    /// Few: the task that reads the answer, and the one that sends the request.
    waiting: RefCell<Vec<Waker>>,
}

impl Cut {
    /// Has everything end that watches this. What was said first stays.
    pub fn set(&self, reason: Reason) {
        if self.reason.get().is_none() {
            self.reason.set(Some(reason));
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Why it was set, if it was.
    pub fn reason(&self) -> Option<Reason> {
        self.reason.get()
    }

    /// Ready once it is set; else the task is woken then.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Reason> {
        if let Some(reason) = self.reason.get() {
            return Poll::Ready(reason);
        }
        self.register(cx);
        Poll::Pending
    }

    /// Has whoever sends the request wait, though this is set: breaking off would break the answer off, too.
    pub fn hold_sender(&self) {
        self.holds_sender.set(true);
    }

    /// Has them wait no longer.
    pub fn release_sender(&self) {
        if self.holds_sender.replace(false) {
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    /// The same as [`Cut::poll`], for whoever sends the request.
    pub fn poll_sender(&self, cx: &mut Context<'_>) -> Poll<Reason> {
        match self.reason.get() {
            Some(reason) if !self.holds_sender.get() => Poll::Ready(reason),
            _ => {
                self.register(cx);
                Poll::Pending
            }
        }
    }

    fn register(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|known| known.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }

    /// Runs `future` until it is done or this is set.
    ///
    /// # Errors
    /// Why it was set.
    pub async fn bound<F: Future>(&self, future: F) -> Result<F::Output, Reason> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(reason) = self.poll(cx) {
                return Poll::Ready(Err(reason));
            }
            future.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_that_waits_ends_with_what_was_said_first() {
        let cut = Cut::default();
        assert_eq!(cut.bound(async { 7 }).await, Ok(7));
        let (one, other) = tokio::join!(cut.bound(std::future::pending::<()>()), async {
            tokio::task::yield_now().await;
            cut.set(Reason::UserInactive);
            cut.set(Reason::TokenExpired);
            cut.bound(async {}).await
        });
        assert_eq!((one, other), (Err(Reason::UserInactive), Err(Reason::UserInactive)));
    }
}
