//! Injection, over everything that a real API server asked of a webhook.
#![allow(clippy::indexing_slicing, reason = "tests")]

mod answers;
mod golden;
mod mending;
mod pods;
mod restricted;
mod scrape;
mod support;
