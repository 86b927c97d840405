//! The JSON metadata of a weight file: network sizes and a format version.
//!
//! Files written by lapo have the keys `format` (a name and a version, checked first) and `config`.
//! A file without `format` is a published one. Its `config`, if present, has PyTorch's field names
//! and covers all three networks; if absent, the sizes follow from the tensor shapes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::weights::Weights;
use super::{
    AgentConfig, DecoderConfig, DynamicsConfig, ModelError, PolicyConfig, Result, VqConfig,
};

const FORMAT: &str = "format";
const CONFIG: &str = "config";
/// Format of a file with IDM and FDM.
pub const DYNAMICS_FORMAT: &str = "lapo-dynamics/2";
/// Format of a file with a latent policy.
pub const POLICY_FORMAT: &str = "lapo-policy/1";
/// Format of a file with a decoder.
pub const DECODER_FORMAT: &str = "lapo-decoder/1";
/// Format of a file with an agent.
pub const AGENT_FORMAT: &str = "lapo-agent/1";

impl Weights {
    /// Returns the sizes of the IDM and FDM in this file.
    pub fn dynamics_config(&self) -> Result<DynamicsConfig> {
        // Three kinds of file: ours, published with settings, published without.
        let config = match self.config_of::<DynamicsConfig>(DYNAMICS_FORMAT)? {
            Some(config) => config,
            None if self.metadata.contains_key(CONFIG) => {
                self.parse_config::<Published>()?.dynamics()
            }
            None => self.dynamics_from_shapes()?,
        };
        config.validate()?;
        Ok(config)
    }

    /// Returns the sizes of the latent policy in this file.
    pub fn policy_config(&self) -> Result<PolicyConfig> {
        let config = match self.config_of::<PolicyConfig>(POLICY_FORMAT)? {
            Some(config) => config,
            None if self.metadata.contains_key(CONFIG) => {
                self.parse_config::<Published>()?.policy()
            }
            None => self.policy_from_shapes()?,
        };
        config.validate()?;
        Ok(config)
    }

    /// Returns the sizes of the decoder in this file.
    pub fn decoder_config(&self) -> Result<DecoderConfig> {
        let config = self.config_of::<DecoderConfig>(DECODER_FORMAT)?;
        config.ok_or_else(|| ModelError::Metadata {
            key: FORMAT,
            problem: format!("missing, expected `{DECODER_FORMAT}`"),
        })
    }

    /// Returns the sizes of the agent in this file.
    pub fn agent_config(&self) -> Result<AgentConfig> {
        let config = self.config_of::<AgentConfig>(AGENT_FORMAT)?;
        let config = config.ok_or_else(|| ModelError::Metadata {
            key: FORMAT,
            problem: format!("missing, expected `{AGENT_FORMAT}`"),
        })?;
        config.network.validate()?;
        Ok(config)
    }

    /// Stores a configuration and its format.
    pub fn describe(&mut self, format: &str, config: &impl Serialize) {
        let config = serde_json::to_string(config).expect("plain numbers and names are JSON");
        self.metadata.insert(FORMAT.to_owned(), format.to_owned());
        self.metadata.insert(CONFIG.to_owned(), config);
    }

    /// Returns the configuration of a file in `format`, or `None` if the file has no format (a
    /// published one).
    pub fn config_of<T: DeserializeOwned>(&self, format: &str) -> Result<Option<T>> {
        match self.metadata.get(FORMAT) {
            None => Ok(None),
            Some(seen) if seen == format => self.parse_config().map(Some),
            // A file of another kind or version is refused: its sizes would be misread.
            Some(seen) => {
                let problem = format!("found `{seen}`, expected `{format}`");
                Err(ModelError::Metadata { key: FORMAT, problem })
            }
        }
    }

    /// Infers the sizes of published IDM and FDM from their tensor shapes.
    fn dynamics_from_shapes(&self) -> Result<DynamicsConfig> {
        let published = DynamicsConfig::default().reference();
        let channels = published.channels;
        let [width, stacked, ..] = self.shape::<4>("idm.conv_stack.0.conv.weight")?;
        let [fdm_base, ..] = self.shape::<4>("wm.down.0.conv.weight")?;
        let [latent_dim, _] = self.shape::<2>("idm.policy_head.weight")?;
        let [codebooks, entries, dim] = self.shape::<3>("idm.vq.embedding")?;
        Ok(DynamicsConfig {
            idm_scale: width / 16,
            fdm_base,
            context: (stacked / channels).saturating_sub(2),
            frame_size: self.frame_size("idm", width)?,
            vq: VqConfig {
                codebooks,
                positions: latent_dim / (codebooks * dim).max(1),
                dim,
                entries,
                ..published.vq.clone()
            },
            ..published
        })
    }

    /// Infers the sizes of a published latent policy from its tensor shapes.
    fn policy_from_shapes(&self) -> Result<PolicyConfig> {
        let [width, channels, ..] = self.shape::<4>("policy.conv_stack.0.conv.weight")?;
        let [latent_dim, _] = self.shape::<2>("policy.policy_head.weight")?;
        Ok(PolicyConfig {
            scale: width / 16,
            latent_dim,
            frame_size: self.frame_size("policy", width)?,
            channels,
            frames: 1,
        })
    }

    /// Infers the side of a trunk's frames from its fully connected layer. That layer reads the
    /// last stage: an eighth of the side, with twice the first stage's channels.
    fn frame_size(&self, network: &str, width: usize) -> Result<usize> {
        let [_, inputs] = self.shape::<2>(&format!("{network}.fc.weight"))?;
        Ok((inputs / (2 * width).max(1)).isqrt() * 8)
    }

    fn parse_config<T: DeserializeOwned>(&self) -> Result<T> {
        let problem = |problem| ModelError::Metadata { key: CONFIG, problem };
        let text = self.metadata.get(CONFIG).ok_or_else(|| problem("missing".to_owned()))?;
        serde_json::from_str(text).map_err(|error| problem(error.to_string()))
    }
}

/// The `config` of a published checkpoint, with its field names.
#[derive(Deserialize)]
struct Published {
    idm_scale: usize,
    wm_scale: usize,
    policy_scale: usize,
    horizon: usize,
    vq: PublishedVq,
}

/// The quantiser in a published `config`.
#[derive(Deserialize)]
struct PublishedVq {
    codebooks: usize,
    latents: usize,
    dim: usize,
    entries: usize,
    commitment: f64,
    decay: f64,
}

impl Published {
    fn dynamics(&self) -> DynamicsConfig {
        let &PublishedVq { codebooks, latents, dim, entries, commitment, decay } = &self.vq;
        DynamicsConfig {
            idm_scale: self.idm_scale,
            fdm_base: self.wm_scale,
            context: self.horizon,
            vq: VqConfig {
                codebooks,
                positions: latents,
                dim,
                entries,
                commitment,
                decay,
                ..VqConfig::default()
            },
            ..DynamicsConfig::default()
        }
        .reference()
    }

    fn policy(&self) -> PolicyConfig {
        let DynamicsConfig { frame_size, channels, .. } = DynamicsConfig::default();
        PolicyConfig {
            scale: self.policy_scale,
            latent_dim: self.dynamics().latent_dim(),
            frame_size,
            channels,
            frames: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{EmaStart, Predict};

    #[test]
    fn a_stored_configuration_is_read_back() {
        let mut weights = Weights::default();
        let config = DynamicsConfig { context: 2, frame_size: 32, ..DynamicsConfig::default() };
        weights.describe(DYNAMICS_FORMAT, &config);
        assert_eq!(weights.dynamics_config().expect("our own"), config);
        let message = weights.policy_config().expect_err("no policy inside").to_string();
        assert_eq!(
            message,
            "invalid metadata `format` in the weights: \
             found `lapo-dynamics/2`, expected `lapo-policy/1`"
        );
    }

    #[test]
    fn sizes_are_inferred_from_shapes_when_a_file_has_no_configuration() {
        let mut weights = Weights::default();
        let shapes: [(&str, &[usize]); 7] = [
            ("idm.conv_stack.0.conv.weight", &[64, 9, 3, 3]),
            ("idm.fc.weight", &[256, 8192]),
            ("idm.policy_head.weight", &[128, 256]),
            ("idm.vq.embedding", &[2, 64, 16]),
            ("wm.down.0.conv.weight", &[24, 134, 3, 3]),
            ("policy.conv_stack.0.conv.weight", &[32, 3, 3, 3]),
            ("policy.policy_head.weight", &[128, 256]),
        ];
        for (name, shape) in shapes {
            weights.put(name, shape, &vec![0.0; shape.iter().product()]);
        }
        assert_eq!(
            weights.dynamics_config().expect("the paper's"),
            crate::models::Preset::Paper.dynamics().reference()
        );
        let message = weights.policy_config().expect_err("a tensor is not there").to_string();
        assert_eq!(message, "tensor `policy.fc.weight` is missing from the weights");
    }

    #[test]
    fn a_published_configuration_selects_the_published_behaviour() {
        let mut weights = Weights::default();
        let text = r#"{"idm_scale": 4, "wm_scale": 24, "policy_scale": 2, "horizon": 1,
            "vq": {"codebooks": 2, "latents": 4, "dim": 16, "entries": 64,
                   "commitment": 0.05, "decay": 0.999}}"#;
        weights.metadata.insert(CONFIG.to_owned(), text.to_owned());
        let config = weights.dynamics_config().expect("published");
        assert_eq!((config.idm_scale, config.fdm_base, config.latent_dim()), (4, 24, 128));
        assert_eq!((config.predict, config.vq.ema_start), (Predict::Frame, EmaStart::Zero));
        assert_eq!(weights.policy_config().expect("published").latent_dim, 128);
    }
}
