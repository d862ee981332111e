//! `x-forwarded-client-cert` in Envoy's grammar: elements separated by `,`, each `Key=value` pairs separated by `;`.
//! A value with `,`, `;`, `=` or `"` is quoted, and `"` and `\` inside quotes are escaped by a backslash, so that no name in a
//! certificate can forge another pair or element.

use std::fmt::Write as _;

/// Most elements and pairs that are read; the header comes from the mesh, but its limits hold all the same.
const MAX_ELEMENTS: usize = 16;
const MAX_PAIRS: usize = 64;

/// One hop's client certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// URI names of the proxy's own certificate.
    pub by: Vec<String>,
    /// SHA-256 of the client certificate, lower-case hexadecimal.
    pub hash: Option<String>,
    /// The certificate, URL-encoded PEM.
    pub cert: Option<String>,
    /// The chain, URL-encoded PEM.
    pub chain: Option<String>,
    /// The subject, RFC 2253.
    pub subject: Option<String>,
    /// URI names of the client certificate.
    pub uri: Vec<String>,
    /// DNS names of the client certificate.
    pub dns: Vec<String>,
}

/// Why a header is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XfccError {
    #[error("it is not text")]
    NotText,
    #[error("expected `Key=value`")]
    Pair,
    #[error("the key is not one of By, Hash, Cert, Chain, Subject, URI, DNS")]
    Key,
    #[error("a key that may stand once stands twice in an element")]
    Repeated,
    #[error("a quote is not closed, or something follows it")]
    Quote,
    #[error("it has more elements or pairs than the limit")]
    TooMany,
}

impl Element {
    /// Appends the element to `out`, as one element of a list (the caller puts `,` between elements).
    pub fn write(&self, out: &mut String) {
        let mut first = true;
        let mut pair = |key: &str, value: &str, always_quoted: bool| {
            if !std::mem::take(&mut first) {
                out.push(';');
            }
            let _ = write!(out, "{key}=");
            put_value(value, always_quoted, out);
        };
        self.by.iter().for_each(|by| pair("By", by, false));
        self.hash.iter().for_each(|hash| pair("Hash", hash, false));
        self.cert.iter().for_each(|cert| pair("Cert", cert, true));
        self.chain.iter().for_each(|chain| pair("Chain", chain, true));
        self.subject.iter().for_each(|subject| pair("Subject", subject, true));
        self.uri.iter().for_each(|uri| pair("URI", uri, false));
        self.dns.iter().for_each(|dns| pair("DNS", dns, false));
    }
}

/// The element as a header value of its own.
impl std::fmt::Display for Element {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        f.write_str(&text)
    }
}

fn put_value(value: &str, always_quoted: bool, out: &mut String) {
    let special = |c: char| matches!(c, ',' | ';' | '=' | '"' | '\\') || c.is_ascii_whitespace();
    if !always_quoted && !value.is_empty() && !value.contains(special) && !value.contains(char::is_control) {
        out.push_str(value);
        return;
    }
    out.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // A header value has no room for controls, and no name in a certificate needs them.
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Reads a header value, nearest hop last.
pub fn parse(value: &[u8]) -> Result<Vec<Element>, XfccError> {
    let text = std::str::from_utf8(value).map_err(|_| XfccError::NotText)?;
    let mut rest = text.chars().peekable();
    let mut elements = Vec::new();
    let mut element = Element::default();
    let mut pairs = 0usize;
    loop {
        let key = read_key(&mut rest)?;
        let value = read_value(&mut rest)?;
        pairs = pairs.saturating_add(1);
        if pairs > MAX_PAIRS {
            return Err(XfccError::TooMany);
        }
        store(&mut element, &key, value)?;
        match rest.next() {
            Some(';') => {}
            end => {
                elements.push(std::mem::take(&mut element));
                if elements.len() > MAX_ELEMENTS {
                    return Err(XfccError::TooMany);
                }
                match end {
                    None => return Ok(elements),
                    Some(',') => while rest.next_if(|c| matches!(c, ' ' | '\t')).is_some() {},
                    Some(_) => return Err(XfccError::Quote),
                }
            }
        }
    }
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn read_key(rest: &mut Chars<'_>) -> Result<String, XfccError> {
    let mut key = String::new();
    while let Some(c) = rest.next_if(|c| c.is_ascii_alphabetic()) {
        key.push(c.to_ascii_lowercase());
    }
    match rest.next() {
        Some('=') => Ok(key),
        _ => Err(XfccError::Pair),
    }
}

fn read_value(rest: &mut Chars<'_>) -> Result<String, XfccError> {
    let mut value = String::new();
    if rest.next_if_eq(&'"').is_none() {
        while let Some(c) = rest.next_if(|c| !matches!(c, ',' | ';' | '"')) {
            value.push(c);
        }
        return Ok(value);
    }
    loop {
        match rest.next() {
            Some('"') => return Ok(value),
            Some('\\') => value.push(rest.next().ok_or(XfccError::Quote)?),
            Some(c) => value.push(c),
            None => return Err(XfccError::Quote),
        }
    }
}

fn store(element: &mut Element, key: &str, value: String) -> Result<(), XfccError> {
    let once = match key {
        "by" => return many(&mut element.by, value),
        "uri" => return many(&mut element.uri, value),
        "dns" => return many(&mut element.dns, value),
        "hash" => &mut element.hash,
        "cert" => &mut element.cert,
        "chain" => &mut element.chain,
        "subject" => &mut element.subject,
        _ => return Err(XfccError::Key),
    };
    match once.replace(value) {
        None => Ok(()),
        Some(_) => Err(XfccError::Repeated),
    }
}

/// Envoy writes an empty value for a certificate without names of that kind.
fn many(list: &mut Vec<String>, value: String) -> Result<(), XfccError> {
    if !value.is_empty() {
        list.push(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn envoys_own_examples_are_read() {
        let value = b"By=http://frontend.lyft.com;Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688;\
            Subject=\"/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client\";URI=http://testclient.lyft.com,\
            By=http://backend.lyft.com;Hash=9ba61d6425303443c0748a02dd8de688468ed33be74eee6556d90c0149c1309e;\
            URI=http://frontend.lyft.com;DNS=lyft.com;DNS=www.lyft.com";
        let elements = parse(value).unwrap();
        assert_eq!(elements.len(), 2);
        assert_eq!(
            elements[0].subject.as_deref(),
            Some("/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client")
        );
        assert_eq!(elements[0].uri, ["http://testclient.lyft.com"]);
        assert_eq!(elements[1].dns, ["lyft.com", "www.lyft.com"]);
    }

    #[test]
    fn a_name_cannot_forge_a_pair_or_an_element() {
        let element = Element {
            uri: vec!["spiffe://td/x\",URI=spiffe://td/admin;By=\"".into()],
            subject: Some("CN=a\",URI=spiffe://td/admin,Subject=\"".into()),
            ..Element::default()
        };
        assert_eq!(parse(element.to_string().as_bytes()).unwrap(), [element]);
    }

    #[test]
    fn what_is_not_the_grammar_is_refused() {
        for (text, error) in [
            (&b""[..], XfccError::Pair),
            (b"Hash", XfccError::Pair),
            (b"Hash=a;", XfccError::Pair),
            (b"Hash=a;Hash=b", XfccError::Repeated),
            (b"Role=admin", XfccError::Key),
            (b"Subject=\"a", XfccError::Quote),
            (b"Subject=\"a\"b", XfccError::Quote),
            (b"Subject=\"a\\", XfccError::Quote),
            (b"URI=\xff", XfccError::NotText),
        ] {
            assert_eq!(parse(text), Err(error), "{}", String::from_utf8_lossy(text));
        }
        let many = vec!["URI=a"; MAX_ELEMENTS + 1].join(",");
        assert_eq!(parse(many.as_bytes()), Err(XfccError::TooMany));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(uri in "[ -~]{1,40}", subject in "[ -~]{0,40}", dns in proptest::collection::vec("[a-z.\",;=]{1,20}", 0..4)) {
            let element = Element { uri: vec![uri], subject: Some(subject), dns, ..Element::default() };
            let two = format!("{element},{element}");
            prop_assert_eq!(parse(two.as_bytes()).unwrap(), vec![element.clone(), element]);
        }

        #[test]
        fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
