//! Renamed, moved and swapped videos keep their decoded frames and get their current names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::project::{Project, clip};

const PIPELINE: &str = "
name: names
workspace: ws
vars: { file: none.csv }
holdout: 0
stages:
  frames: { decode: { videos: ['videos/**/*.y4m'], size: 16, cut: null,
      videos_per_shard: 4, max_dropped: 1 } }
  model: { train_dynamics: { frames: frames, preset: tiny, steps: 2, batch: 2 } }
  labels: { label: { frames: frames, dynamics: model } }
";

fn project() -> Project {
    let project = Project::new(0);
    fs::write(project.path("pipeline.yaml"), PIPELINE).unwrap();
    project
}

/// Returns the columns `video` and `n` of a query.
fn counts(project: &Project, sql: &str) -> BTreeMap<String, u64> {
    let rows = project.query(sql);
    let count = |row: &serde_json::Value| {
        (row["video"].as_str().unwrap().to_owned(), row["n"].as_u64().unwrap())
    };
    let found: BTreeMap<_, _> = rows.as_array().unwrap().iter().map(count).collect();
    assert_eq!(found.len(), rows.as_array().unwrap().len(), "a name occurs twice: {rows}");
    found
}

/// The videos in the folder. No two contents ever have the same number of frames.
struct Folder<'a> {
    project: &'a Project,
    /// Number of frames by name.
    videos: BTreeMap<String, u64>,
    /// Numbers of frames of all decoded contents.
    seen: BTreeSet<u64>,
    /// Number of frames of the newest content.
    newest: u64,
}

impl Folder<'_> {
    fn random_name(rng: &mut ChaCha8Rng) -> String {
        format!("videos/{}/{}.y4m", ["a", "b", "c"].choose(rng).unwrap(), rng.random_range(0..40))
    }

    /// Writes a video with new content.
    fn write_new(&mut self, name: &str) {
        self.newest += 1;
        clip(&self.project.path(name), self.newest as usize);
        self.videos.insert(name.to_owned(), self.newest);
    }

    fn rename(&mut self, from: &str, to: &str) {
        fs::create_dir_all(self.project.path(to).parent().unwrap()).unwrap();
        fs::rename(self.project.path(from), self.project.path(to)).unwrap();
        let frames = self.videos.remove(from).unwrap();
        self.videos.insert(to.to_owned(), frames);
    }

    fn swap(&mut self, one: &str, other: &str) {
        // Swaps by way of a third name.
        self.rename(one, "videos/a/swapped.y4m");
        if one != other {
            self.rename(other, one);
        }
        self.rename("videos/a/swapped.y4m", other);
    }

    /// Makes one random change: a new, renamed, swapped, rotated, removed or replaced video.
    fn change(&mut self, rng: &mut ChaCha8Rng) {
        let names: Vec<String> = self.videos.keys().cloned().collect();
        let one = names.choose(rng).unwrap().clone();
        let other = names.choose(rng).unwrap().clone();
        match rng.random_range(0..7) {
            0 => {
                let name = Self::random_name(rng);
                self.write_new(&name);
            }
            1 => {
                let to = Self::random_name(rng);
                self.rename(&one, &to);
            }
            2 => self.swap(&one, &other),
            // A rotated recording: the newest file always has the same name.
            3 => {
                let old = format!("{}.1.y4m", one.trim_end_matches(".y4m"));
                self.rename(&one, &old);
                self.write_new(&one);
            }
            4 if names.len() > 15 => {
                fs::remove_file(self.project.path(&one)).unwrap();
                self.videos.remove(&one);
            }
            5 => self.write_new(&one),
            _ => self.swap(&other, &one),
        }
    }

    /// Runs the pipeline and compares all tables with the folder.
    fn check(&mut self, step: usize) {
        let output = self.project.run(&[]).success();
        let new = self.videos.values().filter(|frames| self.seen.insert(**frames)).count();
        assert!(
            output.stdout.contains(&format!("{} videos ({new} new)", self.videos.len())),
            "step {step}, {new} new: {output:#?}"
        );
        assert_eq!(
            counts(self.project, "SELECT video, count(*) AS n FROM frames GROUP BY video"),
            self.videos,
            "step {step}"
        );
        assert_eq!(
            counts(self.project, "SELECT video, frames AS n FROM videos"),
            self.videos,
            "step {step}"
        );
        // A window has three frames, so a video has two labels less than frames.
        let labels = self.videos.iter().map(|(name, frames)| (name.clone(), frames - 2)).collect();
        assert_eq!(
            counts(
                self.project,
                "SELECT video, count(DISTINCT frame_index) AS n FROM labels GROUP BY video"
            ),
            labels,
            "step {step}"
        );
    }
}

#[test]
fn tables_follow_random_renames_and_only_new_content_is_decoded() {
    let project = project();
    let mut rng = ChaCha8Rng::seed_from_u64(36);
    let mut folder =
        Folder { project: &project, videos: BTreeMap::new(), seen: BTreeSet::new(), newest: 5 };
    for number in 0..20 {
        folder.write_new(&format!("videos/a/{number}.y4m"));
    }
    folder.check(0);
    for step in 1..50 {
        for _ in 0..rng.random_range(1..4) {
            folder.change(&mut rng);
        }
        folder.check(step);
    }
    project.run_changes_nothing(&[]);
    // A new workspace gets the same frames.
    let rows = "SELECT video, episode, frame_index, time_s FROM frames ORDER BY video, frame_index";
    let here = project.query(rows);
    fs::rename(project.path("ws"), project.path("old")).unwrap();
    project.run(&["--only", "frames"]).success();
    assert_eq!(project.query(rows), here);
}

/// Changes the bytes but not the size and time, so only reading the file can show it.
#[test]
fn a_renamed_video_is_not_read_again() {
    let project = project();
    for number in 0..4 {
        clip(&project.path(&format!("videos/{number}.y4m")), 6 + number);
    }
    project.run(&[]).success();
    let digests = "SELECT digest FROM videos ORDER BY digest";
    let before = project.query(digests);
    fs::rename(project.path("videos/0.y4m"), project.path("videos/new.y4m")).unwrap();
    let path = project.path("videos/new.y4m");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let file = File::options().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut &file, &bytes).unwrap();
    file.set_modified(modified).unwrap();
    let output = project.run(&[]).success();
    assert!(output.stdout.contains("4 videos (0 new)"), "{output:#?}");
    assert_eq!(project.query(digests), before);
    let names = counts(&project, "SELECT video, frames AS n FROM videos");
    assert!(
        names.contains_key("videos/new.y4m") && !names.contains_key("videos/0.y4m"),
        "{names:?}"
    );
    project.run_changes_nothing(&[]);
}

/// Every action of a video is its number of frames, before and after the swap.
#[test]
fn true_actions_of_swapped_videos_follow_their_frames() {
    let project = project();
    let yaml = PIPELINE.replace("dynamics: model }", "dynamics: model, actions: actions }");
    fs::write(
        project.path("pipeline.yaml"),
        yaml + "  actions: { import_actions: { frames: frames, file: '${file}' } }\n",
    )
    .unwrap();
    let videos = [("a", 6_usize), ("b", 9)];
    for (name, frames) in videos {
        clip(&project.path(&format!("videos/{name}.y4m")), frames);
    }
    let write_actions = |file: &str, videos: &[(&str, usize)]| {
        let rows = videos.iter().flat_map(|(name, frames)| {
            (0..*frames).map(move |frame| format!("videos/{name}.y4m,{frame},{frames}\n"))
        });
        fs::write(
            project.path(file),
            format!("video,frame_index,action\n{}", rows.collect::<String>()),
        )
        .unwrap();
    };
    write_actions("before.csv", &videos);
    write_actions("after.csv", &[("b", 6), ("a", 9)]);
    project.run(&["--set", "file=before.csv"]).success();
    fs::rename(project.path("videos/a.y4m"), project.path("t")).unwrap();
    fs::rename(project.path("videos/b.y4m"), project.path("videos/a.y4m")).unwrap();
    fs::rename(project.path("t"), project.path("videos/b.y4m")).unwrap();
    project.run(&["--set", "file=after.csv"]).success();
    let actions = project.query(
        "SELECT video, min(true_action) AS least, max(true_action) AS most, count(*) AS n \
         FROM labels GROUP BY video",
    );
    for row in actions.as_array().unwrap() {
        let frames = if row["video"] == "videos/a.y4m" { 9 } else { 6 };
        assert_eq!(
            (row["least"].as_u64(), row["most"].as_u64(), row["n"].as_u64()),
            (Some(frames), Some(frames), Some(frames - 2)),
            "{actions}"
        );
    }
}
