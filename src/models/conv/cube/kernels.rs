//! Kernels that move images and their gradients: `[batch, height, width, channel]`, contiguous if
//! nothing else is said.

mod channels;
mod elementwise;
mod nearest;
mod resize;
mod unfold;

pub use channels::{join, split};
pub use elementwise::{add, mask, mask_and_add, mask_rows, rectify};
pub use nearest::nearest;
pub use resize::{halve, halve_backward, shuffle, unshuffle};
pub use unfold::{unfold, weight_gradient};
