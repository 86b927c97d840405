//! Captures libav's log messages, because some damage is reported nowhere else.
//!
//! Demuxers log damage and continue; codecs log why they gave no picture. [`capture_libav_log`]
//! installs the callback, which prints nothing. It counts errors by container and keeps flags by
//! codec (see [`CodecLog`]).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ffmpeg_next::codec;
use ffmpeg_next::ffi;
use ffmpeg_next::format::context::Input;

thread_local! {
    /// Number of errors and first error of each open container's demuxer, by its address. A
    /// container is read on one thread.
    static DEMUXER_ERRORS: RefCell<HashMap<usize, (u64, String)>> = RefCell::default();
    /// Open containers whose demuxer has reported packet loss since the last query.
    static PACKET_LOSSES: RefCell<HashSet<usize>> = RefCell::default();
}

/// Beginnings of the codecs' messages about an invented part of a picture, or one kept despite a
/// wrong checksum. Their return codes do not report these.
const DAMAGE: [&str; 10] = [
    "concealing ",
    "error while decoding MB",
    "Could not find ref with POC",
    MISSING_REFERENCE,
    "slice CRC mismatch",
    "CRC mismatch",
    "bytestream end mismatching",
    "quant_table_index out of range",
    "LZW decode failed",
    "LZW init failed",
];

/// H.264's message for a missing reference. It is harmless after a start, because encoders name
/// references from before it.
pub(super) const MISSING_REFERENCE: &str = "Missing reference picture, default is";

/// Messages with which demuxers of transport streams and FLV report packet loss.
const PACKET_LOSS: [&str; 3] =
    ["Continuity check failed", "Packet had TEI flag set", "Packet mismatch"];

/// H.264's message for a gap in its numbering of references. Some streams are encoded with gaps, so
/// it matters only after packet loss.
const MISSING_FRAME: &str = "Frame num gap";

/// Codecs with a missing numbered reference since the last query, by [`CodecLog`] number.
static MISSING_FRAMES: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

/// Damage reported by codecs since the last query, by [`CodecLog`] number.
static DAMAGED: Mutex<BTreeMap<usize, String>> = Mutex::new(BTreeMap::new());

/// Reasons why codecs got no buffer for a picture, by [`CodecLog`] number. This is global because a
/// codec may have several threads.
static REFUSED_BUFFERS: Mutex<BTreeMap<usize, Refusal>> = Mutex::new(BTreeMap::new());

/// Reason why a codec got no buffer for a picture.
#[derive(Clone, Copy, PartialEq)]
enum Refusal {
    /// The size is invalid or above the limit.
    Size,
    /// Memory is exhausted.
    Memory,
}

/// Captures libav's messages instead of printing them.
#[expect(unsafe_code, reason = "ffmpeg-next cannot take libav's messages")]
#[expect(
    clippy::missing_transmute_annotations,
    reason = "the type of variadic arguments differs between machines"
)]
pub(super) fn capture_libav_log() {
    // SAFETY: the callback stays valid for the life of the process. The type of its variadic
    // arguments differs between machines, but all of them pass it like a pointer. The callback
    // declares it as a pointer and does not use it.
    unsafe {
        let callback: unsafe extern "C" fn(*mut c_void, c_int, *const c_char, *mut c_void) =
            on_message;
        ffi::av_log_set_callback(Some(std::mem::transmute(callback)));
    }
}

#[expect(unsafe_code, reason = "libav calls it")]
unsafe extern "C" fn on_message(
    context: *mut c_void,
    level: c_int,
    format: *const c_char,
    _: *mut c_void,
) {
    if level > ffi::AV_LOG_DEBUG as c_int || context.is_null() || format.is_null() {
        return;
    }
    // SAFETY: libav passes a struct that begins with a pointer to its class. The class name and the
    // format are C strings.
    let (context, class, text) = unsafe {
        let context = message_source(context);
        let class: *const ffi::AVClass = *context.cast();
        (
            context,
            if class.is_null() { c"" } else { CStr::from_ptr((*class).class_name) },
            CStr::from_ptr(format),
        )
    };
    let is_error = level <= ffi::AV_LOG_ERROR as c_int;
    if class == c"AVFormatContext" {
        on_demuxer_message(context as usize, &text.to_string_lossy(), is_error);
    } else if class == c"AVCodecContext" {
        // SAFETY: a context of this class is an `AVCodecContext`; its opaque pointer is only used
        // as a number.
        on_codec_message(
            unsafe { (*context.cast::<ffi::AVCodecContext>()).opaque } as usize,
            &text.to_string_lossy(),
        );
    }
}

/// Returns the codec or demuxer that a message is about.
///
/// libav checks picture sizes in a helper struct of class `IMGUTILS`, whose parent is the codec.
///
/// # Safety
/// `context` must be a struct that begins with a pointer to its class, as libav passes to log
/// callbacks.
#[expect(unsafe_code, reason = "libav's structs")]
unsafe fn message_source(context: *mut c_void) -> *mut c_void {
    // SAFETY: guaranteed by the caller. A class with a parent offset has a parent there, or null.
    unsafe {
        let class: *const ffi::AVClass = *context.cast();
        if class.is_null()
            || CStr::from_ptr((*class).class_name) != c"IMGUTILS"
            || (*class).parent_log_context_offset == 0
        {
            return context;
        }
        let parent: *mut c_void =
            *context.byte_offset((*class).parent_log_context_offset as isize).cast();
        if parent.is_null() { context } else { parent }
    }
}

fn on_demuxer_message(context: usize, text: &str, is_error: bool) {
    // `try_with`: the thread may be ending, with its thread-local values already destroyed.
    if is_error {
        let first = || (0, constant_part(text));
        let _ = DEMUXER_ERRORS
            .try_with(|all| all.borrow_mut().entry(context).or_insert_with(first).0 += 1);
    }
    if PACKET_LOSS.iter().any(|message| text.starts_with(message)) {
        let _ = PACKET_LOSSES.try_with(|all| all.borrow_mut().insert(context));
    }
}

/// Returns a format string up to its first placeholder.
fn constant_part(format: &str) -> String {
    format.split('%').next().unwrap_or_default().trim().to_owned()
}

fn on_codec_message(codec: usize, text: &str) {
    // 0 is the default of `opaque`: a codec without a `CodecLog`.
    if codec == 0 {
        return;
    }
    if text.starts_with(MISSING_FRAME) {
        missing_frames().insert(codec);
    } else if DAMAGE.iter().any(|message| text.starts_with(message)) {
        damaged().entry(codec).or_insert_with(|| constant_part(text));
    } else if text.contains("image parameters invalid") || text.starts_with("Picture size") {
        refused_buffers().insert(codec, Refusal::Size);
    } else if text.contains("get_buffer() failed") {
        // Alone, this message means that memory is exhausted. After a message about the size, it
        // only repeats that refusal.
        let mut refused = refused_buffers();
        if refused.get(&codec) == Some(&Refusal::Size) {
            refused.remove(&codec);
        } else {
            refused.insert(codec, Refusal::Memory);
        }
    }
}

fn missing_frames() -> MutexGuard<'static, BTreeSet<usize>> {
    MISSING_FRAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn damaged() -> MutexGuard<'static, BTreeMap<usize, String>> {
    DAMAGED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused_buffers() -> MutexGuard<'static, BTreeMap<usize, Refusal>> {
    REFUSED_BUFFERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Log of one codec.
pub(super) struct CodecLog(usize);

impl CodecLog {
    /// Attaches a log to a codec before it is opened. The codec's threads inherit its number.
    #[expect(unsafe_code, reason = "a field without an accessor")]
    pub(super) fn attach(codec: &mut codec::Context) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the context is alive and ours, and libav leaves this field to its users.
        unsafe { (*codec.as_mut_ptr()).opaque = number as *mut c_void };
        CodecLog(number)
    }

    /// Returns whether the codec got no memory for a picture. Its return code is not reliable then.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        refused_buffers().get(&self.0) == Some(&Refusal::Memory)
    }

    /// Returns whether the codec refused a picture because of its size.
    pub(super) fn refused_a_size(&self) -> bool {
        refused_buffers().get(&self.0) == Some(&Refusal::Size)
    }

    /// Returns whether the codec has missed a numbered reference since the last call.
    pub(super) fn take_missing_frame(&self) -> bool {
        missing_frames().remove(&self.0)
    }

    /// Returns the first damage reported by the codec since the last call.
    pub(super) fn take_damage(&self) -> Option<String> {
        damaged().remove(&self.0)
    }
}

impl Drop for CodecLog {
    fn drop(&mut self) {
        damaged().remove(&self.0);
        missing_frames().remove(&self.0);
        refused_buffers().remove(&self.0);
    }
}

/// Returns the number of errors logged by the container's demuxer on this thread, and the constant
/// part of the first one.
#[expect(unsafe_code, reason = "the context's address names it")]
pub(super) fn demuxer_errors(input: &Input) -> Option<(u64, String)> {
    // SAFETY: the pointer is only used as a number.
    let context = unsafe { input.as_ptr() } as usize;
    DEMUXER_ERRORS.with(|all| all.borrow().get(&context).cloned())
}

/// Returns whether the container's demuxer has reported packet loss since the last call.
#[expect(unsafe_code, reason = "the context's address names it")]
pub(super) fn take_packet_loss(input: &Input) -> bool {
    // SAFETY: the pointer is only used as a number.
    let context = unsafe { input.as_ptr() } as usize;
    PACKET_LOSSES.with(|all| all.borrow_mut().remove(&context))
}

/// Forgets the messages of an earlier container at this address.
pub(super) fn forget_container(context: *const ffi::AVFormatContext) {
    PACKET_LOSSES.with(|all| all.borrow_mut().remove(&(context as usize)));
    DEMUXER_ERRORS.with(|all| all.borrow_mut().remove(&(context as usize)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failed_allocation_counts_as_out_of_memory() {
        let log = CodecLog(usize::MAX);
        let is_out_of_memory_after = |messages: &[&str]| {
            for text in messages {
                on_codec_message(usize::MAX, text);
            }
            log.ran_out_of_memory()
        };
        assert!(!is_out_of_memory_after(&["error while decoding MB %d %d\n"]));
        assert!(!is_out_of_memory_after(&[
            "video_get_buffer: image parameters invalid\n",
            "get_buffer() failed\n"
        ]));
        assert!(is_out_of_memory_after(&["get_buffer() failed\n"]));
    }

    #[test]
    fn damage_in_a_log_message_is_reported_once() {
        let log = CodecLog(usize::MAX - 1);
        on_codec_message(usize::MAX - 1, "mmco: unref short failure\n");
        assert_eq!(log.take_damage(), None);
        on_codec_message(usize::MAX - 1, "Could not find ref with POC %d\n");
        assert_eq!(log.take_damage().as_deref(), Some("Could not find ref with POC"));
        assert_eq!(log.take_damage(), None);
    }
}
