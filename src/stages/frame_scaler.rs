//! Scales frames of games and of clients of `lapo act` to squares, by the mean of the area.

use crate::video::Fit;

/// The width and height of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

/// Scales pictures of one size to squares: each pixel becomes the mean of the area that it covers,
/// rounded to the nearest value.
#[derive(Clone, Debug)]
pub struct FrameScaler {
    from: Size,
    side: usize,
    /// The first column and row that is used, and how many.
    crop: [usize; 4],
    /// The part of the square that the picture fills: left, top, width, height.
    place: [usize; 4],
    columns: Vec<Overlaps>,
    rows: Vec<Overlaps>,
}

/// The old pixels that a new one covers in a line, and the lengths of the overlaps.
type Overlaps = Vec<(usize, u32)>;

impl FrameScaler {
    /// Creates a scaler to squares of this side. Proportions are treated as by `decode`.
    pub fn new(from: Size, side: usize, fit: Fit) -> Self {
        let Size { width, height } = from;
        let (whole, filled) = ([0, 0, width, height], [0, 0, side, side]);
        let (crop, place) = match fit {
            Fit::Stretch => (whole, filled),
            Fit::Crop => {
                let keep = width.min(height);
                ([(width - keep) / 2, (height - keep) / 2, keep, keep], filled)
            }
            Fit::Pad => {
                let longest = width.max(height) as f64;
                let inner = |length: usize| {
                    ((side as f64 * length as f64 / longest).round() as usize).clamp(1, side)
                };
                let (inner_width, inner_height) = (inner(width), inner(height));
                let place = [
                    (side - inner_width) / 2,
                    (side - inner_height) / 2,
                    inner_width,
                    inner_height,
                ];
                (whole, place)
            }
        };
        let columns = overlaps(crop[2], place[2]);
        let rows = overlaps(crop[3], place[3]);
        FrameScaler { from, side, crop, place, columns, rows }
    }

    /// Creates a scaler of frames that an environment shows: `[height, width, channel]`.
    pub(super) fn of_game([height, width, _]: [usize; 3], side: usize, fit: Fit) -> Self {
        FrameScaler::new(Size { width, height }, side, fit)
    }

    /// Appends the scaled picture to `out`.
    ///
    /// # Shapes
    /// - `pixels`: `[height, width, 3]`
    /// - appended: `[side, side, 3]`
    pub fn scale(&self, pixels: &[u8], out: &mut Vec<u8>) {
        let (side, width) = (self.side, self.from.width);
        if self.from == (Size { width: side, height: side }) {
            out.extend_from_slice(pixels);
            return;
        }
        let [first_column, first_row, crop_width, crop_height] = self.crop;
        let [left, top, inner_width, inner_height] = self.place;
        // Weights are integers: a new pixel is as many units wide as there are old columns.
        let area = (crop_width * crop_height) as u64;
        // What the picture does not fill is black.
        out.resize(out.len() + (top * side + left) * 3, 0);
        let mut line = vec![0; crop_width * 3];
        for (row, covered) in self.rows.iter().enumerate() {
            line.fill(0);
            for (y, height) in covered {
                let pixels = &pixels[((first_row + y) * width + first_column) * 3..];
                add_weighted(&pixels[..crop_width * 3], *height, &mut line);
            }
            for column in &self.columns {
                out.extend(pixel(&line, column).map(|sum| ((sum + area / 2) / area) as u8));
            }
            let is_last = row + 1 == inner_height;
            let gap = if is_last { side - left - inner_width } else { side - inner_width };
            out.resize(out.len() + gap * 3, 0);
        }
        out.resize(out.len() + (side - top - inner_height) * side * 3, 0);
    }
}

/// Adds a line of pixels to the sums of a new row. This is the loop over all bytes, so it is kept
/// simple enough for vector instructions.
fn add_weighted(pixels: &[u8], weight: u32, sums: &mut [u32]) {
    for (sum, value) in sums.iter_mut().zip(pixels) {
        *sum += weight * u32::from(*value);
    }
}

/// Returns the weighted sums of a new pixel's channels.
fn pixel(line: &[u32], column: &Overlaps) -> [u64; 3] {
    let mut sums = [0; 3];
    for (x, width) in column {
        for (sum, value) in sums.iter_mut().zip(&line[x * 3..][..3]) {
            *sum += u64::from(*width) * u64::from(*value);
        }
    }
    sums
}

/// Returns the overlaps of `to` new pixels of a line of `from` old ones. A new pixel has the length
/// `from`, an old one `to`.
fn overlaps(from: usize, to: usize) -> Vec<Overlaps> {
    let covered = |new: usize| {
        let (start, end) = (new * from, (new + 1) * from);
        let length = |old: usize| end.min((old + 1) * to) - start.max(old * to);
        (start / to..end.div_ceil(to)).map(|old| (old, length(old) as u32)).collect()
    };
    (0..to).map(covered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize) -> Vec<u8> {
        (0..count).map(|i| (i * i * 31 / 7 % 256) as u8).collect()
    }

    fn scaled(pixels: &[u8], width: usize, height: usize, side: usize, fit: Fit) -> Vec<u8> {
        let mut out = vec![];
        FrameScaler::new(Size { width, height }, side, fit).scale(pixels, &mut out);
        out
    }

    /// Returns a picture of grey pixels.
    fn grey(values: &[u8]) -> Vec<u8> {
        values.iter().flat_map(|value| [*value; 3]).collect()
    }

    /// Compares with the slow way, which rounds the mean of each square.
    #[test]
    fn frames_of_procgen_shrink_to_the_rounded_means_of_squares() {
        let frame = noise(64 * 64 * 3);
        for side in [16, 32, 64] {
            let factor = 64 / side;
            let mean = |at: usize| {
                let (row, column, channel) = (at / 3 / side, at / 3 % side, at % 3);
                let square = (0..factor * factor)
                    .map(|i| (row * factor + i / factor) * 64 + column * factor + i % factor);
                let sum: usize = square.map(|pixel| usize::from(frame[pixel * 3 + channel])).sum();
                (sum as f64 / (factor * factor) as f64 + 1e-9).round() as u8
            };
            let expected: Vec<u8> = (0..side * side * 3).map(mean).collect();
            assert!(scaled(&frame, 64, 64, side, Fit::Stretch) == expected, "{side}");
        }
    }

    #[test]
    fn means_are_weighted_by_the_covered_area() {
        // Three columns become two: each covers one and a half.
        let frame = grey(&[0, 30, 90]);
        assert_eq!(scaled(&frame, 3, 1, 2, Fit::Stretch), grey(&[10, 70, 10, 70]));
        // A pixel becomes four.
        assert_eq!(scaled(&[1, 2, 3], 1, 1, 2, Fit::Stretch), [1, 2, 3].repeat(4));
    }

    #[test]
    fn proportions_are_kept_by_cropping_or_padding() {
        // Four columns, two rows.
        let frame = grey(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(scaled(&frame, 4, 2, 2, Fit::Crop), grey(&[2, 3, 6, 7]));
        let padded = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0];
        assert_eq!(scaled(&frame, 4, 2, 4, Fit::Pad), grey(&padded));
        // Two columns, four rows, odd bars: one column before and two after.
        let tall = grey(&[9; 2 * 5]);
        let row = [0, 9, 9, 0, 0];
        assert_eq!(scaled(&tall, 2, 5, 5, Fit::Pad), grey(&row.repeat(5)));
    }
}
