//! Waiting until a revocation has reached everybody: the sidecars of this control plane, by what they acknowledged; those
//! of the others on the store, by what the others say there.

use std::time::Duration;

use signet_ca::Told;
use signet_proto::v1::{self, BehindReason as Reason};
use tonic::Status;

use super::convert;
use super::operator::Operators;
use crate::delivery::spread::MAX_NAMES;

/// The longest that one call waits; who would wait longer asks again.
const LONGEST: Duration = Duration::from_secs(60);
/// How often the store is asked what the others say, while somebody waits.
const ASK_OTHERS: Duration = Duration::from_millis(100);
/// Acknowledgements come in crowds: they are looked at together.
const GATHER: Duration = Duration::from_millis(5);

impl Operators {
    /// Waits; whoever is behind when the time is over is in the answer.
    pub(super) async fn await_sequence(
        &self,
        asked: v1::AwaitRevocationsRequest,
    ) -> Result<v1::AwaitRevocationsResponse, Status> {
        let Ok(_place) = self.waits.try_acquire() else {
            return Err(Status::resource_exhausted("too many wait for revocations already; try again"));
        };
        let within = Duration::from_millis(asked.within_ms.into()).min(LONGEST);
        let deadline = tokio::time::Instant::now() + within;
        let mut changed = self.spread.subscribe();
        loop {
            changed.mark_unchanged();
            let state = self.spread_of(asked.sequence).await?;
            let now = tokio::time::Instant::now();
            if state.behind.is_empty() || now >= deadline {
                return Ok(state);
            }
            let others_are_behind = state.behind.iter().any(|one| !one.control_plane.is_empty());
            tokio::select! {
                _ = changed.changed() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(ASK_OTHERS), if others_are_behind => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// Who is behind now.
    async fn spread_of(&self, sequence: u64) -> Result<v1::AwaitRevocationsResponse, Status> {
        let others =
            self.authority.other_spreads().await.map_err(|error| convert::operator_status(&error))?;
        let mut state = v1::AwaitRevocationsResponse {
            behind: Vec::new(),
            sidecars: self.spread.connected(),
            control_planes: 1,
        };
        let here = self.spread.behind(sequence);
        if !here.is_nobody() {
            let reason = if here.unread { Reason::Unread } else { Reason::Sidecars };
            state.behind.push(behind(String::new(), (here.sidecars, here.names), reason));
        }
        for (control_plane, told) in others {
            state.control_planes = state.control_planes.saturating_add(1);
            state.behind.extend(match told {
                Told::Note(note) => {
                    state.sidecars = state.sidecars.saturating_add(note.sidecars);
                    // What it says is of the newest set that it has read, which may be one before.
                    let reason = if note.behind == 0 { Reason::Unread } else { Reason::Sidecars };
                    let names = note.names.into_iter().take(MAX_NAMES).collect();
                    let is_behind = note.sequence < sequence;
                    is_behind.then(|| behind(control_plane, (note.behind, names), reason))
                }
                Told::Nothing => Some(behind(control_plane, (0, Vec::new()), Reason::Unsaid)),
                Told::Silent(silent_since) => {
                    let told = behind(control_plane, (0, Vec::new()), Reason::Silent);
                    Some(v1::BehindRevocations { silent_since, ..told })
                }
            });
        }
        Ok(state)
    }
}

fn behind(
    control_plane: String,
    (sidecars, spiffe_ids): (u64, Vec<String>),
    reason: Reason,
) -> v1::BehindRevocations {
    v1::BehindRevocations { control_plane, sidecars, spiffe_ids, reason: reason.into(), silent_since: 0 }
}
