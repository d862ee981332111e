//! A program that is called: what it is told by standard input, and what it says.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Why a program said nothing that is of use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("{program}: not found; install {name}, or say where it is with --{name}")]
    Missing { program: String, name: &'static str },
    #[error("{program}: {error}")]
    Start { program: String, error: std::io::Error },
    /// It ran and failed, in its own words.
    #[error("{name}: {said}")]
    Failed { name: &'static str, said: String },
}

/// Runs it to its end, and gives what it printed.
pub(super) fn run(
    name: &'static str,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    input: Option<&[u8]>,
) -> Result<Vec<u8>, ProgramError> {
    let (out, _) = run_both(name, program, arguments, input)?;
    Ok(out)
}

/// The same, with what it said on standard error.
pub(super) fn run_both(
    name: &'static str,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
    input: Option<&[u8]>,
) -> Result<(Vec<u8>, String), ProgramError> {
    let shown = || program.display().to_string();
    let start = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => ProgramError::Missing { program: shown(), name },
        _ => ProgramError::Start { program: shown(), error },
    };
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().map_err(start)?;
    // What is written is small, or the child reads all of it before it writes.
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        match stdin.write_all(input) {
            // It says itself why it did not want it.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(start(error));
            }
            _ => {}
        }
    }
    let output = child.wait_with_output().map_err(start)?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        return Ok((output.stdout, said));
    }
    let said = match said.is_empty() {
        true => format!("ended with {}", output.status),
        false => said,
    };
    Err(ProgramError::Failed { name, said })
}
