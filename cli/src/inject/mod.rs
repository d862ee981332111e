//! `signet inject` and `signet uninject`: manifests made members of the mesh, and given back as they were.
//!
//! The same function decides as in the cluster. Documents in which nothing changes come out byte for byte, in their place; those
//! that change lose their comments. When one pod is refused nothing comes out at all: half of it would be applied.

mod stream;
mod yaml;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;
use signet_kubernetes::inject::template::{Place, places};
use signet_kubernetes::inject::{Namespace, Outcome, ProbeKey, Settings, inject, uninject};

use self::stream::{Document, documents};

/// Larger is no manifest.
const MOST: u64 = 64 * 1024 * 1024;

/// What both take.
#[derive(Args)]
struct Input {
    /// A file, a folder of .yaml, .yml and .json files, or `-` for standard input; as often as there are some.
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Inject {
    #[command(flatten)]
    input: Input,
    /// The settings of injection, as in `webhook.injection` of control-plane.yaml.
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
    /// The namespace of objects that name none.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

#[derive(Args)]
pub(crate) struct Uninject {
    #[command(flatten)]
    input: Input,
}

impl Inject {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let settings = self.settings()?;
        self.input.each(|pod, place| {
            let namespace = place.namespace.clone().unwrap_or_else(|| self.namespace.clone());
            let namespace = Namespace { name: namespace, injects: true };
            match inject(pod, &namespace, &settings, &draw()?) {
                Outcome::Injected(done) => {
                    let said = if done.patch.is_empty() { "as it should be" } else { "injected" };
                    Ok(Done {
                        pod: (!done.patch.is_empty()).then_some(done.pod),
                        said: said.to_owned(),
                        warnings: done.warnings,
                    })
                }
                Outcome::Skipped(skip) => Ok(Done::alone(format!("left alone: {skip}"))),
                Outcome::Refused(refusal) => bail!("{refusal}"),
            }
        })
    }

    fn settings(&self) -> anyhow::Result<Settings> {
        let at = || self.settings.display().to_string();
        let text = std::fs::read_to_string(&self.settings).with_context(at)?;
        let settings: Settings = signet_model::from_yaml(&text).with_context(at)?;
        settings.check().with_context(at)?;
        Ok(settings)
    }
}

impl Uninject {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        self.input.each(|pod, _| {
            let before = uninject(pod)?;
            Ok(match before == *pod {
                true => Done::alone("has no sidecar".to_owned()),
                false => Done { pod: Some(before), said: "as it was".to_owned(), warnings: Vec::new() },
            })
        })
    }
}

/// What became of one pod.
struct Done {
    /// Another than before.
    pod: Option<Value>,
    said: String,
    warnings: Vec<String>,
}

impl Done {
    fn alone(said: String) -> Self {
        Self { pod: None, said, warnings: Vec::new() }
    }
}

fn draw() -> anyhow::Result<ProbeKey> {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow::anyhow!("no random numbers"))?;
    Ok(ProbeKey::new(u128::from_be_bytes(bytes)))
}

impl Input {
    /// Puts every pod of every document through `change`, and prints the documents.
    fn each(&self, mut change: impl FnMut(&Value, &Place) -> anyhow::Result<Done>) -> anyhow::Result<()> {
        let mut out = String::new();
        let mut refused = 0_usize;
        for (name, text) in texts(&self.files)? {
            for Document { text, value, json } in documents(&text).with_context(|| name.clone())? {
                let Some(mut value) = value else {
                    stream::push(&mut out, &text);
                    continue;
                };
                let mut changed = false;
                for place in places(&value) {
                    let Some(pod) = value.pointer(&place.pointer) else { continue };
                    match change(pod, &place) {
                        Ok(done) => {
                            eprintln!("{name}: {}: {}", place.object, done.said);
                            done.warnings
                                .iter()
                                .for_each(|text| eprintln!("{name}: {}: {text}", place.object));
                            if let (Some(new), Some(old)) = (done.pod, value.pointer_mut(&place.pointer)) {
                                *old = new;
                                changed = true;
                            }
                        }
                        Err(error) => {
                            eprintln!("{name}: {}: refused: {error}", place.object);
                            refused = refused.saturating_add(1);
                        }
                    }
                }
                let shown = match (changed, json) {
                    (false, _) => text,
                    (true, true) => format!("{}\n", serde_json::to_string_pretty(&value)?),
                    (true, false) => yaml::document(&value),
                };
                stream::push(&mut out, &shown);
            }
        }
        if refused > 0 {
            bail!("{refused} refused, so nothing is printed");
        }
        std::io::stdout().lock().write_all(out.as_bytes())?;
        Ok(())
    }
}

/// The texts of files, folders and standard input, each with its name.
pub(crate) fn texts(given: &[PathBuf]) -> anyhow::Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for file in given {
        if file.as_os_str() == "-" {
            all.push(("-".to_owned(), whole(std::io::stdin().lock())?));
            continue;
        }
        let mut files = Vec::new();
        if file.is_dir() {
            manifests(file, &mut files)?
        } else {
            files.push(file.clone())
        }
        for file in files {
            let name = file.display().to_string();
            let open = std::fs::File::open(&file).with_context(|| name.clone())?;
            all.push((name.clone(), whole(open).with_context(|| name.clone())?));
        }
    }
    Ok(all)
}

/// What the documents of a text say.
pub(crate) fn values(text: &str) -> anyhow::Result<Vec<Value>> {
    Ok(documents(text)?.into_iter().filter_map(|document| document.value).collect())
}

fn whole(from: impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(MOST).read_to_string(&mut text)?;
    if u64::try_from(text.len())? == MOST {
        bail!("expected less than {MOST} bytes, found more");
    }
    Ok(text)
}

/// The files of a folder and those within, by name.
fn manifests(folder: &Path, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        let ends = |end: &str| path.extension().is_some_and(|found| found == end);
        if path.is_dir() {
            manifests(&path, into)?;
        } else if ["yaml", "yml", "json"].into_iter().any(ends) {
            into.push(path);
        }
    }
    Ok(())
}
