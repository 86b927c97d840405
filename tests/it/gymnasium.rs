//! Gymnasium: environments are recorded, cloned, decoded and played by the real binary, beside
//! plain Python loops.
//!
//! `LAPO_PYTHON` names a Python with Gymnasium and MiniGrid.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::project::{CommandOutput, Project, wait};
use crate::python::passes;

/// The module `point_world`: a point moves by a continuous action, and is drawn.
const POINT_WORLD: &str = include_str!("point_world.py");

/// MiniGrid draws 32 x 32 pixels here, so that frames are not scaled.
const MINIGRID: &str = "
name: grid
workspace: ws
seed: 5
vars: { steps: 40 }
holdout: 3
stages:
  play: { record: { game: GRID, player: sticky, episodes: 10, episodes_per_shard: 5, size: 32 } }
  model: { train_dynamics: { frames: play, steps: 4, batch: 4 } }
  labels: { label: { frames: play, dynamics: model, actions: play } }
  policy: { train_policy: { labels: labels, steps: 4, batch: 8 } }
  decoder: { train_decoder: { labels: labels, actions: play, transitions: [16, 32], draws: 1,
      steps: 20, hidden: [8] } }
  score: { evaluate: { policy: policy, decoder: decoder, game: GRID, episodes: 5, envs: 2 } }
  agent: { finetune: { policy: policy, dynamics: model, game: GRID, steps: '${steps}', envs: 2,
      rollout: 4, minibatches: 2 } }
  end: { evaluate: { agent: agent, game: GRID, episodes: 2, envs: 2 } }
  again: { record: { game: GRID, player: policy, policy: policy, decoder: decoder, episodes: 2,
      size: 32, noise: 0.2, max_frames: 9 } }
";
const GRID: &str = "{ gymnasium: MiniGrid-FourRooms-v0, imports: [minigrid], \
                    make: { tile_size: 2, max_steps: 12 } }";

/// The point's world draws 24 rows of 32 pixels.
const POINTS: &str = "
name: points
workspace: ws
seed: 5
holdout: 3
stages:
  play: { record: { game: WORLD, player: PLAYER, episodes: 6, episodes_per_shard: 6, size: 32,
      fit: pad } }
  model: { train_dynamics: { frames: play, steps: 4, batch: 4 } }
  labels: { label: { frames: play, dynamics: model } }
  policy: { train_policy: { labels: labels, steps: 4, batch: 8 } }
  decoder: { train_decoder: { labels: labels, actions: play, transitions: [16], draws: 1,
      steps: 20, hidden: [8] } }
  score: { evaluate: { policy: policy, decoder: decoder, game: WORLD, episodes: 4, envs: 3,
      fit: pad, labels: labels, actions: play } }
  again: { record: { game: WORLD, player: policy, policy: policy, decoder: decoder, episodes: 2,
      size: 32, fit: pad } }
";
const WORLD: &str = "{ gymnasium: Point-v0, imports: [point_world] }";

/// Takes the recorded actions again in a plain loop and compares every frame and reward.
const REPLAY: &str = r#"
import sys
import gymnasium, numpy as np, pyarrow as pa, pyarrow.parquet as pq

shard, actions, name, module, top, arguments, reads_seed = sys.argv[1:]
__import__(module)
env = gymnasium.make(name, render_mode="rgb_array", **eval(arguments))
shard = pa.ipc.open_file(shard).read_all()
pixels = np.stack(shard["pixels"].to_numpy()).reshape(-1, 32, 32, 3)
table = pq.read_table(actions)
assert table["video"].to_pylist() == shard["video"].to_pylist()
top = int(top)
rows = 32 - 2 * top
assert not pixels[:, :top].any() and not pixels[:, top + rows:].any(), "the bars are black"
taken = 0
for row in table.to_pylist():
    if row["frame_index"] == 0:
        # Finds the episode's start: a few seeds or, in this world, the first pixels.
        env.reset(seed=int(pixels[taken, top, 0, 0]) if reads_seed == "yes" else 0)
    assert np.array_equal(pixels[taken, top:top + rows], env.render()), (taken, row)
    action = row["action"]
    if isinstance(action, list):
        action = np.array(action, np.float32)
        assert env.action_space.contains(action), action
    reward = env.step(action)[1]
    assert abs(reward - row["reward"]) < 1e-9, (reward, row)
    taken += 1
assert taken == len(pixels) >= 20, taken
"#;

/// A project, with the virtual environment that plays and the folder of its Python modules.
struct World {
    project: Project,
    venv: PathBuf,
}

impl World {
    /// Creates a project, or returns `None` without a Python with Gymnasium.
    fn new(pipeline: &str) -> Option<World> {
        passes("import gymnasium, minigrid", [] as [&str; 0])?;
        let python = PathBuf::from(std::env::var_os("LAPO_PYTHON")?);
        let project = Project::new(0);
        fs::write(project.path("point_world.py"), POINT_WORLD).unwrap();
        fs::write(project.path("pipeline.yaml"), pipeline).unwrap();
        Some(World { project, venv: python.parent().and_then(Path::parent)?.into() })
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.project.command(args);
        command.env("LAPO_GYMNASIUM", &self.venv).env("PYTHONPATH", self.project.folder.path());
        command
    }

    fn run(&self, more: &[&str]) -> CommandOutput {
        wait(self.command(&[&["run", "pipeline.yaml"], more].concat()).spawn().unwrap())
    }

    /// Runs the pipeline again. Panics if a task runs or a version is committed.
    fn run_changes_nothing(&self) {
        let before = self.project.committed();
        let output = self.run(&[]).success();
        assert!(output.stdout.starts_with("0 tasks"), "{output:#?}");
        assert!(self.project.committed() == before, "a version was committed: {output:#?}");
    }

    /// Runs the pipeline with a replacement, and returns its error.
    fn error_after(&self, pipeline: &str, from: &str, to: &str) -> String {
        assert!(pipeline.contains(from), "{from}");
        fs::write(self.project.path("pipeline.yaml"), pipeline.replacen(from, to, 1)).unwrap();
        let output = self.run(&[]);
        assert_eq!(output.code, 1, "{output:#?}");
        output.stderr
    }

    /// Compares the recorded episodes of a stage with a plain loop.
    fn assert_replayed(&self, stage: &str, arguments: [&str; 5]) {
        let store = lapo::dataset::Store::open(self.project.path("ws").to_str().unwrap()).unwrap();
        let manifest = lapo::dataset::Manifest::newest(&store, stage).unwrap().unwrap();
        let folder = self.project.folder.path().display().to_string();
        let script = format!("import sys\nsys.path.insert(0, {folder:?})\n{REPLAY}");
        for receipt in manifest.receipts(&store).unwrap() {
            let path = |end: &str| {
                let file = receipt.files.iter().find(|file| file.path.ends_with(end)).unwrap();
                self.project.path("ws").join(&file.path).display().to_string()
            };
            let files = [path("shard.arrow"), path("actions.parquet")];
            passes(&script, files.into_iter().chain(arguments.map(str::to_owned)));
        }
    }
}

#[test]
fn minigrid_is_recorded_cloned_decoded_finetuned_and_evaluated() {
    let pipeline = MINIGRID.replace("GRID", GRID);
    let Some(world) = World::new(&pipeline) else { return };
    world.run(&[]).success();
    world.run_changes_nothing();
    let project = &world.project;
    let counts = project.query(
        "SELECT player, count(*) AS n, count(DISTINCT level) AS levels FROM score \
         GROUP BY player ORDER BY player",
    );
    // Two decoders play the five episodes that random actions play.
    let row = |player, n| json!({ "player": player, "n": n, "levels": 5 });
    assert_eq!(counts, json!([row("policy", 10), row("random", 5)]));
    let ends = project.query("SELECT DISTINCT \"end\" AS e FROM score WHERE length = 12");
    assert_eq!(ends, json!([{ "e": "truncated" }]));
    let evaluation: serde_json::Value =
        serde_json::from_slice(&project.files("score", "evaluation.json")[0]).unwrap();
    assert_eq!(evaluation["game"], "MiniGrid-FourRooms-v0");
    assert!(evaluation.get("published").is_none(), "{evaluation}");
    let kinds = project.query("SELECT max(true_action) AS most FROM labels");
    assert!(kinds[0]["most"].as_u64().unwrap() < 7, "{kinds}");
    let videos = project.query("SELECT min(video) AS first FROM play");
    assert_eq!(videos[0]["first"], "MiniGrid-FourRooms-v0/5/000000");
    // Episodes end where the environment ends them, or at `max_frames`.
    let lengths = "SELECT max(n) AS n FROM (SELECT count(*) AS n FROM play GROUP BY video)";
    assert_eq!(project.query(lengths), json!([{ "n": 12 }]));
    assert_eq!(project.query(&lengths.replace("play", "again")), json!([{ "n": 9 }]));

    // Another run on another number of cores gives the same bytes; more episodes are new tasks.
    let again = World::new(&pipeline).unwrap();
    again.run(&["--threads", "1"]).success();
    for (stage, file) in [
        ("play", "shard.arrow"),
        ("play", "actions.parquet"),
        ("score", "episodes.parquet"),
        ("agent", "agent.safetensors"),
        ("again", "shard.arrow"),
    ] {
        assert!(project.files(stage, file) == again.project.files(stage, file), "{stage}/{file}");
    }
    fs::write(project.path("pipeline.yaml"), pipeline.replace("episodes: 10", "episodes: 12"))
        .unwrap();
    assert_eq!(project.planned(&[])["play"], (1, 2));
}

#[test]
fn frames_and_rewards_of_minigrid_are_those_of_a_plain_loop() {
    // This room always starts alike, so that actions alone bring back every frame.
    let game = GRID.replace("FourRooms-v0", "Empty-8x8-v0").replace("size: 2", "size: 4");
    let pipeline = MINIGRID.replace("GRID", &game);
    let pipeline = pipeline.split("  model:").next().unwrap();
    let Some(world) = World::new(pipeline) else { return };
    world.run(&[]).success();
    let name = "MiniGrid-Empty-8x8-v0";
    let make = "dict(tile_size=4, max_steps=12)";
    world.assert_replayed("play", [name, "minigrid", "0", make, "no"]);
}

#[test]
fn continuous_actions_are_recorded_decoded_and_played_within_their_bounds() {
    let pipeline = POINTS.replace("WORLD", WORLD);
    for (player, head) in [("random", "mse"), ("sticky", "gaussian")] {
        let pipeline = pipeline.replace("PLAYER", player);
        let pipeline = pipeline.replace("hidden: [8]", &format!("hidden: [8], head: {head}"));
        let Some(world) = World::new(&pipeline) else { return };
        world.run(&[]).success();
        world.run_changes_nothing();
        for stage in ["play", "again"] {
            world.assert_replayed(stage, ["Point-v0", "point_world", "4", "{}", "yes"]);
        }
        let project = &world.project;
        let scores = project
            .query("SELECT player, count(*) AS n FROM score GROUP BY player ORDER BY player");
        let row = |player| json!({ "player": player, "n": 4 });
        assert_eq!(scores, json!([row("policy"), row("random")]));
        let r2 = project.query("SELECT r2 FROM decoder");
        assert!(r2[0]["r2"].is_number(), "{r2}");
    }
}

#[test]
fn networks_for_other_actions_than_the_games_are_errors() {
    let pipeline = POINTS.replace("WORLD", WORLD).replace("PLAYER", "random");
    let Some(world) = World::new(&pipeline) else { return };
    let score = format!("game: {WORLD}, episodes: 4");
    let discrete = score.replace(WORLD, GRID);
    let error = world.error_after(&pipeline, &score, &discrete);
    let message = "decodes to 2 continuous values, but MiniGrid-FourRooms-v0 takes 7 discrete";
    assert!(error.contains(message) && error.contains("`train_decoder`"), "{error}");
    let wider = score.replace("[point_world]", "[point_world], make: { axes: 3 }");
    let error = world.error_after(&pipeline, &score, &wider);
    let message = "decodes to 2 continuous values, but Point-v0 takes continuous actions of 3";
    assert!(error.contains(message), "{error}");
    let tuned = format!("{pipeline}  agent: {{ finetune: {{ from_scratch: true, game: {WORLD},\n");
    let tuned = tuned + "      size: 16, steps: 16, envs: 2, rollout: 4, minibatches: 2 } }\n";
    let error = world.error_after(&tuned, "agent", "agent");
    let message = "Point-v0 takes continuous actions of 2 values, but `finetune` trains discrete";
    assert!(error.contains(message) && error.contains("`evaluate`"), "{error}");
}

#[test]
fn wrong_settings_of_a_game_are_faults_with_their_places() {
    let pipeline = POINTS.replace("WORLD", WORLD).replace("PLAYER", "random");
    let Some(world) = World::new(&pipeline) else { return };
    let play = "player: random, episodes";
    for (from, to, expected) in [
        ("imports: [point", "import: [point", "play.record.game.import: unknown field `import`"),
        ("imports: [point_world]", "imports: 3", "play.record.game.imports: invalid type"),
        ("gymnasium: Point-v0", "gymnasium: ''", "play.record.game: has no name"),
        (WORLD, "[maze]", "play.record.game: invalid type: sequence, expected the name of a"),
        (WORLD, "tetris", "play.record.game: unknown variant `tetris`"),
        ("Point-v0", "a, make: { render_mode: b }", "play.record.game: sets `render_mode`"),
        ("Point-v0", "a, timeout_secs: 0", "play.record.game: has a `timeout_secs` of 0"),
        (WORLD, "maze", "play.record.fit: is not used by Procgen"),
        (play, "player: expert, episodes", "play.record.player: cannot play Point-v0"),
        (play, "mode: hard, player: random, episodes", "play.record.mode: is not used by Gymnas"),
        (play, "levels: { count: 3 }, player: random, episodes", "play.record.levels: are not"),
        ("size: 32", "size: 4", "play.record.size: is 4"),
    ] {
        let error = world.error_after(&pipeline, from, to);
        assert!(error.contains(&format!("stages.{expected}")), "{expected}: {error}");
    }
}

#[test]
fn an_environment_that_dies_ends_the_run_with_its_last_words() {
    let pipeline = POINTS.replace(
        "WORLD",
        "{ gymnasium: Point-v0, imports: [point_world], \
                                            make: { falls_at: 4 } }",
    );
    let Some(world) = World::new(&pipeline.replace("PLAYER", "random")) else { return };
    let output = world.run(&[]);
    let message = "Point-v0: its Python process ended (exit status: 9): the point fell off";
    assert!(output.code != 0 && output.stderr.contains(message), "{output:#?}");
    assert!(output.stderr.contains("play it in Python to see why"), "{output:#?}");
    assert!(world.project.committed().is_empty());
}

#[test]
fn python_ends_with_a_killed_run_even_in_a_step_that_hangs() {
    let game = WORLD.replace("world] }", "world], make: { hangs: pid } }");
    let pipeline = POINTS.replace("WORLD", &game).replace("PLAYER", "random");
    let Some(world) = World::new(&pipeline) else { return };
    let mut child = world.command(&["run", "pipeline.yaml"]).spawn().unwrap();
    let started = Instant::now();
    let until = |holds: &dyn Fn() -> bool| {
        while !holds() {
            assert!(started.elapsed() < Duration::from_secs(60), "it takes too long");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let pid = || fs::read_to_string(world.project.path("pid")).unwrap_or_default();
    until(&|| pid().ends_with('\n'));
    // A process that has ended has no command line, even before its parent asks for it.
    let command = Path::new("/proc").join(pid().trim()).join("cmdline");
    let runs = || fs::read(&command).is_ok_and(|line| !line.is_empty());
    assert!(runs());
    child.kill().unwrap();
    child.wait().unwrap();
    until(&|| !runs());
}

#[test]
fn a_killed_finetuning_of_gymnasium_resumes_to_the_same_bytes() {
    let pipeline = MINIGRID.replace("GRID", GRID).replace("steps: 40", "steps: 400");
    let Some(whole) = World::new(&pipeline) else { return };
    whole.run(&[]).success();
    let killed = World::new(&pipeline).unwrap();
    let args = ["run", "pipeline.yaml", "--checkpoint-secs", "0"];
    let mut child = killed.command(&args).spawn().unwrap();
    let checkpoints = killed.project.path("ws/agent/checkpoints");
    let has_checkpoint = || {
        let keys = fs::read_dir(&checkpoints).into_iter().flatten().flatten();
        keys.flat_map(|key| fs::read_dir(key.path()).into_iter().flatten()).count() > 0
    };
    while !has_checkpoint() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    killed.run(&[]).success();
    for file in ["agent.safetensors", "metrics.parquet"] {
        assert!(
            whole.project.files("agent", file) == killed.project.files("agent", file),
            "{file}"
        );
    }
}
