//! Scene cuts: films joined from real recordings are split into episodes at the known joins.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::{Rng, SeedableRng, seq::SliceRandom};

use crate::project::Project;

/// Returns an ffmpeg command with bounded memory.
fn ffmpeg(args: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("ulimit -v 4000000; ffmpeg -v error -y {args}")]);
    command
}

/// Joins pieces of the recordings into one film. Returns the frame at which every join lies.
fn join(recordings: &[PathBuf], film: &Path, rng: &mut impl Rng) -> BTreeSet<u64> {
    let args = format!(
        "-f rawvideo -pix_fmt rgb24 -s 64x64 -r 15 -i - -c:v libx264 -crf 14 -pix_fmt yuv444p '{}'",
        film.display()
    );
    let mut encoder = ffmpeg(&args).stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = encoder.stdin.take().unwrap();
    let mut frames = 0;
    let mut joins = BTreeSet::new();
    for recording in recordings {
        let raw = ffmpeg(&format!(
            "-i '{}' -vf scale=64:64 -f rawvideo -pix_fmt rgb24 -",
            recording.display()
        ))
        .output()
        .unwrap()
        .stdout;
        let whole: Vec<&[u8]> = raw.chunks_exact(64 * 64 * 3).collect();
        // Too short for a piece.
        if whole.len() < 8 {
            continue;
        }
        let from = rng.random_range(0..=(whole.len() - 8) / 2);
        let until = rng.random_range(from + 8..=whole.len().min(from + 100));
        joins.extend((frames > 0).then_some(frames));
        for frame in &whole[from..until] {
            pipe.write_all(frame).unwrap();
        }
        frames += (until - from) as u64;
    }
    drop(pipe);
    assert!(encoder.wait().unwrap().success());
    joins
}

#[test]
fn episodes_begin_at_the_joins_of_real_recordings() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let recordings_of = |game: &str| {
        let entries = fs::read_dir(data.join(game)).unwrap().map(|entry| entry.unwrap().path());
        let mut recordings: Vec<PathBuf> =
            entries.filter(|path| path.extension().is_some_and(|e| e == "mp4")).collect();
        recordings.sort();
        recordings
    };
    let project = Project::new(0);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(std::process::id().into());
    let mut known = BTreeSet::new();
    let mut found = BTreeSet::new();
    for film in 0..4 {
        let mut recordings =
            [recordings_of("maze"), recordings_of("bigfish"), recordings_of("coinrun")].concat();
        recordings.shuffle(&mut rng);
        // Two films mix all games. The other two have only mazes, which look alike.
        recordings.retain(|path| film < 2 || path.starts_with(data.join("maze")));
        recordings.sort_by_key(|path| film < 2 && path.starts_with(data.join("maze")));
        recordings.truncate(28);
        recordings.shuffle(&mut rng);
        let name = format!("videos/{film}.mkv");
        known.extend(
            join(&recordings, &project.path(&name), &mut rng)
                .into_iter()
                .map(|at| (name.clone(), at)),
        );
    }
    let decode_only =
        "name: cuts\nworkspace: ws\nstages:\n  frames: { decode: { videos: ['videos/*'] } }\n";
    fs::write(project.path("pipeline.yaml"), decode_only).unwrap();
    project.run(&[]).success();
    let firsts = project
        .query("SELECT video, episode, min(frame_index) AS at FROM frames GROUP BY video, episode");
    for row in firsts.as_array().unwrap() {
        let at = row["at"].as_u64().unwrap();
        found.extend((at > 0).then(|| (row["video"].as_str().unwrap().to_owned(), at)));
    }
    let correct = found.intersection(&known).count() as f64;
    // Recall: joins that were found. Precision: found cuts that are joins.
    let (recall, precision) = (correct / known.len() as f64, correct / found.len() as f64);
    println!("{} joins, recall {recall:.3}, precision {precision:.3}", known.len());
    assert!(
        known.len() >= 60 && recall >= 0.95 && precision >= 0.95,
        "recall {recall:.3}, precision {precision:.3}"
    );
}
