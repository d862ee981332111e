//! Which processes of a host a Registration means, and what is known of a process.
//!
//! The same selector is read twice: by the agent of the host, which asks for nothing that no entry gives, and by the
//! authority, which decides by the facts that the agent vouches for.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::twice;
use crate::WorkloadId;
use crate::error::Problem;
use crate::text::unix::{AccountName, BinaryPath, Sha256};

/// Hosts with one entry in common; more are better told apart by more entries.
const MAX_AGENTS: usize = 256;
/// Groups that one entry asks for; a process has a few dozen at most.
const MAX_GROUPS: usize = 16;
/// The fields that say something of a process.
const SAYING: &str = "at least one of uid, user, gid, group, supplementaryGids, path and sha256";

/// Processes on the hosts of certain agents: those of which everything that is written here is true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ProcessSelector {
    /// Who may vouch for such a process: identities of class `agent`.
    pub agents: Vec<WorkloadId>,
    /// The user it runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The same by the name that its host has for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<AccountName>,
    /// Its primary group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The same by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<AccountName>,
    /// Groups that it is in besides, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supplementary_gids: Vec<u32>,
    /// The program that it runs, as the agent sees it from its own mount namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<BinaryPath>,
    /// SHA-256 of the program that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
}

/// What the kernel says of one process, and the host's names for that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    pub uid: u32,
    pub gid: u32,
    /// None where the host has no name for it.
    pub user: Option<String>,
    pub group: Option<String>,
    pub supplementary_gids: Vec<u32>,
    /// None where the program cannot be named: deleted, of another mount namespace, or no text.
    pub path: Option<String>,
    /// None where nobody asked for it, or it could not be read.
    pub sha256: Option<[u8; 32]>,
}

/// In the words of the issuance log: short, and never more than one line.
impl fmt::Display for ProcessFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {} gid {}", self.uid, self.gid)?;
        if let Some(path) = &self.path {
            write!(f, " path {path:?}")?;
        }
        if let Some(digest) = &self.sha256 {
            f.write_str(" sha256 ")?;
            digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        Ok(())
    }
}

impl ProcessSelector {
    /// Whether this agent may vouch for such a process.
    pub fn is_of(&self, agent: &WorkloadId) -> bool {
        self.agents.contains(agent)
    }

    /// Whether a process of which this is known is meant. What is not known is not so.
    pub fn takes(&self, facts: &ProcessFacts) -> bool {
        let is = |asked: Option<u32>, known: u32| asked.is_none_or(|asked| asked == known);
        let named = |asked: Option<&str>, known: Option<&str>| asked.is_none() || asked == known;
        is(self.uid, facts.uid)
            && is(self.gid, facts.gid)
            && named(self.user.as_ref().map(AccountName::as_str), facts.user.as_deref())
            && named(self.group.as_ref().map(AccountName::as_str), facts.group.as_deref())
            && self.supplementary_gids.iter().all(|gid| facts.supplementary_gids.contains(gid))
            && named(self.path.as_ref().map(BinaryPath::as_str), facts.path.as_deref())
            && self.sha256.as_ref().is_none_or(|asked| facts.sha256.as_ref() == Some(&asked.bytes()))
    }

    /// How much it asks of a process: the identity of who asks most comes first.
    pub fn specificity(&self) -> usize {
        let single = [
            self.uid.is_some(),
            self.user.is_some(),
            self.gid.is_some(),
            self.group.is_some(),
            self.path.is_some(),
            self.sha256.is_some(),
        ];
        single.iter().filter(|said| **said).count().saturating_add(self.supplementary_gids.len())
    }

    pub(crate) fn check(&self, problems: &mut Vec<Problem>) {
        let mut add = |field: &str, reason: String| {
            problems.push(Problem::new(&*format!("spec.unix{field}"), reason));
        };
        if self.agents.is_empty() || self.agents.len() > MAX_AGENTS {
            add(".agents", format!("expected 1 to {MAX_AGENTS} identities, got {}", self.agents.len()));
        }
        if self.supplementary_gids.len() > MAX_GROUPS {
            let got = self.supplementary_gids.len();
            add(".supplementaryGids", format!("expected at most {MAX_GROUPS} groups, got {got}"));
        }
        for (index, agent) in twice(&self.agents) {
            add(&format!(".agents[{index}]"), format!("`{agent}` stands twice"));
        }
        for (index, gid) in twice(&self.supplementary_gids) {
            add(&format!(".supplementaryGids[{index}]"), format!("{gid} stands twice"));
        }
        if self.specificity() == 0 {
            add("", format!("expected {SAYING}, got none: every process of the host would be meant"));
        }
    }
}
