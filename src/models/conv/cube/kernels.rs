//! Kernels that move images and their gradients. All images are contiguous
//! `[batch, height, width, channel]`.

mod channels;
mod elementwise;
mod resize;
mod unfold;

pub use channels::{join, split};
pub use elementwise::{add, mask, mask_and_add, rectify};
pub use resize::{halve, halve_backward, shuffle, unshuffle};
pub use unfold::{unfold, weight_gradient};
