//! Policies before they are in force: asked one question, a table of them, or all that was asked lately.
//!
//! Everything is decided here, by the matcher that sidecars decide by, over a folder of files or over what a control
//! plane's registry says. Nothing is sent anywhere.

mod question;
mod simulate;
mod table;
mod world;

pub(crate) use question::Can;
pub(crate) use simulate::Simulate;
pub(crate) use table::PolicyCommand;
pub(crate) use world::Exceptions;

/// The command did what it should, and what it found is no success: this exit code, and no message besides.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub(crate) struct Exit(pub(crate) u8);
