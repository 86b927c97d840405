//! The convolutional trunk of IDM and policy (IMPALA, Espeholt et al., 2018): stacked frames ->
//! features.
//!
//! [`impala`] creates the two parts of a trunk, and [`features`] runs them.

use burn::module::Module;
use burn::tensor::{Tensor, backend::Backend};

use super::init::Init;
use super::layers::{Conv2d, Linear, NetBackend, impala_stage, like, relu};

/// Length of the trunk's feature vector.
pub const FEATURES: usize = 256;

/// A residual block `x + conv(relu(conv(relu(x))))` of constant width.
#[derive(Module, Debug)]
pub struct ImpalaResidual<B: Backend> {
    conv0: Conv2d<B>,
    conv1: Conv2d<B>,
}

impl<B: NetBackend> ImpalaResidual<B> {
    fn new(init: &mut Init<'_, B>, width: usize) -> Self {
        ImpalaResidual {
            conv0: Conv2d::same(init, width, width),
            conv1: Conv2d::same(init, width, width),
        }
    }
}

/// A convolution, a pooling that halves the frame, and two residual blocks.
#[derive(Module, Debug)]
pub struct ImpalaStage<B: Backend> {
    /// The first convolution.
    pub conv: Conv2d<B>,
    res_block0: ImpalaResidual<B>,
    res_block1: ImpalaResidual<B>,
}

impl<B: NetBackend> ImpalaStage<B> {
    fn new(init: &mut Init<'_, B>, input: usize, output: usize) -> Self {
        ImpalaStage {
            conv: Conv2d::same(init, input, output),
            res_block0: ImpalaResidual::new(init, output),
            res_block1: ImpalaResidual::new(init, output),
        }
    }

    /// Runs the stage.
    ///
    /// # Shapes
    /// - `x`: `[batch, in, height, width]`
    /// - output: `[batch, out, height / 2, width / 2]`
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        self.forward_with(self.conv.weight.val(), x)
    }

    /// Runs the stage with another weight in the first convolution.
    ///
    /// # Shapes
    /// - `weight`: `[out, in, 3, 3]`
    /// - `x`: `[batch, in, height, width]`
    /// - output: `[batch, out, height / 2, width / 2]`
    fn forward_with(&self, weight: Tensor<B, 4>, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let first = &self.res_block0;
        let second = &self.res_block1;
        let mut layers = [&self.conv, &first.conv0, &first.conv1, &second.conv0, &second.conv1]
            .map(|conv| conv.parameters_like(&x));
        layers[0].0 = like(&x, weight);
        impala_stage(x, layers)
    }
}

/// Creates the three stages of a trunk for frames of `channels` channels. The stages have 16, 32
/// and 32 channels times `scale`.
pub fn stages<B: NetBackend>(
    init: &mut Init<'_, B>,
    channels: usize,
    scale: usize,
) -> Vec<ImpalaStage<B>> {
    [channels, 16 * scale, 32 * scale, 32 * scale]
        .windows(2)
        .map(|pair| ImpalaStage::new(init, pair[0], pair[1]))
        .collect()
}

/// Creates a trunk for square frames: the stages, and the layer from all their features to
/// [`FEATURES`].
pub fn impala<B: NetBackend>(
    init: &mut Init<'_, B>,
    channels: usize,
    scale: usize,
    size: usize,
) -> (Vec<ImpalaStage<B>>, Linear<B>) {
    let stages = stages(init, channels, scale);
    // Three stages halve the side three times.
    (stages, Linear::new(init, 32 * scale * (size / 8) * (size / 8), FEATURES))
}

/// Runs the stages with another weight in the first convolution.
///
/// # Shapes
/// - `weight`: `[16 * scale, channels, 3, 3]`
/// - `x`: `[batch, channels, height, width]`, in [-0.5, 0.5]
/// - output: `[batch, 32 * scale, height / 8, width / 8]`, at least 0
pub fn maps<B: NetBackend>(
    conv_stack: &[ImpalaStage<B>],
    weight: Tensor<B, 4>,
    x: Tensor<B, 4>,
) -> Tensor<B, 4> {
    let (first, rest) = conv_stack.split_first().expect("a trunk has three stages");
    relu(rest.iter().fold(first.forward_with(weight, x), |x, stage| stage.forward(x)))
}

/// Runs the stages and flattens their features.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`, in [-0.5, 0.5]
/// - output: `[batch, 32 * scale * height / 8 * width / 8]`, at least 0
pub fn base<B: NetBackend>(conv_stack: &[ImpalaStage<B>], x: Tensor<B, 4>) -> Tensor<B, 2> {
    relu(conv_stack.iter().fold(x, |x, stage| stage.forward(x)).flatten(1, 3))
}

/// Runs the whole trunk.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`, in [-0.5, 0.5]
/// - output: `[batch, FEATURES]`, at least 0
pub fn features<B: NetBackend>(
    conv_stack: &[ImpalaStage<B>],
    fc: &Linear<B>,
    x: Tensor<B, 4>,
) -> Tensor<B, 2> {
    relu(fc.forward(base(conv_stack, x)))
}
