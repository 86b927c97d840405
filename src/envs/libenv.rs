//! Environments from a C library with gym3's interface (`libenv.h`, version 1), loaded at run time.
//!
//! All unsafe code of the module `envs` is in this file. The library's threads write into our
//! buffers between [`Libenv::act`] and the end of [`Libenv::observe`]. Both run inside one call
//! with `&mut self`, so no other code reads the buffers meanwhile. The library ends the process
//! when it finds an error, so all arguments are checked before every call.
#![expect(unsafe_code, reason = "a C library")]

mod c_types;

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::{self, NonNull};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

pub(super) use self::c_types::Setting;
use self::c_types::{
    ACTION, Buffers, INFO, INT32, OBSERVATION, OptionItem, Options, TensorType, UINT8, VERSION,
};
use super::{Error, Result};

/// Makes the library use its own zlib and C++ runtime instead of ours, as gym3 does.
const RTLD_DEEPBIND: c_int = if cfg!(all(target_os = "linux", target_env = "gnu")) { 8 } else { 0 };
/// Largest size of a game's state in bytes, as in Procgen's Python code.
const MAX_STATE_BYTES: usize = 1 << 20;

/// Functions of the library. They are valid while the library is loaded.
struct Functions {
    get_tensortypes: unsafe extern "C" fn(*mut c_void, c_int, *mut TensorType) -> c_int,
    set_buffers: unsafe extern "C" fn(*mut c_void, *mut Buffers),
    observe: unsafe extern "C" fn(*mut c_void),
    act: unsafe extern "C" fn(*mut c_void),
    close: unsafe extern "C" fn(*mut c_void),
    get_state: unsafe extern "C" fn(*mut c_void, c_int, *mut c_char, c_int) -> c_int,
    set_state: unsafe extern "C" fn(*mut c_void, c_int, *mut c_char, c_int),
}

/// Memory shared with the library. It is a raw pointer, because the library may write to it.
struct SharedBuffer<T> {
    start: NonNull<T>,
    len: usize,
}

impl<T: Copy + Default> SharedBuffer<T> {
    fn new(len: usize) -> Self {
        let start = NonNull::from(Box::leak(vec![T::default(); len].into_boxed_slice())).cast();
        SharedBuffer { start, len }
    }

    fn as_slice(&self) -> &[T] {
        // SAFETY: `new` created `len` values there, which live until `drop`. The library does not
        // write while `self` is borrowed (see the top of this file).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Returns pointers to every `stride`-th value.
    fn pointers(&self, stride: usize) -> Vec<*mut c_void> {
        (0..self.len / stride)
            .map(|i| self.start.as_ptr().wrapping_add(i * stride).cast())
            .collect()
    }
}

impl<T> Drop for SharedBuffer<T> {
    fn drop(&mut self) {
        // SAFETY: this is the slice leaked in `new`. The environment that wrote to it is closed,
        // because `Libenv::drop` runs before the drop of its fields.
        drop(unsafe {
            Box::from_raw(ptr::slice_from_raw_parts_mut(self.start.as_ptr(), self.len))
        });
    }
}

/// Several environments of one library, which step together.
pub(super) struct Libenv {
    handle: NonNull<c_void>,
    functions: Functions,
    /// `[env, height, width, channel]`
    frames: SharedBuffer<u8>,
    rewards: SharedBuffer<f32>,
    firsts: SharedBuffer<u8>,
    /// `[info, env]`; values of smaller types are in the low bytes
    infos: SharedBuffer<i32>,
    actions: SharedBuffer<i32>,
    info_names: Vec<String>,
    frame_shape: [usize; 3],
    action_count: usize,
    count: usize,
    // Fields are dropped in this order. The library is last, because the others point into it.
    _library: Library,
}

// SAFETY: according to libenv.h, any thread may use an environment, but only one at a time. That is
// guaranteed by `&mut self`.
unsafe impl Send for Libenv {}

impl Libenv {
    /// Creates `count` environments and starts their episodes.
    pub fn new(path: &Path, count: usize, settings: &[(&str, Setting)]) -> Result<Self> {
        let library = load(path)?;
        let functions = Functions::load(&library, path)?;
        let handle = make(&library, path, count, settings)?;
        let frame_shape = frame_shape(&tensor_types(&functions, handle, OBSERVATION), path)?;
        let action_count = action_count(&tensor_types(&functions, handle, ACTION), path)?;
        let info = tensor_types(&functions, handle, INFO);
        let mut made = Libenv {
            handle,
            functions,
            frames: SharedBuffer::new(count * frame_shape.iter().product::<usize>()),
            rewards: SharedBuffer::new(count),
            firsts: SharedBuffer::new(count),
            infos: SharedBuffer::new(count * info.len()),
            actions: SharedBuffer::new(count),
            info_names: info.iter().map(TensorType::name).collect(),
            frame_shape,
            action_count,
            count,
            _library: library,
        };
        made.attach_buffers();
        Ok(made)
    }

    /// Passes the buffers to the library and waits for the first frames.
    fn attach_buffers(&mut self) {
        let mut ob = self.frames.pointers(self.frame_shape.iter().product());
        let mut info = self.infos.pointers(1);
        let mut ac = self.actions.pointers(1);
        let mut buffers = Buffers {
            ob: ob.as_mut_ptr(),
            rew: self.rewards.start.as_ptr(),
            first: self.firsts.start.as_ptr(),
            info: info.as_mut_ptr(),
            ac: ac.as_mut_ptr(),
        };
        // SAFETY: there is one pointer per environment and tensor, to memory of the tensor's size.
        // The call copies the pointers, and the memory lives until the environment is closed.
        unsafe { (self.functions.set_buffers)(self.handle.as_ptr(), &raw mut buffers) };
        self.observe();
    }

    /// Steps every environment. A negative action abandons the episode. Actions must be in range.
    pub fn act(&mut self, actions: impl Iterator<Item = i32>) {
        for (place, action) in self.actions.as_mut_slice().iter_mut().zip(actions) {
            *place = action;
        }
        // SAFETY: the handle is open and its buffers are set.
        unsafe { (self.functions.act)(self.handle.as_ptr()) };
        self.observe();
    }

    /// Waits until every environment has written its observation.
    fn observe(&mut self) {
        // SAFETY: the handle is open and its buffers are set.
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

    /// Returns for each environment whether it shows the first frame of an episode (not 0).
    pub fn firsts(&self) -> &[u8] {
        self.firsts.as_slice()
    }

    /// Returns additional information by name: `[env]`.
    pub fn info(&self, name: &str) -> Option<&[i32]> {
        let row = self.info_names.iter().position(|known| known == name)?;
        Some(&self.infos.as_slice()[row * self.count..][..self.count])
    }

    /// Returns the serialised state of an environment.
    pub fn state(&self, env: usize) -> Result<Vec<u8>> {
        let env = self.index(env)?;
        let mut state = vec![0_u8; MAX_STATE_BYTES];
        // SAFETY: the handle has an environment `env`, and the library writes at most the given
        // number of bytes.
        let len = unsafe {
            (self.functions.get_state)(
                self.handle.as_ptr(),
                env,
                state.as_mut_ptr().cast(),
                MAX_STATE_BYTES as c_int,
            )
        };
        let len = usize::try_from(len)
            .map_err(|_| Error::State { what: format!("its length is {len}") })?;
        state.truncate(len);
        Ok(state)
    }

    /// Restores the state of an environment. `state` must come from [`state`](Self::state) of the
    /// same game.
    pub fn set_state(&mut self, env: usize, state: &[u8]) -> Result<()> {
        let env = self.index(env)?;
        // The signature is not `const`, so the library gets a copy.
        let mut state = state.to_vec();
        let len = state.len() as c_int;
        // SAFETY: the handle has an environment `env`, and the library reads at most `len` bytes.
        unsafe {
            (self.functions.set_state)(self.handle.as_ptr(), env, state.as_mut_ptr().cast(), len)
        };
        self.observe();
        Ok(())
    }

    fn index(&self, env: usize) -> Result<c_int> {
        if env < self.count {
            return Ok(env as c_int);
        }
        let expected = format!("below {}", self.count);
        Err(Error::Range { what: "environment", seen: env as i64, expected })
    }
}

impl Drop for Libenv {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and not used after this. The library joins its threads before
        // the call returns.
        unsafe { (self.functions.close)(self.handle.as_ptr()) };
    }
}

impl Functions {
    fn load(library: &Library, path: &Path) -> Result<Self> {
        Ok(Functions {
            get_tensortypes: symbol(library, path, "libenv_get_tensortypes")?,
            set_buffers: symbol(library, path, "libenv_set_buffers")?,
            observe: symbol(library, path, "libenv_observe")?,
            act: symbol(library, path, "libenv_act")?,
            close: symbol(library, path, "libenv_close")?,
            get_state: symbol(library, path, "get_state")?,
            set_state: symbol(library, path, "set_state")?,
        })
    }
}

/// Loads the library and checks its version.
fn load(path: &Path) -> Result<Library> {
    // SAFETY: loading runs the library's initialisers. The user gave this path for an environment
    // library.
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
    // SAFETY: every caller uses the type from libenv.h, or, for the two functions on states, from
    // Procgen's Python code.
    let found = unsafe { library.get::<F>(c_name.as_bytes_with_nul()) };
    found.map(|symbol| *symbol).map_err(|_| Error::Foreign {
        path: path.into(),
        what: name,
        seen: "missing".into(),
        expected: "a function".into(),
    })
}

/// Creates `count` environments.
fn make(
    library: &Library,
    path: &Path,
    count: usize,
    settings: &[(&str, Setting)],
) -> Result<NonNull<c_void>> {
    let libenv_make: unsafe extern "C" fn(c_int, Options) -> *mut c_void =
        symbol(library, path, "libenv_make")?;
    let count = c_int::try_from(count).map_err(|_| Error::Range {
        what: "number of environments",
        seen: count as i64,
        expected: format!("at most {}", c_int::MAX),
    })?;
    let mut data: Vec<Vec<u8>> = settings.iter().map(|(_, setting)| setting.bytes()).collect();
    let items =
        settings.iter().zip(&mut data).map(|((name, setting), data)| setting.item(name, data));
    let mut items: Vec<OptionItem> = items.collect();
    let options = Options { items: items.as_mut_ptr(), count: items.len() as c_int };
    // SAFETY: the signature is from libenv.h. The call copies `items` and their data, which live
    // until after it.
    let handle = unsafe { libenv_make(count, options) };
    NonNull::new(handle).ok_or_else(|| Error::Foreign {
        path: path.into(),
        what: "the new environment",
        seen: "null".into(),
        expected: "a handle".into(),
    })
}

/// Returns the tensors of a space.
fn tensor_types(functions: &Functions, handle: NonNull<c_void>, space: c_int) -> Vec<TensorType> {
    // SAFETY: the handle is open. With a null pointer, the library only returns the count.
    let count = unsafe { (functions.get_tensortypes)(handle.as_ptr(), space, ptr::null_mut()) };
    let mut types: Vec<TensorType> = (0..count).map(|_| TensorType::empty()).collect();
    // SAFETY: the vector has space for the counted tensors.
    unsafe { (functions.get_tensortypes)(handle.as_ptr(), space, types.as_mut_ptr()) };
    types
}

/// Returns rows, columns and channels of a frame.
fn frame_shape(observations: &[TensorType], path: &Path) -> Result<[usize; 3]> {
    match observations {
        [one] if one.dtype == UINT8 && one.ndim == 3 => {
            Ok([0, 1, 2].map(|axis| one.shape[axis] as usize))
        }
        other => Err(Error::Foreign {
            path: path.into(),
            what: "the number of observations",
            seen: other.len().to_string(),
            expected: "one frame of bytes".into(),
        }),
    }
}

/// Returns the number of actions.
fn action_count(actions: &[TensorType], path: &Path) -> Result<usize> {
    match actions {
        [one] if one.dtype == INT32 && one.ndim == 0 => Ok(one.high as usize + 1),
        other => Err(Error::Foreign {
            path: path.into(),
            what: "the number of actions",
            seen: other.len().to_string(),
            expected: "one integer".into(),
        }),
    }
}
