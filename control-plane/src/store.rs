//! Where the authority's store is, and how long its log is kept, as the configuration says it.
//!
//! Secrets stay in files: what is here can be printed.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use signet_ca::{LogFailure, Login, PostgresConfig, Server, SharedKeys, StoreConfig, Tls};

/// PostgreSQL's port where none is named.
const PORT: u16 = 5432;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawStore {
    sqlite: Option<Nothing>,
    postgres: Option<RawPostgres>,
}

/// The SQLite store has no settings: it lies in `dataDir`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawPostgres {
    url_file: Option<PathBuf>,
    host: Option<String>,
    port: Option<u16>,
    database: Option<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    root_cert_file: Option<PathBuf>,
    #[serde(default)]
    tls: RawTls,
    #[serde(default)]
    migrate: bool,
}

#[derive(Deserialize, Default, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum RawTls {
    #[default]
    VerifyFull,
    Disable,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct RawReplica {
    pub(crate) name: Option<String>,
    /// Holds what all control planes of one store share: the roots' keys, sealed. A folder, or `store`.
    pub(crate) shared_keys: Option<PathBuf>,
}

impl RawReplica {
    /// Where shared keys lie.
    pub(crate) fn shared_keys(self, store: &StoreConfig) -> Result<SharedKeys, Refused> {
        let field = "replica.sharedKeys";
        match self.shared_keys {
            None => Ok(SharedKeys::DataDir),
            Some(word) if word.as_os_str() == "store" => match store {
                StoreConfig::Postgres(_) => Ok(SharedKeys::Store),
                StoreConfig::Sqlite => Err((field, "`store` expects store.postgres, found none".into())),
            },
            Some(folder) if folder.is_absolute() => Ok(SharedKeys::Folder(folder)),
            Some(other) => {
                let found = other.display();
                Err((field, format!("expected `store` or an absolute path, found `{found}`")))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(crate) struct RawIssuanceLog {
    retention_days: u64,
    on_failure: OnFailure,
}

/// What becomes of an act that the log does not take.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
enum OnFailure {
    #[default]
    Refuse,
    Issue,
}

impl Default for RawIssuanceLog {
    fn default() -> Self {
        Self { retention_days: 90, on_failure: OnFailure::Refuse }
    }
}

/// Days that a record of the issuance log is kept.
const RETENTION_DAYS: std::ops::RangeInclusive<u64> = 7..=3_650;

impl RawIssuanceLog {
    /// How long records are kept, and what becomes of an act without one.
    pub(crate) fn check(self) -> Result<(Duration, LogFailure), Refused> {
        let days = self.retention_days;
        if RETENTION_DAYS.contains(&days) {
            let failure = match self.on_failure {
                OnFailure::Refuse => LogFailure::Refuse,
                OnFailure::Issue => LogFailure::Issue,
            };
            return Ok((Duration::from_secs(days.saturating_mul(24 * 3600)), failure));
        }
        let (least, most) = RETENTION_DAYS.into_inner();
        Err(("issuanceLog.retentionDays", format!("expected {least} to {most} days, found {days}")))
    }
}

type Refused = (&'static str, String);

impl RawStore {
    pub(crate) fn check(self, dev: bool) -> Result<StoreConfig, Refused> {
        match (self.sqlite, self.postgres) {
            (_, None) => Ok(StoreConfig::Sqlite),
            (None, Some(postgres)) => Ok(StoreConfig::Postgres(postgres.check(dev)?)),
            (Some(_), Some(_)) => Err(("store", "expected sqlite or postgres, found both".into())),
        }
    }
}

impl RawPostgres {
    fn check(self, dev: bool) -> Result<PostgresConfig, Refused> {
        let one_of = |reason: &str| Err(("store.postgres", reason.to_owned()));
        let mut socket = false;
        let login = if let Some(file) = self.url_file {
            if self.host.is_some()
                || self.port.is_some()
                || self.database.is_some()
                || self.user.is_some()
                || self.password_file.is_some()
            {
                return one_of(
                    "expected urlFile, or host, database and user; found both: the file says all of it",
                );
            }
            Login::UrlFile(absolute("store.postgres.urlFile", file)?)
        } else {
            let (Some(host), Some(database), Some(user)) = (self.host, self.database, self.user) else {
                return one_of("expected urlFile, or host, database and user");
            };
            for (field, value) in [
                ("store.postgres.host", &host),
                ("store.postgres.database", &database),
                ("store.postgres.user", &user),
            ] {
                if value.is_empty() || value.chars().any(char::is_control) {
                    return Err((field, "expected a name, found nothing or control characters".into()));
                }
            }
            let port = self.port.unwrap_or(PORT);
            socket = host.starts_with('/');
            let server = if socket {
                Server::Socket { directory: PathBuf::from(host), port }
            } else {
                Server::Tcp { host, port }
            };
            let password_file =
                self.password_file.map(|file| absolute("store.postgres.passwordFile", file)).transpose()?;
            Login::Parts { server, database, user, password_file }
        };
        let root_cert_file =
            self.root_cert_file.map(|file| absolute("store.postgres.rootCertFile", file)).transpose()?;
        let tls = match self.tls {
            RawTls::VerifyFull => Tls::VerifyFull { root_cert_file },
            // With a URL it is not known yet whether it names a socket: the start looks again.
            RawTls::Disable if dev || socket || matches!(login, Login::UrlFile(_)) => Tls::Off,
            RawTls::Disable => {
                let reason =
                    "disable is for a Unix socket (host: /run/postgresql), or together with `dev: true`";
                return Err(("store.postgres.tls", reason.into()));
            }
        };
        Ok(PostgresConfig { login, tls, migrate: self.migrate })
    }
}

fn absolute(field: &'static str, path: PathBuf) -> Result<PathBuf, Refused> {
    if path.is_absolute() {
        return Ok(path);
    }
    Err((field, format!("expected an absolute path, found `{}`", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, dev: bool) -> Result<StoreConfig, String> {
        let raw: RawStore = signet_model::from_yaml(text).map_err(|error| error.to_string())?;
        raw.check(dev).map_err(|(field, reason)| format!("{field}: {reason}"))
    }

    #[test]
    fn without_a_word_or_with_nothing_to_say_it_is_sqlite() {
        for text in ["{}", "sqlite: {}"] {
            assert_eq!(check(text, false).unwrap(), StoreConfig::Sqlite);
        }
        assert!(check("sqlite: {file: /x}", false).unwrap_err().contains("file"));
        assert!(check("{sqlite: {}, postgres: {urlFile: /x}}", false).unwrap_err().contains("found both"));
    }

    #[test]
    fn postgres_is_told_by_a_url_file_or_by_parts() {
        let StoreConfig::Postgres(by_url) = check("postgres: {urlFile: /etc/signet/url}", false).unwrap()
        else {
            panic!("not postgres")
        };
        assert_eq!(by_url.tls, Tls::VerifyFull { root_cert_file: None });
        let text = "postgres: {host: db.example.com, database: mesh, user: signet, passwordFile: /p, rootCertFile: /r}";
        let StoreConfig::Postgres(by_parts) = check(text, false).unwrap() else { panic!("not postgres") };
        let Login::Parts { server, .. } = by_parts.login else { panic!("no parts") };
        assert_eq!(server, Server::Tcp { host: "db.example.com".into(), port: 5432 });
        for (text, expected) in [
            ("postgres: {}", "store.postgres: expected urlFile, or host"),
            ("postgres: {host: a, user: b}", "store.postgres: expected urlFile, or host"),
            ("postgres: {urlFile: /x, user: b}", "found both"),
            ("postgres: {urlFile: x}", "store.postgres.urlFile: expected an absolute path"),
            ("postgres: {host: '', database: d, user: u}", "store.postgres.host: "),
            ("postgres: {urlFile: /x, password: hunter2}", "password"),
        ] {
            let message = check(text, false).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }

    #[test]
    fn tls_goes_off_on_a_socket_or_in_development_only() {
        let tcp = "postgres: {host: db.example.com, database: d, user: u, tls: disable}";
        let message = check(tcp, false).unwrap_err();
        assert!(message.starts_with("store.postgres.tls: ") && message.contains("dev: true"), "{message}");
        check(tcp, true).unwrap();
        check("postgres: {host: /run/postgresql, database: d, user: u, tls: disable}", false).unwrap();
        let message = check("postgres: {host: h, database: d, user: u, tls: require}", false).unwrap_err();
        assert!(message.contains("verify-full"), "{message}");
    }
}
