//! `redirect`: the netfilter rules that lead an app's connections through its sidecar.
//!
//! ```text
//!  command line, sidecar.yaml ─ options ─► Wanted ─ plan ─► rules ─┬─ nftables ─► nft -f -
//!                                                                  └─ iptables ─► ip(6)tables-restore --noflush
//!  what is in force ──────────────────── nftables, iptables ─► rules ─ check ─► what differs
//! ```
//!
//! * [`options`] and [`values`]: what is asked, refused where it cannot be meant. [`plan`]: from there to an ordered
//!   list of rules, a pure function; the same rules for both backends.
//! * [`nftables`] and [`iptables`]: the rules in the words of each, and back from what the kernel has.
//! * [`check`]: rules that are asked for beside rules that are there.
//! * [`verify`]: whether they are in force, seen from within a pod by somebody who may not read them.
//! * [`host`]: programs, by absolute paths, and files of `/proc`. `kinds`: the kinds of iptables. [`run`]: the
//!   commands; [`error`]: why they fail.
//!
//! Only what is ours is ever touched: the table `inet signet`, or the chains `SIGNET_*` and the jumps to them.
//! Applying replaces whatever of ours was there, in one transaction per program, and what fails leaves what was
//! there before. No shell is involved; the environment is neither read nor handed on.
//!
//! Everything here blocks, and is about the network namespace of the thread that calls it: `signet-sidecar redirect` is
//! started in a pod, the CNI agent enters one with a thread.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]
#![forbid(unsafe_code)]

pub mod asks;
pub mod check;
pub mod error;
pub mod host;
pub mod iptables;
mod kinds;
pub mod nftables;
pub mod options;
pub mod plan;
pub mod run;
pub mod values;
pub mod verify;
