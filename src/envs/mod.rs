//! Games: an action becomes the next frame.
//!
//! Start at [`VecEnv`], the interface of all environments to the stages. [`Procgen`] implements it,
//! and so does [`Gymnasium`], which plays environments of the Python library in a child process.
//! [`GameSetting`] chooses one of them. [`wrappers`] keep episode statistics and scale rewards,
//! [`maze`] is an expert player. Only `libenv` contains unsafe code.

// Paths are the same within this crate and in `lapo`: `crate::envs::...`.
extern crate self as envs;

mod actions;
mod error;
mod game_setting;
mod gymnasium;
mod libenv;
pub mod maze;
mod procgen;
mod state;
pub mod wrappers;

pub use actions::{Action, ActionSpace, normal};
pub use error::{Error, Result};
pub use game_setting::{EnvConfig, GameSetting};
pub use gymnasium::{Gymnasium, GymnasiumGame, Seeding};
pub use procgen::{
    FRAME_SIDE, Game, Levels, Mode, Procgen, ProcgenConfig, ProcgenPackage, PublishedReturns,
};

/// How the last step of an environment ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// The episode continues.
    #[default]
    None,
    /// The game was won or lost.
    Done,
    /// The time limit was reached. Later rewards still count for the value of the last frame.
    Truncated,
}

/// Several environments that step together.
///
/// When an episode ends, the next one starts at once, and `frames` already holds its first frame.
pub trait VecEnv: Send {
    /// Returns the number of environments.
    fn count(&self) -> usize;

    /// Returns rows, columns and channels of a frame.
    fn frame_shape(&self) -> [usize; 3];

    /// Returns the actions that every environment takes.
    fn action_space(&self) -> &ActionSpace;

    /// Returns the frames per second at which a person would play.
    fn fps(&self) -> u32;

    /// Abandons all episodes and starts new ones.
    fn reset(&mut self) -> Result<()>;

    /// Performs one action in every environment and waits for the results.
    ///
    /// # Errors
    /// Fails if an action is not in the [space](Self::action_space), and if an environment fails.
    fn step(&mut self, actions: &[Action]) -> Result<()>;

    /// Returns the current frame of each environment.
    ///
    /// # Shapes
    /// - output: `[env, height, width, channel]`, u8
    fn frames(&self) -> &[u8];

    /// Returns the reward of the last step: `[env]`.
    fn rewards(&self) -> Vec<f64>;

    /// Returns how the last step ended: `[env]`.
    fn ends(&self) -> &[End];

    /// Returns the numbers of the current levels, or the seeds of the current episodes: `[env]`.
    fn levels(&self) -> Vec<i32>;

    /// Returns the serialised state of an environment, for [`restore`](Self::restore).
    fn state_bytes(&self, env: usize) -> Result<Vec<u8>>;

    /// Restores the state of every environment, from one with the same configuration.
    fn restore(&mut self, states: &[Vec<u8>]) -> Result<()>;
}
