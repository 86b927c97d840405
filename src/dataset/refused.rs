//! Entries that are listed and not read.
//!
//! In: what is odd about an entry of a folder, a bucket, a list or an archive. Out: a class and a reason with its cure, for a row of
//! `rejects`. An odd entry costs itself: it never ends the listing, and it is never passed over without a row.

use serde::{Deserialize, Serialize};

/// Why an entry is not read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The kind of fault, in a word for tables.
    pub class: EntryClass,
    /// What was seen, and what to do about it.
    pub reason: String,
}

impl Refused {
    /// Returns a refusal: what was seen, followed by the class' cure.
    #[must_use]
    pub fn new(class: EntryClass, seen: impl std::fmt::Display) -> Self {
        let cure = class.cure();
        Refused {
            class,
            reason: if cure.is_empty() { seen.to_string() } else { format!("{seen}; {cure}") },
        }
    }
}

/// Declares the classes: name in the code, name in tables, cure, and whether `max_rejected` counts it.
macro_rules! classes {
    ($($(#[$doc:meta])+ $class:ident = $name:literal, $cure:literal, $counts:literal;)+) => {
        /// The kinds of odd entries.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum EntryClass {
            $($(#[$doc])+ #[serde(rename = $name)] $class,)+
        }

        impl EntryClass {
            /// Every kind.
            pub const ALL: &[EntryClass] = &[$(EntryClass::$class),+];

            /// Returns the name in tables and receipts.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(EntryClass::$class => $name,)+ }
            }

            /// Returns what a person can do about it.
            #[must_use]
            pub fn cure(self) -> &'static str {
                match self { $(EntryClass::$class => $cure,)+ }
            }

            /// Returns whether `max_rejected` counts it: whether a video may be lost.
            #[must_use]
            pub fn is_counted(self) -> bool {
                match self { $(EntryClass::$class => $counts,)+ }
            }
        }
    };
}

classes! {
    /// It cannot be opened or listed.
    Unreadable = "unreadable", "", true;
    /// A folder that cannot be listed.
    UnreadableFolder = "unreadable_folder", "give yourself the right to list it, or write a pattern that leaves it out", false;
    /// A folder, pipe, socket or device.
    NotAFile = "not_a_file", "list the video files themselves", true;
    /// The file has no bytes.
    EmptyFile = "empty_file", "copy or download the file again", true;
    /// The key of an object that this program cannot address.
    OddKey = "odd_key", "copy the object to a key without empty parts, `.`, `..` and control characters", true;
    /// A row of a list that names no video, or says something of it that makes no sense.
    BadRow = "bad_row", "correct the row", true;
    /// An archive that is compressed, or of another kind than tar.
    CompressedArchive = "compressed_archive", "unpack it, or pack its videos as a plain `.tar`", true;
    /// An archive without anything to be read in it.
    EmptyArchive = "empty_archive", "pack the archive again, or leave it out of `videos`", true;
    /// An archive that breaks off, or is none.
    BrokenArchive = "broken_archive", "copy or download the archive again", true;
    /// A link in an archive to what is not a file in it.
    BrokenLink = "broken_link", "pack the file itself, as with `tar --dereference`", true;
    /// A member of an archive that is stored with holes.
    SparseMember = "sparse_member", "pack it without `--sparse`, or unpack the archive", true;
    /// A member of an archive whose place a later one of the same name takes.
    Replaced = "replaced", "", false;
    /// A member of an archive whose name begins with a dot.
    Hidden = "hidden", "give it another name if it is a video", false;
    /// The text file that Git LFS keeps in place of the video.
    GitLfsPointer = "git_lfs_pointer", "run `git lfs pull` where the file is", true;
}

/// Returns whether rejects of a class are left out of `max_rejected`: no video is lost by them.
#[must_use]
pub fn is_uncounted(class: &str) -> bool {
    EntryClass::ALL.iter().any(|known| known.as_str() == class && !known.is_counted())
}
