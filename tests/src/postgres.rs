//! A PostgreSQL server of a test's own, for control planes that share a store: an unprivileged user's, in a directory
//! of its own, reached by its socket alone. It ends with the test, and with the test's process, however that ends.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::process::until;

/// Nobody: the server refuses to be root.
const UNPRIVILEGED: u32 = 65_534;
/// There is no other server in its directory.
const PORT: u16 = 5432;

/// See the module's story.
pub struct Postgres {
    // Ended before the folder goes: fields are dropped in this order.
    _keeper: Keeper,
    folder: TempDir,
    programs: PathBuf,
}

/// Its standard input is a pipe from us: when it closes, the server is stopped.
struct Keeper(Child);

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Postgres {
    /// None, and a word about it, where PostgreSQL is not installed.
    pub async fn start() -> Option<Self> {
        Self::run(None).await
    }

    /// The same in a network namespace, where it takes TCP at this address and port 5432 from everybody.
    pub async fn listening_in(netns: &str, address: &str) -> Option<Self> {
        Self::run(Some((netns, address))).await
    }

    async fn run(place: Option<(&str, &str)>) -> Option<Self> {
        let Some(programs) = programs() else {
            crate::leave_out("PostgreSQL is not installed: tests/setup/install.sh");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("sgt-pg").tempdir().expect("a folder for PostgreSQL");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("opening it");
        let user = (std::fs::metadata("/proc/self").expect("ourselves").uid() == 0).then_some(UNPRIVILEGED);
        if let Some(user) = user {
            std::os::unix::fs::chown(folder.path(), Some(user), Some(user)).expect("handing it over");
        }
        let as_user = |program: &Path| {
            let mut command = Command::new(program);
            if let Some(user) = user {
                command.uid(user).gid(user);
            }
            command.current_dir(folder.path()).env("HOME", folder.path());
            command
        };
        let data = folder.path().join("data");
        let mut initdb = as_user(&programs.join("initdb"));
        initdb.args(["--no-sync", "--no-instructions", "-E", "UTF8", "--locale=C", "-U", "postgres"]);
        let output = initdb.args(["-A", "trust", "-D"]).arg(&data).output().expect("running initdb");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));

        let settings = format!(
            "port={PORT};unix_socket_directories={};listen_addresses={};fsync=off;shared_buffers=32MB",
            folder.path().display(),
            place.map_or("", |(_, address)| address),
        );
        let mut server = match place {
            None => as_user(Path::new("sh")),
            Some((netns, _)) => {
                let everybody = "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n";
                let rules = std::fs::OpenOptions::new().append(true).open(data.join("pg_hba.conf"));
                std::io::Write::write_all(&mut rules.expect("its rules"), everybody.as_bytes())
                    .expect("letting everybody in");
                // Only root enters a namespace; the server is unprivileged there as well.
                let id = UNPRIVILEGED;
                let mut command = Command::new("ip");
                command.args(["netns", "exec", netns, "setpriv", &format!("--reuid={id}")]);
                command.args([&format!("--regid={id}"), "--clear-groups", "sh"]).current_dir(folder.path());
                command.env("HOME", folder.path());
                command
            }
        };
        // `cat` ends when our end of the pipe is gone.
        let script = "\"$@\" <&- >server.log 2>&1 & server=$!; cat >/dev/null; kill -QUIT $server; wait";
        server.args(["-c", script, "sh"]).arg(programs.join("postgres")).arg("-D").arg(&data);
        settings.split(';').for_each(|setting| {
            server.args(["-c", setting]);
        });
        let keeper = Keeper(server.stdin(Stdio::piped()).spawn().expect("starting PostgreSQL"));
        let is_ready = programs.join("pg_isready");
        until("PostgreSQL", || {
            let mut ready = as_user(&is_ready);
            ready.arg("-q").arg("-h").arg(folder.path()).args(["-p", &PORT.to_string()]);
            ready.status().expect("running pg_isready").success().then_some(())
        })
        .await;
        Some(Self { _keeper: keeper, folder, programs })
    }

    /// The lines of `control-plane.yaml` that name it. Whoever starts first makes the tables.
    pub fn configuration(&self) -> String {
        self.configuration_of("postgres", "postgres", true)
    }

    /// The same for another database and role, where tables may be made at a start or not.
    pub fn configuration_of(&self, database: &str, user: &str, migrate: bool) -> String {
        format!(
            "store: {{postgres: {{host: '{}', port: {PORT}, database: {database}, user: {user}, tls: disable, migrate: {migrate}}}}}\n",
            self.folder.path().display()
        )
    }

    /// A file in `folder` with the URL by which a role reaches a database here.
    pub fn owners_url(&self, database: &str, user: &str, folder: &Path) -> PathBuf {
        let file = folder.join("owner.url");
        let socket = self.folder.path().display().to_string().replace('/', "%2F");
        std::fs::write(&file, format!("postgres://{user}@{socket}:{PORT}/{database}\n")).expect("a URL");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("closing it");
        file
    }

    /// Where a program of PostgreSQL's is.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A client of PostgreSQL's (`psql`, `pg_dump`, …), which finds this server by its environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        self.environment().into_iter().for_each(|(name, value)| {
            command.env(name, value);
        });
        command
    }

    /// What tells PostgreSQL's clients where this server is, who comes, and to which database.
    pub fn environment(&self) -> [(&'static str, String); 4] {
        let path = std::env::var("PATH").unwrap_or_default();
        [
            ("PGHOST", self.folder.path().display().to_string()),
            ("PGPORT", PORT.to_string()),
            ("PGUSER", "postgres".to_owned()),
            ("PATH", format!("{}:{path}", self.programs.display())),
        ]
    }

    /// The lines that one statement says, fields parted by `|`.
    pub fn query(&self, database: &str, sql: &str) -> Vec<String> {
        let mut psql = self.command("psql");
        psql.args(["--no-psqlrc", "-qAt", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]);
        let output = psql.output().expect("running psql");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }
}

/// Where its programs are: Debian keeps them out of the way.
fn programs() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = debian.map(|entry| entry.path().join("bin")).collect();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.into_iter().rev().chain(std::env::split_paths(&path)).find(|bin| bin.join("initdb").is_file())
}
