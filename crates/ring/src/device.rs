//! Where polynomials live. Above this crate a [`Device`] is an opaque value.

use crate::error::Error;
use std::fmt;
use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Cpu,
    Reference,
}

/// A device that can hold and work on polynomials. All devices give identical words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    pub(crate) kind: Kind,
}

impl Device {
    /// This machine's CPU: vectorised transforms, a thread pool over limbs.
    #[must_use]
    pub fn cpu() -> Self {
        Self { kind: Kind::Cpu }
    }

    /// The oracle of the test suite: one thread, 128-bit remainders, nothing clever.
    #[must_use]
    pub fn reference() -> Self {
        Self { kind: Kind::Reference }
    }

    /// The device in words, for reports: threads and the instruction set that is used.
    #[must_use]
    pub fn description(&self) -> String {
        match self.kind {
            Kind::Cpu => {
                let threads = rayon::current_num_threads();
                let plural = if threads == 1 { "" } else { "s" };
                format!("cpu, {threads} thread{plural}, {}", instruction_set())
            }
            Kind::Reference => "reference, 1 thread, scalar".to_owned(),
        }
    }
}

/// `avx512ifma`, `avx2` or `scalar`.
fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512ifma") {
            return "avx512ifma";
        }
        if std::is_x86_feature_detected!("avx2") {
            return "avx2";
        }
    }
    "scalar"
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Cpu => "cpu",
            Kind::Reference => "reference",
        })
    }
}

impl FromStr for Device {
    type Err = Error;

    /// Reads `cpu` or `reference`.
    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "cpu" => Ok(Self::cpu()),
            "reference" => Ok(Self::reference()),
            _ => Err(Error::DeviceUnavailable {
                name: name.to_owned(),
                reason: "this build knows `cpu` and `reference`",
            }),
        }
    }
}
