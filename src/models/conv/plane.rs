//! The memory layout of the fast convolutions. The images of a batch become one long line per
//! channel, with zeros between rows and between images. On such lines a convolution is a sum of
//! shifted lines.
//!
//! Start at [`Plane`].

/// Lines hold a multiple of this number of positions, so that no SIMD tile runs over their end.
pub(super) const TILE: usize = 48;

/// The geometry of a square, stride-one convolution over images of one size.
///
/// A run of `padding` zeros after each row is both its right border and the left border of the next
/// row. Likewise, `padding` rows of zeros separate two images. So the distance between an output
/// pixel and its input pixels is the same for all images and rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plane {
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Width of the border of zeros around an image; less than `kernel`.
    pub padding: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
}

impl Plane {
    /// Returns the distance between two rows, in positions.
    pub fn row(&self) -> usize {
        self.width + self.padding
    }

    /// Returns the distance between two images, in positions.
    pub fn area(&self) -> usize {
        (self.height + self.padding) * self.row()
    }

    /// Returns the number of zeros before the first pixel of a line.
    pub fn lead(&self) -> usize {
        self.padding * (self.row() + 1)
    }

    /// Returns the number of positions of `images` images, rounded up to whole tiles.
    pub fn positions(&self, images: usize) -> usize {
        (images * self.area()).next_multiple_of(TILE)
    }

    /// Returns the number of values in a line of `images` images: its positions and the inputs of
    /// the last of them.
    pub fn line(&self, images: usize) -> usize {
        self.positions(images) + (self.kernel - 1) * (self.row() + 1)
    }

    /// Returns the height and width of the output.
    pub fn output(&self) -> [usize; 2] {
        let shrink = self.kernel - 1;
        [self.height + 2 * self.padding - shrink, self.width + 2 * self.padding - shrink]
    }

    /// Returns the geometry of the input gradient: a convolution over images of the output's size.
    ///
    /// Rows and areas have the same lengths in both geometries, so one line of gradients serves
    /// both.
    pub fn transposed(&self) -> Plane {
        let [height, width] = self.output();
        Plane { height, width, padding: self.kernel - 1 - self.padding, kernel: self.kernel }
    }

    /// Lays out images as lines with zeros around them.
    ///
    /// # Shapes
    /// - `images`: `[image, channel, height, width]`
    /// - `lines`: `[channel, line]`, fully overwritten
    pub fn gather(&self, images: &[f32], channels: usize, lines: &mut [f32], relu: bool) {
        let pixels = self.height * self.width;
        let line = self.line(images.len() / (channels * pixels));
        for (channel, line) in lines.chunks_exact_mut(line).enumerate() {
            let (lead, mut rest) = line.split_at_mut(self.lead());
            lead.fill(0.0);
            for image in images.chunks_exact(pixels).skip(channel).step_by(channels) {
                let (area, after) = rest.split_at_mut(self.area());
                let (rows, border) = area.split_at_mut(self.height * self.row());
                for (to, from) in
                    rows.chunks_exact_mut(self.row()).zip(image.chunks_exact(self.width))
                {
                    let (to, gap) = to.split_at_mut(self.width);
                    if relu {
                        for (to, &v) in to.iter_mut().zip(from) {
                            *to = rectify(v);
                        }
                    } else {
                        to.copy_from_slice(from);
                    }
                    // One zero, the usual gap, is cheaper than a call of `fill`.
                    match gap {
                        [zero] => *zero = 0.0,
                        zeros => zeros.fill(0.0),
                    }
                }
                border.fill(0.0);
                rest = after;
            }
            rest.fill(0.0);
        }
    }

    /// Iterates over the rows of the output.
    pub fn rows(self, images: usize, channels: usize) -> impl Iterator<Item = Row> {
        let [height, _] = self.output();
        let positions = self.positions(images);
        let planes =
            (0..images).flat_map(move |image| (0..channels).map(move |channel| (image, channel)));
        planes.flat_map(move |(image, channel)| {
            let flat = channel * positions + image * self.area();
            (0..height).map(move |y| Row { image, channel, y, flat: flat + y * self.row() })
        })
    }
}

/// A row of an output, and its offset in the lines.
pub(super) struct Row {
    /// Index of its image.
    pub image: usize,
    /// Index of its channel.
    pub channel: usize,
    /// Index of the row in the image.
    pub y: usize,
    /// Offset in the output of the convolution, `[channel, positions]`.
    pub flat: usize,
}

/// Returns `max(value, 0)`. NaN stays NaN.
pub(super) fn rectify(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gradient_line_fits_both_gradients() {
        for (padding, kernel) in [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)] {
            let plane = Plane { height: 7, width: 5, padding, kernel };
            let back = plane.transposed();
            assert_eq!((plane.row(), plane.area()), (back.row(), back.area()));
            assert_eq!(back.output(), [7, 5]);
            assert_eq!(back.transposed(), plane);
        }
    }

    #[test]
    fn neighbouring_rows_share_one_border() {
        let plane = Plane { height: 2, width: 2, padding: 1, kernel: 3 };
        let mut lines = vec![f32::NAN; plane.line(1)];
        plane.gather(&[1., -2., 3., 4.], 1, &mut lines, true);
        assert_eq!(&lines[..11], &[0., 0., 0., 0., 1., 0., 0., 3., 4., 0., 0.]);
        assert!(lines[11..].iter().all(|&v| v == 0.0));
    }
}
