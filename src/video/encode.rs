//! Encodes RGB frames as H.264 in MP4, at a constant rate, in memory.
//!
//! Start at [`VideoEncoder::encode`].

use std::io::{Cursor, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use ffmpeg_next::codec::{self, context::Context, encoder};
use ffmpeg_next::format::context::StreamIo;
use ffmpeg_next::format::{self, Pixel, output_to_stream};
use ffmpeg_next::software::scaling::{Context as Scaling, Flags};
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
    /// Magnification: each pixel becomes a block of `zoom` x `zoom` pixels. It must be even,
    /// because colours are stored at half the resolution.
    pub zoom: u32,
}

impl VideoEncoder {
    /// Encodes `frames` and returns the bytes of the MP4 file.
    ///
    /// # Shapes
    /// - `frames`: `[frame, height, width, 3]`
    pub fn encode(&self, frames: &[u8]) -> Result<Vec<u8>, EncodeError> {
        let bytes = self.width as usize * self.height as usize * 3;
        if frames.is_empty() || !frames.len().is_multiple_of(bytes) {
            return Err(EncodeError::Frames {
                bytes: frames.len(),
                width: self.width,
                height: self.height,
            });
        }
        super::libav::silence_libav();
        let memory = Memory::default();
        let io = StreamIo::from_write_seek(memory.clone())?;
        let mut output = output_to_stream(io, None, Some("mp4"))?;
        let mut encoder =
            self.encoder(output.format().flags().contains(format::Flags::GLOBAL_HEADER))?;
        output.add_stream_with(&encoder)?;
        output.write_header()?;

        let [width, height] = [self.width, self.height].map(|side| side * self.zoom);
        let flags = Flags::POINT | Flags::ACCURATE_RND;
        let mut scaling = Scaling::get(
            Pixel::RGB24,
            self.width,
            self.height,
            Pixel::YUV420P,
            width,
            height,
            flags,
        )?;
        let mut rgb = frame::Video::new(Pixel::RGB24, self.width, self.height);
        let mut yuv = frame::Video::empty();
        for (time, pixels) in frames.chunks_exact(bytes).enumerate() {
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

    fn encoder(&self, global_header: bool) -> Result<encoder::Video, EncodeError> {
        let codec = encoder::find_by_name("libx264").ok_or(EncodeError::NoEncoder)?;
        let mut context = Context::new_with_codec(codec).encoder().video()?;
        context.set_width(self.width * self.zoom);
        context.set_height(self.height * self.zoom);
        context.set_format(Pixel::YUV420P);
        context.set_time_base(Rational(1, self.fps as i32));
        context.set_frame_rate(Some(Rational(self.fps as i32, 1)));
        context.set_gop(60);
        if global_header {
            context.set_flags(codec::Flags::GLOBAL_HEADER);
        }
        // One thread, so that the same frames give the same bytes. Tasks run in parallel anyway.
        let options = [("crf", "20"), ("preset", "slow"), ("threads", "1")]
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
