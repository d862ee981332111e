//! The `when` of a policy: a condition in a part of Cedar's expression language.
//!
//! [`When`] is read once, where a policy is read, and is then typed: every attribute in it exists, and nothing in it
//! compares a text with a number. What Cedar has beyond this part is refused by name and place. Every text that is read
//! here is one that Cedar reads too, and means there what it means here; tests hold it against the real Cedar, which no
//! program of ours contains. What the attributes are stands in `docs/policy.md`; what they are worth for one request is
//! `signet-policy`'s to say.

mod lex;
mod literal;
mod parse;
mod schema;

use std::fmt;
use std::str::FromStr;

use crate::text::serde_as_text;

pub use literal::Pattern;
pub use schema::{Attribute, ClaimType};

/// Longer conditions are programs.
const MAX_BYTES: usize = 4096;

/// A condition that was read and typed.
#[derive(Debug, Clone)]
pub struct When {
    text: Box<str>,
    expr: Expr,
    reads: Reads,
}

/// What a condition looks at.
#[derive(Debug, Clone, Default)]
pub struct Reads {
    /// Each attribute once, in the order in which it is first named; records of which only the being there is asked among them.
    pub attributes: Vec<Attribute>,
    /// The request: what a connection of bytes does not have.
    pub request: bool,
    pub user: bool,
    pub time: bool,
}

/// A typed expression. Each operand is of the one type that its operator takes; only attributes can turn out otherwise.
#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    Bool(bool),
    Long(i64),
    Text(Box<str>),
    Texts(Box<[Box<str>]>),
    Longs(Box<[i64]>),
    /// Milliseconds since the epoch.
    Moment(i64),
    /// Milliseconds.
    Span(i64),
    Read(Attribute),
    Has(Attribute),
    /// Of a moment, the time since its midnight in UTC.
    TimeOfDay(Box<Expr>),
    Not(Box<Expr>),
    /// From left to right, up to the first that does not hold.
    All(Box<[Expr]>),
    /// From left to right, up to the first that holds.
    Any(Box<[Expr]>),
    Equal(Box<(Expr, Expr)>),
    Less(Box<(Expr, Expr)>),
    LessOrEqual(Box<(Expr, Expr)>),
    Like(Box<Expr>, Pattern),
    Contains(Box<(Expr, Expr)>),
    ContainsAll(Box<(Expr, Expr)>),
    ContainsAny(Box<(Expr, Expr)>),
    IsEmpty(Box<Expr>),
}

/// Why a text is no condition, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got}, at line {line}, column {column}")]
pub struct WhenError {
    pub expected: String,
    pub got: String,
    /// Counted from 1, within the condition.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
}

impl When {
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn expr(&self) -> &Expr {
        &self.expr
    }

    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The path parameters that it names.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.reads.attributes.iter().filter_map(|attribute| match attribute {
            Attribute::Param(name) => Some(&**name),
            _ => None,
        })
    }
}

impl PartialEq for When {
    /// The text is the whole of it.
    fn eq(&self, other: &When) -> bool {
        self.text == other.text
    }
}
impl Eq for When {}

impl FromStr for When {
    type Err = WhenError;
    fn from_str(text: &str) -> Result<When, WhenError> {
        if text.len() > MAX_BYTES {
            let (expected, got) = (format!("at most {MAX_BYTES} bytes"), format!("{}", text.len()));
            return Err(WhenError { expected, got, line: 1, column: 1 });
        }
        let (expr, reads) = parse::parse(text).map_err(|error| error.in_text(text))?;
        Ok(When { text: text.into(), expr, reads })
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
serde_as_text!(When, "a condition in Cedar, as in `context.user.claims.groups.contains(\"staff\")`");

/// As [`WhenError`], with a place that is an offset.
#[derive(Debug)]
struct Refused {
    expected: String,
    got: String,
    at: usize,
}

impl Refused {
    fn new(at: usize, expected: impl Into<String>, got: impl Into<String>) -> Refused {
        Refused { expected: expected.into(), got: got.into(), at }
    }

    fn in_text(self, text: &str) -> WhenError {
        let before = text.get(..self.at).unwrap_or(text);
        let line = before.matches('\n').count().saturating_add(1);
        let start = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
        let column = before.get(start..).unwrap_or_default().chars().count().saturating_add(1);
        WhenError { expected: self.expected, got: self.got, line, column }
    }
}
