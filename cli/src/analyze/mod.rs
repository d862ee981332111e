//! `signet analyze`: what is written and does nothing, something else than it seems, or will be refused.
//!
//! The objects become a registry by the same function as in the control plane; what that refuses, and what is in force and
//! of no use, comes out as messages with codes. Files are analyzed by themselves, or as if they had been applied to the
//! cluster (`--with-cluster`). Nothing is written anywhere.

mod codes;
mod given;
mod policies;
mod routes;
mod services;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use signet_kubernetes::translate::{Settings, Snapshot, Translation, translate, what};
use signet_model::{Kept, ObjectId, Options, Problem, Stage};

use self::codes::{Code, Severity};
use self::given::Given;
use crate::cluster::{Access, Output};
use crate::operator::{Context, table};
use crate::policies::Exit;

#[derive(Args, Clone, Debug)]
pub(crate) struct Analyze {
    #[command(flatten)]
    access: Access,
    /// A file, a folder of .yaml, .yml and .json files, or `-` for standard input; as often as there are some. Without any:
    /// the cluster.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The files as if they had been applied to the cluster.
    #[arg(long, requires = "files")]
    with_cluster: bool,
    /// The mesh's trust domain, where something names another.
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<String>,
    /// The least severity that makes the exit code 1.
    #[arg(long, value_enum, default_value_t = FailOn::Error)]
    fail_on: FailOn,
    /// How it is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    Info,
    Warning,
    Error,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Message {
    code: &'static str,
    severity: Severity,
    /// `MeshPolicy shop/orders`
    object: String,
    /// As in `spec.target.service`; empty for the whole of it.
    field: String,
    message: String,
    hint: &'static str,
}

/// What was found, and by what.
struct Findings(Vec<Message>);

impl Findings {
    fn add(&mut self, code: &Code, object: impl Into<String>, field: &str, message: impl Into<String>) {
        let message = Message {
            code: code.id,
            severity: code.severity,
            object: object.into(),
            field: field.to_owned(),
            message: message.into(),
            hint: code.hint,
        };
        if !self.0.contains(&message) {
            self.0.push(message);
        }
    }
}

/// What the rules look at.
struct World<'a> {
    snapshot: &'a Snapshot,
    made: &'a Translation,
}

/// `Kind namespace/name`
fn shown(kind: &str, namespace: &str, name: &str) -> String {
    match namespace {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}

impl Analyze {
    pub(crate) fn run(&self, context: &Context) -> anyhow::Result<()> {
        let found = match self.findings() {
            Ok(found) => found,
            Err(error) => {
                eprintln!("signet: {error:#}");
                return Err(Exit(2).into());
            }
        };
        let shown = match context.json || self.output == Output::Json {
            true => serde_json::to_string_pretty(&serde_json::json!({"messages": found}))?,
            false => as_table(&found),
        };
        crate::operator::print(&shown)?;
        let limit = match self.fail_on {
            FailOn::Info => Severity::Info,
            FailOn::Warning => Severity::Warning,
            FailOn::Error => Severity::Error,
        };
        match found.iter().any(|message| message.severity >= limit) {
            true => Err(Exit(1).into()),
            false => Ok(()),
        }
    }

    fn findings(&self) -> anyhow::Result<Vec<Message>> {
        let mut findings = Findings(Vec::new());
        let mut given = Given::default();
        if self.files.is_empty() || self.with_cluster {
            given.take_cluster(&self.access.kubectl())?;
        }
        let is_alone = !self.files.is_empty() && !self.with_cluster;
        for (name, text) in crate::inject::texts(&self.files)? {
            given.take_text(&name, &text, &mut findings)?;
        }
        if is_alone {
            given.suppose();
        }
        let snapshot = given.snapshot(&self.access.namespace, &mut findings);
        let trust_domain =
            self.trust_domain.as_deref().map(signet_identity::TrustDomain::parse).transpose()?;
        let options = Options { system_namespace: self.access.namespace.parse()?, trust_domain };
        let settings = Settings { options, ..Settings::default() };
        let made = translate(&snapshot, &settings, &Kept::new());
        verdicts(&made, &mut findings);
        let world = World { snapshot: &snapshot, made: &made };
        routes::look(&world, &mut findings);
        policies::look(&world, &mut findings);
        services::look(&world, &mut findings);
        let mut all = findings.0;
        all.sort_by(|one, two| two.severity.cmp(&one.severity).then_with(|| one.cmp(two)));
        Ok(all)
    }
}

/// What the registry itself has against objects.
fn verdicts(made: &Translation, findings: &mut Findings) {
    for (id, verdict) in &made.verdicts {
        for problem in &verdict.problems {
            let message = match verdict.is_right() {
                true => problem.reason.clone(),
                false => format!("{} ({})", problem.reason, what(verdict.in_force)),
            };
            let object = shown(id.kind, &id.namespace, &id.name);
            findings.add(code_of(id, verdict.stage, problem), object, &problem.field, message);
        }
    }
}

fn code_of(id: &ObjectId, stage: Stage, problem: &Problem) -> &'static Code {
    let (field, reason) = (problem.field.as_str(), problem.reason.as_str());
    if reason.contains(signet_kubernetes::translate::views::MESH_ADMIN) {
        codes::NOT_ADMIN
    } else if field.ends_with(".when") || field == "when" {
        codes::WHEN
    } else if stage == Stage::Read {
        codes::UNREADABLE
    } else if field.contains(".backendRef") {
        codes::BACKEND
    } else if field == "spec.target.service" {
        codes::NO_TARGET
    } else if id.kind == "MeshPolicy" && field.contains(".to.ports[") {
        codes::NO_PORT
    } else if reason.contains("(GuardRail `") {
        codes::RAIL_BROKEN
    } else {
        codes::UNRESOLVED
    }
}

fn as_table(found: &[Message]) -> String {
    if found.is_empty() {
        return "nothing was found".to_owned();
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|it| {
            let object = match it.field.as_str() {
                "" => it.object.clone(),
                field => format!("{}: {field}", it.object),
            };
            vec![it.severity.word().to_owned(), it.code.to_owned(), object, it.message.clone()]
        })
        .collect();
    let mut text = table(&["SEVERITY", "CODE", "OBJECT", "MESSAGE"], &rows);
    let mut hints: Vec<(&str, &str)> = found.iter().map(|it| (it.code, it.hint)).collect();
    hints.sort_unstable();
    hints.dedup();
    let hints: Vec<String> = hints.into_iter().map(|(code, hint)| format!("{code}: {hint}")).collect();
    text.push_str(&format!("\n\nWhat helps:\n- {}", hints.join("\n- ")));
    text
}
