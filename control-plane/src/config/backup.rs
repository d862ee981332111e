//! `backup`: where copies of the authority go, and when they are made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

const KEEP: std::ops::RangeInclusive<usize> = 1..=1_000;
const EVERY_SECONDS: std::ops::RangeInclusive<u64> = 60..=30 * 24 * 3_600;

/// As written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Raw {
    dir: PathBuf,
    #[serde(default = "week")]
    keep: usize,
    every_seconds: Option<u64>,
}

fn week() -> usize {
    7
}

/// Checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    pub dir: PathBuf,
    /// The newest copies, which stay.
    pub keep: usize,
    /// None: only when an operator asks.
    pub every: Option<Duration>,
}

impl Raw {
    pub(super) fn check(self, dev: bool, data_dir: &Path) -> Result<Backup, (&'static str, String)> {
        let dir = super::absolute("backup.dir", self.dir)?;
        // What takes one of them takes the other; and the folder above is not the control plane's alone.
        if dir.starts_with(data_dir) || data_dir.starts_with(&dir) {
            let reason = format!("expected a folder apart from dataDir, found `{}`", dir.display());
            return Err(("backup.dir", reason));
        }
        if !KEEP.contains(&self.keep) {
            let (least, most) = KEEP.into_inner();
            return Err(("backup.keep", format!("expected {least} to {most} copies, found {}", self.keep)));
        }
        let least = if dev { 1 } else { *EVERY_SECONDS.start() };
        if let Some(every) =
            self.every_seconds.filter(|every| !(least..=*EVERY_SECONDS.end()).contains(every))
        {
            let reason = format!("expected {least} to {} seconds, found {every}", EVERY_SECONDS.end());
            return Err(("backup.everySeconds", reason));
        }
        Ok(Backup { dir, keep: self.keep, every: self.every_seconds.map(Duration::from_secs) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Backup, String> {
        let raw: Raw = signet_model::from_yaml(text).map_err(|error| error.to_string())?;
        raw.check(false, Path::new("/var/lib/signet")).map_err(|(field, reason)| format!("{field}: {reason}"))
    }

    #[test]
    fn seven_copies_stay_and_none_is_made_by_itself_unless_it_is_said() {
        let expected = Backup { dir: "/var/backups/signet".into(), keep: 7, every: None };
        assert_eq!(check("dir: /var/backups/signet").unwrap(), expected);
        let daily = check("{dir: /b, keep: 30, everySeconds: 86400}").unwrap();
        assert_eq!((daily.keep, daily.every), (30, Some(Duration::from_secs(86_400))));
    }

    #[test]
    fn copies_lie_apart_from_what_they_are_copies_of_and_are_bounded() {
        for (text, field) in [
            ("dir: copies", "backup.dir: expected an absolute path"),
            ("dir: /var/lib/signet", "backup.dir: expected a folder apart"),
            ("dir: /var/lib/signet/copies", "backup.dir: expected a folder apart"),
            ("dir: /var/lib", "backup.dir: expected a folder apart"),
            ("{dir: /b, keep: 0}", "backup.keep: "),
            ("{dir: /b, keep: 1001}", "backup.keep: "),
            ("{dir: /b, everySeconds: 59}", "backup.everySeconds: "),
            ("{dir: /b, everySeconds: 9999999}", "backup.everySeconds: "),
            ("{dir: /b, into: /c}", "into"),
        ] {
            let message = check(text).unwrap_err();
            assert!(message.contains(field), "{text}: {message}");
        }
    }
}
