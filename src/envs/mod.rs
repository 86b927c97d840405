//! An action becomes the next frame: games that run here, many at once. In: actions; out: frames, rewards, and which episodes ended.
//!
//! Where to start: [`VecEnv`], what every environment is to the stages; [`Procgen`] is one. [`wrappers`] keep statistics and scale
//! rewards, [`maze`] is an expert. Only `libenv` is unsafe.

mod error;
mod libenv;
pub mod maze;
mod procgen;
mod state;
pub mod wrappers;

pub use error::{Error, Result};
pub use procgen::{Game, Levels, Mode, NATIVE, Package, Procgen, ProcgenConfig, Returns};

/// How an environment's last step ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// The episode goes on.
    #[default]
    None,
    /// The game was won or lost.
    Done,
    /// Its time was up: what would have come after is worth as much as ever.
    Truncated,
}

/// Several environments that act at once. An episode that ends is followed by another: `frames` then shows the first of it.
pub trait VecEnv: Send {
    /// How many environments there are.
    fn count(&self) -> usize;

    /// Rows, columns and channels of a frame.
    fn frame_shape(&self) -> [usize; 3];

    /// How many actions there are: each is a number below.
    fn actions(&self) -> usize;

    /// Abandons all episodes and begins others.
    fn reset(&mut self);

    /// Acts once in every environment, and waits for what follows.
    fn step(&mut self, actions: &[u32]) -> Result<()>;

    /// What each environment shows now.
    ///
    /// # Shapes
    /// - output: `[env, height, width, channel]`, u8
    fn frames(&self) -> &[u8];

    /// What each environment's last step earned: `[env]`.
    fn rewards(&self) -> &[f32];

    /// Which episodes the last step ended: `[env]`.
    fn ends(&self) -> &[End];
}
