//! The videos, the model and the expected results of a schedule.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use super::{VIDEOS, options, resources};
use crate::dataset::{Access, Manifest, Shards, Store};
use crate::pipeline::check::{Checked, check};
use crate::pipeline::reporter::SilentReporter;
use crate::pipeline::run::run;
use crate::query;

/// A folder with videos, and a pipeline that decodes and labels them.
pub(super) struct World {
    pub folder: tempfile::TempDir,
    pipeline: String,
}

impl World {
    /// Creates a folder without videos.
    pub fn new(weights: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("videos")).unwrap();
        let videos = folder.path().join("videos").display().to_string();
        let pipeline = format!(
            "
name: test
workspace: nowhere
stages:
  frames: {{ decode: {{ videos: ['{videos}/*'], size: 16, videos_per_shard: 2 }} }}
  model: {{ import_dynamics: {{ weights: '{}' }} }}
  labels: {{ label: {{ frames: frames, dynamics: model }} }}
",
            weights.display()
        );
        World { folder, pipeline }
    }

    pub fn checked(&self) -> Checked {
        check("p.yaml", &self.pipeline, &[], &Access::default()).unwrap()
    }

    /// Returns the path of a video, which may be absent.
    pub fn video(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("videos/{number}.mp4"))
    }

    /// Copies a video into the folder.
    pub fn add(&self, number: usize) {
        let from =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/maze/maze_1_{number:03}.mp4"));
        // Copied aside and renamed: a run never sees half a video.
        let partial = self.folder.path().join(format!("{number}.part"));
        fs::copy(from, &partial).unwrap();
        fs::rename(partial, self.video(number)).unwrap();
    }

    /// Returns the numbers of the present videos.
    pub fn present(&self) -> BTreeSet<usize> {
        (0..VIDEOS).filter(|number| self.video(*number).exists()).collect()
    }
}

/// Trains networks for frames of 16 x 16 and returns the path of the weights.
pub(super) fn train_weights(folder: &Path) -> PathBuf {
    let world = World::new(Path::new("none"));
    for number in 0..3 {
        world.add(number);
    }
    // The same pipeline, but with a training of two steps in place of the imported model.
    let text = world.pipeline.replace(
        "import_dynamics: { weights: 'none' }",
        "train_dynamics: { frames: frames, steps: 2, batch: 4 }",
    );
    let store = Store::open(folder.join("trained").to_str().unwrap()).unwrap();
    let checked = check("p.yaml", &text, &[], &Access::default()).unwrap();
    run(&checked, &store, &options(), &resources(), &SilentReporter).unwrap();
    let files = Manifest::newest(&store, "model").unwrap().unwrap().files(&store).unwrap();
    let model = files.iter().find(|file| file.path.ends_with("model.safetensors")).unwrap();
    store.local_path(&model.path).unwrap().unwrap()
}

/// Returns the rows of the newest labels, each with its video. Returns none if there are no labels
/// yet.
pub(super) fn label_rows(store: &Store) -> query::Result<Vec<(String, String)>> {
    let sql = "SELECT * FROM labels ORDER BY video, frame_index";
    let answer = match query::answer(store, sql, &query::Versions::default()) {
        Err(query::Error::EmptyWorkspace | query::Error::NoTable { .. }) => return Ok(vec![]),
        Err(query::Error::Dataset(crate::dataset::Error::NoWorkspace { .. })) => return Ok(vec![]),
        answer => answer?,
    };
    let mut lines = Vec::new();
    answer.write(query::Format::JsonLines, None, &mut lines)?;
    let rows = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| {
        let mut row: serde_json::Value = serde_json::from_slice(line).unwrap();
        let video = row["video"].take();
        // Both depend on the order of arrival: a shard's digest covers the folder's name, and
        // videos that arrive together share a shard.
        row["shard"] = serde_json::Value::Null;
        row["row"] = serde_json::Value::Null;
        (video.as_str().unwrap().to_owned(), row.to_string())
    });
    Ok(rows.collect())
}

/// The digests of the frames and of the labels of every video, by its file name.
pub(super) type Results = BTreeMap<String, (String, String)>;

/// Returns the results in the newest versions of a workspace.
pub(super) fn results(store: &Store) -> Results {
    let files = Manifest::newest(store, "frames").unwrap().unwrap().files(store).unwrap();
    let shards: Vec<_> = files.into_iter().filter(|file| file.path.ends_with(".arrow")).collect();
    let count = shards.len();
    let shards = Shards::open_files(store, &shards).unwrap();
    let mut frames = HashMap::<String, blake3::Hasher>::new();
    for number in 0..count {
        let shard = shards.shard(number).unwrap();
        for episode in shard.episodes() {
            let hasher = frames.entry(episode.digest.clone()).or_default();
            for row in episode.first_row..episode.first_row + episode.len {
                hasher.update(shard.pixels(row));
            }
        }
    }
    let mut labels = HashMap::<String, blake3::Hasher>::new();
    for (video, row) in label_rows(store).unwrap() {
        labels.entry(video).or_default().update(row.as_bytes());
    }
    let videos = Manifest::newest(store, "frames").unwrap().unwrap().videos(store).unwrap();
    let digest = |hasher: Option<blake3::Hasher>| hasher.unwrap().finalize().to_hex().to_string();
    let mut results = Results::new();
    for video in videos {
        let name = video.uri.rsplit('/').next().unwrap().to_owned();
        let frames = digest(frames.remove(&video.digest));
        let labels = digest(labels.remove(&video.uri));
        results.insert(name, (frames, labels));
    }
    results
}
