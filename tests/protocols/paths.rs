//! Paths as a differential: the one that policy decides on is the one that every server behind the pair resolves the request to, and
//! no spelling reaches what is forbidden.

use std::collections::BTreeSet;

use serde_json::Value;
use signet_tests::client::raw;

use crate::backends::{Backends, Seen};

/// The URL test data of the web platform tests.
const URLS: &str = include_str!("../data/url/urltestdata.json");

const FORBIDDEN: &str = "---\nkind: MeshPolicy\nmetadata: {namespace: shop, name: nobody-may}\nspec:\n  effect: forbid\n  \
     target: {service: server}\n  to: {paths: [/forbidden, '/forbidden/{rest=**}']}\n";

/// What has been taken for a dot, for a slash, and for a letter, by somebody.
const DOTS: &[&str] = &[
    ".",
    "%2e",
    "%2E",
    "%252e",
    "%25252e",
    "%c0%ae",
    "%e0%80%ae",
    "%uff0e",
    "\u{ff0e}",
    "%EF%BC%8E",
    "\u{2025}",
    ".;",
    ".%00",
    ".%0d",
    ".\t",
    "..",
    "%2e%",
];
const SLASHES: &[&str] = &[
    "/",
    "//",
    "/./",
    "\\",
    "%2f",
    "%2F",
    "%5c",
    "%5C",
    "%252f",
    "%255c",
    "%c0%af",
    "%e0%80%af",
    "\u{2215}",
    "\u{ff0f}",
    "%EF%BC%8F",
    ";/",
    "/;/",
    "/;x=y/",
    "%00/",
    "%3b/",
    "?/",
    "#/",
    "%3f/",
    "%23/",
    "/%20/",
    "%09/",
    "%0a/",
];
const LETTERS: &[&str] =
    &["f", "%66", "%46", "F", "%2566", "\u{ff46}", "%EF%BD%86", "f%00", "%0af", "%u0066", "%c1%a6"];

fn corpus() -> BTreeSet<String> {
    let mut targets = BTreeSet::new();
    let urls: Vec<Value> = serde_json::from_str(URLS).expect("the test data");
    for url in &urls {
        for name in ["input", "pathname"] {
            let Some(text) = url[name].as_str() else { continue };
            targets.insert(text.to_owned());
            targets.insert(format!("/{text}"));
            targets.insert(format!("/public/{text}"));
            targets.insert(format!("/public/{text}/forbidden/x"));
            targets.insert(format!("/forbidden/{text}"));
        }
    }
    for slash in SLASHES {
        for first in DOTS {
            for second in [DOTS[0], first] {
                targets.insert(format!("/public{slash}{first}{second}{slash}forbidden/x"));
                targets.insert(format!("/public/{first}{second}{slash}forbidden{slash}x"));
            }
            targets.insert(format!("/{first}{slash}forbidden/x"));
            targets.insert(format!("{slash}{first}/forbidden/x"));
        }
        targets.insert(format!("{slash}forbidden/x"));
        targets.insert(format!("/{slash}forbidden/x"));
        targets.insert(format!("/forbidden{slash}x"));
        targets.insert(format!("/forbidden{slash}"));
        targets.insert(format!("http://x{slash}forbidden/x"));
    }
    for letter in LETTERS {
        targets.insert(format!("/{letter}orbidden/x"));
        targets.insert(format!("/{letter}orbidden"));
        targets.insert(format!("/public/../{letter}orbidden/x"));
        targets.insert(format!("http://x/{letter}orbidden/x"));
    }
    targets
}

/// A path as a file system would read it, for comparison: no slash at its end.
fn place(seen: &Seen) -> &str {
    match seen.resolved.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

fn is_forbidden(path: &str) -> bool {
    path == "/forbidden" || path.starts_with("/forbidden/")
}

#[tokio::test]
async fn every_server_resolves_a_request_to_the_path_that_policy_decided_on() {
    let Some(mut backends) = Backends::start(FORBIDDEN).await else { return };
    let (mut passed, mut refused, mut forbidden, mut failures) = (0, 0, 0, Vec::new());
    for target in corpus() {
        let message = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        // An absolute target names its own authority.
        let message = match target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
            Some(rest) => message.replacen(
                "Host: x",
                &format!("Host: {}", rest.split(['/', '?', '#', '\\']).next().unwrap_or_default()),
                1,
            ),
            None => message,
        };
        let answer = raw(&backends.pair.entry, message.as_bytes()).await;
        let seen = backends.pair.take().await;
        let [own] = &seen[..] else {
            assert!(seen.is_empty(), "{target:?}: {seen:?}");
            refused += 1;
            forbidden += usize::from(answer.starts_with(b"HTTP/1.1 403 "));
            if answer.starts_with(b"HTTP/1.1 2") {
                failures.push(format!("{target:?}: nobody saw it, and it was answered"));
            }
            continue;
        };
        passed += 1;
        if is_forbidden(place(own)) {
            failures.push(format!("{target:?}: it reached {:?}", own.resolved));
        }
        for backend in &backends.others {
            raw(&backend.entry, message.as_bytes()).await;
            for by_backend in backend.take().await {
                let (name, same) =
                    (backend.name, place(&by_backend) == place(own) && by_backend.target == own.target);
                if by_backend.error.is_some() || !same || is_forbidden(place(&by_backend)) {
                    failures.push(format!(
                        "{target:?}: policy saw {:?} for {:?}, {name} resolves {:?} to {:?} ({:?})",
                        own.resolved, own.target, by_backend.target, by_backend.resolved, by_backend.error
                    ));
                }
            }
        }
    }
    println!("{refused} refused ({forbidden} by policy), {passed} resolved alike by all");
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(passed > 500 && refused > 1000 && forbidden > 50, "{passed}, {refused}, {forbidden}");
    backends.mesh.assert_unharmed();
}
