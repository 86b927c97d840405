//! Writes trained networks as ONNX files, as `lapo export` does.

use serde::{Deserialize, Serialize};

use super::write_file;
use crate::dataset::FileInfo;
use crate::models::onnx::{self, OPSET, WeightFile};
use crate::stages::plan::KeyFields;
use crate::stages::{Error, TaskContext, TaskOutput};

/// Files with the weights of the exported networks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Networks {
    /// An IDM and FDM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamics: Option<FileInfo>,
    /// A latent policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<FileInfo>,
    /// A decoder: of the policy's latent actions, if there is a policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<FileInfo>,
    /// An agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<FileInfo>,
}

impl Networks {
    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Networks::default()
    }

    /// Adds the weights to a key.
    pub(super) fn add_to(&self, key: KeyFields) -> KeyFields {
        let Networks { dynamics, policy, decoder, agent } = self;
        let named =
            [("dynamics", dynamics), ("policy", policy), ("decoder", decoder), ("agent", agent)];
        named.into_iter().fold(key, |key, (name, file)| {
            key.input_if(file.is_some(), name, file.as_ref().map(|file| &file.blake3))
        })
    }

    /// Writes a file for each network.
    pub(super) fn write(&self, ctx: &TaskContext) -> Result<TaskOutput, Error> {
        let Networks { dynamics, policy, decoder, agent } = self;
        let lone_decoder = decoder.as_ref().filter(|_| policy.is_none());
        let networks = [
            ("idm.onnx", dynamics.as_ref(), None),
            ("policy.onnx", policy.as_ref(), decoder.as_ref()),
            ("decoder.onnx", lone_decoder, None),
            ("agent.onnx", agent.as_ref(), None),
        ];
        let mut done = TaskOutput::default();
        for (name, weights, decoder) in networks {
            let Some(weights) = weights else { continue };
            let read = |file: &FileInfo| -> Result<WeightFile, Error> {
                Ok(WeightFile::parse(&ctx.store.require_file(file)?)?)
            };
            let decoder = decoder.map(read).transpose()?;
            let model = onnx::export(&read(weights)?, decoder.as_ref())?;
            done.files.push(write_file(ctx, name, &model.file)?);
            ctx.progress.say(&format!("wrote {name}: {}, opset {OPSET}", model.kind));
        }
        done.stats.insert("networks".to_owned(), done.files.len() as f64);
        Ok(done)
    }
}
