//! Weights of trained decoders, kept as a checkpoint if the run is stopped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::stages::{Error, TaskContext};
use crate::train::{TrainError, checkpoint};

/// The weights of the decoders trained so far, in the order of training.
pub(super) struct TrainedDecoders(Vec<Vec<u8>>);

impl TrainedDecoders {
    /// Reads the newest checkpoint, a JSON array of weights in base64. Without one it is empty.
    pub(super) fn newest(ctx: &TaskContext) -> Result<Self, Error> {
        let Some((count, bytes)) = checkpoint::newest(ctx.store, &ctx.scratch)? else {
            return Ok(TrainedDecoders(vec![]));
        };
        let fault = |reason: String| Error::Checkpoint {
            file: checkpoint::path(&ctx.scratch, count),
            reason,
        };
        let texts: Vec<String> =
            serde_json::from_slice(&bytes).map_err(|e| fault(e.to_string()))?;
        let weights = texts.iter().map(|text| STANDARD.decode(text)).collect::<Result<_, _>>();
        Ok(TrainedDecoders(weights.map_err(|e| fault(e.to_string()))?))
    }

    /// Returns the weights of decoder `at`, and trains it first if it is the next one. If the
    /// training is stopped, all finished decoders go into a checkpoint.
    pub(super) fn get_or_train(
        &mut self,
        at: usize,
        ctx: &TaskContext,
        train: impl FnOnce() -> Result<Vec<u8>, Error>,
    ) -> Result<&[u8], Error> {
        if at == self.0.len() {
            // A stopped decoder is trained anew: it takes seconds.
            let trained = train();
            if let Err(Error::Train(TrainError::Stopped(_))) = trained {
                self.save(ctx)?;
            }
            self.0.push(trained?);
        }
        Ok(&self.0[at])
    }

    fn save(&self, ctx: &TaskContext) -> Result<(), Error> {
        let texts: Vec<String> = self.0.iter().map(|weights| STANDARD.encode(weights)).collect();
        let state = serde_json::json!(texts).to_string();
        let count = self.0.len() as u64;
        Ok(checkpoint::save(ctx.store, &ctx.scratch, count, state.as_bytes(), None)?)
    }
}
