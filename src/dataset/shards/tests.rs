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
fn stacks_repeat_the_first_frame_and_never_cross_an_episode_or_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let size = FrameSize { height: 1, width: 1 };
    // Video, episode and frame of each row, by shard.
    let rows = [
        vec![(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 1, 4), (0, 1, 5), (1, 0, 0)],
        vec![(0, 0, 7), (0, 0, 8), (0, 0, 10), (0, 0, 11)],
    ];
    let mut paths = vec![];
    for (shard, rows) in rows.iter().enumerate() {
        let path = format!("a/data/k{shard}/a/s");
        let video = |i| VideoName { uri: format!("{shard}{i}"), digest: format!("{shard}{i}") };
        let videos = (0..2).map(video).collect();
        let layout = ShardLayout { size, compression: Compression::None, videos };
        let mut writer = ShardWriter::create(&store, &path, &layout).unwrap();
        for (at, (video, episode, frame)) in rows.iter().enumerate() {
            if at == 0 || rows[at - 1].0 != *video {
                writer.begin_video(*video).unwrap();
            }
            writer.push(*episode, *frame, 0.0, &[shard as u8, at as u8, 0]).unwrap();
        }
        writer.finish().unwrap();
        paths.push(path);
    }
    let shards = Shards::open(&store, paths).unwrap();
    let stack = |shard: usize, row: usize, frames: usize| -> Vec<u8> {
        let mut out = vec![9; frames * 3];
        shards.copy_stack(shard, row, &mut out).unwrap();
        assert!(out.iter().step_by(3).all(|seen| *seen == shard as u8));
        out.iter().skip(1).step_by(3).copied().collect()
    };
    assert_eq!(stack(0, 3, 3), [1, 2, 3]);
    assert_eq!(stack(0, 1, 4), [0, 0, 0, 1]);
    assert_eq!(stack(0, 3, 8), [0, 0, 0, 0, 0, 1, 2, 3]);
    assert_eq!(stack(0, 5, 4), [4, 4, 4, 5]);
    assert_eq!(stack(0, 6, 2), [6, 6]);
    assert_eq!(stack(1, 0, 2), [0, 0]);
    assert_eq!(stack(1, 3, 3), [2, 2, 3]);
    assert_eq!(stack(1, 2, 1), [2]);
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
