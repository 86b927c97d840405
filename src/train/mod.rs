//! What every training stage shares: batches go in, better weights come out.
//!
//! Where to start: [`dynamics`], the training of IDM and FDM behind one trait without a tensor in it; [`cloning`], that of the policy;
//! [`decoding`], that of decoders. [`optim`] is the optimiser, [`batch`] draws windows and [`ahead`] copies them in time, [`schedule`] is
//! the learning rate; [`checkpoint`] and [`metrics`] are what a run leaves on its way, [`tensorboard`] shows the latter; [`probe`] measures
//! latent actions against true ones; [`stop`] says when to end early.

pub mod ahead;
pub mod batch;
pub mod checkpoint;
pub mod cloning;
pub mod decoding;
pub mod dynamics;
mod error;
mod losses;
pub mod metrics;
pub mod optim;
pub mod probe;
pub mod schedule;
mod score;
pub mod state;
pub mod stop;
pub mod tensorboard;
mod trainer;

pub use cloning::{CloningMetrics, PolicyTrainer, Shown, policy_trainer};
pub use dynamics::{
    Batch, DynamicsTrainer, Evaluation, Pace, StepMetrics, Supervision, dynamics_trainer,
};
pub use error::{Result, TrainError};
pub use optim::{OptimConfig, Rule};
pub use stop::{Signal, Stop};
