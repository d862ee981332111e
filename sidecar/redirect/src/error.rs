//! Why a command fails, in the words of the program that refused and with what can be done about it.

use std::io;
use std::path::Path;

use super::host::FOLDERS;
use super::kinds::ATTEMPTS;
use super::options::OptionsError;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The options.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// Not root enough.
    #[error(
        "expected the capability NET_ADMIN, got the capabilities {0:?}: run this as root, in a pod as an init \
         container with `capabilities: {{add: [NET_ADMIN]}}`"
    )]
    NoCapability(String),
    /// Not installed.
    #[error("expected {expected} in one of {}, found none: install {install}", FOLDERS.join(", "))]
    NoProgram {
        /// The programs.
        expected: &'static str,
        /// The packages.
        install: &'static str,
    },
    /// It could not be started, or spoken to.
    #[error("{program}: {source}")]
    Start {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It refused, and nothing was changed.
    #[error("{program} refused: {said}{advice}")]
    Refused {
        /// Which.
        program: String,
        /// In its own words.
        said: String,
        /// What to do.
        advice: &'static str,
    },
    /// It refused in the middle, and so did the way back.
    #[error("{failure}; and what was there before could not be put back: {back}")]
    HalfDone {
        /// The first failure.
        failure: Box<RedirectError>,
        /// The second.
        back: Box<RedirectError>,
    },
    /// The new rules are in force, and older ones beside them.
    #[error(
        "what is asked for is in force by {by}, but rules of before could not be taken away: {failure}; run `redirect \
         remove` and `redirect apply` once that is mended"
    )]
    Leftover {
        /// By what.
        by: &'static str,
        /// Why the others are there still.
        failure: Box<RedirectError>,
    },
    /// Others change the rules as fast as we do.
    #[error(
        "{program}: after {ATTEMPTS} attempts the rules are still not as asked, as if something else sets them: {difference}"
    )]
    Unsettled {
        /// Which.
        program: String,
        /// One of the differences.
        difference: String,
    },
    /// It answered something that is not its format.
    #[error(
        "{program}: cannot read what is in force: {reason}; expected JSON (an nft that was built without it cannot be used for check)"
    )]
    Unreadable {
        /// Which.
        program: String,
        /// Why.
        reason: String,
    },
    /// The network namespace is not ours alone for a moment.
    #[error("expected to be alone in changing this network namespace: {0}")]
    Busy(#[source] io::Error),
    /// `verify` saw that nothing is redirected, or could not see that it is.
    #[error(
        "the redirection is not in force in this pod: expected what the sidecar's user dials at {dialled} to come to port {port}, got: {got}. \
         Signet's CNI agent sets it up before a pod starts, and later where it was not there in time: look whether a pod of the DaemonSet \
         signet-cni runs on this pod's node, and what it logs"
    )]
    NotInForce {
        /// At which of the pod's own addresses.
        dialled: String,
        /// Where it should have come.
        port: u16,
        /// What happened instead.
        got: io::Error,
    },
    /// Standard output is closed.
    #[error("cannot write the answer: {0}")]
    Answer(#[from] io::Error),
}

/// The result of what is done here.
pub type Result<T, E = RedirectError> = std::result::Result<T, E>;

/// Whether the kernel does not know of such rules at all, so that there are none.
pub(super) fn kernel_lacks(errors: &str) -> bool {
    errors.contains("not supported") || errors.contains("Invalid argument")
}

/// Its words on one line, and what can be done.
pub(super) fn refused(program: &Path, errors: &str) -> RedirectError {
    const MODULES: [&str; 6] =
        ["No such file", "not supported", "not exist", "missing kernel module", "Invalid argument", "insmod"];
    let advice = if errors.contains("not permitted") || errors.contains("ermission denied") {
        " (this process must have NET_ADMIN in the user namespace that owns the network namespace)"
    } else if MODULES.iter().any(|sign| errors.contains(sign))
        || errors.contains("unable to initialize table")
    {
        " (the kernel seems to lack a part: for nftables the modules nft_chain_nat, nft_redir, nft_fib_inet and nft_ct; \
         for iptables xt_owner, xt_addrtype, xt_conntrack, xt_REDIRECT, for captured DNS xt_CT and zones of conntrack and, where it is \
         the legacy kind, iptable_nat, iptable_mangle, iptable_raw, ip6table_nat, ip6table_mangle and ip6table_raw. Load them on the node, or choose the other --backend)"
    } else {
        ""
    };
    let lines: Vec<_> = errors.lines().map(str::trim).filter(|line| !line.is_empty()).take(4).collect();
    let said = if lines.is_empty() { "without a word".to_owned() } else { lines.join("; ") };
    RedirectError::Refused { program: program.display().to_string(), said, advice }
}
