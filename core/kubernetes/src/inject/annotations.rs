//! What a pod may say of its own injection. There is nothing here that sets an image, a user, a capability, or whom to
//! trust: whoever writes an annotation has no say in those.

use serde_json::Value;
use signet_model::{Network, ObjectName};

use super::refusal::Refusal;
use super::settings::Redirect;
use super::{CONFIG, INJECTED, ORIGINALS, meta};

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
    /// Whether injection writes it, and nobody else.
    pub written: bool,
}

const fn taken(name: &'static str, expected: &'static str) -> Annotation {
    Annotation { name, expected, written: false }
}

const fn written(name: &'static str, expected: &'static str) -> Annotation {
    Annotation { name, expected, written: true }
}

const SWITCH: &str = "enabled or disabled";
const QUANTITY: &str = "a quantity such as 100m or 64Mi";
const PORTS: &str = "at most 256 ports and ranges of them, such as 22,9000-9010";

/// Every annotation that there is.
pub const ANNOTATIONS: [Annotation; 19] = [
    taken("signet.mesh/inject", SWITCH),
    taken("signet.mesh/cpu-request", QUANTITY),
    taken("signet.mesh/cpu-limit", QUANTITY),
    taken("signet.mesh/memory-request", QUANTITY),
    taken("signet.mesh/memory-limit", QUANTITY),
    taken("signet.mesh/workers", "1 to 256"),
    taken("signet.mesh/exclude-inbound-ports", PORTS),
    taken("signet.mesh/exclude-outbound-ports", PORTS),
    taken("signet.mesh/exclude-outbound-ranges", "at most 256 networks, such as 10.1.0.0/16,fd00::/8"),
    taken("signet.mesh/dns-capture", SWITCH),
    taken("signet.mesh/log-level", "off, error, warn, info, debug or trace"),
    taken("signet.mesh/drain-seconds", "0 to 3600"),
    taken("signet.mesh/serves", "services, such as orders.shop,ledger.shop"),
    taken("signet.mesh/probes", "rewrite or leave"),
    taken("signet.mesh/attach-user-context", SWITCH),
    taken("signet.mesh/redirect", "init or cni"),
    written(INJECTED, "nothing: injection writes it"),
    written(CONFIG, "nothing: injection writes it"),
    written(ORIGINALS, "nothing: injection writes it"),
];

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// `enabled`, or `true`.
    Enabled,
    /// `disabled`, or `false`.
    Disabled,
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
