//! What libav says only in words: a demuxer tells of damage that it then passes over, and a codec why it got no picture.
//!
//! In: libav's messages, none of which is printed. Out: counts and flags, by container and by codec. Start at [`listen_to_libav`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ffmpeg_next::codec;
use ffmpeg_next::ffi;
use ffmpeg_next::format::context::Input;

thread_local! {
    /// How often the demuxer of each open container complained, and what it said first. A container is read on one thread.
    static COMPLAINTS: RefCell<HashMap<usize, (u64, String)>> = RefCell::default();
    /// The open containers whose demuxer told of packets lost on the way since it was last asked.
    static LOSSES: RefCell<HashSet<usize>> = RefCell::default();
}

/// What a codec says where it makes up a part of a picture, or keeps one that a checksum calls damaged; libav's formats begin so.
/// What it returns says nothing of these.
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

/// What H.264 says of a reference that is named and not there: of no weight after a start, where encoders name those of before it.
pub(super) const MISSING_REFERENCE: &str = "Missing reference picture, default is";

/// What demuxers of transport streams and FLV say where packets were lost on the way.
const LOSS: [&str; 3] = ["Continuity check failed", "Packet had TEI flag set", "Packet mismatch"];

/// What H.264 says where a reference of its numbering never came. Some streams are made so: it counts where packets were lost.
const MISSING_NUMBER: &str = "Frame num gap";

/// The codecs that missed a reference by its number since they were last asked, by the number of their [`Ear`].
static GAPPED: Mutex<BTreeSet<usize>> = Mutex::new(BTreeSet::new());

/// What codecs said of damage since they were last asked, by the number of their [`Ear`].
static DAMAGED: Mutex<BTreeMap<usize, String>> = Mutex::new(BTreeMap::new());

/// Why codecs got no picture, by the number of their [`Ear`]; those that got all are not in it. A codec may have several threads.
static DENIED: Mutex<BTreeMap<usize, Denied>> = Mutex::new(BTreeMap::new());

/// Why a codec got no picture.
#[derive(Clone, Copy, PartialEq)]
enum Denied {
    /// The size is none that a picture can have, or beyond the limit.
    Size,
    /// There is no memory.
    Memory,
}

/// Has libav's messages counted, and none printed.
#[expect(unsafe_code, reason = "ffmpeg-next cannot take libav's messages")]
#[expect(
    clippy::missing_transmute_annotations,
    reason = "the type of variadic arguments differs between machines"
)]
pub(super) fn listen_to_libav() {
    // SAFETY: the callback stays for the process's life. It takes the variadic arguments, whose type differs between machines but is
    // handed over like a pointer on all of them, as a pointer that it does not use.
    unsafe {
        let listener: unsafe extern "C" fn(*mut c_void, c_int, *const c_char, *mut c_void) = hear;
        ffi::av_log_set_callback(Some(std::mem::transmute(listener)));
    }
}

#[expect(unsafe_code, reason = "libav calls it")]
unsafe extern "C" fn hear(
    context: *mut c_void,
    level: c_int,
    format: *const c_char,
    _: *mut c_void,
) {
    if level > ffi::AV_LOG_DEBUG as c_int || context.is_null() || format.is_null() {
        return;
    }
    // SAFETY: what libav hands over is a struct that begins with a pointer to its class, whose name, like the format, is a C string.
    let (context, class, text) = unsafe {
        let context = speaker(context);
        let class: *const ffi::AVClass = *context.cast();
        (
            context,
            if class.is_null() { c"" } else { CStr::from_ptr((*class).class_name) },
            CStr::from_ptr(format),
        )
    };
    let is_error = level <= ffi::AV_LOG_ERROR as c_int;
    if class == c"AVFormatContext" {
        hear_demuxer(context as usize, &text.to_string_lossy(), is_error);
    } else if class == c"AVCodecContext" {
        // SAFETY: a context of this class is one; what is opaque in it is only taken for a number.
        hear_codec(
            unsafe { (*context.cast::<ffi::AVCodecContext>()).opaque } as usize,
            &text.to_string_lossy(),
        );
    }
}

/// Who speaks: checks of a picture's size are made in the name of a codec, by a helper that knows it.
///
/// # Safety
/// `context` must be a struct that begins with a pointer to its class, as all that libav hands to its listeners.
#[expect(unsafe_code, reason = "libav's structs")]
unsafe fn speaker(context: *mut c_void) -> *mut c_void {
    // SAFETY: as the caller says; a class that states where its struct keeps its parent has one there, or null.
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

/// A thread that ends may have nowhere to keep it any more.
fn hear_demuxer(context: usize, text: &str, is_error: bool) {
    if is_error {
        let first = || (0, up_to_the_numbers(text));
        let _ =
            COMPLAINTS.try_with(|all| all.borrow_mut().entry(context).or_insert_with(first).0 += 1);
    }
    if LOSS.iter().any(|words| text.starts_with(words)) {
        let _ = LOSSES.try_with(|all| all.borrow_mut().insert(context));
    }
}

/// A message as far as it needs no numbers filled in.
fn up_to_the_numbers(text: &str) -> String {
    text.split('%').next().unwrap_or_default().trim().to_owned()
}

/// A picture is denied in two sentences where its size is at fault, in the second alone where there is no memory.
fn hear_codec(ear: usize, text: &str) {
    if ear == 0 {
        return;
    }
    if text.starts_with(MISSING_NUMBER) {
        gapped().insert(ear);
    } else if DAMAGE.iter().any(|words| text.starts_with(words)) {
        damaged().entry(ear).or_insert_with(|| up_to_the_numbers(text));
    } else if text.contains("image parameters invalid") || text.starts_with("Picture size") {
        denied().insert(ear, Denied::Size);
    } else if text.contains("get_buffer() failed") {
        let mut denied = denied();
        match denied.get(&ear) {
            Some(Denied::Size) => _ = denied.remove(&ear),
            _ => _ = denied.insert(ear, Denied::Memory),
        }
    }
}

fn gapped() -> MutexGuard<'static, BTreeSet<usize>> {
    GAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn damaged() -> MutexGuard<'static, BTreeMap<usize, String>> {
    DAMAGED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn denied() -> MutexGuard<'static, BTreeMap<usize, Denied>> {
    DENIED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens to one codec.
pub(super) struct Ear(usize);

impl Ear {
    /// Of a codec that is not open yet: its threads take the number over.
    #[expect(unsafe_code, reason = "a field without an accessor")]
    pub(super) fn on(codec: &mut codec::Context) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the context is alive and ours, and libav leaves this field to its users.
        unsafe { (*codec.as_mut_ptr()).opaque = number as *mut c_void };
        Ear(number)
    }

    /// Whether the codec wanted memory for a picture and got none; the code that it returns may say anything.
    pub(super) fn heard_of_no_memory(&self) -> bool {
        denied().get(&self.0) == Some(&Denied::Memory)
    }

    /// Whether the codec refused a picture for its size.
    pub(super) fn heard_of_a_size(&self) -> bool {
        denied().get(&self.0) == Some(&Denied::Size)
    }

    /// Whether the codec missed a reference by its number since this was last asked.
    pub(super) fn take_gap(&self) -> bool {
        gapped().remove(&self.0)
    }

    /// What the codec said of damage since this was last asked.
    pub(super) fn take_damage(&self) -> Option<String> {
        damaged().remove(&self.0)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        damaged().remove(&self.0);
        gapped().remove(&self.0);
        denied().remove(&self.0);
    }
}

/// How often the container's demuxer complained on this thread, and what it said first, up to the numbers in it.
#[expect(unsafe_code, reason = "the context's address names it")]
pub(super) fn complaints(input: &Input) -> Option<(u64, String)> {
    // SAFETY: the pointer is only taken for a number.
    let context = unsafe { input.as_ptr() } as usize;
    COMPLAINTS.with(|all| all.borrow().get(&context).cloned())
}

/// Whether the container's demuxer told of packets lost on the way since this was last asked.
#[expect(unsafe_code, reason = "the context's address names it")]
pub(super) fn take_loss(input: &Input) -> bool {
    // SAFETY: the pointer is only taken for a number.
    let context = unsafe { input.as_ptr() } as usize;
    LOSSES.with(|all| all.borrow_mut().remove(&context))
}

/// Forgets what was said of a container whose address another may get.
pub(super) fn forget_complaints(context: *const ffi::AVFormatContext) {
    LOSSES.with(|all| all.borrow_mut().remove(&(context as usize)));
    COMPLAINTS.with(|all| all.borrow_mut().remove(&(context as usize)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_that_was_denied_is_heard() {
        let ear = Ear(usize::MAX);
        let hear = |words: &[&str]| {
            words.iter().for_each(|text| hear_codec(usize::MAX, text));
            ear.heard_of_no_memory()
        };
        assert!(!hear(&["error while decoding MB %d %d\n"]));
        assert!(!hear(&["video_get_buffer: image parameters invalid\n", "get_buffer() failed\n"]));
        assert!(hear(&["get_buffer() failed\n"]));
    }

    #[test]
    fn damage_that_is_only_told_in_words_is_heard_once() {
        let ear = Ear(usize::MAX - 1);
        hear_codec(usize::MAX - 1, "mmco: unref short failure\n");
        assert_eq!(ear.take_damage(), None);
        hear_codec(usize::MAX - 1, "Could not find ref with POC %d\n");
        assert_eq!(ear.take_damage().as_deref(), Some("Could not find ref with POC"));
        assert_eq!(ear.take_damage(), None);
    }
}
