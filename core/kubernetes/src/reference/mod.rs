//! The pages of `docs/reference` that are made of code: annotations and labels, custom resources, values of the chart.
//!
//! Nobody writes them by hand, and a test compares them with what stands there.

mod annotations;
mod definitions;
mod values;

pub use self::values::ValuesError;

/// One page, and the file that it is kept in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its name in `docs/reference`.
    pub file: &'static str,
    /// Markdown.
    pub text: String,
}

/// How each page begins, so that nobody mends it by hand.
const MADE: &str = "<!-- Made of the code: make references. -->\n";

/// A chart: what it is called, and its `values.yaml` and `values.schema.json` as they are.
#[derive(Debug, Clone, Copy)]
pub struct Chart<'a> {
    pub name: &'a str,
    pub values: &'a str,
    pub schema: &'a str,
}

/// All of them.
///
/// # Errors
/// [`ValuesError`]: a value of a chart without its schema, or the other way round, or one that nobody says a word about.
pub fn pages(charts: &[Chart<'_>]) -> Result<Vec<Page>, ValuesError> {
    Ok(vec![
        Page { file: "annotations.md", text: annotations::page() },
        Page { file: "resources.md", text: definitions::page() },
        Page { file: "values.md", text: values::page(charts)? },
    ])
}

/// Text as a cell of a table: one line, and no bar that ends it.
fn cell(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("<br>").replace('|', "\\|")
}

/// Code within a cell.
fn code(text: &str) -> String {
    format!("`{text}`")
}
