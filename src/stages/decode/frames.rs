//! The frames of one video. In: where it is and what they should be like; out: frame after frame, then what was wrong with the file.
//! Start at [`decode`], which does it in this process; [`super::child`] does it in another.

use std::sync::Arc;

use super::VideoSource;
use super::wire::{Request, Take};
use crate::dataset::{Access, address, local_path, open_source};
use crate::stages::Error;
use crate::video::{Decoder, Fault, Guard, OpenVideo};

/// Decodes until the end or the first fault that ends the file; returns the fault.
pub fn decode(request: &Request, access: &Access, guard: Guard, take: &mut Take) -> Result<Option<Fault>, Error> {
    let (video, options) = (&request.video, &request.options);
    let elsewhere = address(&video.uri).is_some() || video.archived.is_some();
    let open = elsewhere.then(|| opener(video, access));
    let mut decoder = Decoder::guarded(&local_path(&video.uri), open, options, guard)?;
    let mut pixels = vec![0; options.frame_bytes()];
    while let Some(frame) = decoder.next_frame(&mut pixels)? {
        take(frame, &pixels)?;
    }
    Ok(decoder.finish().fault)
}

/// Opens a video that is no local file of its own, to be read as it is decoded.
fn opener(video: &VideoSource, access: &Access) -> OpenVideo {
    let (file, access) = (video.file().to_owned(), access.clone());
    let member = video.archived.as_ref().map(|archived| (archived.at, video.bytes));
    Arc::new(move || Ok(Box::new(open_source(&file, member, &access)?)))
}
