//! The names in an expression of PromQL. It knows as much of the language as `ops/prometheus` and `ops/grafana` use.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::str::Chars;

/// Names in one expression.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Metrics, with the labels that their selectors name, and the values that a label must have.
    pub metrics: BTreeMap<String, BTreeSet<(String, Vec<String>)>>,
    /// Labels of aggregations and joins.
    pub labels: BTreeSet<String>,
}

const CLAUSES: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];
/// Aggregations that are followed by a clause.
const AGGREGATIONS: [&str; 4] = ["sum", "max", "min", "count"];

/// Returns the names in `expression`.
pub fn names(expression: &str) -> Names {
    let mut names = Names::default();
    let mut rest = expression.chars().peekable();
    while let Some(&next) = rest.peek() {
        match next {
            '"' => drop(quoted(&mut rest)),
            '[' => drop(until(&mut rest, ']')),
            '0'..='9' => drop(word(&mut rest)),
            c if is_word(c) => {
                let name = word(&mut rest);
                let opens = after_spaces(&mut rest);
                if CLAUSES.contains(&&*name) {
                    if opens == Some('(') {
                        let labels = until(&mut rest, ')');
                        names.labels.extend(
                            labels.split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()),
                        );
                    }
                } else if opens != Some('(') && ![&OPERATORS[..], &AGGREGATIONS].concat().contains(&&*name) {
                    let selectors = if opens == Some('{') { selectors(&mut rest) } else { Vec::new() };
                    names.metrics.entry(name).or_default().extend(selectors);
                }
            }
            _ => drop(rest.next()),
        }
    }
    names
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

fn word(rest: &mut Peekable<Chars<'_>>) -> String {
    std::iter::from_fn(|| rest.next_if(|c| is_word(*c))).collect()
}

fn after_spaces(rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    while rest.next_if(|c| c.is_whitespace()).is_some() {}
    rest.peek().copied()
}

/// Returns what is between an opening character and `end`.
fn until(rest: &mut Peekable<Chars<'_>>, end: char) -> String {
    rest.next();
    rest.by_ref().take_while(|c| *c != end).collect()
}

fn quoted(rest: &mut Peekable<Chars<'_>>) -> String {
    until(rest, '"')
}

/// Returns the labels between braces. The values are those of `=`, and the alternatives of `=~`.
fn selectors(rest: &mut Peekable<Chars<'_>>) -> Vec<(String, Vec<String>)> {
    rest.next();
    let mut found = Vec::new();
    loop {
        after_spaces(rest);
        let label = word(rest);
        if label.is_empty() {
            match rest.next() {
                Some(',') => continue,
                _ => return found,
            }
        }
        let operator: String = std::iter::from_fn(|| rest.next_if(|c| "=!~".contains(*c))).collect();
        let value = quoted(rest);
        let values = match &*operator {
            "=" => vec![value],
            "=~" if value.chars().all(|c| is_word(c) || c == '|') => value.split('|').map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        found.push((label, values));
    }
}

#[test]
fn names_are_metrics_and_labels_and_nothing_else() {
    let found = names(
        r#"histogram_quantile(0.99, sum by (job, le) (rate(a_bucket{job="x", s=~"p|q",t!~"u"}[5m]))) > 1e9 and on (job) b{v=""} or 0 * job:c:rate5m"#,
    );
    let selector = |label: &str, values: &[&str]| (label.to_owned(), values.iter().map(|v| (*v).to_owned()).collect());
    let expected = [
        ("a_bucket", vec![selector("job", &["x"]), selector("s", &["p", "q"]), selector("t", &[])]),
        ("b", vec![selector("v", &[""])]),
        ("job:c:rate5m", vec![]),
    ];
    let expected = expected.map(|(name, selectors)| (name.to_owned(), selectors.into_iter().collect()));
    assert_eq!(found.metrics, BTreeMap::from(expected));
    assert_eq!(found.labels, BTreeSet::from(["job".to_owned(), "le".to_owned()]));
}
