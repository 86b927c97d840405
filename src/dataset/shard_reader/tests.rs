//! Tests of [`Shard`], and a shard for the tests of other modules.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
use super::super::faulty_store::faulty_store;
use super::super::{Compression, Error, ShardLayout, ShardWriter};
use super::*;

const SIZE: FrameSize = FrameSize { height: 8, width: 4 };
pub const PATH: &str = "frames/data/key/attempt/shard.arrow";

fn workspace() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    (folder, store)
}

fn pixels(video: usize, frame: u32) -> Vec<u8> {
    (0..SIZE.bytes()).map(|i| (video * 101 + frame as usize * 7 + i) as u8).collect()
}

/// Writes two videos of two episodes of 150 frames, with one frame missing in the last episode.
pub fn write(store: &Store, compression: Compression) -> crate::dataset::FileInfo {
    let names = [("films/a.mp4", "d0"), ("unread.mp4", "d1"), ("films/b.mp4", "d2")];
    let names = names.map(|(uri, digest)| VideoName { uri: uri.into(), digest: digest.into() });
    let layout = ShardLayout { size: SIZE, compression, videos: names.to_vec() };
    let mut writer = ShardWriter::create(store, PATH, &layout).unwrap();
    for video in [0, 2] {
        writer.begin_video(video).unwrap();
        for frame in (0..300).filter(|frame| (video, *frame) != (2, 200)) {
            writer
                .push(frame / 150, frame, f64::from(frame) / 15.0, &pixels(video, frame))
                .unwrap();
        }
    }
    writer.finish().unwrap()
}

#[test]
fn frames_come_back_as_they_were_with_and_without_compression() {
    for compression in [Compression::None, Compression::Zstd] {
        let (_folder, store) = workspace();
        let info = write(&store, compression);
        let shard = Shard::open(&store, PATH).unwrap();
        assert_eq!((shard.rows(), info.rows, shard.frame_size()), (599, 599, SIZE));
        assert_eq!((shard.video(0), shard.video_digest(0)), ("films/a.mp4", "d0"));
        assert_eq!((shard.video(300), shard.video_digest(598)), ("films/b.mp4", "d2"));
        assert_eq!(
            (shard.episode(449), shard.frame_index(449), shard.time_s(449)),
            (0, 149, 149.0 / 15.0)
        );
        for row in 0..300 {
            assert_eq!(shard.pixels(row), pixels(0, row as u32));
        }
        // One frame is missing, so the last of 600 frames is row 598.
        assert_eq!(shard.pixels(598), pixels(2, 299));
    }
}

#[test]
fn an_episode_with_a_gap_is_two_runs() {
    let (_folder, store) = workspace();
    write(&store, Compression::None);
    let runs = Shard::open(&store, PATH).unwrap().episodes();
    let shown: Vec<_> =
        runs.iter().map(|run| (&run.digest[..], run.episode, run.first_row, run.len)).collect();
    assert_eq!(
        shown,
        [
            ("d0", 0, 0, 150),
            ("d0", 1, 150, 150),
            ("d2", 0, 300, 150),
            ("d2", 1, 450, 50),
            ("d2", 1, 500, 99)
        ]
    );
}

#[test]
fn an_uncompressed_shard_is_read_in_place() {
    let (_folder, store) = workspace();
    write(&store, Compression::None);
    let file = store.map(PATH).unwrap();
    let shard = Shard::open(&store, PATH).unwrap();
    let needle = shard.pixels(77);
    let offset = file.windows(needle.len()).position(|bytes| bytes == needle).unwrap();
    // Two maps of one file have different addresses, but a byte has the same offset in its
    // page.
    assert_eq!((needle.as_ptr() as usize) % 4096, offset % 4096);
    // These three frames cross the end of the first batch of 256 rows.
    let mut out = vec![0; 3 * SIZE.bytes()];
    shard.copy(254, &mut out);
    assert_eq!(out, [254, 255, 256].map(|row| shard.pixels(row)).concat());
}

#[test]
fn the_same_frames_are_the_same_bytes() {
    let digests = [(); 3].map(|()| {
        let (_folder, store) = workspace();
        write(&store, Compression::None).blake3
    });
    assert!(digests.iter().all(|digest| *digest == digests[0]));
}

#[test]
fn a_frame_of_another_size_is_refused() {
    let (_folder, store) = workspace();
    let videos = vec![VideoName { uri: "a".into(), digest: "d".into() }];
    let layout = ShardLayout { size: SIZE, compression: Compression::None, videos };
    let mut writer = ShardWriter::create(&store, PATH, &layout).unwrap();
    assert!(writer.push(0, 0, 0.0, &pixels(0, 0)).is_err(), "no video was begun");
    assert!(writer.begin_video(1).is_err());
    writer.begin_video(0).unwrap();
    let error = writer.push(0, 0, 0.0, &[0; 5]).unwrap_err();
    assert!(error.to_string().contains("is 5, expected 96"), "{error}");
    drop(writer);
    assert!(store.list("frames").unwrap().is_empty(), "an unfinished shard leaves no file");
}

#[test]
fn a_damaged_file_gives_an_error_with_its_path_and_never_a_panic() {
    let store = faulty_store(&[]);
    write(&store, Compression::None);
    let whole = store.map(PATH).unwrap();
    // The schema is at the beginning, the footer at the end.
    let headers = (0..2048).chain(whole.len() - 4096..whole.len());
    let damaged = headers.step_by(3).map(|offset| {
        let mut bytes = whole.to_vec();
        bytes[offset] ^= 0x55;
        bytes
    });
    let truncated = (0..whole.len()).step_by(997).map(|len| whole[..len].to_vec());
    for (i, bytes) in damaged.chain(truncated).enumerate() {
        let path = format!("frames/data/key/bad{i}/shard.arrow");
        store.create(&path, &bytes).unwrap();
        let rows = Shard::open_rows(&store, &path, None);
        for error in [rows.err(), Shard::open(&store, &path).err()].into_iter().flatten() {
            assert!(error.to_string().contains(&path), "{error}");
        }
        store.delete_all(&format!("frames/data/key/bad{i}")).unwrap();
    }
    assert!(matches!(Shard::open(&store, "no/such/file"), Err(Error::Missing { .. })));
}
