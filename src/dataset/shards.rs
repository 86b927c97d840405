//! A dataset of any size is read at random in constant memory, however many shards it has and however large they are.
//!
//! In: the shards' paths. Out: [`Shards`], which knows every run of frames and copies any of them out. Start at [`Shards::open`].
//!
//! A small dataset is mapped, which is fastest. The frames of a large one are read from their place in the files, up to five times slower
//! where the files are many and each must be opened, still far faster than a network trains: of a map every page that was ever touched
//! counts as this process's memory, and a process may hold no more than some 65,000 maps. Shards that are compressed are opened whole, and
//! a few of them kept.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::io_error;
use super::error::Result;
use super::ipc::corrupt;
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
    paths: Vec<String>,
    places: Vec<Place>,
    frame_size: Option<FrameSize>,
    runs: Vec<Span>,
    episodes: usize,
    files: Mutex<Recent<File>>,
    whole: Mutex<Recent<Shard>>,
    /// All shards, where they are mapped; else none.
    mapped: Vec<Arc<Shard>>,
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
    /// Looks through all shards once, at all but their pixels.
    pub fn open(store: &Store, paths: Vec<String>) -> Result<Self> {
        let (mut ordinals, mut runs, mut places, mut frame_size) = (HashMap::new(), Vec::new(), Vec::new(), None);
        let (mut mapped, mut bytes, mut whole) = (Vec::new(), 0, Recent::default());
        for (number, path) in paths.iter().enumerate() {
            let shard = Arc::new(Shard::open(store, path)?);
            let (seen, expected) = (shard.frame_size(), *frame_size.get_or_insert(shard.frame_size()));
            if seen != expected {
                let FrameSize { height, width } = expected;
                let reason = format!("its frames are {} x {} pixels, those before are {height} x {width}", seen.height, seen.width);
                return Err(corrupt(path, reason));
            }
            for run in shard.episodes() {
                // An episode cut by a gap is several runs, and one episode all the same.
                let next = ordinals.len();
                let episode = *ordinals.entry((run.digest, run.episode)).or_insert(next);
                let [shard, first_row, frames, episode] = [number, run.first_row, run.len, episode].map(narrow);
                runs.push(Span { shard, first_row, frames, episode });
            }
            let (rows_per_batch, batches) = shard.pixels_in_place();
            let batches = batches.to_vec();
            bytes += pixel_bytes(&shard);
            let small = bytes <= MAPPED_BYTES && mapped.len() == number && !batches.is_empty();
            if batches.is_empty() {
                whole.get(number, WHOLE_BYTES, pixel_bytes, || Ok(shard.clone()))?;
            }
            places.push(Place { rows: shard.rows(), rows_per_batch, batches });
            if small {
                mapped.push(shard);
            } else {
                mapped.clear();
            }
        }
        let (store, episodes) = (store.clone(), ordinals.len());
        Ok(Self { store, paths, places, frame_size, runs, episodes, files: Mutex::default(), whole: Mutex::new(whole), mapped })
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
        assert!(first_row + count <= place.rows, "rows {first_row} to {} of {}", first_row + count, place.rows);
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
            file.read_exact_at(here, at).map_err(io_error("read", &self.paths[shard]))?;
            (row, rest) = (row + rows, after);
        }
        Ok(())
    }

    /// One shard, whole.
    pub fn shard(&self, number: usize) -> Result<Arc<Shard>> {
        match self.mapped.get(number) {
            Some(shard) => Ok(shard.clone()),
            None => {
                let open = || Shard::open(&self.store, &self.paths[number]).map(Arc::new);
                lock(&self.whole).get(number, WHOLE_BYTES, pixel_bytes, open)
            }
        }
    }

    pub(super) fn runs(&self) -> &[Span] {
        &self.runs
    }

    fn file(&self, number: usize) -> Result<Arc<File>> {
        lock(&self.files).get(number, FILES, |_| 1, || self.store.file(&self.paths[number]).map(Arc::new))
    }
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
    fn get(&mut self, number: usize, most: usize, weight: impl Fn(&T) -> usize, open: impl FnOnce() -> Result<Arc<T>>) -> Result<Arc<T>> {
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
    u32::try_from(count).expect("a shard has fewer than 2^32 rows, and a dataset fewer episodes and shards")
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
        let mut writer = ShardWriter::create(store, path, &ShardLayout { size: SIZE, compression, videos }).unwrap();
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
        let mut ways: Vec<Shards> = kinds.iter().map(|(path, _)| Shards::open(&store, vec![(*path).to_owned()]).unwrap()).collect();
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
        let layout = ShardLayout { size: FrameSize { height: 32, width: 32 }, compression: Compression::None, videos };
        let mut writer = ShardWriter::create(&store, "a/data/k1/a/s", &layout).unwrap();
        writer.begin_video(0).unwrap();
        writer.push(0, 0, 0.0, &[0; 32 * 32 * 3]).unwrap();
        writer.finish().unwrap();
        let error = Shards::open(&store, ["k0", "k1"].map(|key| format!("a/data/{key}/a/s")).to_vec()).unwrap_err().to_string();
        assert!(error.contains("a/data/k1/a/s") && error.contains("32 x 32") && error.contains("64 x 64"), "{error}");
    }
}
