//! Tests on real files, made by the `ffmpeg` command.
//!
//! - `pictures` compares every pixel with ffmpeg's own output.
//! - `broken` decodes broken files and files of other kinds.
//! - `kinds` decodes intact files that look damaged, and damaged ones that look intact.
//! - `truth` compares several hundred generated videos with ffmpeg.
//!
//! Without an `ffmpeg` command the tests are skipped and print a line.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a skipped test is reported")]

mod broken;
mod kinds;
mod pictures;
mod truth;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DecodeOptions, Decoder, Error, FaultClass, Frame, Outcome};

/// Temporary folder of test videos.
struct Media {
    folder: tempfile::TempDir,
}

/// Result of decoding a whole file.
struct Decoded {
    pixels: Vec<Vec<u8>>,
    frames: Vec<Frame>,
    outcome: Outcome,
}

impl Media {
    /// Creates an empty folder, or returns `None` without an `ffmpeg` command.
    fn new() -> Option<Self> {
        if Command::new("ffmpeg").arg("-version").output().is_err() {
            eprintln!(
                "SKIPPED: making test videos needs the `ffmpeg` command, which was not found"
            );
            return None;
        }
        Some(Self { folder: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a file with `ffmpeg ARGUMENTS NAME`.
    fn make(&self, name: &str, arguments: &str) -> PathBuf {
        self.ffmpeg(&format!("{arguments} {name}"));
        self.path(name)
    }

    /// Makes a video of two seconds with moving pictures, at 30 frames per second.
    fn clip(&self, name: &str, encoding: &str) -> PathBuf {
        self.make(name, &format!("-f lavfi -i testsrc2=size=160x120:rate=30:duration=2 {encoding}"))
    }

    /// Copies a file's first bytes; `keep` is the share to keep.
    fn cut(&self, path: &Path, keep: f64, name: &str) -> PathBuf {
        let bytes = std::fs::read(path).unwrap();
        self.write(name, &bytes[..(bytes.len() as f64 * keep) as usize])
    }

    /// Copies a file and inverts every 4,000th byte of its second half.
    fn sprinkle(&self, path: &Path, name: &str) -> PathBuf {
        let mut bytes = std::fs::read(path).unwrap();
        let half = bytes.len() / 2;
        for byte in bytes[half..].iter_mut().step_by(4000) {
            *byte ^= 0xff;
        }
        self.write(name, &bytes)
    }

    /// Copies a file and damages 5,000 bytes in its middle.
    fn blot(&self, path: &Path, name: &str) -> PathBuf {
        let mut bytes = std::fs::read(path).unwrap();
        let half = bytes.len() / 2;
        for byte in &mut bytes[half..half + 5000] {
            *byte ^= 0x55;
        }
        self.write(name, &bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// Decodes a file with ffmpeg and a filter, and returns the frames as RGB.
    fn reference(
        &self,
        path: &Path,
        filter: &str,
        (width, height): (usize, usize),
    ) -> Vec<Vec<u8>> {
        // `passthrough` keeps every picture; the `fps` filter sets its own rate.
        let rate = if filter.contains("fps=") { "" } else { "-vsync passthrough" };
        let name = path.to_str().unwrap();
        self.ffmpeg(&format!(
            "-i {name} -map 0:V:0 -vf {filter} {rate} -pix_fmt rgb24 -f rawvideo out.rgb"
        ));
        let pixels = std::fs::read(self.path("out.rgb")).unwrap();
        pixels.chunks(width * height * 3).map(<[u8]>::to_vec).collect()
    }

    fn ffmpeg(&self, arguments: &str) {
        // Limits the memory of ffmpeg to about 4 GB.
        let script = format!("ulimit -v 4000000; exec ffmpeg -v error -y {arguments}");
        let run = Command::new("sh")
            .args(["-c", &script])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(run.status.success(), "{script}: {}", String::from_utf8_lossy(&run.stderr));
    }
}

fn decode(path: &Path, options: &DecodeOptions) -> Result<Decoded, Error> {
    let mut decoder = Decoder::open(path, options)?;
    let mut buffer = vec![0; options.frame_bytes()];
    let mut pixels = Vec::new();
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame(&mut buffer)? {
        pixels.push(buffer.clone());
        frames.push(frame);
    }
    Ok(Decoded { pixels, frames, outcome: decoder.finish() })
}

/// Decodes a file to 64 x 64. The file must open.
fn decoded(path: &Path) -> Decoded {
    decode(path, &DecodeOptions::new(64, 64)).unwrap()
}

/// Returns the fault of a file, found on opening or at the end.
fn fault(path: &Path) -> Option<FaultClass> {
    match decode(path, &DecodeOptions::new(64, 64)) {
        Ok(decoded) => decoded.outcome.fault.map(|fault| fault.class),
        Err(error) => Some(error.class().unwrap()),
    }
}
