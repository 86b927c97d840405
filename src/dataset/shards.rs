//! A dataset of any size is read at random in constant memory, however many shards it has and however large they are.
//!
//! In: the shards' paths. Out: [`Shards`], which knows every run of frames and copies any of them out. Start at [`Shards::open`].
//!
//! Opening reads everything but the pixels, many shards at once. Of an object store, a shard is copied when its pixels are first asked
//! for.
//!
//! A small dataset is mapped, which is fastest. The frames of a large one are read from their place in the files, up to five times slower
//! where the files are many and each must be opened, still far faster than a network trains: of a map every page that was ever touched
//! counts as this process's memory, and a process may hold no more than some 65,000 maps. Shards that are compressed are opened whole, and
//! a few of them kept.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rayon::prelude::*;

use super::error::{Result, io_error};
use super::frame_rows::AT_ONCE;
use super::ipc::corrupt;
use super::place::FileInfo;
use super::schema::FrameSize;
use super::shard_reader::Shard;
use super::store::Store;

/// Files kept open: twice this, of the 1024 a process may have by default.
const FILES: usize = 256;
/// Bytes of whole shards kept: twice this, and at least two shards.
const WHOLE_BYTES: usize = 256 << 20;
/// A dataset up to this many bytes is mapped.
const MAPPED_BYTES: usize = 1 << 30;

/// The shards of a dataset, in its order.
#[derive(Debug)]
pub struct Shards {
    store: Store,
    sources: Vec<Source>,
    places: Vec<Place>,
    frame_size: Option<FrameSize>,
    runs: Vec<Span>,
    episodes: usize,
    files: Mutex<Recent<File>>,
    whole: Mutex<Recent<Shard>>,
    /// All shards, if they are to be mapped; else none.
    mapped: Vec<OnceLock<Arc<Shard>>>,
    /// Held while a shard is mapped, so that none is copied twice.
    mapping: Mutex<()>,
}

/// A shard's file.
#[derive(Debug)]
enum Source {
    Path(String),
    /// As its receipt describes it.
    File(FileInfo),
}

impl Source {
    fn path(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::File(info) => &info.path,
        }
    }

    fn info(&self) -> Option<&FileInfo> {
        match self {
            Self::Path(_) => None,
            Self::File(info) => Some(info),
        }
    }

    fn open(&self, store: &Store) -> Result<Arc<Shard>> {
        match self {
            Self::Path(path) => Shard::open(store, path),
            Self::File(info) => Shard::open_file(store, info),
        }
        .map(Arc::new)
    }
}

/// Frames of one episode that follow each other with no gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub shard: u32,
    pub first_row: u32,
    pub frames: u32,
    /// Episodes are numbered as they first appear.
    pub episode: u32,
}

/// Where a shard's pixels are: batch after batch, of so many rows each but the last.
#[derive(Debug)]
struct Place {
    rows: usize,
    rows_per_batch: usize,
    /// Where each batch's pixels begin in the file; empty if the shard must be opened whole.
    batches: Vec<u64>,
}

impl Shards {
    /// Opens the shards at `paths`: reads all of them but their pixels.
    pub fn open(store: &Store, paths: Vec<String>) -> Result<Self> {
        Self::open_sources(store, paths.into_iter().map(Source::Path).collect())
    }

    /// Opens shards as [`Shards::open`] does; each must have the size that its receipt says.
    pub fn open_files(store: &Store, files: &[FileInfo]) -> Result<Self> {
        Self::open_sources(store, files.iter().cloned().map(Source::File).collect())
    }

    fn open_sources(store: &Store, sources: Vec<Source>) -> Result<Self> {
        let (mut ordinals, mut runs, mut places, mut frame_size) =
            (HashMap::new(), Vec::new(), Vec::new(), None);
        let (mut bytes, mut number) = (0, 0);
        for some in sources.chunks(AT_ONCE) {
            let open = |source: &Source| {
                let shard = Shard::open_rows(store, source.path(), source.info())?;
                Ok((shard.episodes(), shard.frame_size(), Place::of(&shard)))
            };
            let opened: Vec<Result<_>> = some.par_iter().map(open).collect();
            for (source, opened) in some.iter().zip(opened) {
                let (episodes, size, place) = opened?;
                check_size(source.path(), size, *frame_size.get_or_insert(size))?;
                for run in episodes {
                    // An episode cut by a gap is several runs, and one episode all the same.
                    let next = ordinals.len();
                    let episode = *ordinals.entry((run.digest, run.episode)).or_insert(next);
                    let [shard, first_row, frames, episode] =
                        [number, run.first_row, run.len, episode].map(narrow);
                    runs.push(Span { shard, first_row, frames, episode });
                }
                bytes += place.rows * size.bytes();
                places.push(place);
                number += 1;
            }
        }
        let is_small =
            bytes <= MAPPED_BYTES && places.iter().all(|place| !place.batches.is_empty());
        let mapped = (0..if is_small { number } else { 0 }).map(|_| OnceLock::new()).collect();
        let (store, episodes, mapping) = (store.clone(), ordinals.len(), Mutex::default());
        let (files, whole) = (Mutex::default(), Mutex::default());
        Ok(Self {
            store,
            sources,
            places,
            frame_size,
            runs,
            episodes,
            files,
            whole,
            mapped,
            mapping,
        })
    }

    /// The size of every frame; none where there is no shard.
    #[must_use]
    pub fn frame_size(&self) -> Option<FrameSize> {
        self.frame_size
    }

    /// How many episodes there are.
    #[must_use]
    pub fn episodes(&self) -> usize {
        self.episodes
    }

    /// Copies the frames of consecutive rows to `out`, as many as it has room for.
    ///
    /// # Panics
    /// If there are not so many shards or rows.
    pub fn copy(&self, shard: usize, first_row: usize, out: &mut [u8]) -> Result<()> {
        let (place, bytes) = (&self.places[shard], self.frame_size.map_or(1, |size| size.bytes()));
        let count = out.len() / bytes;
        assert!(
            first_row + count <= place.rows,
            "rows {first_row} to {} of {}",
            first_row + count,
            place.rows
        );
        if place.batches.is_empty() || !self.mapped.is_empty() {
            self.shard(shard)?.copy(first_row, out);
            return Ok(());
        }
        let file = self.file(shard)?;
        let (mut row, mut rest) = (first_row, out);
        while !rest.is_empty() {
            let (batch, within) = (row / place.rows_per_batch, row % place.rows_per_batch);
            let rows = (place.rows_per_batch - within).min(rest.len() / bytes);
            let (here, after) = rest.split_at_mut(rows * bytes);
            let at = place.batches[batch] + (within * bytes) as u64;
            file.read_exact_at(here, at).map_err(io_error("read", self.sources[shard].path()))?;
            (row, rest) = (row + rows, after);
        }
        Ok(())
    }

    /// Returns one shard, whole.
    pub fn shard(&self, number: usize) -> Result<Arc<Shard>> {
        let open = || self.sources[number].open(&self.store);
        let Some(mapped) = self.mapped.get(number) else {
            return lock(&self.whole).get(number, WHOLE_BYTES, pixel_bytes, open);
        };
        if let Some(shard) = mapped.get() {
            return Ok(shard.clone());
        }
        let _alone = lock(&self.mapping);
        match mapped.get() {
            Some(shard) => Ok(shard.clone()),
            None => open().map(|shard| mapped.get_or_init(|| shard).clone()),
        }
    }

    pub(super) fn runs(&self) -> &[Span] {
        &self.runs
    }

    fn file(&self, number: usize) -> Result<Arc<File>> {
        let source = &self.sources[number];
        lock(&self.files).get(
            number,
            FILES,
            |_| 1,
            || self.store.file_of(source.path(), source.info()).map(Arc::new),
        )
    }
}

impl Place {
    fn of(shard: &Shard) -> Self {
        let (rows_per_batch, batches) = shard.pixels_in_place();
        Self { rows: shard.rows(), rows_per_batch, batches: batches.to_vec() }
    }
}

/// Checks that a shard's frames have the size of those before.
fn check_size(path: &str, found: FrameSize, expected: FrameSize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let FrameSize { height, width } = expected;
    Err(corrupt(
        path,
        format!(
            "its frames are {} x {} pixels, those before are {height} x {width}",
            found.height, found.width
        ),
    ))
}

fn pixel_bytes(shard: &Shard) -> usize {
    shard.rows() * shard.frame_size().bytes()
}

/// What was lately used, in two generations: when the newer is full, the older goes.
#[derive(Debug)]
struct Recent<T> {
    newer: HashMap<usize, Arc<T>>,
    older: HashMap<usize, Arc<T>>,
    weight: usize,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Recent { newer: HashMap::new(), older: HashMap::new(), weight: 0 }
    }
}

impl<T> Recent<T> {
    fn get(
        &mut self,
        number: usize,
        most: usize,
        weight: impl Fn(&T) -> usize,
        open: impl FnOnce() -> Result<Arc<T>>,
    ) -> Result<Arc<T>> {
        if let Some(found) = self.newer.get(&number) {
            return Ok(found.clone());
        }
        let found = match self.older.remove(&number) {
            Some(found) => found,
            None => open()?,
        };
        if self.weight >= most {
            self.older = std::mem::take(&mut self.newer);
            self.weight = 0;
        }
        self.weight += weight(&found);
        self.newer.insert(number, found.clone());
        Ok(found)
    }
}

/// What a thread that panicked left is whole: what is kept of what was opened.
fn lock<T>(recent: &Mutex<T>) -> MutexGuard<'_, T> {
    recent.lock().unwrap_or_else(PoisonError::into_inner)
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count)
        .expect("a shard has fewer than 2^32 rows, and a dataset fewer episodes and shards")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use super::super::{Compression, ShardLayout, ShardWriter, VideoName};
    use super::*;

    const SIZE: FrameSize = FrameSize { height: 64, width: 64 };

    /// A shard of one episode; each frame's first bytes are its number.
    fn write(store: &Store, path: &str, compression: Compression, frames: u32) {
        let videos = vec![VideoName { uri: path.into(), digest: path.into() }];
        let mut writer =
            ShardWriter::create(store, path, &ShardLayout { size: SIZE, compression, videos })
                .unwrap();
        writer.begin_video(0).unwrap();
        for i in 0..frames {
            let mut pixels = vec![i as u8; SIZE.bytes()];
            pixels[..4].copy_from_slice(&i.to_le_bytes());
            writer.push(0, i, 0.0, &pixels).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn mapped_read_and_decompressed_frames_are_alike() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        let kinds = [("a/data/k0/a/s", Compression::None), ("a/data/k1/a/s", Compression::Zstd)];
        kinds.iter().for_each(|(path, kind)| write(&store, path, *kind, 700));
        let mut ways: Vec<Shards> = kinds
            .iter()
            .map(|(path, _)| Shards::open(&store, vec![(*path).to_owned()]).unwrap())
            .collect();
        ways.push(Shards::open(&store, vec!["a/data/k0/a/s".into()]).unwrap());
        ways[2].mapped.clear();
        assert_eq!(ways.iter().map(|shards| shards.mapped.len()).collect::<Vec<_>>(), [1, 0, 0]);
        for (first, count) in [(0, 1), (0, 700), (63, 2), (250, 400), (699, 1)] {
            let copies = ways.iter().map(|shards| {
                let mut out = vec![0; count * SIZE.bytes()];
                shards.copy(0, first, &mut out).unwrap();
                out
            });
            let copies: Vec<_> = copies.collect();
            assert!(copies.iter().all(|copy| copy == &copies[0]), "{count} from {first}");
            let number = |frame: &[u8]| u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize;
            assert!(copies[0].chunks_exact(SIZE.bytes()).map(number).eq(first..first + count));
        }
    }

    #[test]
    fn what_was_not_used_lately_is_let_go() {
        let mut recent = Recent::default();
        for number in 0..1000 {
            recent.get(number, 10, |_| 1, || Ok(Arc::new(number))).unwrap();
            assert!(recent.newer.len() + recent.older.len() <= 20);
            recent.get(3, 10, |_| 1, || Ok(Arc::new(3))).unwrap();
        }
        assert_eq!(*recent.get(3, 10, |_| 1, || unreachable!("it was used just now")).unwrap(), 3);
    }

    #[test]
    fn frames_of_another_size_name_the_shard() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        write(&store, "a/data/k0/a/s", Compression::None, 3);
        let videos = vec![VideoName { uri: "v".into(), digest: "v".into() }];
        let layout = ShardLayout {
            size: FrameSize { height: 32, width: 32 },
            compression: Compression::None,
            videos,
        };
        let mut writer = ShardWriter::create(&store, "a/data/k1/a/s", &layout).unwrap();
        writer.begin_video(0).unwrap();
        writer.push(0, 0, 0.0, &[0; 32 * 32 * 3]).unwrap();
        writer.finish().unwrap();
        let error =
            Shards::open(&store, ["k0", "k1"].map(|key| format!("a/data/{key}/a/s")).to_vec())
                .unwrap_err()
                .to_string();
        assert!(
            error.contains("a/data/k1/a/s")
                && error.contains("32 x 32")
                && error.contains("64 x 64"),
            "{error}"
        );
    }
}
