//! A pipeline in a folder of its own, run by the real binary.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The exit code and output of a finished command.
#[derive(Debug)]
pub struct CommandOutput {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl CommandOutput {
    /// Panics with the whole output unless the command succeeded.
    pub fn success(self) -> CommandOutput {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }
}

/// A temporary folder with `videos/`, a `pipeline.yaml` and its workspace `ws`.
pub struct Project {
    pub folder: tempfile::TempDir,
}

/// A decode, training and labelling pipeline, small enough to train in seconds.
pub const PIPELINE: &str = "
name: test
workspace: ws
seed: 7
holdout: 3
vars: { steps: 4, size: 16 }
stages:
  frames: { decode: { videos: ['videos/*'], size: '${size}', videos_per_shard: 4 } }
  model: { train_dynamics: { frames: frames, steps: '${steps}', batch: 4 } }
  labels: { label: { frames: frames, dynamics: model } }
";

impl Project {
    /// Creates a project with `count` recorded games.
    pub fn new(count: usize) -> Project {
        let project = Project { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(project.path("videos")).unwrap();
        fs::write(project.path("pipeline.yaml"), PIPELINE).unwrap();
        project.add(0..count);
        project
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds some of the recorded games.
    pub fn add(&self, games: std::ops::Range<usize>) {
        for game in games {
            let name = format!("maze_1_{game:03}.mp4");
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/maze").join(&name);
            fs::copy(from, self.path("videos").join(&name)).unwrap();
        }
    }

    /// Returns a command of the binary in this folder, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapo"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the binary and waits for it.
    pub fn lapo(&self, args: &[&str]) -> CommandOutput {
        wait(self.command(args).spawn().unwrap())
    }

    /// Runs the pipeline with additional arguments.
    pub fn run(&self, more: &[&str]) -> CommandOutput {
        self.lapo(&[&["run", "pipeline.yaml"], more].concat())
    }

    /// Returns the rows of a query as JSON.
    pub fn query(&self, sql: &str) -> serde_json::Value {
        let output = self.lapo(&["query", sql, "--workspace", "ws", "--format", "json"]).success();
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// Returns the contents of the files called `name` in the newest version of a stage, in order.
    pub fn files(&self, stage: &str, name: &str) -> Vec<Vec<u8>> {
        let store = lapo::dataset::Store::open(self.path("ws").to_str().unwrap()).unwrap();
        let manifest = lapo::dataset::Manifest::newest(&store, stage).unwrap().unwrap();
        let files = manifest.files(&store).unwrap().into_iter().filter(|f| f.path.ends_with(name));
        files.map(|f| fs::read(self.path("ws").join(&f.path)).unwrap()).collect()
    }

    /// Returns the manifests of all stages with their contents.
    pub fn committed(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        for stage in fs::read_dir(self.path("ws")).unwrap() {
            for manifest in
                fs::read_dir(stage.unwrap().path().join("manifests")).into_iter().flatten()
            {
                let path = manifest.unwrap().path();
                all.insert(path.clone(), fs::read(path).unwrap());
            }
        }
        all
    }

    /// Runs the pipeline. Panics if a task runs or a version is committed.
    pub fn run_changes_nothing(&self, more: &[&str]) -> CommandOutput {
        let before = self.committed();
        let output = self.run(more).success();
        assert!(output.stdout.starts_with("0 tasks"), "{output:#?}");
        let now = self.committed();
        let new: Vec<_> = now
            .iter()
            .filter(|(path, _)| !before.contains_key(*path))
            .map(|(_, bytes)| String::from_utf8_lossy(bytes))
            .collect();
        assert!(now == before, "a version was committed: {output:#?} {new:#?}");
        output
    }

    /// Returns the number of new and re-used tasks of each stage, as `lapo plan` prints them.
    pub fn planned(&self, more: &[&str]) -> BTreeMap<String, (u64, u64)> {
        let output =
            self.lapo(&[&["plan", "pipeline.yaml", "--format", "json"], more].concat()).success();
        let plans: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        let plan = |p: &serde_json::Value| {
            (
                p["stage"].as_str().unwrap().into(),
                (p["new"].as_u64().unwrap(), p["reused"].as_u64().unwrap()),
            )
        };
        plans.as_array().unwrap().iter().map(plan).collect()
    }

    /// Returns the ids of the worker processes of this project's workspace.
    pub fn workers(&self) -> Vec<String> {
        let pattern = format!("worker --plan {}", self.path("ws").display());
        let found = Command::new("pgrep").args(["-f", &pattern]).output().unwrap();
        String::from_utf8_lossy(&found.stdout).lines().map(str::to_owned).collect()
    }
}

/// Waits for a process and returns its exit code and output.
pub fn wait(child: Child) -> CommandOutput {
    let output = child.wait_with_output().unwrap();
    CommandOutput {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into(),
        stderr: String::from_utf8_lossy(&output.stderr).into(),
    }
}

/// Writes a video of `frames` frames as plain YUV. Videos of different lengths share no content.
pub fn clip(path: &Path, frames: usize) {
    let mut bytes = b"YUV4MPEG2 W16 H16 F15:1 Ip A1:1 C420jpeg\n".to_vec();
    for frame in 0..frames {
        bytes.extend_from_slice(b"FRAME\n");
        bytes
            .extend((0..256).map(|at| ((at % 16 + frame * 3 + at / 16 * frames) * 16 % 256) as u8));
        // Grey chroma planes.
        bytes.extend([128; 128]);
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
