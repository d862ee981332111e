//! One coarse timer per worker thread.
//!
//! Every wait of the engine is covered by a deadline, and nearly every deadline is moved before it
//! comes. So setting one is a store into a cell; the wheel looks at the cell when the slot where it
//! last filed the deadline comes up, and files it anew if it has been moved. The grain is 100 ms: a
//! deadline fires up to one grain late, never early. With nothing filed the wheel does not tick.
//!
//! A deadline that is dropped stays filed, since taking it out would cost more than its life did. When most of what is
//! filed is of that kind all of it is thrown out: each request of HTTP/2 has a deadline, and leaves one.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use signet_token::UserRevokedBy;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How late a deadline may fire.
const GRAIN: Duration = Duration::from_millis(100);
/// Slots of the wheel: 51 s a turn. Later deadlines stay in their slot for more turns.
const SLOTS: usize = 512;
/// So many dropped ones are nothing to look for.
const LEFTOVERS: usize = 4096;
const NEVER: u64 = u64::MAX;

thread_local! {
    static WHEEL: Rc<Wheel> = Rc::new(Wheel::new());
}

struct Wheel {
    slots: RefCell<Vec<Vec<Filed>>>,
    filed: Cell<usize>,
    /// Deadlines that there are, filed or not.
    live: Cell<usize>,
    start: Cell<Option<Instant>>,
    now: Cell<u64>,
    wake: Notify,
}

struct Filed {
    tick: u64,
    timer: Rc<Timer>,
}

#[derive(Default)]
struct Timer {
    /// When it fires, in ticks; `NEVER` when unset.
    at: Cell<u64>,
    /// The earliest slot in which it is filed; `NEVER` when in none.
    filed_at: Cell<u64>,
    fired: Cell<bool>,
    /// It came for another reason than time, and stays.
    struck: Cell<Option<UserRevokedBy>>,
    waker: RefCell<Option<Waker>>,
}

impl Wheel {
    fn new() -> Self {
        Wheel {
            slots: RefCell::new((0..SLOTS).map(|_| Vec::new()).collect()),
            filed: Cell::new(0),
            live: Cell::new(0),
            start: Cell::new(None),
            now: Cell::new(0),
            wake: Notify::new(),
        }
    }

    /// The current tick, from the clock.
    fn read_clock(&self) -> u64 {
        let now = Instant::now();
        let start = match self.start.get() {
            Some(start) => start,
            None => {
                self.start.set(Some(now));
                now
            }
        };
        let ticks = now.saturating_duration_since(start).as_millis() / GRAIN.as_millis();
        u64::try_from(ticks).unwrap_or(NEVER - 1)
    }

    fn file(&self, timer: &Rc<Timer>, tick: u64) {
        timer.filed_at.set(tick);
        let slot = usize::try_from(tick % SLOTS as u64).unwrap_or(0);
        if let Some(slot) = self.slots.borrow_mut().get_mut(slot) {
            slot.push(Filed { tick, timer: timer.clone() });
        }
        self.filed.set(self.filed.get() + 1);
        if self.filed.get() == 1 {
            self.wake.notify_one();
        }
    }

    /// Goes through every slot since the last time and wakes what is due.
    fn advance(&self) {
        let target = self.read_clock();
        // After a long sleep (a suspended machine) one full turn sees every slot.
        let first = self.now.get().max(target.saturating_sub(SLOTS as u64)) + 1;
        for tick in first..=target {
            let slot = usize::try_from(tick % SLOTS as u64).unwrap_or(0);
            let due = match self.slots.borrow_mut().get_mut(slot) {
                Some(slot) => std::mem::take(slot),
                None => continue,
            };
            self.filed.set(self.filed.get() - due.len());
            for filed in due {
                self.look(filed, target);
            }
        }
        self.now.set(target.max(self.now.get()));
        if self.filed.get() > LEFTOVERS && self.filed.get() / 4 > self.live.get() {
            self.throw_out();
        }
    }

    /// Throws out what was dropped.
    fn throw_out(&self) {
        let mut filed = 0;
        for slot in self.slots.borrow_mut().iter_mut() {
            slot.retain(|filed| {
                Rc::strong_count(&filed.timer) > 1 && filed.timer.filed_at.get() == filed.tick
            });
            slot.shrink_to(2 * slot.len());
            filed += slot.len();
        }
        self.filed.set(filed);
    }

    fn look(&self, filed: Filed, now: u64) {
        let Filed { tick, timer } = filed;
        if tick != timer.filed_at.get() {
            return; // filed again for an earlier time since
        }
        let at = timer.at.get();
        if at == NEVER || Rc::strong_count(&timer) == 1 {
            timer.filed_at.set(NEVER);
        } else if at <= now {
            timer.filed_at.set(NEVER);
            timer.fired.set(true);
            if let Some(waker) = timer.waker.borrow_mut().take() {
                waker.wake();
            }
        } else {
            self.file(&timer, at);
        }
    }
}

/// Turns this thread's wheel, for ever. One task of each worker.
pub(super) async fn turn() {
    let wheel = WHEEL.with(Rc::clone);
    loop {
        if wheel.filed.get() == 0 {
            wheel.wake.notified().await;
        }
        tokio::time::sleep(GRAIN).await;
        wheel.advance();
    }
}

/// One deadline that is moved often. Belongs to one task.
pub(crate) struct Deadline(Rc<Timer>);

impl Default for Deadline {
    fn default() -> Self {
        Deadline::new()
    }
}

impl Deadline {
    /// A deadline that never comes until it is set.
    pub(crate) fn new() -> Self {
        let timer = Timer::default();
        timer.at.set(NEVER);
        timer.filed_at.set(NEVER);
        WHEEL.with(|wheel| wheel.live.set(wheel.live.get() + 1));
        Deadline(Rc::new(timer))
    }

    /// Comes `after` from now, in place of what was set before; `None` is never.
    pub(crate) fn set(&self, after: Option<Duration>) {
        let timer = &self.0;
        timer.fired.set(false);
        let Some(after) = after else {
            timer.at.set(NEVER);
            return;
        };
        WHEEL.with(|wheel| {
            // While it ticks, the wheel's own time is at most one grain old: no clock is read.
            if wheel.filed.get() == 0 {
                wheel.now.set(wheel.read_clock());
            }
            let grains = after.as_millis().div_ceil(GRAIN.as_millis());
            // One more for the part of the current grain that has passed, one for its age.
            let ticks = u64::try_from(grains).unwrap_or(NEVER / 2).min(NEVER / 2) + 2;
            let at = wheel.now.get() + ticks;
            timer.at.set(at);
            if at < timer.filed_at.get() {
                wheel.file(timer, at);
            }
        });
    }

    /// Whether it has come.
    #[cfg(test)]
    fn passed(&self) -> bool {
        self.0.fired.get()
    }

    /// What makes it come at once, whatever it is set to.
    pub(crate) fn striker(&self) -> Strike {
        Strike(Rc::downgrade(&self.0))
    }

    /// Why, if that happened.
    pub(crate) fn struck(&self) -> Option<UserRevokedBy> {
        self.0.struck.get()
    }

    /// Ready once it has come; otherwise the task is woken then.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.0.fired.get() || self.struck().is_some() {
            return Poll::Ready(());
        }
        let mut kept = self.0.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *kept = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Makes a deadline come; it does not keep it alive.
pub(crate) struct Strike(Weak<Timer>);

impl Strike {
    /// Now, and for good.
    pub(crate) fn strike(&self, by: UserRevokedBy) {
        if let Some(timer) = self.0.upgrade() {
            timer.struck.set(Some(by));
            if let Some(waker) = timer.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.at.set(NEVER);
        self.0.waker.borrow_mut().take();
        // At the end of a thread the wheel may be gone already.
        let _ = WHEEL.try_with(|wheel| wheel.live.set(wheel.live.get() - 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    fn paused<F: Future>(test: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build_local(Default::default())
            .unwrap();
        runtime.block_on(test)
    }

    #[test]
    fn a_deadline_comes_within_its_grain_and_never_early() {
        paused(async {
            tokio::task::spawn_local(turn());
            let deadline = Deadline::new();
            let begin = Instant::now();
            deadline.set(Some(Duration::from_millis(950)));
            poll_fn(|cx| deadline.poll(cx)).await;
            let took = begin.elapsed();
            assert!(took >= Duration::from_millis(950), "{took:?}");
            assert!(took <= Duration::from_millis(1250), "{took:?}");
        });
    }

    #[test]
    fn a_moved_deadline_comes_at_its_last_time_whether_later_or_earlier() {
        paused(async {
            tokio::task::spawn_local(turn());
            let deadline = Deadline::new();
            let begin = Instant::now();
            deadline.set(Some(Duration::from_secs(1)));
            deadline.set(Some(Duration::from_secs(200)));
            deadline.set(Some(Duration::from_secs(120)));
            poll_fn(|cx| deadline.poll(cx)).await;
            assert!(begin.elapsed() >= Duration::from_secs(120));
            assert!(begin.elapsed() <= Duration::from_secs(121));
        });
    }

    #[test]
    fn deadlines_that_were_dropped_do_not_pile_up() {
        paused(async {
            tokio::task::spawn_local(turn());
            let kept = Deadline::new();
            let begin = Instant::now();
            kept.set(Some(Duration::from_secs(20)));
            for _ in 0..100 {
                for _ in 0..1000 {
                    Deadline::new().set(Some(Duration::from_secs(300)));
                }
                tokio::time::sleep(GRAIN).await;
            }
            let filed = WHEEL.with(|wheel| wheel.filed.get());
            assert!(filed <= LEFTOVERS + 2000, "{filed} of a hundred thousand");
            assert_eq!(WHEEL.with(|wheel| wheel.live.get()), 1);
            poll_fn(|cx| kept.poll(cx)).await;
            assert!(begin.elapsed() >= Duration::from_secs(20) && begin.elapsed() < Duration::from_secs(21));
        });
    }

    #[test]
    fn an_unset_deadline_never_comes_and_the_wheel_stops() {
        paused(async {
            tokio::task::spawn_local(turn());
            let deadline = Deadline::new();
            deadline.set(Some(Duration::from_millis(300)));
            deadline.set(None);
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert!(!deadline.passed());
            assert_eq!(WHEEL.with(|wheel| wheel.filed.get()), 0);
        });
    }
}
