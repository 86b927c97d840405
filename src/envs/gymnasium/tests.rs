//! Environments of a real Gymnasium, beside a plain Python loop.

use std::path::Path;

use super::*;

/// Plays an environment without us, and prints rewards, ends and the sums of frames' bytes.
const PLAIN: &str = "
import gymnasium, minigrid, sys, numpy as np
env = gymnasium.make('MiniGrid-Empty-5x5-v0', render_mode='rgb_array', max_steps=6)
env.reset(seed=3)
for step in range(20):
    _, reward, done, cut, _ = env.step([2, 2, 1, 2, 2, 0, 2][step % 7])
    if done or cut:
        env.reset()
    print(repr(float(reward)), 1 if done else 2 if cut else 0, env.render().astype('u8').sum())
";

/// Returns the virtual environment of `LAPO_PYTHON`, or `None` if it is not set.
fn folder() -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("LAPO_PYTHON")?);
    python.parent().and_then(Path::parent).map(Into::into)
}

fn game(settings: Value) -> GymnasiumGame {
    serde_json::from_value(settings).expect("settings")
}

fn error(folder: &Path, settings: Value) -> String {
    match Gymnasium::new(&game(settings), &[folder.into()], &[0]) {
        Ok(_) => panic!("the environment starts"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn frames_rewards_and_ends_are_those_of_a_plain_loop() {
    let Some(folder) = folder() else { return };
    let settings = json!({
        "gymnasium": "MiniGrid-Empty-5x5-v0", "imports": ["minigrid"], "make": {"max_steps": 6},
    });
    let mut env =
        Gymnasium::new(&game(settings), std::slice::from_ref(&folder), &[3]).expect("it works");
    assert_eq!(*env.action_space(), ActionSpace::Discrete { actions: 7 });
    let mut seen = String::new();
    for step in 0..20 {
        let action = [2, 2, 1, 2, 2, 0, 2][step % 7];
        env.step(&Actions::Discrete(vec![action])).expect("it works");
        let end = match env.ends()[0] {
            End::None => 0,
            End::Done => 1,
            End::Truncated => 2,
        };
        let sum: u64 = env.frames().iter().map(|byte| u64::from(*byte)).sum();
        seen += &format!("{:?} {end} {sum}\n", env.rewards()[0]);
    }
    let python = folder.join("bin/python");
    let plain = Command::new(python).args(["-c", PLAIN]).output().expect("it works");
    assert_eq!(seen, String::from_utf8_lossy(&plain.stdout));
    assert!(seen.contains(" 1 ") && seen.contains(" 2 "), "{seen}");
    let wrong = env.step(&Actions::Continuous(vec![0.5])).expect_err("it fails").to_string();
    assert!(wrong.contains("expected Discrete"), "{wrong}");
}

#[test]
fn environments_that_cannot_be_played_are_errors_that_say_why() {
    let Some(folder) = folder() else { return };
    let missing = error(&folder, json!({"gymnasium": "Nothing-v0"}));
    assert!(missing.contains("cannot make it: NameNotFound"), "{missing}");
    let module = error(&folder, json!({"gymnasium": "Nothing-v0", "imports": ["no_such_module"]}));
    assert!(module.contains("cannot import no_such_module"), "{module}");
    let none = Gymnasium::new(
        &game(json!({"gymnasium": "MiniGrid-Empty-5x5-v0"})),
        std::slice::from_ref(&folder),
        &[0],
    );
    // `imports` does not name the package that registers it.
    assert!(none.is_err());
}

#[test]
fn a_process_that_ends_is_an_error_with_what_it_printed() {
    let Some(folder) = folder() else { return };
    // `this` prints a poem when imported; it goes to the standard error.
    let settings = json!({
        "gymnasium": "MiniGrid-Empty-5x5-v0", "imports": ["minigrid", "this"],
    });
    let mut env = Gymnasium::new(&game(settings), &[folder], &[0]).expect("it works");
    env.child.kill().expect("it works");
    env.child.wait().expect("it works");
    let error = env.step(&Actions::Discrete(vec![0])).expect_err("it fails").to_string();
    assert!(error.contains("Python process ended") && error.contains("honking"), "{error}");
}
