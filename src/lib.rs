//! # lapo: unlabelled video becomes policies
//!
//! lapo trains an inverse dynamics model (IDM) and a forward dynamics model (FDM, the world model)
//! together through a vector-quantised bottleneck. The IDM's output is a *latent action*: what
//! happened between two frames. Every transition of every video is labelled with one, and a policy
//! is cloned from the labels (LAPO, "Learning to Act without Actions", ICLR 2024). The pipeline
//! around it is incremental and may be killed at any moment. Users start with [`guide`].
//!
//! ```text
//! video --decode--> shard --window--> transition --IDM--> latent action --cloning--> latent policy
//! game  --record--> shard                                 latent action --decoder--> true action
//! game  <--evaluate-- latent policy, decoder              game  <--finetune-- agent
//! ```
//!
//! A transition is the window o\[t-k\] .. o\[t\], o\[t+1\] (k = context, 1 in the paper). No window
//! crosses an episode, a scene cut, a decode gap or a file.
//!
//! # Code map, in the order of the data
//!
//! | module | task | start at |
//! |---|---|---|
//! | [`video`] | decodes and encodes videos | [`video::Decoder`] |
//! | [`dataset`] | stores frames, labels, versions | [`dataset::Store`], [`dataset::format`] |
//! | [`models`] | the networks | [`models::idm`], [`models::fdm`], [`models::vq`] |
//! | [`envs`] | games | [`envs::Procgen`] |
//! | [`train`] | trains networks on stored data | [`train::training_loop`] |
//! | [`stages`] | the steps of a pipeline, a file each | `stages/mod.rs`, [`stages::adding`] |
//! | [`executor`] | runs tasks, or starts workers | [`executor::local`], [`executor::engine`] |
//! | [`pipeline`] | checks a YAML file, plans it, runs it | [`mod@pipeline::run`] |
//! | [`query`] | SQL over datasets | [`query::query()`] |
//! | [`cli`] | commands, progress, exit codes | `cli/args.rs` |
//!
//! `video`, `dataset`, `models`, `envs` and `query` are crates of their own, in their folders. A
//! change of a stage compiles none of them again.
//!
//! - **The paper's loss:** `Trainer::pass` in `src/train/dynamics_trainer.rs` runs the networks and
//!   adds the terms of `src/train/losses.rs`.
//! - **What is done again:** [`stages::plan`] skips a task whose key has a receipt, and
//!   [`key`](mod@stages::plan::key) makes keys from the fields that each stage lists.
//!
//! # Invariants (`tests/it/architecture.rs`)
//!
//! - **`video`, `dataset`, `models` and `envs` use no other module.** `dataset` is independent of
//!   burn, `models` of Arrow and YAML. `train` uses `dataset` and `models`; `stages` all of these.
//! - **A stage never calls another stage, reads YAML, prints, or chooses its output path.**
//! - Only `models`, `train` and `stages::finetune` use burn; other modules see plain slices.
//! - **`executor` runs tasks, which are data.** Engines only start workers; receipts decide what is
//!   done. `pipeline` never touches a tensor or a frame.
//! - Only `cli` prints, reads settings from the environment or chooses an exit code.
//! - `unsafe` is only in `video` (libav), `envs/libenv.rs` (games) and `dataset/store.rs` (maps).
//! - **Every decision on storage is one atomic create-if-absent**: no locks, no updates.
//! - **A dataset never shrinks silently** ([`guide::pipelines`]).
//!
//! # Example: run a pipeline, read labels, decode a video, label its frames, act
//!
#![cfg_attr(feature = "video", doc = "```")]
#![cfg_attr(not(feature = "video"), doc = "```ignore")]
//! use lapo::dataset::{Access, Manifest, Store, read_labels};
//! use lapo::models::{Device, Precision, actor, labeller};
//! use lapo::video::{DecodeOptions, Decoder};
//! # let folder = tempfile::tempdir()?;
//! let yaml = format!("
//! name: tour
//! workspace: '{}'
//! holdout: 0
//! stages:
//!   frames: {{ decode: {{ videos: ['data/maze/maze_1_00[01].mp4'], size: 16 }} }}
//!   dynamics: {{ train_dynamics: {{ frames: frames, steps: 2, batch: 4 }} }}
//!   labels: {{ label: {{ frames: frames, dynamics: dynamics }} }}
//!   policy: {{ train_policy: {{ labels: labels, steps: 2, batch: 4 }} }}
//! ", folder.path().join("tour").display());
//! let checked = lapo::pipeline::check::check("tour.yaml", &yaml, &[], &Access::default())
//!     .map_err(|faults| faults[0].to_string())?;
//! let store = Store::open(&checked.spec.workspace)?;
//! # use lapo::{executor::Resources, pipeline::reporter::SilentReporter};
//! # let (devices, stop) = (vec![Device::Cpu], Default::default());
//! # let cpu = Resources { devices, threads: 2, decoder: None, games: vec![], stop };
//! lapo::pipeline::run::run(&checked, &store, &Default::default(), &cpu, &SilentReporter)?;
//! // Reads the labels of the newest version.
//! let version = Manifest::newest(&store, "labels")?.expect("the run committed labels");
//! let labels = read_labels(&store, &version.tables(&store, "labels.parquet")?[0].path)?;
//! // Decodes a video.
//! let options = DecodeOptions::new(16, 16);
//! let mut decoder = Decoder::open("data/maze/maze_1_000.mp4".as_ref(), &options)?;
//! let (mut frame, mut frames) = (vec![0; options.frame_bytes()], Vec::new());
//! while decoder.next_frame(&mut frame)?.is_some() {
//!     frames.extend_from_slice(&frame);
//! }
//! // Labels its frames with the trained model, and acts with the policy.
//! let weights = |stage: &str| -> lapo::dataset::Result<_> {
//!     let version = Manifest::newest(&store, stage)?.expect("the run committed it");
//!     let files = version.files(&store)?;
//!     let file = files.iter().find(|file| file.path.ends_with(".safetensors")).expect("weights");
//!     store.require(&file.path)
//! };
//! let labeller = labeller(&Device::Cpu, &weights("dynamics")?, Precision::F32)?;
//! let labelled = labeller.label(&frames, &[0, 1, 2], Default::default())?;
//! assert_eq!(labelled.latent_action, labels.latent_action[..3 * labels.shape.latent_dim]);
//! let policy = actor(&Device::Cpu, &weights("policy")?)?;
//! assert_eq!(policy.latent_action(&frame)?.len(), labels.shape.latent_dim);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod build_info;
pub mod cli;
pub mod error;
pub mod executor;
#[cfg(test)]
mod fault_schedules;
pub mod guide;
pub mod pipeline;
pub mod stages;
pub mod train;

pub use build_info::{BuildInfo, build_info};
pub use error::{Error, Result};
#[doc(inline)]
pub use lapo_dataset as dataset;
#[doc(inline)]
pub use lapo_envs as envs;
#[doc(inline)]
pub use lapo_models as models;
#[doc(inline)]
pub use lapo_query as query;
#[doc(inline)]
pub use lapo_video as video;
