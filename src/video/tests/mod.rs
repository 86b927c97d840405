//! Real files, made by the ffmpeg command line, go through the whole room.
//!
//! `pictures` holds every pixel against what ffmpeg itself decodes; `broken` feeds it everything
//! that is not a good video. Without an `ffmpeg` on the path the tests say so and skip.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stderr, reason = "a test says what it skips")]

mod broken;
mod kinds;
mod pictures;
mod truth;

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DecodeOptions, Decoder, Error, FaultClass, Frame, Outcome};

/// A folder of test videos that vanishes with the test.
struct Media {
    folder: tempfile::TempDir,
}

/// A file decoded to its end.
struct Decoded {
    pixels: Vec<Vec<u8>>,
    frames: Vec<Frame>,
    outcome: Outcome,
}

impl Media {
    /// An empty folder, or nothing where there is no ffmpeg to fill it.
    fn new() -> Option<Self> {
        if Command::new("ffmpeg").arg("-version").output().is_err() {
            eprintln!(
                "SKIPPED: there is no `ffmpeg` command on this machine to make test videos with"
            );
            return None;
        }
        Some(Self { folder: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a file with `ffmpeg ARGUMENTS NAME`, the arguments split at spaces.
    fn make(&self, name: &str, arguments: &str) -> PathBuf {
        self.ffmpeg(&format!("{arguments} {name}"));
        self.path(name)
    }

    /// Two seconds of moving pictures, encoded as the arguments say.
    fn clip(&self, name: &str, encoding: &str) -> PathBuf {
        self.make(name, &format!("-f lavfi -i testsrc2=size=160x120:rate=30:duration=2 {encoding}"))
    }

    /// A copy of a file's first `keep` of its bytes.
    fn cut(&self, path: &Path, keep: f64, name: &str) -> PathBuf {
        let bytes = std::fs::read(path).unwrap();
        self.write(name, &bytes[..(bytes.len() as f64 * keep) as usize])
    }

    /// A copy of a file with every 4000th byte of its second half turned over.
    fn sprinkle(&self, path: &Path, name: &str) -> PathBuf {
        let mut bytes = std::fs::read(path).unwrap();
        let half = bytes.len() / 2;
        bytes[half..].iter_mut().step_by(4000).for_each(|byte| *byte ^= 0xff);
        self.write(name, &bytes)
    }

    /// A copy of a file with 5000 bytes in its middle made unreadable.
    fn blot(&self, path: &Path, name: &str) -> PathBuf {
        let mut bytes = std::fs::read(path).unwrap();
        let half = bytes.len() / 2;
        bytes[half..half + 5000].iter_mut().for_each(|byte| *byte ^= 0x55);
        self.write(name, &bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// The frames ffmpeg itself makes of a file with a filter, as RGB.
    fn reference(
        &self,
        path: &Path,
        filter: &str,
        (width, height): (usize, usize),
    ) -> Vec<Vec<u8>> {
        let rate = if filter.contains("fps=") { "" } else { "-vsync passthrough" };
        let name = path.to_str().unwrap();
        self.ffmpeg(&format!(
            "-i {name} -map 0:V:0 -vf {filter} {rate} -pix_fmt rgb24 -f rawvideo out.rgb"
        ));
        let pixels = std::fs::read(self.path("out.rgb")).unwrap();
        pixels.chunks(width * height * 3).map(<[u8]>::to_vec).collect()
    }

    fn ffmpeg(&self, arguments: &str) {
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
    let (mut pixels, mut frames) = (Vec::new(), Vec::new());
    while let Some(frame) = decoder.next_frame(&mut buffer)? {
        pixels.push(buffer.clone());
        frames.push(frame);
    }
    Ok(Decoded { pixels, frames, outcome: decoder.finish() })
}

/// Decodes to 64 x 64 and expects the file to open.
fn decoded(path: &Path) -> Decoded {
    decode(path, &DecodeOptions::new(64, 64)).unwrap()
}

/// The fault of a file, whether it is met on opening or after the last frame.
fn fault(path: &Path) -> Option<FaultClass> {
    match decode(path, &DecodeOptions::new(64, 64)) {
        Ok(decoded) => decoded.outcome.fault.map(|fault| fault.class),
        Err(error) => Some(error.class().unwrap()),
    }
}
