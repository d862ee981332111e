//! `rotation`: when roots, issuers and keys follow each other.

use std::time::Duration;

use serde::Deserialize;
use signet_ca::RotationConfig;

const DAY: u64 = 24 * 3600;

/// As written. What is left out keeps its default.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct Raw {
    automatic: bool,
    ack_deadline_seconds: u64,
    consumers_wait_seconds: u64,
    root_days: u64,
    key_days: u64,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            automatic: true,
            ack_deadline_seconds: 600,
            consumers_wait_seconds: 1_500,
            root_days: 3_650,
            key_days: 30,
        }
    }
}

/// Checked.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    pub when: RotationConfig,
    pub root_life: Duration,
}

impl Raw {
    pub(super) fn check(self, dev: bool) -> Result<Rotation, (&'static str, String)> {
        let within = |field, value: u64, least: u64, most: u64| match (least..=most).contains(&value) {
            true => Ok(value),
            false => Err((field, format!("expected {least} to {most}, found {value}"))),
        };
        // Where nobody depends on the mesh, a rotation may be watched in a minute.
        let least = if dev { 1 } else { 30 };
        let ack = within("rotation.ackDeadlineSeconds", self.ack_deadline_seconds, least, 7 * DAY)?;
        let consumers = within(
            "rotation.consumersWaitSeconds",
            self.consumers_wait_seconds,
            if dev { 0 } else { 60 },
            7 * DAY,
        )?;
        let root_days = within("rotation.rootDays", self.root_days, 30, 36_500)?;
        let key_days = within("rotation.keyDays", self.key_days, 1, 3_650)?;
        Ok(Rotation {
            when: RotationConfig {
                automatic: self.automatic,
                ack_deadline: Duration::from_secs(ack),
                consumers_wait: Duration::from_secs(consumers),
                key_life: Duration::from_secs(key_days * DAY),
                skew: Duration::from_secs(if dev { 2 } else { 120 }),
                ..RotationConfig::default()
            },
            root_life: Duration::from_secs(root_days * DAY),
        })
    }
}
