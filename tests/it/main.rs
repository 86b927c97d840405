//! Everything from outside: the real binary on real videos, the numbers of an outside implementation, real readers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a test says what it skips")]

mod actions;
mod ahead;
mod broken;
mod buckets;
mod commands;
mod copies;
mod cuts;
mod dynamics;
mod ends;
mod entries;
mod finetune;
mod fleet;
mod fuzz;
mod gc;
mod golden;
mod growing;
mod handout;
mod hostile;
mod import;
mod incremental;
mod inspect;
mod killed;
mod lake;
mod ledger;
mod names;
mod policy;
mod procgen;
mod project;
mod python;
mod quality;
mod queries;
mod readers;
mod recording;
mod repair;
mod report;
mod rollouts;
mod rooms;
mod schemas;
mod shrink;
mod sources;
mod transcripts;
mod watching;
