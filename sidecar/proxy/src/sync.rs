//! What threads share is made of these, so that `tests/models` can put others in their place, which try every order in
//! which threads can come.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, Mutex};
