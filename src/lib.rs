//! # lapo: unlabelled video becomes policies
//!
//! An inverse dynamics model (IDM) and a forward dynamics model (FDM, the world model) are trained together through a
//! vector-quantised bottleneck, so that the IDM's output becomes a *latent action*: what happened between two frames. Every
//! transition of every video is labelled with it. The method is LAPO ("Learning to Act without Actions", Schmidt & Jiang, ICLR 2024);
//! around it stands a declarative, incremental, kill-safe pipeline, from video files to labelled Parquet.
//!
//! ## The way of the data
//!
//! ```text
//! video --decode--> shard --window--> transition --IDM--> latent action --cloning--> latent policy --decoder--> action
//! video/            dataset/shard     dataset/window      stages/label               stages/train_policy  stages/train_decoder
//! game ---record--> shard                                                        game <--evaluate-- latent policy and decoder
//!                                                                                game <--finetune-> latent policy becomes agent
//! ```
//!
//! One transition is the window o\[t-k\] .. o\[t\], o\[t+1\] (k = context, 1 in the paper); its latent action is what happened between
//! o\[t\] and o\[t+1\]. A window never crosses an episode, a scene cut, a decode gap or a file.
//!
//! ## Files
//!
//! ```text
//! <workspace>/lapo.json                            makes the folder a workspace, and says whose
//! <workspace>/<stage>/data/<key>/<attempt>/...     what a task wrote: shards, labels, weights
//! <workspace>/<stage>/receipts/<key>.json          which attempt counts, and its files
//! <workspace>/<stage>/manifests/<version>.json     a version, and its packs
//! <workspace>/<stage>/packs/...parquet             receipts of versions, many to a file
//! <workspace>/<stage>/tables/...parquet            small tables of many tasks, joined
//! <workspace>/<stage>/_delta_log/...               the same versions for polars, Spark and others
//! <workspace>/runs/, <workspace>/pins/             what each run did, and what is still needed
//! ```
//!
//! Every file is created once and never changed. A task is done if its receipt is filed and its files have their sizes. A version says what it is
//! made of, so that reading it costs a few files. [`dataset::format`] describes every field; [`dataset`] has the decisions, why they were taken and
//! what they cost.
//!
//! **A dataset never shrinks silently.** A pattern that matches nothing is a fault, even if others match. A plan that drops more than a tenth of the
//! videos (`max_dropped`) is refused until somebody says `--max-dropped 1`. A workspace belongs to the pipeline that created it; another one says
//! `shares_with:` or `--take-over`. Nothing is deleted that a version kept, a run, a plan that is out or a query still needs.
//!
//! ## Rooms, in reading order
//!
//! | room | what happens there |
//! |---|---|
//! | [`video`] | a video file becomes frames |
//! | [`dataset`] | frames become rows on disk; receipts and manifests say what is done |
//! | [`models`] | tensors become tensors: the networks |
//! | [`envs`] | an action becomes the next frame: games |
//! | [`train`] | what every training stage shares |
//! | [`stages`] | the paper, a file a step, beside it a folder where one is not enough |
//! | [`executor`] | tasks become receipts |
//! | [`pipeline`] | a YAML file becomes a run, or partitions for other engines |
//! | [`query`] | SQL over datasets, and how they came to be |
//! | [`cli`] | people, and machines that watch a fleet |
//! | [`build_info`](mod@build_info) | what this program is, for whoever records it |
//!
//! ## Invariants (`tests/it/rooms.rs` holds them)
//!
//! - **`video`, `dataset`, `models` and `envs` know no other room.** Models know nothing of Arrow or YAML, and of paths only in
//!   `models::pytorch`, whose reader opens the file itself; `dataset` knows nothing of burn.
//! - `train` knows `dataset` and `models`; `stages` also `video` and `envs`. **A stage never calls another stage, reads YAML, prints, or picks
//!   its output path.**
//! - Only `models` and `train` are generic over burn's backend; the other rooms see plain slices. `stages/finetune` is the exception: PPO
//!   is read in one file, what is played beside what is learnt of it.
//! - **`executor` runs tasks, which are data, never closures.** `pipeline` never touches a tensor, a frame or a record batch.
//! - Only `cli` prints, reads settings from the environment or picks an exit code. Nothing depends on `cli`.
//! - `unsafe` only in `envs/libenv.rs`, in `video` where libav forces it, and for the memory map in `dataset/store.rs`.
//! - **Every decision on storage is one atomic create-if-absent**: no locks, no updates, nothing half.
//!
//! ## Where this departs from the first design
//!
//! - A game may be recorded straight into shards (`record`), with no video between: lossless, and true actions lie beside them.
//! - True actions are an artifact like frames: `record` makes them, `import_actions` checks a file of them against the videos. Whatever needs
//!   them names the stage. A decoder is judged on videos kept from it; which transitions it learns from depends on a seed and on these alone.
//! - In `evaluate` every environment plays its own share of the episodes: the first ones to end are the short ones, not a fair sample.
//! - In `finetune` games do not step while the network works: actions wait for it, and in two halves that take turns it would be called
//!   twice as often. Games take a tenth of the time on two cores, where both want the same cores; nobody has measured a GPU.
//! - In `finetune` the frozen convolutions' output is kept with the rollout, so that an update goes through two linear layers; gradients
//!   are clipped over what is trained (the published code counts those of frozen layers, which pile up); the decoder's pairs never cross
//!   an episode's end.
//! - A model may come from a file (`import_dynamics`), published or ours, and labels like one trained here.
//! - Initial weights and batches are drawn with PyTorch's generator, in its order: `reference: true` is compared with PyTorch seed by seed,
//!   since between seeds the error after a short training differs by far more than between implementations.
//! - The default recipe is not the paper's, whose latent actions carry nothing after the few hundred steps that two cores afford. The IDM
//!   looks at changes of frames and averages its features where they are; latent actions are normalised, so that they cannot shrink while
//!   nobody reads them, and decorrelated, so that their numbers do not all come to say the same; they scale and shift the channels of
//!   every level of a shallower FDM, which learns three times faster than they do, and are quantised once it reads them. Muon moves the
//!   weights of convolutions, Adam the others. `stages::train_dynamics` has the numbers; `reference: true` is the paper.
//! - Datasets above 1 GiB are read rather than mapped (`dataset/shards.rs` says why): training's memory does not grow with the data.
//! - Labelling on GPUs runs several jobs a device, and on several devices; training uses one.
//! - On a CPU a training step runs on a thread of the pool it keeps busy, and sixteen threads copy batches ahead of it (`train::ahead`).
//! - Training depends on `models`, since the step of a training is its networks' forward and backward pass.
//! - Overlapping runs are not merged: a merge could restore videos that one of them saw deleted. Runs are numbered when they begin, whatever the
//!   clocks say, and the run with the greater number wins, whenever the others end (`dataset::commit`, `dataset::runs`).
//! - A partition of videos is decoded anew when one of its videos is gone: the dataset is always what the patterns match.
//! - `shard` in the labels is the shard's digest, not its path: labels are the same bytes wherever and by whichever attempt they are made.
//! - Local folders go past `object_store`: its create is not lasting on disk, and its listings and reads take a thread each. A file in an object
//!   store is mapped and read as a copy on this machine's disk; videos are decoded as they are read, without one.
//! - What can be done by others is one wave of a plan at a time (`pipeline::partitions`): a stage's partitions are known once what it takes from
//!   is there, so an engine plans, works and commits until a plan has no changes. A plan without partitions may have some: videos are gone, or
//!   a setting was put back.
//! - Stages run one after the other, but for labels by a model that is there and stays: those are made shard by shard while others are still
//!   decoded (`pipeline::plan`'s `ahead`). The shard on disk is the buffer between the two, so nothing but jobs waits in memory. On a CPU
//!   decoding comes first, since both want the same cores: labels fill the cores that the slowest videos leave.
//! - libav works in processes of its own (`stages::decode::decoder_process`), one a thread, which send frames over a pipe and never touch the
//!   workspace: what kills one is a reject, its memory is bounded, and the frames before are kept. With what is measured of frames it costs
//!   6 % of the time on 720p, and a fifth on clips of 19 frames of 64 x 64.
//! - Copies of the same bytes under several names are separate videos, `#2` and so on added to their digest, so that each has rows; or, where
//!   asked (`duplicates: skip`), rejects.
//! - Whether two clips are nearly the same shows only when all are decoded: `deduplicate` is a stage, and what it finds is left out by whoever
//!   names it (`without`), so that shards stay as they are.
//! - What is measured of frames lies beside their shard, not in it: a new measure changes no shard, so that no model and no label is made again.
//!   What lists say of videos is in the receipts: a list that changes has its partitions decoded anew, to the same shards.
//!
//! ## Example
//!
//! A pipeline is checked as a whole before anything runs, and every fault has a place:
//!
//! ```
//! let text = "name: demo\nworkspace: runs/demo\nstages:\n  frames: { decode: { videos: [\"Cargo.toml\"], sise: 64 } }\n";
//! let faults = lapo::pipeline::check::check("demo.yaml", text, &[], &lapo::dataset::Access::default()).unwrap_err();
//! assert_eq!(
//!     faults[0].to_string(),
//!     "demo.yaml:4:47: stages.frames.decode.sise: unknown key `sise`\n  hint: did you mean `size`?"
//! );
//! ```

pub mod build_info;
pub mod cli;
pub mod dataset;
pub mod envs;
pub mod error;
pub mod executor;
#[cfg(test)]
mod fault_schedules;
pub mod models;
pub mod pipeline;
pub mod query;
pub mod stages;
pub mod train;
pub mod video;

pub use build_info::{BuildInfo, build_info};
pub use error::{Error, Result};
