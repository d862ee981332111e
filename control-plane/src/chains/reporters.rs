//! Who tells of transactions, and from when to when nothing is missing of what each of them told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use signet_identity::Serial;

use super::SKEW_MS;
use super::stitch::{Doubt, Hop};

/// Processes that are remembered. Past it those that ended longest ago go, and with them what they could prove.
const MAX_REPORTERS: usize = 32 * 1024;
/// Times in which one left something out. Past it the oldest count as lost altogether.
const MAX_PARTIAL: usize = 64;
/// Certificates of one process: its streams move to each new one.
const MAX_SERIALS: usize = 4;
/// How long one that is gone is remembered: what began before it went has ended.
const REMEMBERED_MS: i64 = 65 * 60 * 1000;

/// A process, among those of one identity.
pub(crate) type Name = (Arc<str>, u64);

/// Everything by which it is known what a process received.
#[derive(Debug, Default)]
struct Reporter {
    /// Streams that it tells by; two for a moment, when one replaces the other.
    streams: u32,
    serials: VecDeque<Serial>,
    /// Nothing is missing from here (exclusive) to `through_ms`, by its own clock. 0: since it started.
    whole_from_ms: i64,
    through_ms: i64,
    partial: VecDeque<Partial>,
    /// By our clock.
    gone_ms: i64,
}

#[derive(Debug, Clone, Copy)]
struct Partial {
    from_ms: i64,
    through_ms: i64,
    cut: u64,
}

/// See the module's story.
#[derive(Debug, Default)]
pub(crate) struct Reporters(BTreeMap<Name, Reporter>);

/// The head of a report.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) from_ms: i64,
    pub(crate) through_ms: i64,
    pub(crate) cut: u64,
}

impl Reporters {
    /// A process tells by one more stream, which it opened with this certificate.
    pub(crate) fn comes(&mut self, name: &Name, serial: Serial) {
        if self.0.len() >= MAX_REPORTERS && !self.0.contains_key(name) {
            let gone = self.0.iter().filter(|(_, one)| one.streams == 0);
            let oldest = gone.min_by_key(|(_, one)| one.gone_ms).map(|(name, _)| name.clone());
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        let one = self.0.entry(name.clone()).or_default();
        one.streams = one.streams.saturating_add(1);
        if !one.serials.contains(&serial) {
            one.serials.push_back(serial);
        }
        while one.serials.len() > MAX_SERIALS {
            one.serials.pop_front();
        }
    }

    /// One of its streams ended.
    pub(crate) fn goes(&mut self, name: &Name, now_ms: i64) {
        if let Some(one) = self.0.get_mut(name) {
            one.streams = one.streams.saturating_sub(1);
            one.gone_ms = now_ms;
        }
    }

    /// It told of this time.
    pub(crate) fn tells(&mut self, name: &Name, span: Span, now_ms: i64) {
        let Some(one) = self.0.get_mut(name) else { return };
        if span.through_ms > now_ms.saturating_add(SKEW_MS) {
            // Its clock is ahead: its times say nothing of what came before what.
            one.whole_from_ms = one.whole_from_ms.max(span.through_ms);
        }
        let is_first = one.through_ms == 0;
        if is_first || span.from_ms > one.through_ms {
            // What lies between was lost, or told to somebody else.
            one.whole_from_ms = one.whole_from_ms.max(span.from_ms);
        }
        if span.cut < u64::MAX {
            one.partial.push_back(Partial {
                from_ms: span.from_ms,
                through_ms: span.through_ms,
                cut: span.cut,
            });
            while one.partial.len() > MAX_PARTIAL {
                if let Some(oldest) = one.partial.pop_front() {
                    one.whole_from_ms = one.whole_from_ms.max(oldest.through_ms);
                }
            }
        }
        one.through_ms = one.through_ms.max(span.through_ms);
    }

    /// Something that processes of this identity told of this moment is not kept: which of them did is not known any more.
    pub(crate) fn loses(&mut self, identity: &Arc<str>, at_ms: i64) {
        let all = self.0.range_mut((Arc::clone(identity), 0)..=(Arc::clone(identity), u64::MAX));
        for (_, one) in all {
            one.whole_from_ms = one.whole_from_ms.max(at_ms.saturating_add(1));
        }
    }

    pub(crate) fn forget_old(&mut self, now_ms: i64) {
        self.0.retain(|_, one| one.streams > 0 || now_ms.saturating_sub(one.gone_ms) < REMEMBERED_MS);
    }

    /// What may be missing of how the caller of this hop came to it; `live` are the certificates by which every process
    /// of that identity that may be at work is known, `lot` is the transaction's.
    pub(crate) fn doubt(&self, hop: &Hop, lot: u64, live: &[Serial]) -> Option<Doubt> {
        let all = (Arc::clone(&hop.caller), 0)..=(Arc::clone(&hop.caller), u64::MAX);
        let of_caller = || self.0.range(all.clone()).map(|(_, one)| one);
        let is_heard =
            |serial: &Serial| of_caller().any(|one| one.streams > 0 && one.serials.contains(serial));
        if !live.iter().all(is_heard) {
            return Some(if of_caller().next().is_none() { Doubt::NotHeard } else { Doubt::NotConnected });
        }
        let from = hop.began_ms.saturating_sub(SKEW_MS);
        let to = hop.first_ms.saturating_add(SKEW_MS);
        let mut doubts = of_caller().map(|one| one.doubt(from, to, lot)).peekable();
        if doubts.peek().is_none() {
            return Some(Doubt::NotHeard);
        }
        doubts.find_map(|doubt| doubt)
    }
}

impl Reporter {
    /// What is missing of what it received in this time.
    fn doubt(&self, from_ms: i64, to_ms: i64, lot: u64) -> Option<Doubt> {
        // One that was gone before it all began received nothing of it.
        if self.streams == 0 && self.gone_ms.saturating_add(SKEW_MS) < from_ms {
            return None;
        }
        if self.through_ms < to_ms {
            return Some(Doubt::NotTold);
        }
        if self.whole_from_ms > from_ms {
            return Some(Doubt::Lost);
        }
        let touches = |part: &&Partial| part.from_ms <= to_ms && part.through_ms >= from_ms;
        self.partial.iter().filter(touches).any(|part| lot > part.cut).then_some(Doubt::LeftOut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn name(reporter: u64) -> Name {
        ("thief".into(), reporter)
    }

    fn serial(n: u8) -> Serial {
        Serial::from_bytes(&[n]).unwrap()
    }

    fn hop() -> Hop {
        Hop {
            caller: "thief".into(),
            callee: "b".into(),
            service: "b.shop".into(),
            minted_by: "gw".into(),
            attached: false,
            refused: false,
            first_ms: NOW,
            count: 1,
            began_ms: NOW - 2_000,
            depth: 0,
        }
    }

    fn span(from_ms: i64, through_ms: i64) -> Span {
        Span { from_ms, through_ms, cut: u64::MAX }
    }

    /// One process that has told of everything.
    fn told() -> Reporters {
        let mut reporters = Reporters::default();
        reporters.comes(&name(1), serial(1));
        reporters.tells(&name(1), span(0, NOW - 60_000), NOW + 2 * SKEW_MS);
        reporters.tells(&name(1), span(NOW - 60_000, NOW + 2 * SKEW_MS), NOW + 2 * SKEW_MS);
        reporters
    }

    #[test]
    fn who_has_told_everything_leaves_no_doubt() {
        assert_eq!(told().doubt(&hop(), 7, &[serial(1)]), None);
    }

    #[test]
    fn who_is_not_connected_may_have_received_it() {
        assert_eq!(told().doubt(&hop(), 7, &[serial(1), serial(2)]), Some(Doubt::NotConnected));
        assert_eq!(Reporters::default().doubt(&hop(), 7, &[serial(1)]), Some(Doubt::NotHeard));
        assert_eq!(Reporters::default().doubt(&hop(), 7, &[]), Some(Doubt::NotHeard));
        let mut reporters = told();
        reporters.goes(&name(1), NOW);
        assert_eq!(reporters.doubt(&hop(), 7, &[serial(1)]), Some(Doubt::NotConnected));
    }

    #[test]
    fn a_report_that_is_not_here_yet_or_was_lost_is_missed() {
        let mut reporters = Reporters::default();
        reporters.comes(&name(1), serial(1));
        reporters.tells(&name(1), span(0, NOW), NOW + 2 * SKEW_MS);
        assert_eq!(reporters.doubt(&hop(), 7, &[serial(1)]), Some(Doubt::NotTold), "its clock may be ahead");
        reporters.tells(&name(1), span(NOW + 1, NOW + 2 * SKEW_MS), NOW + 2 * SKEW_MS);
        assert_eq!(reporters.doubt(&hop(), 7, &[serial(1)]), Some(Doubt::Lost));
        // A control plane that has just started does not know what was told to the one before.
        let mut reporters = Reporters::default();
        reporters.comes(&name(1), serial(1));
        reporters.tells(&name(1), span(NOW, NOW + 2 * SKEW_MS), NOW + 2 * SKEW_MS);
        assert_eq!(reporters.doubt(&hop(), 7, &[serial(1)]), Some(Doubt::Lost));
    }

    #[test]
    fn whose_clock_is_ahead_says_nothing_of_what_came_before_what() {
        let (mut reporters, now) = (told(), NOW + 2 * SKEW_MS);
        reporters.tells(&name(1), span(now, now + SKEW_MS), now);
        assert_eq!(reporters.doubt(&hop(), 7, &[serial(1)]), None);
        reporters.tells(&name(1), span(now + SKEW_MS, now + SKEW_MS + 1), now);
        assert_eq!(reporters.doubt(&hop(), 7, &[serial(1)]), Some(Doubt::Lost));
    }

    #[test]
    fn what_was_told_and_not_kept_is_missed() {
        let mut reporters = told();
        reporters.loses(&"thief".into(), NOW);
        assert_eq!(reporters.doubt(&hop(), 7, &[serial(1)]), Some(Doubt::Lost));
    }

    #[test]
    fn what_was_left_out_by_lot_is_missed_and_what_was_not_is_not() {
        let mut reporters = told();
        let end = NOW + 2 * SKEW_MS;
        reporters.tells(
            &name(1),
            Span { from_ms: NOW - 1_000, through_ms: end, cut: 100 },
            NOW + 2 * SKEW_MS,
        );
        assert_eq!(reporters.doubt(&hop(), 101, &[serial(1)]), Some(Doubt::LeftOut));
        assert_eq!(reporters.doubt(&hop(), 100, &[serial(1)]), None);
        for n in 1..=65 {
            reporters.tells(
                &name(1),
                Span { from_ms: end, through_ms: end + n, cut: 100 },
                NOW + 2 * SKEW_MS,
            );
        }
        assert_eq!(reporters.doubt(&hop(), 100, &[serial(1)]), Some(Doubt::Lost), "kept within bounds");
    }

    #[test]
    fn one_that_went_before_it_began_is_not_waited_for() {
        let mut reporters = told();
        reporters.comes(&name(2), serial(2));
        reporters.tells(&name(2), span(0, NOW - 30_000), NOW + 2 * SKEW_MS);
        reporters.goes(&name(2), NOW - 1_000);
        assert_eq!(reporters.doubt(&hop(), 7, &[serial(1)]), Some(Doubt::NotTold));
        let later = Hop { began_ms: NOW + 2 * SKEW_MS, first_ms: NOW + SKEW_MS, ..hop() };
        assert_eq!(reporters.doubt(&later, 7, &[serial(1)]), None);
        reporters.forget_old(NOW + REMEMBERED_MS);
        assert_eq!(reporters.0.len(), 1);
    }
}
