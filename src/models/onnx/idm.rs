//! The inverse dynamics model and its codebooks as nodes: see [`idm`](crate::models::idm),
//! [`motion`](crate::models::motion) and [`vq`](crate::models::vq).

use super::graph::{Attribute, Element, Graph, Port, Value};
use super::networks::{LinearWeights, Network, base_features};
use crate::models::impala::FEATURES;
use crate::models::motion::frames_to_inputs;
use crate::models::weights::Weights;
use crate::models::{DynamicsConfig, IdmHead, Result, VqConfig};

/// Variance that normalisation layers add, as in PyTorch.
const EPSILON: f32 = 1e-5;

/// Returns the graph from windows to latent actions and codes.
pub fn idm(weights: &Weights, config: &DynamicsConfig) -> Result<Graph> {
    let DynamicsConfig { frame_size: size, channels, .. } = *config;
    let time = config.window();
    let mut graph = Graph::default();
    let mut network = Network { graph: &mut graph, weights };

    let frames =
        network.graph.input(Port::new("frames", Element::Uint8, &[time, size, size, channels]));
    let planes = Attribute::Integers("perm", &[0, 1, 4, 2, 3]);
    let planes = network.graph.node("Transpose", &[&frames], &[planes]);
    // A size of 0 keeps the batch.
    let stacked = reshape(&mut network, &planes, &[0, (time * channels), size, size]);
    let windows = network.normalised(&stacked);

    let latent_action = match config.idm_head {
        IdmHead::Flatten => flatten_head(&mut network, windows, config)?,
        IdmHead::Motion => motion_head(&mut network, &windows, config)?,
    };
    let codes = codes(&mut network, &latent_action, &config.vq)?;
    let port = Port::new("latent_action", Element::Float, &[config.latent_dim()]);
    graph.output(port, &latent_action);
    graph.output(Port::new("latent_code", Element::Int64, &[config.codes()]), &codes);
    Ok(graph)
}

/// Returns the latent action of [`IdmHead::Flatten`].
fn flatten_head(network: &mut Network, windows: Value, config: &DynamicsConfig) -> Result<Value> {
    let scale = config.idm_scale;
    let base = network.base("idm", windows, config.channels * config.window(), scale)?;
    let features = network.features("idm.fc", &base, base_features(scale, config.frame_size))?;
    network.linear("idm.policy_head", &features, [FEATURES, config.latent_dim()])
}

/// Returns the latent action of [`IdmHead::Motion`].
fn motion_head(network: &mut Network, windows: &Value, config: &DynamicsConfig) -> Result<Value> {
    let scale = config.idm_scale;
    let channels = config.channels * config.window();
    let weight = weight_of_frames(network.weights, config)?;
    let weight = network.graph.weight(
        "idm.conv_stack.0.conv.weight",
        &[16 * scale, channels, 3, 3],
        &weight,
    );
    let maps = network.maps("idm", windows.clone(), channels, scale, Some(&weight))?;
    let means = mean_over_motion(network, &maps, windows, config);
    let features = network.features("idm.fc", &means, 32 * scale)?;
    let size = [FEATURES, config.latent_dim()];
    let head = normalised_head(network, size)?;
    Ok(network.linear_with("idm.policy_head", &features, size, &head))
}

/// Returns the first weight for frames instead of frame changes, which are linear in the frames.
fn weight_of_frames(weights: &Weights, config: &DynamicsConfig) -> Result<Vec<f32>> {
    let time = config.window();
    let output = 16 * config.idm_scale;
    let shape = [output, config.channels * time, 3, 3];
    let weight = weights.get("idm.conv_stack.0.conv.weight", &shape)?;
    let scale = weights.get("idm.motion.scale", &[1])?[0];
    let (kept, changed) = frames_to_inputs(time);
    let kernels = config.channels * 9;
    let mut of_frames = vec![0.0; weight.len()];
    for (inputs, frames) in
        weight.chunks_exact(time * kernels).zip(of_frames.chunks_exact_mut(time * kernels))
    {
        for (frame, sums) in frames.chunks_exact_mut(kernels).enumerate() {
            for (input, values) in inputs.chunks_exact(kernels).enumerate() {
                let factor = kept[frame * time + input] + changed[frame * time + input] * scale;
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += factor * value;
                }
            }
        }
    }
    Ok(of_frames)
}

/// Returns the last layer with the normalisation of latent actions merged into it.
fn normalised_head(network: &Network, size: [usize; 2]) -> Result<LinearWeights> {
    let LinearWeights { mut weight, mut bias } = network.linear_weights("idm.policy_head", size)?;
    let state = |name: &str| network.weights.get(&format!("idm.motion.norm.{name}"), &[size[1]]);
    let gain = state("weight")?;
    let offset = state("bias")?;
    let mean = state("running_mean")?;
    let variance = state("running_var")?;
    for output in 0..size[1] {
        let factor = gain[output] / (variance[output] + EPSILON).sqrt();
        weight[output * size[0]..][..size[0]].iter_mut().for_each(|value| *value *= factor);
        bias[output] = (bias[output] - mean[output]) * factor + offset[output];
    }
    Ok(LinearWeights { weight, bias })
}

/// Averages features over the places where `o[t+1]` differs from `o[t]`, weighted by the squared
/// change.
///
/// # Shapes
/// - `maps`: `[batch, 32 * scale, size / 8, size / 8]`
/// - `windows`: `[batch, time * channel, size, size]`
/// - output: `[batch, 32 * scale]`
fn mean_over_motion(
    network: &mut Network,
    maps: &Value,
    windows: &Value,
    config: &DynamicsConfig,
) -> Value {
    let places = (config.frame_size / 8).pow(2);
    let last = frame(network, windows, config.window() - 2, config.channels);
    let next = frame(network, windows, config.window() - 1, config.channels);
    let graph = &mut *network.graph;
    let change = graph.node("Sub", &[&next, &last], &[]);
    let squared = graph.node("Mul", &[&change, &change], &[]);
    let axis = graph.integers(&[1]);
    let squared = graph.node("ReduceSum", &[&squared, &axis], &[]);
    // A feature stands for 8 x 8 pixels: their sum is 64 times their mean.
    let attributes =
        [Attribute::Integers("kernel_shape", &[8, 8]), Attribute::Integers("strides", &[8, 8])];
    let means = graph.node("AveragePool", &[&squared], &attributes);
    let pixels = graph.number(64.0);
    let sums = graph.node("Mul", &[&means, &pixels], &[]);
    let sums = reshape(network, &sums, &[0, 1, places]);
    let maps = reshape(network, maps, &[0, 32 * config.idm_scale, places]);

    let graph = &mut *network.graph;
    let axis = graph.integers(&[2]);
    let total = graph.node("ReduceSum", &[&sums, &axis], &[]);
    // Avoids a division by zero if nothing moves, as in training.
    let small = graph.number(1e-6);
    let total = graph.node("Add", &[&total, &small], &[]);
    let shares = graph.node("Div", &[&sums, &total], &[]);
    let weighted = graph.node("Mul", &[&maps, &shares], &[]);
    graph.node("ReduceSum", &[&weighted, &axis], &[Attribute::Integer("keepdims", 0)])
}

/// Returns one frame of each window.
fn frame(network: &mut Network, windows: &Value, number: usize, channels: usize) -> Value {
    let start = network.graph.integers(&[(number * channels) as i64]);
    let end = network.graph.integers(&[((number + 1) * channels) as i64]);
    let axis = network.graph.integers(&[1]);
    network.graph.node("Slice", &[windows, &start, &end, &axis], &[])
}

/// Returns the nearest codes or, if the model never quantises, zeros.
///
/// # Shapes
/// - `latent_action`: `[batch, codebooks * dim * positions]`
/// - output: `[batch, codebooks * positions]`
fn codes(network: &mut Network, latent_action: &Value, config: &VqConfig) -> Result<Value> {
    let VqConfig { codebooks, positions, dim, entries, .. } = *config;
    let codes = codebooks * positions;
    if !config.quantises() {
        let graph = &mut *network.graph;
        let attributes = [Attribute::Integer("start", 0), Attribute::Integer("end", 1)];
        let batch = graph.node("Shape", &[latent_action], &attributes);
        let codes = graph.integers(&[codes as i64]);
        let shape = graph.node("Concat", &[&batch, &codes], &[Attribute::Integer("axis", 0)]);
        return Ok(graph.node("ConstantOfShape", &[&shape], &[Attribute::Tensor("value", 0)]));
    }
    let rows = reshape(network, latent_action, &[0, codebooks, dim, positions]);
    let perm = Attribute::Integers("perm", &[0, 1, 3, 2]);
    let rows = network.graph.node("Transpose", &[&rows], &[perm]);
    // [batch, codebook, position, 1, dim] - [codebook, 1, entry, dim]
    let rows = reshape(network, &rows, &[0, codebooks, positions, 1, dim]);
    let embedding = network.weights.get("idm.vq.embedding", &[codebooks, entries, dim])?;
    let graph = &mut *network.graph;
    let embedding = graph.weight("idm.vq.embedding", &[codebooks, 1, entries, dim], &embedding);
    // Differences, not products, as in training: close codes stay apart.
    let difference = graph.node("Sub", &[&rows, &embedding], &[]);
    let squared = graph.node("Mul", &[&difference, &difference], &[]);
    let axis = graph.integers(&[4]);
    let keepdims = Attribute::Integer("keepdims", 0);
    let distance = graph.node("ReduceSum", &[&squared, &axis], &[keepdims]);
    let nearest = graph.node("ArgMin", &[&distance], &[Attribute::Integer("axis", 3), keepdims]);
    Ok(reshape(network, &nearest, &[0, codes]))
}

/// Changes the shape of a tensor. A size of 0 keeps the axis.
pub(super) fn reshape(network: &mut Network, x: &Value, shape: &[usize]) -> Value {
    let shape: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
    let shape = network.graph.integers(&shape);
    network.graph.node("Reshape", &[x, &shape], &[])
}
