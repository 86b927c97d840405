//! The tasks of `pipelines/distractors.yaml`: what a distractor changes, and what it leaves alone.
//!
//! `LAPO_DM_CONTROL` names a Python with dm_control and Gymnasium. Without it, these tests are
//! skipped with a note.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::project::{CommandOutput, Project, wait};

/// Plays every task under every distractor, twice, with the same seed and actions.
const PLAY: &str = r#"
import sys
import gymnasium, numpy as np
import distractors

def play(task, kind):
    env = gymnasium.make("DistractedControl-v0", task=task, distractors=kind, steps=12).unwrapped
    rng = np.random.default_rng(0)
    frames, states, backgrounds = [], [], []
    # Only the first episode has a seed, as in lapo.
    for seed in (7, None):
        frame, info = env.reset(seed=seed)
        ended = False
        while not ended:
            frames.append(frame)
            states.append(info["state"])
            if "video" in env.moving:
                backgrounds.append(env.moving["video"].frame())
            action = rng.uniform(env.action_space.low, env.action_space.high)
            frame, reward, _, ended, info = env.step(action.astype(np.float32))
    env.close()
    return np.array(frames), np.array(states), np.array(backgrounds)

for task in distractors.REPEATS:
    clean, states, _ = play(task, "clean")
    assert len(clean) == 24 and clean.shape[1:] == (64, 64, 3), clean.shape
    assert (states[0] != states[12]).any(), "every episode starts elsewhere"
    still = []
    for kind in distractors.DISTRACTORS:
        frames, same_states, backgrounds = play(task, kind)
        assert np.array_equal(frames, play(task, kind)[0]), (task, kind)
        assert np.array_equal(states, same_states), (task, kind)
        if kind == "clean":
            continue
        differs = (frames != clean).any(3).reshape(24, -1).mean(1)
        assert differs.min() > 0.01, (task, kind, differs)
        if kind == "video":
            # The agent's pixels are those of the clean picture.
            agent = ~(frames == backgrounds).all(3)
            assert 0.002 < agent.mean() < 0.2, (task, agent.mean())
            assert np.array_equal(frames[agent], clean[agent]), task
            assert (backgrounds[0] != backgrounds[11]).any(), task

for wrong in (dict(task="tetris"), dict(distractors="noise")):
    try:
        gymnasium.make("DistractedControl-v0", **wrong)
    except ValueError as error:
        assert "expected one of" in str(error), error
    else:
        raise AssertionError(f"{wrong} is accepted")
"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns a Python with dm_control, or `None` if there is none.
fn python() -> Option<PathBuf> {
    let found = std::env::var_os("LAPO_DM_CONTROL").map(PathBuf::from);
    if found.is_none() {
        eprintln!("skipped: LAPO_DM_CONTROL names no Python with `dm_control`");
    }
    found
}

/// Runs one stage of `pipelines/distractors.yaml` with three episodes.
fn record(project: &Project, python: &Path, stage: &str) -> CommandOutput {
    let pipeline = root().join("pipelines/distractors.yaml");
    let args = ["run", pipeline.to_str().unwrap(), "--only", stage, "--set", "episodes=3"];
    let mut command = project.command(&args);
    command
        .env("LAPO_GYMNASIUM", python.parent().and_then(Path::parent).unwrap())
        .env("PYTHONPATH", root().join("tests/bench"));
    wait(command.spawn().unwrap())
}

#[test]
fn distractors_change_pictures_but_no_states() {
    let Some(python) = python() else { return };
    let output = Command::new(python)
        .args(["-c", PLAY])
        .env("PYTHONPATH", root().join("tests/bench"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn clean_and_distracted_recordings_have_the_same_actions_and_other_pictures() {
    let Some(python) = python() else { return };
    let projects = [Project::new(0), Project::new(0)];
    let files = projects.each_ref().map(|project| {
        ["clean", "distracted"].map(|stage| {
            record(project, &python, stage).success();
            let folder = project.path("runs/distractors-cheetah_run").join(stage);
            ["shard.arrow", "actions.parquet"].map(|name| {
                let pattern = folder.join("data/*/*").join(name);
                let mut found = glob::glob(pattern.to_str().unwrap()).unwrap();
                std::fs::read(found.next().unwrap().unwrap()).unwrap()
            })
        })
    });
    assert!(files[0] == files[1], "another run gives other bytes");
    let [clean, distracted] = &files[0];
    assert!(clean[1] == distracted[1], "true actions or rewards differ");
    assert!(clean[0] != distracted[0], "pictures are the same");
}
