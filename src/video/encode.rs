//! Frames become a video: H.264 in MP4, at a constant rate.
//!
//! In: RGB frames of one size. Out: the file's bytes. Start at [`Film::encode`].

use std::io::{Cursor, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use ffmpeg_next::codec::{self, context::Context, encoder};
use ffmpeg_next::format::context::StreamIo;
use ffmpeg_next::format::{self, Pixel, output_to_stream};
use ffmpeg_next::software::scaling::{Context as Scaling, Flags};
use ffmpeg_next::{Dictionary, Error as AvError, Packet, Rational, frame};

/// Why a video could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FilmError {
    /// libav lacks the encoder.
    #[error("libav has no libx264")]
    NoEncoder,
    /// The frames are none, or not of the size that was said.
    #[error("{bytes} bytes are no frames of {width} x {height}")]
    Frames {
        /// Bytes given.
        bytes: usize,
        /// Width of a frame in pixels.
        width: u32,
        /// Height of a frame in pixels.
        height: u32,
    },
    /// libav failed.
    #[error(transparent)]
    Av(#[from] AvError),
}

/// What the video is like.
#[derive(Clone, Copy, Debug)]
pub struct Film {
    /// Width of a frame in pixels.
    pub width: u32,
    /// Height of a frame in pixels.
    pub height: u32,
    /// Frames a second.
    pub fps: u32,
    /// Every pixel becomes a block of so many by so many, even: colours are stored at half the resolution.
    pub zoom: u32,
}

impl Film {
    /// The video's bytes: as many pictures as there are frames.
    ///
    /// # Shapes
    /// - `frames`: `[frame, height, width, 3]`
    pub fn encode(&self, frames: &[u8]) -> Result<Vec<u8>, FilmError> {
        let bytes = (self.width * self.height * 3) as usize;
        if frames.is_empty() || !frames.len().is_multiple_of(bytes) {
            return Err(FilmError::Frames {
                bytes: frames.len(),
                width: self.width,
                height: self.height,
            });
        }
        super::about::silence_libav();
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
        let (mut rgb, mut yuv) =
            (frame::Video::new(Pixel::RGB24, self.width, self.height), frame::Video::empty());
        for (time, pixels) in frames.chunks_exact(bytes).enumerate() {
            let (stride, row) = (rgb.stride(0), self.width as usize * 3);
            rgb.data_mut(0)
                .chunks_mut(stride)
                .zip(pixels.chunks_exact(row))
                .for_each(|(to, from)| to[..row].copy_from_slice(from));
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

    fn encoder(&self, global_header: bool) -> Result<encoder::Video, FilmError> {
        let codec = encoder::find_by_name("libx264").ok_or(FilmError::NoEncoder)?;
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
        // One thread: the same frames give the same bytes, and tasks run side by side anyway.
        let options = [("crf", "20"), ("preset", "slow"), ("threads", "1")]
            .into_iter()
            .collect::<Dictionary>();
        Ok(context.open_with(options)?)
    }

    /// Packets that are ready go into the file.
    fn drain(
        &self,
        encoder: &mut encoder::Video,
        output: &mut format::context::Output,
    ) -> Result<(), FilmError> {
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

/// A file in memory, of which libav holds one end.
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
