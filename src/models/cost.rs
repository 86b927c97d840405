//! Counts the floating-point operations per window from the sizes of the networks.
//!
//! A multiply-add counts as two operations. Only products of values and weights count, as in
//! PyTorch's own counter. Start at [`idm`] and [`fdm`].

use super::impala::FEATURES;
use super::{DynamicsConfig, FdmAction, IdmHead, PolicyConfig};

/// Floating-point operations per window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Operations of the forward pass.
    pub forward: u64,
    /// Operations of the forward and the backward pass together.
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

/// Returns the cost of one window in the IDM.
pub fn idm(config: &DynamicsConfig) -> Cost {
    let trunk = stages(config.channels * config.window(), config.idm_scale, config.frame_size);
    let features = match config.idm_head {
        IdmHead::Motion => 32 * config.idm_scale,
        IdmHead::Flatten => feature_count(config.idm_scale, config.frame_size),
    };
    trunk + inner_layer(features * FEATURES) + inner_layer(FEATURES * config.latent_dim())
}

/// Returns the cost of one frame in the latent policy, both heads included.
pub fn policy(config: &PolicyConfig) -> Cost {
    let trunk = stages(config.input_channels(), config.scale, config.frame_size);
    trunk
        + inner_layer(feature_count(config.scale, config.frame_size) * FEATURES)
        + inner_layer(FEATURES * (config.latent_dim + 1))
}

/// Returns the cost of one window in the FDM. A tiled latent action counts as a linear map.
pub fn fdm(config: &DynamicsConfig) -> Cost {
    let base = config.fdm_base;
    let latent = config.latent_dim();
    let size = config.frame_size;
    let depth = config.fdm_depth();
    let past = config.channels * (config.context + 1);
    let bottom = config.fdm_bottom;
    let width = |level: usize| base << level;
    let residual = |width: usize, pixels: usize| inner_layer(pixels * 9 * width * width);
    // Tiled: one linear map to the nine taps, one from the taps to the pixels.
    let (tiled, modulated) = match config.fdm_action {
        FdmAction::Tile => {
            (inner_layer(latent * 9 * base) + inner_layer(9 * base * size * size), 0)
        }
        FdmAction::Modulate => (Cost::default(), latent),
    };
    let modulate = |width: usize| inner_layer(modulated * 2 * width);

    // The first layer reads frames, which need no gradient; the tiled action does.
    let input_layer = first_layer(size * size * 9 * past * base) + tiled;
    let down = (0..depth).map(|level| {
        let pixels = (size >> level).pow(2);
        let conv = if level == 0 {
            input_layer
        } else {
            inner_layer(pixels * 9 * width(level - 1) * width(level))
        };
        conv + residual(width(level), pixels) + modulate(width(level))
    });
    // The bottom is a 2x2 convolution to one pixel, or a 3x3 convolution of `bottom` pixels a side.
    let taps = if bottom == 1 { 4 } else { 9 * bottom * bottom };
    let bottom_cost = inner_layer(taps * width(depth - 1) * width(depth));
    // From a single pixel there is one step more, with the latent action as its skip.
    let steps = if bottom == 1 { depth + 1 } else { depth };
    let up = (0..steps).map(|step| {
        let level = steps - 1 - step;
        // The step from a single pixel joins the latent action instead of a level.
        let skip = if level == depth { latent } else { width(level) };
        let below = if step == 0 { width(depth) } else { width(level) };
        let output = width(level.saturating_sub(1));
        let pixels = ((2 * bottom) << step).pow(2);
        inner_layer(pixels * (below + skip) * output) + residual(output, pixels) + modulate(output)
    });
    let output_layers = inner_layer(size * size * 9 * (base + past) * base)
        + residual(base, size * size)
        + inner_layer(size * size * base * config.channels);
    down.sum::<Cost>() + bottom_cost + up.sum() + output_layers
}

/// Returns the cost of three stages: each a convolution, a pooling and two residual blocks of two
/// convolutions.
fn stages(channels: usize, scale: usize, size: usize) -> Cost {
    let widths = [channels, 16 * scale, 32 * scale, 32 * scale];
    let stage = |level: usize| {
        let pixels = (size >> level).pow(2);
        let [input, output] = [widths[level], widths[level + 1]];
        let products = pixels * 9 * input * output;
        let input_layer = if level == 0 { first_layer(products) } else { inner_layer(products) };
        // Four convolutions on a quarter of the pixels.
        input_layer + inner_layer(4 * pixels / 4 * 9 * output * output)
    };
    (0..3).map(stage).sum()
}

/// Returns the number of features that the stages produce.
fn feature_count(scale: usize, size: usize) -> usize {
    32 * scale * (size / 8).pow(2)
}

/// Returns the cost of an inner layer. The gradients of input and weight each cost as much as the
/// forward pass.
fn inner_layer(products: usize) -> Cost {
    Cost { forward: 2 * products as u64, training: 6 * products as u64 }
}

/// Returns the cost of a layer on frames, which need no gradient.
fn first_layer(products: usize) -> Cost {
    Cost { forward: 2 * products as u64, training: 4 * products as u64 }
}

#[cfg(test)]
mod tests {
    use super::super::Preset;
    use super::*;

    #[test]
    fn costs_equal_pytorchs_count() {
        // The table in the documentation of `models`, as computed by `FlopCounterMode`.
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
