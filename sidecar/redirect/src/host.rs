//! The machine, as far as these commands need it: programs to run, and files of `/proc` to read.
//!
//! A program is looked for in the system's folders and nowhere else: whoever runs this is root, and a `PATH` can be
//! anybody's. It is started with arguments and standard input, no shell and an empty environment.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Where programs are looked for, in this order.
pub const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// What a program said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Whether it ended well.
    pub ok: bool,
    /// Standard output.
    pub output: String,
    /// Standard error.
    pub errors: String,
}

/// The machine; tests have one of their own.
pub trait Host {
    /// The absolute path of a program of the system.
    fn find(&self, program: &str) -> Option<PathBuf>;

    /// Runs it to its end.
    fn run(&self, program: &Path, arguments: &[&str], input: &str) -> io::Result<Said>;

    /// A small file, if it can be read.
    fn read(&self, file: &str) -> Option<String>;

    /// Keeps other changes by these commands out of this network namespace while the value lives.
    fn lock(&self) -> io::Result<Option<File>>;
}

/// The one that this process runs on.
#[derive(Debug)]
pub struct Machine;

impl Host for Machine {
    fn find(&self, program: &str) -> Option<PathBuf> {
        FOLDERS.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.is_file())
    }

    fn run(&self, program: &Path, arguments: &[&str], input: &str) -> io::Result<Said> {
        run_within(program, arguments, input, MOST_SAID, LONGEST)
    }

    fn read(&self, file: &str) -> Option<String> {
        small(file)
    }

    fn lock(&self) -> io::Result<Option<File>> {
        // The namespace itself is the file: nothing is written anywhere, and other namespaces are not waited for.
        let namespace = File::open("/proc/thread-self/ns/net")?;
        let begun = Instant::now();
        loop {
            match namespace.try_lock() {
                Ok(()) => return Ok(Some(namespace)),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if begun.elapsed() >= PATIENCE => {
                    let busy = "another `redirect` command is at work in this network namespace";
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, busy));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// How long another command may take before this one gives up.
const PATIENCE: Duration = Duration::from_secs(15);
/// What is read of a file that should be small. Whoever may add routes decides how long some files of `/proc` are.
const MOST_READ: u64 = 1024 * 1024;
/// What a program may say: a host has tens of thousands of rules of others.
const MOST_SAID: usize = 64 * 1024 * 1024;
/// How long a program may take.
const LONGEST: Duration = Duration::from_secs(60);

/// A network namespace whose owner is not trusted: what programs say of it is short, and comes soon.
#[derive(Debug)]
pub struct Stranger;

impl Host for Stranger {
    fn find(&self, program: &str) -> Option<PathBuf> {
        Machine.find(program)
    }

    fn run(&self, program: &Path, arguments: &[&str], input: &str) -> io::Result<Said> {
        run_within(program, arguments, input, 1024 * 1024, Duration::from_secs(10))
    }

    fn read(&self, file: &str) -> Option<String> {
        small(file)
    }

    fn lock(&self) -> io::Result<Option<File>> {
        Machine.lock()
    }
}

/// A file that is not longer than a small one.
fn small(file: &str) -> Option<String> {
    let mut text = String::new();
    File::open(file).ok()?.take(MOST_READ.saturating_add(1)).read_to_string(&mut text).ok()?;
    (u64::try_from(text.len()).ok()? <= MOST_READ).then_some(text)
}

/// Runs a program that is ended when it says more than this, or takes longer.
fn run_within(
    program: &Path,
    arguments: &[&str],
    input: &str,
    most: usize,
    longest: Duration,
) -> io::Result<Said> {
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let end = Instant::now().checked_add(longest);
    let left = || end.map_or(longest, |end| end.saturating_duration_since(Instant::now()));
    // What it says is read meanwhile: neither side waits for the other with a full pipe.
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || match stdin {
            Some(mut stdin) => stdin.write_all(input.as_bytes()),
            None => Ok(()),
        });
        let (sender, came) = mpsc::channel();
        let errors = sender.clone();
        scope.spawn(move || sender.send((false, all(stdout, most))));
        scope.spawn(move || errors.send((true, all(stderr, most))));
        let mut said = Said::default();
        let mut both = || {
            for _ in 0..2 {
                let slow =
                    |_| io::Error::new(io::ErrorKind::TimedOut, format!("it took longer than {longest:?}"));
                let (is_error, text) = came.recv_timeout(left()).map_err(slow)?;
                let place = if is_error { &mut said.errors } else { &mut said.output };
                *place = text?;
            }
            loop {
                if let Some(status) = child.try_wait()? {
                    return Ok(status);
                }
                if left().is_zero() {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("it took longer than {longest:?}"),
                    ));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        let status = both();
        if status.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let written = writer.join();
        said.ok = status?.success();
        // One that ends before it has read all says why itself.
        if said.ok {
            written.map_err(|_| io::Error::other("the thread that writes to it panicked"))??;
        }
        Ok(said)
    })
}

/// All that comes, if that is not more than this.
fn all(from: Option<impl Read>, most: usize) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1)).read_to_end(&mut bytes)?;
    }
    if bytes.len() > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it said more than {most} bytes")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether this process may change netfilter: the capability NET_ADMIN, number 12 (capabilities(7)). An error is what
/// came instead.
pub fn may_change_netfilter(host: &dyn Host) -> Result<(), String> {
    let status = host.read("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default().trim();
    match u64::from_str_radix(effective, 16) {
        Ok(bits) if bits & (1 << 12) != 0 => Ok(()),
        _ => Err(effective.to_owned()),
    }
}

/// Whether this network namespace has IPv6: an address, or the readiness for one.
pub fn has_ipv6(host: &dyn Host) -> bool {
    let address = host.read("/proc/thread-self/net/if_inet6").is_some_and(|list| !list.trim().is_empty());
    let enabled = |text: String| text.trim() == "0";
    address || host.read("/proc/sys/net/ipv6/conf/default/disable_ipv6").is_some_and(enabled)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Files(&'static [(&'static str, &'static str)]);

    impl Host for Files {
        fn find(&self, _: &str) -> Option<PathBuf> {
            None
        }

        fn run(&self, _: &Path, _: &[&str], _: &str) -> io::Result<Said> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn read(&self, file: &str) -> Option<String> {
            self.0.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned())
        }

        fn lock(&self) -> io::Result<Option<File>> {
            Ok(None)
        }
    }

    #[test]
    fn net_admin_is_the_twelfth_capability() {
        let status = |effective| [("/proc/thread-self/status", effective)];
        for (text, may) in [
            ("CapPrm:\t0000000000001000\nCapEff:\t0000000000001000\n", true),
            ("CapEff:\t000001ffffffffff\n", true),
            ("CapPrm:\t0000000000001000\nCapEff:\t0000000000000000\n", false),
            ("CapEff:\t000001ffffffefff\n", false),
            ("", false),
        ] {
            let files = Box::leak(Box::new(status(text)));
            assert_eq!(may_change_netfilter(&Files(files)).is_ok(), may, "{text}");
        }
    }

    #[test]
    fn a_namespace_has_ipv6_where_it_has_an_address_or_could_get_one() {
        assert!(!has_ipv6(&Files(&[])));
        assert!(has_ipv6(&Files(&[("/proc/thread-self/net/if_inet6", "0…1 01 80 10 80 lo\n")])));
        let could =
            |text| Files(Box::leak(Box::new([("/proc/sys/net/ipv6/conf/default/disable_ipv6", text)])));
        assert!(has_ipv6(&could("0\n")));
        assert!(!has_ipv6(&could("1\n")));
    }

    #[test]
    fn two_commands_in_one_network_namespace_wait_for_each_other() {
        let first = Machine.lock().unwrap().expect("a lock");
        let second = File::open("/proc/thread-self/ns/net").unwrap();
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        drop(first);
        assert!(Machine.lock().unwrap().is_some());
    }

    #[test]
    fn a_program_gets_arguments_and_input_and_no_environment() {
        let sh = Machine.find("sh").expect("a shell, for the test only");
        assert!(sh.is_absolute());
        let said = Machine.run(&sh, &["-c", "cat; echo \"$HOME$PWD\"; echo no >&2; exit 3"], "in ").unwrap();
        assert_eq!((said.ok, said.output.as_str(), said.errors.as_str()), (false, "in /\n", "no\n"));
        assert_eq!(Machine.find("no-such-program"), None);
        // More than a pipe holds, to one that reads nothing.
        let flood = "x".repeat(1 << 20);
        assert!(!Machine.run(&sh, &["-c", "exit 1"], &flood).unwrap().ok);
        assert_eq!(Machine.run(&Machine.find("cat").unwrap(), &[], &flood).unwrap().output, flood);
    }

    #[test]
    fn a_program_that_says_too_much_or_takes_too_long_is_ended() {
        let sh = Machine.find("sh").expect("a shell, for the test only");
        let run = |script, most, longest| run_within(&sh, &["-c", script], "", most, longest);
        let error = run("while :; do echo x; done", 4096, Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("more than 4096 bytes"), "{error}");
        let error = run("while :; do echo x >&2; done", 4096, Duration::from_secs(60)).unwrap_err();
        assert!(error.to_string().contains("more than 4096 bytes"), "{error}");
        for script in ["exec sleep 600", "exec >/dev/null 2>&1 sleep 600"] {
            let error = run(script, 4096, Duration::from_millis(200)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        }
    }

    #[test]
    fn of_a_file_no_more_is_read_than_a_small_one_has() {
        assert_eq!(Machine.read("/dev/zero"), None);
        assert!(Machine.read("/proc/self/status").is_some());
    }
}
