//! The demo's processes: started, watched, and ended with it, however it ends.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long any part may take to come up. Two slow cores need about two seconds.
const START: Duration = Duration::from_secs(30);
/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(25);

pub(crate) struct Processes {
    logs: PathBuf,
    running: Vec<(String, Child)>,
}

impl Processes {
    pub(crate) fn new(logs: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&logs)?;
        Ok(Self { logs, running: Vec::new() })
    }

    pub(crate) fn start(&mut self, name: &str, binary: &Path, arguments: &[&str]) -> anyhow::Result<()> {
        let log = File::create(self.log(name))?;
        let mut command = Command::new(binary);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C is for the demo alone: it ends the others in order.
            .process_group(0)
            .kill_on_drop(true);
        // SAFETY: prctl is async-signal-safe and touches only the new process.
        unsafe {
            command.pre_exec(|| {
                // Should the demo be killed outright, the kernel ends what it started.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        self.running.push((name.to_owned(), child));
        Ok(())
    }

    /// Waits until `path` exists, which the process started last makes once it is ready.
    pub(crate) async fn wait_for_file(&mut self, path: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while !path.exists() {
            if let Some(ended) = self.find_ended() {
                return Err(ended);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} did not appear within {START:?}; see the logs in {}",
                    path.display(),
                    self.logs.display()
                );
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Resolves when a process has ended that should not have.
    pub(crate) async fn any_ended(&mut self) -> anyhow::Error {
        loop {
            if let Some(ended) = self.find_ended() {
                return ended;
            }
            sleep(LOOK_EVERY * 20).await;
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.running.len()
    }

    /// Everything that the processes have written so far.
    pub(crate) fn read_logs(&self) -> anyhow::Result<String> {
        let mut all = String::new();
        for (name, _) in &self.running {
            all += &String::from_utf8_lossy(&std::fs::read(self.log(name))?);
        }
        Ok(all)
    }

    fn find_ended(&mut self) -> Option<anyhow::Error> {
        let logs = self.logs.clone();
        self.running.iter_mut().find_map(|(name, child)| {
            let status = child.try_wait().ok().flatten()?;
            let log = std::fs::read_to_string(logs.join(format!("{name}.log"))).unwrap_or_default();
            let mut tail: Vec<_> = log.lines().rev().take(10).collect();
            tail.reverse();
            Some(anyhow!("{name} ended with {status}; its last lines:\n{}", tail.join("\n")))
        })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Ends everything, callers before callees: SIGTERM, and SIGKILL for what has not gone after a while.
    pub(crate) async fn end(&mut self) {
        for (_, child) in &self.running {
            if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                // SAFETY: the child has not been waited for, so that the id is still its own.
                unsafe { libc::kill(pid, libc::SIGTERM) };
            }
        }
        let deadline = Instant::now() + GRACE;
        for (_, child) in self.running.iter_mut().rev() {
            if timeout(deadline.saturating_duration_since(Instant::now()), child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        }
        self.running.clear();
    }
}
