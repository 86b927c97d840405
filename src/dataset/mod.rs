//! Storage: versioned datasets in a workspace, a local folder or a prefix of an object store.
//!
//! A workspace holds shards of frames (Arrow IPC, memory-mapped), labels (Parquet), receipts and
//! manifests (JSON). [`mod@format`] describes every file and field. Start here:
//!
//! - [`Store`] is the only access to storage.
//! - [`ShardWriter`] writes frames, [`Shard`] reads them.
//! - [`file_receipt`] records a task's result, [`commit()`] makes it part of a dataset.
//!
//! **This module does not depend on tensors, video codecs or YAML.** Data files never change once
//! written. A task is done when its receipt exists, a version exists when its manifest does, and
//! each of these is one atomic create.
//!
//! ## Decisions
//!
//! | decision | reason | cost |
//! |---|---|---|
//! | Only a folder with `lapo.json` is a workspace ([`workspace`]) | a typo must not make garbage collection delete files in an unrelated folder, and one pipeline must not write into another's workspace | one request when a command begins |
//! | A version lists its receipts in packs, Parquet files shared between versions; a commit merges small packs, so that sizes grow geometrically (`commit`) | a reader opens a few files, not one per task; committing one task among a million writes kilobytes | every receipt exists twice, as its own file and as a row, and is rewritten O(log n) times |
//! | A task is done if its receipt is filed and its files have the recorded sizes (`finished_tasks`) | the next run recreates a truncated or deleted file, and older versions stay as they are | a plan lists the receipts and checks the size of every data file; only [`verify`](mod@verify) detects damage that keeps the size |
//! | A receipt's own file stays beside the packs | filing is one atomic create, and workers need no other agreement | one small file per task |
//! | A process pins before it reads; the collector announces its deletions, then reads the pins ([`pins`]) | there are no locks, and a run, a handed-out plan or a query keeps the data it reads | one file per run and stage; the pins of a killed machine hold until they expire |
//! | A version's age counts from the commit that superseded it ([`gc`]) | a version superseded a minute ago still has readers | old data stay a week longer |
//! | A run takes its number by creating the next free name ([`runs`]) | the later of two runs wins, independent of clocks | one listing per run; a run that did nothing frees its number |
//! | Delta Lake logs repeat the manifests ([`delta`]) | Python and Spark read every version by the folder's name | one more file per commit; only lapo may write the table |
//! | A commit joins small tables into files of up to `file_mib` (`joined`); the tasks' own files stay beside them | queries, Delta readers and `lapo files` open few files (opening a small one takes 0.7 ms), and workers, plans, trainings and the collector still handle each task with its own receipt and files | labels exist twice, in a task's file and in a joined one; a row is rewritten O(log n) times |
//! | An episode of a LeRobot dataset is an MP4 file made while it is read (`mp4`) | it is hashed, decoded, copied and rejected like any video, and stays the same video when its file is written again | the tables of the file are read for each episode that is opened (milliseconds), by 400 lines of our own, since no crate keeps a codec's description as it is |
//! | All formats share one version number, [`FORMAT`], without migration | a reader either supports a file or stops | a workspace of another format must be started anew |
//!
//! ## Files
//!
//! | file | contents |
//! |---|---|
//! | `store` | create, read, list, delete, stream out, memory-map |
//! | `integrity` | checks of files against their receipts, and of the store's guarantees |
//! | `paths` | validated paths that cannot leave the workspace |
//! | `disk`, `remote` | the two backends of a store: a folder and an object store |
//! | `durable`, `walk` | writes that survive a power cut, and listing of folders |
//! | `access`, `cache`, `remote_file` | connections to object stores, local copies of their files, and reading without a copy |
//! | `schema` | every column name and every schema |
//! | `byte_ranges` | byte ranges of a local or remote file |
//! | `shard`, `shard_reader`, `ipc` | frames of whole episodes as fixed-size rows |
//! | `frame_rows` | the index of all frames, without pixels |
//! | `shards` | all shards of a dataset, opened on demand |
//! | `window` | the index of training windows |
//! | `split` | which videos are held out |
//! | `labels`, `label_reader` | one Parquet row per transition |
//! | `action_rows`, `actions` | recorded true actions: their files, and the action at any frame |
//! | `listing`, `archive`, `bucket` | users' lists of videos, videos within tar archives, and the objects of a bucket |
//! | `lerobot`, `mp4` | LeRobot datasets, and parts of an MP4 file as videos of their own |
//! | `entry_faults`, `path_text` | listed entries that cannot be read, and file names as text |
//! | `table`, `table_reader` | small Parquet tables, such as metrics |
//! | `export_table` | Parquet files in another program's layout |
//! | `new_file` | a large file, hashed while it is written |
//! | `workspace` | `lapo.json`, the marker of a workspace |
//! | `receipt`, `pack` | the result of a task, and many receipts in one file |
//! | `joined` | the small tables of many tasks as one file |
//! | `manifest`, `commit` | a version of a dataset, and how the next one is committed |
//! | `finished_tasks` | the tasks with a filed receipt and intact files |
//! | `runs`, `pins` | the workspace's runs, and the data that runs and readers still need |
//! | `delta` | the same versions as a Delta Lake table, for other programs |
//! | `hashing` | fast hash tables |
//! | `gc` | garbage collection |
//! | `verify` | comparison of all files with their receipts |

// Paths are the same within this crate and in `lapo`: `crate::dataset::...`.
extern crate self as dataset;

mod access;
mod action_rows;
mod actions;
mod archive;
mod bucket;
mod byte_ranges;
mod cache;
mod commit;
pub mod delta;
mod disk;
mod durable;
mod entry_faults;
mod error;
mod export_table;
#[doc(hidden)]
pub mod faulty_store;
mod finished_tasks;
mod frame_rows;
pub mod gc;
mod hashing;
mod integrity;
mod ipc;
mod joined;
mod key_fields;
mod label_reader;
mod labels;
pub mod lerobot;
mod listing;
mod manifest;
mod mp4;
mod new_file;
mod pack;
mod path_text;
mod paths;
pub mod pins;
mod process;
mod receipt;
mod remote;
mod remote_file;
mod rollback;
pub mod runs;
pub mod schema;
mod shard;
mod shard_reader;
mod shards;
mod split;
#[doc(hidden)]
pub mod step_scheduler;
mod store;
mod table;
mod table_reader;
pub mod verify;
mod walk;
mod window;
pub mod workspace;

pub use access::{Access, address};
pub use action_rows::ActionRows;
pub use actions::{Action, Actions};
pub use archive::{Member, Readable, members, open_source, size_and_version};
pub use bucket::{ListedObject, list_objects};
pub use cache::CacheFolder;
pub use commit::{Commit, Committed, commit};
pub use entry_faults::{EntryClass, EntryFault, is_uncounted};
pub use error::{Error, Result};
pub use export_table::{ExportColumn, ExportTable};
#[doc(hidden)]
pub use faulty_store::faulty_store;
pub use finished_tasks::{DamagedTask, Finished, delete_damaged_receipt, finished};
pub use frame_rows::{FrameRows, read_all_frame_rows, read_frame_rows};
pub use hashing::{HashMap, HashSet};
pub use joined::{DEFAULT_FILE_MIB, JoinedTable};
pub use key_fields::Fields;
pub use label_reader::{Labels, read_labels, split_labels};
pub use labels::{LabelRows, LabelWriter};
pub use listing::{EntryError, List, ListMetadata, ListedVideo, read_list};
pub use manifest::{Changes, Manifest, TableTotals, Totals, stages, versions};
pub use mp4::{Clip, Mp4Index, open_clip};
pub use new_file::NewFile;
pub use pack::Pack;
pub use path_text::{bytes_text, local_path, path_text};
pub use paths::{Created, FileInfo, StoredFile, is_key, is_name};
pub use process::{Process, host};
pub use receipt::{
    FilingOutcome, Provenance, Receipt, Reject, VideoRecord, are_filed, data_folder, file_receipt,
    find_receipts, parse_versioned, read_receipt, receipt_path,
};
pub use remote_file::RemoteFile;
pub use rollback::roll_back;
pub use schema::{Compression, DEVICE_KEY, FrameSize, LabelShape, PRECISION_KEY};
pub use shard::{ShardLayout, ShardWriter, VideoName};
pub use shard_reader::{EpisodeRun, Shard};
pub use shards::Shards;
pub use split::{Split, VideoFrames, VideoRank};
#[doc(hidden)]
pub use step_scheduler::StepScheduler;
pub use store::Store;
pub use table::{Column, table_name, table_sort, write_table};
pub use table_reader::{Table, read_columns, read_table};
pub use window::{Window, WindowIndex};

/// The format on disk: every file and field of a workspace.
#[doc = include_str!("format.md")]
pub mod format {}

/// The version of every file format of this module. Readers check it before anything else.
pub const FORMAT: u32 = 2;
