//! Decoder processes crash, are killed or run out of memory.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::broken_videos::ffmpeg;
use crate::project::{Project, wait};

/// A pipeline with only a `decode` stage.
const DECODE: &str = "
name: test
workspace: ws
stages:
  frames: { decode: { videos: ['videos/*'], size: 16, videos_per_shard: 4 } }
";

/// Creates a project with three games and a video that takes seconds to decode. Returns `None`
/// without the ffmpeg command line.
fn with_long_video() -> Option<Project> {
    let project = Project::new(3);
    fs::write(project.path("pipeline.yaml"), DECODE).unwrap();
    add_long_video(&project).then_some(project)
}

/// Adds a video that takes seconds to decode. Returns false without the ffmpeg command line.
pub fn add_long_video(project: &Project) -> bool {
    let source = "-f lavfi -i testsrc2=size=1920x1080:rate=25 -t 40 -pix_fmt yuv420p \
                  -c:v libx264 -preset ultrafast";
    let made = ffmpeg(source, &project.path("videos/maze_1_001_long.mp4"));
    if !made {
        println!("skipped: no ffmpeg command line");
    }
    made
}

/// Bytes of frames sent by the decoder before it gets the signal.
const SENT_BYTES: u64 = 40_000;
/// Bytes read by it before the signal. All other videos together are smaller.
const READ_BYTES: u64 = 1 << 20;

/// Waits until a decoder process has sent some frames of the long video, then sends it a signal.
/// Returns its process id.
///
/// A decoder opens no files, because the run reads the video for it. The decoder of the long video
/// is recognised by the number of bytes it has read.
pub fn signal_decoder(run: &Child, video: &str, signal: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut before = BTreeMap::new();
    loop {
        assert!(Instant::now() < deadline, "no process decodes {video}");
        let threads = fs::read_dir(format!("/proc/{}/task", run.id())).unwrap();
        let children = threads
            .filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).ok());
        let children: Vec<String> = children
            .flat_map(|c| c.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        for child in children {
            let read = io_bytes(&child, "rchar: ");
            let written = io_bytes(&child, "wchar: ");
            let (read_before, written_before) =
                *before.entry(child.clone()).or_insert((read, written));
            if read >= read_before + READ_BYTES && written >= written_before + SENT_BYTES {
                kill(&child, signal);
                return child;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns a counter of `/proc/PID/io`, such as `rchar`, the bytes a process has read.
fn io_bytes(process: &str, counter: &str) -> u64 {
    let counts = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
    counts.lines().find_map(|line| line.strip_prefix(counter)?.parse().ok()).unwrap_or(0)
}

/// Sends a process a signal.
pub fn kill(process: &str, signal: &str) {
    assert!(Command::new("kill").args([signal, process]).status().unwrap().success());
}

/// Runs the pipeline and sends its decoder a signal in the middle of the long video.
fn run_with_signal(project: &Project, signal: &str) -> crate::project::CommandOutput {
    let run = project.command(&["run", "pipeline.yaml", "--threads", "1"]).spawn().unwrap();
    signal_decoder(&run, "maze_1_001_long.mp4", signal);
    wait(run)
}

#[test]
fn a_video_that_crashes_its_decoder_is_rejected_and_the_others_are_decoded() {
    let Some(project) = with_long_video() else { return };
    let first = run_with_signal(&project, "-ABRT").success();
    assert!(
        first.stdout.contains("4 videos (4 new)") && first.stdout.contains("1 rejects"),
        "{first:#?}"
    );
    let rejects = project.query("SELECT video, class, reason, frames_kept FROM rejects");
    let reject = &rejects[0];
    let kept = reject["frames_kept"].as_u64().unwrap();
    assert_eq!(
        (&reject["video"], &reject["class"]),
        (&"videos/maze_1_001_long.mp4".into(), &"crashed".into()),
        "{rejects}"
    );
    assert!(reject["reason"].as_str().unwrap().contains("SIGABRT"), "{rejects}");
    assert!((1..1000).contains(&kept), "frames before the crash are kept: {kept}");

    let counts = "SELECT video, count(*) AS n FROM frames GROUP BY video ORDER BY video";
    let after = project.query(counts);
    project.run_changes_nothing(&[]);
    project.run(&["--retry-rejected=crashed"]).success();
    let whole = project.query(counts);
    // 40 seconds of 25 frames.
    assert_eq!(whole[2]["n"], 1000, "{whole}");
    for good in [0, 1, 3] {
        assert_eq!(after[good], whole[good], "another video lost frames");
    }
    assert_eq!(project.query("SELECT * FROM rejects"), serde_json::json!([]));
}

#[test]
fn a_decoder_killed_from_outside_rejects_no_video() {
    let Some(project) = with_long_video() else { return };
    let first = run_with_signal(&project, "-KILL");
    // The exit code for temporary failures: running again may help.
    assert_eq!(first.code, 75, "{first:#?}");
    assert!(
        first
            .stderr
            .contains("maze_1_001_long.mp4: the decoder process ended, signal: 9 (SIGKILL)"),
        "{first:#?}"
    );
    assert!(first.stderr.contains("--decoder-memory-gib"), "{first:#?}");
    let again = project.run(&[]).success();
    assert!(
        again.stdout.contains("4 videos (") && again.stdout.contains("0 rejects"),
        "{again:#?}"
    );
}

#[test]
fn a_video_that_needs_too_much_memory_is_rejected() {
    let project = Project::new(3);
    fs::write(project.path("pipeline.yaml"), DECODE).unwrap();
    let source =
        // A decoded frame has 54 MB.
        "-f lavfi -i testsrc2=size=6000x6000:rate=25 -frames:v 4 -pix_fmt yuv420p -c:v mpeg4";
    if !ffmpeg(source, &project.path("videos/huge.mp4")) {
        println!("skipped: no ffmpeg command line");
        return;
    }
    let run = project.run(&["--threads", "1", "--decoder-memory-gib", "0.08"]).success();
    let rejects = project.query("SELECT video, class FROM rejects");
    assert_eq!(
        rejects,
        serde_json::json!([{"video": "videos/huge.mp4", "class": "out_of_memory"}]),
        "{run:#?}"
    );
    let enough = project.run(&["--retry-rejected"]).success();
    assert!(enough.stdout.contains("0 rejects"), "{enough:#?}");
    let refused = project.run(&["--decoder-memory-gib", "0.001"]);
    assert!(
        refused.stderr.contains("--decoder-memory-gib 0.001: expected at least 0.05"),
        "{refused:#?}"
    );
}
