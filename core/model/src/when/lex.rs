//! A condition's text as words and signs, each with its place.

use super::Refused;
use crate::text::shorten;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'t> {
    Word(&'t str),
    /// Between the quotes, escapes as they stand.
    Quoted(&'t str),
    Number(&'t str),
    Sign(&'static str),
    End,
}

impl Token<'_> {
    /// For messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Token::Word(text) | Token::Number(text) => format!("`{}`", shorten(text)),
            Token::Quoted(text) => format!("the text `\"{}\"`", shorten(text)),
            Token::Sign(text) => format!("`{text}`"),
            Token::End => "the end".into(),
        }
    }
}

/// Longer ones first, so that `==` is not taken for `=`.
const SIGNS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "::", "<", ">", "!", "(", ")", "[", "]", "{", "}", ".", ",", "-",
    "+", "*", ":", "@", ";", "?", "=", "%", "/",
];

pub(super) fn tokens(text: &str) -> Result<Vec<(Token<'_>, usize)>, Refused> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(left) = text.get(at..).filter(|left| !left.is_empty()) {
        let (token, length) = match first(left, at)? {
            Some(read) => read,
            None => {
                at = at.saturating_add(blank(left));
                continue;
            }
        };
        found.push((token, at));
        at = at.saturating_add(length);
    }
    found.push((Token::End, text.len()));
    Ok(found)
}

/// The length of the blanks and comments in front; at least one where the caller found no token.
fn blank(left: &str) -> usize {
    if left.starts_with("//") {
        return left.find('\n').unwrap_or(left.len());
    }
    left.len().saturating_sub(left.trim_start_matches([' ', '\t', '\r', '\n']).len())
}

/// The token in front with its length; none before blanks and comments.
fn first(left: &str, at: usize) -> Result<Option<(Token<'_>, usize)>, Refused> {
    if blank(left) > 0 {
        return Ok(None);
    }
    let until = |is_in: fn(char) -> bool| left.find(|c| !is_in(c)).unwrap_or(left.len());
    let head = left.chars().next().unwrap_or_default();
    if head.is_ascii_alphabetic() || head == '_' {
        let length = until(|c| c.is_ascii_alphanumeric() || c == '_');
        return Ok(Some((Token::Word(left.get(..length).unwrap_or_default()), length)));
    }
    if head.is_ascii_digit() {
        let length = until(|c| c.is_ascii_digit());
        return Ok(Some((Token::Number(left.get(..length).unwrap_or_default()), length)));
    }
    if let Some(inside) = left.strip_prefix('"') {
        let end =
            closing(inside).ok_or_else(|| Refused::new(at, "`\"` at the end of the text", "the end"))?;
        return Ok(Some((Token::Quoted(inside.get(..end).unwrap_or_default()), end.saturating_add(2))));
    }
    match SIGNS.iter().find(|sign| left.starts_with(**sign)) {
        Some(sign) => Ok(Some((Token::Sign(sign), sign.len()))),
        None => Err(Refused::new(at, "a Cedar expression", format!("`{}`", shorten(&head.to_string())))),
    }
}

fn closing(inside: &str) -> Option<usize> {
    let mut is_escaped = false;
    inside.char_indices().find_map(|(at, c)| {
        let closes = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        closes.then_some(at)
    })
}
