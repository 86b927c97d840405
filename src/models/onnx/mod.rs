//! Trained networks as ONNX files, for other programs.
//!
//! [`export`] takes a weight file and returns an [`OnnxModel`]. Frames are bytes as in a shard,
//! `[batch, height, width, channel]`; scaling and the change of layout are part of the graph. The
//! batch may have any length. Graphs use [`OPSET`] and single precision.
//!
//! | kind | inputs | outputs |
//! |---|---|---|
//! | `dynamics` | `frames`: windows `[batch, time, height, width, channel]` | `latent_action` (before quantisation), `latent_code` |
//! | `policy` | `frames` | `latent_action` |
//! | `policy_decoder` | `frames` | `latent_action`, and the decoder's |
//! | `decoder` | `latent_action` | `logits`; `action`; or `action` (the mean) and `log_std` |
//! | `agent` | `frames` | `logits`, `value` |
//!
//! The model's `metadata_props` hold `lapo.kind`, `lapo.version`, and for each weight file its
//! digest and sizes: `lapo.weights.blake3`, `lapo.weights.config`, `lapo.decoder.blake3`,
//! `lapo.decoder.config`. A forward dynamics model is not exported. The `frames` of a policy that
//! sees several are `[batch, frame, height, width, channel]`, the oldest first.
//!
//! The graphs are built from the named tensors of a weight file, without `burn`: `networks` and
//! `idm` repeat the layers, `graph` collects nodes, and `protobuf` encodes them.

use serde::Serialize;

use super::impala::FEATURES;
use super::metadata::{AGENT_FORMAT, DECODER_FORMAT, DYNAMICS_FORMAT, POLICY_FORMAT};
use super::weights::Weights;
use super::{AgentConfig, DecoderConfig, ModelError, Outputs, PolicyConfig, Result};

mod graph;
mod idm;
mod networks;
mod protobuf;

pub use graph::{Element, OPSET, Port};

use graph::{Graph, Value};
use networks::{Network, base_features};

/// A weight file with its digest.
#[derive(Clone, Debug)]
pub struct WeightFile {
    weights: Weights,
    blake3: String,
}

/// The networks in a weight file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IDM and FDM.
    Dynamics,
    /// A latent policy.
    Policy,
    /// A decoder.
    Decoder,
    /// An agent of online training.
    Agent,
}

/// An ONNX file in memory.
#[derive(Clone, Debug)]
pub struct OnnxModel {
    /// What it computes: a kind of the module's table.
    pub kind: &'static str,
    /// Its inputs.
    pub inputs: Vec<Port>,
    /// Its outputs.
    pub outputs: Vec<Port>,
    /// The bytes of the file.
    pub file: Vec<u8>,
}

impl Kind {
    /// Returns the name, as in the module's table.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Dynamics => "dynamics",
            Kind::Policy => "policy",
            Kind::Decoder => "decoder",
            Kind::Agent => "agent",
        }
    }
}

impl WeightFile {
    /// Reads a safetensors file.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let blake3 = blake3::hash(file).to_hex().to_string();
        Ok(WeightFile { weights: Weights::parse(file)?, blake3 })
    }

    /// Returns which networks the file holds.
    pub fn kind(&self) -> Result<Kind> {
        const FORMATS: [(&str, Kind); 4] = [
            (DYNAMICS_FORMAT, Kind::Dynamics),
            (POLICY_FORMAT, Kind::Policy),
            (DECODER_FORMAT, Kind::Decoder),
            (AGENT_FORMAT, Kind::Agent),
        ];
        let unknown = |problem| ModelError::Metadata { key: "format", problem };
        if let Some(seen) = self.weights.metadata.get("format") {
            let known = FORMATS.iter().find(|(format, _)| format == seen);
            let expected = FORMATS.map(|(format, _)| format).join("`, `");
            return known
                .map(|(_, kind)| *kind)
                .ok_or_else(|| unknown(format!("found `{seen}`, expected one of `{expected}`")));
        }
        // Published files have no format; each holds either IDM and FDM, or a policy.
        let has = |network| self.weights.networks().iter().any(|(name, ..)| *name == network);
        match (has("idm"), has("policy")) {
            (true, false) => Ok(Kind::Dynamics),
            (false, true) => Ok(Kind::Policy),
            _ => Err(unknown(
                "missing, expected lapo's, or tensors of either `idm` or `policy`".to_owned(),
            )),
        }
    }

    /// Returns the metadata of this file in an ONNX file.
    fn properties(
        &self,
        [blake3, settings]: [&'static str; 2],
        config: &impl Serialize,
    ) -> Vec<(&'static str, String)> {
        let config = serde_json::to_string(config).expect("plain numbers and names are JSON");
        vec![(blake3, self.blake3.clone()), (settings, config)]
    }
}

/// Names of the metadata of the weight file and of the decoder beside it.
const OF_WEIGHTS: [&str; 2] = ["lapo.weights.blake3", "lapo.weights.config"];
const OF_DECODER: [&str; 2] = ["lapo.decoder.blake3", "lapo.decoder.config"];

/// Returns the networks of a weight file as an ONNX file. `decoder` follows a policy.
pub fn export(file: &WeightFile, decoder: Option<&WeightFile>) -> Result<OnnxModel> {
    let weights = &file.weights;
    let kind = file.kind()?;
    match (kind, decoder) {
        (Kind::Dynamics, None) => {
            let config = weights.dynamics_config()?;
            let properties = file.properties(OF_WEIGHTS, &config);
            Ok(finished("dynamics", &idm::idm(weights, &config)?, properties))
        }
        (Kind::Policy, decoder) => export_policy(file, decoder),
        (Kind::Decoder, None) => {
            let config = weights.decoder_config()?;
            let properties = file.properties(OF_WEIGHTS, &config);
            Ok(finished("decoder", &decoder_graph(weights, &config)?, properties))
        }
        (Kind::Agent, None) => {
            let config = weights.agent_config()?;
            let properties = file.properties(OF_WEIGHTS, &config);
            Ok(finished("agent", &agent_graph(weights, &config)?, properties))
        }
        (kind, Some(_)) => {
            Err(ModelError::Kind { seen: kind.name(), expected: Kind::Policy.name() })
        }
    }
}

fn export_policy(file: &WeightFile, decoder: Option<&WeightFile>) -> Result<OnnxModel> {
    let config = file.weights.policy_config()?;
    let mut properties = file.properties(OF_WEIGHTS, &config);
    let mut graph = Graph::default();
    let latent_action = policy(&mut graph, &file.weights, &config)?;
    let port = Port::new("latent_action", Element::Float, &[config.latent_dim]);
    graph.output(port, &latent_action);
    let Some(decoder) = decoder else { return Ok(finished("policy", &graph, properties)) };

    let decoder_config = decoder_config(decoder, config.latent_dim)?;
    let mut network = Network { graph: &mut graph, weights: &decoder.weights };
    let decoded = network.decoder("decoder", &latent_action, &decoder_config)?;
    output_actions(&mut graph, decoder_config.outputs, &decoded);
    properties.extend(decoder.properties(OF_DECODER, &decoder_config));
    Ok(finished("policy_decoder", &graph, properties))
}

/// Returns the sizes of a decoder for latent actions of length `latent_dim`.
fn decoder_config(decoder: &WeightFile, latent_dim: usize) -> Result<DecoderConfig> {
    let kind = decoder.kind()?;
    if kind != Kind::Decoder {
        return Err(ModelError::Kind { seen: kind.name(), expected: Kind::Decoder.name() });
    }
    let config = decoder.weights.decoder_config()?;
    if config.latent_dim == latent_dim {
        return Ok(config);
    }
    Err(ModelError::DecoderSize { seen: config.latent_dim, expected: latent_dim })
}

/// Adds the frames and the network of a policy, and returns its latent action.
fn policy(graph: &mut Graph, weights: &Weights, config: &PolicyConfig) -> Result<Value> {
    let mut network = Network { graph, weights };
    let base = base("policy", &mut network, config)?;
    let width = base_features(config.scale, config.frame_size);
    let features = network.features("policy.fc", &base, width)?;
    network.linear("policy.policy_head", &features, [FEATURES, config.latent_dim])
}

/// Adds the frames and the convolutions of a policy.
fn base(prefix: &str, network: &mut Network, config: &PolicyConfig) -> Result<Value> {
    let planes = planes(network, config);
    let pixels = network.normalised(&planes);
    network.base(prefix, pixels, config.input_channels(), config.scale)
}

/// Adds the input, a frame or a stack of frames, with its channels before rows and columns.
fn planes(network: &mut Network, config: &PolicyConfig) -> Value {
    let [height, width, channels] = config.frame_shape();
    if config.frames == 1 {
        let port = Port::new("frames", Element::Uint8, &[height, width, channels]);
        let frames = network.graph.input(port);
        let perm = graph::Attribute::Integers("perm", &[0, 3, 1, 2]);
        return network.graph.node("Transpose", &[&frames], &[perm]);
    }
    let port = Port::new("frames", Element::Uint8, &[config.frames, height, width, channels]);
    let frames = network.graph.input(port);
    let perm = graph::Attribute::Integers("perm", &[0, 1, 4, 2, 3]);
    let planes = network.graph.node("Transpose", &[&frames], &[perm]);
    // A size of 0 keeps the batch.
    idm::reshape(network, &planes, &[0, config.input_channels(), height, width])
}

fn decoder_graph(weights: &Weights, config: &DecoderConfig) -> Result<Graph> {
    let mut graph = Graph::default();
    let latent_action =
        graph.input(Port::new("latent_action", Element::Float, &[config.latent_dim]));
    let mut network = Network { graph: &mut graph, weights };
    let decoded = network.decoder("decoder", &latent_action, config)?;
    output_actions(&mut graph, config.outputs, &decoded);
    Ok(graph)
}

fn agent_graph(weights: &Weights, config: &AgentConfig) -> Result<Graph> {
    let actions = config.network.latent_dim;
    let mut graph = Graph::default();
    let mut network = Network { graph: &mut graph, weights };
    let base = base("agent.rl", &mut network, &config.network)?;
    let width = base_features(config.network.scale, config.network.frame_size);
    let features = network.features("agent.rl.fc", &base, width)?;
    let mut logits = network.linear("agent.rl.policy_head", &features, [FEATURES, actions])?;
    let value = network.linear("agent.rl.value_head", &features, [FEATURES, 1])?;
    if let Some(decoder) = &config.decoder {
        let features = network.features("agent.supervised.fc", &base, width)?;
        let size = [FEATURES, decoder.latent_dim];
        let latent_action = network.linear("agent.supervised.latent_head", &features, size)?;
        let decoded = network.decoder("agent.supervised.decoder", &latent_action, decoder)?;
        // The logits are the mean of both paths.
        let sum = network.graph.node("Add", &[&logits, &decoded], &[]);
        let two = network.graph.number(2.0);
        logits = network.graph.node("Div", &[&sum, &two], &[]);
    }
    graph.output(Port::new("logits", Element::Float, &[actions]), &logits);
    graph.output(Port::new("value", Element::Float, &[1]), &value);
    Ok(graph)
}

/// Adds the outputs of a decoder.
fn output_actions(graph: &mut Graph, outputs: Outputs, decoded: &Value) {
    let port = |name, width| Port::new(name, Element::Float, &[width]);
    match outputs {
        Outputs::Discrete { actions } => graph.output(port("logits", actions), decoded),
        Outputs::Continuous { axes } => graph.output(port("action", axes), decoded),
        Outputs::Gaussian { axes } => {
            for (name, from) in [("action", 0), ("log_std", axes)] {
                let columns = [from, from + axes, 1].map(|at| graph.integers(&[at as i64]));
                let [from, to, axis] = &columns;
                let part = graph.node("Slice", &[decoded, from, to, axis], &[]);
                graph.output(port(name, axes), &part);
            }
        }
    }
}

fn finished(
    kind: &'static str,
    graph: &Graph,
    mut properties: Vec<(&'static str, String)>,
) -> OnnxModel {
    let version = env!("CARGO_PKG_VERSION");
    properties.push(("lapo.kind", kind.to_owned()));
    properties.push(("lapo.version", version.to_owned()));
    OnnxModel {
        kind,
        inputs: graph.inputs().to_vec(),
        outputs: graph.outputs().to_vec(),
        file: graph.to_file(kind, version, &properties),
    }
}
