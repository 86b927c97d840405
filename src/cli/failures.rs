//! Formats the failed tasks of a run whose other tasks were committed.

use std::collections::BTreeMap;

/// Maximum number of lines on stderr.
const MAX_LINES: usize = 20;

/// Returns a line for each distinct message, the most frequent first. Messages beyond
/// [`MAX_LINES`] are only counted; the run's record has them all.
pub fn lines(messages: &[String], run: &str) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for message in messages {
        *counts.entry(message).or_default() += 1;
    }
    let mut groups: Vec<(&str, usize)> = counts.into_iter().collect();
    // A stable sort: messages of the same count stay in alphabetical order.
    groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let line = |(message, count): &(&str, usize)| match count {
        1 => format!("failed: {message}"),
        count => format!("failed, {count} tasks: {message}"),
    };
    let mut lines: Vec<String> = groups.iter().take(MAX_LINES).map(line).collect();
    let rest: usize = groups.iter().skip(MAX_LINES).map(|(_, count)| count).sum();
    if rest > 0 {
        lines.push(format!("and {rest} more; see runs/{run}.json in the workspace"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_messages_are_grouped_and_at_most_twenty_lines_are_printed() {
        assert!(lines(&[], "r").is_empty());
        let few = ["b: changed", "no space left", "a: changed", "no space left"].map(String::from);
        assert_eq!(
            lines(&few, "r"),
            ["failed, 2 tasks: no space left", "failed: a: changed", "failed: b: changed"]
        );
        let many: Vec<String> = (0..25)
            .map(|i| format!("{i:02}: changed"))
            .chain((0..3).map(|_| "disk".into()))
            .collect();
        let printed = lines(&many, "12-ab");
        assert_eq!((printed.len(), printed[0].as_str()), (21, "failed, 3 tasks: disk"));
        assert_eq!(printed[20], "and 6 more; see runs/12-ab.json in the workspace");
    }
}
