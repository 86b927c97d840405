//! The state of a training as one safetensors file.
//!
//! Beside the weights under their published names, the file holds the optimiser's moments
//! (`adam.first.*`, `adam.second.*`), the averaged weights (`ema.*`) and the age of unused codes
//! (`unused`). Its metadata hold the step, the seed and the settings, which must be equal when it
//! is restored.

use burn::tensor::{Tensor, TensorData, backend::Backend};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::dynamics::Supervision;
use super::dynamics_trainer::Trainer;
use super::optim::{AdamBackend, Average, Flat, OptimConfig, Optimizer, TrainBackend};
use super::{Result, TrainError};
use crate::models::weights::{Weights, to_host};
use crate::models::{DynamicsConfig, ModelError};

const FORMAT: &str = "lapo-dynamics-training/2";

/// The metadata of a checkpoint.
#[derive(Serialize, Deserialize)]
struct Settings {
    dynamics: DynamicsConfig,
    optim: OptimConfig,
    supervision: Option<Supervision>,
    seed: u64,
    step: u64,
    codebooks_started: bool,
}

impl<A: TrainBackend> Trainer<A> {
    pub(super) fn save_state(&self) -> Result<Vec<u8>> {
        let mut weights = Weights::default();
        weights.describe(FORMAT, &self.settings());
        weights.store::<A, _>("idm", &self.idm)?;
        weights.store::<A, _>("wm", &self.fdm)?;
        weights.store::<A, _>("tell", &self.action_head)?;
        save_moments(&self.optimizer, &mut weights)?;
        save_average(self.average.as_ref(), &mut weights)?;
        weights.put("unused", &[self.codes()], &to_host(self.unused.clone())?);
        Ok(weights.to_bytes())
    }

    pub(super) fn restore_state(&mut self, state: &[u8]) -> Result<()> {
        let weights = Weights::parse(state)?;
        let settings: Settings = settings_of(&weights, FORMAT)?;
        let own = self.settings();
        same("dynamics", &settings.dynamics, &own.dynamics)?;
        same("optim", &settings.optim, &own.optim)?;
        same("supervision", &settings.supervision, &own.supervision)?;
        same("seed", &settings.seed, &own.seed)?;

        // Everything is read before anything is replaced, except for moments and averages.
        let idm = weights.load("idm", self.idm.clone(), &self.device)?;
        let fdm = weights.load("wm", self.fdm.clone(), &self.device)?;
        let action_head = weights.load("tell", self.action_head.clone(), &self.device)?;
        let unused = weights.get("unused", &[self.codes()])?;
        restore_moments(&mut self.optimizer, &weights, &self.device)?;
        restore_average(self.average.as_mut(), &weights, &self.device)?;
        self.idm = idm;
        self.fdm = fdm;
        self.action_head = action_head;
        self.optimizer.step = settings.step;
        self.codebooks_started = settings.codebooks_started;
        let count = unused.len();
        self.unused = Tensor::from_data(TensorData::new(unused, [count]), &self.device);
        Ok(())
    }

    fn settings(&self) -> Settings {
        Settings {
            dynamics: self.config.clone(),
            optim: self.optim.clone(),
            supervision: self.supervision,
            seed: self.seed,
            step: self.optimizer.step,
            codebooks_started: self.codebooks_started,
        }
    }
}

/// Returns the settings of a checkpoint's training.
pub(super) fn settings_of<T: DeserializeOwned>(weights: &Weights, format: &str) -> Result<T> {
    let missing = || ModelError::Metadata {
        key: "format",
        problem: format!("it is missing, expected `{format}`"),
    };
    Ok(weights.config_of(format)?.ok_or_else(missing)?)
}

/// Adds the optimiser's moments to the weights.
pub fn save_moments<B: AdamBackend>(optimizer: &Optimizer<B>, weights: &mut Weights) -> Result<()> {
    save_flat("adam.first", &optimizer.first, weights)?;
    save_flat("adam.second", &optimizer.second, weights)
}

/// Reads the optimiser's moments.
pub fn restore_moments<B: AdamBackend>(
    optimizer: &mut Optimizer<B>,
    weights: &Weights,
    device: &B::Device,
) -> Result<()> {
    optimizer.first = restore_flat("adam.first", weights, device)?;
    optimizer.second = restore_flat("adam.second", weights, device)?;
    Ok(())
}

/// Adds the averaged weights, if the training keeps an average.
pub fn save_average<B: Backend>(average: Option<&Average<B>>, weights: &mut Weights) -> Result<()> {
    average.map_or(Ok(()), |average| save_flat("ema", &average.weights, weights))
}

/// Reads the averaged weights, if the training keeps an average.
pub fn restore_average<B: Backend>(
    average: Option<&mut Average<B>>,
    weights: &Weights,
    device: &B::Device,
) -> Result<()> {
    if let Some(average) = average {
        average.weights = restore_flat("ema", weights, device)?;
    }
    Ok(())
}

fn save_flat<B: Backend>(prefix: &str, tensors: &Flat<B>, weights: &mut Weights) -> Result<()> {
    for (name, tensor) in tensors {
        weights.put(format!("{prefix}.{name}"), &tensor.dims(), &to_host(tensor.clone())?);
    }
    Ok(())
}

fn restore_flat<B: Backend>(
    prefix: &str,
    weights: &Weights,
    device: &B::Device,
) -> Result<Flat<B>> {
    let prefix = format!("{prefix}.");
    let shapes = weights.shapes_under(&prefix).into_iter();
    shapes
        .map(|(name, shape)| {
            let values = weights.get(&format!("{prefix}{name}"), &shape)?;
            let count = values.len();
            Ok((name, Tensor::from_data(TensorData::new(values, [count]), device)))
        })
        .collect()
}

/// Checks that a setting of a checkpoint equals that of this training.
pub fn same<T: Serialize + PartialEq>(what: &'static str, seen: &T, expected: &T) -> Result<()> {
    if seen == expected {
        return Ok(());
    }
    let text = |value: &T| serde_json::to_string(value).expect("plain numbers and names are JSON");
    Err(TrainError::Checkpoint { what, seen: text(seen), expected: text(expected) })
}
