//! Training: what all training stages share.
//!
//! Start at [`dynamics`], the training of IDM and FDM, whose method is `dynamics_trainer.rs`;
//! [`policy`] trains the latent policy, [`decoder`] decoders of latent actions. [`training_loop`]
//! drives all of them, and PPO. [`optim`] is the optimiser, [`batch`] draws windows and [`prefetch`]
//! loads them ahead of time, [`schedule`] is the learning rate. [`checkpoint`] and [`metrics`] are
//! the files of a training, [`tensorboard`] its curve for TensorBoard. [`probe`] measures how well
//! latent actions predict true ones; [`stop`] ends a training early.

pub mod batch;
pub mod checkpoint;
pub mod decoder;
pub mod dynamics;
mod dynamics_trainer;
mod error;
mod losses;
pub mod metrics;
pub mod optim;
pub mod policy;
pub mod prefetch;
pub mod probe;
mod progress;
pub mod schedule;
mod score;
pub mod state;
pub mod stop;
pub mod tensorboard;
pub mod training_loop;

pub use dynamics::{
    Batch, DynamicsTrainer, Evaluation, StepMetrics, StepSettings, Supervision, dynamics_trainer,
};
pub use error::{Result, TrainError};
pub use optim::{OptimConfig, OptimizerKind};
pub use policy::{CloningBatch, CloningMetrics, PolicyTrainer, policy_trainer};
pub use progress::{NoProgress, Progress};
pub use stop::{Signal, Stop};
pub use training_loop::{
    Checkpoints, FinalState, Finished, Judgement, Learner, Row, Selection, Step, TrainingLoop,
};
