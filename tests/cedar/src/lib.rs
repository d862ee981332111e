//! Only tests: see `tests/cedar.rs`.
