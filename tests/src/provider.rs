//! The OpenID provider of `tests/interop/provider.mjs`, and a person at a browser without a screen.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use bytes::Bytes;
use hyper::Response;

use crate::client::{header, send, text};
use crate::peers::{node_modules, root};

/// The provider as a process that ends with the test.
pub struct Provider {
    pub address: String,
    child: Child,
    // It warns there of being a test, and would end if nobody could hear it.
    _out: BufReader<ChildStdout>,
}

impl Provider {
    /// Starts it; nothing where it is not installed.
    pub fn start() -> Option<Self> {
        let folder = node_modules()?;
        // Node resolves packages from where the script stands.
        let script = folder.join("provider.mjs");
        std::fs::copy(root().join("tests/interop/provider.mjs"), &script).expect("the script");
        let mut child = Command::new("node")
            .arg(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("node");
        let mut port = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("its standard output"));
        out.read_line(&mut port).expect("its port");
        Some(Self { address: format!("127.0.0.1:{}", port.trim()), child, _out: out })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Follows links, keeps cookies, and fills in every form with one person's name.
pub struct Browser {
    person: &'static str,
    cookies: BTreeMap<String, String>,
}

/// More steps than any login has.
const STEPS: usize = 30;

impl Browser {
    #[must_use]
    pub fn of(person: &'static str) -> Self {
        Self { person, cookies: BTreeMap::new() }
    }

    /// Opens an address and goes on until there is nothing left to fill in; the last page.
    pub async fn open(&mut self, url: &str) -> Response<Bytes> {
        let mut step = ("GET", url.to_owned(), String::new());
        for _ in 0..STEPS {
            let answer = self.request(step.0, &step.1, step.2).await;
            if answer.status().is_redirection() {
                step = ("GET", absolute(&step.1, header(&answer, "location")), String::new());
                continue;
            }
            let page = text(&answer);
            let Some(form) = between(&page, "<form", "</form>") else { return answer };
            let action = attribute(form, "action").expect("a form's action");
            step = ("POST", absolute(&step.1, &action), self.fill_in(form));
        }
        panic!("the login went on for {STEPS} steps");
    }

    fn fill_in(&self, form: &str) -> String {
        let fields = form.split("<input").skip(1).filter_map(|input| {
            let input = input.split('>').next()?;
            let name = attribute(input, "name")?;
            let value = match name.as_str() {
                "login" => self.person.to_owned(),
                "password" => "of a test".to_owned(),
                _ => attribute(input, "value").unwrap_or_default(),
            };
            Some(format!("{name}={}", encoded(&value)))
        });
        fields.collect::<Vec<_>>().join("&")
    }

    async fn request(&mut self, method: &str, url: &str, body: String) -> Response<Bytes> {
        let rest = url.strip_prefix("http://").expect("an http address");
        let (address, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let headers = [("cookie", cookies.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        let answer = send(method, address, path, &headers, body).await;
        for set in answer.headers().get_all("set-cookie") {
            let pair = set.to_str().expect("a cookie").split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }
}

fn absolute(base: &str, link: &str) -> String {
    if link.starts_with("http://") {
        return link.to_owned();
    }
    let host = base.find("://").map_or(0, |at| at + 3);
    let end = base[host..].find('/').map_or(base.len(), |at| host + at);
    format!("{}{link}", &base[..end])
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    let start = text.find(from)?;
    let end = text[start..].find(to)?;
    Some(&text[start..start + end])
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let value = tag.split(&format!(" {name}=\"")).nth(1)?.split('"').next()?;
    Some(value.replace("&amp;", "&").replace("&#x3D;", "=").replace("&#x2F;", "/"))
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}
