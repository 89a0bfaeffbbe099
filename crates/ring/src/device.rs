//! Where polynomials live. Above this crate a [`Device`] is an opaque value.

use crate::backend::cpu::Isa;
use crate::error::Error;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

/// Names the instruction set of [`Device::cpu`], e.g. `cpu:avx2`.
pub const CPU_VARIABLE: &str = "CIPHERFORM_CPU";

/// How CUDA cards compute, a list separated by commas: `fp64` or `integer` takes the arithmetic that a card would not get
/// by measurement, `nvrtc` compiles the kernels on this machine in place of taking the shipped ones.
pub const CUDA_VARIABLE: &str = "CIPHERFORM_CUDA";

/// What the vector loops of the CPU are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum InstructionSet {
    Avx512Ifma,
    Avx2,
    Scalar,
}

impl InstructionSet {
    /// The fastest first.
    const ALL: [Self; 3] = [Self::Avx512Ifma, Self::Avx2, Self::Scalar];

    /// Name of the CPU device that uses it.
    fn device_name(self) -> &'static str {
        match self {
            Self::Avx512Ifma => "cpu:avx512ifma",
            Self::Avx2 => "cpu:avx2",
            Self::Scalar => "cpu:scalar",
        }
    }

    /// The error of a machine without it.
    pub(crate) fn unavailable(self) -> Error {
        let reason = match self {
            Self::Avx512Ifma => "this machine has no AVX-512 IFMA: use `cpu` for the best it has",
            Self::Avx2 => "this machine has no AVX2 with FMA: use `cpu` for the best it has",
            Self::Scalar => "scalar code runs everywhere",
        };
        Error::DeviceUnavailable { name: self.device_name().to_owned(), reason: reason.into() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Cpu(InstructionSet),
    #[cfg(feature = "cuda")]
    Cuda(u16),
    Reference,
}

/// A device that can hold and work on polynomials. All devices give identical words.
///
/// The CPU is a device for each instruction set it has: they differ in speed only, but polynomials do not mix, so that
/// what a ring reports about its device is true of all work done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    pub(crate) kind: Kind,
}

impl Device {
    /// This machine's CPU with the fastest instruction set it has: a thread pool over limbs, vector loops.
    ///
    /// The environment variable [`CPU_VARIABLE`] takes another one of [`Device::cpus`] by its name, for a whole process:
    /// how every suite runs on machines without the fast instructions. A set that the machine lacks is not taken.
    #[must_use]
    pub fn cpu() -> Self {
        static CHOICE: LazyLock<Device> = LazyLock::new(|| {
            let name = std::env::var(CPU_VARIABLE).unwrap_or_default();
            let wanted = Device::cpus().into_iter().find(|device| device.to_string() == name);
            wanted.unwrap_or_else(Device::fastest_cpu)
        });
        *CHOICE
    }

    fn fastest_cpu() -> Self {
        let best = InstructionSet::ALL.into_iter().find(|&set| Isa::new(set).is_ok());
        Self { kind: Kind::Cpu(best.unwrap_or(InstructionSet::Scalar)) }
    }

    /// The CPU with every instruction set that this machine has, the fastest first; the last is scalar.
    #[must_use]
    pub fn cpus() -> Vec<Self> {
        let available = InstructionSet::ALL.into_iter().filter(|&set| Isa::new(set).is_ok());
        available.map(|set| Self { kind: Kind::Cpu(set) }).collect()
    }

    /// The CUDA card with this position in the driver's list.
    ///
    /// Needs the feature `cuda`, a driver of the 580 branch or newer and a card of compute capability 8.0 or newer. Work
    /// is asked for and not waited for; what fails is reported by a later call. All rings on a card share its memory.
    ///
    /// Cards with fast FP64 units (A100, H100, B200) compute with these, others with integers: which is faster is measured
    /// when a card is first used. The environment variable [`CUDA_VARIABLE`] decides otherwise, for a whole process. The
    /// words are the same.
    ///
    /// # Errors
    /// `DeviceUnavailable`, with the reason.
    pub fn cuda(ordinal: u16) -> Result<Self, Error> {
        #[cfg(feature = "cuda")]
        {
            crate::backend::cuda::Gpu::get(ordinal)?;
            Ok(Self { kind: Kind::Cuda(ordinal) })
        }
        #[cfg(not(feature = "cuda"))]
        Err(Error::DeviceUnavailable {
            name: format!("cuda:{ordinal}"),
            reason: "this build has no CUDA support: build with the feature `cuda`".into(),
        })
    }

    /// The oracle of the test suite: one thread, 128-bit remainders, nothing clever.
    #[must_use]
    pub fn reference() -> Self {
        Self { kind: Kind::Reference }
    }

    /// Whether calls return before the work is done, so that timings need [`crate::Ring::synchronize`].
    #[must_use]
    pub fn runs_behind(&self) -> bool {
        !matches!(self.kind, Kind::Cpu(_) | Kind::Reference)
    }

    /// Most bytes that a ring on the CPU keeps for reuse once they were used.
    pub const KEPT_BYTES: usize = 1 << 30;

    /// Bytes that the machine, or the card, could give to polynomials of this process now; `None` if it does not say.
    #[must_use]
    pub fn available_memory(&self) -> Option<u64> {
        #[cfg(feature = "cuda")]
        if let Kind::Cuda(ordinal) = self.kind {
            let available = crate::backend::cuda::Gpu::get(ordinal).and_then(|gpu| gpu.available());
            return available.ok().map(|bytes| bytes as u64);
        }
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
    }

    /// The device in words, for reports: threads and the instruction set that is used.
    #[must_use]
    pub fn description(&self) -> String {
        match self.kind {
            Kind::Cpu(_) => {
                let threads = rayon::current_num_threads();
                let plural = if threads == 1 { "" } else { "s" };
                format!("{self}, {threads} thread{plural}")
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(ordinal) => match crate::backend::cuda::Gpu::get(ordinal) {
                Ok(gpu) => format!("{self}, {}", gpu.description()),
                Err(_) => self.to_string(),
            },
            Kind::Reference => "reference, 1 thread, scalar".to_owned(),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Cpu(set) => f.write_str(set.device_name()),
            #[cfg(feature = "cuda")]
            Kind::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Kind::Reference => f.write_str("reference"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// Reads `cpu` (the fastest this machine has), `cpu:avx512ifma`, `cpu:avx2`, `cpu:scalar`, `cuda` (the first card),
    /// `cuda:0`, `cuda:1` and so on, or `reference`. A device that is not there is an error, never another device.
    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "cpu" => return Ok(Self::cpu()),
            "cuda" => return Self::cuda(0),
            "reference" => return Ok(Self::reference()),
            _ => {}
        }
        if let Some(ordinal) = name.strip_prefix("cuda:").and_then(|o| o.parse().ok()) {
            return Self::cuda(ordinal);
        }
        let set = InstructionSet::ALL.into_iter().find(|set| set.device_name() == name);
        let set = set.ok_or_else(|| Error::DeviceUnavailable {
            name: name.to_owned(),
            reason: "a device is `cpu`, `cpu:avx512ifma`, `cpu:avx2`, `cpu:scalar`, `cuda:0`, `cuda:1` ... or \
                     `reference`"
                .into(),
        })?;
        Isa::new(set)?;
        Ok(Self { kind: Kind::Cpu(set) })
    }
}
