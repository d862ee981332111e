//! The way to the control plane: its operator socket, or the session of a login; and how answers are shown.

use std::borrow::Cow;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use hyper_util::rt::TokioIo;
use signet_proto::v1::audit_client::AuditClient;
use signet_proto::v1::operator_client::OperatorClient;
use signet_proto::v1::people_client::PeopleClient;
use signet_proto::v1::rotation_client::RotationClient;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::place::{Config, Session, Use};
use crate::{demo, tls};

/// Where an installed control plane listens.
const INSTALLED: &str = "/run/signet/operator.sock";

pub(crate) struct Context {
    pub(crate) socket: Option<PathBuf>,
    /// As who logged in, whatever else is there.
    pub(crate) login: bool,
    pub(crate) config: Option<PathBuf>,
    pub(crate) json: bool,
}

impl Context {
    pub(crate) async fn client(&self) -> anyhow::Result<OperatorClient<Channel>> {
        Ok(OperatorClient::new(self.channel().await?))
    }

    pub(crate) async fn people(&self) -> anyhow::Result<PeopleClient<Channel>> {
        Ok(PeopleClient::new(self.channel().await?))
    }

    pub(crate) async fn audit(&self) -> anyhow::Result<AuditClient<Channel>> {
        Ok(AuditClient::new(self.channel().await?))
    }

    pub(crate) async fn rotation(&self) -> anyhow::Result<RotationClient<Channel>> {
        Ok(RotationClient::new(self.channel().await?))
    }

    /// By the flags, else by the configuration, else by the login where there is one, else by the socket.
    pub(crate) async fn channel(&self) -> anyhow::Result<Channel> {
        if let Some(socket) = &self.socket {
            return socket_channel(socket).await;
        }
        if self.login {
            return tls::of_session(&Session::load()?).await;
        }
        let config = Config::load(self.config.as_deref())?;
        let by_login = config.default.map_or_else(Session::exists, |way| way == Use::Login);
        if by_login {
            return tls::of_session(&Session::load()?).await;
        }
        socket_channel(&self.found(config.socket)?).await
    }

    fn found(&self, configured: Option<PathBuf>) -> anyhow::Result<PathBuf> {
        if let Some(socket) = configured {
            return Ok(socket);
        }
        let candidates = [PathBuf::from(INSTALLED), demo::operator_socket(&demo::default_folder())];
        match candidates.iter().find(|path| path.exists()) {
            Some(path) => Ok(path.clone()),
            None => bail!(
                "no control plane found: neither {} nor {} exists; name its operator socket with --socket, or run `signet login`",
                candidates[0].display(),
                candidates[1].display()
            ),
        }
    }

    /// Prints `json` where JSON was asked for, otherwise what `text` writes.
    pub(crate) fn show(&self, json: serde_json::Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
        let shown = if self.json { serde_json::to_string_pretty(&json)? } else { text() };
        print(&shown)
    }
}

/// Writes text to standard output; a reader that went away (`| head`) ends the command quietly. Much of it was said
/// by others (a sidecar's words, a policy's name), so that nothing in it can move a terminal's cursor.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let text = visible(text.trim_end_matches('\n'), &['\n']);
    match writeln!(out, "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to standard output"),
    }
}

/// One line of what somebody else said: its line breaks must not look like lines of ours.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    visible(text, &[])
}

/// Control characters, and those that turn the direction of writing around, as `\u{…}`.
fn visible<'a>(text: &'a str, kept: &[char]) -> Cow<'a, str> {
    let hidden = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        (c.is_control() || turns) && !kept.contains(&c)
    };
    if !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if hidden(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

pub(crate) async fn connect(socket: &Path) -> anyhow::Result<OperatorClient<Channel>> {
    Ok(OperatorClient::new(socket_channel(socket).await?))
}

async fn socket_channel(socket: &Path) -> anyhow::Result<Channel> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://operator.signet.internal")
        .connect_with_connector(connector)
        .await
        .with_context(|| format!("connecting to the control plane at {}", socket.display()))
}

/// What the control plane answered instead, in its own words.
pub(crate) fn refused(status: &tonic::Status) -> anyhow::Error {
    // Not the control plane's words but tonic's: there was no answer.
    if std::error::Error::source(status).is_some() {
        return anyhow::anyhow!(
            "the control plane closed the connection; where you came by a login, the session may have ended or been revoked: run `signet login`"
        );
    }
    if status.code() == tonic::Code::Unauthenticated {
        return anyhow::anyhow!("{}; run `signet login`", one_line(status.message()));
    }
    if status.message().is_empty() {
        return anyhow::anyhow!("the control plane answered: {}", status.code());
    }
    anyhow::anyhow!("{}", one_line(status.message()))
}

/// Seconds since the epoch as RFC 3339, or `never` for 0.
pub(crate) fn when(seconds: i64) -> String {
    if seconds == 0 {
        return "never".into();
    }
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

/// Rows under a heading, each column as wide as its widest cell.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> =
        rows.iter().map(|row| row.iter().map(|cell| one_line(cell)).collect()).collect();
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([heading[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut heading.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(AsRef::as_ref))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_its_columns_up() {
        let shown =
            table(&["NAME", "N"], &[vec!["web".into(), "1".into()], vec!["inventory".into(), "22".into()]]);
        assert_eq!(shown, "NAME       N\nweb        1\ninventory  22");
    }

    #[test]
    fn what_others_said_cannot_write_over_what_the_operator_reads() {
        let rows = vec![vec!["evil\u{1b}[2K\r\nweb  allow".into(), "x\u{202e}y\u{9b}".into()]];
        let shown = table(&["ID", "REASON"], &rows);
        assert_eq!(shown.lines().count(), 2, "{shown:?}");
        assert!(shown.ends_with(r"evil\u{1b}[2K\u{d}\u{a}web  allow  x\u{202e}y\u{9b}"), "{shown:?}");
        assert_eq!(visible("a\nb\u{7}", &['\n']), "a\nb\\u{7}");
        assert!(matches!(visible("naïve 表", &[]), Cow::Borrowed(_)));
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(when(0), "never");
        assert_eq!(when(1_790_000_000), "2026-09-21T14:13:20Z");
    }
}
