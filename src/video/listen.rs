//! What libav says only in words: a demuxer tells of damage that it then passes over, and a codec why it got no picture.
//!
//! In: libav's messages, none of which is printed. Out: counts and flags, by container and by codec. Start at [`listen_to_libav`].

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ffmpeg_next::codec;
use ffmpeg_next::ffi;
use ffmpeg_next::format::context::Input;

thread_local! {
    /// How often the demuxer of each open container complained, and what it said first. A container is read on one thread.
    static COMPLAINTS: RefCell<HashMap<usize, (u64, String)>> = RefCell::default();
}

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
#[expect(clippy::missing_transmute_annotations, reason = "the type of variadic arguments differs between machines")]
pub(super) fn listen_to_libav() {
    // SAFETY: the callback stays for the process's life. It takes the variadic arguments, whose type differs between machines but is
    // handed over like a pointer on all of them, as a pointer that it does not use.
    unsafe {
        let listener: unsafe extern "C" fn(*mut c_void, c_int, *const c_char, *mut c_void) = hear;
        ffi::av_log_set_callback(Some(std::mem::transmute(listener)));
    }
}

#[expect(unsafe_code, reason = "libav calls it")]
unsafe extern "C" fn hear(context: *mut c_void, level: c_int, format: *const c_char, _: *mut c_void) {
    if level > ffi::AV_LOG_ERROR as c_int || context.is_null() || format.is_null() {
        return;
    }
    // SAFETY: what libav hands over is a struct that begins with a pointer to its class, whose name, like the format, is a C string.
    let (class, text) = unsafe {
        let class: *const ffi::AVClass = *context.cast();
        (if class.is_null() { c"" } else { CStr::from_ptr((*class).class_name) }, CStr::from_ptr(format))
    };
    if class == c"AVFormatContext" {
        let first = || (0, text.to_string_lossy().split('%').next().unwrap_or_default().trim().to_owned());
        // A thread that ends may have nowhere to keep it any more.
        let _ = COMPLAINTS.try_with(|all| all.borrow_mut().entry(context as usize).or_insert_with(first).0 += 1);
    } else if class == c"AVCodecContext" {
        // SAFETY: a context of this class is one; what is opaque in it is only taken for a number.
        hear_codec(unsafe { (*context.cast::<ffi::AVCodecContext>()).opaque } as usize, &text.to_string_lossy());
    }
}

/// A picture is denied in two sentences where its size is at fault, in the second alone where there is no memory.
fn hear_codec(ear: usize, text: &str) {
    if ear == 0 {
        return;
    }
    if text.contains("image parameters invalid") {
        denied().insert(ear, Denied::Size);
    } else if text.contains("get_buffer() failed") {
        let mut denied = denied();
        match denied.get(&ear) {
            Some(Denied::Size) => _ = denied.remove(&ear),
            _ => _ = denied.insert(ear, Denied::Memory),
        }
    }
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
}

impl Drop for Ear {
    fn drop(&mut self) {
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

/// Forgets what was said of a container whose address another may get.
pub(super) fn forget_complaints(context: *const ffi::AVFormatContext) {
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
}
