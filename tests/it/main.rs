//! Integration tests: the real binary on real videos, numbers from an independent PyTorch
//! implementation, and real readers of the files that lapo writes.
//!
//! `project` runs the binary in a folder of its own; `python`, `s3_server`, `machine`,
//! `slurm_cluster` and `ray_cluster` start other programs. Every other module tests the feature it is named after.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a skipped test prints why")]

mod act;
mod actions;
mod architecture;
mod archives_and_lists;
mod broken_videos;
mod commands;
mod continued_training;
mod decoder_crashes;
#[cfg(feature = "vulkan")]
mod device_sums;
mod distractors;
mod dropped_videos;
mod dynamics;
mod ends;
mod export;
mod finetune;
mod fleet;
mod frame_quality;
mod frame_stacks;
mod fuzz;
mod gc;
mod golden;
mod growing_videos;
mod guide;
mod gymnasium;
mod horizon;
mod import;
mod incremental;
mod inspect;
mod kill_and_resume;
mod lerobot;
mod log_and_metrics;
mod machine;
mod near_duplicates;
mod object_store;
mod odd_archives;
mod odd_lists;
mod odd_sources;
mod onnx;
mod partitions;
mod policy;
mod procgen;
mod project;
mod python;
mod pytorch;
mod queries;
mod ray;
mod ray_cluster;
mod readers;
mod readers_after_relabelling;
mod recording;
mod renamed_videos;
mod repair;
mod report;
mod rollouts;
mod s3_server;
mod scene_cuts;
mod schemas;
mod slurm;
mod slurm_cluster;
mod split;
mod store_faults;
mod streaming_labels;
mod test_device;
mod transcripts;
mod unchanged_reruns;
mod watch;
mod webdataset;
mod workspace_ownership;
