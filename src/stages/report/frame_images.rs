//! Frames in a page: `<img>` elements with a PNG in base64, which the browser enlarges without
//! smoothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::html::escape;
use crate::stages::Error;

/// The smallest width and height at which a frame is shown, in the page's pixels.
const SHOWN: usize = 96;

/// Returns a square RGB frame as an image.
///
/// # Shapes
/// - `frame`: `[side, side, 3]`
pub fn image(frame: &[u8], side: usize, what: &str) -> Result<String, Error> {
    // A whole multiple, so that all pixels are equally large.
    let shown = side * SHOWN.div_ceil(side.max(1)).max(1);
    let data = STANDARD.encode(png(frame, side)?);
    let what = escape(what);
    Ok(format!(
        "<img class=\"px\" width=\"{shown}\" height=\"{shown}\" alt=\"{what}\" title=\"{what}\" \
         src=\"data:image/png;base64,{data}\">"
    ))
}

fn png(frame: &[u8], side: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let failed = |e: png::EncodingError| Error::Invariant {
        what: format!("cannot encode a frame as PNG: {e}"),
    };
    let mut encoder = png::Encoder::new(&mut bytes, side as u32, side as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(frame).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_frame_can_be_read_back_from_the_page() {
        let frame: Vec<u8> = (0..16 * 16 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let html = image(&frame, 16, "a <frame>").unwrap();
        assert!(
            html.contains("width=\"96\"") && html.contains("alt=\"a &lt;frame&gt;\""),
            "{html}"
        );
        let data = html.split("base64,").nth(1).unwrap().split('"').next().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(STANDARD.decode(data).unwrap()))
            .read_info()
            .unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        assert_eq!(pixels, frame);
    }
}
