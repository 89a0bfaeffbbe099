//! The vetted parameter sets. A name means exactly these primes, forever: change one and it needs a new name.
//!
//! | set | n | levels | scale | log2 QP | claimed bits |
//! |---|---|---|---|---|---|
//! | `lev13` | 2^13 | 4 | 2^32 | 213 | 128 |
//! | `lev14` | 2^14 | 7 | 2^40 | 429 | 128 |
//! | `lev14_35` | 2^14 | 8 | 2^35 | 420 | 128 |
//! | `lev15` | 2^15 | 15 | 2^40 | 850 | 128 |
//! | `lev15_45` | 2^15 | 14 | 2^45 | 830 | 128 |
//! | `lev16_36` | 2^16 | 35 | 2^36 | 1710 | 128 |
//! | `boot15` | 2^15 | 4 | 2^34 | 861 | 128 |
//! | `boot16` | 2^16 | 15 | 2^40 | 1740 | 128 |
//! | `boot16_deep` | 2^16 | 17 | 2^40 | 1720 | 128 |
//! | `boot16_hp` | 2^16 | 11 | 2^45 | 1703 | 128 |
//! | `toy11_lev` | 2^11 | 3 | 2^40 | 220 | none: for tests |
//! | `toy11_deep` | 2^11 | 24 | 2^36 | 1114 | none: for tests |
//! | `toy12_boot` | 2^12 | 4 | 2^40 | 1100 | none: for tests |
//! | `toy11_boot` | 2^11 | 11 | 2^40 | 1380 | none: for tests |
//! | `toy10_boot` | 2^10 | 3 | 2^40 | 970 | none: for tests |
//!
//! `boot*` and `toy*_boot` can bootstrap: their levels are those between two bootstraps, and the ephemeral secret has
//! weight 32. `boot16_deep` has more levels and slower key switches, `boot16_hp` more precision.
//!
//! All secrets are uniform ternary. Primes are written as k in p = 2kn + 1. The application primes were chosen such
//! that the exact scale stays within 2^-11 of its nominal logarithm at every level, so their order matters.

use crate::error::{Error, Result};
use crate::params::{BootstrappingLiteral, Parameters, ParametersLiteral};
use crate::security::SecretDistribution;

struct Preset {
    name: &'static str,
    log_n: u32,
    log2_scale: u32,
    base: u64,
    /// Top down: the first is the one that the first rescaling removes.
    application: &'static [u64],
    special: &'static [u64],
    bootstrapping: Option<Bootstrapping>,
}

/// As `BootstrappingLiteral`; K = 15 and h = 32 in all sets.
struct Bootstrapping {
    slots_to_coefficients: &'static [u64],
    eval_mod: &'static [&'static [u64]],
    coefficients_to_slots: &'static [u64],
    log2_ratio: u32,
}

const PRESETS: [Preset; 15] = [
    Preset {
        name: "lev13",
        log_n: 13,
        log2_scale: 32,
        base: 268_435_434,
        application: &[262_149, 262_114, 262_182, 262_164],
        special: &[536_870_902],
        bootstrapping: None,
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
        bootstrapping: None,
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
        bootstrapping: None,
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
        bootstrapping: None,
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
        bootstrapping: None,
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
        bootstrapping: None,
    },
    Preset {
        name: "boot15",
        log_n: 15,
        log2_scale: 34,
        base: 1_073_741_830,
        application: &[4_015_666_377, 262_141, 262_150, 262_137],
        special: &[17_178_678_412, 17_178_678_432],
        bootstrapping: Some(Bootstrapping {
            slots_to_coefficients: &[262_168, 262_152],
            eval_mod: &[
                &[5_287_725_045],
                &[5_790, 5_805],
                &[2_050, 2_062],
                &[5_287_725_037],
                &[5_287_725_016],
                &[5_287_725_010],
                &[5_287_724_973],
                &[5_287_725_003],
            ],
            coefficients_to_slots: &[4_294_967_280, 4_294_967_290],
            log2_ratio: 11,
        }),
    },
    Preset {
        name: "boot16",
        log_n: 16,
        log2_scale: 40,
        base: 8_589_339_123,
        application: &[
            331_168_985,
            8_388_596,
            8_388_639,
            8_388_578,
            8_388_618,
            8_388_648,
            8_388_569,
            8_388_683,
            8_388_545,
            8_388_554,
            8_388_719,
            8_388_549,
            8_388_741,
            8_388_690,
            8_388_443,
        ],
        special: &[
            8_589_339_206,
            8_589_339_216,
            8_589_339_188,
            8_589_339_219,
            8_589_339_185,
            8_589_339_180,
            8_589_339_255,
            8_589_339_261,
        ],
        bootstrapping: Some(Bootstrapping {
            slots_to_coefficients: &[8_388_524, 8_388_699, 8_388_540],
            eval_mod: &[
                &[8_589_934_413],
                &[5_790, 5_796],
                &[2_045, 2_054],
                &[8_589_934_415],
                &[8_589_934_418],
                &[8_589_934_419],
                &[8_589_934_431],
                &[8_589_934_436],
            ],
            coefficients_to_slots: &[8_589_934_443, 8_589_934_556, 8_589_934_569],
            log2_ratio: 11,
        }),
    },
    Preset {
        name: "boot16_deep",
        log_n: 16,
        log2_scale: 40,
        base: 8_589_339_255,
        application: &[
            331_168_985,
            8_388_596,
            8_388_639,
            8_388_578,
            8_388_618,
            8_388_648,
            8_388_569,
            8_388_683,
            8_388_545,
            8_388_554,
            8_388_719,
            8_388_549,
            8_388_741,
            8_388_690,
            8_388_443,
            8_388_699,
            8_388_524,
        ],
        special: &[
            8_589_339_206,
            8_589_339_216,
            8_589_339_188,
            8_589_339_219,
            8_589_339_185,
            8_589_339_180,
        ],
        bootstrapping: Some(Bootstrapping {
            slots_to_coefficients: &[8_388_516, 8_388_711, 8_388_540],
            eval_mod: &[
                &[8_589_934_413],
                &[5_790, 5_796],
                &[2_045, 2_054],
                &[8_589_934_415],
                &[8_589_934_418],
                &[8_589_934_419],
                &[8_589_934_431],
                &[8_589_934_436],
            ],
            coefficients_to_slots: &[8_589_934_443, 8_589_934_556, 8_589_934_569],
            log2_ratio: 11,
        }),
    },
    Preset {
        name: "boot16_hp",
        log_n: 16,
        log2_scale: 45,
        base: 8_589_339_123,
        application: &[
            662_337_941,
            268_435_461,
            268_435_425,
            268_435_490,
            268_435_463,
            268_435_496,
            268_435_355,
            268_435_505,
            268_435_404,
            268_435_509,
            268_435_391,
        ],
        special: &[
            8_589_339_206,
            8_589_339_216,
            8_589_339_188,
            8_589_339_219,
            8_589_339_185,
            8_589_339_180,
            8_589_339_255,
            8_589_339_261,
        ],
        bootstrapping: Some(Bootstrapping {
            slots_to_coefficients: &[268_435_539, 268_435_331, 268_435_523],
            eval_mod: &[
                &[4_043, 4_038],
                &[4_143, 4_145],
                &[4_061, 4_056],
                &[4_125, 4_130],
                &[4_070, 4_124],
                &[4_091, 4_118],
                &[4_094, 4_098],
                &[65_540, 65_531],
            ],
            coefficients_to_slots: &[8_589_934_443, 8_589_934_556, 8_589_934_569],
            log2_ratio: 8,
        }),
    },
    Preset {
        name: "toy11_lev",
        log_n: 11,
        log2_scale: 40,
        base: 274_858_854_541,
        application: &[268_435_447, 268_435_497, 268_435_398],
        special: &[274_858_854_513],
        bootstrapping: None,
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
        bootstrapping: None,
    },
    Preset {
        name: "toy10_boot",
        log_n: 10,
        log2_scale: 40,
        base: 549_717_709_092,
        application: &[21_194_814_060, 536_870_895, 536_870_939],
        special: &[549_717_709_026, 549_717_709_082, 549_717_708_995, 549_717_709_085],
        bootstrapping: Some(Bootstrapping {
            slots_to_coefficients: &[536_870_937, 536_870_894],
            eval_mod: &[
                &[549_755_813_751],
                &[370_707, 370_701],
                &[131_075, 131_084],
                &[549_755_813_784],
                &[549_755_813_807],
                &[549_755_813_819],
                &[549_755_813_834],
                &[549_755_813_837],
            ],
            coefficients_to_slots: &[549_755_813_877, 549_755_813_880],
            log2_ratio: 11,
        }),
    },
    Preset {
        name: "toy12_boot",
        log_n: 12,
        log2_scale: 40,
        base: 137_429_427_291,
        application: &[5_298_703_515, 134_217_710, 134_217_764, 134_217_749],
        special: &[137_429_427_246, 137_429_427_273, 137_429_427_234, 137_429_427_290],
        bootstrapping: Some(Bootstrapping {
            slots_to_coefficients: &[134_217_683, 134_217_774, 134_217_699],
            eval_mod: &[
                &[137_438_953_353],
                &[92_673, 92_666],
                &[32_771, 32_760],
                &[137_438_953_355],
                &[137_438_953_373],
                &[137_438_953_379],
                &[137_438_953_383],
                &[137_438_953_401],
            ],
            coefficients_to_slots: &[137_438_953_421, 137_438_953_446, 137_438_953_470],
            log2_ratio: 11,
        }),
    },
    Preset {
        name: "toy11_boot",
        log_n: 11,
        log2_scale: 40,
        base: 274_858_854_582,
        application: &[
            10_597_407_030,
            268_435_420,
            268_435_528,
            268_435_498,
            268_435_497,
            268_435_447,
            268_435_507,
            268_435_437,
            268_435_557,
            268_435_431,
            268_435_567,
        ],
        special: &[274_858_854_492, 274_858_854_546, 274_858_854_468, 274_858_854_580],
        bootstrapping: Some(Bootstrapping {
            slots_to_coefficients: &[268_435_366, 268_435_548, 268_435_398],
            eval_mod: &[
                &[274_877_906_706],
                &[185_346, 185_332],
                &[65_542, 65_520],
                &[274_877_906_710],
                &[274_877_906_746],
                &[274_877_906_758],
                &[274_877_906_766],
                &[274_877_906_802],
            ],
            coefficients_to_slots: &[274_877_906_842, 274_877_906_892, 274_877_906_940],
            log2_ratio: 11,
        }),
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
        bootstrapping: preset.bootstrapping.as_ref().map(|b| BootstrappingLiteral {
            slots_to_coefficients: b.slots_to_coefficients.iter().map(prime).collect(),
            eval_mod: b.eval_mod.iter().map(|group| group.iter().map(prime).collect()).collect(),
            coefficients_to_slots: b.coefficients_to_slots.iter().map(prime).collect(),
            log2_ratio: b.log2_ratio,
            ephemeral_weight: 32,
            overflow_bound: 15,
        }),
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
