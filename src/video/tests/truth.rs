//! Compares several hundred generated videos with the output of the ffmpeg command.
//!
//! The number of frames, their times and their pixels must agree, with any number of threads.
//! Frames after known damage must keep their position in the intact video.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::*;
use crate::video::UNPLACED;

/// Containers and codecs: file name and encoder options. `{g}` is the distance of key frames.
const ENCODINGS: &[(&str, &str)] = &[
    ("h264.mp4", "-c:v libx264 -preset veryfast -bf 0 -g {g}"),
    ("h264_b.mp4", "-c:v libx264 -preset veryfast -bf 3 -g {g}"),
    ("h264_open.mp4", "-c:v libx264 -preset veryfast -bf 2 -x264-params open-gop=1 -g {g}"),
    ("h264_b.mov", "-c:v libx264 -preset veryfast -bf 2 -g {g}"),
    ("h264_b.mkv", "-c:v libx264 -preset veryfast -bf 2 -g {g}"),
    ("h264_b.ts", "-c:v libx264 -preset veryfast -bf 2 -g {g}"),
    ("h264_open.ts", "-c:v libx264 -preset veryfast -bf 2 -x264-params open-gop=1 -g {g}"),
    ("h264.flv", "-c:v libx264 -preset veryfast -bf 2 -g {g}"),
    ("h264.avi", "-c:v libx264 -preset veryfast -bf 0 -g {g}"),
    (
        "h264_fragments.mp4",
        "-c:v libx264 -preset veryfast -bf 2 -g {g} -movflags +frag_keyframe+empty_moov",
    ),
    ("h264_422.mkv", "-c:v libx264 -preset veryfast -pix_fmt yuv422p10le -g {g}"),
    ("h264_444.mp4", "-c:v libx264 -preset veryfast -pix_fmt yuv444p -g {g}"),
    ("h264_rgb.mkv", "-c:v libx264rgb -preset veryfast -g {g}"),
    ("h264_grey.mp4", "-c:v libx264 -preset veryfast -pix_fmt gray -g {g}"),
    ("h264_full.mp4", "-c:v libx264 -preset veryfast -pix_fmt yuvj420p -g {g}"),
    ("hevc.mp4", "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=0 -g {g}"),
    (
        "hevc_b.mp4",
        "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=3:open-gop=0 -g {g}",
    ),
    (
        "hevc_open.mkv",
        "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=3:open-gop=1 -g {g}",
    ),
    (
        "hevc_b.ts",
        "-c:v libx265 -preset ultrafast -x265-params log-level=none:bframes=2:open-gop=0 -g {g}",
    ),
    ("vp8.webm", "-c:v libvpx -cpu-used 8 -deadline realtime -g {g}"),
    (
        "vp8_hidden.webm",
        "-c:v libvpx -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 8 -arnr-maxframes 5 -g {g}",
    ),
    ("vp9.webm", "-c:v libvpx-vp9 -cpu-used 8 -deadline realtime -g {g}"),
    ("vp9_hidden.mp4", "-c:v libvpx-vp9 -cpu-used 8 -auto-alt-ref 1 -lag-in-frames 8 -g {g}"),
    ("mpeg4.mp4", "-c:v mpeg4 -bf 0 -q:v 3 -g {g}"),
    ("mpeg4_b.mkv", "-c:v mpeg4 -bf 2 -q:v 3 -g {g}"),
    ("mpeg4.avi", "-c:v mpeg4 -bf 0 -q:v 3 -g {g}"),
    ("mpeg2_b.ts", "-c:v mpeg2video -bf 2 -q:v 3 -g {g}"),
    ("mpeg2_b.mpg", "-c:v mpeg2video -bf 2 -q:v 3 -g {g}"),
    ("mpeg2_b.mov", "-c:v mpeg2video -bf 2 -q:v 3 -g {g}"),
    ("mpeg1_b.mkv", "-c:v mpeg1video -bf 2 -q:v 3 -g {g}"),
    ("mjpeg.avi", "-c:v mjpeg -q:v 3 -pix_fmt yuvj420p"),
    ("mjpeg.mov", "-c:v mjpeg -q:v 3 -pix_fmt yuvj422p"),
    ("prores.mov", "-c:v prores_ks -profile:v 0"),
    ("ffv1.mkv", "-c:v ffv1 -level 3"),
    ("ffv1_rgb.mkv", "-c:v ffv1 -level 3 -pix_fmt bgr0"),
    ("png.mov", "-c:v png -pix_fmt rgb24"),
    ("raw.avi", "-c:v rawvideo -pix_fmt bgr24"),
    ("theora.ogv", "-c:v libtheora -q:v 8 -g {g}"),
    ("flv1.flv", "-c:v flv1 -q:v 3 -g {g}"),
    ("wmv2.asf", "-c:v wmv2 -q:v 3 -g {g}"),
    ("palette.gif", "-pix_fmt rgb8"),
];

/// Frame rates: name, rate of the source, and a filter. `varied` has irregular timestamps.
const RATES: &[(&str, &str, &str)] = &[
    ("30", "30", "null"),
    ("ntsc", "24000/1001", "null"),
    ("5", "5", "null"),
    ("varied", "30", "select='lt(mod(n\\,7)\\,3)+gt(n\\,20)',settb=1/1000"),
];

/// Number of pictures in each video. All of them differ.
const PICTURES: usize = 36;

/// Pixels and times of a file's frames according to the ffmpeg command.
struct Truth {
    pixels: Vec<Vec<u8>>,
    times: Vec<f64>,
}

impl Media {
    /// Encodes the test pictures. Returns `None` if ffmpeg lacks the encoder, or the container does
    /// not support the video.
    fn encode(&self, name: &str, (rate, filter): (&str, &str), options: &str) -> Option<PathBuf> {
        let source = format!("testsrc2=size=96x72:rate={rate}:duration=1000,{filter}");
        let arguments = format!(
            "-f lavfi -i \"{source}\" -frames:v {PICTURES} -vsync passthrough \
             -pix_fmt yuv420p {options} {name}"
        );
        self.try_ffmpeg(&arguments).then(|| self.path(name))
    }

    fn try_ffmpeg(&self, arguments: &str) -> bool {
        let script =
            format!("ulimit -v 4000000; exec ffmpeg -nostdin -v error -y -threads 1 {arguments}");
        let run = Command::new("sh")
            .args(["-c", &script])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        run.status.success()
    }

    fn truth(&self, path: &Path) -> Truth {
        let scale = "scale=64:64:flags=area+accurate_rnd+full_chroma_int+full_chroma_inp";
        let name = path.to_str().unwrap();
        let script = format!(
            "ulimit -v 4000000; exec ffmpeg -nostdin -hide_banner -nostats -y -threads 1 \
             -i '{name}' -map 0:V:0 -vf showinfo,{scale} -vsync passthrough \
             -pix_fmt rgb24 -f rawvideo truth.rgb"
        );
        let run = Command::new("sh")
            .args(["-c", &script])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(run.status.success(), "{script}: {}", String::from_utf8_lossy(&run.stderr));
        let pixels = std::fs::read(self.path("truth.rgb")).unwrap();
        let log = String::from_utf8_lossy(&run.stderr);
        let time =
            |line: &str| line.split("pts_time:").nth(1)?.split_whitespace().next()?.parse().ok();
        Truth {
            pixels: pixels.chunks(64 * 64 * 3).map(<[u8]>::to_vec).collect(),
            times: log.lines().filter_map(time).collect(),
        }
    }

    /// Returns the byte position and size of each video packet, in file order.
    pub(super) fn packets(&self, path: &Path) -> Vec<(usize, usize)> {
        let entries = "-v error -select_streams v -show_entries packet=pos,size -of csv=p=0";
        let probe = Command::new("ffprobe").args(entries.split(' ')).arg(path).output().unwrap();
        let numbers = |line: &str| {
            let mut fields = line.split(',').map(|field| field.trim().parse().ok());
            let (size, position) = (fields.next()??, fields.next()??);
            Some((position, size))
        };
        String::from_utf8_lossy(&probe.stdout).lines().filter_map(numbers).collect()
    }

    /// Copies a file and damages one packet.
    fn damage(&self, path: &Path, packet: usize, name: &str) -> PathBuf {
        let (position, size) = self.packets(path)[packet];
        let mut bytes = std::fs::read(path).unwrap();
        // The header with the packet's size and stream stays intact.
        let header_bytes = if name.ends_with("flv") { 16 } else { 4 };
        for byte in bytes[position..position + size].iter_mut().skip(header_bytes) {
            *byte ^= 0x55;
        }
        self.write(name, &bytes)
    }
}

fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let square = |(a, b): (&u8, &u8)| f64::from(a.abs_diff(*b)).powi(2);
    let error = a.iter().zip(b).map(square).sum::<f64>() / a.len() as f64;
    if error == 0.0 { 99.0 } else { 10.0 * (255.0 * 255.0 / error).log10() }
}

/// Describes the differences between an intact file's frames and ffmpeg's; empty if none.
fn faults(media: &Media, path: &Path) -> String {
    let truth = media.truth(path);
    let mut faults = String::new();
    let one = decoded(path);
    if let Some(fault) = &one.outcome.fault {
        _ = write!(faults, " {}: {fault};", fault.class);
    }
    if one.frames.len() != truth.pixels.len() || truth.times.len() != truth.pixels.len() {
        _ = write!(
            faults,
            " {} frames, {} times, expected {};",
            one.frames.len(),
            truth.times.len(),
            truth.pixels.len()
        );
    }
    let off = one
        .frames
        .iter()
        .zip(&truth.times)
        .map(|(frame, time)| (frame.time_secs - time).abs())
        .fold(0.0, f64::max);
    let worst = one.pixels.iter().zip(&truth.pixels).map(|(a, b)| psnr(a, b)).fold(99.0, f64::min);
    let gaps = one.frames.iter().filter(|frame| frame.gap_before).count();
    let numbered = one.frames.iter().enumerate();
    let misplaced = numbered.filter(|(at, frame)| frame.index != *at as u64).count();
    if off > 0.001 || worst < 40.0 || gaps + misplaced > 0 {
        _ = write!(faults, " {off:.4} s off, {worst:.1} dB, {gaps} gaps, {misplaced} misplaced;");
    }
    for codec_threads in [2, 8, 24] {
        let many =
            decode(path, &DecodeOptions { codec_threads, ..DecodeOptions::new(64, 64) }).unwrap();
        if many.frames != one.frames || many.pixels != one.pixels || many.outcome != one.outcome {
            _ = write!(faults, " {codec_threads} threads differ;");
        }
    }
    faults
}

/// Describes the differences between a damaged file's frames and the intact file's frames at the
/// same positions; empty if none.
fn faults_of_damaged(path: &Path, whole: &Decoded) -> String {
    let seen = decoded(path);
    let mut faults = String::new();
    let placed =
        || seen.frames.iter().zip(&seen.pixels).filter(|(frame, _)| frame.index < UNPLACED);
    let is_wrong = |(frame, pixels): &(&Frame, &Vec<u8>)| {
        let true_pixels = whole.pixels.get(frame.index as usize);
        let true_secs =
            whole.frames.get(frame.index as usize).map_or(f64::NAN, |frame| frame.time_secs);
        let is_late = (frame.time_secs - true_secs).abs() > 0.001;
        is_late || true_pixels.is_none_or(|expected| psnr(expected, pixels) < 40.0)
    };
    let wrong: Vec<_> =
        placed().filter(is_wrong).map(|(frame, _)| (frame.index, frame.time_secs)).collect();
    let unmarked = seen
        .frames
        .windows(2)
        .filter(|pair| pair[1].index != pair[0].index + 1 && !pair[1].gap_before)
        .count();
    if !wrong.is_empty() || unmarked > 0 {
        _ = write!(
            faults,
            " {} of {}: wrong frames {wrong:?}, {unmarked} holes unmarked;",
            seen.frames.len(),
            whole.frames.len()
        );
    }
    for codec_threads in [2, 8, 24] {
        let many =
            decode(path, &DecodeOptions { codec_threads, ..DecodeOptions::new(64, 64) }).unwrap();
        if many.frames != seen.frames || many.pixels != seen.pixels || many.outcome != seen.outcome
        {
            _ = write!(faults, " {codec_threads} threads differ;");
        }
    }
    faults
}

/// Codecs without reliable damage detection. Damaged files of these are not tested.
const NO_DAMAGE_DETECTION: [&str; 12] = [
    "vp8", "vp9", "raw", "prores", "theora", "wmv2", "flv1", "palette", "png", "mjpeg", "ffv1",
    "mpeg",
];

/// Compares all encodings at one rate with ffmpeg: at least a hundred videos.
fn compare_with_ffmpeg(rate_name: &str) {
    let Some(media) = Media::new() else { return };
    let (_, rate, filter) = RATES.iter().find(|(name, ..)| *name == rate_name).unwrap();
    let mut intact = 0;
    let mut damaged = 0;
    let mut wrong = Vec::new();
    let mut note = |name: &str, faults: String| {
        if !faults.is_empty() {
            wrong.push(format!("{name}:{faults}"));
        }
    };
    for (name, options) in ENCODINGS {
        let Some(path) = media.encode(name, (rate, filter), &options.replace("{g}", "10")) else {
            continue;
        };
        note(name, faults(&media, &path));
        intact += 1;
        for (packet, name) in variants(&media, &path, name) {
            let faults = match packet {
                None => faults(&media, &media.path(&name)),
                Some(_) => faults_of_damaged(&media.path(&name), &decoded(&path)),
            };
            intact += usize::from(packet.is_none());
            damaged += usize::from(packet.is_some());
            note(&name, faults);
        }
    }
    eprintln!("{intact} intact and {damaged} damaged videos");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(intact + damaged >= 100, "{intact} intact and {damaged} damaged videos, expected 100");
}

#[test]
fn videos_at_30_frames_per_second_equal_ffmpeg_frame_for_frame() {
    compare_with_ffmpeg("30");
}

#[test]
fn videos_at_the_ntsc_film_rate_equal_ffmpeg_frame_for_frame() {
    compare_with_ffmpeg("ntsc");
}

#[test]
fn videos_at_5_frames_per_second_equal_ffmpeg_frame_for_frame() {
    compare_with_ffmpeg("5");
}

#[test]
fn videos_at_a_variable_rate_equal_ffmpeg_frame_for_frame() {
    compare_with_ffmpeg("varied");
}

/// Makes variants of a file: cut by an edit list, rotated, in another container, or damaged.
///
/// Returns the number of the damaged packet, if any, and the file name.
fn variants(media: &Media, path: &Path, name: &str) -> Vec<(Option<usize>, String)> {
    let mut made = Vec::new();
    let source = path.display();
    let copies: HashMap<&str, &[(&str, &str, &str)]> = HashMap::from([
        (
            "mp4",
            &[
                ("-ss 0.4", "", "cut.mp4"),
                ("", "-metadata:s:v:0 rotate=90", "turned.mp4"),
                ("", "", "copy.mkv"),
            ][..],
        ),
        ("mov", &[("", "-metadata:s:v:0 rotate=180", "turned.mov")][..]),
        ("mkv", &[("", "", "copy.mov")][..]),
        ("webm", &[("", "", "copy.mkv")][..]),
    ]);
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    for (before, after, ending) in copies.get(ending).copied().unwrap_or_default() {
        let made_name = format!("{name}.{ending}");
        if media.try_ffmpeg(&format!("{before} -i '{source}' -c copy {after} {made_name}")) {
            made.push((None, made_name));
        }
    }
    let detects_damage = !NO_DAMAGE_DETECTION.iter().any(|codec| name.contains(codec))
        && ["mp4", "mov", "mkv", "flv", "avi"].contains(&ending);
    for packet in if detects_damage { &[3, 13, 17, 24][..] } else { &[] } {
        let made_name = format!("{name}.damaged_{packet}.{ending}");
        media.damage(path, *packet, &made_name);
        made.push((Some(*packet), made_name));
    }
    made
}
