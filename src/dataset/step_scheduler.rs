//! A scheduler for tests: several users of one store take turns at every call, in a random but
//! seeded order, and some are killed. Start at [`StepScheduler::store`].
//!
//! Each user gets the same store, with every call waiting for the user's turn. A user stands still
//! between its turns while the others proceed, so that every order of calls can happen.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Store;
use super::error::{Error, Result};

/// A call of a store. `Look` stands for all calls without a change.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    Look,
    Create(&'a str, &'a [u8]),
    NewFile(&'a str),
    Delete(&'a str),
    DeleteAll(&'a str),
}

/// The scheduler of all users.
#[derive(Debug)]
pub struct StepScheduler {
    store: Store,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    random: ChaCha8Rng,
    users: HashMap<usize, User>,
    /// The user with the turn, and the remaining steps.
    turn: (usize, u32),
    steps: u64,
}

#[derive(Debug, Default)]
struct User {
    /// The step at which it is killed, counted from 1.
    dies_at: Option<u32>,
    steps: u32,
    is_dead: bool,
    /// The paths of its pins bound to its process.
    pins: Vec<String>,
}

/// One user's access to the scheduler.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    turns: Arc<StepScheduler>,
    user: usize,
}

/// After this time without any step, the turn passes on: its user waits for another one.
const STALLED: Duration = Duration::from_millis(100);

impl StepScheduler {
    pub fn new(store: &Store, seed: u64) -> Arc<Self> {
        let state = State {
            random: ChaCha8Rng::seed_from_u64(seed),
            users: HashMap::new(),
            turn: (0, 0),
            steps: 0,
        };
        Arc::new(Self { store: store.clone(), state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Returns the store for a new user, to be killed at step `dies_at`.
    pub fn store(self: &Arc<Self>, user: usize, dies_at: Option<u32>) -> Store {
        self.state().users.insert(user, User { dies_at, ..User::default() });
        self.store.in_turns(Turn { turns: Arc::clone(self), user })
    }

    /// Removes a user after its last step. Returns whether it was killed.
    pub fn leave(&self, user: usize) -> bool {
        let mut state = self.state();
        let user = state.users.remove(&user).expect("it took turns");
        state.turn.1 = 0;
        self.changed.notify_all();
        user.is_dead
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the user's turn and takes one step. Fails if the user is killed at it.
    fn take(&self, user: usize, step: Step) -> Result<()> {
        let mut state = self.state();
        loop {
            if state.users.get(&user).is_none_or(|user| user.is_dead) {
                return Err(killed(step));
            }
            // The turn is over if its steps are used up, or if its user has left.
            if state.turn == (user, 0)
                || !state.users.contains_key(&state.turn.0)
                || state.turn.1 == 0
            {
                state.next_turn();
                self.changed.notify_all();
            }
            if state.turn.0 == user {
                break;
            }
            let seen = state.steps;
            let (waited, timeout) =
                self.changed.wait_timeout(state, STALLED).unwrap_or_else(PoisonError::into_inner);
            state = waited;
            // The user with the turn may be blocked by a user without it, such as on a mutex.
            if timeout.timed_out() && state.steps == seen {
                state.turn.1 = 0;
            }
        }
        state.steps += 1;
        state.turn.1 -= 1;
        self.changed.notify_all();
        let me = state.users.get_mut(&user).expect("it takes turns");
        me.steps += 1;
        // Processes of a test do not end, so the scheduler deletes the pins of a killed one.
        if let Step::Create(path, bytes) = step
            && path.starts_with("pins/")
            && String::from_utf8_lossy(bytes).contains("\"process\"")
        {
            me.pins.push(path.to_owned());
        }
        if me.dies_at.is_none_or(|dies_at| me.steps < dies_at) {
            return Ok(());
        }
        me.is_dead = true;
        let pins = std::mem::take(&mut me.pins);
        let is_half_done = state.random.random::<bool>();
        drop(state);
        self.die(step, is_half_done, &pins)
    }

    /// Leaves the state of a killed process: its last step is half done or not done, and its pins
    /// no longer count.
    fn die(&self, step: Step, is_half_done: bool, pins: &[String]) -> Result<()> {
        match step {
            Step::Create(path, bytes) if is_half_done => _ = self.store.create(path, bytes)?,
            Step::NewFile(path) if is_half_done => _ = self.store.create(path, b"half a file")?,
            Step::Delete(path) if is_half_done => self.store.delete(path)?,
            // Half of the folder's files are deleted.
            Step::DeleteAll(path) if is_half_done => {
                for path in self.store.list(path)?.iter().step_by(2) {
                    self.store.delete(path)?;
                }
            }
            _ => {}
        }
        for path in pins {
            self.store.delete(path)?;
        }
        Err(killed(step))
    }
}

fn killed(step: Step) -> Error {
    let cause = std::io::Error::other("killed by the test");
    Error::Io { action: "reach", path: format!("{step:?}").chars().take(80).collect(), cause }
}

impl State {
    /// Gives the turn to a random user, for a few steps or many.
    fn next_turn(&mut self) {
        let mut users: Vec<usize> =
            self.users.iter().filter(|(_, user)| !user.is_dead).map(|(user, _)| *user).collect();
        // The order of a hash table is not determined by the seed.
        users.sort_unstable();
        if users.is_empty() {
            return;
        }
        let user = users[self.random.random_range(0..users.len())];
        let steps = match self.random.random_range(0..4) {
            0 => 1,
            1 => self.random.random_range(1..6),
            2 => self.random.random_range(1..40),
            _ => self.random.random_range(20..400),
        };
        self.turn = (user, steps);
    }
}

impl Turn {
    pub(super) fn take(&self, step: Step) -> Result<()> {
        self.turns.take(self.user, step)
    }
}
