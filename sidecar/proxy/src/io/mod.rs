//! Streams and the buffers that they borrow.

mod conn;
mod dialled;
mod lend;
mod record;
mod stream;

pub(crate) use conn::Conn;
pub use dialled::Dialled;
pub(crate) use dialled::refusal;
pub(crate) use lend::{BUFFER, Lent, tidy};
pub(crate) use record::ReadAhead;
pub(crate) use stream::Stream;
