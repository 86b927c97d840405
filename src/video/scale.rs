//! Scales pictures of any size, format and colour space to upright RGB pixels of one size.
//!
//! Start at [`Scaler::write`].

use ffmpeg_next::Error as AvError;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::frame;
use ffmpeg_next::software::scaling::{Context, Flags};

use super::layout::{Layout, Shape};
use super::orientation::{Orientation, Target};
use super::{DecodeOptions, Fit, ffi};

/// Scales pictures to one size. Its libav context is rebuilt when the pictures change.
pub(super) struct Scaler {
    width: u32,
    height: u32,
    fit: Fit,
    trim: [f32; 4],
    even_colours: bool,
    orientation: Orientation,
    built: Option<ScalerState>,
    /// Number of changes of picture size, format or colours.
    pub(super) rebuilds: u32,
}

/// State for pictures of one kind.
struct ScalerState {
    kind: PictureKind,
    layout: Layout,
    context: Context,
    scaled: frame::Video,
}

/// Properties of a picture that require another scaler if they change.
#[derive(Clone, Copy, PartialEq)]
struct PictureKind {
    format: Pixel,
    shape: Shape,
    colours: ffi::Colours,
}

/// A decoded picture. It may be written several times, but is cropped only once.
pub(super) struct Picture {
    frame: frame::Video,
    kind: PictureKind,
    cropped: bool,
}

impl Scaler {
    /// Creates a scaler for pictures with the given orientation.
    pub(super) fn new(options: &DecodeOptions, orientation: Orientation) -> Self {
        let DecodeOptions { width, height, fit, trim, even_colours, .. } = *options;
        Self { width, height, fit, trim, even_colours, orientation, built: None, rebuilds: 0 }
    }

    /// Writes `picture` into `out`, `[height, width, 3]`.
    pub(super) fn write(&mut self, picture: &mut Picture, out: &mut [u8]) -> Result<(), AvError> {
        if self.built.as_ref().is_none_or(|built| built.kind != picture.kind) {
            self.rebuilds += u32::from(self.built.is_some());
            self.built = Some(self.build(picture)?);
        }
        let built = self.built.as_mut().expect("built above");
        picture.crop(built.layout.crop)?;
        built.context.run(&picture.frame, &mut built.scaled)?;

        let [left, top, width, height] = built.layout.place.map(|pixels| pixels as usize);
        // If the picture does not cover the frame, the rest is black.
        if (width, height) != (self.width as usize, self.height as usize) {
            out.fill(0);
        }
        let stride = self.width as usize * 3;
        let mut target = Target { pixels: out, stride, left, top, width, height };
        self.orientation.write(built.scaled.data(0), built.scaled.stride(0), &mut target);
        Ok(())
    }

    fn build(&self, picture: &mut Picture) -> Result<ScalerState, AvError> {
        let kind = picture.kind;
        let layout = Layout::trimmed(
            &kind.shape,
            self.orientation,
            self.fit,
            (self.width, self.height),
            self.trim,
        );
        picture.crop(layout.crop)?;
        let (width, height) = self.orientation.swap((layout.place[2], layout.place[3]));
        let from = &picture.frame;
        let to = Pixel::RGB24;
        // Area averaging does not alias when scaling down. The other flags cost nothing measurable,
        // bring it within rounding of the true mean, and keep the colour resolution of RGB sources.
        let flags = if self.even_colours && (from.width(), from.height()) == (width, height) {
            Flags::BILINEAR
        } else {
            Flags::AREA | Flags::ACCURATE_RND | Flags::FULL_CHR_H_INT | Flags::FULL_CHR_H_INP
        };
        let mut context =
            Context::get(kind.format, from.width(), from.height(), to, width, height, flags)?;
        ffi::set_colours(&mut context, kind.colours);
        // Not into the caller's buffer, because libav writes whole vectors, past the end of a row.
        Ok(ScalerState { kind, layout, context, scaled: frame::Video::new(to, width, height) })
    }
}

impl Picture {
    /// Wraps a picture from the codec.
    pub(super) fn new(frame: frame::Video) -> Self {
        let kind = PictureKind::of(&frame);
        Self { frame, kind, cropped: false }
    }

    fn crop(&mut self, edges: [u32; 4]) -> Result<(), AvError> {
        if self.cropped || edges == [0; 4] {
            return Ok(());
        }
        self.cropped = true;
        ffi::crop(&mut self.frame, edges)
    }
}

impl PictureKind {
    fn of(frame: &frame::Video) -> Self {
        let format = frame.format();
        let aspect = f64::from(frame.aspect_ratio());
        let pixel_aspect = if aspect.is_finite() && aspect > 0.0 { aspect } else { 1.0 };
        let chroma = format.descriptor().map(|it| (it.log2_chroma_w(), it.log2_chroma_h()));
        let size = (frame.width(), frame.height());
        let shape = Shape { size, pixel_aspect, log2_chroma: chroma.unwrap_or_default() };
        Self { format, shape, colours: ffi::colours(frame) }
    }
}
