//! Blank and frozen frames, frame hashes and black bars, on films with known frames.

use std::fs;
use std::path::Path;

use crate::broken_videos::ffmpeg;
use crate::project::Project;

/// Writes a pipeline with these settings of its `decode` stage.
fn write_decode(project: &Project, settings: &str) {
    let yaml = format!(
        "name: test\nworkspace: ws\nstages:\n  \
         frames: {{ decode: {{ videos: ['videos/*'], size: 32, {settings} }} }}\n"
    );
    fs::write(project.path("pipeline.yaml"), yaml).unwrap();
}

/// Creates a project with a film of 20 black frames, 30 moving ones, 40 still ones and 30 moving
/// ones. Returns `None` without the ffmpeg command line.
fn project_with_blank_and_still_frames() -> Option<Project> {
    let project = Project::new(0);
    let part = |source: &str, seconds: u32| format!("-f lavfi -i {source}s=96x96:r=10:d={seconds}");
    let parts = [
        part("color=c=black:", 2),
        part("testsrc2=", 3),
        part("smptebars=", 4),
        part("testsrc2=", 3),
    ]
    .join(" ");
    let film = format!("{parts} -filter_complex concat=n=4:v=1,format=yuv420p -c:v libx264");
    if !ffmpeg(&film, &project.path("videos/film.mp4")) {
        println!("skipped: no ffmpeg command line");
        return None;
    }
    Some(project)
}

#[test]
fn blank_and_frozen_frames_are_measured_left_out_and_counted() {
    let Some(project) = project_with_blank_and_still_frames() else { return };
    write_decode(&project, "blank: 0.02, still: { frames: 10 }");
    let output = project.run(&[]).success();
    let left_out = "SELECT left_out, count(*) AS n, min(frame_index) AS first, \
                    max(frame_index) AS last FROM frames_quality \
                    GROUP BY left_out ORDER BY left_out";
    let seen = project.query(left_out);
    // The encoder may need a frame or two until a still picture no longer changes.
    let still = seen[2]["first"].as_u64().unwrap();
    assert!((60..=62).contains(&still), "{seen}");
    // The first ten still frames are kept.
    let expected = serde_json::json!([
        {"left_out": "", "n": 10 + still, "first": 20, "last": 119},
        {"left_out": "blank", "n": 20, "first": 0, "last": 19},
        {"left_out": "still", "n": 90 - still, "first": still, "last": 89},
    ]);
    assert_eq!(seen, expected);
    let counted = format!("20 blank frames left out, {} still frames left out", 90 - still);
    assert!(output.stderr.contains(&counted), "{output:#?}");
    // The black frames belong to no episode.
    let episodes = project.query(
        "SELECT episode, min(frame_index) AS first, max(frame_index) AS last FROM frames \
             GROUP BY episode ORDER BY first",
    );
    assert_eq!(
        (&episodes[0]["first"], &episodes[2]["first"]),
        (&20.into(), &90.into()),
        "{episodes}"
    );
    assert_eq!(
        episodes.as_array().unwrap().len(),
        3,
        "testsrc2, still frames, testsrc2: {episodes}"
    );

    write_decode(&project, "cut: 2");
    assert_eq!(
        project.run(&[]).success().stderr.matches("left out").count(),
        0,
        "without the settings all frames are kept"
    );
    assert_eq!(project.query("SELECT count(*) AS n FROM frames")[0]["n"], 120);
    write_decode(&project, "blank: 2, still: { frames: 3, change: -1 }");
    let output = project.run(&[]);
    assert!(
        output.stderr.contains("blank")
            && output.stderr.contains("is 2")
            && output.stderr.contains("has `change: -1`"),
        "{output:#?}"
    );
}

#[test]
fn frame_hashes_match_across_size_rate_and_codec() {
    let project = Project::new(0);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/coinrun");
    for game in 0..5 {
        let name = format!("coinrun_3_{game:03}.mp4");
        fs::copy(data.join(&name), project.path("videos").join(&name)).unwrap();
    }
    let copy = format!(
        "-i '{}' -vf scale=128:128 -r 12 -c:v mpeg4 -q:v 4",
        data.join("coinrun_3_001.mp4").display()
    );
    if !ffmpeg(&copy, &project.path("videos/copy.avi")) {
        println!("skipped: no ffmpeg command line");
        return;
    }
    write_decode(&project, "cut: 2");
    project.run(&[]).success();
    // The share of hashes that two videos have in common, for every pair.
    let sql = "WITH seen AS (SELECT DISTINCT video, hash FROM frames_quality), \
               pairs AS (SELECT a.video AS one, b.video AS other, a.hash AS hash \
               FROM seen a JOIN seen b ON a.hash = b.hash), \
               counts AS (SELECT video, count(*) AS n FROM seen GROUP BY video), \
               shared AS (SELECT one, other, count(*) AS same FROM pairs WHERE one < other \
               GROUP BY one, other) \
               SELECT one, other, 1.0 * same / n AS share FROM shared \
               JOIN counts ON one = video ORDER BY share DESC";
    let found = project.query(sql);
    assert_eq!(
        (&found[0]["one"], &found[0]["other"]),
        (&"videos/coinrun_3_001.mp4".into(), &"videos/copy.avi".into()),
        "{found}"
    );
    let share = |row: usize| found[row]["share"].as_f64().unwrap();
    assert!(share(0) > 0.5 && share(1) < 0.5, "{found}");
}

#[test]
fn trim_bars_removes_black_bars() {
    let project = Project::new(0);
    let source = "-f lavfi -i testsrc2=s=192x108:r=10:d=3";
    let framed = format!("{source} -vf pad=224:192:16:40:black -pix_fmt yuv420p -c:v libx264");
    if !ffmpeg(&framed, &project.path("videos/framed.mp4")) {
        println!("skipped: no ffmpeg command line");
        return;
    }
    assert!(ffmpeg(
        &format!("{source} -pix_fmt yuv420p -c:v libx264"),
        &project.path("videos/plain.mp4")
    ));
    let measures = |name: &str| {
        let sql = "SELECT min(bar_left) AS l, min(bar_top) AS t, min(bar_right) AS r, \
                   min(bar_bottom) AS b, avg(brightness) AS light, avg(contrast) AS contrast, \
                   avg(change) AS change FROM frames_quality";
        let row = project.query(&format!("{sql} WHERE video = 'videos/{name}.mp4'"));
        ["l", "t", "r", "b", "light", "contrast", "change"]
            .map(|column| row[0][column].as_f64().unwrap())
    };
    write_decode(&project, "cut: 2");
    project.run(&[]).success();
    let seen = measures("framed");
    // Shares of the width and height: left, top, right, bottom.
    let expected = [16.0 / 224.0, 40.0 / 192.0, 16.0 / 224.0, 44.0 / 192.0];
    for (seen, expected) in seen.iter().zip(expected) {
        assert!((seen - expected).abs() < 0.05, "{seen} {expected}");
    }

    write_decode(&project, "trim_bars: true");
    let output = project.run(&[]).success();
    assert!(output.stderr.contains("1 videos without their bars"), "{output:#?}");
    let framed = measures("framed");
    let plain = measures("plain");
    // Without its bars, the framed video has the measures of the plain one.
    assert_eq!((&framed[..4], &plain[..4]), (&[0.0; 4][..], &[0.0; 4][..]));
    for (framed, plain) in framed.iter().zip(plain) {
        assert!((framed - plain).abs() < 0.01, "{framed} {plain}");
    }
}
