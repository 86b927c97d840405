//! Rotates and mirrors pixels upright.
//!
//! Cameras store the orientation as a display matrix. [`Orientation::from_display_matrix`] parses
//! it.

/// One of the eight orientations of a picture: an optional swap of the axes, then mirroring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Orientation {
    /// Whether rows become columns.
    pub(super) transpose: bool,
    /// Whether left and right are swapped afterwards.
    pub(super) flip_x: bool,
    /// Whether top and bottom are swapped afterwards.
    pub(super) flip_y: bool,
}

impl Orientation {
    /// Parses libav's display matrix: nine native 32-bit numbers `a b u c d v x y w`, which map the
    /// coded point (p, q) to (a p + c q, b p + d q). Other angles are rounded to a multiple of 90
    /// degrees.
    pub(super) fn from_display_matrix(bytes: &[u8]) -> Self {
        let number = |index: usize| -> i64 {
            let four = bytes.get(index * 4..index * 4 + 4).and_then(|four| four.try_into().ok());
            four.map_or(0, |four| i64::from(i32::from_ne_bytes(four)))
        };
        let (a, b, c, d) = (number(0), number(1), number(3), number(4));
        if b.abs() + c.abs() > a.abs() + d.abs() {
            Self { transpose: true, flip_x: c < 0, flip_y: b < 0 }
        } else {
            Self { transpose: false, flip_x: a < 0, flip_y: d < 0 }
        }
    }

    /// Returns the clockwise rotation in degrees, and whether the picture is mirrored left to right
    /// before it.
    pub(super) fn rotation(self) -> (u32, bool) {
        match (self.transpose, self.flip_x, self.flip_y) {
            (false, false, false) => (0, false),
            (true, true, false) => (90, false),
            (false, true, true) => (180, false),
            (true, false, true) => (270, false),
            (false, true, false) => (0, true),
            (true, true, true) => (90, true),
            (false, false, true) => (180, true),
            (true, false, false) => (270, true),
        }
    }

    /// Returns width and height, swapped if the axes are.
    pub(super) fn swap<T>(self, (width, height): (T, T)) -> (T, T) {
        if self.transpose { (height, width) } else { (width, height) }
    }

    /// Maps values of the upright picture's edges to the coded picture's: left, top, right, bottom.
    pub(super) fn coded_edges<T>(self, [left, top, right, bottom]: [T; 4]) -> [T; 4] {
        let (left, right) = if self.flip_x { (right, left) } else { (left, right) };
        let (top, bottom) = if self.flip_y { (bottom, top) } else { (top, bottom) };
        if self.transpose { [top, left, bottom, right] } else { [left, top, right, bottom] }
    }

    /// Writes the coded `pixels` upright into a part of a frame.
    ///
    /// # Shapes
    /// - `pixels`: rows of RGB, `stride` bytes apart
    /// - `target`: `[_, target.stride / 3, 3]`
    pub(super) fn write(self, pixels: &[u8], stride: usize, target: &mut Target<'_>) {
        let (width, height) = (target.width, target.height);
        for y in 0..height {
            let start = (target.top + y) * target.stride + target.left * 3;
            let row = &mut target.pixels[start..start + width * 3];
            let from_y = if self.flip_y { height - 1 - y } else { y };
            if !self.transpose && !self.flip_x {
                row.copy_from_slice(&pixels[from_y * stride..from_y * stride + width * 3]);
                continue;
            }
            for (x, pixel) in row.chunks_exact_mut(3).enumerate() {
                let from_x = if self.flip_x { width - 1 - x } else { x };
                let (column, line) = self.swap((from_x, from_y));
                let from = line * stride + column * 3;
                pixel.copy_from_slice(&pixels[from..from + 3]);
            }
        }
    }
}

/// Rectangle of an output frame, in pixels.
pub(super) struct Target<'a> {
    /// Pixels of the whole frame.
    pub(super) pixels: &'a mut [u8],
    /// Bytes from one row of the frame to the next.
    pub(super) stride: usize,
    /// Left edge of the rectangle.
    pub(super) left: usize,
    /// Top edge of the rectangle.
    pub(super) top: usize,
    /// Width of the rectangle.
    pub(super) width: usize,
    /// Height of the rectangle.
    pub(super) height: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes the matrix `[a b; c d]` as libav does.
    fn matrix([a, b, c, d]: [i32; 4]) -> Vec<u8> {
        let numbers = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30];
        numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
    }

    /// Turns the picture `1 2 3 / 4 5 6`, one digit per pixel, and formats the result.
    fn turned(orientation: Orientation) -> String {
        let pixels: Vec<u8> = (1..=6).flat_map(|digit| [digit; 3]).collect();
        let (width, height) = orientation.swap((3, 2));
        let mut out = vec![0; 18];
        let stride = width * 3;
        orientation.write(
            &pixels,
            9,
            &mut Target { pixels: &mut out, stride, left: 0, top: 0, width, height },
        );
        let rows = out
            .chunks(width * 3)
            .map(|row| row.chunks(3).map(|pixel| pixel[0].to_string()).collect());
        rows.collect::<Vec<String>>().join("/")
    }

    #[test]
    fn every_display_matrix_turns_the_pixels_upright() {
        for (numbers, degrees, mirrored, expected) in [
            ([1, 0, 0, 1], 0, false, "123/456"),
            ([0, 1, -1, 0], 90, false, "41/52/63"),
            ([-1, 0, 0, -1], 180, false, "654/321"),
            ([0, -1, 1, 0], 270, false, "36/25/14"),
            ([-1, 0, 0, 1], 0, true, "321/654"),
            ([0, -1, -1, 0], 90, true, "63/52/41"),
            ([1, 0, 0, -1], 180, true, "456/123"),
            ([0, 1, 1, 0], 270, true, "14/25/36"),
        ] {
            let orientation = Orientation::from_display_matrix(&matrix(numbers));
            assert_eq!(orientation.rotation(), (degrees, mirrored), "{numbers:?}");
            assert_eq!(turned(orientation), expected, "{numbers:?}");
        }
    }

    #[test]
    fn a_truncated_matrix_turns_nothing() {
        assert_eq!(Orientation::from_display_matrix(&[1, 2, 3]), Orientation::default());
    }
}
