//! Frames become rows on disk, and every decision on what exists is one atomic create.
//!
//! In: frames from a decoder and numbers from a model. Out: shards (Arrow IPC, memory-mapped), labels
//! (Parquet), receipts and manifests (JSON) in a workspace. Where to start: [`Store`], the only door to
//! storage; then [`ShardWriter`] and [`Shard`], the way frames go in and come back; then
//! [`file_receipt`] and [`commit()`], the way a task's result becomes part of a dataset.
//!
//! **This room knows nothing of tensors, video codecs or YAML.** Data files never change once written;
//! only receipts and manifests decide, and each of those is created once. [`mod@format`] describes every file and field.
//!
//! ## Decisions
//!
//! | what | why | cost |
//! |---|---|---|
//! | Only a folder with `lapo.json` is a workspace ([`workspace`]) | a typo must not collect a stranger's folder, and a pipeline must not write into another one's | one request when a command begins |
//! | A version lists its receipts in packs, Parquet files that versions share; small packs are merged into the rows behind them, so that sizes grow geometrically (`commit`) | a reader opens a few files, not one a task; a commit of one task among a million writes kilobytes | every receipt exists twice, as its own file and as a row, and is rewritten O(log n) times |
//! | A task is done if its receipt is filed and its files have their sizes (`finished`) | a file that was cut short or deleted is made anew by itself, and the versions before stay as they are | a plan lists the receipts and looks at every data file; damage of the same size is seen only by [`verify`](mod@verify) |
//! | A receipt's own file stays beside the packs | filing is one atomic create, and workers need to agree on nothing else | a small file a task |
//! | Pin first, then look; the collector announces what it will delete, then reads the pins ([`pins`]) | nothing is locked, and a run, a plan that is out and a query keep what they read | a file a run and stage; a killed machine's pins hold until they expire |
//! | A version's age counts from the commit that superseded it ([`gc`]) | data that are newest until a minute ago are read by somebody | old data stay a week longer |
//! | Runs are numbered by creating the next free name ([`runs`]) | of two runs the later one wins whatever the clocks say | one listing a run; a run that did nothing frees its number |
//! | Delta Lake logs repeat the manifests ([`delta`]) | Python and Spark read every version by the folder's name | one file more a commit; no program but lapo may write the table |
//! | A commit joins small tables into files of up to `file_mib` (`joined`); the tasks' own files stay beside them | queries, Delta readers and `lapo files` open few files (a small one costs 0.7 ms of a core: 20,000 took 13 s), while a task, its key, its receipt and its files stay one thing for workers, plans, trainings and the collector | labels exist twice, as a task's file and in a joined one; a row is rewritten O(log n) times |
//! | Formats have one number, [`FORMAT`], and no migration | a reader either knows a file or stops | a workspace of another format is started anew |
//!
//! ## Files
//!
//! | file | what it holds |
//! |---|---|
//! | `store` | create, read, list, delete, stream out, memory-map |
//! | `checks` | whether a file is the one that was written, and a store one that can be trusted |
//! | `place` | paths that cannot leave the workspace |
//! | `disk`, `remote` | the same in a folder and in an object store |
//! | `durable`, `walk` | what a power cut must not undo, and listing a folder |
//! | `access`, `cache`, `remote_file` | how object stores are reached, local copies of their files, and reading in one without a copy |
//! | `schema` | every column name and every schema, once |
//! | `parts` | parts of a file, wherever it is |
//! | `shard`, `shard_reader`, `ipc` | frames of whole episodes as fixed-size rows |
//! | `frame_rows` | which frames there are, without pixels |
//! | `shards` | all shards of a dataset, opened when they are needed |
//! | `window` | which runs of frames are training windows |
//! | `labels`, `label_reader` | one Parquet row per transition |
//! | `action_rows`, `actions` | true actions that somebody recorded: files, and the action at any frame |
//! | `listing`, `archive`, `bucket` | lists of videos that people keep, videos within tar archives, and the objects of a bucket |
//! | `refused`, `local_name` | entries that are listed and not read, and names of files as text |
//! | `table`, `table_reader` | small Parquet tables, such as metrics |
//! | `new_file` | a large file, hashed while it is written |
//! | `workspace` | `lapo.json`, which makes a folder a workspace |
//! | `receipt`, `pack` | what a task made, and many receipts in one file |
//! | `joined` | the small tables of many tasks as one file |
//! | `manifest`, `commit` | a version of a dataset, and how the next one is made |
//! | `finished` | which tasks are done: filed, and their files whole |
//! | `runs`, `pins` | which runs there were, and what they and others still need |
//! | `delta` | the same versions as a Delta Lake table, for other programs |
//! | `hashing` | fast hash tables |
//! | `gc` | what nobody needs any more |
//! | `verify` | whether the files are what the receipts say |

mod access;
mod action_rows;
mod actions;
mod archive;
mod bucket;
mod cache;
mod checks;
mod commit;
pub mod delta;
mod disk;
mod durable;
mod error;
#[cfg(test)]
mod faults;
mod fields;
mod finished;
mod frame_rows;
pub mod gc;
mod hashing;
mod ipc;
mod joined;
mod label_reader;
mod labels;
mod listing;
mod local_name;
mod manifest;
mod new_file;
mod pack;
mod parts;
pub mod pins;
mod place;
mod process;
mod receipt;
mod refused;
mod remote;
mod remote_file;
pub mod runs;
pub mod schema;
mod shard;
mod shard_reader;
mod shards;
mod store;
mod table;
mod table_reader;
#[cfg(test)]
mod turns;
pub mod verify;
mod walk;
mod window;
pub mod workspace;

pub use access::{Access, address};
pub use action_rows::ActionRows;
pub use actions::{Action, Actions};
pub use archive::{Member, Readable, members, open_source, version_of};
pub use bucket::{Listed, list_objects};
pub use cache::CacheFolder;
pub use commit::{Commit, Committed, commit};
pub use error::{Error, Result};
#[cfg(test)]
pub(crate) use faults::faulty_store;
pub use fields::Fields;
pub use finished::{Damaged, Finished, finished, take_back};
pub use frame_rows::{FrameRows, read_all_frame_rows, read_frame_rows};
pub use hashing::{HashMap, HashSet};
pub use joined::{DEFAULT_FILE_MIB, Joined};
pub use label_reader::{Labels, read_labels};
pub use labels::{LabelRows, LabelWriter};
pub use listing::{About, List, ListedVideo, Unread, read_list};
pub use local_name::{bytes_text, local_path, path_text};
pub use manifest::{
    Changes, Manifest, TableTotals, Totals, at, head, rolled_back, sort_of, stages, versions,
};
pub use new_file::NewFile;
pub use pack::Pack;
pub use place::{Created, FileInfo, Stored, is_key, is_name};
pub use process::{Process, host};
pub use receipt::{
    Filed, Made, Receipt, Reject, VideoRecord, are_filed, data_folder, file_receipt, find_receipts,
    parse_versioned, read_receipt, receipt_path,
};
pub use refused::{EntryClass, Refused, is_uncounted};
pub use remote_file::RemoteFile;
pub use schema::{Compression, FrameSize, LabelShape};
pub use shard::{ShardLayout, ShardWriter, VideoName};
pub use shard_reader::{EpisodeRun, Shard};
pub use shards::Shards;
pub use store::Store;
pub use table::{Column, table_sort, write_table};
pub use table_reader::{Table, read_columns, read_table};
#[cfg(test)]
pub(crate) use turns::Turns;
pub use window::{Window, WindowIndex};

/// The format on disk: every file and every field.
#[doc = include_str!("format.md")]
pub mod format {}

/// The version of every file format this room writes; readers check it before anything else.
pub const FORMAT: u32 = 2;
