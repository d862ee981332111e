//! The lines of an app's metrics, read as Prometheus will read them.
//!
//! Prometheus takes a page whole or not at all: one line that it cannot read, and our own metrics would be lost with the
//! app's. So every line is read here first, by rules that are no wider than its own, and written anew in one way. A page
//! with a line that is none is left out whole, because nobody knows what else is wrong with it.

use std::collections::HashSet;

use super::Format;

/// Whose names nobody else has.
const OURS: &str = "signet_";
/// Types of the text format, and of OpenMetrics beside them.
const TYPES: [&str; 4] = ["counter", "gauge", "histogram", "summary"];
const MORE_TYPES: [&str; 4] = ["gaugehistogram", "stateset", "info", "unknown"];
/// More than a line that means something needs: what an app says costs its sidecar little to read.
const MOST_LABELS: usize = 64;
const LINE_BYTES: usize = 64 * 1024;

/// What Prometheus can read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sound {
    /// Whole lines, without the `# EOF` of OpenMetrics.
    pub(super) text: String,
    /// How many lines had a name of ours.
    pub(super) dropped: u64,
}

/// Why an app's page is left out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: expected {expected}, got {got:?}")]
pub(super) struct Malformed {
    pub(super) line: usize,
    pub(super) expected: &'static str,
    pub(super) got: String,
}

/// Reads a whole page.
pub(super) fn sound(page: &[u8], format: Format) -> Result<Sound, Malformed> {
    let cut = |text: &str| text.chars().take(100).collect();
    let page = std::str::from_utf8(page).map_err(|error| {
        let before = page.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count().saturating_add(1);
        Malformed { line, expected: "UTF-8", got: String::new() }
    })?;
    let mut sound = Sound { text: String::with_capacity(page.len()), dropped: 0 };
    for (at, line) in page.split('\n').enumerate() {
        // Prometheus ends at a zero byte, and takes spaces and tabs for nothing.
        let trimmed = line.trim_matches([' ', '\t']);
        match read(trimmed, format) {
            Ok(Line::Nothing) => {}
            Ok(Line::Kept(name, _) | Line::Said { name, .. }) if name.starts_with(OURS) => {
                sound.dropped = sound.dropped.saturating_add(1);
            }
            Ok(Line::Kept(_, sample)) => {
                sound.text += sample;
                sound.text.push('\n');
            }
            Ok(Line::Said { what, name, words }) => {
                sound.text += &format!("# {what} {name} {words}\n");
            }
            Err(expected) => {
                return Err(Malformed { line: at.saturating_add(1), expected, got: cut(trimmed) });
            }
        }
    }
    Ok(sound)
}

enum Line<'a> {
    /// Empty, a remark, or the end.
    Nothing,
    /// A sample: its name, and the line.
    Kept(&'a str, &'a str),
    /// `HELP` or `TYPE` of a family.
    Said { what: &'static str, name: &'a str, words: &'a str },
}

fn read(line: &str, format: Format) -> Result<Line<'_>, &'static str> {
    if line.len() > LINE_BYTES {
        return Err("a line of at most 64 KiB");
    }
    if line.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err("no control characters");
    }
    match line.strip_prefix('#') {
        _ if line.is_empty() => Ok(Line::Nothing),
        Some(said) => remark(said, format),
        None => {
            let (name, rest) = name(line, true).ok_or("the name of a metric")?;
            sample(rest, format)?;
            Ok(Line::Kept(name, line))
        }
    }
}

fn remark(said: &str, format: Format) -> Result<Line<'_>, &'static str> {
    let said = said.trim_start_matches([' ', '\t']);
    let (what, rest) = said.split_once([' ', '\t']).unwrap_or((said, ""));
    let what = match what {
        "HELP" => "HELP",
        "TYPE" => "TYPE",
        // Where a unit must fit the name, and nobody shows it.
        _ => return Ok(Line::Nothing),
    };
    let (name, words) = name(rest.trim_start_matches([' ', '\t']), true).ok_or("the name of a metric")?;
    let words = words.trim_start_matches([' ', '\t']);
    if what == "TYPE" {
        let known = TYPES.contains(&words)
            || match format {
                Format::Text => words == "untyped",
                Format::OpenMetrics => MORE_TYPES.contains(&words),
            };
        return if known { Ok(Line::Said { what, name, words }) } else { Err("a type of metrics") };
    }
    // Nothing said is no help.
    if words.is_empty() { Ok(Line::Nothing) } else { Ok(Line::Said { what, name, words }) }
}

/// A name, and what follows it.
fn name(text: &str, colons: bool) -> Option<(&str, &str)> {
    let fits = |(at, c): (usize, char)| {
        c == '_' || (colons && c == ':') || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit())
    };
    let end = text.char_indices().find(|here| !fits(*here)).map_or(text.len(), |(at, _)| at);
    text.split_at_checked(end).filter(|(name, _)| !name.is_empty())
}

/// Labels, a value, perhaps a timestamp, perhaps an exemplar.
fn sample(rest: &str, format: Format) -> Result<(), &'static str> {
    let rest = match spaced(rest, format).strip_prefix('{') {
        Some(inner) => labels(inner, format)?,
        None => rest,
    };
    match (format, rest.split_once(" # {")) {
        (Format::OpenMetrics, Some((rest, exemplar))) => {
            numbers(rest, format)?;
            numbers(labels(exemplar, format)?, format)
        }
        _ => numbers(rest, format),
    }
}

/// Without leading space, where the format takes any.
fn spaced(text: &str, format: Format) -> &str {
    match format {
        Format::Text => text.trim_start_matches([' ', '\t']),
        Format::OpenMetrics => text,
    }
}

/// A value and perhaps a timestamp. OpenMetrics has one space before each, and nothing behind them.
fn numbers(text: &str, format: Format) -> Result<(), &'static str> {
    const VALUE: &str = "a value, and perhaps a timestamp";
    let words: Vec<&str> = match format {
        Format::Text => text.split([' ', '\t']).filter(|word| !word.is_empty()).collect(),
        Format::OpenMetrics => text.strip_prefix(' ').ok_or(VALUE)?.split(' ').collect(),
    };
    let is_timestamp = |at: &str| match format {
        // Its milliseconds have no sign.
        Format::Text => at.bytes().all(|byte| byte.is_ascii_digit()) && at.parse::<i64>().is_ok(),
        Format::OpenMetrics => is_number(at) && at.parse::<f64>().is_ok_and(f64::is_finite),
    };
    match words.as_slice() {
        [value] if is_number(value) => Ok(()),
        [value, at] if is_number(value) && is_timestamp(at) => Ok(()),
        _ => Err(VALUE),
    }
}

/// What both Prometheus and we read as the same number: decimal, or one of the words.
fn is_number(text: &str) -> bool {
    let word = text.strip_prefix(['+', '-']).unwrap_or(text);
    if ["inf", "nan"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
        // A NaN has no sign.
        return word.len() == text.len() || !word.eq_ignore_ascii_case("nan");
    }
    let plain = word.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    // Beyond what a number can be, Prometheus reads none.
    plain && text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Behind the opening brace; gives back what follows the closing one.
fn labels(text: &str, format: Format) -> Result<&str, &'static str> {
    const LABELS: &str = "labels, each once, as in {code=\"200\"}";
    let mut rest = spaced(text, format);
    let mut seen: HashSet<&str> = HashSet::new();
    if let Some(after) = rest.strip_prefix('}') {
        return Ok(after);
    }
    loop {
        let (label, after) = name(rest, false).ok_or(LABELS)?;
        // The metric's own name is one, too, and Prometheus takes none twice.
        if label == "__name__" || !seen.insert(label) {
            return Err(LABELS);
        }
        if seen.len() > MOST_LABELS {
            return Err("at most 64 labels");
        }
        let after = spaced(after, format).strip_prefix('=').ok_or(LABELS)?;
        let after = spaced(after, format).strip_prefix('"').ok_or(LABELS)?;
        let after = spaced(behind_quote(after).ok_or(LABELS)?, format);
        if let Some(after) = after.strip_prefix('}') {
            return Ok(after);
        }
        rest = spaced(after.strip_prefix(',').ok_or(LABELS)?, format);
        // The text format takes a comma behind the last one.
        if let (Format::Text, Some(after)) = (format, rest.strip_prefix('}')) {
            return Ok(after);
        }
    }
}

/// Behind the quote that ends this text.
fn behind_quote(text: &str) -> Option<&str> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return text.get(at..)?.strip_prefix('"'),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(page: &str) -> Result<Sound, Malformed> {
        sound(page.as_bytes(), Format::Text)
    }

    fn openmetrics(page: &str) -> Result<Sound, Malformed> {
        sound(page.as_bytes(), Format::OpenMetrics)
    }

    #[test]
    fn a_page_as_clients_write_it_stays_as_it_is() {
        let page = "# HELP http_requests_total The total.\n# TYPE http_requests_total counter\n\
                    http_requests_total{method=\"post\",code=\"200\"} 1027 1395066363000\n\
                    http_requests_total{path=\"C:\\\\DIR\\n\\\"x\\\"\"} 1.458255915e9\n\
                    something_weird{problem=\"division by zero\"} +Inf 3982045\nmetric_without 12.47\nnan NaN\n";
        assert_eq!(text(page), Ok(Sound { text: page.into(), dropped: 0 }));
        let page = "# TYPE foo counter\n# HELP foo Words.\nfoo_total{a=\"b\"} 17.0 1520879607.789 # {id=\"x\"} 0.67 1.5\n\
                    foo_created 1520430000.123\n# TYPE bar stateset\nbar{bar=\"a\"} 1\n";
        assert_eq!(openmetrics(&format!("{page}# EOF\n")), Ok(Sound { text: page.into(), dropped: 0 }));
    }

    #[test]
    fn what_means_nothing_is_left_out_and_spaces_with_it() {
        let page = "# a remark\n\n  a_total { x = \"y\" , } 1  \n#HELP b\n# UNIT a seconds\n# TYPE   c\tgauge\n# EOF\n";
        let kept = "a_total { x = \"y\" , } 1\n# TYPE c gauge\n";
        assert_eq!(text(page), Ok(Sound { text: kept.into(), dropped: 0 }));
    }

    #[test]
    fn an_app_does_not_speak_for_its_sidecar() {
        for own in [
            "signet_ready 1",
            "\t signet_ready{a=\"b\"} 1",
            "# HELP signet_ready Lies.",
            "#\tTYPE  signet_ready gauge",
            "signet_ 0",
        ] {
            let page = format!("a 1\n{own}\nb 2\n");
            assert_eq!(text(&page), Ok(Sound { text: "a 1\nb 2\n".into(), dropped: 1 }), "{own}");
        }
    }

    #[test]
    fn one_line_that_nobody_can_read_leaves_out_the_page() {
        for line in [
            "a",
            "a one",
            "a 1 2 3",
            "a 1 1.5",
            "a 1 -1",
            "a 1 +1",
            "a 0x1p4",
            "a 1_000",
            "a 1e999",
            "a -nan",
            "a{b} 1",
            "a{b=\"c} 1",
            "a{b=\"c\" d=\"e\"} 1",
            "a{b=\"c\",b=\"d\"} 1",
            "a{__name__=\"signet_ready\"} 1",
            "{\"signet_ready\"} 1",
            "{a=\"b\"} 1",
            "a{b=\"c\nsignet_ready 1\n\"} 1",
            "1a 1",
            "a\u{0} 1",
            "a 1\r",
            "# TYPE a thing",
            "# TYPE a stateset",
            "# HELP 1 x",
            "é 1",
        ] {
            let refused = text(&format!("ok 1\n{line}\n"));
            assert!(refused.is_err(), "{line:?}: {refused:?}");
        }
        for line in [
            "a  1",
            "a 1  2",
            "a{ b=\"c\"} 1",
            "a{b=\"c\",} 1",
            "a 1 # {b=\"c\"}",
            "a 1 # {b=\"c\"} x",
            "a 1 inf",
        ] {
            assert!(openmetrics(&format!("{line}\n# EOF\n")).is_err(), "{line:?}");
        }
        let refused = sound(b"a 1\nb{c=\"\xff\"} 1\n", Format::Text).unwrap_err();
        assert_eq!((refused.line, refused.expected), (2, "UTF-8"));
    }

    #[test]
    fn a_line_has_so_many_labels_and_bytes_and_no_more() {
        let line = |labels: usize| {
            let labels: Vec<String> = (0..labels).map(|number| format!("l{number}=\"\"")).collect();
            format!("a{{{}}} 1", labels.join(","))
        };
        assert!(text(&format!("{}\n", line(MOST_LABELS))).is_ok());
        // As many as a page holds: a reader that looked through all of them for each would not come back.
        for labels in [MOST_LABELS + 1, 5000, 400_000] {
            let line = line(labels);
            let expected =
                if line.len() > LINE_BYTES { "a line of at most 64 KiB" } else { "at most 64 labels" };
            let refused = text(&format!("ok 1\n{line}\n")).unwrap_err();
            assert_eq!((refused.line, refused.expected), (2, expected), "{labels}");
            assert_eq!(refused.got.len(), 100);
        }
        let exemplar = format!("a 1 # {}", line(MOST_LABELS + 1).strip_prefix('a').unwrap());
        assert_eq!(openmetrics(&exemplar).unwrap_err().expected, "at most 64 labels");
        let help = |bytes: usize| format!("# HELP a {}", "x".repeat(bytes - "# HELP a ".len()));
        assert!(text(&help(LINE_BYTES)).is_ok());
        assert_eq!(text(&help(LINE_BYTES + 1)).unwrap_err().expected, "a line of at most 64 KiB");
    }

    proptest! {
        #[test]
        fn whatever_comes_nothing_of_ours_goes_out_and_what_goes_out_is_sound(
            page in "([ \\t]{0,2}(#[ \\t]?(HELP|TYPE|UNIT|EOF)?[ \\t]?)?(signet_)?[a-z_:{}\"=,.\\\\0-9 \\t#\\n]{0,24}\\n){0,6}",
            open in any::<bool>(),
        ) {
            let format = if open { Format::OpenMetrics } else { Format::Text };
            if let Ok(said) = sound(page.as_bytes(), format) {
                let again = sound(said.text.as_bytes(), format);
                prop_assert_eq!(again, Ok(Sound { text: said.text.clone(), dropped: 0 }));
                prop_assert!(said.text.is_empty() || said.text.ends_with('\n'));
            }
        }
    }
}
