//! Frames become rows on disk, and every decision on what exists is one atomic create.
//!
//! In: frames from a decoder and numbers from a model. Out: shards (Arrow IPC, memory-mapped), labels
//! (Parquet), receipts and manifests (JSON) in a workspace. Where to start: [`Store`], the only door to
//! storage; then [`ShardWriter`] and [`Shard`], the way frames go in and come back; then
//! [`file_receipt`] and [`commit`], the way a task's result becomes part of a dataset.
//!
//! **This room knows nothing of tensors, video codecs or YAML.** Data files never change once written;
//! only receipts and manifests decide, and each of those is created once.
//!
//! | file | what it holds |
//! |---|---|
//! | `store` | create, read, list, delete, stream out, memory-map |
//! | `disk`, `remote` | the same in a folder and in an object store |
//! | `access`, `cache`, `remote_file` | how object stores are reached, local copies of their files, and reading in one without a copy |
//! | `schema` | every column name and every schema, once |
//! | `shard`, `shard_reader`, `ipc` | frames of whole episodes as fixed-size rows |
//! | `shards` | all shards of a dataset, opened when they are needed |
//! | `window` | which runs of frames are training windows |
//! | `labels`, `label_reader` | one Parquet row per transition |
//! | `action_rows`, `actions` | true actions that somebody recorded: files, and the action at any frame |
//! | `listing`, `archive` | lists of videos that people keep, and videos within tar archives |
//! | `table` | small Parquet tables, such as metrics |
//! | `new_file` | a large file, hashed while it is written |
//! | `receipt`, `manifest` | what was made, and which of it is the dataset |
//! | `gc` | what nobody needs any more |

mod access;
mod action_rows;
mod actions;
mod archive;
mod cache;
mod disk;
mod error;
#[cfg(test)]
mod faults;
pub mod gc;
mod ipc;
mod label_reader;
mod labels;
mod listing;
mod manifest;
mod new_file;
mod receipt;
mod remote;
mod remote_file;
pub mod schema;
mod shard;
mod shard_reader;
mod shards;
mod store;
mod table;
mod window;

pub use access::{Access, address};
pub use action_rows::ActionRows;
pub use actions::{Action, Actions};
pub use archive::{Member, Readable, members, open_source, version_of};
pub use error::{Error, Result};
pub use label_reader::{Labels, read_labels};
pub use labels::{LabelRows, LabelWriter};
pub use listing::{About, ListedVideo, read_list};
pub use manifest::{Commit, Manifest, at, commit, extend, head, receipts_of, stages, unfiled};
pub use new_file::{FileInfo, NewFile};
pub use receipt::{Filed, Receipt, Reject, VideoRecord, all_receipts, data_folder, file_receipt, read_receipt, receipt_path};
pub use remote_file::RemoteFile;
pub use schema::{Compression, FrameSize, LabelShape};
pub use shard::{ShardLayout, ShardWriter, VideoName};
pub use shard_reader::{EpisodeRun, FrameRows, Shard, read_frame_rows};
pub use shards::Shards;
pub use store::{Created, Store, Stored};
pub use table::{Column, Table, read_table, write_table};
pub use window::{Window, WindowIndex};

/// The version of every file format this room writes; readers check it before anything else.
pub const FORMAT: u32 = 1;
