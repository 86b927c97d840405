//! Decodes one video in this process. [`super::decoder_process`] does the same in a child process.

use std::path::Path;

use super::protocol::{FrameSink, Request};
use crate::stages::Error;
use crate::video::{Decoder, Fault, Guard, OpenVideo};

/// Decodes until the end or a fatal fault of the file. Returns the fault.
pub fn decode(
    request: &Request,
    open: OpenVideo,
    guard: Guard,
    take: &mut FrameSink,
) -> Result<Option<Fault>, Error> {
    let options = &request.options;
    let mut decoder = Decoder::guarded(Path::new(&request.video.uri), Some(open), options, guard)?;
    let mut pixels = vec![0; options.frame_bytes()];
    while let Some(frame) = decoder.next_frame(&mut pixels)? {
        take(frame, &pixels)?;
    }
    Ok(decoder.finish().fault)
}
