//! Where pixels lie: a batch of images becomes, channel by channel, one long line with zeros
//! between rows and images, on which a convolution is a sum of shifted lines.
//!
//! In: images `[batch, channel, height, width]`. Out: the same values as `channel` lines.
//! Start at [`Plane`].

/// Lines hold a multiple of this many positions, so that no SIMD tile runs over their end.
pub(super) const TILE: usize = 48;

/// The geometry of a square, stride-one convolution over images of one size.
///
/// One run of `padding` zeros after each row serves as its right border and as the next row's
/// left border; likewise `padding` rows of zeros between two images. An output pixel and the
/// input pixels it reads are then a constant distance apart, whatever the image and the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plane {
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Zeros around an image; smaller than `kernel`.
    pub padding: usize,
    /// Rows and columns of the kernel.
    pub kernel: usize,
}

impl Plane {
    /// Positions from one row to the next.
    pub fn row(&self) -> usize {
        self.width + self.padding
    }

    /// Positions from one image to the next.
    pub fn area(&self) -> usize {
        (self.height + self.padding) * self.row()
    }

    /// Zeros in front of a line's first pixel.
    pub fn lead(&self) -> usize {
        self.padding * (self.row() + 1)
    }

    /// Positions of `images` images, rounded up to whole tiles.
    pub fn positions(&self, images: usize) -> usize {
        (images * self.area()).next_multiple_of(TILE)
    }

    /// Values in a line of `images` images: its positions and what the last of them reads.
    pub fn line(&self, images: usize) -> usize {
        self.positions(images) + (self.kernel - 1) * (self.row() + 1)
    }

    /// The size of the convolution's output.
    pub fn output(&self) -> [usize; 2] {
        let shrink = self.kernel - 1;
        [self.height + 2 * self.padding - shrink, self.width + 2 * self.padding - shrink]
    }

    /// The geometry of the input's gradient: a convolution over images of the output's size.
    ///
    /// It has the same rows and the same area, so both see one line of gradients alike.
    pub fn transposed(&self) -> Plane {
        let [height, width] = self.output();
        Plane { height, width, padding: self.kernel - 1 - self.padding, kernel: self.kernel }
    }

    /// Lays images out as lines with zeros around them.
    ///
    /// - `images`: `[image, channel, height, width]`
    /// - `lines`: `[channel, line]`, overwritten whole
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
                    match relu {
                        true => to.iter_mut().zip(from).for_each(|(to, &v)| *to = rectify(v)),
                        false => to.copy_from_slice(from),
                    }
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

    /// Visits the rows of the convolution's output.
    pub fn rows(self, images: usize, channels: usize) -> impl Iterator<Item = Row> {
        let ([height, _], positions) = (self.output(), self.positions(images));
        let planes =
            (0..images).flat_map(move |image| (0..channels).map(move |channel| (image, channel)));
        planes.flat_map(move |(image, channel)| {
            let flat = channel * positions + image * self.area();
            (0..height).map(move |y| Row { image, channel, y, flat: flat + y * self.row() })
        })
    }
}

/// A row of an output, and where it starts among the lines' positions.
pub(super) struct Row {
    /// Its image.
    pub image: usize,
    /// Its channel.
    pub channel: usize,
    /// Its row in the image.
    pub y: usize,
    /// Where it starts in the convolution's output, `[channel, positions]`.
    pub flat: usize,
}

/// `max(value, 0)`; not-a-number stays what it is.
pub(super) fn rectify(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gradient_line_serves_both_gradients() {
        for (padding, kernel) in [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)] {
            let plane = Plane { height: 7, width: 5, padding, kernel };
            let back = plane.transposed();
            assert_eq!((plane.row(), plane.area()), (back.row(), back.area()));
            assert_eq!(back.output(), [7, 5]);
            assert_eq!(back.transposed(), plane);
        }
    }

    #[test]
    fn a_row_is_followed_by_the_border_it_shares() {
        let plane = Plane { height: 2, width: 2, padding: 1, kernel: 3 };
        let mut lines = vec![f32::NAN; plane.line(1)];
        plane.gather(&[1., -2., 3., 4.], 1, &mut lines, true);
        assert_eq!(&lines[..11], &[0., 0., 0., 0., 1., 0., 0., 3., 4., 0., 0.]);
        assert!(lines[11..].iter().all(|&v| v == 0.0));
    }
}
