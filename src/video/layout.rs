//! Which part of a picture goes where.
//!
//! In: the [`Shape`] of a coded picture, how it stands, and the frame asked for. Out: a [`Layout`].
//! Plain arithmetic, no pixels. Start at [`Layout::trimmed`].

use super::Fit;
use super::orientation::Orientation;

/// The shape of a coded picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    /// Width and height in pixels.
    pub(super) size: (u32, u32),
    /// How wide a pixel is when its height is 1.
    pub(super) pixel_aspect: f64,
    /// Pixels that share one colour sample, across and down, as powers of two.
    pub(super) log2_chroma: (u8, u8),
}

/// Which part of a picture goes where.
#[derive(Debug, PartialEq)]
pub(super) struct Layout {
    /// Pixels of the coded picture to cut off: left, top, right, bottom.
    pub(super) crop: [u32; 4],
    /// The part of the upright frame that is filled: left, top, width, height.
    pub(super) place: [u32; 4],
}

impl Layout {
    /// Puts what is left of a picture there; `trim` is cut off first, shares of its upright edges, and whole colour samples.
    pub(super) fn trimmed(
        shape: &Shape,
        orientation: Orientation,
        fit: Fit,
        size: (u32, u32),
        trim: [f32; 4],
    ) -> Self {
        let (width, height) = shape.size;
        let ((x, y), shares) = (shape.log2_chroma, orientation.coded_edges(trim));
        let lengths = [(width, x), (height, y), (width, x), (height, y)];
        let edge = |((length, log2), share): ((u32, u8), f32)| {
            ((f64::from(share) * f64::from(length)).ceil() as u32).div_ceil(1 << log2) << log2
        };
        let mut cut = [0; 4];
        cut.iter_mut().zip(lengths.into_iter().zip(shares)).for_each(|(cut, at)| *cut = edge(at));
        let [left, top, right, bottom] = cut;
        // A picture of a few pixels may be nothing but edges.
        if left + right >= width || top + bottom >= height {
            return Self::new(shape, orientation, fit, size);
        }
        let inner = Shape { size: (width - left - right, height - top - bottom), ..*shape };
        let Layout { mut crop, place } = Self::new(&inner, orientation, fit, size);
        crop.iter_mut().zip(cut).for_each(|(crop, cut)| *crop += cut);
        Self { crop, place }
    }

    /// Puts a picture of `shape` into a frame of `size`, going by its proportions as it is shown.
    fn new(shape: &Shape, orientation: Orientation, fit: Fit, size: (u32, u32)) -> Self {
        let (width, height) = size;
        // The frame as the coded picture sees it, and the picture's size as it is shown.
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
                let (left, top) = ((width - inner_width) / 2, (height - inner_height) / 2);
                Self { crop: [0; 4], place: [left, top, inner_width, inner_height] }
            }
        }
    }
}

/// Edges to cut off so that about `keep` pixels stay, whole colour samples on every side.
fn centre_crop(shape: &Shape, keep: (f64, f64)) -> [u32; 4] {
    let (left, right) = cut(shape.size.0, keep.0, shape.log2_chroma.0);
    let (top, bottom) = cut(shape.size.1, keep.1, shape.log2_chroma.1);
    [left, top, right, bottom]
}

/// Pixels to cut off before and after, along one axis.
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
    fn crop_keeps_the_middle_of_the_picture_as_it_is_shown() {
        assert_eq!(check((640, 360), 1.0, UPRIGHT, Fit::Crop), [[140, 0, 140, 0], WHOLE]);
        assert_eq!(check((640, 360), 1.0, SIDEWAYS, Fit::Crop), [[140, 0, 140, 0], WHOLE]);
        assert_eq!(check((64, 64), 1.0, UPRIGHT, Fit::Crop), [[0; 4], WHOLE]);
        // Pixels twice as wide as high: 32 of them are as wide as 64 rows are high.
        assert_eq!(check((100, 64), 2.0, UPRIGHT, Fit::Crop), [[34, 0, 34, 0], WHOLE]);
    }

    #[test]
    fn crop_never_splits_a_colour_sample() {
        assert_eq!(check((101, 51), 1.0, UPRIGHT, Fit::Crop), [[24, 0, 27, 0], WHOLE]);
    }

    #[test]
    fn bars_go_before_anything_is_fitted() {
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
            "no line of the bar stays"
        );
        assert_eq!(
            trimmed(UPRIGHT, Fit::Crop, [0.0, 0.125, 0.0, 0.125]),
            [[140, 60, 140, 60], WHOLE]
        );
        // What is shown on top lies to the left: it is turned clockwise.
        assert_eq!(trimmed(SIDEWAYS, Fit::Stretch, [0.0, 0.25, 0.0, 0.0]), [[160, 0, 0, 0], WHOLE]);
        assert_eq!(trimmed(SIDEWAYS, Fit::Stretch, [0.25, 0.0, 0.0, 0.0]), [[0, 0, 0, 120], WHOLE]);
        assert_eq!(
            trimmed(UPRIGHT, Fit::Stretch, [0.4999, 0.0, 0.4999, 0.0]),
            [[0; 4], WHOLE],
            "nothing would be left"
        );
    }

    #[test]
    fn pad_keeps_the_whole_picture_in_the_middle() {
        assert_eq!(check((640, 360), 1.0, UPRIGHT, Fit::Pad), [[0; 4], [0, 14, 64, 36]]);
        assert_eq!(check((640, 360), 1.0, SIDEWAYS, Fit::Pad), [[0; 4], [14, 0, 36, 64]]);
        assert_eq!(check((8000, 2), 1.0, UPRIGHT, Fit::Pad), [[0; 4], [0, 31, 64, 1]]);
    }
}
