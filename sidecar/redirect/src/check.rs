//! What is in force beside what is asked for: one line per difference.

use super::plan::Rule;

/// A rule as it was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// One that we could have written.
    Rule(Rule),
    /// One that we never write, in the program's words.
    Unknown(String),
}

/// The differences of one chain, in the words of the backend.
pub fn differences(
    chain: &str,
    expected: &[Rule],
    found: &[Found],
    words: impl Fn(&Rule) -> String,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left: Vec<&Found> = found.iter().collect();
    for rule in expected {
        match left.iter().position(|found| matches!(found, Found::Rule(other) if other == rule)) {
            Some(at) => {
                left.remove(at);
            }
            None => lines.push(format!("{chain}: missing: {}", words(rule))),
        }
    }
    for found in left {
        lines.push(match found {
            Found::Rule(rule) => format!("{chain}: not asked for: {}", words(rule)),
            Found::Unknown(text) => format!("{chain}: not ours: {text}"),
        });
    }
    if lines.is_empty() {
        // The same rules: then the order, since the first that fits decides.
        let misplaced = expected
            .iter()
            .zip(found)
            .position(|(expected, found)| !matches!(found, Found::Rule(rule) if rule == expected));
        if let Some((at, rule)) = misplaced.and_then(|at| expected.get(at).map(|rule| (at, rule))) {
            let number = at.saturating_add(1);
            lines.push(format!("{chain}: out of order: expected as rule {number}: {}", words(rule)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Hook, Verdict};
    use super::super::values::Ports;
    use super::*;

    fn port(port: u16) -> Rule {
        let ports = Some(Ports { first: port, last: port });
        Rule { ports, ..Rule::all(Hook::Output, Verdict::Leave) }
    }

    fn compare(expected: &[u16], found: &[u16]) -> Vec<String> {
        let expected: Vec<_> = expected.iter().copied().map(port).collect();
        let found: Vec<_> = found.iter().copied().map(|number| Found::Rule(port(number))).collect();
        differences("output", &expected, &found, |rule| rule.ports.unwrap().to_string())
    }

    #[test]
    fn the_same_rules_in_the_same_order_do_not_differ() {
        assert!(compare(&[1, 2, 2, 3], &[1, 2, 2, 3]).is_empty());
        assert!(compare(&[], &[]).is_empty());
    }

    #[test]
    fn each_rule_that_is_missing_too_many_or_elsewhere_is_one_line() {
        assert_eq!(compare(&[1, 2], &[1]), ["output: missing: 2"]);
        assert_eq!(compare(&[1], &[1, 1, 7]), ["output: not asked for: 1", "output: not asked for: 7"]);
        assert_eq!(compare(&[1, 2], &[2, 1]), ["output: out of order: expected as rule 1: 1"]);
        let foreign = [Found::Unknown("limit rate 1/second".into())];
        let lines = differences("output", &[], &foreign, |_| unreachable!());
        assert_eq!(lines, ["output: not ours: limit rate 1/second"]);
    }
}
