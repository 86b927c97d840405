//! Games: an action becomes the next frame.
//!
//! Start at [`VecEnv`], the interface of all environments to the stages; [`Procgen`] implements it.
//! [`Gymnasium`] plays environments of the Python library in a child process.
//! [`wrappers`] keep episode statistics and scale rewards, [`maze`] is an expert player. Only
//! `libenv` contains unsafe code.

// Paths are the same within this crate and in `lapo`: `crate::envs::...`.
extern crate self as envs;

mod error;
mod gymnasium;
mod libenv;
pub mod maze;
mod procgen;
mod state;
pub mod wrappers;

pub use error::{Error, Result};
pub use gymnasium::{ActionSpace, Actions, Gymnasium, GymnasiumGame};
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

    /// Returns the number of actions. An action is a number below it.
    fn actions(&self) -> usize;

    /// Abandons all episodes and starts new ones.
    fn reset(&mut self);

    /// Performs one action in every environment and waits for the results.
    fn step(&mut self, actions: &[u32]) -> Result<()>;

    /// Returns the current frame of each environment.
    ///
    /// # Shapes
    /// - output: `[env, height, width, channel]`, u8
    fn frames(&self) -> &[u8];

    /// Returns the reward of the last step: `[env]`.
    fn rewards(&self) -> &[f32];

    /// Returns how the last step ended: `[env]`.
    fn ends(&self) -> &[End];
}
