//! What this host calls its users and groups: `/etc/passwd` and `/etc/group`.
//!
//! Files only. A directory service would have to be asked over the network, by a library that waits as long as it
//! likes, and could name anybody as it likes; entries for its users say numbers.

use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Longer is no file that a host reads at every login.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Where names are looked up.
#[derive(Debug, Clone)]
pub(super) struct Names {
    passwd: PathBuf,
    group: PathBuf,
}

impl Names {
    pub(super) fn of_this_host() -> Self {
        Self { passwd: "/etc/passwd".into(), group: "/etc/group".into() }
    }

    /// The first name that the user has, as everything on the host finds it.
    pub(super) fn user(&self, uid: u32) -> Option<String> {
        find(&self.passwd, uid)
    }

    pub(super) fn group(&self, gid: u32) -> Option<String> {
        find(&self.group, gid)
    }
}

/// Both files have the name first and the number third.
fn find(file: &Path, number: u32) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(file).ok()?.take(MAX_FILE).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, found) = (fields.next()?, fields.next()?, fields.next()?);
        (found.parse() == Ok(number) && !name.is_empty()).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_names_counts_and_odd_lines_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let passwd = folder.path().join("passwd");
        let text =
            "root:x:0:0::/root:/bin/sh\n# 1000\n:x:1000:1:::\nshop:x:1000:1000:::\nother:x:1000:1:::\nbad\n";
        std::fs::write(&passwd, text).unwrap();
        let names = Names { passwd, group: folder.path().join("none") };
        assert_eq!(names.user(0).as_deref(), Some("root"));
        assert_eq!(names.user(1000).as_deref(), Some("shop"));
        assert_eq!((names.user(7), names.group(0)), (None, None));
    }
}
