//! What the linked libav is and can do, for `lapo doctor`; and how it is kept quiet.

use std::sync::Once;

use ffmpeg_next::codec;

/// The version of libavcodec, such as `59.37.100`.
pub fn libav_version() -> String {
    let version = codec::version();
    format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff)
}

/// Whether videos can be written: `record` makes H.264.
pub fn writes_h264() -> bool {
    codec::encoder::find_by_name("libx264").is_some()
}

/// Which of these codecs no decoder is there for.
pub fn missing_decoders<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| codec::decoder::find_by_name(name).is_none()).collect()
}

/// libav prints to stderr by itself; what it has to say comes back as errors instead, or is heard in `ffi`.
pub(super) fn silence_libav() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fills the texts of libav's error codes; it has nothing else to start.
        let _ = ffmpeg_next::init();
        super::listen::listen_to_libav();
    });
}
