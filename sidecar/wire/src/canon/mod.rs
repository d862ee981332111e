//! Path and host in one canonical form, made before anybody decides on them. What policy saw is what the upstream
//! gets, byte for byte.
//!
//! The path rule is `strict`: whatever two readers could understand differently is refused and not repaired. Only two
//! spellings are rewritten, both equivalent by RFC 3986, 6.2.2: percent-encoded unreserved characters are decoded and
//! the other triplets' digits become upper case. The query passes as it is, if it is visible ASCII without `#`.

mod host;
mod path;

pub use host::{Host, HostError};
pub use path::{PathError, Target, path};
