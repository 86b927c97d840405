//! Frame rows: the columns of shards without pixels. Start at [`read_all_frame_rows`]. No pixels
//! are read, neither from disk nor from an object store.

use rayon::prelude::*;

use super::error::Result;
use super::shard::VideoName;
use super::shard_reader::Shard;
use super::store::Store;

/// The number of shards read concurrently.
pub(super) const AT_ONCE: usize = 64;

/// The rows of shards without pixels, column by column.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FrameRows {
    /// The videos, each once.
    pub videos: Vec<VideoName>,
    /// The index of each frame's video in `videos`.
    pub video: Vec<u32>,
    /// The number of each frame's episode within the video.
    pub episode: Vec<u32>,
    /// Each frame's index within the video.
    pub frame_index: Vec<u32>,
    /// Each frame's time within the video, in seconds.
    pub time_s: Vec<f64>,
}

/// Adds a shard's rows to `rows`. Pixels are not read.
pub fn read_frame_rows(store: &Store, path: &str, rows: &mut FrameRows) -> Result<()> {
    Shard::open_rows(store, path, None).map(|shard| rows.extend(&shard))
}

/// Adds the rows of many shards to `rows`, in order. Shards are read in parallel, and pixels are
/// not read.
pub fn read_all_frame_rows(store: &Store, paths: &[String], rows: &mut FrameRows) -> Result<()> {
    for paths in paths.chunks(AT_ONCE) {
        let shards: Vec<Result<Shard>> =
            paths.par_iter().map(|path| Shard::open_rows(store, path, None)).collect();
        for shard in shards {
            rows.extend(&shard?);
        }
    }
    Ok(())
}

impl FrameRows {
    fn extend(&mut self, shard: &Shard) {
        // Video indices of the shard continue after the videos of earlier shards.
        let first = self.videos.len();
        self.videos.extend_from_slice(shard.videos());
        for batch in shard.batches() {
            let place = |&video: &i32| {
                u32::try_from(first + video as usize).expect("fewer than 2^32 videos")
            };
            self.video.extend(batch.video.iter().map(place));
            self.episode.extend_from_slice(&batch.episode);
            self.frame_index.extend_from_slice(&batch.frame_index);
            self.time_s.extend_from_slice(&batch.time_s);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]
    use std::sync::atomic::Ordering;

    use super::super::faulty_store::metered_store;
    use super::super::shard_reader::tests::{PATH, write};
    use super::super::{Compression, FrameSize, ShardLayout, ShardWriter, Shards};
    use super::*;

    #[test]
    fn frame_rows_equal_the_rows_of_the_shard() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        write(&store, Compression::Zstd);
        let shard = Shard::open(&store, PATH).unwrap();
        let mut rows = FrameRows::default();
        read_frame_rows(&store, PATH, &mut rows).unwrap();
        read_frame_rows(&store, PATH, &mut rows).unwrap();
        let mut at_once = FrameRows::default();
        read_all_frame_rows(&store, &[PATH.to_owned(), PATH.to_owned()], &mut at_once).unwrap();
        assert!(rows == at_once);
        assert_eq!(rows.video.len(), 2 * 599);
        for (twice, row) in (0..599).chain(0..599).enumerate() {
            assert_eq!(rows.videos[rows.video[twice] as usize].digest, shard.video_digest(row));
            assert_eq!(rows.frame_index[twice], shard.frame_index(row));
        }
    }

    #[test]
    fn reading_rows_from_an_object_store_fetches_no_pixels() {
        for compression in [Compression::None, Compression::Zstd] {
            let (store, read) = metered_store();
            let names = vec![VideoName { uri: "a.mp4".into(), digest: "d".into() }];
            let size = FrameSize { height: 64, width: 64 };
            let mut writer = ShardWriter::create(
                &store,
                PATH,
                &ShardLayout { size, compression, videos: names },
            )
            .unwrap();
            writer.begin_video(0).unwrap();
            let mut noise = 1_u64;
            let mut pixel = || {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 33) as u8
            };
            for frame in 0..1000 {
                let pixels: Vec<u8> = (0..size.bytes()).map(|_| pixel()).collect();
                writer.push(frame / 100, frame, f64::from(frame), &pixels).unwrap();
            }
            let info = writer.finish().unwrap();
            store.forget_copy(PATH).unwrap();
            let mut rows = FrameRows::default();
            read_frame_rows(&store, PATH, &mut rows).unwrap();
            assert_eq!(rows.frame_index, (0..1000).collect::<Vec<u32>>());
            let for_rows = read.swap(0, Ordering::Relaxed);
            let shards = Shards::open_files(&store, std::slice::from_ref(&info)).unwrap();
            let for_shards = read.swap(0, Ordering::Relaxed);
            assert_eq!((shards.episodes(), shards.frame_size()), (10, Some(size)));
            for bytes in [for_rows, for_shards] {
                assert!(bytes > 0 && bytes * 200 < info.bytes, "{bytes} of {} bytes", info.bytes);
            }
            // Pixels are fetched on first use.
            let mut out = vec![0; 2 * size.bytes()];
            shards.copy(0, 700, &mut out).unwrap();
            let shard = Shard::open_file(&store, &info).unwrap();
            assert!(out == [shard.pixels(700), shard.pixels(701)].concat());
            assert_eq!(
                read.load(Ordering::Relaxed),
                info.bytes,
                "fetched once, then read from the local copy"
            );
        }
    }
}
