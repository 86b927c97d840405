//! Environments of a real Gymnasium, beside a plain Python loop, and broken environments.

use std::path::Path;
use std::process::Command;

use super::*;

/// Plays an environment without us, and prints rewards, ends and the sums of frames' bytes.
const PLAIN: &str = "
import gymnasium, minigrid
env = gymnasium.make('MiniGrid-FourRooms-v0', render_mode='rgb_array', max_steps=6)
number = 1
seed = lambda: (3 + 2654435761 * number) % 2**31
env.reset(seed=seed())
for step in range(20):
    _, reward, done, cut, _ = env.step([2, 2, 1, 2, 2, 0, 2][step % 7])
    if done or cut:
        number += 2
        env.reset(seed=seed())
    end = 1 if done else 2 if cut else 0
    print(repr(float(reward)), end, env.render().astype('u8').sum(), seed())
";

/// Environments that break in different ways, chosen by `kind`.
const BROKEN: &str = "
import os, sys, time
import gymnasium as gym, numpy as np
from gymnasium import spaces

class Broken(gym.Env):
    metadata = {'render_modes': ['rgb_array'], 'render_fps': 7}

    def __init__(self, kind='none', render_mode=None):
        self.kind = kind
        self.observation_space = spaces.Box(0, 1, (2,))
        self.action_space = {
            'multi': spaces.MultiDiscrete([3, 4]),
            'dict': spaces.Dict({'a': spaces.Discrete(2)}),
            'box': spaces.Box(np.array([-1, 0], 'f4'), np.array([1, 5], 'f4')),
        }.get(kind, spaces.Discrete(3, start=5))
        if kind == 'display':
            raise RuntimeError('cannot open DISPLAY')

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.count, self.noise = 0, int(self.np_random.integers(256))
        return np.zeros(2, 'f4'), {}

    def step(self, action):
        self.count += 1
        self.noise = (self.noise * 5 + int(np.sum(action) * 10)) % 256
        if self.kind == 'hang' and self.count == 2:
            time.sleep(1000)
        if self.kind == 'dies' and self.count == 2:
            print('the robot fell over')
            os._exit(3)
        if self.kind == 'raises':
            raise ValueError('no such joint')
        reward = float('nan') if self.kind == 'nan' else 1.0
        return np.zeros(2, 'f4'), reward, self.count == 7, False, {}

    def render(self):
        if self.kind == 'blind':
            return None
        side = 32 if self.kind == 'grows' and self.count > 1 else 16
        if self.kind == 'grey':
            return np.zeros((side, side), 'u1')
        return np.full((side, side, 3), self.noise, 'u1')

gym.register('Broken-v0', entry_point=Broken)
";

/// Returns the virtual environment of `LAPO_PYTHON`, or `None` if it is not set.
fn folder() -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("LAPO_PYTHON")?);
    python.parent().and_then(Path::parent).map(Into::into)
}

fn game(settings: Value) -> GymnasiumGame {
    serde_json::from_value(settings).expect("settings")
}

/// A virtual environment that also has the module of broken environments, in a temporary folder.
struct Broken {
    venv: PathBuf,
    module: tempfile::TempDir,
}

impl Broken {
    fn new() -> Option<Self> {
        let (venv, module) = (folder()?, tempfile::tempdir().expect("a folder"));
        std::fs::write(module.path().join("broken.py"), BROKEN).expect("it is written");
        Some(Broken { venv, module })
    }

    /// Makes environments of one kind. The module is found by a path in `imports`' search path.
    fn open(&self, kind: &str, count: usize) -> Result<Gymnasium> {
        // A wrapper of Python with a search path, in a virtual environment of its own.
        let root = self.module.path().join("venv");
        std::fs::create_dir_all(root.join("lib/python3/site-packages/gymnasium"))
            .expect("a folder");
        std::fs::create_dir_all(root.join("bin")).expect("a folder");
        let text = format!(
            "#!/bin/sh\nPYTHONPATH={} exec {}/bin/python \"$@\"\n",
            self.module.path().display(),
            self.venv.display()
        );
        let python = root.join("bin/python");
        std::fs::write(&python, text).expect("it is written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&python, mode).expect("it runs");
        let settings = json!({
            "gymnasium": "Broken-v0", "imports": ["broken"], "make": {"kind": kind},
            "timeout_secs": if kind == "hang" { 5 } else { 60 },
        });
        Gymnasium::new(&game(settings), &[root], (3, Seeding::Each), count)
    }

    /// Steps until the environment fails; returns the error and its hint.
    fn error(&self, kind: &str) -> String {
        let fail = |mut env: Gymnasium| -> Result<()> {
            for _ in 0..3 {
                env.step(&[Action::Discrete(0)])?;
            }
            Ok(())
        };
        let error = self.open(kind, 1).and_then(fail).expect_err("it fails");
        format!("{error}; {}", error.hint().unwrap_or_default())
    }
}

#[test]
fn frames_rewards_and_ends_are_those_of_a_plain_loop() {
    let Some(folder) = folder() else { return };
    let settings = json!({
        "gymnasium": "MiniGrid-FourRooms-v0", "imports": ["minigrid"], "make": {"max_steps": 6},
    });
    // The second of two environments is compared.
    let mut env =
        Gymnasium::new(&game(settings), std::slice::from_ref(&folder), (3, Seeding::Each), 2)
            .expect("it works");
    assert_eq!(*env.action_space(), ActionSpace::Discrete { actions: 7 });
    assert_eq!(env.fps(), 10);
    let mut seen = String::new();
    for step in 0..20 {
        let action = [2, 2, 1, 2, 2, 0, 2][step % 7];
        env.step(&Action::discrete(&[0, action])).expect("it works");
        let end = match env.ends()[1] {
            End::None => 0,
            End::Done => 1,
            End::Truncated => 2,
        };
        let frame = &env.frames()[env.frames().len() / 2..];
        let sum: u64 = frame.iter().map(|byte| u64::from(*byte)).sum();
        seen += &format!("{:?} {end} {sum} {}\n", env.rewards()[1], env.levels()[1]);
    }
    let python = folder.join("bin/python");
    let plain = Command::new(python).args(["-c", PLAIN]).output().expect("it works");
    assert_eq!(seen, String::from_utf8_lossy(&plain.stdout));
    assert!(seen.contains(" 2 "), "{seen}");
    let wrong = env.step(&[Action::Continuous(vec![0.5]), Action::Discrete(0)]);
    let wrong = wrong.expect_err("it fails").to_string();
    assert!(wrong.contains("an action is [0.5], expected one of 7 discrete actions"), "{wrong}");
}

#[test]
fn environments_that_cannot_be_made_are_errors_that_say_why() {
    let Some(folder) = folder() else { return };
    let error = |settings| match Gymnasium::new(
        &game(settings),
        std::slice::from_ref(&folder),
        (0, Seeding::Each),
        1,
    ) {
        Ok(_) => panic!("the environment starts"),
        Err(error) => error.to_string(),
    };
    let missing = error(json!({"gymnasium": "Nothing-v0"}));
    assert!(missing.contains("cannot make it: NameNotFound"), "{missing}");
    let module = error(json!({"gymnasium": "Nothing-v0", "imports": ["no_such_module"]}));
    assert!(module.contains("cannot import no_such_module"), "{module}");
    let keyword = error(json!({
        "gymnasium": "MiniGrid-Empty-5x5-v0", "imports": ["minigrid"], "make": {"sped": 3},
    }));
    assert!(keyword.contains("unexpected keyword argument 'sped'"), "{keyword}");
    // A Python without Gymnasium.
    let empty = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(empty.path().join("lib/python3/site-packages/gymnasium/x")).expect("");
    std::fs::create_dir_all(empty.path().join("bin")).expect("a folder");
    std::os::unix::fs::symlink("/nowhere/python", empty.path().join("bin/python")).expect("a link");
    let none = Gymnasium::new(
        &game(json!({"gymnasium": "a"})),
        &[empty.path().into()],
        (0, Seeding::Each),
        1,
    );
    let none = none.err().expect("it fails");
    assert!(none.to_string().contains("cannot start"), "{none}");
    assert!(none.hint().is_some_and(|hint| hint.contains("--gymnasium")));
}

#[test]
fn every_broken_environment_is_an_error_with_a_cure() {
    let Some(broken) = Broken::new() else { return };
    for (kind, expected) in [
        ("multi", "its actions are MultiDiscrete([3 4]), expected Discrete or a Box of floats"),
        ("dict", "its actions are Dict('a': Discrete(2)), expected Discrete or a Box"),
        ("blind", "it renders no picture; its render modes are ['rgb_array']"),
        ("grey", "a frame is uint8 of shape (16, 16), expected uint8 of [rows, columns, 3]"),
        ("grows", "a frame has the shape (32, 32, 3), expected (16, 16, 3) as the first one"),
        ("display", "it needs a display or a software renderer: set MUJOCO_GL=egl"),
        ("raises", "ValueError: no such joint; play it in Python"),
        ("nan", "a reward is nan, expected a finite number"),
        ("dies", "its Python process ended (exit status: 3): the robot fell over"),
        ("hang", "no answer for 5 s: it hangs or is slow; raise `timeout_secs`"),
    ] {
        let error = broken.error(kind);
        assert!(error.contains("Broken-v0: ") && error.contains(expected), "{kind}: {error}");
        assert!(!error.ends_with("; "), "{kind} has no cure: {error}");
    }
}

#[test]
fn a_box_and_its_bounds_are_read_and_actions_with_a_start_are_shifted() {
    let Some(broken) = Broken::new() else { return };
    let mut env = broken.open("box", 1).expect("it works");
    let bounds = |values: [f32; 2]| values.map(Some).to_vec();
    let space = ActionSpace::Continuous { low: bounds([-1.0, 0.0]), high: bounds([1.0, 5.0]) };
    assert_eq!((env.action_space(), env.fps()), (&space, 7));
    let before = env.frames()[0];
    env.step(&[Action::Continuous(vec![0.5, 1.25])]).expect("it works");
    // The environment adds ten times the sum of the action to five times the old value.
    assert_eq!(env.frames()[0], (u64::from(before) * 5 + 17) as u8);
    let mut env = broken.open("none", 1).expect("it works");
    let before = env.frames()[0];
    env.step(&[Action::Discrete(2)]).expect("it works");
    assert_eq!(env.frames()[0], (u64::from(before) * 5 + 70) as u8);
}

#[test]
fn restored_environments_show_the_same_frames_again() {
    let Some(broken) = Broken::new() else { return };
    let play = |env: &mut Gymnasium, from: u32| -> Vec<Vec<u8>> {
        let step = |step: u32| {
            env.step(&Action::discrete(&[step % 3, (step + 1) % 3])).expect("it works");
            [env.frames(), &env.levels()[0].to_le_bytes()].concat()
        };
        (from..from + 9).map(step).collect()
    };
    let mut env = broken.open("none", 2).expect("it works");
    play(&mut env, 0);
    let states: Vec<Vec<u8>> = (0..2).map(|at| env.state_bytes(at).expect("a state")).collect();
    let frames = env.frames().to_vec();
    let expected = play(&mut env, 9);
    let mut other = broken.open("none", 2).expect("it works");
    other.restore(&states).expect("it works");
    assert_eq!(other.frames(), frames);
    assert_eq!(play(&mut other, 9), expected);
    let error = other.restore(&states[..1]).expect_err("it fails").to_string();
    assert!(error.contains("1 states, expected 2"), "{error}");
}

#[test]
fn a_process_that_ends_is_an_error_with_what_it_printed() {
    let Some(folder) = folder() else { return };
    // `this` prints a poem when imported; it goes to the standard error.
    let settings = json!({
        "gymnasium": "MiniGrid-Empty-5x5-v0", "imports": ["minigrid", "this"],
    });
    let mut env =
        Gymnasium::new(&game(settings), &[folder], (0, Seeding::Each), 1).expect("it works");
    env.process.kill();
    let error = env.step(&[Action::Discrete(0)]).expect_err("it fails").to_string();
    assert!(error.contains("Python process ended") && error.contains("honking"), "{error}");
}
