//! `hierarchy`: where the mesh's root comes from.

use std::path::PathBuf;

use serde::Deserialize;
use signet_ca::RootSource;

/// As it stands in the file.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    root: From,
    folder: Option<PathBuf>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum From {
    #[default]
    Own,
    External,
    Folder,
}

impl Raw {
    pub(super) fn check(self) -> Result<RootSource, (&'static str, String)> {
        const FOLDER: &str = "hierarchy.folder";
        match (self.root, self.folder) {
            (From::Own, None) => Ok(RootSource::Own),
            (From::External, None) => Ok(RootSource::External),
            (From::Folder, Some(folder)) if folder.is_absolute() => Ok(RootSource::Folder(folder)),
            (From::Folder, Some(folder)) => {
                Err((FOLDER, format!("expected an absolute path, found `{}`", folder.display())))
            }
            (From::Folder, None) => {
                Err((FOLDER, "expected the folder with tls.crt, tls.key and ca.crt, found none".into()))
            }
            (From::Own | From::External, Some(_)) => {
                Err((FOLDER, "expected nothing, unless `root` is `folder`".into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<RootSource, String> {
        let raw: Raw = signet_model::from_yaml(text).map_err(|error| error.to_string())?;
        raw.check().map_err(|(field, reason)| format!("{field}: {reason}"))
    }

    #[test]
    fn a_root_is_made_here_unless_it_is_said_otherwise() {
        assert_eq!(check("{}").unwrap(), RootSource::Own);
        assert_eq!(check("root: external").unwrap(), RootSource::External);
        let folder = check("{root: folder, folder: /run/secrets/root}").unwrap();
        assert_eq!(folder, RootSource::Folder("/run/secrets/root".into()));
    }

    #[test]
    fn a_folder_is_named_where_it_is_used_and_nowhere_else() {
        for (text, expected) in [
            ("root: folder", "hierarchy.folder: expected the folder with tls.crt"),
            ("{root: folder, folder: root}", "expected an absolute path, found `root`"),
            ("{root: external, folder: /x}", "hierarchy.folder: expected nothing"),
            ("root: vault", "external"),
            ("{root: external, csr: /x}", "csr"),
        ] {
            let message = check(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
