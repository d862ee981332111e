//! `signet check`: is a cluster ready for Signet (`--pre`), and is what runs there as it should be.
//!
//! Every finding has the check that made it, what it is about, what was found and what helps. What could not be looked at
//! is said as such and never taken for right: the exit code is 0 where all is right (warnings included), 1 where something
//! is wrong, 2 where nothing is known to be wrong and something could not be looked at.

mod agents;
mod api;
mod planes;
mod pods;
mod strict;
mod webhook;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::cluster::{Access, Kubectl, Output};
use crate::operator::{Context, table};
use crate::policies::Exit;

#[derive(Args, Clone, Debug)]
pub(crate) struct Check {
    #[command(flatten)]
    access: Access,
    /// Before an install: what the cluster offers, and what you may do there.
    #[arg(long, conflicts_with = "strict_ready")]
    pre: bool,
    /// Who still speaks plaintext to permissive ports, and would be refused once they are strict.
    #[arg(long)]
    strict_ready: bool,
    /// Which of several control planes.
    #[arg(long, value_name = "NAME", default_value = "")]
    revision: String,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    Ok,
    Warning,
    Failure,
    /// It could not be looked at.
    Unknown,
}

#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    subject: String,
    message: String,
    hint: String,
}

/// What was found so far.
#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(
        &mut self,
        check: &'static str,
        level: Level,
        subject: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let (subject, message, hint) = (subject.into(), message.into(), hint.into());
        self.0.push(Finding { check, level, subject, message, hint });
    }

    fn ok(&mut self, check: &'static str, subject: impl Into<String>, message: impl Into<String>) {
        self.add(check, Level::Ok, subject, message, "");
    }

    /// It could not be looked at, and why.
    fn unknown(&mut self, check: &'static str, subject: impl Into<String>, error: &dyn std::fmt::Display) {
        let hint = "look at it as somebody who may, or by hand";
        self.add(check, Level::Unknown, subject, error.to_string(), hint);
    }

    fn exit(&self) -> u8 {
        let has = |level| self.0.iter().any(|finding| finding.level == level);
        if has(Level::Failure) {
            1
        } else if has(Level::Unknown) {
            2
        } else {
            0
        }
    }
}

/// What the checks of a running control plane go by.
struct Cluster<'a> {
    kubectl: &'a Kubectl,
    namespace: &'a str,
    revision: &'a str,
    context: &'a Context,
    namespaces: Vec<Value>,
    pods: Vec<Value>,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// A label, whose name would need escapes in a pointer.
fn label<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.pointer("/metadata/labels")?.get(name)?.as_str()
}

/// `namespace/name`.
fn name_of(object: &Value) -> String {
    match (text(object, "/metadata/namespace"), text(object, "/metadata/name")) {
        ("", name) => name.to_owned(),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

impl Check {
    pub(crate) async fn run(&self, context: &Context) -> anyhow::Result<()> {
        let mut report = Report::default();
        self.look(context, &mut report).await;
        let as_json = context.json || self.output == Output::Json;
        let shown = match as_json {
            true => serde_json::to_string_pretty(&serde_json::json!({"findings": report.0}))?,
            false => self.shown(&report),
        };
        crate::operator::print(&shown)?;
        match report.exit() {
            0 => Ok(()),
            code => Err(Exit(code).into()),
        }
    }

    async fn look(&self, context: &Context, report: &mut Report) {
        let kubectl = self.access.kubectl();
        match kubectl.version() {
            Ok(version) => report.ok("kubectl", "kubectl", version),
            Err(error) => return report.unknown("kubectl", "kubectl", &error),
        }
        // Without an API server nothing else can be known.
        if !api::version(&kubectl, report) {
            return;
        }
        if self.strict_ready {
            return strict::look(&kubectl, report);
        }
        api::clocks(&kubectl, report);
        api::nodes(&kubectl, report);
        api::gateway_kinds(&kubectl, report);
        if self.pre {
            api::storage(&kubectl, report);
            return api::rights(&kubectl, &self.access.namespace, report);
        }
        api::own_kinds(&kubectl, report);
        let lists = kubectl.list("/api/v1/namespaces", "").and_then(|namespaces| {
            let pods = kubectl.list("/api/v1/pods", "")?;
            Ok((namespaces, pods))
        });
        let (namespaces, pods) = match lists {
            Ok(lists) => lists,
            Err(error) => return report.unknown("pods", "namespaces and pods", &error),
        };
        let cluster = Cluster {
            kubectl: &kubectl,
            namespace: &self.access.namespace,
            revision: &self.revision,
            context,
            namespaces,
            pods,
        };
        let settings = planes::look(&cluster, report).await;
        let roots = webhook::look(&cluster, report).await;
        pods::look(&cluster, settings.as_ref(), roots.as_deref(), report);
        agents::look(&cluster, settings.as_ref(), report);
    }

    fn shown(&self, report: &Report) -> String {
        let level = |finding: &Finding| match finding.level {
            Level::Ok => "ok",
            Level::Warning => "WARNING",
            Level::Failure => "FAILED",
            Level::Unknown => "UNKNOWN",
        };
        let rows: Vec<Vec<String>> = report
            .0
            .iter()
            .map(|it| [level(it), it.check, &it.subject, &it.message].map(str::to_owned).to_vec())
            .collect();
        let mut shown = table(&["", "CHECK", "OF", "FOUND"], &rows);
        let mut hints: Vec<String> = Vec::new();
        for finding in report.0.iter().filter(|it| it.level != Level::Ok && !it.hint.is_empty()) {
            let hint = format!("{}: {}", finding.check, crate::operator::one_line(&finding.hint));
            if !hints.contains(&hint) {
                hints.push(hint);
            }
        }
        if !hints.is_empty() {
            shown.push_str(&format!("\n\nWhat helps:\n- {}", hints.join("\n- ")));
        }
        let count = |level| report.0.iter().filter(|it| it.level == level).count();
        shown.push_str(&format!(
            "\n\n{} failed, {} warnings, {} could not be looked at",
            count(Level::Failure),
            count(Level::Warning),
            count(Level::Unknown)
        ));
        shown
    }
}
