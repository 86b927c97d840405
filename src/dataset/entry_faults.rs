//! Faults of listed entries: why an entry of a folder, bucket, list or archive is not read.
//!
//! Each fault has a class and a reason with a cure, and becomes a row of `rejects`. A faulty entry
//! never ends the listing, and is never skipped without a row.

use serde::{Deserialize, Serialize};

/// The fault of an entry that is not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryFault {
    /// The class of the fault.
    pub class: EntryClass,
    /// The observation, followed by the cure.
    pub reason: String,
}

impl EntryFault {
    /// Creates a fault. The reason is `seen`, followed by the cure of the class.
    #[must_use]
    pub fn new(class: EntryClass, seen: impl std::fmt::Display) -> Self {
        let cure = class.cure();
        EntryFault {
            class,
            reason: if cure.is_empty() { seen.to_string() } else { format!("{seen}; {cure}") },
        }
    }
}

/// Declares the classes: name in the code, name in tables, cure, and whether `max_rejected` counts
/// it.
macro_rules! classes {
    ($($(#[$doc:meta])+ $class:ident = $name:literal, $cure:literal, $counts:literal;)+) => {
        /// The classes of faulty entries.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum EntryClass {
            $($(#[$doc])+ #[serde(rename = $name)] $class,)+
        }

        impl EntryClass {
            /// Every class.
            pub const ALL: &[EntryClass] = &[$(EntryClass::$class),+];

            /// Returns the name in tables and receipts.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(EntryClass::$class => $name,)+ }
            }

            /// Returns the cure, or an empty text.
            #[must_use]
            pub fn cure(self) -> &'static str {
                match self { $(EntryClass::$class => $cure,)+ }
            }

            /// Returns whether `max_rejected` counts the class, because a video may be lost.
            #[must_use]
            pub fn is_counted(self) -> bool {
                match self { $(EntryClass::$class => $counts,)+ }
            }
        }
    };
}

classes! {
    /// A file that cannot be opened or listed.
    Unreadable = "unreadable", "", true;
    /// A folder that cannot be listed.
    UnreadableFolder = "unreadable_folder",
        "give yourself the right to list it, or write a pattern that leaves it out", false;
    /// A folder, pipe, socket or device.
    NotAFile = "not_a_file", "list the video files themselves", true;
    /// A file of zero bytes.
    EmptyFile = "empty_file", "copy or download the file again", true;
    /// An object with a key outside the rules of this program.
    OddKey = "odd_key",
        "copy the object to a key without empty parts, `.`, `..` and control characters", true;
    /// An MP4 file of a LeRobot dataset that does not exist.
    MissingVideo = "missing_video",
        "copy the whole dataset, such as with `huggingface-cli download`", true;
    /// An episode of a LeRobot dataset whose frames are not where or as the dataset says.
    BadEpisode = "bad_episode", "", true;
    /// A row of a list without a video, or with an invalid value.
    BadRow = "bad_row", "correct the row", true;
    /// A compressed archive, or one of another kind than tar.
    CompressedArchive = "compressed_archive",
        "unpack it, or pack its videos as a plain `.tar`", true;
    /// An archive without readable members.
    EmptyArchive = "empty_archive", "pack the archive again, or leave it out of `videos`", true;
    /// A truncated or invalid archive.
    BrokenArchive = "broken_archive", "copy or download the archive again", true;
    /// A link in an archive without a target file in it.
    BrokenLink = "broken_link", "pack the file itself, as with `tar --dereference`", true;
    /// A sparse member of an archive: stored with holes.
    SparseMember = "sparse_member", "pack it without `--sparse`, or unpack the archive", true;
    /// A member of an archive, replaced by a later one of the same name.
    Replaced = "replaced", "", false;
    /// A member of an archive with a name that begins with a dot.
    Hidden = "hidden", "give it another name if it is a video", false;
    /// A text file from Git LFS in place of the video.
    GitLfsPointer = "git_lfs_pointer", "run `git lfs pull` where the file is", true;
}

/// Returns whether `max_rejected` ignores rejects of a class, because no video is lost.
#[must_use]
pub fn is_uncounted(class: &str) -> bool {
    EntryClass::ALL.iter().any(|known| known.as_str() == class && !known.is_counted())
}
