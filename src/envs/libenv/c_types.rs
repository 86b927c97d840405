//! C structs and constants of gym3's `libenv.h`, and the conversions to them.

use std::ffi::{c_char, c_int, c_void};

/// Version of `libenv.h`.
pub(super) const VERSION: c_int = 1;
/// Space of the observations.
pub(super) const OBSERVATION: c_int = 1;
/// Space of the actions.
pub(super) const ACTION: c_int = 2;
/// Space of the additional information.
pub(super) const INFO: c_int = 3;
/// Type of bytes.
pub(super) const UINT8: c_int = 1;
/// Type of 32-bit integers.
pub(super) const INT32: c_int = 2;

/// Name, type and range of one tensor of a space.
#[repr(C)]
pub(super) struct TensorType {
    pub(super) name: [c_char; 128],
    pub(super) scalar_type: c_int,
    pub(super) dtype: c_int,
    pub(super) shape: [c_int; 16],
    pub(super) ndim: c_int,
    pub(super) low: u32,
    pub(super) high: u32,
}

impl TensorType {
    /// Creates a value for the library to overwrite.
    pub(super) fn empty() -> Self {
        TensorType {
            name: [0; 128],
            scalar_type: 0,
            dtype: 0,
            shape: [0; 16],
            ndim: 0,
            low: 0,
            high: 0,
        }
    }

    /// Returns the name as text.
    pub(super) fn name(&self) -> String {
        let bytes = self.name.iter().take_while(|byte| **byte != 0);
        bytes.map(|byte| *byte as u8 as char).collect()
    }
}

/// One option of a new environment.
#[repr(C)]
pub(super) struct OptionItem {
    pub(super) name: [c_char; 128],
    pub(super) dtype: c_int,
    pub(super) count: c_int,
    pub(super) data: *mut c_void,
}

/// All options of a new environment.
#[repr(C)]
pub(super) struct Options {
    pub(super) items: *mut OptionItem,
    pub(super) count: c_int,
}

/// Pointers to the buffers that the library reads and writes.
#[repr(C)]
pub(super) struct Buffers {
    pub(super) ob: *mut *mut c_void,
    pub(super) rew: *mut f32,
    pub(super) first: *mut u8,
    pub(super) info: *mut *mut c_void,
    pub(super) ac: *mut *mut c_void,
}

/// Value of an option.
#[derive(Clone, Debug)]
pub(in crate::envs) enum Setting {
    Text(String),
    Int(i32),
    Flag(bool),
}

impl Setting {
    /// Returns the value as the library reads it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Setting::Text(text) => text.clone().into_bytes(),
            Setting::Int(value) => value.to_ne_bytes().to_vec(),
            Setting::Flag(value) => vec![u8::from(*value)],
        }
    }

    /// Creates the option `name`. `data` must hold the bytes of this value.
    pub(super) fn item(&self, name: &str, data: &mut [u8]) -> OptionItem {
        OptionItem {
            name: fixed_name(name),
            dtype: if matches!(self, Setting::Int(_)) { INT32 } else { UINT8 },
            count: if let Setting::Text(text) = self { text.len() as c_int } else { 1 },
            data: data.as_mut_ptr().cast(),
        }
    }
}

fn fixed_name(name: &str) -> [c_char; 128] {
    let mut out = [0; 128];
    for (place, byte) in out.iter_mut().zip(name.bytes()) {
        *place = byte as c_char;
    }
    out
}
