//! Broken videos are recorded as rejects with a reason; the run continues without them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::project::{PIPELINE, Project};

const TEST_SOURCE: &str = "-f lavfi -i testsrc2=size=128x96:rate=25";
const X264: &str = "-pix_fmt yuv420p -c:v libx264 -g 10";

/// Runs the ffmpeg command line with bounded memory. Returns false if ffmpeg is not installed.
pub fn ffmpeg(args: &str, to: &Path) -> bool {
    let line = format!("ulimit -v 4000000; ffmpeg -v error -y {args} '{}'", to.display());
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    if output.status.code() == Some(127) {
        assert!(
            std::env::var_os("CI").is_none(),
            "ffmpeg must be there: the README's test command installs it"
        );
        return false;
    }
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    true
}

/// Broken videos and the possible reject classes of each.
struct BrokenVideos<'a> {
    folder: &'a Path,
    expected: BTreeMap<String, Vec<&'static str>>,
}

impl BrokenVideos<'_> {
    /// Returns the path for a broken video and remembers its possible classes.
    fn add(&mut self, name: &str, classes: &[&'static str]) -> PathBuf {
        self.expected.insert(format!("videos/{name}"), classes.to_vec());
        self.folder.join(name)
    }

    /// Adds empty and cut files, text and noise, based on the bytes of a good video.
    fn add_files(&mut self, bytes: &[u8]) {
        for copy in 0..4 {
            fs::write(self.add(&format!("empty{copy}.mp4"), &["empty_file"]), []).unwrap();
            let text = format!("this is no video, number {copy}\n").repeat(40);
            fs::write(self.add(&format!("text{copy}.mp4"), &["unknown_format"]), text).unwrap();
            let noise: Vec<u8> = bytes.iter().map(|b| b.wrapping_mul(97 + copy)).collect();
            fs::write(self.add(&format!("noise{copy}.mp4"), &["unknown_format"]), noise).unwrap();
            let cut = self.add(&format!("cut{copy}.mp4"), &["incomplete_header", "truncated"]);
            fs::write(cut, &bytes[..bytes.len() * (copy as usize + 1) / 8]).unwrap();
        }
        let few = self.add("few_bytes.mp4", &["unknown_format", "incomplete_header"]);
        fs::write(few, &bytes[..40]).unwrap();
        // Playlists would make the decoder open other files.
        let playlist = ["forbidden_format", "unknown_format"];
        fs::write(self.add("list.m3u8", &playlist), "#EXTM3U\n#EXTINF:1,\nmaze_1_000.mp4\n")
            .unwrap();
        fs::write(
            self.add("list.ffconcat", &playlist),
            "ffconcat version 1.0\nfile maze_1_000.mp4\n",
        )
        .unwrap();
    }

    /// Adds a folder, a named pipe and a dangling link.
    fn add_special_files(&mut self) {
        fs::create_dir(self.add("folder.mp4", &["not_a_file"])).unwrap();
        let pipe = self.add("pipe.mp4", &["not_a_file"]);
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let dangling = self.add("dangling.mp4", &["unreadable"]);
        std::os::unix::fs::symlink("nowhere.mp4", dangling).unwrap();
    }

    /// Adds valid files without usable video: audio only, too few frames, too many pixels.
    fn add_unusable(&mut self) {
        let made = [
            ffmpeg("-f lavfi -i sine -t 1 -c:a aac", &self.add("audio.mp4", &["no_video_stream"])),
            ffmpeg("-f lavfi -i sine -t 1 -c:a aac", &self.add("audio.mkv", &["no_video_stream"])),
            ffmpeg(
                &format!("{TEST_SOURCE} -frames:v 1 {X264}"),
                &self.add("one_frame.mp4", &["too_short"]),
            ),
            ffmpeg(
                &format!("{TEST_SOURCE} -frames:v 2 {X264}"),
                &self.add("two_frames.mp4", &["too_short"]),
            ),
            ffmpeg(
                "-f lavfi -i color=size=9000x9000 -frames:v 4 -c:v mjpeg -pix_fmt yuvj420p",
                &self.add("huge.avi", &["too_large", "no_frames"]),
            ),
        ];
        assert!(made.iter().all(|m| *m), "ffmpeg could not make the inputs");
    }

    /// Adds videos of several containers, cut in half or with damaged stretches.
    fn add_damaged(&mut self) {
        for (name, to) in
            [("tail.mkv", "mkv"), ("tail.webm", "webm"), ("tail.ts", "ts"), ("tail.avi", "avi")]
        {
            let path = self.add(name, &["truncated", "corrupt_packets"]);
            let codec = if to == "webm" { "-c:v libvpx -b:v 1M" } else { X264 };
            assert!(ffmpeg(&format!("{TEST_SOURCE} -t 4 {codec}"), &path));
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        }
        for (name, every) in [("holes.mp4", 3000), ("holes.ts", 2500), ("holes.mkv", 2000)] {
            let path = self.add(name, &["corrupt_packets", "truncated"]);
            assert!(ffmpeg(&format!("{TEST_SOURCE} -t 8 {X264} -b:v 1M"), &path));
            let mut bytes = fs::read(&path).unwrap();
            // The header at the start and the index at the end stay intact.
            for i in (bytes.len() / 8..bytes.len() * 7 / 8).filter(|i| i % every < 200) {
                bytes[i] = bytes[i].wrapping_mul(31).wrapping_add(7);
            }
            fs::write(&path, bytes).unwrap();
        }
    }
}

/// Writes broken videos of many kinds. Returns the possible reject classes of each.
fn write_broken_videos(folder: &Path, good: &Path) -> BTreeMap<String, Vec<&'static str>> {
    let bytes = fs::read(good).unwrap();
    let mut videos = BrokenVideos { folder, expected: BTreeMap::new() };
    videos.add_files(&bytes);
    videos.add_special_files();
    videos.add_unusable();
    videos.add_damaged();
    videos.expected
}

#[test]
fn every_broken_video_is_rejected_and_every_good_one_labelled() {
    if !ffmpeg(
        "-f lavfi -i testsrc2=size=64x64 -frames:v 1",
        &std::env::temp_dir().join("lapo-probe.png"),
    ) {
        println!("skipped: no ffmpeg command line");
        return;
    }
    let project = Project::new(100);
    let expect =
        write_broken_videos(&project.path("videos"), &project.path("videos/maze_1_007.mp4"));
    assert!(expect.len() >= 32, "{}", expect.len());
    let size_changes = project.path("videos/size_changes.h264");
    write_changing_size(&size_changes);

    let output = project.run(&["--set", "steps=1"]).success();
    let rejects = project.query("SELECT video, class, reason, frames_kept FROM rejects");
    let classes: BTreeMap<&str, &str> = rejects
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["video"].as_str().unwrap(), r["class"].as_str().unwrap()))
        .collect();
    let class_of = |video: &String| classes.get(video.as_str()).copied().unwrap_or("nothing");
    let missed: Vec<_> =
        expect.iter().filter(|(video, allowed)| !allowed.contains(&class_of(video))).collect();
    assert!(missed.is_empty(), "expected: {missed:#?}\nin rejects: {classes:#?}");
    let wrong: Vec<_> = classes.keys().filter(|video| !expect.contains_key(**video)).collect();
    assert!(wrong.is_empty(), "good videos rejected: {wrong:?}");
    let kinds: std::collections::BTreeSet<&str> = classes.values().copied().collect();
    println!("{} broken videos of {} classes: {kinds:?}", classes.len(), kinds.len());
    assert!(rejects.as_array().unwrap().iter().all(|r| !r["reason"].as_str().unwrap().is_empty()));
    let good = project.query(
        "SELECT count(DISTINCT video) AS n FROM labels \
         WHERE video LIKE '%maze%' OR video LIKE '%size_changes%'",
    );
    // A change of the frame size is no damage.
    assert_eq!(good[0]["n"], 101, "{output:#?}");
    project.run_changes_nothing(&["--set", "steps=1"]);
}

/// Writes a stream that changes its frame size: two recordings, one after the other.
fn write_changing_size(to: &Path) {
    let parts = ["128x96", "320x200"].map(|size| {
        let part = to.with_extension(format!("{size}.part.h264"));
        let source =
            format!("-f lavfi -i testsrc2=size={size}:rate=25 -t 1 -pix_fmt yuv420p -c:v libx264");
        assert!(ffmpeg(&source, &part));
        let bytes = fs::read(&part).unwrap();
        fs::remove_file(part).unwrap();
        bytes
    });
    fs::write(to, parts.concat()).unwrap();
}

#[test]
fn too_many_rejects_stop_the_run() {
    let project = Project::new(2);
    for i in 0..6 {
        fs::write(project.path(&format!("videos/bad{i}.mp4")), format!("bad {i}")).unwrap();
    }
    let yaml = PIPELINE.replace("videos_per_shard: 4", "videos_per_shard: 4, max_rejected: 0.5");
    fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    let output = project.run(&[]);
    assert_eq!(output.code, 1);
    assert!(
        output.stderr.contains("of 8 videos rejected, `max_rejected` allows a share of 0.5: "),
        "{output:#?}"
    );
    assert!(
        output.stderr.contains("unknown_format"),
        "the classes of the rejects are missing: {output:#?}"
    );
}

#[test]
fn retry_rejected_decodes_rejected_videos_again() {
    let limit_pixels = |project: &Project, most: u64| {
        let limits = format!("videos_per_shard: 4, limits: {{ max_pixels: {most} }}");
        fs::write(project.path("pipeline.yaml"), PIPELINE.replace("videos_per_shard: 4", &limits))
            .unwrap();
    };
    let with_large = || {
        let project = Project::new(4);
        assert!(ffmpeg(
            "-f lavfi -i testsrc2=size=1280x960:rate=25 -t 1 -c:v libx264",
            &project.path("videos/large.mp4")
        ));
        project
    };
    let whole = with_large();
    whole.run(&[]).success();

    let project = with_large();
    fs::write(project.path("videos/text.mp4"), "this is no video\n".repeat(40)).unwrap();
    limit_pixels(&project, 1_000_000);
    project.run(&[]).success();
    let rejects = || project.query("SELECT video, class FROM rejects ORDER BY video");
    let reject = |name: &str, class: &str| {
        let video = format!("videos/{name}.mp4");
        serde_json::json!({ "video": video, "class": class })
    };
    let large = reject("large", "too_large");
    let text = reject("text", "unknown_format");
    assert_eq!(rejects(), serde_json::json!([large, text]));

    // Limits are not hashed into keys: changing one does nothing by itself.
    limit_pixels(&project, 10_000_000);
    project.run_changes_nothing(&[]);
    let output = project.lapo(&["plan", "pipeline.yaml", "--retry-rejected=too_large"]).success();
    assert!(output.stdout.contains("new because of new try: 1"), "{output:#?}");
    project.run(&["--retry-rejected=too_large"]).success();
    assert_eq!(rejects(), serde_json::json!([text]));
    assert_eq!(
        project.files("frames", "shard.arrow").last(),
        whole.files("frames", "shard.arrow").first()
    );
    let none = project.run(&["--retry-rejected=too_large"]).success();
    assert!(none.stdout.starts_with("0 tasks"), "{none:#?}");
    assert!(
        none.stderr
            .contains("no video was rejected as too_large, so none is tried again; others: 1 as "),
        "{none:#?}"
    );
    project.run_changes_nothing(&[]);

    // Retrying all gives the same frames, so no label is made again.
    let again = project.run(&["--retry-rejected"]).success();
    assert!(again.stdout.starts_with("1 tasks"), "{again:#?}");
}
