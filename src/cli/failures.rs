//! What is told of the tasks that failed while the rest was committed.

use std::collections::BTreeMap;

/// Most lines on stderr.
const MOST: usize = 20;

/// Returns a line for every message, those that came most often first; what is too much for a terminal is in the run's record.
pub fn lines(messages: &[String], run: &str) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for message in messages {
        *counts.entry(message).or_default() += 1;
    }
    let mut groups: Vec<(&str, usize)> = counts.into_iter().collect();
    groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let line = |(message, count): &(&str, usize)| match count {
        1 => format!("failed: {message}"),
        count => format!("failed, {count} tasks: {message}"),
    };
    let mut lines: Vec<String> = groups.iter().take(MOST).map(line).collect();
    let rest: usize = groups.iter().skip(MOST).map(|(_, count)| count).sum();
    if rest > 0 {
        lines.push(format!("and {rest} more, in runs/{run}.json"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_grouped_and_at_most_twenty_lines_are_told() {
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
        let told = lines(&many, "12-ab");
        assert_eq!((told.len(), told[0].as_str()), (21, "failed, 3 tasks: disk"));
        assert_eq!(told[20], "and 6 more, in runs/12-ab.json");
    }
}
