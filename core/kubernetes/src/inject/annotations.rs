//! What a pod may say of its own injection. There is nothing here that sets an image, a user, a capability, or whom to
//! trust: whoever writes an annotation has no say in those.

use serde_json::Value;
use signet_model::{Network, ObjectName};

use super::parts::OUR_PORTS;
use super::refusal::Refusal;
use super::settings::Redirect;
use super::{CONFIG, INJECTED, ORIGINAL_SCRAPE, ORIGINALS, meta, scrape};

/// What starts the names of ours.
const PREFIX: &str = "signet.mesh/";
/// Of each list of ports or ranges, as the redirection takes them.
const MOST: usize = 256;
/// How much is logged.
pub(super) const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

const REDIRECTS: [Redirect; 2] = [Redirect::Init, Redirect::Cni];

/// One annotation.
#[derive(Debug, Clone, Copy)]
pub struct Annotation {
    /// Its name.
    pub name: &'static str,
    /// What it takes, as a refusal says it.
    pub expected: &'static str,
    /// What holds where it is not there; empty for those that injection writes.
    pub default: &'static str,
    /// What it is for, as `docs/reference/annotations.md` has it.
    pub meaning: &'static str,
    /// Whether injection writes it, and nobody else.
    pub written: bool,
}

const fn taken(
    name: &'static str,
    expected: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Annotation {
    Annotation { name, expected, default, meaning, written: false }
}

const fn written(name: &'static str, meaning: &'static str) -> Annotation {
    Annotation { name, expected: "nothing: injection writes it", default: "", meaning, written: true }
}

const SWITCH: &str = "enabled or disabled";
const QUANTITY: &str = "a quantity such as 100m or 64Mi";
const PORTS: &str = "at most 256 ports and ranges of them, such as 22,9000-9010";

/// Every annotation that there is.
#[rustfmt::skip] // One a line, as a table.
pub const ANNOTATIONS: [Annotation; 21] = [
    taken("signet.mesh/inject", SWITCH, "the namespace's", "Whether the pod is injected. A label of the same name says so, too; where the two disagree, it is not."),
    taken("signet.mesh/cpu-request", QUANTITY, "`resources` of the settings", "What the sidecar asks for. In a pod that has resources of its own (`spec.resources`) nothing, unless it is said here."),
    taken("signet.mesh/cpu-limit", QUANTITY, "`resources` of the settings", "The same, at most. A pod whose containers all have limits like their requests keeps its class `Guaranteed` with all four set."),
    taken("signet.mesh/memory-request", QUANTITY, "`resources` of the settings", "As `signet.mesh/cpu-request`."),
    taken("signet.mesh/memory-limit", QUANTITY, "`resources` of the settings", "As `signet.mesh/cpu-limit`."),
    taken("signet.mesh/workers", "1 to 256", "the CPU limit, at most 2", "`workers` of `sidecar.yaml`."),
    taken("signet.mesh/exclude-inbound-ports", PORTS, "none", "Ports that callers reach directly, in plaintext, without any policy. Their probes stay as they are."),
    taken("signet.mesh/exclude-outbound-ports", PORTS, "none", "Ports that the app dials directly."),
    taken("signet.mesh/exclude-outbound-ranges", "at most 256 networks, such as 10.1.0.0/16,fd00::/8", "none", "Addresses that the app dials directly."),
    taken("signet.mesh/dns-capture", SWITCH, "`dnsCapture` of the settings", "Whether the sidecar answers DNS."),
    taken("signet.mesh/log-level", "off, error, warn, info, debug or trace", "`logLevel` of the settings", "How much the sidecar logs."),
    taken("signet.mesh/drain-seconds", "0 to 3600", "`drainSeconds` of the settings", "`drainSeconds` of `sidecar.yaml`."),
    taken("signet.mesh/serves", "services, such as orders.shop,ledger.shop", "every service that lists the pod's identity", "The services behind the pod, where its service account has more."),
    taken("signet.mesh/probes", "rewrite or leave", "`rewrite`", "`leave`: probes stay as they are, and are refused as plaintext unless their port is excluded or permissive."),
    taken("signet.mesh/attach-user-context", SWITCH, "`disabled`", "`enabled`: `userContext.attach` of `sidecar.yaml`."),
    taken("signet.mesh/app-metrics", "disabled, or a port and a path, such as 8080/metrics", "as `prometheus.io/scrape`, `prometheus.io/port` and `prometheus.io/path` say", "Where the sidecar asks for the app's metrics, which it gives out beside its own at port 15021. `disabled`: they stay at the app's port, and are refused as plaintext unless it is excluded or permissive."),
    taken("signet.mesh/redirect", "init or cni", "`redirect` and `cniNamespaces` of the settings", "Who sets the redirection up. `init`: an init container of the pod, with `NET_ADMIN`. `cni`: the CNI agent of its node; the init container proves it, and needs no capability."),
    written(INJECTED, "`true` in a pod that has a sidecar."),
    written(CONFIG, "Its `sidecar.yaml`. Whatever stood there before is not read."),
    written(ORIGINALS, "The probes as they were, for `signet uninject` and for mending."),
    written(ORIGINAL_SCRAPE, "The annotations of `prometheus.io` as they were, for the same."),
];

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// `enabled`, or `true`.
    Enabled,
    /// `disabled`, or `false`.
    Disabled,
}

/// Where the app's metrics are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AppMetrics {
    /// Nobody asks for them.
    Disabled,
    /// At this port and path.
    At(u16, String),
}

/// What a pod asks for; none where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) cpu_request: Option<String>,
    pub(super) cpu_limit: Option<String>,
    pub(super) memory_request: Option<String>,
    pub(super) memory_limit: Option<String>,
    pub(super) workers: Option<u32>,
    pub(super) exclude_inbound: Vec<(u16, u16)>,
    pub(super) exclude_outbound: Vec<(u16, u16)>,
    pub(super) exclude_ranges: Vec<String>,
    pub(super) dns: Option<bool>,
    pub(super) log_level: Option<String>,
    pub(super) drain_seconds: Option<u32>,
    pub(super) serves: Vec<String>,
    pub(super) leave_probes: bool,
    pub(super) attach: bool,
    pub(super) redirect: Option<Redirect>,
    pub(super) app_metrics: Option<AppMetrics>,
}

impl Wishes {
    /// What the pod asks for, and a word about each annotation that nobody reads.
    pub(super) fn read(pod: &Value) -> Result<(Self, Vec<String>), Refusal> {
        let switch = |name| text(pod, name).map(|text| read_switch(name, text)).transpose();
        let enabled = |name| Ok::<_, Refusal>(switch(name)?.map(|switch| switch == Switch::Enabled));
        let wishes = Self {
            cpu_request: quantity(pod, "signet.mesh/cpu-request")?,
            cpu_limit: quantity(pod, "signet.mesh/cpu-limit")?,
            memory_request: quantity(pod, "signet.mesh/memory-request")?,
            memory_limit: quantity(pod, "signet.mesh/memory-limit")?,
            workers: number(pod, "signet.mesh/workers", 1, 256)?,
            exclude_inbound: ports(pod, "signet.mesh/exclude-inbound-ports")?,
            exclude_outbound: ports(pod, "signet.mesh/exclude-outbound-ports")?,
            exclude_ranges: each(pod, "signet.mesh/exclude-outbound-ranges", |part| {
                part.parse::<Network>().ok().map(|network| network.to_string())
            })?,
            dns: enabled("signet.mesh/dns-capture")?,
            log_level: one_of(pod, "signet.mesh/log-level", &LEVELS)?,
            drain_seconds: number(pod, "signet.mesh/drain-seconds", 0, 3600)?,
            serves: each(pod, "signet.mesh/serves", |part| {
                part.parse::<ObjectName>().ok().map(|name| name.to_string())
            })?,
            leave_probes: one_of(pod, "signet.mesh/probes", &["rewrite", "leave"])?.as_deref()
                == Some("leave"),
            attach: enabled("signet.mesh/attach-user-context")?.unwrap_or(false),
            redirect: one_of(pod, "signet.mesh/redirect", &REDIRECTS.map(Redirect::word))?
                .and_then(|text| REDIRECTS.into_iter().find(|redirect| redirect.word() == text)),
            app_metrics: app_metrics(pod, "signet.mesh/app-metrics")?,
        };
        Ok((wishes, unknown(pod)))
    }

    /// Whether callers reach this port without the sidecar.
    pub(super) fn is_direct(&self, port: u16) -> bool {
        self.exclude_inbound.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }
}

fn unknown(pod: &Value) -> Vec<String> {
    let all = pod.pointer("/metadata/annotations").and_then(Value::as_object);
    let names = all.into_iter().flat_map(|map| map.keys());
    names
        .filter(|name| name.starts_with(PREFIX) && !ANNOTATIONS.iter().any(|known| known.name == *name))
        .map(|name| format!("signet: nobody reads the annotation {name}"))
        .collect()
}

fn text<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    meta(pod, "annotations", name).map(str::trim)
}

fn wrong(name: &'static str, got: &str) -> Refusal {
    let expected = ANNOTATIONS.iter().find(|known| known.name == name).map_or("", |known| known.expected);
    Refusal::Annotation { name, expected, got: got.chars().take(100).collect() }
}

pub(super) fn read_switch(name: &'static str, text: &str) -> Result<Switch, Refusal> {
    match text.trim() {
        "enabled" | "true" => Ok(Switch::Enabled),
        "disabled" | "false" => Ok(Switch::Disabled),
        other => Err(wrong(name, other)),
    }
}

fn number(pod: &Value, name: &'static str, least: u32, most: u32) -> Result<Option<u32>, Refusal> {
    let Some(text) = text(pod, name) else { return Ok(None) };
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.map(Some).ok_or_else(|| wrong(name, text))
}

fn one_of(pod: &Value, name: &'static str, all: &[&str]) -> Result<Option<String>, Refusal> {
    let Some(text) = text(pod, name) else { return Ok(None) };
    if all.contains(&text) { Ok(Some(text.to_owned())) } else { Err(wrong(name, text)) }
}

fn app_metrics(pod: &Value, name: &'static str) -> Result<Option<AppMetrics>, Refusal> {
    let Some(text) = text(pod, name) else { return Ok(None) };
    if text == "disabled" {
        return Ok(Some(AppMetrics::Disabled));
    }
    let (port, path) = match text.find('/') {
        Some(at) => text.split_at(at),
        None => (text, scrape::USUAL),
    };
    let port = port.parse().ok().filter(|port| *port != 0 && !OUR_PORTS.contains(port));
    let found = port.filter(|_| scrape::is_path(path)).map(|port| AppMetrics::At(port, path.to_owned()));
    found.map(Some).ok_or_else(|| wrong(name, text))
}

fn quantity(pod: &Value, name: &'static str) -> Result<Option<String>, Refusal> {
    let Some(text) = text(pod, name) else { return Ok(None) };
    if is_quantity(text) { Ok(Some(text.to_owned())) } else { Err(wrong(name, text)) }
}

fn each<T>(pod: &Value, name: &'static str, read: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, Refusal> {
    let Some(text) = text(pod, name).filter(|text| !text.is_empty()) else { return Ok(Vec::new()) };
    let all: Option<Vec<T>> = text.split(',').map(|part| read(part.trim())).collect();
    all.filter(|all| all.len() <= MOST).ok_or_else(|| wrong(name, text))
}

fn ports(pod: &Value, name: &'static str) -> Result<Vec<(u16, u16)>, Refusal> {
    each(pod, name, |part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first != 0 && first <= last).then_some((first, last))
    })
}

/// Whether Kubernetes takes this as an amount that is not negative. Exponents are left out: nobody writes them.
pub(super) fn is_quantity(text: &str) -> bool {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text.strip_prefix(number).unwrap_or_default();
    let suffixes = ["", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    suffixes.contains(&suffix) && digits(whole) && digits(fraction) && text.len() < 20
}
