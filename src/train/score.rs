//! Scores of held-out windows: the FDM's errors with their own latent actions and with shuffled
//! ones, and its predictions with any.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Int, Tensor, TensorData};

use super::dynamics::{Batch, Evaluation, Evaluator};
use super::dynamics_trainer::{Trainer, check};
use super::optim::TrainBackend;
use super::{Result, TrainError};
use crate::models::fdm::Fdm;
use crate::models::frames::mean_per_window;
use crate::models::idm::Idm;
use crate::models::label::as_floats;
use crate::models::layers::Mode;
use crate::models::weights::to_host;

/// The networks of a training as they were when this was created. Normalisation layers are folded
/// into the convolutions before them, as for inference.
pub(super) struct Folded<'a, A: AutodiffBackend> {
    trainer: &'a Trainer<A>,
    idm: Idm<A::InnerBackend>,
    fdm: Fdm<A::InnerBackend>,
}

impl<'a, A: TrainBackend> Folded<'a, A> {
    pub(super) fn new(trainer: &'a Trainer<A>) -> Self {
        let (idm, fdm) = trainer.networks();
        Folded { trainer, idm: idm.folded(&trainer.config), fdm: fdm.folded() }
    }
}

impl<A: TrainBackend> Evaluator for Folded<'_, A> {
    fn evaluate(&self, batch: &Batch<'_>, shuffle: &[usize], quantise: bool) -> Result<Evaluation> {
        check("shuffle", shuffle.len(), batch.batch)?;
        if let Some(&index) = shuffle.iter().find(|&&index| index >= batch.batch) {
            return Err(TrainError::Batch {
                what: "shuffled index",
                seen: index,
                expected: batch.batch - 1,
            });
        }
        let device = &self.trainer.device;
        let windows = self.trainer.upload::<A::InnerBackend>(batch, device)?;
        let latent_action = self.idm.forward(&windows, &mut Mode::Folded);
        // Once codes are in use the FDM was trained on quantised latent actions only.
        let (own, codes) = if quantise {
            let (quantised, codes) = self.idm.vq.bottleneck(latent_action.clone());
            (quantised, Some(as_floats(codes)))
        } else {
            (latent_action.clone(), None)
        };
        let index = shuffle.iter().map(|&index| index as i32).collect();
        let index = Tensor::<_, 1, Int>::from_data(TensorData::new(index, [batch.batch]), device);
        let shuffled = own.clone().select(0, index);

        let error_of = |predicted: Tensor<A::InnerBackend, 4>| {
            let difference = predicted - windows.next();
            mean_per_window(difference.clone() * difference)
        };
        let error_with = |action| error_of(self.fdm.forward(&windows, action, &mut Mode::Folded));
        let errors = [error_with(own), error_with(shuffled), error_of(windows.last())];
        // One copy from the device brings all scores.
        let latent_action = latent_action.flatten::<1>(0, 1);
        let codes = codes.map(|codes| codes.flatten::<1>(0, 1));
        let codes_count = codes.as_ref().map_or(0, |codes| codes.dims()[0]);
        let all = errors.into_iter().chain(codes).chain([latent_action]).collect();
        let mut all = to_host(Tensor::cat(all, 0))?.into_iter();
        let mut take = |count: usize| all.by_ref().take(count).collect::<Vec<f32>>();
        Ok(Evaluation {
            fdm_error: take(batch.batch),
            fdm_error_shuffled: take(batch.batch),
            copy_error: take(batch.batch),
            codes: take(codes_count).into_iter().map(|code| code as u16).collect(),
            latent_action: all.collect(),
        })
    }

    fn latent_action(&self, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let windows = self.trainer.upload::<A::InnerBackend>(batch, &self.trainer.device)?;
        Ok(to_host(self.idm.forward(&windows, &mut Mode::Folded))?)
    }

    fn predict(
        &self,
        batch: &Batch<'_>,
        latent_action: &[f32],
        quantise: bool,
    ) -> Result<Vec<f32>> {
        let device = &self.trainer.device;
        let dim = self.trainer.config.latent_dim();
        check("number of latent actions", latent_action.len(), batch.batch * dim)?;
        let windows = self.trainer.upload::<A::InnerBackend>(batch, device)?;
        let data = TensorData::new(latent_action.to_vec(), [batch.batch, dim]);
        let mut fdm_input = Tensor::from_data(data, device);
        if quantise {
            fdm_input = self.idm.vq.bottleneck(fdm_input).0;
        }
        let predicted = self.fdm.forward(&windows, fdm_input, &mut Mode::Folded);
        // [window, channel, height, width] -> [window, height, width, channel].
        Ok(to_host(predicted.permute([0, 2, 3, 1]))?)
    }
}
