//! Scores of held-out windows: the FDM's errors with their own latent actions and with shuffled
//! ones.

use burn::tensor::{Int, Tensor, TensorData};

use super::dynamics::{Batch, Evaluation};
use super::dynamics_trainer::{Trainer, check};
use super::optim::TrainBackend;
use super::{Result, TrainError};
use crate::models::frames::mean_per_window;
use crate::models::label::host_codes;
use crate::models::layers::Mode;
use crate::models::weights::to_host;

impl<A: TrainBackend> Trainer<A> {
    /// Implements [`DynamicsTrainer::evaluate`](super::DynamicsTrainer::evaluate).
    pub(super) fn score(
        &self,
        batch: &Batch<'_>,
        shuffle: &[usize],
        quantise: bool,
    ) -> Result<Evaluation> {
        check("shuffle", shuffle.len(), batch.batch)?;
        if let Some(&index) = shuffle.iter().find(|&&index| index >= batch.batch) {
            return Err(TrainError::Batch {
                what: "shuffled index",
                seen: index,
                expected: batch.batch - 1,
            });
        }
        let (idm, fdm) = self.networks();
        // Normalisation layers are folded into the convolutions before them, as for inference.
        let idm = idm.folded(&self.config);
        let fdm = fdm.folded();
        let windows = self.upload::<A::InnerBackend>(batch, &self.device)?;
        let latent_action = idm.forward(&windows, &mut Mode::Folded);
        // Once codes are in use the FDM was trained on quantised latent actions only.
        let (own, codes) = if quantise {
            let quantised = idm.vq.forward(latent_action.clone());
            (quantised.latent_action_q, host_codes(quantised.codes)?)
        } else {
            (latent_action.clone(), Vec::new())
        };
        let index = shuffle.iter().map(|&index| index as i32).collect();
        let index =
            Tensor::<_, 1, Int>::from_data(TensorData::new(index, [batch.batch]), &self.device);
        let shuffled = own.clone().select(0, index);

        let error_of = |predicted: Tensor<A::InnerBackend, 4>| {
            let difference = predicted - windows.next();
            to_host(mean_per_window(difference.clone() * difference))
        };
        let error_with = |action| error_of(fdm.forward(&windows, action, &mut Mode::Folded));
        Ok(Evaluation {
            fdm_error: error_with(own)?,
            fdm_error_shuffled: error_with(shuffled)?,
            copy_error: error_of(windows.last())?,
            codes,
            latent_action: to_host(latent_action)?,
        })
    }
}
