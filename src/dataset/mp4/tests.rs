//! Clips of a recorded game, and damaged files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::io::{Cursor, Read};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// A recorded game: 256 x 256 pixels, H.264.
fn recording() -> Vec<u8> {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/maze");
    std::fs::read(data.join("maze_1_000.mp4")).unwrap()
}

fn clip(first: u64, frames: u64) -> Clip {
    Clip { path: "a.mp4".into(), first, frames, fps: 15.0 }
}

fn read(bytes: &[u8], clip: &Clip) -> io::Result<Vec<u8>> {
    let mut file = Cursor::new(bytes);
    let index = Mp4Index::read(&mut file)?;
    let mut out = Vec::new();
    index.open(clip, file)?.read_to_end(&mut out)?;
    assert_eq!(out.len() as u64, index.clip_bytes(clip)?);
    Ok(out)
}

#[test]
fn a_clip_is_a_file_of_its_frames_and_the_same_in_any_file() {
    let bytes = recording();
    let index = Mp4Index::read(&mut Cursor::new(&bytes)).unwrap();
    let all = index.frames();
    for frame in 0..all {
        let seconds = index.seconds(frame).unwrap();
        assert!((seconds - frame as f64 / 15.0).abs() < 1e-4, "{frame}: {seconds}");
        assert_eq!((index.nearest(seconds), index.nearest(seconds + 0.02)), (frame, frame));
    }
    assert_eq!((index.nearest(-1.0), index.nearest(1e9)), (0, all - 1));
    let whole = read(&bytes, &clip(0, all)).unwrap();
    let again = Mp4Index::read(&mut Cursor::new(&whole)).unwrap();
    assert_eq!(again.frames(), all);
    assert!((again.seconds(all - 1).unwrap() - (all - 1) as f64 / 15.0).abs() < 1e-9);
    // The clip of a clip: what lies around the frames does not matter.
    assert!(read(&whole, &clip(0, all)).unwrap() == whole);
    for (first, frames) in [(0, 1), (0, all - 1), (all / 2, 3), (all - 1, 1)] {
        let part = read(&bytes, &clip(first, frames)).unwrap();
        assert!(read(&whole, &clip(first, frames)).unwrap() == part, "{first}, {frames}");
    }
    for (first, frames) in [(0, all + 1), (all, 1), (u64::MAX, 2), (1, u64::MAX), (0, 0)] {
        assert!(read(&bytes, &clip(first, frames)).is_err(), "{first}, {frames}");
    }
}

#[test]
fn seeking_reads_the_same_bytes() {
    let bytes = recording();
    let whole = read(&bytes, &clip(2, 5)).unwrap();
    let index = Mp4Index::read(&mut Cursor::new(&bytes)).unwrap();
    let mut file = index.open(&clip(2, 5), Cursor::new(&bytes)).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..200 {
        let from = rng.random_range(0..whole.len());
        let count = rng.random_range(0..=whole.len() - from);
        let mut out = vec![0; count];
        file.seek(SeekFrom::Start(from as u64)).unwrap();
        file.read_exact(&mut out).unwrap();
        assert!(out == whole[from..from + count], "{count} from {from}");
    }
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), whole.len() as u64);
    assert_eq!(file.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn damaged_tables_are_an_error_and_never_a_panic() {
    let bytes = recording();
    let tables = bytes.windows(4).position(|at| at == b"moov").unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut errors = 0;
    for _ in 0..3000 {
        let mut damaged = bytes.clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(tables..bytes.len());
            damaged[at] = rng.random();
        }
        if rng.random_range(0..10) == 0 {
            damaged.truncate(rng.random_range(0..bytes.len()));
        }
        let mut file = Cursor::new(&damaged);
        match Mp4Index::read(&mut file) {
            Err(_) => errors += 1,
            Ok(index) => {
                let all = clip(0, index.frames());
                if let Ok(mut opened) = index.open(&all, file) {
                    let _ = opened.read_to_end(&mut Vec::new());
                }
            }
        }
    }
    assert!(errors > 100, "{errors}");
    for other in [&b""[..], b"short", b"version https://git-lfs.github.com/spec/v1\n", &[0; 64]] {
        assert!(Mp4Index::read(&mut Cursor::new(other)).is_err());
    }
}
