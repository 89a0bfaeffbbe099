//! Kernels in a form that a card can run, and which of the two forms of arithmetic it runs faster.
//!
//! Kernels are shipped as machine code and PTX. What a card and its driver cannot use, or what [`CUDA_VARIABLE`] asks for,
//! is compiled from the same sources by NVRTC, the CUDA toolkit's library, which is looked for then.
#![expect(unsafe_code, reason = "the driver's interface is C")]

use super::arithmetic::Arithmetic;
use super::timeline::timed;
use crate::device::CUDA_VARIABLE;
use crate::modulus::Modulus;
use cudarc::driver::DriverError;
use cudarc::driver::result as cu;
use cudarc::driver::sys::{self, cudaError_enum as Code};
use cudarc::nvrtc;
use std::ffi::{CString, c_void};
use std::str::FromStr;

/// A source file: its name and its text.
type Source = (&'static str, &'static str);

/// Shipped machine code and the sources it is made from.
struct Program {
    /// Made by scripts/build-kernels.
    shipped: &'static [u8],
    /// The first file, and those that may be included.
    sources: &'static [Source],
    options: &'static [&'static str],
}

macro_rules! source {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../kernels/", $name)))
    };
}

const KERNELS: &[Source] = &[
    source!("kernels.cu"),
    source!("convert.cu"),
    source!("elementwise.cu"),
    source!("extend.cu"),
    source!("hoisted.cu"),
    source!("key_switch.cu"),
    source!("ntt.cu"),
    source!("field.cuh"),
    source!("fp64.cuh"),
    source!("integer.cuh"),
];
static FP64: Program = Program {
    shipped: include_bytes!("../../../kernels/kernels.fatbin"),
    sources: KERNELS,
    options: &[],
};
static INTEGER: Program = Program {
    shipped: include_bytes!("../../../kernels/kernels_integer.fatbin"),
    sources: KERNELS,
    options: &["-DINTEGER"],
};
static PROBE: Program = Program {
    shipped: include_bytes!("../../../kernels/probe.fatbin"),
    sources: &[
        source!("probe.cu"),
        source!("field.cuh"),
        source!("fp64.cuh"),
        source!("integer.cuh"),
    ],
    options: &[],
};

/// What [`CUDA_VARIABLE`] asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    arithmetic: Option<Arithmetic>,
    compile: bool,
}

impl Wishes {
    pub(super) fn from_environment() -> Result<Self, String> {
        let Some(text) = std::env::var_os(CUDA_VARIABLE) else { return Ok(Self::default()) };
        text.to_string_lossy().parse()
    }
}

impl FromStr for Wishes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut wishes = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "fp64" => wishes.arithmetic = Some(Arithmetic::Fp64),
                "integer" => wishes.arithmetic = Some(Arithmetic::Integer),
                "nvrtc" => wishes.compile = true,
                _ => {
                    return Err(format!(
                        "{CUDA_VARIABLE} is a list of `fp64` or `integer` and `nvrtc`, got `{word}`"
                    ));
                }
            }
        }
        Ok(wishes)
    }
}

/// A card in the current context, on its way into service.
#[derive(Debug)]
pub(super) struct Newcomer {
    pub(super) stream: sys::CUstream,
    /// Compute capability.
    pub(super) capability: (i32, i32),
    pub(super) multiprocessors: u32,
    pub(super) wishes: Wishes,
}

impl Newcomer {
    /// The arithmetic that is asked for or else is faster here, and its kernels. Fails with the reason.
    pub(super) fn kernels(&self) -> Result<(Arithmetic, sys::CUmodule), String> {
        let arithmetic = match self.wishes.arithmetic {
            Some(arithmetic) => arithmetic,
            None => self.faster()?,
        };
        let program = match arithmetic {
            Arithmetic::Fp64 => &FP64,
            Arithmetic::Integer => &INTEGER,
        };
        Ok((arithmetic, self.load(program)?))
    }

    fn load(&self, program: &Program) -> Result<sys::CUmodule, String> {
        let image;
        let bytes = if self.wishes.compile {
            image = program.compile(self.capability)?;
            &image
        } else {
            // SAFETY: the image is a whole fatbin, a static; the driver copies it.
            match unsafe { cu::module::load_data(program.shipped.as_ptr().cast()) } {
                Ok(module) => return Ok(module),
                Err(error) if !unsuitable(error) => {
                    return Err(format!("the kernels do not load: {error:?}"));
                }
                Err(error) => {
                    image = program.compile(self.capability).map_err(|reason| {
                        format!("the shipped kernels are not for this card or driver ({error:?}); {reason}")
                    })?;
                    &image
                }
            }
        };
        // SAFETY: as above, machine code that NVRTC has just written.
        unsafe { cu::module::load_data(bytes.as_ptr().cast()) }
            .map_err(|error| format!("the compiled kernels do not load: {error:?}"))
    }

    /// The arithmetic with the faster multiplication, by measurement.
    fn faster(&self) -> Result<Arithmetic, String> {
        let module = self.load(&PROBE)?;
        let times = self.times(module);
        // SAFETY: loaded above; `times` has waited for its kernels.
        unsafe { cu::module::unload(module) }.map_err(failure)?;
        let [fp64, integer] = times?;
        Ok(if integer < fp64 { Arithmetic::Integer } else { Arithmetic::Fp64 })
    }

    /// Milliseconds of the same work in FP64 and in integers: probe.cu.
    fn times(&self, module: sys::CUmodule) -> Result<[f32; 2], String> {
        const THREADS: u32 = 256;
        // The largest prime below 2^50.
        let prime = Modulus::new((1 << 50) - 27).map_err(|error| error.to_string())?;
        let (grid, mut rounds) = (4 * self.multiprocessors, 64u32);
        let words = (grid * THREADS) as usize;
        // SAFETY: plain memory; freed below.
        let mut out = unsafe { cu::malloc_sync(words * size_of::<u64>()) }.map_err(failure)?;
        let mut time = |arithmetic: Arithmetic, name: &str| -> Result<f32, String> {
            let name = CString::new(name).map_err(|error| error.to_string())?;
            // SAFETY: `module` is loaded.
            let kernel = unsafe { cu::module::get_function(module, name) }.map_err(failure)?;
            let mut prime = arithmetic.prime(&prime).map_err(|error| error.to_string())?;
            let mut best = f32::INFINITY;
            for _ in 0..4 {
                let mut args: [*mut c_void; 3] =
                    [(&raw mut out).cast(), (&raw mut rounds).cast(), (&raw mut prime).cast()];
                let run = || {
                    let shape = ((grid, 1, 1), (THREADS, 1, 1));
                    // SAFETY: the parameters are those of probe.cu, and `out` has a word for every thread.
                    unsafe {
                        cu::launch_kernel(kernel, shape.0, shape.1, 0, self.stream, &mut args)
                    }
                };
                best = best.min(timed(self.stream, run).map_err(failure)?);
            }
            Ok(best)
        };
        let times =
            [time(Arithmetic::Fp64, "probe_fp64"), time(Arithmetic::Integer, "probe_integer")];
        // SAFETY: allocated above; `timed` has waited for all work, unless the card failed and nothing matters.
        unsafe { cu::free_sync(out) }.map_err(failure)?;
        let [fp64, integer] = times;
        Ok([fp64?, integer?])
    }
}

fn failure(error: DriverError) -> String {
    format!("its arithmetic could not be measured: {error:?}")
}

/// Whether other machine code could do where this image does not.
fn unsuitable(error: DriverError) -> bool {
    matches!(
        error.0,
        Code::CUDA_ERROR_NO_BINARY_FOR_GPU
            | Code::CUDA_ERROR_INVALID_IMAGE
            | Code::CUDA_ERROR_INVALID_PTX
            | Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | Code::CUDA_ERROR_JIT_COMPILER_NOT_FOUND
    )
}

impl Program {
    /// All sources in one, since NVRTC finds no files.
    fn source(&self) -> String {
        let mut text = String::new();
        if let Some(first) = self.sources.first() {
            self.expand(first, &mut Vec::new(), &mut text);
        }
        text
    }

    /// A file with those that it includes in place, each once.
    fn expand(&self, file: &Source, known: &mut Vec<&'static str>, text: &mut String) {
        if known.contains(&file.0) {
            return;
        }
        known.push(file.0);
        for line in file.1.lines().filter(|line| *line != "#pragma once") {
            let name = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
            match name.and_then(|name| self.sources.iter().find(|file| file.0 == name)) {
                Some(included) => self.expand(included, known, text),
                None => text.extend([line, "\n"]),
            }
        }
    }

    /// Machine code for a card of this compute capability.
    fn compile(&self, (major, minor): (i32, i32)) -> Result<Vec<u8>, String> {
        // SAFETY: loads a shared library by its well-known name; its initialisers are the toolkit's own.
        if !unsafe { nvrtc::sys::is_culib_present() } {
            return Err("compiling the kernels takes NVRTC (libnvrtc of the CUDA toolkit), which is not on this \
                        machine: install it, or name its folder in LD_LIBRARY_PATH"
                .to_owned());
        }
        let source = CString::new(self.source()).map_err(|error| error.to_string())?;
        let mut options =
            vec![format!("--gpu-architecture=sm_{major}{minor}"), "--std=c++17".to_owned()];
        // See fp64.cuh.
        options.push("--fmad=false".to_owned());
        options.extend(self.options.iter().map(|&option| option.to_owned()));
        let program = nvrtc::result::create_program(&source, None).map_err(|e| e.to_string())?;
        // SAFETY: `program` was just made and is destroyed below.
        let image = unsafe { nvrtc::result::compile_program(program, &options) }
            .and_then(|()| machine_code(program))
            .map_err(|error| format!("NVRTC: {error}: {}", log(program)));
        // SAFETY: as above.
        unsafe { nvrtc::result::destroy_program(program) }.map_err(|error| error.to_string())?;
        image
    }
}

fn machine_code(program: nvrtc::sys::nvrtcProgram) -> Result<Vec<u8>, nvrtc::result::NvrtcError> {
    let mut size = 0;
    // SAFETY: `program` is alive.
    unsafe { nvrtc::sys::nvrtcGetCUBINSize(program, &raw mut size) }.result()?;
    let mut image = vec![0u8; size];
    // SAFETY: as large as NVRTC says.
    unsafe { nvrtc::sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()) }.result()?;
    Ok(image)
}

/// The first of the compiler's messages.
fn log(program: nvrtc::sys::nvrtcProgram) -> String {
    // SAFETY: `program` is alive.
    let text = unsafe { nvrtc::result::get_program_log(program) }.unwrap_or_default();
    let bytes = text.iter().map(|&c| c.cast_unsigned()).take_while(|&c| c != 0);
    String::from_utf8_lossy(&bytes.take(500).collect::<Vec<u8>>()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Arithmetic, FP64, INTEGER, PROBE, Wishes};

    #[test]
    fn wishes_are_read_and_others_refused() {
        let wishes = |arithmetic, compile| Ok(Wishes { arithmetic, compile });
        assert_eq!("".parse(), wishes(None, false));
        assert_eq!("integer".parse(), wishes(Some(Arithmetic::Integer), false));
        assert_eq!("fp64, nvrtc".parse(), wishes(Some(Arithmetic::Fp64), true));
        assert!("int".parse::<Wishes>().is_err());
    }

    /// A file that another includes and the lists here forget would be missed only where NVRTC is used.
    #[test]
    fn sources_for_nvrtc_are_whole() {
        for program in [&FP64, &INTEGER, &PROBE] {
            let source = program.source();
            assert!(!source.contains("#include"));
            assert_eq!(source.matches("namespace integer {").count(), 1);
        }
    }

    /// NVRTC needs no card: where it is, all sources compile; where it is not, the error says so.
    #[test]
    fn nvrtc_compiles_the_sources_or_is_missed() {
        for program in [&FP64, &INTEGER, &PROBE] {
            match program.compile((9, 0)) {
                Ok(image) => assert_eq!(&image[..4], b"\x7fELF"),
                Err(reason) => assert!(reason.contains("which is not on this machine"), "{reason}"),
            }
        }
    }
}
