//! What kernels take, word for word: the structures of `kernels/*.cu`.

/// A value that can be a kernel's parameter or an element of a table in device memory: `repr(C)`, no references.
pub(super) trait Plain: Copy + 'static {}

impl Plain for u32 {}
impl Plain for u64 {}

/// `Lazy` of field.cuh: the bits of a double or a signed integer, as [`super::arithmetic::Arithmetic`] has it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lazy(pub(super) u64);
impl Plain for Lazy {}

/// Largest number of primes of a basis, set by [`Scalars`].
pub(super) const MAX_PRIMES: usize = 256;
/// Sources of one conversion.
pub(super) const SOURCES: usize = 16;
/// Digits and members of a batch of one key switch.
pub(super) const KEY_DIGITS: usize = 16;
pub(super) const MEMBERS: usize = 8;

/// Polynomials of one launch, wherever they are.
pub(super) const POLYS: usize = 16;

/// Terms and rows of one launch of a sum.
pub(super) const TERMS: usize = 8;
pub(super) const TERM_ROWS: usize = 64;
/// Baby and giant steps, and digits, of one launch of a doubly hoisted sum.
pub(super) const BABIES: usize = 16;
pub(super) const GIANTS: usize = 8;
pub(super) const HOISTED_DIGITS: usize = 8;

/// `struct Prime` of fp64.cuh and integer.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Prime {
    pub(super) p: Lazy,
    pub(super) p_inv: Lazy,
    pub(super) word: u64,
    pub(super) ratio: u64,
    pub(super) bits: u32,
    pub(super) unused: u32,
    /// `p25` or `half`.
    pub(super) last: Lazy,
}
impl Plain for Prime {}

/// `struct Polys` of ntt.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Polys {
    pub(super) of: [u64; POLYS],
}
impl Plain for Polys {}

impl Polys {
    /// The first 16 of some addresses.
    pub(super) fn new(addresses: &[u64]) -> Self {
        let mut polys = Self::default();
        polys.of.iter_mut().zip(addresses).for_each(|(to, &from)| *to = from);
        polys
    }
}

/// `struct Job` of ntt.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) src: u32,
    pub(super) dst: u32,
    pub(super) prime: u32,
    pub(super) unused: u32,
    pub(super) factor: Lazy,
    pub(super) add: Lazy,
}
impl Plain for Job {}

/// `struct Digit` of convert.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Digit {
    pub(super) source: u32,
    pub(super) sources: u32,
    pub(super) all: u32,
    pub(super) prime: u32,
    pub(super) split: u32,
    pub(super) rest: u32,
    pub(super) target: u32,
    pub(super) targets: u32,
    pub(super) factor: u32,
    pub(super) flags: u32,
}
impl Plain for Digit {}

pub(super) const CENTRED: u32 = 1;
pub(super) const QUOTIENT: u32 = 2;
pub(super) const ACCUMULATE: u32 = 4;

/// `struct Target` of convert.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) row: u32,
    pub(super) prime: u32,
    pub(super) init: u64,
}
impl Plain for Target {}

/// `struct Shape` of elementwise.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) primes: u64,
    pub(super) n: u32,
    pub(super) q: u32,
    pub(super) total: u32,
    pub(super) unused: u32,
}
impl Plain for Shape {}

/// `struct In` of elementwise.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct In {
    pub(super) words: u64,
    pub(super) step: u64,
    pub(super) q: u32,
    pub(super) shift: u32,
}
impl Plain for In {}

/// `struct Out` of elementwise.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    pub(super) words: u64,
    pub(super) step: u64,
}
impl Plain for Out {}

/// `struct Terms` of elementwise.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) of: [In; TERMS],
    pub(super) factors: [[Lazy; TERM_ROWS]; TERMS],
    pub(super) count: u32,
    pub(super) first: u32,
}
impl Plain for Terms {}

/// `struct Scalars` of elementwise.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalars {
    pub(super) of: [Lazy; MAX_PRIMES],
}
impl Plain for Scalars {}

/// `struct Member` of key_switch.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Member {
    pub(super) a: u64,
    pub(super) plus: [u64; 2],
    pub(super) out: [u64; 2],
    pub(super) lifted: u64,
    pub(super) next: [u64; 2],
}

/// `struct Switch` of key_switch.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Switch {
    pub(super) keys: [[u64; 2]; KEY_DIGITS],
    pub(super) digits: [u64; KEY_DIGITS],
    pub(super) members: [Member; MEMBERS],
    pub(super) key_q: [[u32; 2]; KEY_DIGITS],
    pub(super) own: [[u32; 2]; KEY_DIGITS],
    pub(super) count: u32,
    pub(super) accumulate: u32,
    pub(super) galois: u32,
    pub(super) log_n: u32,
    pub(super) member_count: u32,
    pub(super) rows: u32,
    pub(super) special: [Lazy; MAX_PRIMES],
}
impl Plain for Switch {}

/// `struct Hoisted` of hoisted.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Hoisted {
    pub(super) digits: [u64; HOISTED_DIGITS],
    pub(super) c: [u64; 2],
    pub(super) keys: [[[u64; 2]; HOISTED_DIGITS]; BABIES],
    pub(super) weights: [[u64; BABIES]; GIANTS],
    pub(super) out: [[u64; 2]; GIANTS],
    pub(super) key_q: [[[u32; 2]; HOISTED_DIGITS]; BABIES],
    pub(super) weight_q: [[u32; BABIES]; GIANTS],
    pub(super) weight_shift: [[u32; BABIES]; GIANTS],
    pub(super) galois: [u32; BABIES],
    pub(super) digit_count: u32,
    pub(super) babies: u32,
    pub(super) giants: u32,
    pub(super) log_n: u32,
    pub(super) accumulate: u32,
    pub(super) unused: u32,
    pub(super) special: [Lazy; MAX_PRIMES],
}
impl Plain for Hoisted {}
