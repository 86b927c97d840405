//! What a window costs, counted from the sizes of the networks: configurations go in, floating-point operations come out.
//!
//! A multiply-add counts as two operations; what is not a product of numbers with weights is left out, as in PyTorch's own counter.
//! Start at [`idm`] and [`fdm`].

use super::impala::FEATURES;
use super::{DynamicsConfig, FdmAction, IdmHead, PolicyConfig};

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
    let trunk = stages(config.channels * config.window(), config.idm_scale, config.frame_size);
    let left = match config.idm_head {
        IdmHead::Motion => 32 * config.idm_scale,
        IdmHead::Flatten => flat(config.idm_scale, config.frame_size),
    };
    trunk + inner(left * FEATURES) + inner(FEATURES * config.latent_dim())
}

/// The latent policy's cost of one frame: both heads.
pub fn policy(config: &PolicyConfig) -> Cost {
    let trunk = stages(config.channels, config.scale, config.frame_size);
    trunk
        + inner(flat(config.scale, config.frame_size) * FEATURES)
        + inner(FEATURES * (config.latent_dim + 1))
}

/// The FDM's cost of one window; the tiled latent action is a linear map.
pub fn fdm(config: &DynamicsConfig) -> Cost {
    let (base, latent, size, depth) =
        (config.fdm_base, config.latent_dim(), config.frame_size, config.fdm_depth());
    let (past, bottom) = (config.channels * (config.context + 1), config.fdm_bottom);
    let width = |level: usize| base << level;
    let residual = |width: usize, pixels: usize| inner(pixels * 9 * width * width);
    let (tiled, modulated) = match config.fdm_action {
        FdmAction::Tile => (inner(latent * 9 * base) + inner(9 * base * size * size), 0),
        FdmAction::Modulate => (Cost::default(), latent),
    };
    let modulate = |width: usize| inner(modulated * 2 * width);

    let enter = first(size * size * 9 * past * base) + tiled;
    let down = (0..depth).map(|level| {
        let pixels = (size >> level).pow(2);
        let conv =
            if level == 0 { enter } else { inner(pixels * 9 * width(level - 1) * width(level)) };
        conv + residual(width(level), pixels) + modulate(width(level))
    });
    let taps = if bottom == 1 { 4 } else { 9 * bottom * bottom };
    let turn = inner(taps * width(depth - 1) * width(depth));
    // Up from a single pixel takes a step more, whose skip is the latent action.
    let steps = if bottom == 1 { depth + 1 } else { depth };
    let up = (0..steps).map(|step| {
        let level = steps - 1 - step;
        let skip = if level == depth { latent } else { width(level) };
        let below = if step == 0 { width(depth) } else { width(level) };
        let output = width(level.saturating_sub(1));
        let pixels = ((2 * bottom) << step).pow(2);
        inner(pixels * (below + skip) * output) + residual(output, pixels) + modulate(output)
    });
    let leave = inner(size * size * 9 * (base + past) * base)
        + residual(base, size * size)
        + inner(size * size * base * config.channels);
    down.sum::<Cost>() + turn + up.sum() + leave
}

/// Three stages, each a convolution, a halving and two residual blocks of two.
fn stages(channels: usize, scale: usize, size: usize) -> Cost {
    let widths = [channels, 16 * scale, 32 * scale, 32 * scale];
    let stage = |level: usize| {
        let (pixels, [input, output]) =
            ((size >> level).pow(2), [widths[level], widths[level + 1]]);
        let enter = pixels * 9 * input * output;
        let enter = if level == 0 { first(enter) } else { inner(enter) };
        enter + inner(4 * pixels / 4 * 9 * output * output)
    };
    (0..3).map(stage).sum()
}

/// All that the stages leave.
fn flat(scale: usize, size: usize) -> usize {
    32 * scale * (size / 8).pow(2)
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
            let config = preset.dynamics().reference();
            let found = [idm(&config), fdm(&config), policy(&preset.policy(&config))];
            let millions = found.map(|cost| {
                (
                    (cost.forward as f64 / 1e6).round() as u64,
                    (cost.training as f64 / 1e6).round() as u64,
                )
            });
            assert_eq!(millions, expected, "{preset:?}");
        }
    }
}
