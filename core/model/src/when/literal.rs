//! Texts, patterns, moments and spans as they are written in a condition.

use super::Refused;
use crate::Moment;
use crate::text::shorten;

/// A pattern of `like`: the literal texts between its stars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Box<[Box<str>]>);

impl Pattern {
    /// Whether the whole text is of this pattern. A star takes any characters, also none. No backtracking: the
    /// cost is the lengths' product at most.
    pub fn matches(&self, text: &str) -> bool {
        let [first, middle @ .., last] = &*self.0 else {
            return self.0.first().is_some_and(|all| **all == *text);
        };
        let Some(mut left) = text.strip_prefix(&**first).and_then(|left| left.strip_suffix(&**last)) else {
            return false;
        };
        for piece in middle {
            let Some((_, rest)) = left.split_once(&**piece) else { return false };
            left = rest;
        }
        true
    }
}

const ESCAPES: &str = "one of the escapes `\\\"`, `\\\\`, `\\'`, `\\n`, `\\r`, `\\t`";

fn escape(c: char) -> Option<char> {
    match c {
        '"' | '\\' | '\'' => Some(c),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        _ => None,
    }
}

fn unknown_escape(at: usize, c: Option<char>) -> Refused {
    let c = c.map(String::from).unwrap_or_default();
    Refused::new(at, ESCAPES, format!("`\\{}`", shorten(&c)))
}

/// `raw` stands between quotes at `at`.
pub(super) fn text(raw: &str, at: usize) -> Result<Box<str>, Refused> {
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let escaped = chars.next();
        out.push(escaped.and_then(escape).ok_or_else(|| unknown_escape(at, escaped))?);
    }
    Ok(out.into())
}

pub(super) fn pattern(raw: &str, at: usize) -> Result<Pattern, Refused> {
    let mut pieces = Vec::new();
    let mut piece = String::new();
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' => pieces.push(std::mem::take(&mut piece).into()),
            '\\' => match chars.next() {
                Some('*') => piece.push('*'),
                escaped => piece.push(escaped.and_then(escape).ok_or_else(|| unknown_escape(at, escaped))?),
            },
            c => piece.push(c),
        }
    }
    pieces.push(piece.into());
    Ok(Pattern(pieces.into()))
}

/// `2026-12-24` or `2026-12-24T18:00:00Z`, of what Cedar's `datetime` takes.
pub(super) fn moment(text: &str, at: usize) -> Result<i64, Refused> {
    let whole = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        _ => text.to_owned(),
    };
    let is_plain = whole.len() == 20 && whole.get(10..11) == Some("T") && whole.ends_with('Z');
    let moment: Option<Moment> = whole.parse().ok().filter(|_| is_plain);
    let millis = moment.and_then(|moment| moment.unix().checked_mul(1000));
    millis.ok_or_else(|| {
        let expected = "a date or a moment in UTC, as in `2026-12-24` or `2026-12-24T18:00:00Z`";
        Refused::new(at, expected, format!("`{}`", shorten(text)))
    })
}

/// In the order in which Cedar's `duration` takes them.
const UNITS: &[(&str, i64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// `8h30m`, of what Cedar's `duration` takes.
pub(super) fn span(text: &str, at: usize) -> Result<i64, Refused> {
    read_span(text).ok_or_else(|| {
        let expected =
            "a span of time in days, hours, minutes, seconds and milliseconds, as in `1d` or `8h30m`";
        Refused::new(at, expected, format!("`{}`", shorten(text)))
    })
}

fn read_span(text: &str) -> Option<i64> {
    let mut left = text;
    let mut total: i64 = 0;
    let mut units = UNITS.iter();
    while !left.is_empty() {
        let digits = left.find(|c: char| !c.is_ascii_digit())?;
        let (number, rest) = left.split_at_checked(digits)?;
        let length = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at_checked(length)?;
        // Each unit once, larger ones first.
        let (_, millis) = units.find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(*millis)?)?;
        left = rest;
    }
    (!text.is_empty()).then_some(total)
}
