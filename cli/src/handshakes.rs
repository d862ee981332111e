//! `signet handshakes`: the latest handshakes that failed, of the control plane or of a sidecar, gateway or agent by its
//! admin socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use signet_proto::v1::ListHandshakesRequest;
use tokio::net::UnixStream;

use crate::operator::{Context, one_line, refused, table};

/// More than a process keeps.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;
/// The process is on this machine.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Args)]
pub(crate) struct Handshakes {
    /// The admin socket of a sidecar, gateway or agent. Without it: those of the control plane.
    #[arg(long, value_name = "SOCKET")]
    of: Option<PathBuf>,
    /// Only this reason: expired, alert_received, …
    #[arg(long)]
    reason: Option<String>,
    /// Only where this is part of an address or identity.
    #[arg(long)]
    peer: Option<String>,
    /// Every one with all that is known of it, and what to do.
    #[arg(long)]
    long: bool,
}

impl Handshakes {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let answer = match &self.of {
            Some(socket) => tokio::time::timeout(PATIENCE, ask(socket))
                .await
                .with_context(|| format!("no answer from {}", socket.display()))?
                .with_context(|| format!("asking the admin socket {}", socket.display()))?,
            None => {
                let answer = context.client().await?.list_handshakes(ListHandshakesRequest {}).await;
                answer.map_err(|it| refused(&it))?.into_inner().json.into()
            }
        };
        let mut report: Value = serde_json::from_slice(&answer).context("the answer is not JSON")?;
        let Some(failures) = report.get_mut("failures").and_then(Value::as_array_mut) else {
            bail!("the answer has no `failures`: is that process of another version?");
        };
        failures.retain(|one| self.is_wanted(one));
        context.show(report.clone(), || self.text(&report))
    }

    fn is_wanted(&self, one: &Value) -> bool {
        let reason = self.reason.as_ref().is_none_or(|reason| word(one, "reason") == reason);
        let whom = [word(one, "peer"), word(&one["received"], "identity"), word(one, "expected")];
        reason && self.peer.as_ref().is_none_or(|peer| whom.iter().any(|text| text.contains(peer.as_str())))
    }

    fn text(&self, report: &Value) -> String {
        let failures = report["failures"].as_array().map(Vec::as_slice).unwrap_or_default();
        if failures.is_empty() {
            return "no handshake failed since the start, as far as was asked".to_owned();
        }
        let mut text = if self.long {
            failures.iter().map(details).collect::<Vec<_>>().join("\n\n")
        } else {
            overview(failures)
        };
        if let Some(count @ 1..) = report["forgotten"].as_u64() {
            text += &format!("\n\n{count} more are counted in the metric only: too many kinds at once");
        }
        text
    }
}

fn word<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or_default()
}

fn overview(failures: &[Value]) -> String {
    let rows: Vec<_> = failures
        .iter()
        .map(|one| {
            let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            let reason = match one["alert"].as_str() {
                Some(alert) => format!("{} ({alert})", word(one, "reason")),
                None => word(one, "reason").to_owned(),
            };
            vec![
                word(one, "lastSeen").to_owned(),
                one["count"].to_string(),
                word(one, "direction").to_owned(),
                reason,
                or_dash(word(one, "peer")),
                or_dash(word(&one["received"], "identity")),
                or_dash(word(one, "service")),
            ]
        })
        .collect();
    let heading = ["LAST", "TIMES", "DIRECTION", "REASON", "PEER", "CAME AS", "SERVICE"];
    format!("{}\n\n--long says of each what happened and what to do", table(&heading, &rows))
}

fn details(one: &Value) -> String {
    let mut lines = vec![format!(
        "{} {} ({} times, {} to {})",
        word(one, "direction"),
        word(one, "reason"),
        one["count"],
        word(one, "firstSeen"),
        word(one, "lastSeen")
    )];
    let mut line = |name: &str, text: String| {
        if !text.is_empty() {
            lines.push(format!("  {name:<10}{}", one_line(&text)));
        }
    };
    line("happened", word(one, "message").to_owned());
    line("do", word(one, "whatToDo").to_owned());
    line("service", word(one, "service").to_owned());
    line("peer", word(one, "peer").to_owned());
    line("expected", word(one, "expected").to_owned());
    line("", word(one, "expectedClass").to_owned());
    line("came", certificate(&one["received"]));
    line("clock", clock(one));
    line("we were", certificate(&one["own"]));
    let own = &one["own"];
    line("", own["revokedBy"].as_str().map(|by| format!("revoked by {by}")).unwrap_or_default());
    let trusted: Vec<_> = own["trusted"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    line("trusting", trusted.join(", "));
    lines.join("\n")
}

fn certificate(of: &Value) -> String {
    match of["identity"].as_str() {
        None => String::new(),
        Some(identity) => format!(
            "{identity} (class {}, serial {}, valid {} to {})",
            word(of, "class"),
            word(of, "serial"),
            word(of, "notBefore"),
            word(of, "notAfter")
        ),
    }
}

fn clock(one: &Value) -> String {
    match one["skewSeconds"].as_i64() {
        None => String::new(),
        Some(skew) => format!(
            "it was {} here; for the certificate to be good that would have to be {} by {} s",
            word(one, "now"),
            if skew > 0 { "ahead" } else { "behind" },
            skew.unsigned_abs()
        ),
    }
}

/// `GET /handshakes`.
async fn ask(socket: &Path) -> anyhow::Result<Bytes> {
    let stream = UnixStream::connect(socket).await?;
    let (mut requests, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = http::Request::get("/handshakes").header("host", "localhost").body(Empty::<Bytes>::new())?;
    let answer = requests.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    driver.abort();
    ensure!(status.is_success(), "{status}: is that process of a version before this?");
    Ok(body)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        json!({"forgotten": 3, "failures": [{
            "direction": "outbound", "reason": "alert_received", "service": "orders.shop", "peer": "10.0.0.7:15008",
            "count": 2, "firstSeen": "2026-11-22T00:00:00Z", "lastSeen": "2026-11-22T00:00:09Z",
            "message": "the peer refused the handshake", "whatToDo": "Compare both clocks.", "alert": "certificate_expired",
            "now": "2026-11-22T00:00:09Z", "skewSeconds": -40,
            "own": {"identity": "spiffe://example.com/ns/shop/sa/web", "class": "sidecar", "serial": "0a", "generation": 3,
                    "notBefore": "2026-11-21T00:00:00Z", "notAfter": "2026-11-21T23:00:00Z", "trusted": ["example.com"]},
        }]})
    }

    fn shown(long: bool) -> String {
        Handshakes { of: None, reason: None, peer: None, long }.text(&report())
    }

    #[test]
    fn the_table_has_a_row_for_each_and_says_what_is_not_in_it() {
        let text = shown(false);
        let row = text.lines().nth(1).unwrap();
        for part in
            ["2026-11-22T00:00:09Z", "alert_received (certificate_expired)", "10.0.0.7:15008", "orders.shop"]
        {
            assert!(row.contains(part), "{text}");
        }
        assert!(text.ends_with("3 more are counted in the metric only: too many kinds at once"), "{text}");
    }

    #[test]
    fn each_can_be_shown_with_what_to_do_and_who_we_were() {
        let text = shown(true);
        for part in [
            "outbound alert_received (2 times, 2026-11-22T00:00:00Z to 2026-11-22T00:00:09Z)",
            "  do        Compare both clocks.",
            "to be behind by 40 s",
            "  we were   spiffe://example.com/ns/shop/sa/web (class sidecar, serial 0a, valid",
            "  trusting  example.com",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_reason_or_a_part_of_the_peer_chooses() {
        let one = &report()["failures"][0];
        let wanted = |reason: Option<&str>, peer: Option<&str>| {
            let (reason, peer) = (reason.map(str::to_owned), peer.map(str::to_owned));
            Handshakes { of: None, reason, peer, long: false }.is_wanted(one)
        };
        assert!(wanted(None, None) && wanted(Some("alert_received"), Some("10.0.0.7")));
        assert!(!wanted(Some("expired"), None) && !wanted(None, Some("10.0.0.8")));
    }
}
