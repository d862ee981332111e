//! What people write to people.

use super::checked_text;

checked_text!(
    /// A line of words.
    Words,
    "a line of at most 200 characters without control characters, blanks at neither end",
    |text| !text.is_empty()
        && text.chars().count() <= 200
        && text.trim() == text
        && !text.chars().any(char::is_control)
);
