//! What the command line does to a cluster: the real program, helm and kubectl, and an API server inside the test.

mod analyze;
mod check;
mod docs;
mod install;
mod support;
