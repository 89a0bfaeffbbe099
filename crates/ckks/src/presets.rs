//! The vetted leveled parameter sets. A name means exactly these primes, forever: change one and it needs a new name.
//!
//! | set | n | levels | scale | log2 QP | claimed bits |
//! |---|---|---|---|---|---|
//! | `lev13` | 2^13 | 4 | 2^32 | 213 | 128 |
//! | `lev14` | 2^14 | 7 | 2^40 | 429 | 128 |
//! | `lev14_35` | 2^14 | 8 | 2^35 | 420 | 128 |
//! | `lev15` | 2^15 | 15 | 2^40 | 850 | 128 |
//! | `lev15_45` | 2^15 | 14 | 2^45 | 830 | 128 |
//! | `lev16_36` | 2^16 | 35 | 2^36 | 1710 | 128 |
//! | `toy11_lev` | 2^11 | 3 | 2^40 | 220 | none: for tests |
//! | `toy11_deep` | 2^11 | 24 | 2^36 | 1114 | none: for tests |
//!
//! All secrets are uniform ternary. Primes are written as k in p = 2kn + 1. The application primes were chosen such
//! that the exact scale stays within 2^-11 of its nominal logarithm at every level, so their order matters.

use crate::error::{Error, Result};
use crate::params::{Parameters, ParametersLiteral};
use crate::security::SecretDistribution;

struct Preset {
    name: &'static str,
    log_n: u32,
    log2_scale: u32,
    base: u64,
    /// Top down: the first is the one that the first rescaling removes.
    application: &'static [u64],
    special: &'static [u64],
}

const PRESETS: [Preset; 8] = [
    Preset {
        name: "lev13",
        log_n: 13,
        log2_scale: 32,
        base: 268_435_434,
        application: &[262_149, 262_114, 262_182, 262_164],
        special: &[536_870_902],
    },
    Preset {
        name: "lev14",
        log_n: 14,
        log2_scale: 40,
        base: 34_357_356_824,
        application: &[
            33_554_441, 33_554_384, 33_554_472, 33_554_514, 33_554_325, 33_554_519, 33_554_312,
        ],
        special: &[24_296_003_994, 24_296_004_005],
    },
    Preset {
        name: "lev14_35",
        log_n: 14,
        log2_scale: 35,
        base: 2_147_483_649,
        application: &[
            1_048_577, 1_048_566, 1_048_607, 1_048_547, 1_048_560, 1_048_650, 1_048_485, 1_048_517,
        ],
        special: &[4_294_967_300, 4_294_967_289],
    },
    Preset {
        name: "lev15",
        log_n: 15,
        log2_scale: 40,
        base: 17_178_678_370,
        application: &[
            16_777_236, 16_777_192, 16_777_156, 16_777_278, 16_777_257, 16_777_108, 16_777_287,
            16_777_080, 16_777_291, 16_777_077, 16_777_138, 16_777_366, 16_777_296, 16_777_032,
            16_777_317,
        ],
        special: &[17_178_678_412, 17_178_678_432, 17_178_678_376, 17_178_678_438],
    },
    Preset {
        name: "lev15_45",
        log_n: 15,
        log2_scale: 45,
        base: 17_178_678_438,
        application: &[
            536_870_922,
            536_870_863,
            536_870_980,
            536_870_926,
            536_870_847,
            536_870_941,
            536_870_833,
            536_870_992,
            536_870_782,
            536_870_850,
            536_871_057,
            536_871_010,
            536_870_710,
            536_871_013,
        ],
        special: &[17_178_678_412, 17_178_678_432, 17_178_678_376],
    },
    Preset {
        name: "lev16_36",
        log_n: 16,
        log2_scale: 36,
        base: 8_589_934_569,
        application: &[
            524_280, 524_325, 524_238, 524_328, 524_231, 524_363, 524_180, 524_226, 524_378,
            524_369, 524_168, 524_216, 524_433, 524_210, 524_454, 524_198, 524_429, 524_190,
            524_468, 524_159, 524_498, 524_411, 524_091, 524_148, 524_541, 524_145, 524_556,
            524_141, 524_520, 524_478, 523_974, 524_133, 524_570, 524_114, 524_640,
        ],
        special: &[
            8_589_934_556,
            8_589_934_443,
            8_589_934_436,
            8_589_934_431,
            8_589_934_419,
            8_589_934_418,
            8_589_934_415,
            8_589_934_413,
        ],
    },
    Preset {
        name: "toy11_lev",
        log_n: 11,
        log2_scale: 40,
        base: 274_858_854_541,
        application: &[268_435_447, 268_435_497, 268_435_398],
        special: &[274_858_854_513],
    },
    Preset {
        name: "toy11_deep",
        log_n: 11,
        log2_scale: 36,
        base: 274_877_906_940,
        application: &[
            16_777_218, 16_777_213, 16_777_203, 16_777_237, 16_777_198, 16_777_257, 16_777_195,
            16_777_261, 16_777_191, 16_777_245, 16_777_173, 16_777_282, 16_777_156, 16_777_303,
            16_777_150, 16_777_330, 16_777_146, 16_777_377, 16_777_143, 16_777_387, 16_777_141,
            16_777_356, 16_777_138, 16_777_360,
        ],
        special: &[274_877_906_917, 274_877_906_892, 274_877_906_845, 274_877_906_842],
    },
];

/// The names of all sets, secure ones first.
#[must_use]
pub fn names() -> Vec<&'static str> {
    PRESETS.iter().map(|p| p.name).collect()
}

/// The literal of a set, unchecked.
///
/// # Errors
/// [`Error::UnknownParameters`] lists the names that exist.
pub fn literal(name: &str) -> Result<ParametersLiteral> {
    let preset = PRESETS.iter().find(|p| p.name == name).ok_or_else(|| {
        Error::UnknownParameters { name: name.to_owned(), known: names().join(", ") }
    })?;
    let prime = |&k: &u64| (k << (preset.log_n + 1)) + 1;
    Ok(ParametersLiteral {
        name: preset.name.to_owned(),
        log_n: preset.log_n,
        secret: SecretDistribution::UniformTernary,
        log2_scale: preset.log2_scale,
        base: prime(&preset.base),
        application: preset.application.iter().map(prime).collect(),
        special: preset.special.iter().map(prime).collect(),
    })
}

/// The checked parameters of a set. Sets named `toy*` are insecure and [`Parameters::is_toy`] says so.
///
/// # Errors
/// [`Error::UnknownParameters`] lists the names that exist.
pub fn get(name: &str) -> Result<Parameters> {
    let literal = literal(name)?;
    if literal.is_named_toy() { literal.check_insecure_toy() } else { literal.check() }
}
