//! What a weight file's metadata say of the networks inside: JSON goes in, sizes come out, and back.
//!
//! Our files hold `format` (a name and version, checked first) and `config`. A file without `format` is a published one, whose `config`
//! has PyTorch's field names and describes all three networks.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::weights::Weights;
use super::{DynamicsConfig, ModelError, PolicyConfig, Result, VqConfig};

const FORMAT: &str = "format";
const CONFIG: &str = "config";
/// What `format` says in a file with IDM and FDM.
pub const DYNAMICS_FORMAT: &str = "lapo-dynamics/1";
/// What `format` says in a file with a latent policy.
pub const POLICY_FORMAT: &str = "lapo-policy/1";

impl Weights {
    /// The sizes of the IDM and FDM in this file.
    pub fn dynamics_config(&self) -> Result<DynamicsConfig> {
        let config = match self.config_of::<DynamicsConfig>(DYNAMICS_FORMAT)? {
            Some(config) => config,
            None => self.published()?.dynamics(),
        };
        config.validate()?;
        Ok(config)
    }

    /// The sizes of the latent policy in this file.
    pub fn policy_config(&self) -> Result<PolicyConfig> {
        let config = match self.config_of::<PolicyConfig>(POLICY_FORMAT)? {
            Some(config) => config,
            None => self.published()?.policy(),
        };
        config.validate()?;
        Ok(config)
    }

    /// Writes a configuration and the format that says how to read it.
    pub fn describe(&mut self, format: &str, config: &impl Serialize) {
        let config = serde_json::to_string(config).expect("plain numbers and names are JSON");
        self.metadata.insert(FORMAT.to_owned(), format.to_owned());
        self.metadata.insert(CONFIG.to_owned(), config);
    }

    /// Reads a configuration of ours; `None` if the file is a published one.
    pub fn config_of<T: DeserializeOwned>(&self, format: &str) -> Result<Option<T>> {
        match self.metadata.get(FORMAT) {
            None => Ok(None),
            Some(seen) if seen == format => self.parse_config().map(Some),
            Some(seen) => {
                let problem = format!("it is `{seen}`, expected `{format}`");
                Err(ModelError::Metadata { key: FORMAT, problem })
            }
        }
    }

    fn published(&self) -> Result<Published> {
        self.parse_config()
    }

    fn parse_config<T: DeserializeOwned>(&self) -> Result<T> {
        let problem = |problem| ModelError::Metadata { key: CONFIG, problem };
        let text = self.metadata.get(CONFIG).ok_or_else(|| problem("it is not there".to_owned()))?;
        serde_json::from_str(text).map_err(|error| problem(error.to_string()))
    }
}

/// The configuration of a published checkpoint.
#[derive(Deserialize)]
struct Published {
    idm_scale: usize,
    wm_scale: usize,
    policy_scale: usize,
    horizon: usize,
    vq: PublishedVq,
}

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
            vq: VqConfig { codebooks, positions: latents, dim, entries, commitment, decay, ..VqConfig::default() },
            ..DynamicsConfig::default()
        }
        .reference()
    }

    fn policy(&self) -> PolicyConfig {
        let DynamicsConfig { frame_size, channels, .. } = DynamicsConfig::default();
        PolicyConfig { scale: self.policy_scale, latent_dim: self.dynamics().latent_dim(), frame_size, channels }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{EmaStart, Predict};

    #[test]
    fn our_configuration_comes_back() {
        let mut weights = Weights::default();
        let config = DynamicsConfig { context: 2, frame_size: 32, ..DynamicsConfig::default() };
        weights.describe(DYNAMICS_FORMAT, &config);
        assert_eq!(weights.dynamics_config().expect("our own"), config);
        let message = weights.policy_config().expect_err("no policy inside").to_string();
        assert_eq!(message, "read metadata `format` of the weights: it is `lapo-dynamics/1`, expected `lapo-policy/1`");
    }

    #[test]
    fn a_published_configuration_means_the_published_behaviour() {
        let mut weights = Weights::default();
        let text = r#"{"idm_scale": 4, "wm_scale": 24, "policy_scale": 2, "horizon": 1, "vq": {"codebooks": 2, "latents": 4, "dim": 16,
            "entries": 64, "commitment": 0.05, "decay": 0.999}}"#;
        weights.metadata.insert(CONFIG.to_owned(), text.to_owned());
        let config = weights.dynamics_config().expect("published");
        assert_eq!((config.idm_scale, config.fdm_base, config.latent_dim()), (4, 24, 128));
        assert_eq!((config.predict, config.vq.ema_start), (Predict::Frame, EmaStart::Zero));
        assert_eq!(weights.policy_config().expect("published").latent_dim, 128);
    }
}
