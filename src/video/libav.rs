//! Version and codecs of the linked libav, for `lapo doctor`, and the setup of its log.

use std::sync::Once;

use ffmpeg_next::codec;

/// Returns the version of libavcodec, such as `59.37.100`.
pub fn libav_version() -> String {
    let version = codec::version();
    format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff)
}

/// Returns whether libav can encode H.264, which the stage `record` needs.
pub fn writes_h264() -> bool {
    codec::encoder::find_by_name("libx264").is_some()
}

/// Returns the codecs among `names` without a decoder in libav.
pub fn missing_decoders<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| codec::decoder::find_by_name(name).is_none()).collect()
}

/// Stops libav from printing to stderr, and captures its messages instead (see `libav_log`).
pub(super) fn silence_libav() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Registers the texts of libav's error codes. Nothing else needs initialising.
        let _ = ffmpeg_next::init();
        super::libav_log::capture_libav_log();
    });
}
