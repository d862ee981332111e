//! A PostgreSQL server of the tests' own: an unprivileged user's, in a directory of its own, with a socket and, for
//! the tests of TLS, a port on loopback. It ends with the process that started it, however that ends.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use signet_ca::{Login, PostgresConfig, Tls};

/// Owns the tables.
pub(crate) const OWNER: &str = "mesh_owner";
/// What the authority comes as: it makes no tables, and only adds to the log.
pub(crate) const RUNTIME_ROLE: &str = "mesh";
const TEMPLATE: &str = "mesh_template";

pub(crate) struct Server {
    pub(crate) dir: tempfile::TempDir,
    bin: PathBuf,
    pub(crate) port: u16,
    /// Its standard input is a pipe from us: when it closes, the server is stopped.
    _keeper: Child,
}

static SERVER: OnceLock<Option<Server>> = OnceLock::new();

impl Server {
    /// The server of this process, started by whoever asks first; none where PostgreSQL is not installed.
    pub(crate) fn get() -> Option<&'static Server> {
        let server = SERVER.get_or_init(|| {
            let Some(bin) = programs() else {
                assert!(
                    std::env::var_os("SIGNET_REQUIRE_ALL").is_none(),
                    "PostgreSQL is not installed: tests/setup/install.sh"
                );
                eprintln!("left out: PostgreSQL is not installed; this runs on SQLite");
                return None;
            };
            Some(start(bin))
        });
        server.as_ref()
    }

    fn socket(&self) -> &Path {
        self.dir.path()
    }

    /// Runs SQL as the superuser.
    #[track_caller]
    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.try_sql(database, sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn try_sql(&self, database: &str, sql: &str) -> Output {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", sql])
            .arg("-h")
            .arg(self.socket())
            .args(["-p", &self.port.to_string()]);
        psql.output().unwrap()
    }

    /// The database that belongs to a test's directory, with the schema in it.
    pub(crate) fn database(&self, dir: &Path) -> String {
        let name: String = dir.file_name().unwrap().to_string_lossy().to_lowercase();
        let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let name = format!("t{name}");
        let exists =
            self.sql("postgres", &format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'"));
        if exists == "0" {
            self.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE} OWNER {OWNER}"));
        }
        name
    }

    /// One of the database's own programs, by the socket as the superuser.
    #[track_caller]
    fn tool(&self, program: &str, arguments: &[&str], database: &str, file: &Path) {
        let mut command = Command::new(self.bin.join(program));
        command.args(["-U", "postgres", "-d", database, "-h"]).arg(self.socket());
        command.args(["-p", &self.port.to_string()]).args(arguments).arg(file);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn dump(&self, database: &str, file: &Path) {
        self.tool("pg_dump", &["--format=custom", "-f"], database, file);
    }

    pub(crate) fn restore(&self, database: &str, file: &Path) {
        self.tool("pg_restore", &["--clean", "--if-exists", "--exit-on-error"], database, file);
    }

    pub(crate) fn login(&self, database: &str, user: &str) -> PostgresConfig {
        PostgresConfig {
            login: Login::Parts {
                server: signet_ca::Server::Socket { directory: self.socket().to_owned(), port: self.port },
                database: database.to_owned(),
                user: user.to_owned(),
                password_file: None,
            },
            tls: Tls::Off,
            migrate: false,
        }
    }

    pub(crate) fn superuser_url(&self, database: &str) -> String {
        let socket = self.socket().to_str().unwrap().replace('/', "%2F");
        format!("postgres://postgres@{socket}:{}/{database}", self.port)
    }
}

fn programs() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = debian.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.into_iter().rev().chain(std::env::split_paths(&path)).find(|bin| bin.join("initdb").is_file())
}

/// A user that the server may run as: it refuses to be root.
fn unprivileged() -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    (std::fs::metadata("/proc/self").unwrap().uid() == 0).then_some(65_534)
}

fn start(bin: PathBuf) -> Server {
    use std::os::unix::process::CommandExt as _;
    let dir = tempfile::Builder::new().prefix("signet-pg-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let user = unprivileged();
    if let Some(user) = user {
        std::os::unix::fs::chown(dir.path(), Some(user), Some(user)).unwrap();
    }
    let as_user = |mut command: Command| {
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        command.current_dir(dir.path()).env("HOME", dir.path());
        command
    };
    let data = dir.path().join("data");
    let mut initdb = as_user(Command::new(bin.join("initdb")));
    initdb.args([
        "--no-sync",
        "--no-instructions",
        "-E",
        "UTF8",
        "--locale=C",
        "-U",
        "postgres",
        "-A",
        "trust",
    ]);
    let output = initdb.arg("-D").arg(&data).output().unwrap();
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    tls(dir.path(), &data, user);
    // Passwords are asked for on TCP only.
    std::fs::write(
        data.join("pg_hba.conf"),
        "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
    )
    .unwrap();

    // A port that is free now; whoever takes it in between makes the start fail, loudly.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sockets = dir.path().display();
    let settings = format!(
        "port = {port}\nunix_socket_directories = '{sockets}'\nlisten_addresses = '127.0.0.1'\nfsync = off\n\
         max_connections = 200\nshared_buffers = 32MB\nssl = on\nssl_cert_file = 'server.crt'\n\
         ssl_key_file = 'server.key'\npassword_encryption = scram-sha-256\nlog_min_messages = fatal\n"
    );
    let mut conf = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
    conf.push_str(&settings);
    std::fs::write(data.join("postgresql.conf"), conf).unwrap();
    let mut keeper = as_user(Command::new("sh"));
    // `cat` ends when our end of the pipe is gone. What is in a static is never dropped, so the directory goes here.
    let script = "\"$0\" -D \"$1\" <&- >server.log 2>&1 & server=$!; cat >/dev/null; kill -QUIT $server; wait; cd /; rm -rf \"$2\"";
    keeper.args(["-c", script]).arg(bin.join("postgres")).arg(&data).arg(dir.path()).stdin(Stdio::piped());
    let keeper = keeper.spawn().unwrap();
    let server = Server { dir, bin, port, _keeper: keeper };
    let until = Instant::now() + Duration::from_secs(60);
    while !server.try_sql("postgres", "SELECT 1").status.success() {
        let log = std::fs::read_to_string(server.dir.path().join("server.log")).unwrap_or_default();
        assert!(Instant::now() < until, "PostgreSQL does not start: {log}");
        std::thread::sleep(Duration::from_millis(20));
    }
    for sql in [
        format!("CREATE ROLE {OWNER} LOGIN"),
        format!("CREATE ROLE {RUNTIME_ROLE} LOGIN PASSWORD 'correct horse'"),
        format!("CREATE DATABASE {TEMPLATE} OWNER {OWNER}"),
    ] {
        server.sql("postgres", &sql);
    }
    let migrate = server.login(TEMPLATE, OWNER);
    // A thread of its own: whoever asked may be inside a runtime.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(signet_ca::migrate(&migrate, Some(RUNTIME_ROLE), false)).unwrap();
    })
    .join()
    .unwrap();
    server
}

/// A certificate for `localhost` under a CA of its own: `ca.pem` is what to trust.
fn tls(dir: &Path, data: &Path, user: Option<u32>) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(dir.join("ca.pem"), ca_pem).unwrap();
    for (name, text) in [("server.crt", leaf.pem()), ("server.key", key.serialize_pem())] {
        let path = data.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some(user) = user {
            std::os::unix::fs::chown(&path, Some(user), Some(user)).unwrap();
        }
    }
}
