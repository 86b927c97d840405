//! The decoder: latent action -> true action.
//!
//! [`Decoder`] is the network. [`LoadedDecoder`] adds its sizes and metadata. A decoder is so small
//! that it always runs on the CPU.

use std::collections::BTreeMap;

use burn::backend::Flex;
use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::init::Init;
use super::layers::{Linear, NetBackend, relu};
use super::metadata::DECODER_FORMAT;
use super::weights::{Weights, to_host};
use super::{ModelError, Result};

/// The meaning of a decoder's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outputs {
    /// Logits of the actions.
    Discrete {
        /// Number of actions.
        actions: usize,
    },
    /// The action itself.
    Continuous {
        /// Dimension of an action.
        axes: usize,
    },
    /// The mean of each axis of a normal distribution, then the logarithm of each standard
    /// deviation.
    Gaussian {
        /// Dimension of an action.
        axes: usize,
    },
}

impl Outputs {
    /// Returns the number of outputs.
    pub fn width(self) -> usize {
        match self {
            Outputs::Discrete { actions } => actions,
            Outputs::Continuous { axes } => axes,
            Outputs::Gaussian { axes } => 2 * axes,
        }
    }

    /// Returns the dimension of a continuous action; `None` if actions are discrete.
    pub fn axes(self) -> Option<usize> {
        match self {
            Outputs::Discrete { .. } => None,
            Outputs::Continuous { axes } | Outputs::Gaussian { axes } => Some(axes),
        }
    }

    /// Returns the outputs without deviations.
    ///
    /// # Shapes
    /// - `outputs`: `[batch, width]`
    /// - output: `[batch, actions or axes]`
    pub fn without_deviations(self, outputs: Vec<f32>) -> Vec<f32> {
        let Outputs::Gaussian { axes } = self else { return outputs };
        outputs.chunks_exact(2 * axes).flat_map(|row| &row[..axes]).copied().collect()
    }
}

/// Sizes of a decoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// Length of a latent action.
    pub latent_dim: usize,
    /// Width of each hidden layer, from the input on.
    pub hidden: Vec<usize>,
    /// Kind and number of outputs.
    pub outputs: Outputs,
}

/// A multilayer perceptron with ReLU.
#[derive(Module, Debug)]
pub struct Decoder<B: Backend> {
    layers: Vec<Linear<B>>,
}

impl<B: NetBackend> Decoder<B> {
    /// Creates a decoder with initial weights.
    pub fn new(init: &mut Init<'_, B>, config: &DecoderConfig) -> Self {
        let widths: Vec<usize> = [config.latent_dim]
            .into_iter()
            .chain(config.hidden.iter().copied())
            .chain([config.outputs.width()])
            .collect();
        Decoder {
            layers: widths.windows(2).map(|pair| Linear::new(init, pair[0], pair[1])).collect(),
        }
    }

    /// Decodes latent actions.
    ///
    /// # Shapes
    /// - `latent_action`: `[batch, latent_dim]`
    /// - output: `[batch, outputs]`
    pub fn forward(&self, latent_action: Tensor<B, 2>) -> Tensor<B, 2> {
        let (first, rest) = self.layers.split_first().expect("there is at least one layer");
        rest.iter().fold(first.forward(latent_action), |x, layer| layer.forward(relu(x)))
    }

    /// Folds the normalisation `(x - mean) / deviation` into the first layer, so that the returned
    /// decoder takes raw inputs.
    #[must_use]
    pub fn after_normalising(
        mut self,
        mean: &[f32],
        deviation: &[f32],
        device: &B::Device,
    ) -> Self {
        let row = |values: Vec<f32>| {
            Tensor::<B, 2>::from_data(TensorData::new(values, [1, mean.len()]), device)
        };
        // W (x - m) / d + b = (W / d) x + (b - (W / d) m)
        let first = &mut self.layers[0];
        let weight =
            first.weight.val() * row(deviation.iter().map(|deviation| 1.0 / deviation).collect());
        let bias =
            first.bias.val() - (weight.clone() * row(mean.to_vec())).sum_dim(1).squeeze_dim(1);
        first.weight = first.weight.clone().map(|_| weight);
        first.bias = first.bias.clone().map(|_| bias);
        self
    }

    /// Folds the scaling `action * deviation + mean` into the last layer, so that the returned
    /// decoder has actions on the original scale.
    ///
    /// # Shapes
    /// - `mean` and `deviation`: `[axes]`
    #[must_use]
    pub fn before_scaling(
        mut self,
        outputs: Outputs,
        mean: &[f32],
        deviation: &[f32],
        device: &B::Device,
    ) -> Self {
        let values = |values: Vec<f32>| Tensor::<B, 1>::from_floats(values.as_slice(), device);
        let mut factor = deviation.to_vec();
        let mut offset = mean.to_vec();
        if let Outputs::Gaussian { .. } = outputs {
            // ln(s d) = ln s + ln d
            factor.extend(deviation.iter().map(|_| 1.0));
            offset.extend(deviation.iter().map(|deviation| deviation.ln()));
        }
        // (W x + b) f + o = (W f) x + (b f + o), row by row
        let last = self.layers.last_mut().expect("there is at least one layer");
        let weight = last.weight.val() * values(factor.clone()).unsqueeze_dim(1);
        let bias = last.bias.val() * values(factor) + values(offset);
        last.weight = last.weight.clone().map(|_| weight);
        last.bias = last.bias.clone().map(|_| bias);
        self
    }
}

/// A decoder with its sizes and the metadata of its file.
#[derive(Clone, Debug)]
pub struct LoadedDecoder {
    /// Free text by key.
    pub metadata: BTreeMap<String, String>,
    /// Sizes of the network.
    pub config: DecoderConfig,
    net: Decoder<Flex>,
}

impl LoadedDecoder {
    /// Wraps a trained network.
    pub fn new(config: DecoderConfig, net: Decoder<Flex>) -> Self {
        LoadedDecoder { metadata: BTreeMap::new(), config, net }
    }

    /// Reads a safetensors file.
    pub fn load(file: &[u8]) -> Result<Self> {
        let weights = Weights::parse(file)?;
        let device = Default::default();
        let config = weights.decoder_config()?;
        let net =
            weights.load("decoder", Decoder::new(&mut Init::new(0, &device), &config), &device)?;
        Ok(LoadedDecoder { metadata: weights.metadata, config, net })
    }

    /// Returns the weights as a safetensors file.
    pub fn export(&self) -> Result<Vec<u8>> {
        let mut weights = Weights::default();
        weights.metadata.clone_from(&self.metadata);
        weights.describe(DECODER_FORMAT, &self.config);
        weights.store::<Flex, _>("decoder", &self.net)?;
        Ok(weights.to_bytes())
    }

    /// Decodes latent actions.
    ///
    /// # Shapes
    /// - `latent_action`: `[batch, latent_dim]`
    /// - output: `[batch, outputs]`
    pub fn decode(&self, latent_action: &[f32]) -> Result<Vec<f32>> {
        let dim = self.config.latent_dim;
        let length = latent_action.len();
        if !length.is_multiple_of(dim) {
            let expected = format!("a multiple of {dim} numbers");
            return Err(ModelError::Frames {
                what: "latent actions",
                seen: format!("{length} numbers"),
                expected,
            });
        }
        if length == 0 {
            return Ok(Vec::new());
        }
        let latent_action = TensorData::new(latent_action.to_vec(), [length / dim, dim]);
        to_host(self.net.forward(Tensor::from_data(latent_action, &Default::default())))
    }
}
