//! The frames of requests: raw RGB or PNG, reduced to the networks' size.

use std::io::Cursor;

use png::{ColorType, Limits, Transformations};

use crate::error::CommandError as Error;

/// Bytes at the start of every PNG.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Bytes at the start of every JPEG.
const JPEG: &[u8] = b"\xff\xd8\xff";
/// Largest width or height of a frame, in pixels.
const MAX_SIDE: usize = 8192;

/// The width and height of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: usize,
    pub height: usize,
}

/// Turns a request's bytes into a frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameReader {
    /// Rows and columns of the networks' frames.
    pub side: usize,
    /// The size of raw frames, if it is not that of the networks.
    pub raw: Option<Size>,
}

impl FrameReader {
    /// Returns the pixels of a request, or what is wrong with it.
    ///
    /// # Shapes
    /// - output: `[side, side, 3]`
    pub fn read(&self, request: &[u8]) -> Result<Vec<u8>, String> {
        let size = self.raw_size();
        if request.starts_with(PNG) {
            let (pixels, size) = read_png(request)?;
            return Ok(area_mean(&pixels, size, self.side));
        }
        let expected = size.width * size.height * 3;
        if request.len() == expected {
            return Ok(area_mean(request, size, self.side));
        }
        if request.starts_with(JPEG) {
            return Err("the frame is a JPEG, expected raw RGB or a PNG".into());
        }
        Err(format!(
            "the frame has {} bytes, expected {expected} ({} x {} x 3, raw RGB) or a PNG",
            request.len(),
            size.height,
            size.width
        ))
    }

    fn raw_size(&self) -> Size {
        self.raw.unwrap_or(Size { width: self.side, height: self.side })
    }
}

/// Parses `WxH`.
pub fn parse_size(text: &str) -> Result<Size, Error> {
    let sides = text.split_once('x').map(|(width, height)| (width.parse(), height.parse()));
    let valid = 1..=MAX_SIDE;
    match sides {
        Some((Ok(width), Ok(height))) if valid.contains(&width) && valid.contains(&height) => {
            Ok(Size { width, height })
        }
        _ => Err(Error::Usage {
            what: format!("--size {text}: expected WIDTHxHEIGHT, each from 1 to {MAX_SIDE}"),
            hint: "for example --size 640x480".into(),
        }),
    }
}

/// Decodes a PNG to RGB; transparency is ignored.
fn read_png(bytes: &[u8]) -> Result<(Vec<u8>, Size), String> {
    let failed = |error: png::DecodingError| format!("the PNG cannot be decoded: {error}");
    let limits = Limits { bytes: MAX_SIDE * MAX_SIDE * 4 };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(failed)?;
    let size = Size { width: reader.info().width as usize, height: reader.info().height as usize };
    if size.width > MAX_SIDE || size.height > MAX_SIDE {
        return Err(format!(
            "the PNG has {} x {} pixels, expected at most {MAX_SIDE} a side",
            size.width, size.height
        ));
    }
    let length = reader.output_buffer_size().ok_or("the PNG is too large")?;
    let mut pixels = vec![0; length];
    let info = reader.next_frame(&mut pixels).map_err(failed)?;
    pixels.truncate(info.buffer_size());
    let rgb = match info.color_type {
        ColorType::Rgb => pixels,
        ColorType::Rgba => pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        ColorType::Grayscale => pixels.iter().flat_map(|grey| [*grey; 3]).collect(),
        ColorType::GrayscaleAlpha => pixels.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        // `normalize_to_color8` expands palettes.
        ColorType::Indexed => return Err("the PNG has a palette that was not expanded".into()),
    };
    Ok((rgb, size))
}

/// Scales a picture to a square, whatever its proportions: each pixel becomes the mean of the area
/// that it covers, rounded to the nearest value.
fn area_mean(pixels: &[u8], from: Size, side: usize) -> Vec<u8> {
    if from.width == side && from.height == side {
        return pixels.to_vec();
    }
    let columns = overlaps(from.width, side);
    let rows = overlaps(from.height, side);
    // Weights are integers: a new pixel is `from.width` units wide and `from.height` high.
    let area = (from.width * from.height) as u64;
    let mut scaled = Vec::with_capacity(side * side * 3);
    let mut sums = vec![0; side * 3];
    for row in &rows {
        sums.fill(0);
        for (y, height) in row {
            let line = &pixels[y * from.width * 3..][..from.width * 3];
            for (column, sums) in columns.iter().zip(sums.chunks_exact_mut(3)) {
                for (x, width) in column {
                    let weight = height * width;
                    for (sum, value) in sums.iter_mut().zip(&line[x * 3..][..3]) {
                        *sum += weight * u64::from(*value);
                    }
                }
            }
        }
        scaled.extend(sums.iter().map(|sum| ((sum + area / 2) / area) as u8));
    }
    scaled
}

/// Returns, for each of `to` new pixels of a line, the old pixels that it covers and the lengths
/// of their overlaps. A new pixel has the length `from`, an old one `to`.
fn overlaps(from: usize, to: usize) -> Vec<Vec<(usize, u64)>> {
    let covered = |new: usize| {
        let (start, end) = (new * from, (new + 1) * from);
        let length = |old: usize| end.min((old + 1) * to) - start.max(old * to);
        (start / to..end.div_ceil(to)).map(|old| (old, length(old) as u64)).collect()
    };
    (0..to).map(covered).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::envs::wrappers::shrink;

    fn noise(count: usize) -> Vec<u8> {
        (0..count).map(|i| (i * i * 31 / 7 % 256) as u8).collect()
    }

    #[test]
    fn frames_of_games_shrink_as_in_evaluate() {
        let frame = noise(64 * 64 * 3);
        for side in [16, 32, 64] {
            let mut expected = Vec::new();
            shrink(&frame, side, &mut expected);
            let scaled = area_mean(&frame, Size { width: 64, height: 64 }, side);
            assert!(scaled == expected, "{side}");
        }
    }

    #[test]
    fn means_are_weighted_by_the_covered_area() {
        // Three columns become two: each covers one and a half.
        let frame: Vec<u8> = [0, 30, 90].iter().flat_map(|grey| [*grey; 3]).collect();
        let scaled = area_mean(&frame, Size { width: 3, height: 1 }, 2);
        let greys: Vec<u8> = scaled.iter().step_by(3).copied().collect();
        assert_eq!(greys, [10, 70, 10, 70]);
        // A pixel becomes four.
        assert_eq!(area_mean(&[1, 2, 3], Size { width: 1, height: 1 }, 2), [1, 2, 3].repeat(4));
    }

    #[test]
    fn every_kind_of_png_becomes_rgb() {
        let reader = FrameReader { side: 2, raw: None };
        let encode = |color: ColorType, data: &[u8]| {
            let mut bytes = Vec::new();
            let mut encoder = png::Encoder::new(&mut bytes, 2, 2);
            encoder.set_color(color);
            encoder.set_palette(vec![9, 8, 7, 1, 2, 3]);
            encoder.write_header().unwrap().write_image_data(data).unwrap();
            bytes
        };
        let grey = [5, 5, 5, 6, 6, 6, 7, 7, 7, 8, 8, 8];
        assert_eq!(reader.read(&encode(ColorType::Grayscale, &[5, 6, 7, 8])).unwrap(), grey);
        let with_alpha = [5, 0, 6, 9, 7, 255, 8, 1];
        assert_eq!(reader.read(&encode(ColorType::GrayscaleAlpha, &with_alpha)).unwrap(), grey);
        assert_eq!(reader.read(&encode(ColorType::Rgb, &grey)).unwrap(), grey);
        let rgba = noise(16);
        let rgb: Vec<u8> = rgba.chunks(4).flat_map(|pixel| pixel[..3].to_vec()).collect();
        assert_eq!(reader.read(&encode(ColorType::Rgba, &rgba)).unwrap(), rgb);
        let indexed = encode(ColorType::Indexed, &[0, 1, 1, 0]);
        assert_eq!(reader.read(&indexed).unwrap(), [9, 8, 7, 1, 2, 3, 1, 2, 3, 9, 8, 7]);
        assert!(reader.read(&indexed[..40]).unwrap_err().contains("cannot be decoded"));
    }

    #[test]
    fn sizes_are_two_numbers() {
        assert_eq!(parse_size("640x480").unwrap(), Size { width: 640, height: 480 });
        for wrong in ["640", "0x4", "4x0", "ax4", "4x", "9000x4", "-1x4"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
