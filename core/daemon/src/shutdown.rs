//! Ending a process in order.
//!
//! A process runs, then drains (nothing new is taken, what runs may end), then stops. SIGTERM or SIGINT begins
//! the drain; a second one stops at once. Tasks hold a [`Shutdown`] and await the phase that concerns them;
//! whatever must be waited for holds a [`DrainGuard`].

use std::{io, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

/// Where a process stands. It only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// Nothing new is taken; what runs may end.
    Draining,
    /// Everything ends now.
    Stopping,
}

/// Moves the phase. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trigger(watch::Sender<Phase>);

/// Sees the phase. Cheap to clone. If every [`Trigger`] is gone, the process is stopping.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<Phase>);

/// A running process' trigger and token.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Begins the drain, if it has not begun.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Stops at once.
    pub fn stop(&self) {
        self.advance(Phase::Stopping);
    }

    /// What a signal does: the first begins the drain, the next one stops.
    fn signalled(&self) {
        // Copied out first: moving the phase while it is borrowed would wait for ourselves.
        let phase = *self.0.borrow();
        match phase {
            Phase::Running => self.drain(),
            Phase::Draining | Phase::Stopping => self.stop(),
        }
    }

    fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let moves = *phase < to;
            *phase = to.max(*phase);
            moves
        });
    }

    /// A token that sees this trigger.
    pub fn token(&self) -> Shutdown {
        Shutdown(self.0.subscribe())
    }

    /// Lets SIGTERM and SIGINT move the phase, for as long as the runtime lives. From now on neither kills
    /// the process by itself.
    pub fn on_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let trigger = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    Some(()) = terminate.recv() => "SIGTERM",
                    Some(()) = interrupt.recv() => "SIGINT",
                    else => return,
                };
                trigger.signalled();
                let phase = *trigger.0.borrow();
                tracing::info!(target: "signet::shutdown", signal = name, ?phase, "signal received");
            }
        });
        Ok(())
    }
}

/// Takes SIGHUP from now on, for as long as the runtime lives, and does nothing but say so: for processes that have
/// nothing to read again. Unhandled, it would end the process without a drain.
pub fn ignore_hangup() -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!(target: "signet::shutdown", signal = "SIGHUP", "signal ignored: a changed configuration takes effect with the next start");
        }
    });
    Ok(())
}

impl Shutdown {
    /// A token for which the process runs for ever: for tests and tools.
    pub fn never() -> Self {
        let (trigger, token) = channel();
        // Leaked on purpose, once per call: the token must outlive any owner of the trigger.
        std::mem::forget(trigger);
        token
    }

    /// Where the process stands.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.phase() >= Phase::Draining
    }

    /// Returns once the drain has begun.
    pub async fn draining(&self) {
        self.reached(Phase::Draining).await;
    }

    /// Returns once everything ends now.
    pub async fn stopping(&self) {
        self.reached(Phase::Stopping).await;
    }

    async fn reached(&self, wanted: Phase) {
        // An error means that every trigger is gone: nobody can ask for more patience.
        let _ = self.0.clone().wait_for(|phase| *phase >= wanted).await;
    }
}

/// Counts what must end before the process may.
#[derive(Debug, Clone)]
pub struct Drain(watch::Sender<()>);

/// Held by a connection or task for as long as the process should wait for it.
#[derive(Debug, Clone)]
pub struct DrainGuard(#[allow(dead_code, reason = "its life is its meaning")] watch::Receiver<()>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::channel(()).0)
    }
}

impl Drain {
    /// Nothing to wait for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more to wait for.
    pub fn guard(&self) -> DrainGuard {
        DrainGuard(self.0.subscribe())
    }

    /// How many guards live.
    pub fn count(&self) -> usize {
        self.0.receiver_count()
    }

    /// Returns once no guard lives, or with the number of those left when the deadline has passed.
    pub async fn wait(&self, deadline: Duration) -> Result<(), usize> {
        match timeout(deadline, self.0.closed()).await {
            Ok(()) => Ok(()),
            Err(_) => match self.count() {
                0 => Ok(()),
                left => Err(left),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_signal_drains_and_the_second_stops() {
        let (trigger, token) = channel();
        trigger.on_signals().unwrap();
        assert_eq!(token.phase(), Phase::Running);
        // SAFETY: raise sends a signal to this very thread; its handler is installed.
        unsafe { libc::raise(libc::SIGTERM) };
        token.draining().await;
        assert_eq!(token.phase(), Phase::Draining);
        // SAFETY: as above.
        unsafe { libc::raise(libc::SIGINT) };
        token.stopping().await;
        assert_eq!(token.phase(), Phase::Stopping);
    }

    #[tokio::test]
    async fn a_hangup_neither_ends_nor_drains() {
        let (trigger, token) = channel();
        trigger.on_signals().unwrap();
        ignore_hangup().unwrap();
        for _ in 0..3 {
            // SAFETY: raise sends a signal to this very thread; its handler is installed.
            unsafe { libc::raise(libc::SIGHUP) };
            tokio::task::yield_now().await;
        }
        assert_eq!(token.phase(), Phase::Running);
        // SAFETY: as above.
        unsafe { libc::raise(libc::SIGTERM) };
        token.draining().await;
    }

    #[tokio::test]
    async fn a_phase_never_goes_back() {
        let (trigger, token) = channel();
        trigger.stop();
        trigger.drain();
        assert_eq!(token.phase(), Phase::Stopping);
        token.draining().await;
        token.stopping().await;
    }

    #[tokio::test]
    async fn a_token_whose_triggers_are_gone_stops() {
        let (trigger, token) = channel();
        drop(trigger);
        token.stopping().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_with_its_last_guard() {
        let drain = Drain::new();
        drain.wait(Duration::ZERO).await.unwrap();
        let (first, second) = (drain.guard(), drain.guard());
        drop(first);
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.wait(Duration::from_secs(10)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_past_its_deadline_says_how_many_are_left() {
        let drain = Drain::new();
        let _held = [drain.guard(), drain.guard()];
        assert_eq!(drain.wait(Duration::from_secs(10)).await, Err(2));
    }
}
