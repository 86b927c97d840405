//! Odd rows of lists: each is a reject, and all other videos are decoded.

use std::fs;

use crate::odd_sources::{Outcome, assert_same, outcome};
use crate::project::{Project, clip};

/// Writes thirty lists. Each names its own videos and has some invalid rows.
#[test]
fn invalid_rows_of_lists_are_rejected_and_all_other_videos_decoded() {
    let project = Project::new(0);
    let mut lists = Vec::new();
    let mut rows = Outcome::new();
    let mut add = |name: &str, text: &[u8], bad: &[&str]| {
        let number = lists.len();
        // A star stands for the name of a new video.
        let mut list = Vec::new();
        let mut videos = 0;
        for byte in text {
            if *byte != b'*' {
                list.push(*byte);
                continue;
            }
            let video = format!("v/{number}-{videos}.y4m");
            list.extend_from_slice(video.as_bytes());
            clip(&project.path(&video), 5 + number * 3 + videos);
            rows.insert(video, "frames".into());
            videos += 1;
        }
        let path = format!("{number}{name}");
        rows.extend(bad.iter().map(|place| (format!("{path}, {place}"), "bad_row".into())));
        fs::write(project.path(&path), list).unwrap();
        lists.push(path);
    };
    let ends = ["\n", "\r\n", ""];
    // Every kind of list with every line end, and without one on the last line.
    for end in ends {
        add(".txt", format!("*\n\n# none\n  *  {end}").as_bytes(), &[]);
        add(".csv", format!("uri,bytes\n*,7\n*,{end}").as_bytes(), &[]);
        add(".csv", format!("a,uri\n1,*\n,\n3,*{end}").as_bytes(), &["line 3"]);
        add(
            ".csv",
            format!("uri,bytes,etag\n*,x,\n*,-1,e\n*,1.5,e\n*,8,e{end}").as_bytes(),
            &["line 2", "line 3", "line 4"],
        );
        add(".csv", format!("uri,a\n*\n*,1\n*,1,2{end}").as_bytes(), &["line 2", "line 4"]);
        add(
            ".csv",
            format!("\"uri\",\"a\"\n\"*\",\"b\nc\"\n\"*\",\"d\"\"e\"{end}").as_bytes(),
            &[],
        );
        add(".csv", format!("\u{feff}uri\n*\n\"\"\n*{end}").as_bytes(), &["line 3"]);
        add(".txt", format!("\u{feff}*\n*{end}").as_bytes(), &[]);
        add(".list", format!("*\n\t*{end}").as_bytes(), &[]);
        add(".CSV", format!("uri\n*{end}").as_bytes(), &[]);
    }
    // The videos of invalid rows exist but must not be decoded.
    for (number, kept) in [(3, 3), (4, 1), (13, 3), (14, 1), (23, 3), (24, 1)] {
        rows.retain(|name, _| {
            !name.starts_with(&format!("v/{number}-")) || *name == format!("v/{number}-{kept}.y4m")
        });
    }
    let quoted: Vec<String> = lists.iter().map(|list| format!("'{list}'")).collect();
    assert_same(outcome(&project, &format!("lists: [{}]", quoted.join(", "))), rows);
}
