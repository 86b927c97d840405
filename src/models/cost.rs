//! What a window costs, counted from the sizes of the networks: configurations go in, floating-point operations come out.
//!
//! A multiply-add counts as two operations; what is not a product of numbers with weights is left out, as in PyTorch's own counter.
//! Start at [`idm`] and [`fdm`].

use super::impala::FEATURES;
use super::{DynamicsConfig, PolicyConfig};

/// Operations a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Of the forward pass.
    pub forward: u64,
    /// Of the forward and the backward pass together.
    pub training: u64,
}

impl std::ops::Add for Cost {
    type Output = Cost;

    fn add(self, other: Cost) -> Cost {
        Cost { forward: self.forward + other.forward, training: self.training + other.training }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), |sum, cost| sum + cost)
    }
}

/// The IDM's cost of one window.
pub fn idm(config: &DynamicsConfig) -> Cost {
    impala(config.channels * config.window(), config.idm_scale, config.frame_size) + inner(FEATURES * config.latent_dim())
}

/// The latent policy's cost of one frame: both heads.
pub fn policy(config: &PolicyConfig) -> Cost {
    impala(config.channels, config.scale, config.frame_size) + inner(FEATURES * (config.latent_dim + 1))
}

/// The FDM's cost of one window; the tiled latent action is a linear map.
pub fn fdm(config: &DynamicsConfig) -> Cost {
    let (base, latent, size) = (config.fdm_base, config.latent_dim(), config.frame_size);
    let past = config.channels * (config.context + 1);
    let depth = size.ilog2() as usize - 1;
    let width = |level: usize| base << level;
    let residual = |width: usize, pixels: usize| inner(pixels * 9 * width * width);

    let taps = inner(latent * 9 * base) + inner(9 * base * size * size);
    let enter = first(size * size * 9 * past * base) + taps;
    let down = (0..depth).map(|level| {
        let pixels = (size >> level).pow(2);
        let conv = if level == 0 { enter } else { inner(pixels * 9 * width(level - 1) * width(level)) };
        conv + residual(width(level), pixels)
    });
    let bottom = inner(4 * width(depth - 1) * width(depth));
    let up = (0..=depth).map(|step| {
        let below = if step == 0 { width(depth) + latent } else { 2 * width(depth - step) };
        let output = width(depth.saturating_sub(step + 1));
        let pixels = (2_usize << step).pow(2);
        inner(pixels * below * output) + residual(output, pixels)
    });
    let leave = inner(size * size * 9 * (base + past) * base) + residual(base, size * size) + inner(size * size * base * config.channels);
    down.sum::<Cost>() + bottom + up.sum() + leave
}

/// The trunk: three stages, each a convolution, a halving and two residual blocks of two; then the linear layer.
fn impala(channels: usize, scale: usize, size: usize) -> Cost {
    let widths = [channels, 16 * scale, 32 * scale, 32 * scale];
    let stage = |level: usize| {
        let (pixels, [input, output]) = ((size >> level).pow(2), [widths[level], widths[level + 1]]);
        let enter = pixels * 9 * input * output;
        let enter = if level == 0 { first(enter) } else { inner(enter) };
        enter + inner(4 * pixels / 4 * 9 * output * output)
    };
    let left = widths[3] * (size / 8).pow(2);
    (0..3).map(stage).sum::<Cost>() + inner(left * FEATURES)
}

/// A layer within: both its input's and its weight's gradient cost as much as the way forward.
fn inner(products: usize) -> Cost {
    Cost { forward: 2 * products as u64, training: 6 * products as u64 }
}

/// A layer on the frames, which need no gradient.
fn first(products: usize) -> Cost {
    Cost { forward: 2 * products as u64, training: 4 * products as u64 }
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::*;

    /// The table in the room's doc, which PyTorch's counter made.
    #[test]
    fn costs_are_those_that_pytorch_counts() {
        for (preset, expected) in [
            (Preset::Tiny, [(68, 194), (65, 191), (61, 180)]),
            (Preset::Small, [(250, 728), (140, 414), (236, 700)]),
            (Preset::Paper, [(953, 2816), (535, 1594), (924, 2759)]),
        ] {
            let config = preset.dynamics();
            let found = [idm(&config), fdm(&config), policy(&preset.policy(&config))];
            let millions = found.map(|cost| ((cost.forward as f64 / 1e6).round() as u64, (cost.training as f64 / 1e6).round() as u64));
            assert_eq!(millions, expected, "{preset:?}");
        }
    }
}
