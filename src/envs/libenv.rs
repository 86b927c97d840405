//! Environment libraries with gym3's C interface (`libenv.h`, version 1), loaded at run time. All of this room's unsafe code is here.
//!
//! The library's threads write into buffers of ours between [`Libenv::act`] and the end of [`Libenv::observe`]; both happen inside one
//! call with `&mut self`, so nobody reads them meanwhile. A fault that the library finds ends the process: everything is checked before.
#![expect(unsafe_code, reason = "a C library")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::{self, NonNull};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::{Error, Result};

const VERSION: c_int = 1;
const OBSERVATION: c_int = 1;
const ACTION: c_int = 2;
const INFO: c_int = 3;
const UINT8: c_int = 1;
const INT32: c_int = 2;
/// Symbols of the library come before ours: it brings its own zlib and C++ (as gym3 loads it).
const RTLD_DEEPBIND: c_int = if cfg!(all(target_os = "linux", target_env = "gnu")) { 8 } else { 0 };
/// Most bytes of a game's state, as in Procgen's own Python.
const STATE: usize = 1 << 20;

#[repr(C)]
struct TensorType {
    name: [c_char; 128],
    scalar_type: c_int,
    dtype: c_int,
    shape: [c_int; 16],
    ndim: c_int,
    low: u32,
    high: u32,
}

#[repr(C)]
struct OptionItem {
    name: [c_char; 128],
    dtype: c_int,
    count: c_int,
    data: *mut c_void,
}

#[repr(C)]
struct Options {
    items: *mut OptionItem,
    count: c_int,
}

#[repr(C)]
struct Buffers {
    ob: *mut *mut c_void,
    rew: *mut f32,
    first: *mut u8,
    info: *mut *mut c_void,
    ac: *mut *mut c_void,
}

/// A value that configures an environment.
#[derive(Clone, Debug)]
pub(super) enum Setting {
    Text(String),
    Int(i32),
    Flag(bool),
}

/// The library's functions, for as long as it is loaded.
struct Functions {
    get_tensortypes: unsafe extern "C" fn(*mut c_void, c_int, *mut TensorType) -> c_int,
    set_buffers: unsafe extern "C" fn(*mut c_void, *mut Buffers),
    observe: unsafe extern "C" fn(*mut c_void),
    act: unsafe extern "C" fn(*mut c_void),
    close: unsafe extern "C" fn(*mut c_void),
    get_state: unsafe extern "C" fn(*mut c_void, c_int, *mut c_char, c_int) -> c_int,
    set_state: unsafe extern "C" fn(*mut c_void, c_int, *mut c_char, c_int),
}

/// Memory that the library writes to: reached by pointer alone while it may.
struct Shared<T> {
    start: NonNull<T>,
    len: usize,
}

impl<T: Copy + Default> Shared<T> {
    fn new(len: usize) -> Self {
        let start = NonNull::from(Box::leak(vec![T::default(); len].into_boxed_slice())).cast();
        Shared { start, len }
    }

    fn as_slice(&self) -> &[T] {
        // SAFETY: `new` made `len` values there, which live until `drop`; nobody writes while `self` is borrowed (see the file's head).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Where each `stride` values begin.
    fn places(&self, stride: usize) -> Vec<*mut c_void> {
        (0..self.len / stride)
            .map(|i| self.start.as_ptr().wrapping_add(i * stride).cast())
            .collect()
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the slice leaked in `new`; the environment that wrote to it is closed (`Libenv::drop` runs before its fields').
        drop(unsafe {
            Box::from_raw(ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len))
        });
    }
}

/// Several environments of one library, their episodes begun.
pub(super) struct Libenv {
    handle: NonNull<c_void>,
    functions: Functions,
    /// `[env, height, width, channel]`
    frames: Shared<u8>,
    rewards: Shared<f32>,
    firsts: Shared<u8>,
    /// `[info, env]`: whatever their type, in the low bytes
    infos: Shared<i32>,
    actions: Shared<i32>,
    info_names: Vec<String>,
    frame_shape: [usize; 3],
    action_count: usize,
    count: usize,
    // dropped last: all above point into it
    _library: Library,
}

// SAFETY: libenv.h says that an environment may be used from any thread, by one at a time; `&mut self` sees to that.
unsafe impl Send for Libenv {}

impl Libenv {
    /// Makes `count` environments and begins their episodes.
    pub fn new(path: &Path, count: usize, settings: &[(&str, Setting)]) -> Result<Self> {
        let library = load(path)?;
        let make: unsafe extern "C" fn(c_int, Options) -> *mut c_void =
            symbol(&library, path, "libenv_make")?;
        let functions = Functions {
            get_tensortypes: symbol(&library, path, "libenv_get_tensortypes")?,
            set_buffers: symbol(&library, path, "libenv_set_buffers")?,
            observe: symbol(&library, path, "libenv_observe")?,
            act: symbol(&library, path, "libenv_act")?,
            close: symbol(&library, path, "libenv_close")?,
            get_state: symbol(&library, path, "get_state")?,
            set_state: symbol(&library, path, "set_state")?,
        };
        let number =
            |what, value: usize| c_int::try_from(value).map_err(|_| out_of_range(what, value));
        let mut data: Vec<Vec<u8>> = settings.iter().map(|(_, setting)| setting.bytes()).collect();
        let items = settings.iter().zip(&mut data).map(|((name, setting), data)| OptionItem {
            name: name_of(name),
            dtype: if matches!(setting, Setting::Int(_)) { INT32 } else { UINT8 },
            count: if let Setting::Text(text) = setting { text.len() as c_int } else { 1 },
            data: data.as_mut_ptr().cast(),
        });
        let mut items: Vec<OptionItem> = items.collect();
        let options = Options { items: items.as_mut_ptr(), count: items.len() as c_int };
        // SAFETY: the signature is libenv.h's; `items` and the data they point to live until after the call, which copies them.
        let handle = unsafe { make(number("number of environments", count)?, options) };
        let fault = |what, seen: String, expected: &str| Error::Foreign {
            path: path.into(),
            what,
            seen,
            expected: expected.into(),
        };
        let handle = NonNull::new(handle)
            .ok_or_else(|| fault("its environment", "null".into(), "a handle"))?;

        let spaces = |space| types(&functions, handle, space);
        let (observation, action, info) = (spaces(OBSERVATION), spaces(ACTION), spaces(INFO));
        let frame_shape = match &observation[..] {
            [one] if one.dtype == UINT8 && one.ndim == 3 => {
                [0, 1, 2].map(|axis| one.shape[axis] as usize)
            }
            other => {
                return Err(fault(
                    "the number of observations",
                    other.len().to_string(),
                    "one frame of bytes",
                ));
            }
        };
        let action_count = match &action[..] {
            [one] if one.dtype == INT32 && one.ndim == 0 => one.high as usize + 1,
            other => {
                return Err(fault(
                    "the number of actions",
                    other.len().to_string(),
                    "one whole number",
                ));
            }
        };
        let mut made = Libenv {
            handle,
            functions,
            frames: Shared::new(count * frame_shape.iter().product::<usize>()),
            rewards: Shared::new(count),
            firsts: Shared::new(count),
            infos: Shared::new(count * info.len()),
            actions: Shared::new(count),
            info_names: info.iter().map(|info| text_of(&info.name)).collect(),
            frame_shape,
            action_count,
            count,
            _library: library,
        };
        made.begin();
        Ok(made)
    }

    /// Hands the buffers over and waits for the first frames.
    fn begin(&mut self) {
        let mut ob = self.frames.places(self.frame_shape.iter().product());
        let (mut info, mut ac) = (self.infos.places(1), self.actions.places(1));
        let (rew, first) = (self.rewards.start.as_ptr(), self.firsts.start.as_ptr());
        let mut buffers = Buffers {
            ob: ob.as_mut_ptr(),
            rew,
            first,
            info: info.as_mut_ptr(),
            ac: ac.as_mut_ptr(),
        };
        // SAFETY: one place per environment and space, of the space's size; the tables are copied during the call, and what they point to
        // lives until the environment is closed.
        unsafe { (self.functions.set_buffers)(self.handle.as_ptr(), &raw mut buffers) };
        self.observe();
    }

    /// Acts once; a negative number abandons the episode. Actions must be in range.
    pub fn act(&mut self, actions: impl Iterator<Item = i32>) {
        self.actions
            .as_mut_slice()
            .iter_mut()
            .zip(actions)
            .for_each(|(place, action)| *place = action);
        // SAFETY: the handle is open; its buffers are set.
        unsafe { (self.functions.act)(self.handle.as_ptr()) };
        self.observe();
    }

    /// Waits until every environment has written what it shows.
    fn observe(&mut self) {
        // SAFETY: the handle is open; its buffers are set.
        unsafe { (self.functions.observe)(self.handle.as_ptr()) };
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn frame_shape(&self) -> [usize; 3] {
        self.frame_shape
    }

    pub fn actions(&self) -> usize {
        self.action_count
    }

    pub fn frames(&self) -> &[u8] {
        self.frames.as_slice()
    }

    pub fn rewards(&self) -> &[f32] {
        self.rewards.as_slice()
    }

    /// Which environments show the first frame of an episode: not 0.
    pub fn firsts(&self) -> &[u8] {
        self.firsts.as_slice()
    }

    /// What the library says beside, by name: `[env]`.
    pub fn info(&self, name: &str) -> Option<&[i32]> {
        let place = self.info_names.iter().position(|known| known == name)?;
        Some(&self.infos.as_slice()[place * self.count..][..self.count])
    }

    /// All that one environment is.
    pub fn state(&self, env: usize) -> Result<Vec<u8>> {
        let env = self.index(env)?;
        let mut state = vec![0_u8; STATE];
        // SAFETY: `env` is one of the handle's, and the library writes at most as many bytes as it is told.
        let len = unsafe {
            (self.functions.get_state)(
                self.handle.as_ptr(),
                env,
                state.as_mut_ptr().cast(),
                STATE as c_int,
            )
        };
        state.truncate(
            usize::try_from(len)
                .map_err(|_| Error::State { what: format!("its length is {len}") })?,
        );
        Ok(state)
    }

    /// Makes one environment what it was. `state` must come from [`state`](Self::state) of the same game.
    pub fn set_state(&mut self, env: usize, state: &[u8]) -> Result<()> {
        let env = self.index(env)?;
        let (mut state, len) = (state.to_vec(), state.len() as c_int);
        // SAFETY: `env` is one of the handle's; the library reads at most `len` bytes.
        unsafe {
            (self.functions.set_state)(self.handle.as_ptr(), env, state.as_mut_ptr().cast(), len)
        };
        self.observe();
        Ok(())
    }

    fn index(&self, env: usize) -> Result<c_int> {
        let known = env < self.count;
        let expected = format!("below {}", self.count);
        if known {
            Ok(env as c_int)
        } else {
            Err(Error::Range { what: "environment", seen: env as i64, expected })
        }
    }
}

impl Drop for Libenv {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody uses it after this. Its threads are joined before the call returns.
        unsafe { (self.functions.close)(self.handle.as_ptr()) };
    }
}

impl Setting {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Setting::Text(text) => text.clone().into_bytes(),
            Setting::Int(value) => value.to_ne_bytes().to_vec(),
            Setting::Flag(value) => vec![u8::from(*value)],
        }
    }
}

fn load(path: &Path) -> Result<Library> {
    // SAFETY: loading runs the library's initialisers; that it is an environment library is what its path was given for.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND) };
    let library =
        library.map_err(|cause| Error::Load { path: path.into(), reason: cause.to_string() })?;
    let version: unsafe extern "C" fn() -> c_int = symbol(&library, path, "libenv_version")?;
    // SAFETY: the signature is libenv.h's.
    match unsafe { version() } {
        VERSION => Ok(library),
        seen => Err(Error::Foreign {
            path: path.into(),
            what: "libenv version",
            seen: seen.to_string(),
            expected: VERSION.to_string(),
        }),
    }
}

fn symbol<F: Copy>(library: &Library, path: &Path, name: &'static str) -> Result<F> {
    let c_name = CString::new(name).expect("a name without a zero byte");
    // SAFETY: every caller asks for the type that libenv.h, or Procgen's Python for the two functions on states, gives to that name.
    let found = unsafe { library.get::<F>(c_name.as_bytes_with_nul()) };
    found.map(|symbol| *symbol).map_err(|_| Error::Foreign {
        path: path.into(),
        what: name,
        seen: "missing".into(),
        expected: "a function".into(),
    })
}

/// The tensors of one space.
fn types(functions: &Functions, handle: NonNull<c_void>, space: c_int) -> Vec<TensorType> {
    // SAFETY: the handle is open; without a place to write to, the library only counts.
    let count = unsafe { (functions.get_tensortypes)(handle.as_ptr(), space, ptr::null_mut()) };
    let empty = || TensorType {
        name: [0; 128],
        scalar_type: 0,
        dtype: 0,
        shape: [0; 16],
        ndim: 0,
        low: 0,
        high: 0,
    };
    let mut types: Vec<TensorType> = (0..count).map(|_| empty()).collect();
    // SAFETY: there is room for as many as the library has counted.
    unsafe { (functions.get_tensortypes)(handle.as_ptr(), space, types.as_mut_ptr()) };
    types
}

fn name_of(name: &str) -> [c_char; 128] {
    let mut out = [0; 128];
    out.iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte as c_char);
    out
}

fn text_of(name: &[c_char]) -> String {
    name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8 as char).collect()
}

fn out_of_range(what: &'static str, value: usize) -> Error {
    Error::Range { what, seen: value as i64, expected: format!("at most {}", c_int::MAX) }
}
