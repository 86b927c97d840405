//! Encodes RGB frames as H.264 in MP4, at a constant rate, in memory.
//!
//! Start at [`VideoEncoder::encode`].

use std::io::{Cursor, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use ffmpeg_next::codec::{self, context::Context, encoder};
use ffmpeg_next::format::context::StreamIo;
use ffmpeg_next::format::{self, Pixel, output_to_stream};
use ffmpeg_next::software::scaling::{Context as Scaling, Flags};
use ffmpeg_next::util::color;
use ffmpeg_next::{Dictionary, Error as AvError, Packet, Rational, frame};

/// Reason why frames could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// libav was built without the encoder.
    #[error("libav was built without the H.264 encoder libx264")]
    NoEncoder,
    /// The bytes are empty, or not a whole number of frames.
    #[error("{bytes} bytes are not a whole number of RGB frames of {width}x{height} pixels")]
    Frames {
        /// Number of bytes.
        bytes: usize,
        /// Width of a frame in pixels.
        width: u32,
        /// Height of a frame in pixels.
        height: u32,
    },
    /// libav returned an error.
    #[error(transparent)]
    Av(#[from] AvError),
}

/// Settings of an encoded video.
#[derive(Clone, Copy, Debug)]
pub struct VideoEncoder {
    /// Width of a frame in pixels.
    pub width: u32,
    /// Height of a frame in pixels.
    pub height: u32,
    /// Frames per second.
    pub fps: u32,
    /// Magnification: each pixel becomes a block of `zoom` x `zoom` pixels. Width and height must
    /// be even after it, because colours are stored at half the resolution. An even magnification
    /// keeps the colour of every pixel.
    pub zoom: u32,
    /// Whether readers pick single frames: every second frame is a keyframe, no frame depends on a
    /// later one, and the file's index is at its beginning.
    pub random_access: bool,
}

/// Frames from one keyframe to the next, for random access.
const SHORT_GOP: u32 = 2;
/// Bytes of an MP4's index without its entries, and of the entries of one frame. Both are upper
/// bounds: the muxer fills the rest with an empty box, and fails if they are too small.
const INDEX_BYTES: usize = 8192;
const INDEX_BYTES_PER_FRAME: usize = 24;

impl VideoEncoder {
    /// Encodes `frames` and returns the bytes of the MP4 file.
    ///
    /// # Shapes
    /// - `frames`: `[frame, height, width, 3]`
    pub fn encode(&self, frames: &[u8]) -> Result<Vec<u8>, EncodeError> {
        let bytes = self.frame_bytes();
        if frames.is_empty() || !frames.len().is_multiple_of(bytes) {
            return Err(self.wrong_frames(frames.len()));
        }
        self.encode_frames(frames.chunks_exact(bytes))
    }

    /// Encodes frames that need not lie in one piece of memory.
    ///
    /// # Shapes
    /// - each of `frames`: `[height, width, 3]`
    pub fn encode_frames<'f>(
        &self,
        frames: impl ExactSizeIterator<Item = &'f [u8]>,
    ) -> Result<Vec<u8>, EncodeError> {
        super::libav::silence_libav();
        let memory = Memory::default();
        let io = StreamIo::from_write_seek(memory.clone())?;
        let mut output = output_to_stream(io, None, Some("mp4"))?;
        let mut encoder =
            self.encoder(output.format().flags().contains(format::Flags::GLOBAL_HEADER))?;
        output.add_stream_with(&encoder)?;
        output.write_header_with(self.muxer_options(frames.len()))?;

        let mut scaling = self.scaling()?;
        let mut rgb = frame::Video::new(Pixel::RGB24, self.width, self.height);
        let mut yuv = frame::Video::empty();
        for (time, pixels) in frames.enumerate() {
            if pixels.len() != self.frame_bytes() {
                return Err(self.wrong_frames(pixels.len()));
            }
            // libav pads its rows, so they are copied one by one.
            let stride = rgb.stride(0);
            let row_bytes = self.width as usize * 3;
            let rows = rgb.data_mut(0).chunks_mut(stride);
            for (to, from) in rows.zip(pixels.chunks_exact(row_bytes)) {
                to[..row_bytes].copy_from_slice(from);
            }
            scaling.run(&rgb, &mut yuv)?;
            yuv.set_pts(Some(time as i64));
            encoder.send_frame(&yuv)?;
            self.drain(&mut encoder, &mut output)?;
        }
        encoder.send_eof()?;
        self.drain(&mut encoder, &mut output)?;
        output.write_trailer()?;
        drop(output);
        Ok(memory.take())
    }

    fn frame_bytes(&self) -> usize {
        self.width as usize * self.height as usize * 3
    }

    fn wrong_frames(&self, bytes: usize) -> EncodeError {
        EncodeError::Frames { bytes, width: self.width, height: self.height }
    }

    /// Returns the converter of RGB frames to the encoder's pixels.
    fn scaling(&self) -> Result<Scaling, EncodeError> {
        let [width, height] = [self.width, self.height].map(|side| side * self.zoom);
        // Without magnification, four pixels share a colour: it must be their mean.
        let flags = if self.zoom == 1 {
            Flags::AREA | Flags::ACCURATE_RND | Flags::FULL_CHR_H_INP
        } else {
            Flags::POINT | Flags::ACCURATE_RND
        };
        let (from, to) = (Pixel::RGB24, Pixel::YUV420P);
        Ok(Scaling::get(from, self.width, self.height, to, width, height, flags)?)
    }

    /// Returns the options of the MP4 muxer for a video of `frames` frames.
    fn muxer_options(&self, frames: usize) -> Dictionary<'_> {
        let mut options = Dictionary::new();
        if self.random_access {
            // The usual `faststart` would read the file back, which a stream in memory cannot.
            let index = INDEX_BYTES + INDEX_BYTES_PER_FRAME * frames;
            options.set("moov_size", &index.to_string());
            options.set("use_editlist", "0");
        }
        options
    }

    fn encoder(&self, global_header: bool) -> Result<encoder::Video, EncodeError> {
        let codec = encoder::find_by_name("libx264").ok_or(EncodeError::NoEncoder)?;
        let mut context = Context::new_with_codec(codec).encoder().video()?;
        context.set_width(self.width * self.zoom);
        context.set_height(self.height * self.zoom);
        context.set_format(Pixel::YUV420P);
        context.set_time_base(Rational(1, self.fps as i32));
        context.set_frame_rate(Some(Rational(self.fps as i32, 1)));
        context.set_gop(if self.random_access { SHORT_GOP } else { 60 });
        if self.random_access {
            context.set_max_b_frames(0);
            // What the conversion from RGB writes, so that no reader has to guess.
            context.set_colorspace(color::Space::SMPTE170M);
            context.set_color_range(color::Range::MPEG);
        }
        if global_header {
            context.set_flags(codec::Flags::GLOBAL_HEADER);
        }
        let [crf, preset] = if self.random_access { ["18", "medium"] } else { ["20", "slow"] };
        // One thread, so that the same frames give the same bytes. Tasks run in parallel anyway.
        let options = [("crf", crf), ("preset", preset), ("threads", "1")]
            .into_iter()
            .collect::<Dictionary>();
        Ok(context.open_with(options)?)
    }

    /// Writes the encoder's finished packets.
    fn drain(
        &self,
        encoder: &mut encoder::Video,
        output: &mut format::context::Output,
    ) -> Result<(), EncodeError> {
        let mut packet = Packet::empty();
        while encoder.receive_packet(&mut packet).is_ok() {
            packet.set_stream(0);
            packet.set_duration(1);
            let time_base =
                output.stream(0).map_or(Rational(1, self.fps as i32), |stream| stream.time_base());
            packet.rescale_ts(Rational(1, self.fps as i32), time_base);
            packet.write_interleaved(output)?;
        }
        Ok(())
    }
}

/// A file in memory, shared with libav.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Cursor<Vec<u8>>>>);

impl Memory {
    fn take(&self) -> Vec<u8> {
        std::mem::take(self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut())
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Seek for Memory {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).seek(to)
    }
}
