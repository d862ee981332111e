//! `signet ca revoke --wait`: until the revocation has reached everybody who is connected.
//!
//! A sidecar acknowledges revocations when it goes by them: it lets nobody in whom they name, and closes what is open. The
//! control plane that is asked answers for all control planes on its store. Who is not connected is not waited for: it
//! hears of revocations before anything else when it comes back.

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::json;
use signet_proto::v1::{AwaitRevocationsRequest, AwaitRevocationsResponse, BehindReason, BehindRevocations};

use crate::operator::{Context, one_line, refused, when};

/// One call's part of a longer wait.
const AT_A_TIME: Duration = Duration::from_secs(30);

/// How long to wait: `500ms`, `30s`, `2m`; a number alone is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait(Duration);

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("expected a time of an hour at most, such as 30s, 2m or 500ms, got {text:?}");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        let time = match unit {
            "ms" => Some(Duration::from_millis(number)),
            "s" | "" => Some(Duration::from_secs(number)),
            "m" => number.checked_mul(60).map(Duration::from_secs),
            _ => None,
        };
        time.filter(|time| *time <= Duration::from_secs(3600)).map(Self).ok_or_else(bad)
    }
}

/// Waits, and shows what came of it. The revocation with this number stands in any case, and the error says so.
pub(crate) async fn wait(context: &Context, sequence: u64, wait: Wait) -> anyhow::Result<()> {
    let stands = || {
        format!(
            "revoked; the list is now at {sequence}. The revocation stands, but it is not known whom it has reached"
        )
    };
    let end = Instant::now() + wait.0;
    let state = loop {
        let left = end.saturating_duration_since(Instant::now());
        let within_ms = u32::try_from(left.min(AT_A_TIME).as_millis()).unwrap_or(u32::MAX);
        let asked = async {
            let request = AwaitRevocationsRequest { sequence, within_ms };
            let answer = context.client().await?.await_revocations(request).await;
            anyhow::Ok(answer.map_err(|it| refused(&it))?.into_inner())
        };
        let state = asked.await.with_context(stands)?;
        if state.behind.is_empty() || Instant::now() >= end {
            break state;
        }
    };
    let AwaitRevocationsResponse { behind, sidecars, control_planes } = state;
    let json = json!({
        "sequence": sequence, "everywhere": behind.is_empty(), "sidecars": sidecars, "control_planes": control_planes,
        "behind": behind.iter().map(as_json).collect::<Vec<_>>(),
    });
    if behind.is_empty() {
        return context.show(json, || {
            format!(
                "revoked; the list is now at {sequence}, and every connected sidecar goes by it ({})",
                counted(sidecars, control_planes)
            )
        });
    }
    if context.json {
        context.show(json, String::new)?;
    }
    let lines: Vec<String> = behind.iter().map(in_words).collect();
    bail!(
        "revoked; the list is now at {sequence}. The revocation stands, but after {:?} not everybody goes by it:\n{}",
        wait.0,
        lines.join("\n")
    )
}

fn counted(sidecars: u64, control_planes: u32) -> String {
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    format!(
        "{sidecars} sidecar{}, {control_planes} control plane{}",
        plural(sidecars),
        plural(u64::from(control_planes))
    )
}

fn as_json(it: &BehindRevocations) -> serde_json::Value {
    let reason = match it.reason() {
        BehindReason::Sidecars => "sidecars",
        BehindReason::Unread => "unread",
        BehindReason::Unsaid => "unsaid",
        BehindReason::Silent => "silent",
    };
    json!({"control_plane": it.control_plane, "sidecars": it.sidecars, "spiffe_ids": it.spiffe_ids,
           "reason": reason, "silent_since": it.silent_since})
}

/// Who is behind, and what to do about it.
fn in_words(it: &BehindRevocations) -> String {
    let of = match it.control_plane.as_str() {
        "" => "this control plane".to_owned(),
        name => format!("control plane {}", one_line(name)),
    };
    match it.reason() {
        BehindReason::Sidecars => {
            let names: Vec<_> = it.spiffe_ids.iter().map(|name| one_line(name)).collect();
            let named = u64::try_from(names.len()).unwrap_or(u64::MAX);
            let more = it.sidecars.saturating_sub(named);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            format!("  sidecars of {of}: {}{more}", names.join(", "))
        }
        BehindReason::Unread => format!("  {of} has not read it from the store yet: see its log"),
        BehindReason::Unsaid => {
            format!("  {of} does not say how far its sidecars are: it is of an earlier version")
        }
        BehindReason::Silent => format!(
            "  {of} was not heard of since {}: if it still runs, its sidecars may hear of nothing; stop it, and they find another",
            when(it.silent_since)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_with_its_unit_and_an_hour_at_most() {
        let read = |text: &str| text.parse::<Wait>().map(|wait| wait.0.as_millis());
        assert_eq!(
            [read("500ms"), read("30s"), read("2m"), read("7"), read("0")],
            [Ok(500), Ok(30_000), Ok(120_000), Ok(7_000), Ok(0)]
        );
        assert_eq!(read("60m"), Ok(3_600_000));
        for bad in
            ["", "s", "-1", "61m", "1h", "1.5s", "30 s", "99999999999999999999", "18446744073709551615m"]
        {
            assert!(read(bad).unwrap_err().contains("such as 30s"), "{bad}");
        }
    }

    #[test]
    fn who_is_behind_is_named_with_what_to_do() {
        let behind = |reason: BehindReason| BehindRevocations { reason: reason.into(), ..Default::default() };
        let sidecars = BehindRevocations {
            sidecars: 3,
            spiffe_ids: vec![
                "spiffe://example.com/ns/shop/sa/web".into(),
                "spiffe://example.com/\u{1b}[2K".into(),
            ],
            ..behind(BehindReason::Sidecars)
        };
        let words = in_words(&sidecars);
        assert_eq!(
            words,
            r"  sidecars of this control plane: spiffe://example.com/ns/shop/sa/web, spiffe://example.com/\u{1b}[2K and 1 more"
        );
        let silent = BehindRevocations {
            control_plane: "b".into(),
            silent_since: 1_790_000_000,
            ..behind(BehindReason::Silent)
        };
        assert!(in_words(&silent).contains("control plane b was not heard of since 2026-09-21T14:13:20Z"));
        assert!(in_words(&behind(BehindReason::Unread)).contains("has not read it"));
        assert_eq!(counted(1, 2), "1 sidecar, 2 control planes");
    }
}
