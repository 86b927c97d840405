//! The trainings of all stages: networks, losses, optimisers and the training loop.
//!
//! Start at [`dynamics`], the training of IDM and FDM; `dynamics_trainer.rs` computes its steps.
//! [`policy`] trains the latent policy, [`decoder`] decoders of latent actions, [`mod@refit`] those
//! of online training as published. [`training_loop`] drives all others, and PPO. [`optim`] is the
//! optimiser, [`batch`] draws windows and [`prefetch`] loads them ahead of time, [`schedule`] is the
//! learning rate. [`read_back`] decides when a step is read from the device. [`checkpoint`] and
//! [`metrics`] are the files of a training, [`tensorboard`] its metrics for TensorBoard. [`probe`]
//! measures how well latent actions predict true ones, [`pairs`] are its data. [`stop`] ends a
//! training early.

pub mod batch;
pub mod checkpoint;
mod codebooks;
pub mod decoder;
pub mod dynamics;
mod dynamics_trainer;
mod error;
mod losses;
pub mod metrics;
pub mod optim;
pub mod pairs;
pub mod policy;
pub mod prefetch;
pub mod probe;
mod progress;
pub mod read_back;
pub mod refit;
pub mod schedule;
mod score;
pub mod state;
pub mod stop;
pub mod tensorboard;
pub mod training_loop;

pub use dynamics::{
    Batch, DynamicsTrainer, Evaluation, Evaluator, StepMetrics, StepSettings, Supervision,
};
pub use dynamics_trainer::dynamics_trainer;
pub use error::{Result, TrainError};
pub use optim::{OptimConfig, OptimizerKind};
pub use policy::{CloningBatch, CloningMetrics, PolicyTrainer, policy_trainer};
pub use progress::{NoProgress, Progress};
pub use read_back::{ReadBack, Skips};
pub use stop::{Signal, Stop};
pub use training_loop::{
    Checkpoints, FinalState, Finished, Judgement, Learner, Row, Selection, Step, TrainingLoop,
};

/// Returns the device that `LAPO_TEST_DEVICE` names, or the CPU.
#[cfg(test)]
pub fn device_under_test() -> crate::models::Device {
    std::env::var("LAPO_TEST_DEVICE").map_or(crate::models::Device::Cpu, |name| {
        name.parse().unwrap_or_else(|error| panic!("{error}"))
    })
}
