//! `signet install`, `upgrade` and `uninstall`: the two charts in this program, by helm.
//!
//! What helm cannot or should not do is done around it: the namespace, the seal key (drawn here, and never an argument, an
//! environment variable or a line of a log), the order of the charts, waiting with a reason, and on the way out what
//! the control plane made by itself and helm never knew. `--dry-run` changes nothing, and says everything.

mod plan;
mod seal;
mod uninstall;
mod volumes;
mod wait;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};

use self::plan::{Plan, documents, trust_domain};
use crate::cluster::charts::{CRDS, Charts, SIGNET, VERSION};
use crate::cluster::helm::{Helm, Values};
use crate::cluster::{Access, Kubectl, Trouble};

pub(crate) use uninstall::Uninstall;
pub(crate) use wait::of_pod as pod_says;

/// The label of what is ours in a cluster, and of what this program itself has made.
pub(crate) const PART_OF: &str = "app.kubernetes.io/part-of";
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Who made the namespace and the Secret.
pub(crate) const OURSELVES: &str = "signet";

/// Which release, and by which helm.
#[derive(Args, Clone, Debug)]
pub(crate) struct Release {
    #[command(flatten)]
    pub(crate) access: Access,
    /// Which of several control planes: the chart's value `revision`. Empty is the one and only.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(crate) revision: String,
    /// The program helm.
    #[arg(long, value_name = "PATH", default_value = "helm")]
    pub(crate) helm: PathBuf,
}

impl Release {
    /// The name of the release of a chart.
    fn name(&self) -> String {
        match self.revision.as_str() {
            "" => SIGNET.to_owned(),
            revision => format!("{SIGNET}-{revision}"),
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Chart {
    #[command(flatten)]
    release: Release,
    /// Values of the chart, as often as there are some; later ones win.
    #[arg(short = 'f', long, value_name = "FILE")]
    values: Vec<PathBuf>,
    /// One value of the chart, `trustDomain=example.com`; wins over files.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Print the manifests, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Seconds that the definitions of resources, and then the control plane, have to come up. 0: do not wait.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// Make the control plane of a mesh in a cluster.
#[derive(Args, Clone, Debug)]
pub(crate) struct Install {
    #[command(flatten)]
    chart: Chart,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Upgrade {
    #[command(flatten)]
    chart: Chart,
}

impl Install {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let chart = &self.chart;
        let helm = Helm::new(&chart.release.helm, &chart.release.access)?;
        let charts = Charts::unpack()?;
        // The weakest of all values: whoever has a Secret of their own says so.
        let own = charts.write("own.yaml", seal::VALUES.as_bytes())?;
        let values = chart.values(own);
        let plan = chart.plan(&helm, &charts, &values)?;
        if chart.dry_run {
            eprintln!(
                "signet: nothing was done. An install makes the namespace {} where it is missing, and with it the Secret {} with a seal key that is drawn then.",
                chart.release.access.namespace, plan.seal
            );
            return chart.print(&helm, &charts, &plan);
        }
        let kubectl = chart.release.access.kubectl();
        let release = chart.release.name();
        if helm.status(&release)?.as_deref() == Some("deployed") {
            bail!(
                "the release {release} is there already: expected none; `signet upgrade` changes one, `signet check` says how it is"
            );
        }
        namespace(&kubectl, &chart.release.access.namespace)?;
        let made = seal::ensure(&kubectl, &chart.release.access.namespace, &plan)?;
        if made {
            seal::say(&chart.release.access, &plan.seal);
        }
        let done = chart.apply(&kubectl, &helm, &charts, &values, &plan).await;
        if made {
            // Once more, where it is read: what follows may have scrolled the first time away.
            seal::say(&chart.release.access, &plan.seal);
        }
        done?;
        eprintln!(
            "signet: {} {VERSION} is installed. Next: kubectl label namespace <namespace> signet.mesh/inject=enabled; `signet check` looks at everything.",
            plan.name
        );
        Ok(())
    }
}

impl Upgrade {
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let chart = &self.chart;
        let helm = Helm::new(&chart.release.helm, &chart.release.access)?;
        let release = chart.release.name();
        if helm.status(&release)?.is_none() {
            bail!(
                "expected the release {release} in the namespace {}, found none: `signet install` makes one",
                chart.release.access.namespace
            );
        }
        let charts = Charts::unpack()?;
        // What it was given last time stands until it is said otherwise.
        let old = charts.write("old.json", &helm.values(&release)?)?;
        let values = chart.values(old);
        let plan = chart.plan(&helm, &charts, &values)?;
        let before = trust_domain(&documents(&helm.manifest(&release)?)?);
        if let Some(before) = before.filter(|before| *before != plan.trust_domain) {
            bail!(
                "trustDomain: expected `{before}`, as it is, got `{}`: every identity of the mesh has it in its name, so that it cannot change. Another trust domain is another mesh, beside this one and federated with it",
                plan.trust_domain
            );
        }
        if chart.dry_run {
            eprintln!("signet: nothing was done.");
            return chart.print(&helm, &charts, &plan);
        }
        let kubectl = chart.release.access.kubectl();
        if !seal::exists(&kubectl, &chart.release.access.namespace, &plan.seal)? {
            bail!(
                "expected the Secret {} in the namespace {}, found none: without the seal key a control plane cannot open the authority's keys, and those that run would not start again. Bring it back from your copy first",
                plan.seal,
                chart.release.access.namespace
            );
        }
        volumes::same(&kubectl, &chart.release.access.namespace, &plan)?;
        chart.apply(&kubectl, &helm, &charts, &values, &plan).await?;
        eprintln!(
            "signet: {} is at {VERSION}. Pods keep the sidecars that they have: `signet check` lists those of other versions, `kubectl rollout restart` renews them, `helm -n {} rollback {release}` goes back.",
            plan.name, chart.release.access.namespace
        );
        Ok(())
    }
}

impl Chart {
    fn values(&self, first: PathBuf) -> Values {
        let files = std::iter::once(first).chain(self.values.iter().cloned()).collect();
        let mut set = self.set.clone();
        if !self.release.revision.is_empty() {
            set.push(format!("revision={}", self.release.revision));
        }
        Values { files, set }
    }

    fn plan(&self, helm: &Helm, charts: &Charts, values: &Values) -> anyhow::Result<Plan> {
        let manifests = helm.template(&self.release.name(), &charts.chart(SIGNET), values)?;
        let plan = Plan::read(manifests)?;
        if plan.revision != self.release.revision {
            bail!(
                "revision: expected it to be said by --revision, since the release is named after it, got `{}` in the values and `{}` there",
                plan.revision,
                self.release.revision
            );
        }
        Ok(plan)
    }

    fn print(&self, helm: &Helm, charts: &Charts, plan: &Plan) -> anyhow::Result<()> {
        let crds = helm.template(CRDS, &charts.chart(CRDS), &Values::default())?;
        crate::operator::print(&format!("{}\n{}", crds.trim_end(), plan.manifests))
    }

    /// Definitions first: the control plane waits for kinds that it cannot do without.
    async fn apply(
        &self,
        kubectl: &Kubectl,
        helm: &Helm,
        charts: &Charts,
        values: &Values,
        plan: &Plan,
    ) -> anyhow::Result<()> {
        let limit = (self.timeout > 0).then(|| Duration::from_secs(self.timeout));
        let crds = helm.template(CRDS, &charts.chart(CRDS), &Values::default())?;
        helm.apply(CRDS, &charts.chart(CRDS), &Values::default()).context("the definitions of resources")?;
        if let Some(limit) = limit {
            wait::for_definitions(kubectl, &documents(&crds)?, limit).await?;
        }
        eprintln!("signet: the definitions of resources are there");
        helm.apply(&self.release.name(), &charts.chart(SIGNET), values).context("the control plane")?;
        if let Some(limit) = limit {
            wait::for_replicas(kubectl, &self.release.access.namespace, &plan.name, limit).await?;
        }
        Ok(())
    }
}

/// Makes it where it is missing.
fn namespace(kubectl: &Kubectl, name: &str) -> anyhow::Result<()> {
    if kubectl.find(&format!("/api/v1/namespaces/{name}"))?.is_some() {
        return Ok(());
    }
    let object: Value = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {MANAGED_BY: OURSELVES, PART_OF: "signet"}},
    });
    match kubectl.create("/api/v1/namespaces", object.to_string().as_bytes()) {
        Ok(_) => {
            eprintln!("signet: the namespace {name} was made");
            Ok(())
        }
        Err(Trouble::Exists(_)) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("making the namespace {name}")),
    }
}
