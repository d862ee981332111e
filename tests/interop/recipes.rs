//! What docs/user-context.md tells app developers is run as it stands there, against the double that it tells them of.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;
use signet_tests::client::{get, text};
use signet_tests::mesh::free_address;
use signet_tests::peers::{node_modules, python, root, run, said, tool};
use signet_tests::process::{Process, binary, until};

const DOMAIN: &str = "example.com";

/// The block in this language after these words of the page, with the port of this test in the place of the usual one.
fn recipe(after: &str, language: &str, at: &str) -> String {
    let page = fs::read_to_string(root().join("docs/user-context.md")).expect("the page");
    let (_, rest) = page.split_once(after).unwrap_or_else(|| panic!("the page no longer says {after:?}"));
    let (_, block) = rest.split_once(&format!("```{language}\n")).expect("the block");
    block.split("```").next().expect("its end").replace("127.0.0.1:15021", at)
}

/// The double, and the folder that it lives in.
struct Double(#[allow(dead_code)] Process, String, tempfile::TempDir);

async fn double() -> Double {
    let at = free_address();
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary("signet"));
    command.args(["dev", "user", "--sub", "alice", "--scope", "orders:read", "--trust-domain", DOMAIN]);
    command.args(["--claims", r#"{"email":"alice@example.com"}"#, "--serve", &at]);
    let process = Process::start("double", command, folder.path());
    until("the double", || std::net::TcpStream::connect(&at).ok()).await;
    Double(process, at, folder)
}

impl Double {
    async fn headers(&self) -> Value {
        let answer = get(&self.1, "/headers", &[]).await;
        assert_eq!(answer.status(), 200);
        serde_json::from_str(&text(&answer)).unwrap()
    }
}

#[tokio::test]
async fn the_double_prints_what_a_sidecar_would_set_and_nothing_else_is_served() {
    let mut command = Command::new(binary("signet"));
    command.args([
        "--json",
        "dev",
        "user",
        "--sub",
        "alice",
        "--scope",
        "a",
        "--scope",
        "b",
        "--claims",
        r#"{"groups":["x"]}"#,
    ]);
    let output = run(command).await;
    assert!(output.status.success(), "{}", said(&output));
    let headers: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(headers["Txn-Token"].as_str().unwrap().starts_with("eyJ"));
    let xfcc = headers["X-Forwarded-Client-Cert"].as_str().unwrap();
    assert!(xfcc.starts_with("By=spiffe://dev.signet/ns/dev/sa/app;Hash="), "{xfcc}");
    for (arguments, message) in [
        (vec!["--sub", "a", "--claims", "[]"], "--claims: expected a JSON object"),
        (vec!["--sub", "a", "--caller", "alice bob"], "--caller: expected ns/<namespace>/sa/<account>"),
        (vec!["--sub", "a", "--serve", "0.0.0.0:0"], "expected a loopback address for --serve"),
    ] {
        let mut command = Command::new(binary("signet"));
        command.args(["dev", "user"]).args(&arguments);
        let output = run(command).await;
        assert!(
            !output.status.success() && said(&output).contains(message),
            "{arguments:?}: {}",
            said(&output)
        );
    }
    let double = double().await;
    assert_eq!(get(&double.1, "/anything", &[]).await.status(), 404);
}

#[tokio::test]
async fn the_recipes_in_python_forward_and_verify() {
    let Some(python) = python() else { return };
    let double = double().await;
    let headers = double.headers().await;
    let script = format!(
        r#"
import base64, json, jwt, sys
from types import SimpleNamespace as Of
token, header = sys.argv[1], sys.argv[2]
sent = []
flask = Of(request=Of(headers={{"Txn-Token": token}}))
requests = Of(get=lambda url, headers: sent.append(headers))
{forward}
flask.request.headers = {{}}
requests.get("again", headers=context())
assert sent == [{{"Txn-Token": token}}, {{}}], sent
{read}
assert user["sub"] == "dev|alice" and user["claims"]["email"] == "alice@example.com", user
{verify}
assert verify(token)["sub"] == "dev|alice"
head, body, signature = token.split(".")
forged = base64.urlsafe_b64encode(b'{{"sub":"dev|bob","aud":"example.com","exp":9999999999}}').rstrip(b"=").decode()
for bad in [f"{{head}}.{{forged}}.{{signature}}", token[:-4] + "AAAA"]:
    try:
        assert verify(bad) is None
        sys.exit("a forged token was taken")
    except jwt.InvalidTokenError:
        pass
print("ok")
"#,
        forward = recipe("## Forward it", "python", &double.1),
        read = recipe("## What your app sees", "python", &double.1),
        verify = recipe("## Verify it", "python", &double.1),
    );
    let file = double.2.path().join("recipe.py");
    fs::write(&file, script).unwrap();
    let mut command = Command::new(python);
    command
        .arg(&file)
        .arg(headers["Txn-Token"].as_str().unwrap())
        .arg(headers["Signet-User"].as_str().unwrap());
    let output = run(command).await;
    assert!(output.status.success() && said(&output).contains("ok"), "{}", said(&output));
}

#[tokio::test]
async fn the_recipes_in_node_forward_and_verify() {
    let (Some(node), Some(modules)) = (tool("node"), node_modules()) else { return };
    let double = double().await;
    let headers = double.headers().await;
    let forward = recipe("## Forward it", "js", &double.1);
    let forward = forward.split("await fetch").next().unwrap().to_owned();
    let script = format!(
        r#"
import {{ createRemoteJWKSet, jwtVerify }} from '{modules}/node_modules/jose/dist/webapi/index.js';
import assert from 'node:assert';
const token = process.argv[2];
{forward}
assert.deepEqual(context({{ headers: {{ 'txn-token': token }} }}), {{ 'txn-token': token }});
assert.deepEqual(context({{ headers: {{}} }}), {{}});
{verify}
assert.equal((await verify(token)).sub, 'dev|alice');
const [head, , signature] = token.split('.');
const forged = Buffer.from('{{"sub":"dev|bob","aud":"example.com","exp":9999999999}}').toString('base64url');
await assert.rejects(verify(`${{head}}.${{forged}}.${{signature}}`));
console.log('ok');
"#,
        modules = modules.display(),
        verify = recipe("## Verify it", "js", &double.1),
    );
    let file = double.2.path().join("recipe.mjs");
    fs::write(&file, script).unwrap();
    let mut command = Command::new(node);
    command.arg(&file).arg(headers["Txn-Token"].as_str().unwrap()).stdin(Stdio::null());
    let output = run(command).await;
    assert!(output.status.success() && said(&output).contains("ok"), "{}", said(&output));
}

mod forward {
    //! The recipe in Rust, as it stands on the page: `the_recipe_in_rust_forwards` compares the text.

    pub(super) fn forward(incoming: &http::HeaderMap, outgoing: &mut http::HeaderMap) {
        if let Some(token) = incoming.get("txn-token") {
            outgoing.insert("txn-token", token.clone());
        }
    }
}

#[test]
fn the_recipe_in_rust_forwards() {
    let page = recipe("## Forward it", "rust", "127.0.0.1:15021");
    let own = include_str!("recipes.rs");
    let (_, run) = own.split_once("pub(super) fn forward").expect("the copy");
    let (run, _) = run.split_once("\n    }\n}").expect("its end");
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(flat(&page), flat(&format!("fn forward{run}\n }}")));
    let (mut incoming, mut outgoing) = (http::HeaderMap::new(), http::HeaderMap::new());
    forward::forward(&incoming, &mut outgoing);
    assert!(outgoing.is_empty());
    incoming.insert("txn-token", http::HeaderValue::from_static("t"));
    forward::forward(&incoming, &mut outgoing);
    assert_eq!(outgoing["txn-token"], "t");
}
