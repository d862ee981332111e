//! A chain out of hops. Pure.
//!
//! A hop is *grounded* when its caller had what it brought: the token was minted for the caller itself (a gateway, a
//! workload that exchanged one or opened a sealed context), or a grounded hop of the same token, not refused and not later,
//! came in at the caller. What is left is impossible, unless something may be missing that would ground it.

use std::fmt;
use std::sync::Arc;

use super::SKEW_MS;

/// Requests that brought one token from one caller to one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) caller: Arc<str>,
    /// Who said so, by its certificate.
    pub(crate) callee: Arc<str>,
    pub(crate) service: Arc<str>,
    /// The token's `req_wl`.
    pub(crate) minted_by: Arc<str>,
    pub(crate) attached: bool,
    pub(crate) refused: bool,
    pub(crate) first_ms: i64,
    pub(crate) count: u32,
    /// When the transaction began, milliseconds since the epoch.
    pub(crate) began_ms: i64,
    /// As it was proven; 0 where nobody proves any.
    pub(crate) depth: u32,
}

/// Why it cannot be said whether a hop can have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// A sidecar of the caller's identity is not connected here.
    NotConnected,
    /// None of them tells of transactions.
    NotHeard,
    /// One has not told of that time yet, or ended before it did.
    NotTold,
    /// A report was lost, or what it said is not kept any more.
    Lost,
    /// One had so much to tell that it left this transaction out.
    LeftOut,
    /// The chain has more hops than are kept.
    TooLong,
    /// It cannot be said how the caller itself came to it.
    Follows,
}

impl Doubt {
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Doubt::NotConnected => "not_connected",
            Doubt::NotHeard => "not_heard",
            Doubt::NotTold => "not_told",
            Doubt::Lost => "lost",
            Doubt::LeftOut => "left_out",
            Doubt::TooLong => "too_long",
            Doubt::Follows => "follows",
        }
    }

    /// Whether waiting may help.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Doubt::NotConnected | Doubt::NotHeard | Doubt::NotTold | Doubt::Follows)
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Doubt::NotConnected => {
                "a sidecar of the caller's identity is not connected to this control plane"
            }
            Doubt::NotHeard => "no sidecar of the caller's identity tells this control plane of transactions",
            Doubt::NotTold => "a sidecar of the caller's identity has not told of that time",
            Doubt::Lost => {
                "what a sidecar of the caller's identity told of that time is lost or not kept any more"
            }
            Doubt::LeftOut => "a sidecar of the caller's identity had more to tell than it could",
            Doubt::TooLong => "the transaction has more calls than are kept",
            Doubt::Follows => "how its caller came to it cannot be said",
        })
    }
}

/// What is to be said of a hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The token was minted for the caller.
    Minted,
    /// The caller received it.
    Received,
    /// The caller never received it.
    Impossible,
    /// The caller received it, by a call that is impossible.
    FollowsImpossible,
    Undecidable(Doubt),
}

impl Verdict {
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Verdict::Minted => "minted",
            Verdict::Received => "received",
            Verdict::Impossible => "impossible",
            Verdict::FollowsImpossible => "follows-impossible",
            Verdict::Undecidable(_) => "undecidable",
        }
    }
}

/// A hop in its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) verdict: Verdict,
    /// How many calls from where its token was minted; 0 where it hangs from nothing.
    pub(crate) depth: u32,
}

/// Judges each hop of one transaction. `replaced`: whether this workload's own tokens of it are replacements of others,
/// so that it must have received one. `doubt`: what may be missing of what the caller of this hop received.
pub(crate) fn stitch(
    hops: &[Hop],
    replaced: impl Fn(&str) -> bool,
    mut doubt: impl FnMut(&Hop) -> Option<Doubt>,
) -> Vec<Placed> {
    let mut depths: Vec<Option<u32>> =
        hops.iter().map(|hop| (is_own(hop) && !replaced(&hop.caller)).then_some(1)).collect();
    let rooted = depths.clone();
    // What grounds this hop: a receipt of it by its caller.
    let receipts = |of: &Hop, among: &dyn Fn(usize) -> bool| -> Vec<usize> {
        let is_receipt = |(at, hop): &(usize, &Hop)| among(*at) && is_receipt(hop, of);
        hops.iter().enumerate().filter(is_receipt).map(|(at, _)| at).collect()
    };
    close(hops, &mut depths, &receipts);
    let grounded = depths.clone();
    let mut doubts: Vec<Option<Doubt>> = vec![None; hops.len()];
    for ((hop, depth), told) in hops.iter().zip(&grounded).zip(&mut doubts) {
        if depth.is_none() {
            *told = doubt(hop);
        }
    }
    // What would hang from an uncertain one is uncertain.
    let mut maybe: Vec<Option<u32>> =
        grounded.iter().zip(&doubts).map(|(depth, doubt)| depth.or(doubt.as_ref().map(|_| 0))).collect();
    close(hops, &mut maybe, &receipts);
    let impossible = |at: usize| maybe.get(at).is_some_and(Option::is_none);
    let follows: Vec<bool> = hops
        .iter()
        .enumerate()
        .map(|(at, hop)| impossible(at) && !receipts(hop, &impossible).is_empty())
        .collect();
    // Hops that only ground one another in a circle are all impossible.
    let any_first = follows.iter().enumerate().any(|(at, follows)| impossible(at) && !follows);
    let place = |at: usize| {
        let depth = grounded.get(at).copied().flatten();
        let verdict = match (depth, doubts.get(at).cloned().flatten()) {
            (Some(_), _) if rooted.get(at).is_some_and(Option::is_some) => Verdict::Minted,
            (Some(_), _) => Verdict::Received,
            (None, Some(doubt)) => Verdict::Undecidable(doubt),
            (None, None) if !impossible(at) => Verdict::Undecidable(Doubt::Follows),
            (None, None) if any_first && follows.get(at) == Some(&true) => Verdict::FollowsImpossible,
            (None, None) => Verdict::Impossible,
        };
        Placed { verdict, depth: depth.unwrap_or(0) }
    };
    (0..hops.len()).map(place).collect()
}

/// The token was minted for its caller.
fn is_own(hop: &Hop) -> bool {
    hop.caller == hop.minted_by
}

/// Whether `receipt` may be how the caller of `hop` came to what it brought.
fn is_receipt(receipt: &Hop, hop: &Hop) -> bool {
    receipt.callee == hop.caller
        && !receipt.refused
        // A token of its own stands for whichever it was got for.
        && (is_own(hop) || receipt.minted_by == hop.minted_by)
        && receipt.first_ms <= hop.first_ms.saturating_add(SKEW_MS)
}

/// Grounds whatever has a grounded receipt, until there is no more.
fn close(
    hops: &[Hop],
    depths: &mut [Option<u32>],
    receipts: &impl Fn(&Hop, &dyn Fn(usize) -> bool) -> Vec<usize>,
) {
    loop {
        let before = depths.to_vec();
        let is_grounded = |at: usize| before.get(at).is_some_and(Option::is_some);
        let mut changed = false;
        for (hop, depth) in hops.iter().zip(depths.iter_mut()) {
            if depth.is_none() {
                let of = receipts(hop, &is_grounded);
                let least = of.iter().filter_map(|at| before.get(*at).copied().flatten()).min();
                *depth = least.map(|least| least.saturating_add(1));
                changed |= depth.is_some();
            }
        }
        if !changed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GW: &str = "gw";

    fn hop(caller: &str, callee: &str) -> Hop {
        Hop {
            caller: caller.into(),
            callee: callee.into(),
            service: format!("{callee}.shop").into(),
            minted_by: GW.into(),
            attached: false,
            refused: false,
            first_ms: 1_000_000,
            count: 1,
            began_ms: 999_000,
            depth: 0,
        }
    }

    fn judged(hops: &[Hop]) -> Vec<(&'static str, u32)> {
        let placed = stitch(hops, |_| false, |_| None);
        placed.iter().map(|placed| (placed.verdict.label(), placed.depth)).collect()
    }

    #[test]
    fn calls_hang_from_whom_the_token_was_minted_for_in_whatever_order_they_are_told() {
        let hops = [hop("b", "c"), hop("a", "b"), hop(GW, "a"), hop("a", "d")];
        assert_eq!(judged(&hops), [("received", 3), ("received", 2), ("minted", 1), ("received", 2)]);
    }

    #[test]
    fn a_caller_that_never_received_it_is_impossible_and_what_follows_is_said_to_follow() {
        let hops = [hop(GW, "a"), hop("thief", "b"), hop("b", "c")];
        assert_eq!(judged(&hops), [("minted", 1), ("impossible", 0), ("follows-impossible", 0)]);
    }

    #[test]
    fn a_circle_grounds_nothing() {
        assert_eq!(judged(&[hop("a", "b"), hop("b", "a")]), [("impossible", 0), ("impossible", 0)]);
        assert_eq!(judged(&[hop("a", "a")]), [("impossible", 0)]);
    }

    #[test]
    fn what_was_refused_or_came_later_or_was_another_token_is_no_receipt() {
        let refused = Hop { refused: true, ..hop(GW, "a") };
        assert_eq!(judged(&[refused, hop("a", "b")])[1].0, "impossible");
        let later = Hop { first_ms: 1_000_000 + SKEW_MS + 1, ..hop(GW, "a") };
        assert_eq!(judged(&[later.clone(), hop("a", "b")])[1].0, "impossible");
        let within = Hop { first_ms: 1_000_000 + SKEW_MS, ..later };
        assert_eq!(judged(&[within, hop("a", "b")])[1].0, "received", "clocks may differ");
        let other = Hop { minted_by: "x".into(), ..hop("x", "a") };
        assert_eq!(judged(&[other, hop("a", "b")])[1].0, "impossible");
    }

    #[test]
    fn who_exchanged_what_it_never_received_did_not_exchange_its_own() {
        let own = Hop { minted_by: "a".into(), ..hop("a", "b") };
        let verdict = |hops: &[Hop], replaced: bool| {
            stitch(hops, |who| replaced && who == "a", |_| None).last().unwrap().verdict.clone()
        };
        assert_eq!(
            verdict(std::slice::from_ref(&own), false),
            Verdict::Minted,
            "a transaction that it began"
        );
        assert_eq!(verdict(std::slice::from_ref(&own), true), Verdict::Impossible);
        assert_eq!(verdict(&[hop(GW, "a"), own], true), Verdict::Received);
    }

    #[test]
    fn what_may_be_missing_is_never_called_impossible() {
        let hops = [hop("quiet", "b"), hop("b", "c"), hop("thief", "d")];
        let placed = stitch(&hops, |_| false, |hop| (&*hop.caller == "quiet").then_some(Doubt::NotTold));
        let labels: Vec<_> = placed.iter().map(|placed| placed.verdict.clone()).collect();
        assert_eq!(
            labels,
            [Verdict::Undecidable(Doubt::NotTold), Verdict::Undecidable(Doubt::Follows), Verdict::Impossible]
        );
    }

    proptest::proptest! {
        /// Whatever the mesh really did, nothing of it is impossible, in whichever order it is told.
        #[test]
        fn what_really_happened_is_possible(
            steps in proptest::collection::vec((0_usize..8, 0_usize..8), 1..40),
            seed in 0_usize..1000,
        ) {
            let name = |n: usize| format!("w{n}");
            let mut has = vec![0_usize];
            let mut hops = vec![hop(GW, &name(0))];
            for (from, to) in steps {
                let from = has[from % has.len()];
                hops.push(hop(&name(from), &name(to)));
                has.push(to);
            }
            let turn = seed % hops.len();
            hops.rotate_left(turn);
            for (verdict, depth) in judged(&hops) {
                proptest::prop_assert!(matches!(verdict, "minted" | "received") && depth > 0);
            }
        }
    }
}
