//! Procgen: our environments step exactly as its Python package, and stages record and play games.
//!
//! `LAPO_PROCGEN` names a virtual environment with Python and `procgen-mirror`.
//! Without it, these tests are skipped with a note.

use std::path::PathBuf;
use std::process::Command;

use lapo::envs::{
    Action, End, Game, Levels, Mode, Procgen, ProcgenConfig, ProcgenPackage, VecEnv, maze,
};

const ENVS: usize = 3;
const STEPS: usize = 200;

/// Plays games with the actions of `actions` and writes frames, rewards, episode starts and levels.
const PLAY: &str = r#"
import sys, numpy as np
from procgen import ProcgenGym3Env
out, envs, steps, mode, *games = sys.argv[1:]
for number, game in enumerate(games):
    env = ProcgenGym3Env(num=int(envs), env_name=game, distribution_mode=mode, num_levels=50,
                         start_level=7, rand_seed=number, num_threads=2)
    with open(f"{out}/{game}", "wb") as file:
        for step in range(int(steps)):
            reward, ob, first = env.observe()
            level = [info["level_seed"] for info in env.get_info()]
            for part in (ob["rgb"], reward.astype("<f4"), first.astype(np.uint8),
                         np.array(level, "<i4")):
                file.write(part.tobytes())
            act = [(7 * step + 5 * i + step * step // 3) % 15 for i in range(int(envs))]
            env.act(np.array(act, dtype=np.int32))
"#;

/// Returns the actions of a step; `PLAY` computes the same ones.
fn actions(step: usize) -> [Action; ENVS] {
    std::array::from_fn(|env| {
        Action::Discrete(((7 * step + 5 * env + step * step / 3) % 15) as u32)
    })
}

/// Returns the virtual environment with Procgen, or `None` if there is none.
pub fn venv() -> Option<PathBuf> {
    let found = std::env::var_os("LAPO_PROCGEN").map(PathBuf::from);
    if found.is_none() {
        eprintln!("skipped: LAPO_PROCGEN names no virtual environment with procgen-mirror");
    }
    found
}

fn make(venv: PathBuf, game: Game, mode: Mode, seed: u32, count: usize, levels: Levels) -> Procgen {
    let config = ProcgenConfig { game, mode, levels, seed, count, threads: 2 };
    Procgen::new(&ProcgenPackage::find(&[venv]).unwrap(), &config).unwrap()
}

#[test]
fn every_game_steps_as_in_the_python_package() {
    let Some(venv) = venv() else { return };
    for (mode, name) in [(Mode::Easy, "easy"), (Mode::Hard, "hard")] {
        let folder = tempfile::tempdir().unwrap();
        let mut python = Command::new(venv.join("bin/python"));
        python.args(["-c", PLAY]).arg(folder.path()).args([
            ENVS.to_string(),
            STEPS.to_string(),
            name.into(),
        ]);
        let output = python.args(Game::ALL.map(Game::name)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for (number, game) in Game::ALL.into_iter().enumerate() {
            let mut env =
                make(venv.clone(), game, mode, number as u32, ENVS, Levels { start: 7, count: 50 });
            let seen = std::fs::read(folder.path().join(game.name())).unwrap();
            let mut parts = seen.chunks_exact(ENVS * (64 * 64 * 3 + 4 + 1 + 4));
            assert_eq!(parts.len(), STEPS, "{game}");
            for step in 0..STEPS {
                // An episode starts at the first step and after every end.
                let first = |end: &End| u8::from(step == 0 || *end != End::None);
                let mut ours = env.frames().to_vec();
                ours.extend(env.rewards().iter().flat_map(|reward| (*reward as f32).to_le_bytes()));
                ours.extend(env.ends().iter().map(first));
                ours.extend(env.levels().iter().flat_map(|level| level.to_le_bytes()));
                assert!(Some(&ours[..]) == parts.next(), "{game}, {name}: step {step} differs");
                env.step(&actions(step)).unwrap();
            }
        }
    }
}

#[test]
fn the_expert_solves_mazes_and_an_idle_player_runs_out_of_time() {
    let Some(venv) = venv() else { return };
    let mut env = make(venv.clone(), Game::Maze, Mode::Easy, 1, 4, Levels::default());
    let mut won = 0;
    for _ in 0..400 {
        let expert: Vec<u32> = (0..4).map(|i| maze::expert(&env, i).unwrap()).collect();
        env.step(&Action::discrete(&expert)).unwrap();
        for (end, reward) in env.ends().iter().zip(env.rewards()) {
            assert!(*end == End::None || (*end == End::Done && reward == 10.0), "{end:?} {reward}");
            won += usize::from(*end == End::Done);
        }
    }
    assert!(won > 40, "{won}");

    let mut idle = make(venv, Game::Maze, Mode::Easy, 2, 2, Levels::default());
    let ends: Vec<Vec<End>> =
        // Action 4 presses no button.
        (0..500).map(|_| idle.step(&Action::discrete(&[4, 4])).map(|()| idle.ends().to_vec()).unwrap()).collect();
    assert!(ends[..499].iter().flatten().all(|end| *end == End::None));
    // A maze without cheese ends after 500 steps.
    assert_eq!(ends[499], [End::Truncated; 2]);
}

#[test]
fn a_state_restores_a_game_and_invalid_arguments_are_errors() {
    let Some(venv) = venv() else { return };
    let mut env = make(venv.clone(), Game::Coinrun, Mode::Easy, 5, 2, Levels::default());
    let play = |env: &mut Procgen| -> Vec<Vec<u8>> {
        (0..20)
            .map(|step| env.step(&actions(step)[..2]).map(|()| env.frames().to_vec()).unwrap())
            .collect()
    };
    play(&mut env);
    let states: Vec<Vec<u8>> = (0..2).map(|i| env.state_bytes(i).unwrap()).collect();
    let once = play(&mut env);
    // Restores both games and plays the same actions again.
    for (i, state) in states.iter().enumerate() {
        env.set_state(i, state).unwrap();
    }
    assert!(once == play(&mut env));

    let message = |error: lapo::envs::Error| error.to_string();
    assert_eq!(
        message(env.step(&Action::discrete(&[0, 15])).unwrap_err()),
        "action is 15, expected below 15"
    );
    assert_eq!(
        message(env.step(&Action::discrete(&[0])).unwrap_err()),
        "number of actions is 1, expected 2"
    );
    assert_eq!(message(env.state_bytes(2).unwrap_err()), "environment is 2, expected below 2");
    assert!(env.set_state(0, b"what").is_err());
    let no_environments = ProcgenConfig {
        game: Game::Maze,
        mode: Mode::Easy,
        levels: Levels::default(),
        seed: 0,
        count: 0,
        threads: 0,
    };
    let fault =
        Procgen::new(&ProcgenPackage::find(&[venv]).unwrap(), &no_environments).err().map(message);
    assert_eq!(fault.as_deref(), Some("number of environments is 0, expected 1 to 2147483647"));
    let nowhere = ProcgenPackage::find(&["/nowhere".into()]).unwrap_err();
    assert!(
        nowhere.hint().unwrap().contains("pip install") && nowhere.to_string().contains("/nowhere")
    );
}

/// Records episodes and trains on them.
const RECORDED: &str = "
name: recorded
workspace: ws
seed: 3
vars: { episodes: 12, player: expert }
holdout: 3
stages:
  play: { record: { game: maze, player: '${player}', noise: 0.1, episodes: '${episodes}',
      episodes_per_shard: 5, size: 16 } }
  model: { train_dynamics: { frames: play, steps: 4, batch: 4 } }
  labels: { label: { frames: play, dynamics: model } }
";

/// Creates a project with the pipeline `RECORDED`.
fn recorded() -> crate::project::Project {
    let project = crate::project::Project::new(0);
    std::fs::write(project.path("pipeline.yaml"), RECORDED).unwrap();
    project
}

#[test]
fn recorded_episodes_are_labelled_and_more_episodes_add_tasks() {
    if venv().is_none() {
        return;
    }
    let project = recorded();
    // Three shards and their labels, and one model.
    assert!(project.run(&[]).success().stdout.starts_with("7 tasks: 12 videos (12 new), "));
    assert!(project.run(&[]).success().stdout.starts_with("0 tasks: 12 videos (0 new), "));
    let query = |sql: &str| project.query(sql)[0]["n"].as_u64().unwrap();
    let frames = query("SELECT count(*) AS n FROM play");
    let labels = query("SELECT count(*) AS n FROM labels");
    // A window has three frames, so an episode has two labels less than frames.
    assert_eq!(labels, frames - 12 * 2);
    let same = "SELECT count(*) AS n FROM play JOIN play_actions \
                ON play.video = play_actions.video \
                AND play.frame_index = play_actions.frame_index";
    assert_eq!(query(same), frames);
    // The expert always finds the cheese, and its last step earns the reward.
    assert_eq!(query("SELECT count(*) AS n FROM play_actions WHERE reward = 10"), 12);

    let first = project.files("play", "shard.arrow");
    let output = project.run(&["--set", "episodes=20"]).success();
    // The third shard had two episodes. It is recorded again with five, and a fourth is added.
    assert!(output.stdout.starts_with("4 tasks: 20 videos (10 new), "), "{output:#?}");
    assert_eq!(project.files("play", "shard.arrow")[..2], first[..2]);
    let again = recorded();
    again.run(&["--threads", "1"]).success();
    assert!(
        again.files("play", "shard.arrow") == first
            && again.files("play", "actions.parquet").len() == 3
    );
}

#[test]
fn invalid_recordings_are_errors() {
    let project = recorded();
    let output = project.run(&["--procgen", "/nowhere"]);
    assert!(
        output.code == 1
            && output.stderr.contains("cannot find the Procgen library (searched /nowhere)"),
        "{output:#?}"
    );
    assert!(output.stderr.contains("hint: install it with `python3 -m venv"), "{output:#?}");
    let output = project.run(&["--set", "player=Expert"]);
    assert!(
        output.code == 1
            && output.stderr.contains("stages.play.record.player: unknown variant `Expert`"),
        "{output:#?}"
    );
    std::fs::write(project.path("pipeline.yaml"), RECORDED.replace("game: maze", "game: coinrun"))
        .unwrap();
    let output = project.run(&[]);
    assert!(
        output.code == 1
            && output.stderr.contains("stages.play.record.player: cannot play coinrun"),
        "{output:#?}"
    );
}

/// A latent policy and decoder trained on the recording, and their evaluation in the game.
const PLAYED: &str = "
  policy: { train_policy: { labels: labels, steps: 4, batch: 8 } }
  decoder: { train_decoder: { labels: labels, actions: play, transitions: [16], draws: 2, steps: 20,
      hidden: [8] } }
  score: { evaluate: { policy: policy, decoder: decoder, game: maze, episodes: 7, envs: 3 } }
";

#[test]
fn a_policy_is_evaluated_beside_random_actions_and_the_expert() {
    if venv().is_none() {
        return;
    }
    let project = recorded();
    let yaml = RECORDED.to_owned() + PLAYED.trim_start_matches('\n');
    std::fs::write(project.path("pipeline.yaml"), &yaml).unwrap();
    project.run(&[]).success();
    let rows = project.query(
        "SELECT player, draw, count(*) AS n, avg(episode_return) AS mean FROM score \
         GROUP BY player, draw ORDER BY player, draw",
    );
    let rows = rows.as_array().unwrap();
    assert_eq!(
        rows.iter().map(|row| row["player"].as_str().unwrap()).collect::<Vec<_>>(),
        ["expert", "policy", "policy", "random"]
    );
    assert!(rows.iter().all(|row| row["n"] == 7) && rows[0]["mean"] == 10.0, "{rows:?}");
    let evaluation: serde_json::Value =
        serde_json::from_slice(&project.files("score", "evaluation.json")[0]).unwrap();
    let means: Vec<_> = evaluation["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["player"].clone(), row["episodes"].clone()))
        .collect();
    assert_eq!(
        serde_json::json!(means),
        serde_json::json!([["random", 7], ["expert", 7], ["policy", 14]])
    );
    assert!(
        evaluation["sentence"].as_str().unwrap().starts_with("mean return in maze: random "),
        "{evaluation}"
    );
    let unfinished = "SELECT count(*) AS n FROM score \
                      WHERE \"end\" = 'truncated' AND (length <> 500 OR episode_return <> 0)";
    assert_eq!(project.query(unfinished)[0]["n"], 0);

    project.run_changes_nothing(&[]);
    std::fs::write(project.path("pipeline.yaml"), yaml.replace("hidden: [8]", "hidden: [9]"))
        .unwrap();
    let planned = project.planned(&[]);
    let new: Vec<&str> =
        planned.iter().filter(|(_, (new, _))| *new > 0).map(|(stage, _)| stage.as_str()).collect();
    assert_eq!(new, ["decoder", "score"]);
    // A second project plays the same episodes.
    let episodes = project.files("score", "episodes.parquet");
    let again = recorded();
    std::fs::write(again.path("pipeline.yaml"), &yaml).unwrap();
    again.run(&["--threads", "1"]).success();
    assert!(again.files("score", "episodes.parquet") == episodes);
}

#[test]
fn a_decoder_of_another_model_is_an_error() {
    if venv().is_none() {
        return;
    }
    let project = recorded();
    let other = "  model2: { train_dynamics: { frames: play, steps: 4, batch: 4,
      vq: { dim: 8 } } }
  labels2: { label: { frames: play, dynamics: model2 } }\n";
    let yaml = RECORDED.to_owned()
        + other
        + &PLAYED
            .trim_start_matches('\n')
            .replace("train_decoder: { labels: labels", "train_decoder: { labels: labels2");
    std::fs::write(project.path("pipeline.yaml"), yaml).unwrap();
    let output = project.run(&[]);
    let mixed = "evaluate.decoder: `decoder` uses the latent actions of `model2`, \
                 but `policy` uses those of `model`";
    assert!(output.code == 1 && output.stderr.contains(mixed), "{output:#?}");
    let wrong = RECORDED.to_owned()
        + "  score: { evaluate: { policy: labels, decoder: model, game: mase, episodes: 0, \
           temperature: -1 } }\n";
    std::fs::write(project.path("pipeline.yaml"), wrong).unwrap();
    let output = project.run(&[]);
    assert!(
        output.code == 1 && output.stderr.contains("score.evaluate.game: unknown variant `mase`"),
        "{output:#?}"
    );
    let wrong = RECORDED.to_owned()
        + "  score: { evaluate: { policy: labels, decoder: model, game: maze, episodes: 0, \
           temperature: -1 } }\n";
    std::fs::write(project.path("pipeline.yaml"), wrong).unwrap();
    let output = project.run(&[]);
    for word in [
        "expected one that makes a latent policy",
        "expected one that makes decoders",
        "episodes: is 0",
        "temperature: is -1",
    ] {
        assert!(output.code == 1 && output.stderr.contains(word), "{word}: {output:#?}");
    }
}
