//! Coarse deadlines of a worker: one sweep a tick instead of one timer a request.
//!
//! Arming a timer that is the runtime's earliest makes tokio write to its own wake-up descriptor, and
//! registering one a request costs more than the rest of the timeout. Here a waiting task leaves its waker
//! and its deadline in a list that belongs to the worker's thread; a tick every [`TICK`] wakes those
//! that are overdue. Deadlines are numbers of ticks, so that none reads a clock: each is late by up to two ticks, never early.

use slab::Slab;
use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How often the deadlines of a worker are looked at.
pub const TICK: Duration = Duration::from_millis(100);

thread_local! {
    static WAITING: RefCell<Slab<(u64, Waker)>> = const { RefCell::new(Slab::new()) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// How many ticks this thread has seen: a clock that costs nothing to read, for what may be late by a tick.
pub fn count() -> u64 {
    COUNT.get()
}

/// A duration in ticks, rounded up.
pub fn ticks(duration: Duration) -> u64 {
    const A_SECOND: u64 = 1_000_000_000 / TICK.subsec_nanos() as u64;
    let rest = duration.subsec_nanos().div_ceil(TICK.subsec_nanos());
    duration.as_secs().saturating_mul(A_SECOND).saturating_add(u64::from(rest))
}

/// Wakes overdue tasks of this thread for ever. Each worker runs one.
pub async fn run() {
    let mut interval = tokio::time::interval(TICK);
    // No two ticks are closer than [`TICK`], also after the thread was held up: else a deadline could be early.
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        COUNT.set(COUNT.get() + 1);
        wake_overdue();
    }
}

fn wake_overdue() {
    WAITING.with_borrow(|waiting| {
        for (_, (at, waker)) in waiting {
            if *at <= count() {
                waker.wake_by_ref();
            }
        }
    });
}

/// The tick by which `after` has passed for certain: the first one to come may be due at once.
fn tick_after(after: Duration) -> u64 {
    count().saturating_add(ticks(after)).saturating_add(1)
}

/// A moment after which waiting is over. Costs nothing until it is polled while something else is pending.
#[derive(Debug)]
pub struct Deadline {
    /// A number of ticks.
    at: u64,
    slot: Option<usize>,
    /// A slot belongs to the thread whose list it is in.
    _not_send: PhantomData<*const ()>,
}

impl Deadline {
    /// A deadline `after` from now.
    pub fn after(after: Duration) -> Self {
        Self { at: tick_after(after), slot: None, _not_send: PhantomData }
    }

    /// Ready when the deadline has passed; else the task is woken by the tick of it. The first time it only joins the list.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(slot) = self.slot else {
            self.slot = Some(WAITING.with_borrow_mut(|waiting| waiting.insert((self.at, cx.waker().clone()))));
            return Poll::Pending;
        };
        if count() >= self.at {
            return Poll::Ready(());
        }
        WAITING.with_borrow_mut(|waiting| {
            if let Some(entry) = waiting.get_mut(slot)
                && !entry.1.will_wake(cx.waker())
            {
                entry.1 = cx.waker().clone();
            }
        });
        Poll::Pending
    }

    /// Runs `future` until it is done or the deadline has passed (`None`).
    pub async fn bound<F: Future>(mut self, future: F) -> Option<F::Output> {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            self.poll(cx).map(|()| None)
        })
        .await
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            // A thread that ends may drop its list before its tasks.
            let _ = WAITING.try_with(|waiting| waiting.borrow_mut().try_remove(slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_future_that_never_ends_is_cut_by_the_tick_after_its_deadline() {
        let tick = tokio::spawn(run());
        let start = Instant::now();
        let outcome = Deadline::after(Duration::from_secs(2)).bound(std::future::pending::<()>()).await;
        let took = start.elapsed();
        assert_eq!(outcome, None);
        assert!(took >= Duration::from_secs(2) && took <= Duration::from_secs(2) + 2 * TICK, "{took:?}");
        tick.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_leaves_nothing_behind() {
        let outcome = Deadline::after(Duration::from_secs(60)).bound(tokio::time::sleep(TICK)).await;
        assert_eq!(outcome, Some(()));
        assert_eq!(WAITING.with_borrow(Slab::len), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_has_not_passed_while_ticks_are_missing() {
        let mut deadline = Deadline::after(Duration::ZERO);
        let mut has_passed = async || std::future::poll_fn(|cx| Poll::Ready(deadline.poll(cx).is_ready())).await;
        assert!(!has_passed().await && !has_passed().await);
        let tick = tokio::spawn(run());
        tokio::time::sleep(TICK / 2).await;
        assert!(has_passed().await);
        tick.abort();
    }
}
