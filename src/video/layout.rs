//! Computes which part of a picture fills which part of a frame.
//!
//! This is plain arithmetic, without pixels. Start at [`Layout::trimmed`].

use super::Fit;
use super::orientation::Orientation;

/// Shape of a coded picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    /// Width and height in pixels.
    pub(super) size: (u32, u32),
    /// Width of a pixel divided by its height.
    pub(super) pixel_aspect: f64,
    /// Base-2 logarithms of the number of pixels per colour sample, across and down.
    pub(super) log2_chroma: (u8, u8),
}

/// Source and target rectangles of a picture.
#[derive(Debug, PartialEq)]
pub(super) struct Layout {
    /// Pixels of the coded picture to cut off: left, top, right, bottom.
    pub(super) crop: [u32; 4],
    /// Rectangle of the upright frame to fill: left, top, width, height.
    pub(super) place: [u32; 4],
}

impl Layout {
    /// Computes the layout after cutting off `trim`.
    ///
    /// `trim` holds shares of the upright picture: left, top, right, bottom. Cuts are rounded up to
    /// whole colour samples.
    pub(super) fn trimmed(
        shape: &Shape,
        orientation: Orientation,
        fit: Fit,
        size: (u32, u32),
        trim: [f32; 4],
    ) -> Self {
        let (width, height) = shape.size;
        let (log2_x, log2_y) = shape.log2_chroma;
        let pixels = |share: f32, length: u32, log2: u8| {
            ((f64::from(share) * f64::from(length)).ceil() as u32).div_ceil(1 << log2) << log2
        };
        let shares = orientation.coded_edges(trim);
        let cut @ [left, top, right, bottom] = [
            pixels(shares[0], width, log2_x),
            pixels(shares[1], height, log2_y),
            pixels(shares[2], width, log2_x),
            pixels(shares[3], height, log2_y),
        ];
        // Rounding may cut off all of a very small picture. Then it is not trimmed.
        if left + right >= width || top + bottom >= height {
            return Self::new(shape, orientation, fit, size);
        }
        let inner = Shape { size: (width - left - right, height - top - bottom), ..*shape };
        let Layout { mut crop, place } = Self::new(&inner, orientation, fit, size);
        for (crop, cut) in crop.iter_mut().zip(cut) {
            *crop += cut;
        }
        Self { crop, place }
    }

    /// Computes the layout of a picture in a frame of `size`, using its displayed proportions.
    fn new(shape: &Shape, orientation: Orientation, fit: Fit, size: (u32, u32)) -> Self {
        let (width, height) = size;
        // The frame's size along the coded axes, and the picture's size with square pixels.
        let frame = orientation.swap((f64::from(width), f64::from(height)));
        let shown = (f64::from(shape.size.0) * shape.pixel_aspect, f64::from(shape.size.1));
        let scales = (frame.0 / shown.0, frame.1 / shown.1);
        let whole = [0, 0, width, height];
        match fit {
            Fit::Stretch => Self { crop: [0; 4], place: whole },
            Fit::Crop => {
                let scale = scales.0.max(scales.1);
                let keep = (frame.0 / scale / shape.pixel_aspect, frame.1 / scale);
                Self { crop: centre_crop(shape, keep), place: whole }
            }
            Fit::Pad => {
                let scale = scales.0.min(scales.1);
                let inner = orientation.swap((shown.0 * scale, shown.1 * scale));
                let inner_width = (inner.0.round() as u32).clamp(1, width);
                let inner_height = (inner.1.round() as u32).clamp(1, height);
                let left = (width - inner_width) / 2;
                let top = (height - inner_height) / 2;
                Self { crop: [0; 4], place: [left, top, inner_width, inner_height] }
            }
        }
    }
}

/// Returns the edges to cut off so that about `keep` pixels stay, in whole colour samples.
fn centre_crop(shape: &Shape, keep: (f64, f64)) -> [u32; 4] {
    let (left, right) = cut(shape.size.0, keep.0, shape.log2_chroma.0);
    let (top, bottom) = cut(shape.size.1, keep.1, shape.log2_chroma.1);
    [left, top, right, bottom]
}

/// Returns the pixels to cut off before and after, along one axis.
fn cut(size: u32, keep: f64, log2: u8) -> (u32, u32) {
    let whole_samples = |pixels: u32| pixels >> log2 << log2;
    let keep = keep.round() as u32;
    if keep >= size {
        return (0, 0);
    }
    let keep = whole_samples(keep).max(1 << log2).min(size);
    let before = whole_samples((size - keep) / 2);
    (before, size - keep - before)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPRIGHT: Orientation = Orientation { transpose: false, flip_x: false, flip_y: false };
    const SIDEWAYS: Orientation = Orientation { transpose: true, flip_x: true, flip_y: false };
    const WHOLE: [u32; 4] = [0, 0, 64, 64];

    fn check(
        size: (u32, u32),
        pixel_aspect: f64,
        orientation: Orientation,
        fit: Fit,
    ) -> [[u32; 4]; 2] {
        let shape = Shape { size, pixel_aspect, log2_chroma: (1, 1) };
        let layout = Layout::new(&shape, orientation, fit, (64, 64));
        [layout.crop, layout.place]
    }

    #[test]
    fn crop_keeps_the_middle_of_the_displayed_picture() {
        assert_eq!(check((640, 360), 1.0, UPRIGHT, Fit::Crop), [[140, 0, 140, 0], WHOLE]);
        assert_eq!(check((640, 360), 1.0, SIDEWAYS, Fit::Crop), [[140, 0, 140, 0], WHOLE]);
        assert_eq!(check((64, 64), 1.0, UPRIGHT, Fit::Crop), [[0; 4], WHOLE]);
        // Pixels are twice as wide as high: 32 of them are as wide as 64 rows are high.
        assert_eq!(check((100, 64), 2.0, UPRIGHT, Fit::Crop), [[34, 0, 34, 0], WHOLE]);
    }

    #[test]
    fn crop_never_splits_a_colour_sample() {
        assert_eq!(check((101, 51), 1.0, UPRIGHT, Fit::Crop), [[24, 0, 27, 0], WHOLE]);
    }

    #[test]
    fn trimming_happens_before_fitting() {
        let trimmed = |orientation, fit, trim| {
            let shape = Shape { size: (640, 480), pixel_aspect: 1.0, log2_chroma: (1, 1) };
            let layout = Layout::trimmed(&shape, orientation, fit, (64, 64), trim);
            [layout.crop, layout.place]
        };
        assert_eq!(trimmed(UPRIGHT, Fit::Stretch, [0.0; 4]), [[0; 4], WHOLE]);
        assert_eq!(
            trimmed(UPRIGHT, Fit::Stretch, [0.0, 0.125, 0.0, 0.25]),
            [[0, 60, 0, 120], WHOLE]
        );
        assert_eq!(
            trimmed(UPRIGHT, Fit::Stretch, [0.1001, 0.0, 0.0, 0.0]),
            [[66, 0, 0, 0], WHOLE],
            "cuts are rounded up, so that no line of the bar stays"
        );
        assert_eq!(
            trimmed(UPRIGHT, Fit::Crop, [0.0, 0.125, 0.0, 0.125]),
            [[140, 60, 140, 60], WHOLE]
        );
        // The picture is rotated clockwise, so its displayed top is on the left.
        assert_eq!(trimmed(SIDEWAYS, Fit::Stretch, [0.0, 0.25, 0.0, 0.0]), [[160, 0, 0, 0], WHOLE]);
        assert_eq!(trimmed(SIDEWAYS, Fit::Stretch, [0.25, 0.0, 0.0, 0.0]), [[0, 0, 0, 120], WHOLE]);
        assert_eq!(
            trimmed(UPRIGHT, Fit::Stretch, [0.4999, 0.0, 0.4999, 0.0]),
            [[0; 4], WHOLE],
            "a cut that leaves nothing is ignored"
        );
    }

    #[test]
    fn pad_keeps_the_whole_picture_in_the_middle() {
        assert_eq!(check((640, 360), 1.0, UPRIGHT, Fit::Pad), [[0; 4], [0, 14, 64, 36]]);
        assert_eq!(check((640, 360), 1.0, SIDEWAYS, Fit::Pad), [[0; 4], [14, 0, 36, 64]]);
        assert_eq!(check((8000, 2), 1.0, UPRIGHT, Fit::Pad), [[0; 4], [0, 31, 64, 1]]);
    }
}
