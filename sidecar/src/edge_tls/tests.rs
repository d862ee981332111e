use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

/// A folder as the kubelet lays a Secret out: names lead through `..data` to a folder that is exchanged whole.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new() -> (Self, GatewayTls) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{name}"), folder.path().join(name)).unwrap();
        }
        let at = |name| folder.path().join(name);
        let files = GatewayTls { cert: at("tls.crt"), key: at("tls.key") };
        (Self(folder), files)
    }

    fn put(&self, version: &str, cert: &str, key: &str) {
        let folder = self.0.path().join(version);
        fs::create_dir(&folder).unwrap();
        for (name, content) in [("tls.crt", cert), ("tls.key", key)] {
            fs::write(folder.join(name), content).unwrap();
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o440)).unwrap();
        }
        let new = self.0.path().join("..data_tmp");
        symlink(version, &new).unwrap();
        fs::rename(new, self.0.path().join("..data")).unwrap();
    }
}

fn signed() -> (String, String) {
    let signed = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()]).unwrap();
    (signed.cert.pem(), signed.signing_key.serialize_pem())
}

#[test]
fn an_exchanged_secret_is_shown_at_the_next_look_and_a_wrong_one_never() {
    let (mounted, files) = Mounted::new();
    let ((cert, key), (next, next_key)) = (signed(), signed());
    mounted.put("..1", &cert, &key);
    // Root's file of root's group; the tests of the files themselves try the other owners.
    let of_tests = fs::metadata(&files.key).unwrap();
    if std::os::unix::fs::MetadataExt::uid(&of_tests) != 0 {
        return;
    }
    let refused = EdgeCertificate::load("gateway/0", &files, false).err().unwrap();
    assert!(refused.to_string().contains("0600"), "{refused}");
    let shown = EdgeCertificate::load("gateway/0", &files, true).unwrap();
    let first = shown.now().cert.clone();
    assert!(!shown.renew().unwrap(), "the same");
    mounted.put("..2", &next, &key);
    let error = shown.renew().unwrap_err().to_string();
    assert!(error.contains("tls.key: expected the key of the certificate beside it"), "{error}");
    assert_eq!(shown.now().cert, first);
    for (version, cert) in [("..3", ""), ("..4", "what")] {
        mounted.put(version, cert, &next_key);
        assert!(shown.renew().unwrap_err().to_string().contains("found none"));
    }
    mounted.put("..5", &next, &next_key);
    assert!(shown.renew().unwrap());
    assert_ne!(shown.now().cert, first);
    assert!(shown.not_after().is_some_and(|end| end > 0));
}
