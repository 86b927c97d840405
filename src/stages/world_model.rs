//! A world model with the shards that its networks read.

use super::latent_quality::WindowNetworks;
use super::{Error, TaskContext};
use crate::dataset::Shards;
use crate::models::{LabelOutputs, Labeller, Precision, Predictor, labeller, predictor};

/// A trained IDM and FDM, and frames of the size that they were trained on.
pub(super) struct WorldModel {
    pub labeller: Box<dyn Labeller>,
    pub predictor: Box<dyn Predictor>,
    pub shards: Shards,
}

impl WorldModel {
    /// Loads the networks from a file of weights and opens shards.
    ///
    /// # Errors
    /// [`Error::FrameSize`] if the frames have another size than the networks expect.
    pub(super) fn open(
        ctx: &TaskContext,
        file: &str,
        shards: Vec<String>,
    ) -> Result<WorldModel, Error> {
        let weights = ctx.store.require(file)?;
        let labeller = labeller(&ctx.device, &weights, Precision::F32)?;
        let predictor = predictor(&ctx.device, &weights)?;
        let shards = Shards::open(ctx.store, shards)?;
        let seen = shards.frame_size().map_or(0, |size| size.height as usize);
        let expected = labeller.config().frame_size;
        if seen != expected {
            return Err(Error::FrameSize { file: file.to_owned(), seen, expected });
        }
        Ok(WorldModel { labeller, predictor, shards })
    }
}

impl WindowNetworks for WorldModel {
    fn infer(&self, windows: &[u8], count: usize) -> Result<Vec<f32>, Error> {
        let time = self.labeller.config().window();
        let starts: Vec<usize> = (0..count).map(|i| i * time).collect();
        Ok(self.labeller.label(windows, &starts, LabelOutputs::default())?.latent_action)
    }

    fn predict(
        &self,
        windows: &[u8],
        count: usize,
        latent_action: &[f32],
    ) -> Result<Vec<f32>, Error> {
        let time = self.labeller.config().window();
        let bytes = windows.len() / count;
        let past = windows.chunks_exact(bytes).map(|window| &window[..bytes / time * (time - 1)]);
        Ok(self.predictor.predict(&past.collect::<Vec<_>>().concat(), latent_action)?)
    }
}
