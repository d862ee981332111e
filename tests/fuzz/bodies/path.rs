//! A canonical path is its own canon, a valid `http` path, and hides neither a dot segment nor a slash.

use bytes::Bytes;
use signet_wire::canon::{Host, Target};

pub(crate) fn body(bytes: &[u8]) {
    if let Ok(target) = Target::new(Bytes::copy_from_slice(bytes)) {
        assert_eq!(Target::new(target.as_bytes().clone()).as_ref(), Ok(&target));
        let uri: http::Uri = target.as_str().parse().expect("what we accept, http accepts");
        assert_eq!((uri.path(), uri.query()), (target.path(), target.query()));
        let path = target.path().to_ascii_lowercase();
        for hidden in ["//", "/../", "/./", "/..;", "%2e", "%2f", "%5c", "%00", "\\", "#"] {
            assert!(!path.contains(hidden));
        }
        assert!(!path.ends_with("/..") && !path.ends_with("/."));
    }
    if let Ok(host) = Host::new(&Bytes::copy_from_slice(bytes)) {
        assert_eq!(Host::new(&Bytes::from(host.to_string())).as_ref(), Ok(&host));
    }
}
