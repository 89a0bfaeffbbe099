//! The CUDA driver: context, memory, copies, launches. All `unsafe` of this crate is in this file, modules.rs and
//! timeline.rs.
//!
//! A [`Gpu`] is one card of this process with one stream. Whatever is asked of it happens in the order of the calls, so
//! memory that is no longer wanted can be handed out again at once: later work on it comes after earlier work. Calls
//! return before the work is done, except [`Gpu::download`] and [`Gpu::synchronize`]; a failure of earlier work is
//! reported by a later call.
#![expect(unsafe_code, reason = "the driver's interface is C")]

use super::abi::Plain;
use super::arithmetic::Arithmetic;
use super::modules::{Newcomer, Wishes};
use super::timeline::Events;
use crate::error::{Error, Result};
use cudarc::driver::DriverError;
use cudarc::driver::result as cu;
use cudarc::driver::sys;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Defines [`Kernel`] and the names under which the kernels' sources have them.
macro_rules! kernels {
    ($($variant:ident = $name:literal,)*) => {
        /// The functions of `kernels/*.cu`.
        #[derive(Clone, Copy, Debug)]
        pub(super) enum Kernel { $($variant,)* }
        const NAMES: &[&str] = &[$($name,)*];
    };
}

kernels! {
    Add = "add",
    Sub = "sub",
    Neg = "neg",
    Mul = "mul",
    MulAdd = "mul_add",
    Tensor = "tensor",
    MulScalars = "mul_scalars",
    Combination = "combination",
    AddScalars = "add_scalars",
    SubScale = "sub_scale",
    SelectRows = "select_rows",
    MulMonomial = "mul_monomial",
    Automorphism = "automorphism",
    Spread = "spread",
    GatherRuns = "gather_runs",
    Convert1 = "convert_1",
    Convert2 = "convert_2",
    Convert4 = "convert_4",
    Convert8 = "convert_8",
    Convert12 = "convert_12",
    Convert16 = "convert_16",
    Extend4 = "extend_4",
    Extend8 = "extend_8",
    Extend10 = "extend_10",
    Hoisted4 = "hoisted_4",
    Hoisted8 = "hoisted_8",
    KeyProduct = "key_product",
    NttRowsSwitch = "ntt_rows_switch",
    NttSmall = "ntt_small",
    InttSmall = "intt_small",
    NttRows = "ntt_rows",
    NttRowsDivide = "ntt_rows_divide",
    InttRows = "intt_rows",
    NttColumns41 = "ntt_columns_41",
    NttColumns42 = "ntt_columns_42",
    NttColumns43 = "ntt_columns_43",
    NttColumns44 = "ntt_columns_44",
    NttColumns54 = "ntt_columns_54",
    InttColumns41 = "intt_columns_41",
    InttColumns42 = "intt_columns_42",
    InttColumns43 = "intt_columns_43",
    InttColumns44 = "intt_columns_44",
    InttColumns54 = "intt_columns_54",
}

/// Dynamic shared memory of `ntt_rows_divide` and `ntt_rows_switch`: 16 padded rows of doubles, and one or two blocks of
/// fetched words.
pub(super) const DIVIDE_SHARED: u32 = (16 * 272 + 4096) * 8;
pub(super) const SWITCH_SHARED: u32 = (16 * 272 + 2 * 4096) * 8;
// What a block can have on the smallest of the cards that are served (compute capability 8.6, 8.9 and 12.0).
const _: () = assert!(SWITCH_SHARED <= 99 << 10);
/// Columns of a block of `extend_*`.
pub(super) const EXTEND_COLUMNS: u32 = 4;
/// Dynamic shared memory of `extend_*` for as many sources: their coefficients, the quotients, and what two groups of
/// threads exchange.
pub(super) const fn extend_shared(sources: u32) -> u32 {
    let coefficients = sources * (256 * EXTEND_COLUMNS + 4);
    (coefficients + 128 * EXTEND_COLUMNS + 16 * (272 * EXTEND_COLUMNS + 8)) * 8
}
/// Kernels with more than the 48 KiB that need no asking. Cards that have too little for one of `extend_*` do without it.
const LARGE_SHARED: [(Kernel, u32); 5] = [
    (Kernel::NttRowsDivide, DIVIDE_SHARED),
    (Kernel::NttRowsSwitch, SWITCH_SHARED),
    (Kernel::Extend4, extend_shared(4)),
    (Kernel::Extend8, extend_shared(8)),
    (Kernel::Extend10, extend_shared(10)),
];

/// Grid, block and dynamic shared memory in bytes of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    pub(super) grid: (u32, u32, u32),
    pub(super) block: u32,
    pub(super) shared: u32,
}

/// Free memory, by size in words.
#[derive(Debug, Default)]
struct Shelf {
    free: BTreeMap<usize, Vec<sys::CUdeviceptr>>,
    /// Bytes taken from the driver and, of these, bytes in use; the most that ever was.
    held: usize,
    used: usize,
    peak: usize,
}

/// One card: its primary context, one stream, the kernels and an arena.
pub(crate) struct Gpu {
    ordinal: u16,
    name: String,
    arithmetic: Arithmetic,
    context: sys::CUcontext,
    stream: sys::CUstream,
    functions: Vec<sys::CUfunction>,
    /// Shared memory that a block can have, in bytes.
    shared: u32,
    /// Whether the code is for 9.0 or later: kernels written for that have bodies, and all wait for those before them (`begin`
    /// of field.cuh), so that they may be launched early.
    hopper: bool,
    shelf: Mutex<Shelf>,
    /// Launches asked for so far.
    launches: AtomicU64,
}

// SAFETY: context, stream and functions are handles that the driver allows to be used from any thread; they live as long
// as the process, since a `Gpu` is never taken out of `GPUS`.
unsafe impl Send for Gpu {}
// SAFETY: as above; the driver locks what its own calls share.
unsafe impl Sync for Gpu {}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({}, {})", self.ordinal, self.name)
    }
}

/// The cards in use, by ordinal.
static GPUS: Mutex<BTreeMap<u16, Arc<Gpu>>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unavailable(ordinal: u16, reason: impl Into<Cow<'static, str>>) -> Error {
    Error::DeviceUnavailable { name: format!("cuda:{ordinal}"), reason: reason.into() }
}

fn describe(error: DriverError) -> String {
    format!("{error:?}")
}

/// Size classes: eight in every power of two, so that at most an eighth is wasted.
fn size_class(words: usize) -> usize {
    let words = words.max(64);
    let step = 1usize << (words.ilog2() - 3);
    words.next_multiple_of(step)
}

impl Gpu {
    /// The card with this ordinal; opened when it is first asked for.
    pub(crate) fn get(ordinal: u16) -> Result<Arc<Gpu>> {
        let mut known = lock(&GPUS);
        if let Some(gpu) = known.get(&ordinal) {
            return Ok(gpu.clone());
        }
        let gpu = Arc::new(Self::open(ordinal)?);
        known.insert(ordinal, gpu.clone());
        Ok(gpu)
    }

    fn open(ordinal: u16) -> Result<Gpu> {
        // SAFETY: loads a shared library by its well-known name; its initialisers are the driver's own.
        if !unsafe { sys::is_culib_present() } {
            return Err(unavailable(
                ordinal,
                "no CUDA driver (libcuda) on this machine; use `--device cpu`",
            ));
        }
        let fail = |what: &str, e| unavailable(ordinal, format!("{what}: {}", describe(e)));
        cu::init().map_err(|e| fail("the CUDA driver does not start", e))?;
        let count = cu::device::get_count().map_err(|e| fail("the CUDA driver", e))?;
        if i32::from(ordinal) >= count {
            return Err(unavailable(ordinal, format!("this machine has {count} CUDA devices")));
        }
        let device = cu::device::get(i32::from(ordinal)).map_err(|e| fail("the CUDA driver", e))?;
        let name = cu::device::get_name(device).map_err(|e| fail("the CUDA driver", e))?;
        let attribute = |which| {
            // SAFETY: `device` came from `device::get`.
            unsafe { cu::device::get_attribute(device, which) }
                .map_err(|e| fail("the CUDA driver", e))
        };
        let [major, minor, multiprocessors] = [
            sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
        ]
        .map(attribute);
        let (major, minor, multiprocessors) = (major?, minor?, multiprocessors?);
        if major < 8 {
            let reason = format!("{name} has compute capability {major}.x, 8.0 is needed");
            return Err(unavailable(ordinal, reason));
        }
        // SAFETY: `device` came from `device::get`; the primary context is retained for the life of the process.
        let context = unsafe { cu::primary_ctx::retain(device) }
            .map_err(|e| fail("no context on the device", e))?;
        // SAFETY: `context` was just made.
        unsafe { cu::ctx::set_current(context) }.map_err(|e| fail("no context", e))?;
        let stream = cu::stream::create(cu::stream::StreamKind::NonBlocking)
            .map_err(|e| fail("no stream on the device", e))?;
        let refuse = |reason: String| unavailable(ordinal, reason);
        let newcomer = Newcomer {
            stream,
            capability: (major, minor),
            multiprocessors: multiprocessors.unsigned_abs(),
            wishes: Wishes::from_environment().map_err(refuse)?,
        };
        let (arithmetic, module) = newcomer.kernels().map_err(refuse)?;
        let function = |name: &&str| {
            let symbol = CString::new(*name).map_err(|_| unavailable(ordinal, "kernel name"))?;
            // SAFETY: `module` was just loaded and is never unloaded.
            unsafe { cu::module::get_function(module, symbol) }
                .map_err(|e| fail(&format!("kernel {name} is missing"), e))
        };
        let functions: Vec<_> = NAMES.iter().map(function).collect::<Result<_>>()?;
        let shared = attribute(
            sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )? as u32;
        for (kernel, bytes) in LARGE_SHARED {
            let optional = matches!(kernel, Kernel::Extend4 | Kernel::Extend8 | Kernel::Extend10);
            if optional && bytes > shared {
                continue;
            }
            let attribute =
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just found in the module.
            unsafe {
                cu::function::set_function_attribute(
                    functions[kernel as usize],
                    attribute,
                    bytes as i32,
                )
            }
            .map_err(|e| fail("not enough shared memory for the kernels", e))?;
        }
        // PTX for 8.0, whatever a newer card makes of it, has empty bodies for what needs 9.0 and no `griddepcontrol`.
        // SAFETY: the function was just found in the module.
        let compiled_for = unsafe {
            cu::function::get_function_attribute(
                functions[Kernel::Extend4 as usize],
                sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PTX_VERSION,
            )
        };
        let hopper = compiled_for.map_err(|e| fail("kernels without attributes", e))? >= 90;
        let shelf = Mutex::default();
        let launches = AtomicU64::new(0);
        Ok(Self {
            ordinal,
            name,
            arithmetic,
            context,
            stream,
            functions,
            shared,
            hopper,
            shelf,
            launches,
        })
    }

    /// Position among the cards of this machine.
    pub(crate) fn ordinal(&self) -> u16 {
        self.ordinal
    }

    /// Bytes of shared memory that a block can have.
    pub(super) fn shared(&self) -> u32 {
        self.shared
    }

    /// Whether the code that was loaded for it has `extend_*`.
    pub(super) fn extends(&self) -> bool {
        self.hopper
    }

    /// What its kernels compute with.
    pub(super) fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// The card and its arithmetic, for reports.
    pub(crate) fn description(&self) -> String {
        format!("{}, {}", self.name, self.arithmetic.name())
    }

    fn failure(&self, op: &'static str, error: DriverError) -> Error {
        Error::DeviceFailure {
            op,
            device: format!("cuda:{}", self.ordinal),
            detail: describe(error),
        }
    }

    /// Makes the calling thread work with this card.
    fn bind(&self, op: &'static str) -> Result<()> {
        // SAFETY: the context lives as long as the process.
        unsafe { cu::ctx::set_current(self.context) }.map_err(|e| self.failure(op, e))
    }

    /// `words` words of arbitrary content.
    pub(super) fn take(self: &Arc<Self>, words: usize) -> Result<Memory> {
        let class = size_class(words);
        let bytes = class * size_of::<u64>();
        let mut shelf = lock(&self.shelf);
        let shelf = &mut *shelf;
        // The smallest free piece that wastes at most a quarter.
        let fitting = shelf.free.range_mut(class..=class + class / 4).find(|(_, f)| !f.is_empty());
        let (address, class) = if let Some((&found, free)) = fitting
            && let Some(address) = free.pop()
        {
            (address, found)
        } else {
            (self.allocate(shelf, bytes)?, class)
        };
        shelf.used += class * size_of::<u64>();
        shelf.peak = shelf.peak.max(shelf.used);
        cipherform_profile::memory_in_use(shelf.used as u64);
        Ok(Memory { gpu: self.clone(), address, words: class })
    }

    fn allocate(&self, shelf: &mut Shelf, bytes: usize) -> Result<sys::CUdeviceptr> {
        const OP: &str = "allocation";
        self.bind(OP)?;
        // SAFETY: plain device memory; nobody assumes anything about its content.
        let mut result = unsafe { cu::malloc_sync(bytes) };
        if result.is_err() {
            self.synchronize()?;
            for (class, free) in std::mem::take(&mut shelf.free) {
                for address in free {
                    // SAFETY: came from `malloc_sync`, is off the shelf, and no work that uses it is left.
                    unsafe { cu::free_sync(address) }.map_err(|e| self.failure(OP, e))?;
                    shelf.held -= class * size_of::<u64>();
                }
            }
            // SAFETY: as above.
            result = unsafe { cu::malloc_sync(bytes) };
        }
        let out_of_memory = |e: DriverError| {
            let (free, total) = cu::mem_get_info().unwrap_or_default();
            if e.0 == sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY {
                let device = format!("cuda:{}", self.ordinal);
                Error::DeviceMemory { device, needed: bytes, free, held: shelf.held, total }
            } else {
                self.failure(OP, e)
            }
        };
        let address = result.map_err(out_of_memory)?;
        shelf.held += bytes;
        Ok(address)
    }

    /// Bytes in use and the most that ever was.
    pub(crate) fn memory(&self) -> (usize, usize) {
        let shelf = lock(&self.shelf);
        (shelf.used, shelf.peak)
    }

    /// Bytes that can still be taken: what the card has free and what lies on the shelf.
    pub(crate) fn available(&self) -> Result<usize> {
        const OP: &str = "free memory";
        self.bind(OP)?;
        let (free, _) = cu::mem_get_info().map_err(|e| self.failure(OP, e))?;
        let shelf = lock(&self.shelf);
        Ok(free + shelf.held - shelf.used)
    }

    /// Launches asked for so far.
    pub(crate) fn launches(&self) -> u64 {
        self.launches.load(Ordering::Relaxed)
    }

    /// Runs a kernel.
    ///
    /// Callers pass parameters of the types and in the order of the kernel's source, and addresses of memory that holds
    /// as many words as the kernel reads or writes with this grid: `launch.rs` derives both from one set of shapes.
    pub(super) fn launch(&self, kernel: Kernel, launch: Launch, args: &[&dyn Arg]) -> Result<()> {
        const OP: &str = "kernel launch";
        let (x, y, z) = launch.grid;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        self.bind(OP)?;
        self.launches.fetch_add(1, Ordering::Relaxed);
        let mut pointers: Vec<*mut c_void> =
            args.iter().map(|a| std::ptr::from_ref(*a).cast::<c_void>().cast_mut()).collect();
        // Programmatic stream serialization: blocks may start while the last ones of the kernel before are at work.
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared,
            hStream: self.stream,
            attrs: &raw mut attribute,
            numAttrs: u32::from(self.hopper),
        };
        // SAFETY: the function belongs to this card's module; the driver reads configuration and parameters before it
        // returns, and they outlive the call; types and extents are the contract above.
        unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.functions[kernel as usize],
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .map_err(|e| self.failure(NAMES[kernel as usize], e))
    }

    /// Copies host values to the start of new memory, and waits: the values may go, or be wiped, when it returns.
    pub(super) fn upload<T: Plain>(self: &Arc<Self>, values: &[T]) -> Result<Memory> {
        const OP: &str = "upload";
        let memory = self.take(size_of_val(values).div_ceil(size_of::<u64>()))?;
        self.bind(OP)?;
        // SAFETY: the memory is as large as the values, which are borrowed until the stream has finished.
        unsafe { cu::memcpy_htod_async(memory.address, values, self.stream) }
            .map_err(|e| self.failure(OP, e))?;
        self.synchronize()?;
        Ok(memory)
    }

    /// Waits for all work, then copies `len` words from `start`.
    pub(super) fn download(&self, memory: &Memory, start: usize, len: usize) -> Result<Vec<u64>> {
        const OP: &str = "download";
        let from = memory.at(start, len)?;
        self.bind(OP)?;
        let mut words = vec![0u64; len];
        // SAFETY: `at` checked that the words are inside; the vector is not touched before the stream has finished.
        unsafe { cu::memcpy_dtoh_async(&mut words, from, self.stream) }
            .map_err(|e| self.failure(OP, e))?;
        self.synchronize()?;
        Ok(words)
    }

    /// Copies words on the card; the ranges belong to different memories or do not overlap.
    pub(super) fn copy(
        &self,
        to: (&Memory, usize),
        from: (&Memory, usize),
        words: usize,
    ) -> Result<()> {
        const OP: &str = "copy";
        let (to, from) = (to.0.at(to.1, words)?, from.0.at(from.1, words)?);
        self.bind(OP)?;
        // SAFETY: `at` checked both ranges.
        unsafe { cu::memcpy_dtod_async(to, from, words * size_of::<u64>(), self.stream) }
            .map_err(|e| self.failure(OP, e))
    }

    /// Zeros.
    pub(super) fn clear(&self, memory: &Memory, start: usize, words: usize) -> Result<()> {
        const OP: &str = "clear";
        let to = memory.at(start, words)?;
        self.bind(OP)?;
        // SAFETY: `at` checked the range.
        unsafe { cu::memset_d8_async(to, 0, words * size_of::<u64>(), self.stream) }
            .map_err(|e| self.failure(OP, e))
    }

    /// Waits until everything that was asked for is done.
    pub(crate) fn synchronize(&self) -> Result<()> {
        const OP: &str = "synchronize";
        self.bind(OP)?;
        // SAFETY: the stream lives as long as the process.
        unsafe { cu::stream::synchronize(self.stream) }.map_err(|e| self.failure(OP, e))
    }

    /// Seconds on the card's own clock that the work asked for by `f` takes.
    pub(crate) fn time(&self, f: impl FnOnce() -> Result<()>) -> Result<f64> {
        let mut events = Events::new(self.stream);
        self.mark(&mut events)?;
        f()?;
        self.mark(&mut events)?;
        Ok(self.elapsed(&events)?.last().map_or(0.0, Duration::as_secs_f64))
    }

    /// No events yet.
    pub(super) fn events(&self) -> Events {
        Events::new(self.stream)
    }

    /// An event after everything that has been asked for.
    pub(super) fn mark(&self, events: &mut Events) -> Result<()> {
        const OP: &str = "timing";
        self.bind(OP)?;
        events.record().map_err(|e| self.failure(OP, e))
    }

    /// Waits; the times of all events since the first.
    pub(super) fn elapsed(&self, events: &Events) -> Result<Vec<Duration>> {
        const OP: &str = "timing";
        self.bind(OP)?;
        events.elapsed().map_err(|e| self.failure(OP, e))
    }
}

/// A parameter of a kernel.
pub(super) trait Arg {}
impl<T: Plain> Arg for T {}

/// Words on a card, handed back to its arena when dropped.
pub(crate) struct Memory {
    gpu: Arc<Gpu>,
    address: sys::CUdeviceptr,
    words: usize,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} words on cuda:{})", self.words, self.gpu.ordinal)
    }
}

impl Memory {
    pub(super) fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Words that can be held.
    pub(super) fn words(&self) -> usize {
        self.words
    }

    /// The address of `len` words from `start`. Fails if they are not all inside: a bug of this crate, which must not
    /// become an access to another polynomial.
    pub(super) fn at(&self, start: usize, len: usize) -> Result<u64> {
        if start.checked_add(len).is_none_or(|end| end > self.words) {
            return Err(Error::DeviceFailure {
                op: "address",
                device: format!("cuda:{}", self.gpu.ordinal),
                detail: format!("{len} words from {start} of a piece of {}", self.words),
            });
        }
        Ok(self.address + (start * size_of::<u64>()) as u64)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut shelf = lock(&self.gpu.shelf);
        shelf.used -= self.words * size_of::<u64>();
        shelf.free.entry(self.words).or_default().push(self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::size_class;

    #[test]
    fn size_classes_waste_at_most_an_eighth() {
        for words in (1..5000).chain([1 << 20, (1 << 20) + 1, 33 << 16]) {
            let class = size_class(words);
            assert!(class >= words && class <= (words + words / 8).max(64), "{words}: {class}");
            assert_eq!(size_class(class), class);
        }
    }
}
