//! Everything from outside: the real binary on real videos, the numbers of an outside implementation, real readers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod actions;
mod ahead;
mod broken;
mod buckets;
mod copies;
mod cuts;
mod dynamics;
mod finetune;
mod fleet;
mod fuzz;
mod gc;
mod golden;
mod handout;
mod hostile;
mod import;
mod incremental;
mod inspect;
mod killed;
mod policy;
mod procgen;
mod project;
mod quality;
mod readers;
mod recording;
mod report;
mod rollouts;
mod rooms;
mod schemas;
mod sources;
mod transcripts;
