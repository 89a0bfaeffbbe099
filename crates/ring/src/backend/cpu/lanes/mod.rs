//! Arithmetic on vectors of words: the part of the CPU backend that differs between instruction sets.
//!
//! The loops of [`super::kernels`] are written once over [`Lanes`], and [`on_lanes`] runs them on the instruction set
//! of a prime's constants. All three give the same words; only lazily reduced values inside a loop differ.
#![expect(
    clippy::inline_always,
    reason = "a vector function has to be inlined into the one that enables the instructions"
)]

#[cfg(target_arch = "x86_64")]
mod fma;
#[cfg(target_arch = "x86_64")]
mod ifma;
mod scalar;

use super::kernels::{Constants, Factor};
use crate::device::InstructionSet;
use crate::error::Result;
pub(super) use scalar::Scalar;

/// Bits kept of every quotient y / p, see [`Lanes::quotient`].
pub(super) const QUOTIENT_BITS: u32 = 50;

/// Words of a block of [`Lanes::permute`].
pub(super) const BLOCK: usize = crate::automorphism::BLOCK;

/// Vector arithmetic of one instruction set; the value is the proof that this machine has it.
///
/// A *word* is below 2^50 unless more is said, a *residue* is canonical, in [0, p).
pub(super) trait Lanes: Copy {
    /// Products that a [`Lanes::Sum`] holds.
    const TERMS: usize;
    /// A vector in memory: an array of words.
    type Words: Copy;
    /// A vector of words in a register.
    type Vector: Copy;
    /// One side of a product.
    type Operand: Copy;
    /// A sum of products that is not reduced yet.
    type Sum: Copy;
    /// Constants of a prime in every lane.
    type Prime: Copy;
    /// A constant factor in every lane.
    type Multiplier: Copy;

    /// Runs `f` with the instructions enabled.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;
    /// The whole vectors of a slice.
    fn split(self, words: &[u64]) -> &[Self::Words];
    /// The whole vectors of a slice.
    fn split_mut(self, words: &mut [u64]) -> &mut [Self::Words];

    /// Memory to register.
    fn load(self, words: Self::Words) -> Self::Vector;
    /// Register to memory.
    fn store(self, a: Self::Vector) -> Self::Words;
    /// A word in every lane.
    fn splat(self, word: u64) -> Self::Vector;
    /// The constants of a prime.
    fn prime(self, c: &Constants) -> Self::Prime;
    /// p in every lane.
    fn modulus(self, w: &Self::Prime) -> Self::Vector;
    /// A factor of that prime.
    fn multiplier(self, w: &Self::Prime, f: Factor) -> Self::Multiplier;

    /// `a + b` as integers below 2^63.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - b` as integers, not negative.
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a - bound` where that is not negative, else `a`; both below 2^63.
    fn fold(self, a: Self::Vector, bound: Self::Vector) -> Self::Vector;
    /// `a·f mod p` for a below 2^51.
    fn times(self, w: &Self::Prime, a: Self::Vector, f: Self::Multiplier) -> Self::Vector;
    /// `acc + a·b mod p` for residues.
    fn mul_add(
        self,
        w: &Self::Prime,
        acc: Self::Vector,
        a: Self::Vector,
        b: Self::Vector,
    ) -> Self::Vector;

    /// A word as one side of a product.
    fn operand(self, a: Self::Vector) -> Self::Operand;
    /// The empty sum.
    fn zero(self) -> Self::Sum;
    /// `sum + a·b`.
    fn accumulate(self, sum: Self::Sum, a: Self::Operand, b: Self::Operand) -> Self::Sum;
    /// `sum + init mod p` for a residue `init` and a sum of at most [`Lanes::TERMS`] products of words with residues.
    fn reduce(self, w: &Self::Prime, sum: Self::Sum, init: Self::Vector) -> Self::Vector;

    /// `floor(y·c.ratio / 2^bits)` with the bits of the prime of y, below 2^51.
    fn quotient(self, c: &Constants, y: Self::Vector) -> Self::Vector;
    /// `a >> QUOTIENT_BITS`.
    fn shift_quotient(self, a: Self::Vector) -> Self::Vector;

    /// `words[lanes[i]]` for every i.
    #[inline(always)]
    fn permute(self, words: &[u64; BLOCK], lanes: &[u64; BLOCK]) -> [u64; BLOCK] {
        lanes.map(|lane| words[lane as usize % BLOCK])
    }
}

/// What a number-theoretic transform needs besides: residues that stay lazily reduced from layer to layer.
///
/// Between two layers a [`Butterflies::Lazy`] rests in memory as raw words. Forward butterflies take and leave values
/// in the *wide* range of the instruction set, inverse ones in the *narrow* range; both contain the residues.
pub(super) trait Butterflies: Lanes {
    /// log2 of the vector's length.
    const LOG_WIDTH: usize;
    /// Layers that one step takes through registers.
    const STEP: usize;
    /// Whether the last layer between vectors is taken together with those inside vectors.
    const PAIRED: bool;
    /// Words of a twiddle factor in memory.
    const TWIDDLE: usize;
    /// Lazily reduced residues.
    type Lazy: Copy;
    /// A prepared factor, or one for every lane.
    type Twiddle: Copy;

    /// A twiddle factor as it rests in memory, [`Butterflies::TWIDDLE`] words of it.
    fn twiddle(c: &Constants, value: u64) -> [u64; 2];
    /// One factor for all lanes.
    fn broadcast(self, words: &[u64]) -> Self::Twiddle;
    /// One factor a lane: all first words, then all second words.
    fn gather(self, words: &[u64]) -> Self::Twiddle;

    /// Residues from memory.
    fn widen(self, words: Self::Words) -> Self::Lazy;
    /// Lazy values from memory.
    fn get(self, words: Self::Words) -> Self::Lazy;
    /// Lazy values to memory.
    fn put(self, x: Self::Lazy) -> Self::Words;
    /// Residues of lazy values.
    fn narrow(self, w: &Self::Prime, x: Self::Lazy) -> Self::Vector;

    /// `(x + y·f, x - y·f)`. Out of every four layers in a row the first has `NORM`.
    fn butterfly<const NORM: bool>(
        self,
        w: &Self::Prime,
        x: Self::Lazy,
        y: Self::Lazy,
        f: Self::Twiddle,
    ) -> (Self::Lazy, Self::Lazy);
    /// `(x + y, (x - y)·f)`, the sum not yet in the narrow range.
    fn inverse_butterfly(
        self,
        w: &Self::Prime,
        x: Self::Lazy,
        y: Self::Lazy,
        f: Self::Twiddle,
    ) -> (Self::Lazy, Self::Lazy);
    /// Brings a sum of two sums or products back to the narrow range.
    fn tame(self, w: &Self::Prime, x: Self::Lazy) -> Self::Lazy;
    /// `x·f` for a sum of two sums.
    fn lazy_times(self, w: &Self::Prime, x: Self::Lazy, f: Self::Twiddle) -> Self::Lazy;
    /// Transposes the first vectors, as many as a vector has lanes.
    fn transpose(self, x: &mut [Self::Lazy; REGISTERS]);
}

/// Vectors that a step of a transform holds at most.
pub(super) const REGISTERS: usize = 16;

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Isa {
    /// Eight lanes of 52-bit products.
    #[cfg(target_arch = "x86_64")]
    Ifma(ifma::Ifma),
    /// Four lanes of exact products in double precision.
    #[cfg(target_arch = "x86_64")]
    Fma(fma::AvxFma),
    /// One lane of 128-bit products.
    Scalar,
}

impl Isa {
    /// The instructions of `set`, or why this machine cannot run them.
    pub(crate) fn new(set: InstructionSet) -> Result<Self> {
        #[cfg(target_arch = "x86_64")]
        match set {
            InstructionSet::Avx512Ifma => {
                if let Some(lanes) = ifma::Ifma::try_new() {
                    return Ok(Isa::Ifma(lanes));
                }
            }
            InstructionSet::Avx2 => {
                if let Some(lanes) = fma::AvxFma::try_new() {
                    return Ok(Isa::Fma(lanes));
                }
            }
            InstructionSet::Scalar => {}
        }
        if set == InstructionSet::Scalar { Ok(Isa::Scalar) } else { Err(set.unavailable()) }
    }
}

/// Evaluates `$body` with `$s` bound to the lanes of `$isa`, on vectors where `$len` words are whole vectors.
macro_rules! on_lanes {
    ($isa:expr, $len:expr, |$s:ident| $body:expr) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            $crate::backend::cpu::lanes::Isa::Ifma($s) if $len.is_multiple_of(8) => {
                $crate::backend::cpu::lanes::Lanes::vectorize(
                    $s,
                    #[inline(always)]
                    || $body,
                )
            }
            #[cfg(target_arch = "x86_64")]
            $crate::backend::cpu::lanes::Isa::Fma($s) if $len.is_multiple_of(4) => {
                $crate::backend::cpu::lanes::Lanes::vectorize(
                    $s,
                    #[inline(always)]
                    || $body,
                )
            }
            _ => {
                let $s = $crate::backend::cpu::lanes::Scalar;
                $body
            }
        }
    };
}
pub(super) use on_lanes;
