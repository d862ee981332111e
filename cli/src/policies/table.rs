//! `signet policy test`: a table of questions and answers, for whoever changes policies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;
use signet_identity::PeerClass;
use signet_model::{Moment, ObjectName};
use signet_policy::Answer;

use super::Exit;
use super::question::{Question, Request, Who, at_ms};
use super::world::World;
use crate::operator::{Context, table};

#[derive(Subcommand)]
pub(crate) enum PolicyCommand {
    /// Ask the policies of a folder every question of a table. Exit code 0 when each answer is as the table says, 3 when
    /// one is not.
    Test(Test),
}

#[derive(Args)]
pub(crate) struct Test {
    /// The table, YAML.
    table: PathBuf,
    /// The folder of policies; without it the table's `registry`, beside the table.
    #[arg(short, long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// What the file says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Table {
    trust_domain: String,
    #[serde(default)]
    registry: Option<PathBuf>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Case {
    #[serde(default)]
    name: Option<String>,
    from: String,
    #[serde(default = "sidecar")]
    class: String,
    #[serde(default)]
    user: Option<Who>,
    service: String,
    #[serde(default)]
    port: Option<String>,
    request: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    at: Option<Moment>,
    expect: Answer,
    /// A policy that decides.
    #[serde(default)]
    by: Option<String>,
}

fn sidecar() -> String {
    "sidecar".into()
}

struct Outcome {
    name: String,
    passed: bool,
    expected: String,
    got: &'static str,
    reason: String,
}

impl PolicyCommand {
    pub(crate) fn run(self, context: &Context) -> anyhow::Result<()> {
        let PolicyCommand::Test(test) = self;
        let outcomes = outcomes(&test.table, test.folder)?;
        let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
        let cases = outcomes.iter().map(|it| {
            json!({"name": it.name, "passed": it.passed, "expected": it.expected, "got": it.got, "reason": it.reason})
        });
        let json = json!({"passed": outcomes.len().saturating_sub(failed), "failed": failed, "cases": cases.collect::<Vec<_>>()});
        context.show(json, || {
            let rows = outcomes.iter().map(|it| {
                let mark = if it.passed { "ok" } else { "FAILED" };
                [mark, &it.name, &it.expected, it.got, &it.reason].map(str::to_owned).to_vec()
            });
            let rows = table(&["", "CASE", "EXPECTED", "GOT", "WHY"], &rows.collect::<Vec<_>>());
            format!("{rows}\n\n{} passed, {failed} failed", outcomes.len().saturating_sub(failed))
        })?;
        if failed == 0 { Ok(()) } else { Err(Exit(3).into()) }
    }
}

fn outcomes(path: &Path, folder: Option<PathBuf>) -> anyhow::Result<Vec<Outcome>> {
    let place = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(place)?;
    let file: Table = signet_model::from_yaml(&text).with_context(place)?;
    if file.cases.is_empty() {
        bail!("{}: expected at least one case", place());
    }
    let beside = |registry: &PathBuf| path.parent().unwrap_or(Path::new("")).join(registry);
    let folder = folder.or_else(|| file.registry.as_ref().map(beside));
    let folder = folder.ok_or_else(|| anyhow!("{}: expected `registry`, or --folder", place()))?;
    let world = World::of_folder(&folder, &file.trust_domain)?;
    let each = file.cases.into_iter().enumerate();
    each.map(|(index, case)| {
        let number = index.saturating_add(1);
        case.outcome(&world).with_context(|| format!("{}: case {number}", place()))
    })
    .collect()
}

impl Case {
    fn outcome(self, world: &World) -> anyhow::Result<Outcome> {
        let words: Vec<&str> = self.request.split_whitespace().collect();
        let service: ObjectName = self.service.parse().map_err(|error| anyhow!("service: {error}"))?;
        let class: PeerClass = self.class.parse().map_err(|error| anyhow!("class: {error}"))?;
        let headers =
            self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), vec![value.clone()]));
        let name = self.name.unwrap_or_else(|| format!("{} {} to {service}", self.from, self.request));
        let question = Question {
            caller: self.from,
            class,
            user: self.user,
            service,
            port: self.port,
            request: Request::read(&words)?,
            headers: headers.collect(),
            at_ms: at_ms(self.at),
        };
        let told = question.ask(world)?;
        let decided = |by: &String| told.deciding.iter().any(|line| line.policy == *by);
        let passed = told.verdict == self.expect && self.by.as_ref().is_none_or(decided);
        let word = |answer| if answer == Answer::Allow { "allow" } else { "deny" };
        let expected = match &self.by {
            None => word(self.expect).to_owned(),
            Some(by) => format!("{} by {by}", word(self.expect)),
        };
        Ok(Outcome { name, passed, expected, got: word(told.verdict), reason: told.reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(cases: &str) -> anyhow::Result<Vec<Outcome>> {
        let page = include_str!("../../../docs/policy.md");
        let yaml = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("registry")).unwrap();
        std::fs::write(folder.path().join("registry/a.yaml"), yaml).unwrap();
        let path = folder.path().join("table.yaml");
        std::fs::write(&path, format!("trustDomain: demo.signet\nregistry: registry\ncases:\n{cases}"))
            .unwrap();
        outcomes(&path, None)
    }

    /// The table of the documentation.
    #[test]
    fn the_documentations_table_is_right() {
        let page = include_str!("../../../docs/policy.md");
        let text = page.split("```table\n").nth(1).unwrap().split("```").next().unwrap();
        let outcomes = run(text.split("cases:\n").nth(1).unwrap()).unwrap();
        assert!(outcomes.len() >= 4);
        for outcome in outcomes {
            assert!(outcome.passed, "{}: {}", outcome.name, outcome.reason);
        }
    }

    #[test]
    fn a_wrong_answer_or_another_policy_fails_and_says_why() {
        let outcomes = run("\
- {from: ns/shop/sa/web, service: orders.shop, port: http, request: GET /v1/orders/7, expect: allow}
- {from: ns/jobs/sa/nightly, service: orders.shop, port: http, request: GET /v1/export/a, expect: allow, by: other.shop}
- {from: ns/jobs/sa/nightly, service: orders.shop, port: http, request: GET /v1/export/a, expect: allow, by: jobs-may-export.shop}
")
        .unwrap();
        assert!(!outcomes[0].passed && outcomes[0].reason.contains("user expected a user, had none"));
        assert_eq!(
            (outcomes[1].passed, outcomes[1].expected.as_str(), outcomes[1].got),
            (false, "allow by other.shop", "allow")
        );
        assert!(outcomes[2].passed);
    }

    #[test]
    fn a_question_that_nobody_could_ask_is_refused() {
        for (case, message) in [
            (
                "{from: ns/shop/sa/web, service: orders.shop, port: http, request: GET /a/../b, expect: allow}",
                "canonical spelling",
            ),
            (
                "{from: web, service: orders.shop, port: admin, request: GET /, expect: allow}",
                "expected a port of orders.shop (db, http), got `admin`",
            ),
            ("{from: ns/shop/sa/web, service: orders.shop, request: GET /, expect: allow}", "got ``"),
            (
                "{from: ns/shop/sa/web, service: gone.shop, port: http, request: GET /, expect: allow}",
                "expected a service of the registry (orders.shop), got `gone.shop`",
            ),
            (
                "{from: 'a b', service: orders.shop, port: http, request: GET /, expect: allow}",
                "expected `ns/<namespace>/sa/<service-account>` or a SPIFFE ID, got `a b`",
            ),
            (
                "{from: ns/shop/sa/web, service: orders.shop, port: db, request: connect, user: {sub: x}, expect: allow}",
                "bytes have no user",
            ),
            (
                "{from: ns/shop/sa/web, service: orders.shop, port: http, request: GET, expect: allow}",
                "expected `GET /path`",
            ),
            (
                "{from: ns/shop/sa/web, service: orders.shop, port: http, request: GET /, expect: maybe}",
                "maybe",
            ),
            (
                "{from: ns/shop/sa/web, service: orders.shop, port: http, request: GET /, expect: allow, why: x}",
                "why",
            ),
        ] {
            let error = run(&format!("- {case}\n")).err().expect(case);
            assert!(format!("{error:#}").contains(message), "{case}: {error:#}");
        }
    }
}
