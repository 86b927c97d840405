//! The layers and networks as nodes. Each function has the name of its counterpart in
//! [`layers`](crate::models::layers), [`impala`](crate::models::impala) or
//! [`decoder`](crate::models::decoder).

use super::graph::{Attribute, Graph, Value};
use crate::models::impala::FEATURES;
use crate::models::weights::Weights;
use crate::models::{DecoderConfig, Result};

/// A graph being built from the tensors of a weight file.
pub struct Network<'a> {
    /// The graph.
    pub graph: &'a mut Graph,
    /// The tensors.
    pub weights: &'a Weights,
}

/// Weight and bias of a fully connected layer.
pub struct LinearWeights {
    /// `[out, in]`
    pub weight: Vec<f32>,
    /// `[out]`
    pub bias: Vec<f32>,
}

impl Network<'_> {
    /// Normalises pixels.
    ///
    /// # Shapes
    /// - `bytes` and output: any; the output lies in [-0.5, 0.5]
    pub fn normalised(&mut self, bytes: &Value) -> Value {
        const FLOAT: i64 = 1;
        let floats = self.graph.node("Cast", &[bytes], &[Attribute::Integer("to", FLOAT)]);
        let white = self.graph.number(255.0);
        let half = self.graph.number(0.5);
        let shares = self.graph.node("Div", &[&floats, &white], &[]);
        self.graph.node("Sub", &[&shares, &half], &[])
    }

    /// Adds the tensor `name` of the weight file.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Value> {
        let values = self.weights.get(name, shape)?;
        Ok(self.graph.weight(name, shape, &values))
    }

    /// Convolves with kernel 3 and keeps the size of the frame. `weight` replaces the weight in the
    /// file.
    fn conv(
        &mut self,
        name: &str,
        x: &Value,
        [input, output]: [usize; 2],
        weight: Option<&Value>,
    ) -> Result<Value> {
        let weight = match weight {
            Some(weight) => weight.clone(),
            None => self.tensor(&format!("{name}.weight"), &[output, input, 3, 3])?,
        };
        let bias = self.tensor(&format!("{name}.bias"), &[output])?;
        let attributes =
            [Attribute::Integers("kernel_shape", &[3, 3]), Attribute::Integers("pads", &[1; 4])];
        Ok(self.graph.node("Conv", &[x, &weight, &bias], &attributes))
    }

    /// Runs the three stages of a trunk of width `scale`. `first_weight` replaces the weight of the
    /// first convolution.
    ///
    /// # Shapes
    /// - `x`: `[batch, channels, height, width]`, in [-0.5, 0.5]
    /// - output: `[batch, 32 * scale, height / 8, width / 8]`, at least 0
    pub fn maps(
        &mut self,
        prefix: &str,
        x: Value,
        channels: usize,
        scale: usize,
        first_weight: Option<&Value>,
    ) -> Result<Value> {
        let widths = [channels, 16 * scale, 32 * scale, 32 * scale];
        let mut x = x;
        for (stage, pair) in widths.windows(2).enumerate() {
            let name = format!("{prefix}.conv_stack.{stage}");
            let (input, output) = (pair[0], pair[1]);
            let weight = first_weight.filter(|_| stage == 0);
            x = self.conv(&format!("{name}.conv"), &x, [input, output], weight)?;
            x = self.halved(&x);
            for block in ["res_block0", "res_block1"] {
                x = self.residual(&format!("{name}.{block}"), x, output)?;
            }
        }
        Ok(self.relu(&x))
    }

    /// Takes maxima over 3 x 3 pixels, at every second pixel.
    fn halved(&mut self, x: &Value) -> Value {
        let attributes = [
            Attribute::Integers("kernel_shape", &[3, 3]),
            Attribute::Integers("strides", &[2, 2]),
            Attribute::Integers("pads", &[1; 4]),
        ];
        self.graph.node("MaxPool", &[x], &attributes)
    }

    /// Runs a residual block `x + conv(relu(conv(relu(x))))`.
    fn residual(&mut self, name: &str, x: Value, width: usize) -> Result<Value> {
        let mut inner = x.clone();
        for conv in ["conv0", "conv1"] {
            inner = self.relu(&inner);
            inner = self.conv(&format!("{name}.{conv}"), &inner, [width, width], None)?;
        }
        Ok(self.graph.node("Add", &[&x, &inner], &[]))
    }

    /// Runs the stages and flattens their features.
    ///
    /// # Shapes
    /// - `x`: `[batch, channels, size, size]`, in [-0.5, 0.5]
    /// - output: `[batch, base_features(scale, size)]`
    pub fn base(&mut self, prefix: &str, x: Value, channels: usize, scale: usize) -> Result<Value> {
        let maps = self.maps(prefix, x, channels, scale, None)?;
        Ok(self.graph.node("Flatten", &[&maps], &[]))
    }

    /// Returns the input of the heads.
    ///
    /// # Shapes
    /// - `base`: `[batch, base]`
    /// - output: `[batch, FEATURES]`
    pub fn features(&mut self, name: &str, base: &Value, width: usize) -> Result<Value> {
        let features = self.linear(name, base, [width, FEATURES])?;
        Ok(self.relu(&features))
    }

    /// Applies a fully connected layer of the file.
    ///
    /// # Shapes
    /// - `x`: `[batch, in]`
    /// - output: `[batch, out]`
    pub fn linear(&mut self, name: &str, x: &Value, size: [usize; 2]) -> Result<Value> {
        let layer = self.linear_weights(name, size)?;
        Ok(self.linear_with(name, x, size, &layer))
    }

    /// Returns the weights of a fully connected layer.
    pub fn linear_weights(&self, name: &str, [input, output]: [usize; 2]) -> Result<LinearWeights> {
        let weight = self.weights.get(&format!("{name}.weight"), &[output, input])?;
        let bias = self.weights.get(&format!("{name}.bias"), &[output])?;
        Ok(LinearWeights { weight, bias })
    }

    /// Applies a fully connected layer with the given weights.
    pub fn linear_with(
        &mut self,
        name: &str,
        x: &Value,
        [input, output]: [usize; 2],
        LinearWeights { weight, bias }: &LinearWeights,
    ) -> Value {
        let weight = self.graph.weight(&format!("{name}.weight"), &[output, input], weight);
        let bias = self.graph.weight(&format!("{name}.bias"), &[output], bias);
        self.graph.node("Gemm", &[x, &weight, &bias], &[Attribute::Integer("transB", 1)])
    }

    /// Decodes latent actions.
    ///
    /// # Shapes
    /// - `latent_action`: `[batch, latent_dim]`
    /// - output: `[batch, outputs]`
    pub fn decoder(
        &mut self,
        prefix: &str,
        latent_action: &Value,
        config: &DecoderConfig,
    ) -> Result<Value> {
        let mut x = latent_action.clone();
        let mut input = config.latent_dim;
        let widths = config.hidden.iter().copied().chain([config.outputs.width()]);
        for (layer, output) in widths.enumerate() {
            if layer > 0 {
                x = self.relu(&x);
            }
            x = self.linear(&format!("{prefix}.layers.{layer}"), &x, [input, output])?;
            input = output;
        }
        Ok(x)
    }

    /// Replaces negative numbers by 0.
    pub fn relu(&mut self, x: &Value) -> Value {
        self.graph.node("Relu", &[x], &[])
    }
}

/// Returns the number of features that a trunk of width `scale` computes from square frames.
pub fn base_features(scale: usize, size: usize) -> usize {
    32 * scale * (size / 8) * (size / 8)
}
