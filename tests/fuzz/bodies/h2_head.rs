//! The head of an HTTP/2 request: what is taken is canonical, is passed on as what was judged, and reads as the same again.
//! The first line is method, scheme, authority and path by blanks; each other one a field.

use http::{Request, Uri};
use signet_wire::h2::{RequestHead, are_trimmed};
use signet_wire::protected::is_protected;

pub(crate) fn body(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut words = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
    let mut word = || words.next().unwrap_or_default();
    let (method, scheme, authority, path) = (word(), word(), word(), word());
    let mut uri = Uri::builder().path_and_query(path);
    if !scheme.is_empty() {
        uri = uri.scheme(scheme);
    }
    if !authority.is_empty() {
        uri = uri.authority(authority);
    }
    let Ok(uri) = uri.build() else { return };
    let mut request = Request::builder().method(method).uri(uri);
    for line in lines.take(64) {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
        request = request.header(name, value.get(1..).unwrap_or_default());
    }
    let Ok(request) = request.body(()) else { return };
    let own = request.headers().keys().map(|name| {
        let count = request.headers().get_all(name).iter().count();
        if is_protected(name.as_str().as_bytes()) { count } else { 0 }
    });
    let own: usize = own.sum();
    let Ok(head) = RequestHead::new(request.into_parts().0) else { return };

    assert_eq!(head.protected_count() as usize, own);
    assert!(head.method() != http::Method::CONNECT);
    assert!(are_trimmed(head.headers()), "no value begins or ends with a blank");
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host"] {
        assert!(!head.headers().contains_key(name), "{name}");
    }
    let path = head.target().path().to_ascii_lowercase();
    for hidden in ["//", "/../", "/./", "%2e", "%2f", "%5c", "%00", "\\", "#"] {
        assert!(!path.contains(hidden), "{path}");
    }
    // As it is sent: the same target and authority, canonical once for all.
    let (authority, target) = (head.uri_authority(), head.uri_target());
    let target = target.expect("a target");
    assert_eq!(target.as_str().as_bytes(), head.target().as_bytes());
    let (wanted, method) = (head.authority().to_string(), head.method().clone());
    let authority = authority.expect("an authority");
    let mut again = Request::builder().method(method).uri(
        Uri::builder().scheme("https").authority(authority).path_and_query(target).build().expect("a URI"),
    );
    *again.headers_mut().expect("headers") = head.headers().clone();
    let again =
        RequestHead::new(again.body(()).expect("a request").into_parts().0).expect("what we send, we read");
    assert_eq!((again.authority().to_string(), again.target()), (wanted, head.target()));
    assert_eq!(again.content_length(), head.content_length());
}
