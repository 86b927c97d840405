//! Safe functions for the few libav calls without a wrapper in `ffmpeg-next`.
//!
//! They use `ffmpeg-next`'s own types and make no decisions; policy is in `source`, `reader` and
//! `scale`. All unsafe code of the module `video` is in this file and in `libav_log`.

use std::ffi::{CStr, c_int};
use std::ptr;

use ffmpeg_next::ffi;
use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::packet::Ref;
use ffmpeg_next::software::scaling;
use ffmpeg_next::{Dictionary, Error, Packet, Stream, frame};

use super::libav_log;

/// A container format. libav's descriptions of formats are static.
pub(super) struct Format(*const ffi::AVInputFormat);

/// Detects the container format from the file's bytes, never from its name.
///
/// The score is libav's confidence, from 0 to 100.
#[expect(unsafe_code, reason = "ffmpeg-next finds formats only together with opening them")]
pub(super) fn find_format(io: &mut StreamIo, probe_bytes: u32) -> Result<(Format, i32), Error> {
    let mut format: *const ffi::AVInputFormat = ptr::null();
    // SAFETY: `io` is alive for the call; a null name and log context are allowed. The cast
    // covers the `const` that this argument has had since libav 5.
    let score = unsafe {
        ffi::av_probe_input_buffer2(
            io.as_mut_ptr(),
            (&raw mut format).cast(),
            ptr::null(),
            ptr::null_mut(),
            0,
            probe_bytes,
        )
    };
    if score < 0 || format.is_null() {
        return Err(Error::from(score.min(-1)));
    }
    Ok((Format(format), score))
}

impl Format {
    /// Returns libav's name; a demuxer for several formats has several, joined by commas.
    #[expect(unsafe_code, reason = "a C string")]
    pub(super) fn name(&self) -> &'static str {
        // SAFETY: the pointer is one of libav's static format descriptions, whose name is a
        // static C string.
        let name = unsafe { CStr::from_ptr((*self.0).name) };
        name.to_str().unwrap_or("?")
    }
}

/// Opens the container and detects the parameters of its streams.
///
/// `format_options` configure the demuxer, `codec_options` the codecs that libav opens to detect
/// the parameters.
#[expect(unsafe_code, reason = "ffmpeg-next cannot give options to the codecs opened for a look")]
pub(super) fn open_input(
    mut io: StreamIo,
    format: &Format,
    format_options: Dictionary,
    codec_options: &Dictionary,
) -> Result<Input, Error> {
    // SAFETY: `context` is freed by libav on failure, and owned by `Input` together with `io`
    // otherwise, which closes the context before `io`. `options` is freed by the dictionary that
    // takes it back.
    let input = unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(Error::Other { errno: ffmpeg_next::error::ENOMEM });
        }
        libav_log::forget_container(context);
        (*context).pb = io.as_mut_ptr();
        (*context).flags |= ffi::AVFMT_FLAG_CUSTOM_IO as c_int;
        let mut options = format_options.disown();
        let code = ffi::avformat_open_input(
            &raw mut context,
            ptr::null(),
            format.0 as *mut _,
            &raw mut options,
        );
        drop(Dictionary::own(options));
        if code < 0 {
            return Err(Error::from(code));
        }
        Input::wrap_with_custom_io(context, io)
    };
    find_stream_info(input, codec_options)
}

/// Reads the first packets until every stream's parameters are known.
#[expect(unsafe_code, reason = "ffmpeg-next passes no options here")]
fn find_stream_info(mut input: Input, codec_options: &Dictionary) -> Result<Input, Error> {
    let copies: Vec<Dictionary> = input.streams().map(|_| codec_options.clone()).collect();
    // SAFETY: libav reads one dictionary for each stream there is at the call, and leaves in the
    // array what is to be freed.
    let code = unsafe {
        let mut raw: Vec<_> = copies.into_iter().map(|copy| copy.disown()).collect();
        let code = ffi::avformat_find_stream_info(input.as_mut_ptr(), raw.as_mut_ptr());
        for options in raw {
            drop(Dictionary::own(options));
        }
        code
    };
    if code < 0 { Err(Error::from(code)) } else { Ok(input) }
}

/// Returns whether the file states its durations. If not, libav estimates them from the bit rate.
#[expect(unsafe_code, reason = "a field without an accessor")]
pub(super) fn duration_is_stated(input: &Input) -> bool {
    use ffi::AVDurationEstimationMethod::AVFMT_DURATION_FROM_BITRATE;
    // SAFETY: the context is alive as long as `input`, and the field is a plain enum.
    let method = unsafe { (*input.as_ptr()).duration_estimation_method };
    method != AVFMT_DURATION_FROM_BITRATE
}

/// Returns the start time according to the container, in seconds.
#[expect(unsafe_code, reason = "a field without an accessor")]
pub(super) fn start_time_secs(input: &Input) -> Option<f64> {
    // SAFETY: the context is alive as long as `input`, and the field is a plain number.
    let start = unsafe { (*input.as_ptr()).start_time };
    (start != ffi::AV_NOPTS_VALUE).then(|| start as f64 / f64::from(ffi::AV_TIME_BASE))
}

/// Returns width and height according to the container, 0 if unknown.
#[expect(unsafe_code, reason = "fields without an accessor")]
pub(super) fn stated_size(stream: &Stream) -> (u32, u32) {
    let parameters = stream.parameters();
    // SAFETY: the parameters are alive as long as the stream, and the fields are plain numbers.
    let (width, height) = unsafe { ((*parameters.as_ptr()).width, (*parameters.as_ptr()).height) };
    (u32::try_from(width).unwrap_or(0), u32::try_from(height).unwrap_or(0))
}

/// Returns the container's four-letter code for the codec, or a number if it is not printable.
#[expect(unsafe_code, reason = "a field without an accessor")]
pub(super) fn fourcc(stream: &Stream) -> String {
    // SAFETY: the parameters are alive as long as the stream, and the field is a plain number.
    let tag = unsafe { (*stream.parameters().as_ptr()).codec_tag };
    let letters = tag.to_le_bytes();
    let is_text = letters.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ');
    if is_text {
        letters.iter().map(|byte| char::from(*byte)).collect()
    } else {
        format!("number {tag}")
    }
}

/// Returns a tag of a stream, if it exists and is valid UTF-8.
#[expect(unsafe_code, reason = "ffmpeg-next takes a broken file's tags for UTF-8 unchecked")]
pub(super) fn tag<'a>(stream: &'a Stream, key: &CStr) -> Option<&'a str> {
    // SAFETY: the stream's dictionary lives as long as the stream, and its values are C strings.
    let value = unsafe {
        let entry = ffi::av_dict_get((*stream.as_ptr()).metadata, key.as_ptr(), ptr::null(), 0);
        entry.as_ref().map(|entry| CStr::from_ptr(entry.value))
    };
    value?.to_str().ok()
}

/// Makes the demuxer skip every stream but one.
#[expect(unsafe_code, reason = "a field without an accessor")]
pub(super) fn read_only(input: &mut Input, wanted: usize) {
    for index in (0..input.nb_streams() as usize).filter(|index| *index != wanted) {
        if let Some(mut stream) = input.stream_mut(index) {
            // SAFETY: the stream belongs to the context, which is alive and borrowed mutably.
            unsafe { (*stream.as_mut_ptr()).discard = ffi::AVDiscard::AVDISCARD_ALL };
        }
    }
}

/// Returns whether an edit list removes the packet's picture.
#[expect(unsafe_code, reason = "a flag that ffmpeg-next does not name")]
pub(super) fn is_discarded(packet: &Packet) -> bool {
    // SAFETY: the packet is alive, and the field is a plain number.
    unsafe { (*packet.as_ptr()).flags & ffi::AV_PKT_FLAG_DISCARD as c_int != 0 }
}

/// Makes the codec start every picture as noise, to make undecoded parts recognisable.
#[expect(unsafe_code, reason = "ffmpeg-next cannot set this callback")]
pub(super) fn start_pictures_as_noise(codec: &mut ffmpeg_next::codec::Context) {
    // SAFETY: the context is alive and not open yet; the callback is a plain function.
    unsafe { (*codec.as_mut_ptr()).get_buffer2 = Some(noise) };
}

#[expect(unsafe_code, reason = "libav calls it")]
unsafe extern "C" fn noise(
    codec: *mut ffi::AVCodecContext,
    picture: *mut ffi::AVFrame,
    flags: c_int,
) -> c_int {
    // SAFETY: libav passes a living context and a frame to fill. After success, the buffers belong
    // to this frame alone, and each has the size that it states.
    unsafe {
        let code = ffi::avcodec_default_get_buffer2(codec, picture, flags);
        if code < 0 {
            return code;
        }
        for buffer in (*picture).buf.iter().filter_map(|buffer| buffer.as_ref()) {
            let bytes = std::slice::from_raw_parts_mut(buffer.data, buffer.size);
            for (byte, noise) in bytes.iter_mut().zip(NOISE.iter().cycle()) {
                *byte = *noise;
            }
        }
        code
    }
}

/// Pseudo-random bytes from xorshift32, which no picture contains in this order.
const NOISE: [u8; 251] = {
    let mut noise = [0; 251];
    let mut index = 0;
    let mut state = 0x2545_f491_u32;
    while index < noise.len() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        noise[index] = (state >> 24) as u8;
        index += 1;
    }
    noise
};

/// Returns whether two pictures have the same size, format and visible pixels.
#[expect(unsafe_code, reason = "ffmpeg-next does not say how much of a row is visible")]
pub(super) fn have_same_pixels(one: &frame::Video, other: &frame::Video) -> bool {
    if (one.width(), one.height(), one.format()) != (other.width(), other.height(), other.format())
    {
        return false;
    }
    (0..one.planes().min(other.planes())).all(|plane| {
        // SAFETY: the call only reads numbers, and the format has this plane.
        let bytes = unsafe {
            ffi::av_image_get_linesize(one.format().into(), one.width() as c_int, plane as c_int)
        };
        let Ok(bytes) = usize::try_from(bytes) else { return false };
        let rows = one.data(plane).chunks(one.stride(plane));
        let other_rows = other.data(plane).chunks(other.stride(plane));
        // The bytes beyond the width are padding.
        rows.zip(other_rows)
            .take(one.plane_height(plane) as usize)
            .all(|(row, other_row)| row.get(..bytes) == other_row.get(..bytes))
    })
}

/// Crops the picture in place by moving its plane pointers, without copying pixels.
#[expect(unsafe_code, reason = "ffmpeg-next has no cropping")]
pub(super) fn crop(
    picture: &mut frame::Video,
    [left, top, right, bottom]: [u32; 4],
) -> Result<(), Error> {
    // SAFETY: the frame is alive and exclusively ours; libav checks the edges against its size.
    let code = unsafe {
        let raw = picture.as_mut_ptr();
        ((*raw).crop_left, (*raw).crop_top) = (left as usize, top as usize);
        ((*raw).crop_right, (*raw).crop_bottom) = (right as usize, bottom as usize);
        ffi::av_frame_apply_cropping(raw, ffi::AV_FRAME_CROP_UNALIGNED as c_int)
    };
    if code < 0 { Err(Error::from(code)) } else { Ok(()) }
}

/// Colour matrix and range of a picture, as libav's numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Colours {
    matrix: c_int,
    range: c_int,
}

impl Colours {
    /// Returns swscale's number for the matrix; BT.601 if the matrix is missing or unsupported.
    fn yuv_matrix(self) -> c_int {
        match self.matrix {
            named @ (1..=7 | 9..=10) => named,
            _ => ffi::SWS_CS_DEFAULT as c_int,
        }
    }
}

/// Reads the colour matrix and range of a picture.
#[expect(unsafe_code, reason = "a broken file may hold numbers that ffmpeg-next's enums do not")]
pub(super) fn colours(picture: &frame::Video) -> Colours {
    // SAFETY: the frame is alive, and both fields are C enums, read as the integers they are.
    unsafe {
        let raw = picture.as_ptr();
        Colours {
            matrix: (&raw const (*raw).colorspace).cast::<c_int>().read(),
            range: (&raw const (*raw).color_range).cast::<c_int>().read(),
        }
    }
}

/// Sets the scaler's input colours, as ffmpeg's scale filter does.
///
/// An unspecified matrix counts as BT.601, and an unspecified range as the pixel format's default.
#[expect(unsafe_code, reason = "ffmpeg-next has no colour details")]
pub(super) fn set_colours(scaler: &mut scaling::Context, colours: Colours) {
    let mut inverse = ptr::null_mut();
    let mut table = ptr::null_mut();
    let [mut from_full, mut to_full, mut brightness, mut contrast, mut saturation] = [0; 5];
    // SAFETY: the scaler is alive. libav fills every pointer, and the tables that it returns are
    // static. It refuses if the two formats need no matrix.
    unsafe {
        let scaler = scaler.as_mut_ptr();
        let code = ffi::sws_getColorspaceDetails(
            scaler,
            &raw mut inverse,
            &raw mut from_full,
            &raw mut table,
            &raw mut to_full,
            &raw mut brightness,
            &raw mut contrast,
            &raw mut saturation,
        );
        if code < 0 {
            return;
        }
        if colours.range == ffi::AVColorRange::AVCOL_RANGE_JPEG as c_int {
            from_full = 1;
        } else if colours.range == ffi::AVColorRange::AVCOL_RANGE_MPEG as c_int {
            from_full = 0;
        }
        let matrix = ffi::sws_getCoefficients(colours.yuv_matrix());
        ffi::sws_setColorspaceDetails(
            scaler, matrix, from_full, table, to_full, brightness, contrast, saturation,
        );
    }
}
