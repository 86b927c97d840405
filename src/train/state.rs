//! Checkpoints: the whole state of a training goes in, one safetensors file comes out, and back.
//!
//! Beside the weights under their published names, the file holds the optimiser's moments (`adam.first.*`, `adam.second.*`) and the age of
//! unused codes (`unused`); its metadata hold the step, the seed and the settings, which must be the same on the way back.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::dynamics::Supervision;
use super::optim::{AdamBackend, Flat, OptimConfig, Optimizer};
use super::trainer::Trainer;
use super::{Result, TrainError};
use crate::models::layers::NetBackend;
use crate::models::weights::{Weights, to_host};
use crate::models::{DynamicsConfig, ModelError};

const FORMAT: &str = "lapo-dynamics-training/2";

/// What a checkpoint's metadata say.
#[derive(Serialize, Deserialize)]
struct Settings {
    dynamics: DynamicsConfig,
    optim: OptimConfig,
    supervision: Option<Supervision>,
    seed: u64,
    step: u64,
    codebooks_started: bool,
}

impl<A> Trainer<A>
where
    A: AutodiffBackend + NetBackend,
    A::InnerBackend: NetBackend + AdamBackend,
{
    pub(super) fn save_state(&self) -> Result<Vec<u8>> {
        let mut weights = Weights::default();
        weights.describe(FORMAT, &self.settings());
        weights.store::<A, _>("idm", &self.idm)?;
        weights.store::<A, _>("wm", &self.fdm)?;
        weights.store::<A, _>("tell", &self.tell)?;
        save_moments(&self.optimizer, &mut weights)?;
        // A code's age is reset when it is revived, far below 2^24, up to which f32 counts exactly.
        let unused: Vec<f32> = self.unused.iter().map(|&age| age as f32).collect();
        weights.put("unused", &[unused.len()], &unused);
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

        let idm = weights.load("idm", self.idm.clone(), &self.device)?;
        let fdm = weights.load("wm", self.fdm.clone(), &self.device)?;
        let tell = weights.load("tell", self.tell.clone(), &self.device)?;
        let unused = weights.get("unused", &[self.unused.len()])?;
        restore_moments(&mut self.optimizer, &weights, &self.device)?;
        (self.idm, self.fdm, self.tell) = (idm, fdm, tell);
        self.optimizer.step = settings.step;
        self.codebooks_started = settings.codebooks_started;
        self.unused = unused.into_iter().map(|age| age as u32).collect();
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

/// What a checkpoint says of the training it is of.
pub(super) fn settings_of<T: DeserializeOwned>(weights: &Weights, format: &str) -> Result<T> {
    let missing = || ModelError::Metadata {
        key: "format",
        problem: format!("it is not there, expected `{format}`"),
    };
    Ok(weights.config_of(format)?.ok_or_else(missing)?)
}

/// Puts the optimiser's moments beside the weights.
pub fn save_moments<B: AdamBackend>(optimizer: &Optimizer<B>, weights: &mut Weights) -> Result<()> {
    for (kind, moments) in [("first", &optimizer.first), ("second", &optimizer.second)] {
        for (name, moment) in moments {
            weights.put(format!("adam.{kind}.{name}"), &moment.dims(), &to_host(moment.clone())?);
        }
    }
    Ok(())
}

/// Takes the optimiser's moments from beside the weights.
pub fn restore_moments<B: AdamBackend>(
    optimizer: &mut Optimizer<B>,
    weights: &Weights,
    device: &B::Device,
) -> Result<()> {
    let moments = |kind: &str| -> Result<Flat<B>> {
        let prefix = format!("adam.{kind}.");
        let moment = |(name, shape): (String, Vec<usize>)| {
            let values = weights.get(&format!("{prefix}{name}"), &shape)?;
            let count = values.len();
            Ok((name, Tensor::from_data(TensorData::new(values, [count]), device)))
        };
        weights.shapes_under(&prefix).into_iter().map(moment).collect()
    };
    (optimizer.first, optimizer.second) = (moments("first")?, moments("second")?);
    Ok(())
}

/// A checkpoint must be of the same training.
pub fn same<T: Serialize + PartialEq>(what: &'static str, seen: &T, expected: &T) -> Result<()> {
    if seen == expected {
        return Ok(());
    }
    let text = |value: &T| serde_json::to_string(value).expect("plain numbers and names are JSON");
    Err(TrainError::Checkpoint { what, seen: text(seen), expected: text(expected) })
}
