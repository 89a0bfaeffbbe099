//! Parameters, sizes and counts of the step: arithmetic, no keys.

use crate::error::{Error, Result};
use crate::noise::Noise;
use cipherform_ckks::{Parameters, cost};
use cipherform_profile::{Cost, Counter};

/// Dimension of the samples that a blind rotation takes.
///
/// This and the seven constants below are the set `V1_4_PARAM_MESSAGE_2_CARRY_2_KS_PBS_TUNIFORM_2M128` of `tfhe` 1.8.2,
/// for which its makers state a failure probability of 2^-129.6 with sums of 2-norm 5, and 132 bits of security.
pub const SMALL_DIMENSION: usize = 918;
/// Degree of the ring of the accumulator, and dimension of the samples that come out of it.
pub const LARGE_DIMENSION: usize = 2048;
/// Noise in the small dimension is uniform on -2^b ..= 2^b, its ends at half weight, of 2^64.
pub const SMALL_NOISE: u32 = 45;
/// Noise in the large dimension, likewise.
pub const LARGE_NOISE: u32 = 17;
/// log2 of the base of the bootstrapping key's digits.
pub const BOOTSTRAP_BASE: usize = 23;
/// Digits of the bootstrapping key.
pub const BOOTSTRAP_DIGITS: usize = 1;
/// log2 of the base of the switching keys' digits, those of the bridge included.
pub const SWITCH_BASE: usize = 4;
/// Digits of the switching keys.
pub const SWITCH_DIGITS: usize = 4;

/// log2 of the values that a blind rotation tells apart: twice its ring's degree.
pub const GRID_BITS: u32 = 12;

/// Most classes of which all pairs are compared: their wins, 0 to 15, are one message of the parameters. More are
/// compared digit by digit.
pub const MAX_PAIRED_CLASSES: usize = 16;

/// Most classes that are compared.
pub const MAX_CLASSES: usize = 128;

/// Values of one digit of the label in the reply, and of a sum that a bootstrap reads.
pub const MESSAGES: usize = 16;

/// Rounds that compare bits of the logits when they are compared digit by digit.
pub const VALUE_ROUNDS: usize = 8;

/// Milliseconds of one programmable bootstrap on one core of an AMD EPYC with AVX-512, measured
/// (benches/results/2026-11-25-label-only.md); what plans are priced with.
pub const BOOTSTRAP_MS: f64 = 17.3;

/// Milliseconds of a switch of one scalar sample, likewise, for each 1024 coordinates of the dimension before it.
pub const SWITCH_MS: f64 = 1.3;

/// Bytes before the words of serialised keys: magic, version, set, secret, three seeds.
pub(crate) const KEYS_HEADER: usize = 4 + 2 + 32 + 32 + 3 * 16;
/// Bytes before the words of a serialised label: magic, version, set, secret.
pub(crate) const LABEL_HEADER: usize = 4 + 2 + 32 + 32;

/// A part of the step: one row of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Out of the ring, one sample a class.
    HandOver,
    /// Modulus and dimension of the bootstraps, then rounding.
    Bridge,
    /// The sign of every difference.
    Compare,
    /// The class that won against all others, and its number.
    Select,
    /// The leading bits of every logit: of more than [`MAX_PAIRED_CLASSES`] classes, instead of comparing pairs.
    Digits,
    /// Bit by bit, classes that lack it where another one left has it are out.
    Eliminate,
}

impl Stage {
    /// The operator's name in plans and profiles.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HandOver => "label.hand_over",
            Self::Bridge => "label.bridge",
            Self::Compare => "label.compare",
            Self::Select => "label.select",
            Self::Digits => "label.digits",
            Self::Eliminate => "label.eliminate",
        }
    }
}

/// What one stage counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageCost {
    /// The stage.
    pub stage: Stage,
    /// Exactly what the recorder will see.
    pub cost: Cost,
}

impl StageCost {
    /// What bootstraps and switches of scalar samples take on `threads` cores, in ms, by the constants above; key switches in the
    /// ring are the caller's to price.
    #[must_use]
    pub fn exact_ms(&self, params: &Parameters, threads: usize) -> f64 {
        let dimension = match self.stage {
            Stage::Bridge => params.hand_over_dimension(),
            _ => LARGE_DIMENSION,
        };
        let switches = self.cost.get(Counter::LweSwitches) as f64 * dimension as f64 / 1024.0;
        let bootstraps = self.cost.get(Counter::ProgrammableBootstraps) as f64;
        (switches * SWITCH_MS + bootstraps * BOOTSTRAP_MS) / threads.max(1) as f64
    }
}

/// The step for some number of classes, after a parameter set.
#[derive(Clone, Debug)]
pub struct LabelParameters {
    params: Parameters,
    classes: usize,
}

impl LabelParameters {
    /// The step for `classes` classes after ciphertexts of `params`.
    ///
    /// # Errors
    /// [`Error::Classes`] outside 2 to [`MAX_CLASSES`], with what it would cost; [`Error::Insecure`].
    pub fn new(params: &Parameters, classes: usize) -> Result<Self> {
        check_security()?;
        if !(2..=MAX_CLASSES).contains(&classes) {
            let bootstraps = elimination(classes);
            let seconds = bootstraps as f64 * BOOTSTRAP_MS / 1e3;
            return Err(Error::Classes { classes, max: MAX_CLASSES, bootstraps, seconds });
        }
        Ok(Self { params: params.clone(), classes })
    }

    /// The classes.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The set before the step.
    #[must_use]
    pub fn params(&self) -> &Parameters {
        &self.params
    }

    /// Whether all pairs are compared; digit by digit otherwise.
    #[must_use]
    pub fn is_paired(&self) -> bool {
        self.classes <= MAX_PAIRED_CLASSES
    }

    /// Values that wins and digits of labels are told apart from: of up to 16 classes a power of two that is not less.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.classes.next_power_of_two().min(MESSAGES)
    }

    /// Bits of a label.
    pub(crate) fn label_bits(&self) -> usize {
        label_bits(self.classes)
    }

    /// Samples of the reply: one for up to 16 classes, two for more.
    #[must_use]
    pub fn reply_samples(&self) -> usize {
        if self.is_paired() { 1 } else { self.label_bits().div_ceil(MESSAGES.ilog2() as usize) }
    }

    /// What each stage counts. Two classes need one comparison and no selection.
    #[must_use]
    pub fn stages(&self) -> Vec<StageCost> {
        let c = self.classes as u64;
        let switches = |n| Cost::of(Counter::LweSwitches, n);
        let bootstraps = |n| Cost::of(Counter::ProgrammableBootstraps, n);
        let stage = |stage, cost| StageCost { stage, cost };
        let mut stages =
            vec![stage(Stage::HandOver, cost::hand_over() * c), stage(Stage::Bridge, switches(c))];
        if self.is_paired() {
            stages.push(stage(Stage::Compare, bootstraps(pairs(self.classes))));
            if c > 2 {
                stages.push(stage(Stage::Select, switches(c) + bootstraps(c)));
            }
        } else {
            let digits = VALUE_ROUNDS as u64 * c;
            let rest = elimination(self.classes) - digits;
            stages.push(stage(Stage::Digits, bootstraps(digits)));
            stages.push(stage(Stage::Eliminate, switches(rest) + bootstraps(rest)));
        }
        stages
    }

    /// Bytes of the seeded keys on the wire.
    #[must_use]
    pub fn seeded_key_bytes(&self) -> usize {
        KEYS_HEADER + 8 * self.key_words().iter().sum::<usize>()
    }

    /// Bytes of the expanded keys in the server's memory.
    #[must_use]
    pub fn key_bytes(&self) -> u64 {
        let [bridge, switch, bootstrap] = self.key_words();
        // A seeded sample is its body; a seeded row of the bootstrapping key is one of its two polynomials.
        (8 * ((bridge + switch) * (SMALL_DIMENSION + 1) + 2 * bootstrap)) as u64
    }

    /// Bytes of the reply.
    #[must_use]
    pub fn label_bytes(&self) -> usize {
        LABEL_HEADER + 8 * self.reply_samples() * (LARGE_DIMENSION + 1)
    }

    /// Words of the seeded keys: bridge, switch from the large dimension to the small one, bootstrap.
    pub(crate) fn key_words(&self) -> [usize; 3] {
        [
            self.params.hand_over_dimension() * SWITCH_DIGITS,
            LARGE_DIMENSION * SWITCH_DIGITS,
            SMALL_DIMENSION * BOOTSTRAP_DIGITS * 2 * LARGE_DIMENSION,
        ]
    }

    /// The noise of the step.
    #[must_use]
    pub fn noise(&self) -> Noise {
        Noise::new(self)
    }
}

fn pairs(classes: usize) -> u64 {
    let c = classes as u64;
    c * c.saturating_sub(1) / 2
}

fn label_bits(classes: usize) -> usize {
    classes.saturating_sub(1).checked_ilog2().map_or(0, |b| b as usize + 1)
}

/// Bootstraps that say whether any of some bits is set: one for each 15 of them, and one more for several such.
pub(crate) fn any_bootstraps(bits: usize) -> u64 {
    let first = bits.div_ceil(MESSAGES - 1) as u64;
    first + u64::from(first > 1)
}

/// Classes that have a bit of the opposite of their number, among the numbers of so many bits: in the rounds that decide
/// between equal logits the larger opposite stays, which is the smaller class.
pub(crate) fn has_opposite_bit(class: usize, bit: usize) -> bool {
    class >> bit & 1 == 0
}

/// Bootstraps of a comparison digit by digit: bits of the logits, then a round for each of them and for each bit of the label.
fn elimination(classes: usize) -> u64 {
    let c = classes as u64;
    let values = VALUE_ROUNDS as u64 * (2 * c + any_bootstraps(classes));
    let labels = (0..label_bits(classes)).map(|bit| {
        let having = (0..classes).filter(|&class| has_opposite_bit(class, bit)).count();
        having as u64 + any_bootstraps(having)
    });
    values + labels.sum::<u64>()
}

/// log2 of the least bound of uniform noise that gives 132 bits in a dimension, modulo 2^64: the line that the makers of
/// `tfhe` fit to the lattice estimator, `core_crypto::commons::noise_formulas::secure_noise`; a test holds both together.
#[must_use]
pub fn least_noise(dimension: usize) -> u32 {
    (-0.025_167_785 * dimension as f64 + 64.0 + 4.100_671).ceil().max(0.0) as u32
}

/// Checks the keys in the small and in the large dimension; that of the hand-over secret is checked where it is made.
///
/// # Errors
/// [`Error::Insecure`] if the noise of either is less than its dimension asks for.
pub fn check_security() -> Result<()> {
    let keys = [
        ("switching key", SMALL_DIMENSION, SMALL_NOISE),
        ("bootstrapping key", LARGE_DIMENSION, LARGE_NOISE),
    ];
    for (what, dimension, got) in keys {
        let needed = least_noise(dimension);
        if got < needed {
            return Err(Error::Insecure { what, dimension, got, needed });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cipherform_ckks::presets;

    #[test]
    fn counts_and_sizes_by_hand() {
        let params = presets::get("lev15").unwrap();
        let at = |classes| LabelParameters::new(&params, classes).unwrap();
        let bootstraps = |classes| -> u64 {
            let stages = at(classes).stages();
            stages.iter().map(|s| s.cost.get(Counter::ProgrammableBootstraps)).sum()
        };
        assert_eq!([2, 3, 10, 16].map(bootstraps), [1, 6, 55, 136]);
        // 17 classes: 8 bits of each; 8 rounds of 17 products and 2 + 1 for any of them; 5 rounds of the labels, whose
        // opposite bits 0 to 3 are set in 8 classes, bit 0 in 9, and bit 4 in 16 (2 + 1).
        let opposites = [9, 9, 9, 9, 16].map(|n: u64| n + if n > 15 { 3 } else { 1 });
        assert_eq!(bootstraps(17), 8 * 17 + 8 * (17 + 3) + opposites.iter().sum::<u64>());
        // design/label-only.md: 1,596 for 100 classes, by digits of two bits.
        assert!((1_596..2_200).contains(&bootstraps(100)), "{}", bootstraps(100));
        // design/label-only.md: 28.7 MiB seeded for the bootstrapping key, 0.06 and 0.125 for the two others.
        let mib = at(10).seeded_key_bytes() as f64 / f64::from(1 << 20);
        assert!((28.8..28.95).contains(&mib), "{mib}");
        // 57.4 + 57.4 + 114.9 MiB expanded.
        let mib = at(10).key_bytes() as f64 / f64::from(1 << 20);
        assert!((229.0..230.5).contains(&mib), "{mib}");
        for classes in [0, 1, 129, 1000] {
            let error = LabelParameters::new(&params, classes).unwrap_err();
            assert!(matches!(error, Error::Classes { .. }), "{error}");
        }
        let error = LabelParameters::new(&params, 1000).unwrap_err().to_string();
        assert!(error.contains("programmable bootstraps, about"), "{error}");
    }

    #[test]
    fn less_noise_than_the_dimension_asks_for_would_be_insecure() {
        check_security().unwrap();
        // The set is on the line in both dimensions: one bit less noise, or a few coordinates less, is not enough.
        assert_eq!((least_noise(SMALL_DIMENSION), least_noise(LARGE_DIMENSION)), (45, 17));
        assert!(least_noise(SMALL_DIMENSION - 1) > SMALL_NOISE);
    }
}
