//! Processes that end with the test that started them.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take to come up or to go: generous, since two cores may be busy with a build.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    /// Processes that it started may outlive it, and end with the test.
    family: bool,
}

impl Process {
    /// Starts `command` with its output in `folder/name.log`.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).expect("creating a log file");
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("sharing the log file"))
            .stderr(file)
            .process_group(0);
        // SAFETY: prctl is async-signal-safe and touches only the new process.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("starting {name}: {error}"));
        Self { name: name.to_owned(), log, child, family: false }
    }

    /// What it starts ends with the test as well.
    pub fn adopt_successors(&mut self) {
        self.family = true;
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id fits");
        // SAFETY: the child has not been waited for, so that the id is still its own.
        unsafe { libc::kill(pid, signal) };
    }

    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("asking for a child's state")
    }

    /// Waits for the end.
    pub async fn wait(&mut self) -> ExitStatus {
        until(&format!("{} to end", self.name.clone()), || self.ended()).await
    }

    /// Fails the test if the process has ended.
    pub fn assert_runs(&mut self) {
        if let Some(status) = self.ended() {
            panic!("{} ended with {status}:\n{}", self.name, tail(&self.log()));
        }
    }

    /// Waits until `text` stands in the log, and returns the line.
    pub async fn logged(&self, text: &str) -> String {
        until(&format!("{text:?} in the log of {}", self.name), || {
            self.log().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, tail(&self.log()));
        }
        if self.family {
            // SAFETY: it began as the head of a group of its own, in which is only what it started.
            unsafe { libc::kill(-i32::try_from(self.child.id()).unwrap_or(0), libc::SIGKILL) };
        }
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn tail(log: &str) -> String {
    let mut lines: Vec<_> = log.lines().rev().take(40).collect();
    lines.reverse();
    lines.join("\n")
}

/// Asks again and again until there is an answer; fails the test when patience ends. For what is
/// awaited from another process and announces itself in no other way.
pub async fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One of the workspace's programs, from the folder that this test was built into.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test has a path");
    let folder = own.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built: run `make build` (with PROFILE=…) first", path.display());
    path
}
