//! The frames of requests: raw RGB or PNG, reduced to the networks' size.

use std::io::Cursor;

use png::{ColorType, Limits, Transformations};

use crate::error::CommandError as Error;
use crate::stages::{FrameScaler, Size};
use crate::video::Fit;

/// Bytes at the start of every PNG.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Bytes at the start of every JPEG.
const JPEG: &[u8] = b"\xff\xd8\xff";
/// Largest width or height of a frame, in pixels.
const MAX_SIDE: usize = 8192;

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
            return Ok(self.scale(&pixels, size));
        }
        let expected = size.width * size.height * 3;
        if request.len() == expected {
            return Ok(self.scale(request, size));
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

    /// Scales a picture, whatever its proportions.
    fn scale(&self, pixels: &[u8], size: Size) -> Vec<u8> {
        let mut scaled = Vec::with_capacity(self.side * self.side * 3);
        FrameScaler::new(size, self.side, Fit::Stretch).scale(pixels, &mut scaled);
        scaled
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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn noise(count: usize) -> Vec<u8> {
        (0..count).map(|i| (i * i * 31 / 7 % 256) as u8).collect()
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
