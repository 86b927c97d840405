//! The statistics of each frame, kept or dropped: the rows of `quality.parquet` beside the shard.
//! Start at [`FrameStats::of`].
//!
//! They help to choose the settings `blank` and `still`, and to find duplicate pictures: `hash`
//! mostly survives another codec, size and rate. `deduplicate` finds more duplicates of whole
//! clips.

use crate::dataset::{Column, FileInfo, FrameSize, Store, Table, write_table};
use crate::stages::Error;

/// The brightest pixel of a black bar, as a share of the range.
const BLACK: f32 = 0.1;
/// The rows and columns of cells in [`hash_of`]. Neighbours in a row are compared.
const HASHED: (usize, usize) = (8, 9);
/// A cell counts as brighter than its neighbour beyond this share of the range. Below it, the noise
/// of a codec would decide on flat pictures.
const BRIGHTER: f32 = 0.015;

/// The statistics of a single frame, as shares of the range and of the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameStats {
    /// Mean luminance.
    pub brightness: f32,
    /// Standard deviation of the luminance. 0 means a single colour.
    pub contrast: f32,
    /// Widths of the black bars: left, top, right, bottom.
    pub bars: [f32; 4],
    /// 64 comparisons of neighbouring cells (Krawetz's dHash). The table has the int64 with the
    /// same bits.
    pub hash: u64,
}

impl FrameStats {
    /// Computes the statistics of `pixels`, `[height, width, 3]`, at least one pixel.
    pub fn of(pixels: &[u8], size: FrameSize) -> Self {
        let (height, width) = (size.height as usize, size.width as usize);
        // Rec. 601 weights in 256ths.
        let luminance = |rgb: &[u8]| {
            (77 * u32::from(rgb[0]) + 150 * u32::from(rgb[1]) + 29 * u32::from(rgb[2])) as f32
                / (256.0 * 255.0)
        };
        let light: Vec<f32> = pixels.chunks_exact(3).map(luminance).collect();
        let count = light.len() as f32;
        let brightness = light.iter().sum::<f32>() / count;
        let contrast = (light.iter().map(|l| (l - brightness).powi(2)).sum::<f32>() / count).sqrt();
        let row = |y: usize| light[y * width..][..width].iter().all(|l| *l <= BLACK);
        let column = |x: usize| light[x..].iter().step_by(width).all(|l| *l <= BLACK);
        let bars = [
            share((0..width).take_while(|x| column(*x)).count(), width),
            share((0..height).take_while(|y| row(*y)).count(), height),
            share((0..width).rev().take_while(|x| column(*x)).count(), width),
            share((0..height).rev().take_while(|y| row(*y)).count(), height),
        ];
        FrameStats { brightness, contrast, bars, hash: hash_of(&light, height, width) }
    }
}

fn share(lines: usize, of: usize) -> f32 {
    lines as f32 / of as f32
}

fn hash_of(light: &[f32], height: usize, width: usize) -> u64 {
    let (rows, columns) = HASHED;
    let part = |at: usize, parts: usize, of: usize| {
        at * of / parts..((at + 1) * of / parts).max(at * of / parts + 1)
    };
    let mean = |row: usize, column: usize| {
        let ys = part(row, rows, height);
        let xs = part(column, columns, width);
        let count = (ys.len() * xs.len()) as f32;
        ys.map(|y| light[y * width..][xs.clone()].iter().sum::<f32>()).sum::<f32>() / count
    };
    let brighter = (0..rows).flat_map(|row| (1..columns).map(move |column| (row, column)));
    brighter.fold(0, |hash, (row, column)| {
        // The first comparison becomes the highest bit.
        hash << 1 | u64::from(mean(row, column) > mean(row, column - 1) + BRIGHTER)
    })
}

/// Why a frame is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Its colour is uniform: the setting `blank`.
    Blank,
    /// The picture has not changed for too long: the setting `still`.
    Still,
}

/// The statistics of a frame, including those that depend on its neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The statistics of the frame itself.
    pub stats: FrameStats,
    /// Mean absolute change of a pixel from the frame before, as a share of the range.
    pub change: f32,
    /// `change` divided by the largest of the two changes before and the two after.
    pub cut_score: f32,
    /// Why the frame is dropped, if it is.
    pub dropped: Option<DropReason>,
}

/// The numeric columns of the table.
const NUMBERS: [&str; 8] = [
    "change",
    "cut_score",
    "brightness",
    "contrast",
    "bar_left",
    "bar_top",
    "bar_right",
    "bar_bottom",
];
/// The values of the column `left_out`.
const LEFT_OUT: [&str; 3] = ["", "blank", "still"];

/// The rows of one partition.
#[derive(Default)]
pub struct Quality {
    video: Vec<u32>,
    frame_index: Vec<u32>,
    numbers: [Vec<f32>; 8],
    hash: Vec<u64>,
    left_out: Vec<u32>,
}

impl Quality {
    /// Adds a frame of the partition's video number `video`.
    pub fn push(&mut self, video: usize, frame_index: u32, measured: &Measured) {
        let Measured { stats, change, cut_score, dropped } = *measured;
        let [left, top, right, bottom] = stats.bars;
        self.video.push(video as u32);
        self.frame_index.push(frame_index);
        let values =
            [change, cut_score, stats.brightness, stats.contrast, left, top, right, bottom];
        for (column, value) in self.numbers.iter_mut().zip(values) {
            column.push(value);
        }
        self.hash.push(stats.hash);
        // 0 means kept, as in `LEFT_OUT`.
        self.left_out.push(dropped.map_or(0, |why| why as u32 + 1));
    }

    /// Adds the rows of the video `uri` from another partition's table.
    ///
    /// # Errors
    /// Returns the name of a column the table lacks, in a sentence.
    pub fn copy(&mut self, video: usize, table: &Table, uri: &str) -> Result<(), String> {
        let lacks = |name: &str| format!("it has no column `{name}`");
        let names = table.text("video").ok_or_else(|| lacks("video"))?;
        let rows: Vec<usize> = (0..names.len()).filter(|row| names[*row] == uri).collect();
        let [frames, hashes] =
            ["frame_index", "hash"].map(|name| table.counts(name).ok_or_else(|| lacks(name)));
        let frames = frames?;
        let hashes = hashes?;
        let left_out = table.text("left_out").ok_or_else(|| lacks("left_out"))?;
        self.video.extend(rows.iter().map(|_| video as u32));
        self.frame_index.extend(rows.iter().map(|row| frames[*row] as u32));
        self.hash.extend(rows.iter().map(|row| hashes[*row].cast_unsigned()));
        self.left_out.extend(rows.iter().map(|row| {
            // A frame with an unknown reason counts as kept.
            LEFT_OUT.iter().position(|why| *why == left_out[*row]).unwrap_or(0) as u32
        }));
        for (column, name) in self.numbers.iter_mut().zip(NUMBERS) {
            let Some(Column::F32(values)) = table.column(name) else { return Err(lacks(name)) };
            column.extend(rows.iter().map(|row| values[*row]));
        }
        Ok(())
    }

    /// Returns the number of frames dropped for this reason.
    pub fn count(&self, why: DropReason) -> usize {
        self.left_out.iter().filter(|left_out| **left_out == why as u32 + 1).count()
    }

    /// Writes the table. `uris` are the names of the partition's videos.
    pub fn write(self, store: &Store, path: &str, uris: Vec<String>) -> Result<FileInfo, Error> {
        let mut columns = vec![
            ("video", Column::Names(self.video, uris)),
            ("frame_index", Column::U32(self.frame_index)),
        ];
        columns.extend(NUMBERS.into_iter().zip(self.numbers.map(Column::F32)));
        columns.push(("hash", Column::Bits(self.hash)));
        columns
            .push(("left_out", Column::Names(self.left_out, LEFT_OUT.map(str::to_owned).into())));
        Ok(write_table(store, path, &columns)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: FrameSize = FrameSize { height: 16, width: 32 };

    /// Returns the statistics of a grey picture.
    fn picture(grey: impl Fn(usize, usize) -> u8) -> FrameStats {
        let pixels =
            (0..16).flat_map(|y| (0..32).map(move |x| (x, y))).flat_map(|(x, y)| [grey(x, y); 3]);
        FrameStats::of(&pixels.collect::<Vec<u8>>(), SIZE)
    }

    #[test]
    fn stats_show_black_flat_and_letterboxed_pictures() {
        let black = picture(|_, _| 0);
        assert_eq!((black.brightness, black.contrast, black.bars), (0.0, 0.0, [1.0; 4]));
        let white = picture(|_, _| 255);
        assert!(
            (white.brightness - 1.0).abs() < 0.01
                && white.contrast < 1e-3
                && white.bars == [0.0; 4]
        );
        let halves = picture(|x, _| if x < 16 { 0 } else { 255 });
        assert!(
            (halves.contrast - 0.5).abs() < 0.01 && halves.bars == [0.5, 0.0, 0.0, 0.0],
            "{halves:?}"
        );
        let framed =
            picture(|x, y| if !(2..12).contains(&y) || x >= 24 { 5 } else { 90 + x as u8 });
        assert_eq!(framed.bars, [0.0, 0.125, 0.25, 0.25]);
    }

    #[test]
    fn a_hash_depends_on_the_picture_and_not_on_noise() {
        let scene = |x: usize, y: usize| {
            (128.0 + 90.0 * (x as f32 * 0.4).sin() * (y as f32 * 0.3).cos()) as u8
        };
        let clean = picture(scene);
        let noisy = picture(|x, y| scene(x, y) + ((x * 7 + y * 13) % 3) as u8);
        assert_eq!(clean.hash, noisy.hash);
        assert!(
            (clean.hash ^ picture(|x, y| scene(x + 4, y)).hash).count_ones() > 8,
            "another scene"
        );
        assert_eq!(picture(|x, y| 100 + ((x * 7 + y * 13) % 3) as u8).hash, 0, "a flat picture");
    }
}
