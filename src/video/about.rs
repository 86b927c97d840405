//! What the linked libav is and can do, for `lapo doctor`.

use ffmpeg_next::codec;

/// The version of libavcodec, such as `59.37.100`.
pub fn libav_version() -> String {
    let version = codec::version();
    format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff)
}

/// Which of these codecs no decoder is there for.
pub fn missing_decoders<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| codec::decoder::find_by_name(name).is_none()).collect()
}
