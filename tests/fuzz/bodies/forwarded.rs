//! The header that names the calling workload: no value panics its reader, what is read is written so that it reads the
//! same, and no name in it forges a pair or an element.

use signet_wire::xfcc::{Element, parse};

pub(crate) fn body(bytes: &[u8]) {
    if let Ok(mut elements) = parse(bytes) {
        // One that says nothing is not written.
        elements.retain(|element| *element != Element::default());
        let text = elements.iter().map(Element::to_string).collect::<Vec<_>>().join(",");
        let clean = |text: &String| text.chars().all(|c| !c.is_control());
        if elements.iter().flat_map(values).all(|value| clean(&value)) && !elements.is_empty() {
            assert_eq!(parse(text.as_bytes()).as_ref(), Ok(&elements), "{text}");
        }
    }
    // Whoever chooses the names of a certificate chooses no more than them.
    let name = String::from_utf8_lossy(bytes).into_owned();
    let forged = Element {
        by: vec!["spiffe://demo.signet/ns/shop/sa/orders".into()],
        subject: Some(name.clone()),
        uri: vec![name.clone()],
        dns: vec![name],
        ..Element::default()
    };
    let text = forged.to_string();
    // What is empty is read as not there.
    let names = usize::from(!bytes.is_empty());
    assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
    let read = parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(read.len(), 1, "{text:?}");
    assert_eq!((&read[0].by, read[0].uri.len(), read[0].dns.len()), (&forged.by, names, names), "{text:?}");
    assert_eq!((&read[0].hash, &read[0].cert, &read[0].chain), (&None, &None, &None), "{text:?}");
}

fn values(element: &Element) -> Vec<String> {
    let single = [&element.hash, &element.cert, &element.chain, &element.subject];
    let lists = [&element.by, &element.uri, &element.dns];
    single.into_iter().flatten().chain(lists.into_iter().flatten()).cloned().collect()
}
