//! What a request asks for: method, path, gRPC method.
//!
//! Everything here compares with what the wire crate made canonical: one spelling for one path. So a
//! template is written in that spelling too, and one that never could match is refused when it is read.

use std::fmt;
use std::str::FromStr;

use super::{Invalid, checked_text, serde_as_text};

checked_text!(
    /// An HTTP method. Methods are case-sensitive; every registered one is upper case.
    HttpMethod, "an HTTP method in upper case, as in `GET`",
    |text| (1..=32).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
);

/// `/v1/orders/{id}`: literal segments, `{name}` for exactly one segment that is not empty, and at the
/// end, if wanted, `{name=**}` for the rest, which may be empty (`/static/{rest=**}` takes `/static/` and
/// `/static/a/b`, not `/static`). No regular expressions. A final slash is significant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathTemplate {
    text: Box<str>,
    /// The literal text before the first capture, up to and with its slash: one comparison that settles
    /// most mismatches.
    prefix: Box<str>,
    /// What follows the prefix, segment by segment; `None` takes any one segment.
    segments: Box<[Option<Box<str>>]>,
    tail: bool,
}

const TEMPLATE: &str = "a path template: `/`, then segments that are literal or `{name}`, the last one possibly \
                        `{name=**}`, as in `/v1/orders/{id}`";

impl PathTemplate {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the canonical `path` (without query) is one of this template's. Allocates nothing.
    pub fn matches(&self, path: &str) -> bool {
        let Some(mut left) = path.strip_prefix(&*self.prefix) else { return false };
        let mut segments = self.segments.iter().peekable();
        if segments.peek().is_none() {
            return self.tail || left.is_empty();
        }
        while let Some(wanted) = segments.next() {
            let is_last = segments.peek().is_none() && !self.tail;
            let (segment, rest) = match left.split_once('/') {
                Some(_) if is_last => return false,
                Some(split) => split,
                None if is_last => (left, ""),
                None => return false,
            };
            let fits = match wanted {
                Some(literal) => **literal == *segment,
                None => !segment.is_empty(),
            };
            if !fits {
                return false;
            }
            left = rest;
        }
        true
    }
}

impl PathTemplate {
    /// Whether [`PathTemplate::matches`] would hold were the path's parameters (`;x=1` at the end of a
    /// segment) left out. Many servers leave them out, so whoever forbids looks at the path both ways.
    pub fn matches_without_parameters(&self, path: &str) -> bool {
        let mut wanted = self.text.split('/');
        let mut had = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
        loop {
            match (wanted.next(), had.next()) {
                (None, None) => return true,
                (Some(wanted), Some(_)) if self.tail && wanted.ends_with("=**}") => return true,
                (Some(wanted), Some(segment)) => {
                    let fits = if wanted.starts_with('{') { !segment.is_empty() } else { wanted == segment };
                    if !fits {
                        return false;
                    }
                }
                _ => return false,
            }
        }
    }
}

impl PathTemplate {
    /// The segment of a path of this template that the template calls `name`. None of what `{name=**}` takes, as that is
    /// no segment.
    pub fn segment<'p>(&self, name: &str, path: &'p str) -> Option<&'p str> {
        let is_it = |segment: &str| segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) == Some(name);
        self.text.split('/').zip(path.split('/')).find(|(wanted, _)| is_it(wanted)).map(|(_, had)| had)
    }

    /// Whether it calls a segment so.
    pub fn names_segment(&self, name: &str) -> bool {
        self.segment(name, &self.text).is_some()
    }
}

impl FromStr for PathTemplate {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<PathTemplate, Invalid> {
        let invalid = || Invalid::new(TEMPLATE, text);
        if text.len() > 1024 {
            return Err(Invalid::new("a path template of at most 1024 bytes", text));
        }
        let rest = text.strip_prefix('/').ok_or_else(invalid)?;
        let mut prefix = String::from("/");
        let mut segments = Vec::new();
        let mut captures: Vec<&str> = Vec::new();
        let mut tail = false;
        let mut left = rest.split('/').peekable();
        while let Some(segment) = left.next() {
            let is_last = left.peek().is_none();
            if let Some(capture) = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
                let name = match capture.strip_suffix("=**") {
                    Some(_) if !is_last => {
                        return Err(Invalid::new("`{name=**}` only as the last segment", text));
                    }
                    Some(name) => {
                        tail = true;
                        name
                    }
                    None => capture,
                };
                if !is_identifier(name) {
                    return Err(invalid());
                }
                if captures.contains(&name) {
                    return Err(Invalid::new("a name for each capture of its own", text));
                }
                captures.push(name);
                if !tail {
                    segments.push(None);
                }
                continue;
            }
            check_literal(segment, is_last, text)?;
            if captures.is_empty() {
                prefix.push_str(segment);
                if !is_last {
                    prefix.push('/');
                }
            } else {
                segments.push(Some(segment.into()));
            }
        }
        Ok(PathTemplate { text: text.into(), prefix: prefix.into(), segments: segments.into(), tail })
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
serde_as_text!(PathTemplate, TEMPLATE);

/// `/shop`: takes `/shop` and everything under `/shop/`, never `/shopping`. `/` takes every path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPrefix(Box<str>);

const PREFIX: &str = "a path prefix that begins with `/` and has no empty segment, as in `/` or `/shop`";

checked_text!(
    /// The name of a gRPC service with its package, or of a method.
    GrpcName, "the name of a gRPC service or method, as in `shop.v1.Orders` or `List`",
    |text| text.len() <= 512 && text.split('.').all(is_identifier)
);

impl PathPrefix {
    /// `/`
    pub fn root() -> PathPrefix {
        PathPrefix("/".into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the canonical `path` (without query) lies under this prefix.
    pub fn matches(&self, path: &str) -> bool {
        match path.strip_prefix(&*self.0) {
            Some(rest) => rest.is_empty() || self.0.ends_with('/') || rest.starts_with('/'),
            None => false,
        }
    }
}

impl FromStr for PathPrefix {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<PathPrefix, Invalid> {
        let rest = text.strip_prefix('/').ok_or_else(|| Invalid::new(PREFIX, text))?;
        if text.len() > 1024 {
            return Err(Invalid::new("a path prefix of at most 1024 bytes", text));
        }
        let mut left = rest.split('/').peekable();
        while let Some(segment) = left.next() {
            check_literal(segment, left.peek().is_none(), text)?;
        }
        Ok(PathPrefix(text.into()))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
serde_as_text!(PathPrefix, PREFIX);

/// A literal segment in canonical spelling (RFC 3986, section 3.3 and 6.2.2), without the stars that
/// other systems use as wildcards: taken literally they would quietly match nothing.
fn check_literal(segment: &str, is_last: bool, whole: &str) -> Result<(), Invalid> {
    if segment.is_empty() && !is_last {
        return Err(Invalid::new("a path without empty segments (`//`)", whole));
    }
    if segment == "." || segment == ".." {
        return Err(Invalid::new("a path without `.` and `..` segments, which no canonical path has", whole));
    }
    if segment.contains('*') {
        return Err(Invalid::new(
            "`{name}` for one segment or `{name=**}` for the rest, and no other wildcard",
            whole,
        ));
    }
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let is_right = match byte {
            b'%' => {
                let digits = (bytes.next().and_then(hex), bytes.next().and_then(hex));
                let (Some(high), Some(low)) = digits else {
                    return Err(Invalid::new("`%` followed by two hexadecimal digits in upper case", whole));
                };
                let value = high.wrapping_mul(16) | low;
                // No canonical path has these, plain or encoded: servers disagree about them.
                !is_unreserved(value) && !matches!(value, b'/' | b'\\' | 0..=0x1f | 0x7f)
            }
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'+' | b',' | b';' | b'=' | b':' | b'@' => true,
            _ => is_unreserved(byte),
        };
        if !is_right {
            return Err(Invalid::new(
                "a path in canonical spelling: letters, digits and -._~ as they are, other bytes as %XX, no encoded slash, \
                 backslash or control character, no `{` or `}` inside a segment",
                whole,
            ));
        }
    }
    Ok(())
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => digit.checked_sub(b'0'),
        b'A'..=b'F' => digit.checked_sub(b'A').and_then(|d| d.checked_add(10)),
        _ => None,
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn is_identifier(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `pkg.Service/Method`, or `pkg.Service/*` for every method of the service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrpcPattern {
    text: Box<str>,
    /// The length of `pkg.Service/`.
    service_end: usize,
    any_method: bool,
}

const GRPC: &str = "`package.Service/Method` or `package.Service/*`, as in `shop.v1.Orders/List`";

impl GrpcPattern {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `method` is `pkg.Service/Method`: the request's path without its first slash.
    pub fn matches(&self, method: &str) -> bool {
        if !self.any_method {
            return method == &*self.text;
        }
        match (
            self.text.get(..self.service_end),
            method.get(..self.service_end),
            method.get(self.service_end..),
        ) {
            (Some(wanted), Some(service), Some(name)) => {
                wanted == service && !name.is_empty() && !name.contains('/')
            }
            _ => false,
        }
    }
}

impl FromStr for GrpcPattern {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<GrpcPattern, Invalid> {
        let invalid = || Invalid::new(GRPC, text);
        let (service, method) = text.split_once('/').ok_or_else(invalid)?;
        let any_method = method == "*";
        let is_right = text.len() <= 512
            && service.split('.').all(is_identifier)
            && (any_method || is_identifier(method));
        if !is_right {
            return Err(invalid());
        }
        let service_end = service.len().saturating_add(1);
        Ok(GrpcPattern { text: text.into(), service_end, any_method })
    }
}

impl fmt::Display for GrpcPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
serde_as_text!(GrpcPattern, GRPC);
