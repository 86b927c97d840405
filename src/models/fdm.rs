//! The forward dynamics model (the paper's world model): past frames and a latent action -> the
//! next frame.
//!
//! It is a U-Net. It halves the frame until `fdm_bottom` pixels remain, and doubles it back. The
//! latent action scales and shifts the channels of every level. In the paper's network
//! (`FdmAction::Tile`) it enters at the input, tiled over the frame. If the bottom is a single
//! pixel, the latent action also replaces the skip connection there.

use burn::module::Module;
use burn::tensor::{FloatDType, Tensor, backend::Backend};

use super::frames::Windows;
use super::init::Init;
use super::layers::{
    BatchNorm2d, BatchStatistics, Conv2d, ConvTranspose2d, Linear, Mode, NetBackend, Relu, join,
    like, modulate, residual, residual_halved, tanh,
};
use super::{DynamicsConfig, FdmAction, Predict};

/// The forward dynamics model. Field names are those of the published checkpoints.
#[derive(Module, Debug)]
pub struct Fdm<B: Backend> {
    down: Vec<Level<B>>,
    up: Vec<Up<B>>,
    final_conv: (Conv2d<B>, UnetResidual<B>, Relu, Conv2d<B>),
    #[module(skip)]
    predict: Predict,
}

impl<B: NetBackend> Fdm<B> {
    /// Creates a model with initial weights.
    pub fn new(init: &mut Init<'_, B>, config: &DynamicsConfig) -> Self {
        let base = config.fdm_base;
        let latent = config.latent_dim();
        let past = config.channels * (config.context + 1);
        let depth = config.fdm_depth();
        let single_pixel = config.fdm_bottom == 1;
        let width = |level: usize| base << level;
        let (tiled, modulate) = match config.fdm_action {
            FdmAction::Tile => (latent, None),
            FdmAction::Modulate => (0, Some(latent)),
        };
        let size = config.frame_size;

        // Down: each level doubles the width, and the first also reads the tiled action.
        let inputs = std::iter::once(past + tiled).chain((0..depth).map(width));
        let down = inputs.zip((0..depth).map(width)).enumerate().map(|(level, (input, output))| {
            let conv = match config.fdm_action {
                FdmAction::Tile if level == 0 => Conv2d::tiled(init, input, output, size),
                _ => Conv2d::same(init, input, output),
            };
            Level::Down(Down::new(init, conv, output, modulate))
        });
        let mut down: Vec<_> = down.collect();
        let bottom = if single_pixel {
            Conv2d::valid(init, width(depth - 1), width(depth), 2)
        } else {
            Conv2d::same(init, width(depth - 1), width(depth))
        };
        down.push(Level::Bottom(bottom));

        // Up: each level reads the level below and, by its skip, a level of the way down. A
        // single-pixel bottom has one level more, with the latent action as its skip.
        let skips = single_pixel.then_some(latent).into_iter().chain((0..depth).rev().map(width));
        let outputs = (0..depth - usize::from(!single_pixel)).rev().map(width).chain([base]);
        let mut below = width(depth);
        let up = skips.zip(outputs).map(|(skip, output)| {
            let input = std::mem::replace(&mut below, output) + skip;
            let conv = ConvTranspose2d::doubling(init, input, output);
            Up::new(init, conv, output, modulate)
        });
        let up = up.collect();

        let first = Conv2d::same(init, base + past, base);
        let residual = UnetResidual::new(init, base);
        let mut last = Conv2d::valid(init, base, config.channels, 1);
        // Starts at "nothing changes".
        if config.predict == Predict::Change {
            last.weight = init.full([config.channels, base, 1, 1], 0.0);
            last.bias = init.full([config.channels], 0.0);
        }
        Fdm { down, up, final_conv: (first, residual, Relu, last), predict: config.predict }
    }

    /// Predicts `o[t+1]` (LAPO, section 4.1).
    ///
    /// [`Mode::Folded`] requires a [`folded`](Self::folded) model.
    ///
    /// # Shapes
    /// - `windows`: `[batch, time * channel, height, width]`; `o[t+1]` is not read
    /// - `latent_action_q`: `[batch, latent_dim]`
    /// - output: `[batch, channel, height, width]`, in [-0.5, 0.5], or slightly beyond for
    ///   [`Predict::Change`]
    pub fn forward(
        &self,
        windows: &Windows<B>,
        latent_action_q: Tensor<B, 2>,
        mode: &mut Mode<'_, B>,
    ) -> Tensor<B, 4> {
        let past = windows.past();
        let latent_action_q = like(&past, latent_action_q);
        let mut x = past.clone();
        let mut levels = Vec::with_capacity(self.down.len());
        for level in &self.down {
            levels.push(x);
            x = level.forward(levels[levels.len() - 1].clone(), &latent_action_q, mode);
        }
        // `levels[i]` is the input of level `i`. The input of the first level is no skip: it joins
        // at the end.
        let mut skips: Vec<_> = levels.drain(1..).collect();
        if self.up.len() > skips.len() {
            let [batch, latent] = latent_action_q.dims();
            skips.push(latent_action_q.clone().reshape([batch, latent, 1, 1]));
        }
        for (up, skip) in self.up.iter().zip(skips.into_iter().rev()) {
            x = up.forward(join(x, skip), &latent_action_q, mode);
        }
        let (first, residual, _, last) = &self.final_conv;
        let x = residual.forward(first.forward(join(x, past)), false);
        let out = tanh(last.forward_relu(x).cast(FloatDType::F32));
        match self.predict {
            // tanh spans [-1, 1], and pixels span [-0.5, 0.5].
            Predict::Frame => out / 2.0,
            Predict::Change => windows.last() + out,
        }
    }

    /// Returns the model for [`Mode::Folded`]: its convolutions include the normalisation by
    /// running statistics.
    pub fn folded(mut self) -> Self {
        for level in &mut self.down {
            if let Level::Down(UnetLevel { conv, norm, .. }) = level {
                norm.fold_into(&mut conv.weight, &mut conv.bias, 0);
            }
        }
        for UnetLevel { conv, norm, .. } in &mut self.up {
            norm.fold_into(&mut conv.weight, &mut conv.bias, 1);
        }
        self
    }

    /// Updates the running statistics with those of a training pass.
    pub fn update(&mut self, seen: Vec<BatchStatistics<B>>) {
        let down = self.down.iter_mut().filter_map(|level| match level {
            Level::Down(down) => Some(&mut down.norm),
            Level::Bottom(_) => None,
        });
        let up = self.up.iter_mut().map(|up| &mut up.norm);
        // `forward` appends statistics in this order: down, then up.
        BatchNorm2d::update_all(down.chain(up), seen);
    }
}

/// A level of the way down: a block that halves the frame or, at the end, the bottom.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a network has six of them")]
enum Level<B: Backend> {
    Down(Down<B>),
    Bottom(Conv2d<B>),
}

impl<B: NetBackend> Level<B> {
    /// Runs the level.
    ///
    /// # Shapes
    /// - `x`: `[batch, in, height, width]`
    /// - `action`: `[batch, latent_dim]`
    /// - output: `[batch, out, height', width']`; [`Down`] halves the frame
    fn forward(
        &self,
        x: Tensor<B, 4>,
        action: &Tensor<B, 2>,
        mode: &mut Mode<'_, B>,
    ) -> Tensor<B, 4> {
        match self {
            Level::Down(down) => down.forward(x, action, mode),
            Level::Bottom(conv) => conv.forward(x),
        }
    }
}

/// A level of the U-Net: a convolution `C`, normalisation, modulation, a residual block.
#[derive(Module, Debug)]
struct UnetLevel<B: Backend, C> {
    conv: C,
    norm: BatchNorm2d<B>,
    res: UnetResidual<B>,
    modulate: Option<Linear<B>>,
}

/// Halves the frame, by max pooling at its end.
type Down<B> = UnetLevel<B, Conv2d<B>>;
/// Doubles the frame, by its transposed convolution.
type Up<B> = UnetLevel<B, ConvTranspose2d<B>>;

impl<B: NetBackend, C> UnetLevel<B, C> {
    /// Creates a level with `output` channels. `latent` is the length of the latent action if it
    /// modulates the level.
    fn new(init: &mut Init<'_, B>, conv: C, output: usize, latent: Option<usize>) -> Self {
        UnetLevel {
            conv,
            norm: BatchNorm2d::new(init, output),
            res: UnetResidual::new(init, output),
            modulate: latent.map(|latent| Linear::new(init, latent, 2 * output)),
        }
    }

    /// Normalises and modulates the convolution's output.
    ///
    /// # Shapes
    /// - `x` and output: `[batch, out, height, width]`
    /// - `action`: `[batch, latent_dim]`
    fn modulated(
        &self,
        x: Tensor<B, 4>,
        action: &Tensor<B, 2>,
        mode: &mut Mode<'_, B>,
    ) -> Tensor<B, 4> {
        let x = self.norm.forward(x, mode);
        match &self.modulate {
            // FiLM (Perez et al., 2018): a linear map of the latent action scales and shifts each
            // channel.
            Some(linear) => modulate(x, linear.forward(action.clone())),
            None => x,
        }
    }
}

impl<B: NetBackend> Down<B> {
    /// Halves the frame. If the convolution expects more channels than `x` has, the tiled action
    /// fills the rest.
    ///
    /// # Shapes
    /// - `x`: `[batch, in, height, width]`
    /// - `action`: `[batch, latent_dim]`
    /// - output: `[batch, out, height / 2, width / 2]`
    fn forward(
        &self,
        x: Tensor<B, 4>,
        action: &Tensor<B, 2>,
        mode: &mut Mode<'_, B>,
    ) -> Tensor<B, 4> {
        let tiled = self.conv.weight.dims()[1] > x.dims()[1];
        let x =
            if tiled { self.conv.forward_tiled(x, action.clone()) } else { self.conv.forward(x) };
        self.res.forward_halve(self.modulated(x, action, mode))
    }
}

impl<B: NetBackend> Up<B> {
    /// Doubles the frame.
    ///
    /// # Shapes
    /// - `x`: `[batch, in, height, width]`
    /// - `action`: `[batch, latent_dim]`
    /// - output: `[batch, out, 2 * height, 2 * width]`
    fn forward(
        &self,
        x: Tensor<B, 4>,
        action: &Tensor<B, 2>,
        mode: &mut Mode<'_, B>,
    ) -> Tensor<B, 4> {
        self.res.forward(self.modulated(self.conv.forward(x), action, mode), true)
    }
}

/// A residual block `x + conv(relu(conv(relu(x))))` with half the width inside.
#[derive(Module, Debug)]
struct UnetResidual<B: Backend> {
    res_block: (Relu, Conv2d<B>, Relu, Conv2d<B>),
}

impl<B: NetBackend> UnetResidual<B> {
    fn new(init: &mut Init<'_, B>, width: usize) -> Self {
        let narrow = Conv2d::same(init, width, width / 2);
        let widen = Conv2d::same(init, width / 2, width);
        UnetResidual { res_block: (Relu, narrow, Relu, widen) }
    }

    /// Runs the block, and applies a ReLU to its output if `relu`.
    ///
    /// # Shapes
    /// - `x` and output: `[batch, channels, height, width]`
    fn forward(&self, x: Tensor<B, 4>, relu: bool) -> Tensor<B, 4> {
        let (_, narrow, _, widen) = &self.res_block;
        let layers = [narrow, widen].map(|conv| conv.parameters_like(&x));
        residual(x, layers, relu)
    }

    /// Runs the block, takes the maximum of each 2x2 square, and applies a ReLU.
    ///
    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`
    /// - output: `[batch, channels, height / 2, width / 2]`
    fn forward_halve(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let (_, narrow, _, widen) = &self.res_block;
        let layers = [narrow, widen].map(|conv| conv.parameters_like(&x));
        residual_halved(x, layers)
    }
}
