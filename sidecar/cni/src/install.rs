//! The plugin on the host: its file among the others, and its entry in the configuration that is in force, which is the
//! first by name. Runtimes read that folder whenever something in it changes, and so whatever is written here appears
//! under its name at once and whole.
//!
//! Others write there, too, whenever they are started or updated; so this is asked again and again, and does what is
//! missing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::TYPE;
use crate::conflist::{self, Wrong};

/// Longer than any configuration.
const MOST: u64 = 1024 * 1024;
/// What a configuration of one plugin is kept as while a list with it is in force: no runtime reads that.
const KEPT: &str = "signet-kept";

/// Why the plugin is not in place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {wrong}", path.display())]
    Wrong { path: PathBuf, wrong: Wrong },
    #[error("expected a network configuration (.conflist, .conf or .json) in {}, found none: the network's own plugin is not installed yet", .0.display())]
    None(PathBuf),
    #[error(
        "expected a plugin of {} ({types}) in {}, where our own is: that is not the folder in which this node's runtime looks for plugins (cni.binDir)",
        path.display(), folder.display()
    )]
    Elsewhere { path: PathBuf, types: String, folder: PathBuf },
    #[error("{}: expected no file of this name beside {}, which is to become it", list.display(), one.display())]
    Taken { list: PathBuf, one: PathBuf },
}

type Result<T, E = InstallError> = std::result::Result<T, E>;

impl InstallError {
    /// Whether it is the folder's owner who keeps us out.
    fn is_denied(&self) -> bool {
        matches!(self, InstallError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// What can be done about it, where that is known.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        if self.is_denied() { " (the folder must be root's, or the agent have DAC_OVERRIDE)" } else { "" }
    }
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    |source| InstallError::Io { path: path.to_owned(), source }
}

/// Copies this program to the folder of plugins, where a running one goes on with what it was started from.
///
/// # Errors
/// [`InstallError::Io`].
pub fn copy_program(folder: &Path) -> Result<()> {
    let own = Path::new("/proc/self/exe");
    let mut program = Vec::new();
    File::open(own).and_then(|mut file| file.read_to_end(&mut program)).map_err(io(own))?;
    let to = folder.join(TYPE);
    if fs::read(&to).is_ok_and(|there| there == program) {
        return Ok(());
    }
    write(&to, &program, 0o755, None)
}

/// Takes the copy away.
///
/// # Errors
/// [`InstallError::Io`].
pub fn remove_program(folder: &Path) -> Result<()> {
    let path = folder.join(TYPE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(&path)(error)),
        _ => Ok(()),
    }
}

/// Under a name that no runtime reads, then in place.
fn write(path: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.signet-{:016x}", chance()));
    let written = (|| {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if let Some((user, group)) = owner {
            // Whoever reads it is root of the node: somebody else's file is as good as root's own.
            let _ = std::os::unix::fs::fchown(&file, Some(user), Some(group));
        }
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        io(path)(error)
    })
}

/// Not what another agent on this node has: in each container of them the process is number 1.
pub(crate) fn chance() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    std::hash::RandomState::new().build_hasher().finish()
}

/// A network configuration as it was read.
struct Configuration {
    path: PathBuf,
    text: String,
    mode: u32,
    owner: (u32, u32),
}

impl Configuration {
    fn read(path: PathBuf) -> io::Result<Self> {
        let file = File::open(&path)?;
        let of = file.metadata()?;
        let mut text = String::new();
        file.take(MOST).read_to_string(&mut text)?;
        Ok(Self { path, text, mode: of.mode() & 0o7777, owner: (of.uid(), of.gid()) })
    }

    fn is_list(&self) -> bool {
        self.path.extension().is_some_and(|it| it == "conflist")
    }

    /// Puts another text in its place, unless somebody has done so meanwhile.
    fn replace(&self, path: &Path, text: &str) -> Result<bool> {
        let now = fs::read_to_string(&self.path).map_err(io(&self.path))?;
        if now != self.text {
            return Ok(false);
        }
        write(path, text.as_bytes(), self.mode, Some(self.owner)).map(|()| true)
    }
}

/// The configurations in the order in which runtimes take them. What cannot be read is not there.
fn configurations(folder: &Path) -> Result<Vec<Configuration>> {
    let entries = fs::read_dir(folder).map_err(io(folder))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_one = |path: &PathBuf| {
        let extension = path.extension().unwrap_or_default();
        ["conf", "conflist", "json"].iter().any(|it| extension == *it)
    };
    let mut paths: Vec<PathBuf> = paths.filter(is_one).collect();
    paths.sort();
    Ok(paths.into_iter().filter_map(|path| Configuration::read(path).ok()).collect())
}

/// Sees to it that the configuration in force has our entry; where it has one of ours that is another, only with `anew`.
/// The file, and whether something was written. Where none of the others' programs is in `programs`, nothing is: a runtime
/// that looks elsewhere would not find ours either, and start no pod.
///
/// # Errors
/// [`InstallError`].
pub fn ensure(folder: &Path, programs: &Path, entry: &str, anew: bool) -> Result<(PathBuf, bool)> {
    let first = configurations(folder)?.into_iter().next();
    let Some(first) = first else { return Err(InstallError::None(folder.to_owned())) };
    let others = conflist::others(&first.text);
    if !others.is_empty() && !others.iter().any(|one| programs.join(one).is_file()) {
        let (path, types) = (first.path, others.join(", "));
        return Err(InstallError::Elsewhere { path, types, folder: programs.to_owned() });
    }
    let wrong = |wrong| InstallError::Wrong { path: first.path.clone(), wrong };
    if !first.is_list() {
        return wrap(&first, entry);
    }
    if conflist::has_entry(&first.text).map_err(wrong)? && (!anew || first.text.contains(entry)) {
        return Ok((first.path, false));
    }
    let text = conflist::with_entry(&first.text, entry).map_err(wrong)?;
    // Changed meanwhile: the next time.
    let written = first.replace(&first.path, &text)?;
    Ok((first.path, written))
}

/// A list in place of the configuration of one plugin, which is kept as it was.
fn wrap(one: &Configuration, entry: &str) -> Result<(PathBuf, bool)> {
    let text = conflist::wrapped(&one.text, entry)
        .map_err(|wrong| InstallError::Wrong { path: one.path.clone(), wrong })?;
    let list = one.path.with_extension("conflist");
    let is_theirs = |text: String| !conflist::has_entry(&text).unwrap_or(false);
    if fs::read_to_string(&list).is_ok_and(is_theirs) {
        return Err(InstallError::Taken { list, one: one.path.clone() });
    }
    // The list first: until the other is gone that one is in force, as it was.
    if !one.replace(&list, &text)? {
        return Ok((list, false));
    }
    fs::rename(&one.path, kept(&one.path)).map_err(io(&one.path))?;
    Ok((list, true))
}

fn kept(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(KEPT);
    name.into()
}

/// Leaves the folder as it would be without us.
///
/// # Errors
/// [`InstallError`], when everything that could be done is done.
pub fn remove(folder: &Path) -> Result<()> {
    let mut failed = None;
    let entries = fs::read_dir(folder).map_err(io(folder))?;
    let paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    // What a process that was killed had not put in place yet.
    let is_half = |name: &str| name.starts_with('.') && name.contains(".signet-");
    for half in paths.iter().filter(|path| path.file_name().and_then(|it| it.to_str()).is_some_and(is_half)) {
        let _ = fs::remove_file(half);
    }
    for path in paths.iter().filter(|path| path.extension().is_some_and(|it| it == KEPT)) {
        if let Err(error) = unwrap(path) {
            failed = Some(error);
        }
    }
    for one in configurations(folder)?.into_iter().filter(Configuration::is_list) {
        if let Ok(Some(text)) = conflist::without_entry(&one.text)
            && let Err(error) = one.replace(&one.path, &text)
        {
            failed = Some(error);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Puts a kept configuration back in the place of the list that was made of it.
fn unwrap(kept: &Path) -> Result<()> {
    // `10-net.conf.signet-kept`
    let one = kept.with_extension("");
    let list = one.with_extension("conflist");
    match one.exists() {
        // Somebody wrote another.
        true => fs::remove_file(kept).map_err(io(kept))?,
        false => fs::rename(kept, &one).map_err(io(kept))?,
    }
    let is_ours = |text: String| conflist::has_entry(&text).unwrap_or(false);
    if fs::read_to_string(&list).is_ok_and(is_ours) {
        fs::remove_file(&list).map_err(io(&list))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const ENTRY: &str = r#"{"type":"signet-cni","socket":"/s","excludeNamespaces":[]}"#;
    const LIST: &str = "{\n  \"name\": \"n\",\n  \"plugins\": [\n    {\"type\": \"ptp\"}\n  ]\n}\n";
    const ONE: &str = "{\"cniVersion\": \"0.4.0\", \"name\": \"n\", \"type\": \"ptp\"}\n";

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for program in ["ptp", "bridge"] {
            fs::write(folder.path().join(program), "").unwrap();
        }
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    fn all(folder: &tempfile::TempDir) -> BTreeMap<String, String> {
        let entries = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let entries = entries.filter(|path| path.extension().is_some());
        let named = |path: PathBuf| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap())
        };
        entries.map(named).collect()
    }

    #[test]
    fn the_list_in_force_gets_the_entry_once_and_the_others_none() {
        let folder = folder(&[("10-a.conflist", LIST), ("20-b.conflist", LIST), ("05-x.txt", "?")]);
        fs::set_permissions(folder.path().join("10-a.conflist"), fs::Permissions::from_mode(0o640)).unwrap();
        let before = all(&folder);
        let (path, written) = ensure(folder.path(), folder.path(), ENTRY, true).unwrap();
        assert_eq!((path.file_name().unwrap().to_str(), written), (Some("10-a.conflist"), true));
        assert!(!ensure(folder.path(), folder.path(), ENTRY, true).unwrap().1, "once is enough");
        assert_eq!(all(&folder)["20-b.conflist"], LIST);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        // Of another version: not fought about, unless at a start.
        let newer = ENTRY.replace("/s", "/t");
        assert!(!ensure(folder.path(), folder.path(), &newer, false).unwrap().1);
        assert!(ensure(folder.path(), folder.path(), &newer, true).unwrap().1);
        assert!(all(&folder)["10-a.conflist"].contains("/t"));
        // Its owner writes it anew.
        fs::write(&path, LIST).unwrap();
        assert!(ensure(folder.path(), folder.path(), ENTRY, false).unwrap().1);
        // One of us was killed in the middle.
        fs::write(folder.path().join(".10-a.conflist.signet-7"), "{").unwrap();
        remove(folder.path()).unwrap();
        assert_eq!(all(&folder), before);
        remove(folder.path()).unwrap();
        assert_eq!(all(&folder), before);
    }

    #[test]
    fn a_configuration_of_one_plugin_becomes_a_list_and_itself_again() {
        let folder = folder(&[("10-a.conf", ONE)]);
        let before = all(&folder);
        assert!(ensure(folder.path(), folder.path(), ENTRY, true).unwrap().1);
        assert!(!ensure(folder.path(), folder.path(), ENTRY, false).unwrap().1);
        let names: Vec<String> = all(&folder).into_keys().collect();
        assert_eq!(names, ["10-a.conf.signet-kept", "10-a.conflist"]);
        // Its owner writes it anew: it is in force before the list.
        let other = ONE.replace("ptp", "bridge");
        fs::write(folder.path().join("10-a.conf"), &other).unwrap();
        assert!(ensure(folder.path(), folder.path(), ENTRY, false).unwrap().1);
        assert!(all(&folder)["10-a.conflist"].contains("bridge"));
        remove(folder.path()).unwrap();
        assert_eq!(all(&folder), BTreeMap::from([("10-a.conf".to_owned(), other)]));
        fs::write(folder.path().join("10-a.conf"), ONE).unwrap();
        assert_eq!(all(&folder), before);
    }

    #[test]
    fn what_nobody_wrote_for_us_is_left_alone_and_named() {
        let said = |files: &[(&str, &str)]| {
            let folder = folder(files);
            let before = all(&folder);
            let error = ensure(folder.path(), folder.path(), ENTRY, true).unwrap_err().to_string();
            assert_eq!(all(&folder), before);
            error
        };
        assert!(said(&[]).contains("found none"));
        assert!(said(&[("10-a.conflist", "{")]).contains("10-a.conflist: expected a list"));
        assert!(said(&[("10-a.conf", "{}")]).contains("10-a.conf: expected the configuration"));
        assert!(
            said(&[("10-a.conf", ONE), ("10-a.conflist", LIST)]).contains("expected no file of this name")
        );
    }

    #[test]
    fn where_the_runtime_looks_elsewhere_nothing_is_written() {
        for (name, text) in [("10-a.conflist", LIST), ("10-a.conf", ONE)] {
            let folder = folder(&[(name, text)]);
            fs::remove_file(folder.path().join("ptp")).unwrap();
            let before = all(&folder);
            let error = ensure(folder.path(), folder.path(), ENTRY, true).unwrap_err().to_string();
            assert!(error.contains("(ptp)") && error.contains("cni.binDir"), "{error}");
            assert_eq!(all(&folder), before);
        }
    }

    #[test]
    fn the_program_is_copied_whole_and_goes_again() {
        let folder = tempfile::tempdir().unwrap();
        copy_program(folder.path()).unwrap();
        copy_program(folder.path()).unwrap();
        let copy = folder.path().join(TYPE);
        assert_eq!(fs::metadata(&copy).unwrap().mode() & 0o777, 0o755);
        assert_eq!(fs::read(&copy).unwrap(), fs::read("/proc/self/exe").unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        remove_program(folder.path()).unwrap();
        remove_program(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
