//! Tests of [`Shards`].

#![expect(clippy::unwrap_used, reason = "a test may panic")]
use super::super::{Compression, ShardLayout, ShardWriter, VideoName};
use super::*;

const SIZE: FrameSize = FrameSize { height: 64, width: 64 };

/// Writes a shard of one episode. Each frame begins with its number.
fn write(store: &Store, path: &str, compression: Compression, frames: u32) {
    let videos = vec![VideoName { uri: path.into(), digest: path.into() }];
    let mut writer =
        ShardWriter::create(store, path, &ShardLayout { size: SIZE, compression, videos }).unwrap();
    writer.begin_video(0).unwrap();
    for i in 0..frames {
        let mut pixels = vec![i as u8; SIZE.bytes()];
        pixels[..4].copy_from_slice(&i.to_le_bytes());
        writer.push(0, i, 0.0, &pixels).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn mapped_read_and_decompressed_frames_are_equal() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let kinds = [("a/data/k0/a/s", Compression::None), ("a/data/k1/a/s", Compression::Zstd)];
    for (path, kind) in kinds {
        write(&store, path, kind, 700);
    }
    let mut ways: Vec<Shards> = kinds
        .iter()
        .map(|(path, _)| Shards::open(&store, vec![(*path).to_owned()]).unwrap())
        .collect();
    // Without slots for maps, a small dataset is read like a large one.
    ways.push(Shards::open(&store, vec!["a/data/k0/a/s".into()]).unwrap());
    ways[2].mapped.clear();
    assert_eq!(ways.iter().map(|shards| shards.mapped.len()).collect::<Vec<_>>(), [1, 0, 0]);
    // First row and number of rows: within a batch of 256 rows, and across batches.
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
fn the_cache_drops_values_that_are_not_used() {
    let mut recent = RecentCache::default();
    for number in 0..1000 {
        recent.get(number, 10, |_| 1, || Ok(Arc::new(number))).unwrap();
        assert!(recent.newer.len() + recent.older.len() <= 20);
        // Used all the time, so it must stay.
        recent.get(3, 10, |_| 1, || Ok(Arc::new(3))).unwrap();
    }
    assert_eq!(*recent.get(3, 10, |_| 1, || unreachable!("it was used just now")).unwrap(), 3);
}

#[test]
fn the_error_for_another_frame_size_names_the_shard() {
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
    let error = Shards::open(&store, ["k0", "k1"].map(|key| format!("a/data/{key}/a/s")).to_vec())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("a/data/k1/a/s") && error.contains("32 x 32") && error.contains("64 x 64"),
        "{error}"
    );
}
