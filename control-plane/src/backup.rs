//! Copies of the authority by the clock, where the configuration asks for them.

use std::time::Duration;

use signet_ca::Authority;

/// Who stands in the log for a copy that nobody asked for.
const ACTOR: &str = "authority";
/// How long to wait after one that was not made.
const AGAIN: Duration = Duration::from_secs(60);

/// Makes a copy whenever the newest is as old as this, restarts or not.
pub(crate) async fn keep(authority: Authority, every: Duration) {
    loop {
        // A clock that was set back makes a copy of the future, which is as good as one of now.
        let age = authority.backup_age().map(|age| Duration::from_secs(u64::try_from(age).unwrap_or(0)));
        let due = age.map_or(Duration::ZERO, |age| every.saturating_sub(age));
        tokio::time::sleep(due).await;
        // A failure was logged and counted by the authority.
        if authority.backup(ACTOR).await.is_err() {
            tokio::time::sleep(AGAIN.min(every)).await;
        }
    }
}
