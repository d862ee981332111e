//! The store as a PostgreSQL database, shared by any number of control planes.
//!
//! The password is read from a file when the store opens, is in no configuration value that could be printed, and is
//! handed to the driver as what it is, never as part of a URL. TLS verifies the server's certificate and name unless
//! the server is reached by a socket of this machine. The role that issues makes no tables: it finds the schema, or
//! says what is missing. Nothing that hangs holds others up: the server ends what waits, runs or idles too long.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tokio::sync::broadcast;
use zeroize::Zeroizing;

use super::changes::Change;
use super::sql::{Dialect, Lent, query};
use super::{StoreError, TURN, schema};
use crate::files;

/// Connections of one control plane: one writes, one listens, one leads, the others read. One more is for sealed keys,
/// where they lie here.
const CONNECTIONS: u32 = 8;
/// What the server ends by itself. A lock is waited for less long than a statement may take, so that the message says
/// which of the two it was; a transaction that idles belongs to a process that hangs.
const LIMITS: [(&str, &str); 4] = [
    ("lock_timeout", "5s"),
    ("statement_timeout", "15s"),
    ("idle_in_transaction_session_timeout", "15s"),
    ("tcp_user_timeout", "15s"),
];
/// A listener that heard nothing for so long asks whether anybody is still there.
const QUIET: Duration = Duration::from_secs(10);
const RECONNECT: Duration = Duration::from_secs(1);
/// The lock of whoever makes tables and grants rights to them.
const MIGRATING: i64 = 0x5369_676e_6574;
/// Only ever added to by the role that issues.
const APPEND_ONLY: [&str; 2] = ["log", "log_checkpoints"];

/// How the database is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    pub login: Login,
    pub tls: Tls,
    /// Bring the schema up to date at each start: for those who use one role for everything.
    pub migrate: bool,
}

impl PostgresConfig {
    /// The role that the configuration logs in as.
    pub fn user(&self) -> Result<String, StoreError> {
        Ok(Way::read(self)?.user)
    }
}

/// Where the database is, and as whom we come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A file, 0600, whose first line is `postgres://user:password@host:port/database`.
    UrlFile(PathBuf),
    Parts {
        server: Server,
        database: String,
        user: String,
        /// A file, 0600, whose first line is the password. None: the server asks for none.
        password_file: Option<PathBuf>,
    },
}

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    Tcp {
        host: String,
        port: u16,
    },
    /// The directory of the server's Unix socket; the port is part of the socket's name.
    Socket {
        directory: PathBuf,
        port: u16,
    },
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Server::Tcp { host, port } => write!(f, "{host}:{port}"),
            Server::Socket { directory, port } => write!(f, "{}/.s.PGSQL.{port}", directory.display()),
        }
    }
}

/// How the way there is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// The server's certificate must be of a CA in this file (or of a public one) and carry the host's name.
    VerifyFull { root_cert_file: Option<PathBuf> },
    /// Only where nobody is on the way: a Unix socket, or development.
    Off,
}

/// Why the way to the database cannot be taken. None of these says a password.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error("{} is missing", path.display())]
    Missing { path: PathBuf },
    #[error(
        "{}: expected one line `postgres://user:password@host:port/database` with special characters as %XX and nothing after it; {what}",
        path.display()
    )]
    Url { path: PathBuf, what: &'static str },
    #[error("{} is not UTF-8 text", path.display())]
    Text { path: PathBuf },
    #[error("{} holds no certificate in PEM form", path.display())]
    RootCert { path: PathBuf },
    #[error("TLS to {server} is off: that is for a Unix socket, or for `dev: true`")]
    Unprotected { server: String },
    #[error("PostgreSQL at {place} cannot be used: {source}")]
    Connect { place: String, source: sqlx::Error },
    #[error(
        "the database {place} has the schema of step {found}, expected {wanted}: run `signet-control-plane --config <file> --migrate` with a URL of the owner's role, or set store.postgres.migrate: true where one role does both"
    )]
    Behind { place: String, found: i64, wanted: i64 },
}

/// Everything needed to connect. Holds the password: not to be printed.
pub(crate) struct Way {
    options: PgConnectOptions,
    /// For messages: server and database, nobody's secret.
    pub(super) place: String,
    user: String,
    protected: bool,
}

impl Way {
    /// Reads the files that the configuration names.
    pub(crate) fn read(config: &PostgresConfig) -> Result<Way, StoreError> {
        let (server, database, user, password) = match &config.login {
            Login::UrlFile(path) => {
                let line = first_line(path)?;
                read_url(&line).map_err(|what| PostgresError::Url { path: path.clone(), what })?
            }
            Login::Parts { server, database, user, password_file } => {
                let password = password_file.as_deref().map(first_line).transpose()?;
                (server.clone(), database.clone(), user.clone(), password)
            }
        };
        let place = format!("{server}/{database}");
        let mut options = PgConnectOptions::new_without_pgpass()
            .database(&database)
            .username(&user)
            .password(password.as_deref().map_or("", String::as_str))
            .application_name("signet-control-plane")
            .options(LIMITS)
            // Text of statements stays out of the log.
            .disable_statement_logging();
        let protected = match (&server, &config.tls) {
            (Server::Socket { directory, port }, _) => {
                options = options.socket(directory).port(*port).ssl_mode(PgSslMode::Disable);
                true
            }
            (Server::Tcp { host, port }, Tls::Off) => {
                options = options.host(host).port(*port).ssl_mode(PgSslMode::Disable);
                false
            }
            (Server::Tcp { host, port }, Tls::VerifyFull { root_cert_file }) => {
                // Always said, so that nothing comes from the environment.
                let roots = root_cert_file.as_deref().map(certificates).transpose()?.unwrap_or_default();
                options = options
                    .host(host)
                    .port(*port)
                    .ssl_mode(PgSslMode::VerifyFull)
                    .ssl_root_cert_from_pem(roots);
                true
            }
        };
        Ok(Way { options, place, user, protected })
    }

    /// Without TLS only in development.
    pub(crate) fn require_protected(&self, dev: bool) -> Result<(), PostgresError> {
        if self.protected || dev {
            Ok(())
        } else {
            Err(PostgresError::Unprotected { server: self.place.clone() })
        }
    }

    fn failed(&self, source: sqlx::Error) -> StoreError {
        PostgresError::Connect { place: self.place.clone(), source }.into()
    }
}

/// Connects with a schema that fits.
pub(super) async fn open(way: &Way, migrate: bool) -> Result<PgPool, StoreError> {
    open_with(way, migrate, CONNECTIONS).await
}

/// The same with so many connections at most.
pub(super) async fn open_with(way: &Way, migrate: bool, connections: u32) -> Result<PgPool, StoreError> {
    if migrate {
        bring_up_to_date(way, None).await?;
    }
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(TURN)
        .connect_with(way.options.clone())
        .await
        .map_err(|error| way.failed(error))?;
    check_schema(&pool, way).await?;
    Ok(pool)
}

/// Makes the tables as the owner, and lets `role` use them: all but add to the log is refused to it there.
pub(crate) async fn bring_up_to_date(way: &Way, role: Option<&str>) -> Result<(), StoreError> {
    // A step may take its time.
    let options = way.options.clone().options([("statement_timeout", "0"), ("lock_timeout", "60s")]);
    let mut owner = PgConnection::connect_with(&options).await.map_err(|error| way.failed(error))?;
    // Until the connection ends: two that grant the same at once would be in each other's way.
    sqlx::query("SELECT pg_advisory_lock($1)").bind(MIGRATING).execute(&mut owner).await?;
    schema::migrator(Dialect::Postgres)
        .run_direct(None, &mut owner, false)
        .await
        .map_err(|error| StoreError::not_migrated(error, way.place.clone()))?;
    if let Some(role) = role.filter(|role| *role != way.user) {
        let role = format!("\"{}\"", role.replace('"', "\"\""));
        let mut grants = vec![
            format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"),
            format!("REVOKE INSERT, UPDATE, DELETE ON _sqlx_migrations FROM {role}"),
            format!("GRANT USAGE ON SCHEMA public TO {role}"),
            format!("GRANT EXECUTE ON FUNCTION log_forget(TEXT, BIGINT) TO {role}"),
        ];
        grants
            .extend(APPEND_ONLY.iter().map(|table| format!("REVOKE UPDATE, DELETE ON {table} FROM {role}")));
        for grant in grants {
            sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut owner).await?;
        }
    }
    owner.close().await?;
    Ok(())
}

async fn check_schema(pool: &PgPool, way: &Way) -> Result<(), StoreError> {
    let mut connection = Lent::Postgres(pool.acquire().await?);
    let place = way.place.clone();
    let wanted = schema::newest();
    let there =
        query("SELECT to_regclass('public._sqlx_migrations') IS NOT NULL").fetch_one(&mut connection).await?;
    let found: i64 = if there.try_get::<bool>(0)? {
        let sql = "SELECT coalesce(max(version), 0) FROM _sqlx_migrations WHERE success";
        query(sql).fetch_one(&mut connection).await?.try_get(0)?
    } else {
        0
    };
    match found {
        _ if found < wanted => Err(PostgresError::Behind { place, found, wanted }.into()),
        _ if found > wanted => Err(StoreError::Newer { place, found, wanted }),
        _ => Ok(()),
    }
}

/// Tells what other control planes change, for as long as the pool is open. Whatever may have been missed is told as
/// a change of everything.
pub(super) async fn listen(pool: PgPool, changes: broadcast::Sender<Change>) {
    let mut first = true;
    while !pool.is_closed() {
        let heard = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen("signet").await?;
            if !std::mem::take(&mut first) {
                let _ = changes.send(Change::Everything);
            }
            loop {
                match tokio::time::timeout(QUIET, listener.try_recv()).await {
                    Ok(Ok(Some(notification))) => {
                        let _ = changes.send(Change::parse(notification.payload()));
                    }
                    Ok(Ok(None)) => return Ok(()),
                    Ok(Err(error)) => return Err(error),
                    // A connection can be dead without either side having said so.
                    Err(_) => {
                        let alive = sqlx::query("SELECT 1").execute(&mut listener);
                        match tokio::time::timeout(QUIET, alive).await {
                            Ok(alive) => {
                                alive?;
                            }
                            Err(_) => return Err(sqlx::Error::PoolTimedOut),
                        }
                    }
                }
            }
        };
        let heard: Result<(), sqlx::Error> = heard.await;
        if let Err(error) = heard {
            if pool.is_closed() {
                return;
            }
            tracing::warn!(target: "signet::ca", %error, "not hearing other control planes; trying again");
            tokio::time::sleep(RECONNECT).await;
        }
    }
}

fn first_line(path: &Path) -> Result<Zeroizing<String>, StoreError> {
    let bytes = files::read_private(path)?.ok_or_else(|| PostgresError::Missing { path: path.to_owned() })?;
    let text = std::str::from_utf8(&bytes).map_err(|_| PostgresError::Text { path: path.to_owned() })?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().trim().to_owned()))
}

fn certificates(path: &Path) -> Result<Vec<u8>, StoreError> {
    let none = || PostgresError::RootCert { path: path.to_owned() };
    let text = files::read_public(path)?.ok_or_else(|| PostgresError::Missing { path: path.to_owned() })?;
    let begins = b"-----BEGIN CERTIFICATE-----";
    if text.windows(begins.len()).any(|window| window == begins) { Ok(text) } else { Err(none().into()) }
}

type Parts = (Server, String, String, Option<Zeroizing<String>>);

/// `postgres://user[:password]@host[:port]/database`. Errors quote nothing: all of it may be the password.
fn read_url(text: &str) -> Result<Parts, &'static str> {
    let rest = text
        .strip_prefix("postgres://")
        .or_else(|| text.strip_prefix("postgresql://"))
        .ok_or("it begins otherwise")?;
    if rest.contains(['?', '#']) {
        return Err("it has parameters: they belong into the configuration file");
    }
    let (login, rest) = rest.rsplit_once('@').ok_or("there is no @ before the host")?;
    let (address, database) = rest.split_once('/').ok_or("there is no / before the database")?;
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(decode(password)?)),
        None => (login, None),
    };
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("an address in [ ] does not end")?;
            (host, rest.strip_prefix(':'))
        }
        None => match address.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| "the port is no number up to 65535")?,
        None => 5432,
    };
    let (host, database, user) = (decode(host)?, decode(database)?, decode(user)?);
    if host.is_empty() || database.is_empty() || user.is_empty() || database.contains('/') {
        return Err("host, database or user is missing");
    }
    let server = if host.starts_with('/') {
        Server::Socket { directory: PathBuf::from(host.as_str()), port }
    } else {
        Server::Tcp { host: host.to_string(), port }
    };
    Ok((server, database.to_string(), user.to_string(), password))
}

/// Undoes %XX.
fn decode(text: &str) -> Result<Zeroizing<String>, &'static str> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut bytes = text.bytes();
    let digit = |bytes: &mut std::str::Bytes<'_>| {
        bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok())
    };
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let (high, low) = (digit(&mut bytes), digit(&mut bytes));
                let pair = high.zip(low).ok_or("a % is not followed by two hexadecimal digits")?;
                (pair.0 << 4) | pair.1
            }
            byte => byte,
        });
    }
    let text = std::str::from_utf8(&out).map_err(|_| "what %XX stands for is not UTF-8")?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let (server, database, user, password) =
            read_url("postgres://signet:p%40ss%3Aw%2Ford@db.example.com:6432/mesh").unwrap();
        assert_eq!(server, Server::Tcp { host: "db.example.com".into(), port: 6432 });
        assert_eq!((database.as_str(), user.as_str()), ("mesh", "signet"));
        assert_eq!(password.unwrap().as_str(), "p@ss:w/ord");
        let (server, ..) = read_url("postgresql://signet@[2001:db8::1]/mesh").unwrap();
        assert_eq!(server, Server::Tcp { host: "2001:db8::1".into(), port: 5432 });
        let (server, ..) = read_url("postgres://signet@%2Frun%2Fpostgresql/mesh").unwrap();
        assert_eq!(server, Server::Socket { directory: "/run/postgresql".into(), port: 5432 });
    }

    #[test]
    fn a_bad_url_is_refused_without_a_word_of_it() {
        for bad in [
            "",
            "mysql://signet:hunter2@h/d",
            "postgres://signet:hunter2",
            "postgres://signet:hunter2@h",
            "postgres://signet:hunter2@h/",
            "postgres://signet:hunter2@h:99999/d",
            "postgres://signet:hunter2@h/d?sslmode=disable",
            "postgres://signet:hunter2%zz@h/d",
            "postgres://:hunter2@h/d",
        ] {
            let message = read_url(bad).map(|_| ()).unwrap_err();
            assert!(!message.contains("hunter2"), "{bad}: {message}");
        }
    }
}
