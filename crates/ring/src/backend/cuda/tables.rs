//! What kernels look up: constants and twiddles of every prime, and the plans of transforms, conversions and divisions.

use super::abi::{self, ACCUMULATE, CENTRED, Job, Lazy, MAX_PRIMES, QUOTIENT, SOURCES, Target};
use super::arithmetic::{Arithmetic, centred};
use super::driver::{Gpu, Kernel, Memory, extend_shared};
use crate::automorphism::brv;
use crate::backend::cpu::tables::{Converter as Numbers, Divider};
use crate::basis::{Limbs, RnsBasis};
use crate::error::{Error, Result};
use crate::modulus::Modulus;
use crate::ntt;
use std::ops::Range;
use std::sync::Arc;

/// Rows of up to this many words are transformed by one block; above, the table of twiddles is compact, see ntt.cu.
pub(super) const SMALL: usize = 4096;
/// Low digits of an exponent in the tables of powers.
const LOW: usize = 256;

/// Constants of the primes in device memory.
#[derive(Debug)]
pub(super) struct Tables {
    /// ψ of every prime.
    pub(super) psi: Vec<u64>,
    /// `abi::Prime` of every prime.
    pub(super) primes: Memory,
    /// Twiddles, `stride` values a prime.
    pub(super) twiddles: Memory,
    pub(super) stride: usize,
    /// Powers of ψ, `power_stride` values a prime: ψ^e for e < 256, then ψ^(256·k).
    pub(super) powers: Memory,
    pub(super) power_stride: usize,
}

/// ψ^brv(i) for the indices of the table of one prime, centred.
fn twiddles(arithmetic: Arithmetic, n: usize, psi: u64, m: &Modulus) -> Vec<Lazy> {
    let bits = n.trailing_zeros();
    let mut powers = vec![0; n];
    let mut power = 1;
    for e in 0..n {
        powers[brv(e, bits)] = power;
        power = m.mul(power, psi);
    }
    let entry = |i: usize| arithmetic.centred(powers[i], m);
    if n <= SMALL {
        return (0..n).map(entry).collect();
    }
    (0..n / 16).map(entry).chain((0..n / 16).map(|t| entry(n / 2 + 8 * t))).collect()
}

impl Tables {
    pub(super) fn new(gpu: &Arc<Gpu>, basis: &RnsBasis) -> Result<Self> {
        use rayon::prelude::*;
        let (n, moduli) = (basis.n(), basis.moduli());
        if moduli.len() > MAX_PRIMES {
            let detail = format!("{} primes, a CUDA device takes {MAX_PRIMES}", moduli.len());
            return Err(Error::InvalidBasis { detail });
        }
        let psi = moduli.par_iter().map(|m| ntt::root(n, m)).collect::<Result<Vec<u64>>>()?;
        let arithmetic = gpu.arithmetic();
        let primes: Vec<abi::Prime> =
            moduli.iter().map(|m| arithmetic.prime(m)).collect::<Result<_>>()?;
        let pairs = || moduli.par_iter().zip(&psi);
        let table: Vec<Lazy> =
            pairs().flat_map_iter(|(m, &psi)| twiddles(arithmetic, n, psi, m)).collect();
        let high = (2 * n / LOW).max(1);
        let powers: Vec<Lazy> = pairs()
            .flat_map_iter(|(m, &psi)| {
                let step = m.pow(psi, LOW as u64);
                let power = move |base, e| arithmetic.centred(m.pow(base, e as u64), m);
                let low = (0..LOW).map(move |e| power(psi, e));
                low.chain((0..high).map(move |k| power(step, k)))
            })
            .collect();
        Ok(Self {
            primes: gpu.upload(&primes)?,
            twiddles: gpu.upload(&table)?,
            stride: table.len() / moduli.len(),
            powers: gpu.upload(&powers)?,
            power_stride: LOW + high,
            psi,
        })
    }
}

/// Rows to transform.
#[derive(Debug)]
pub(super) struct Jobs {
    pub(super) table: Memory,
    pub(super) count: usize,
}

impl Jobs {
    fn new(gpu: &Arc<Gpu>, jobs: &[Job]) -> Result<Self> {
        Ok(Self { table: gpu.upload(jobs)?, count: jobs.len() })
    }

    /// From row `src` to row `dst`, times a centred factor, plus a residue.
    fn job(
        arithmetic: Arithmetic,
        (src, dst): (usize, usize),
        prime: usize,
        factor: i64,
        add: u64,
    ) -> Job {
        let (src, dst, prime) = (src as u32, dst as u32, prime as u32);
        let (factor, add) = (arithmetic.lazy(factor), arithmetic.lazy(add.cast_signed()));
        Job { src, dst, prime, unused: 0, factor, add }
    }

    /// All rows of `limbs`, in place; the inverse divides by n.
    pub(super) fn all(gpu: &Arc<Gpu>, basis: &RnsBasis, limbs: Limbs) -> Result<Self> {
        let jobs = basis.row_moduli(limbs).enumerate().map(|(row, m)| {
            let n_inv = centred(m.inv(basis.n() as u64)?, m);
            Ok(Self::job(gpu.arithmetic(), (row, row), basis.prime_index(limbs, row), n_inv, 0))
        });
        Self::new(gpu, &jobs.collect::<Result<Vec<_>>>()?)
    }
}

/// Conversions that make one launch (`chunks` of more than 16 sources make one launch each).
#[derive(Debug)]
pub(super) struct Conversion {
    pub(super) chunks: Vec<Chunk>,
    /// Sources that the one chunk has room for if its kernel is one of extend.cu, which also transforms.
    pub(super) extends: Option<u32>,
}

/// One launch: digits, targets and factors in device memory.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) kernel: Kernel,
    pub(super) digits: Memory,
    pub(super) count: usize,
    pub(super) targets: Memory,
    pub(super) factors: Memory,
    /// Most targets, or tiles of targets, of a digit; and how many of these a thread does at most.
    pub(super) units: usize,
    pub(super) group: usize,
}

/// A row to be written.
struct Row<'a> {
    to: usize,
    prime: usize,
    init: u64,
    /// One a source, and that of the quotient.
    factors: &'a [u64],
    quotient: Option<u64>,
}

/// One digit on its way into a [`Conversion`].
struct Source<'a> {
    /// First source row; the sources' primes: `primes.0` and on, after `primes.1` of them `primes.2` and on.
    row: usize,
    len: usize,
    primes: (usize, usize, usize),
    targets: Vec<Row<'a>>,
    centred: bool,
}

/// A kernel of convert.cu or extend.cu.
#[derive(Clone, Copy, Debug)]
struct Converter {
    /// Sources it takes.
    sources: usize,
    kernel: Kernel,
}

const CONVERTERS: [Converter; 6] = [
    Converter { sources: 1, kernel: Kernel::Convert1 },
    Converter { sources: 2, kernel: Kernel::Convert2 },
    Converter { sources: 4, kernel: Kernel::Convert4 },
    Converter { sources: 8, kernel: Kernel::Convert8 },
    Converter { sources: 12, kernel: Kernel::Convert12 },
    Converter { sources: SOURCES, kernel: Kernel::Convert16 },
];

/// Degree of extend.cu.
const EXTENDED: usize = 1 << 16;

const EXTENDERS: [Converter; 3] = [
    Converter { sources: 4, kernel: Kernel::Extend4 },
    Converter { sources: 8, kernel: Kernel::Extend8 },
    Converter { sources: 10, kernel: Kernel::Extend10 },
];

impl Converter {
    /// Of extend.cu, for all of some sources, if the card can.
    fn extender(gpu: &Gpu, n: usize, sources: usize) -> Option<Self> {
        let can = gpu.arithmetic() == Arithmetic::Fp64 && gpu.extends() && n == EXTENDED;
        let fitting = EXTENDERS.iter().find(|c| c.sources >= sources).copied();
        fitting.filter(|c| can && extend_shared(c.sources as u32) <= gpu.shared())
    }

    /// Of convert.cu, for so many sources or the most.
    fn new(sources: usize) -> Self {
        let fitting = CONVERTERS.iter().find(|c| c.sources >= sources);
        *fitting.unwrap_or(&CONVERTERS[CONVERTERS.len() - 1])
    }

    /// Targets it works on at once, by the layout of the factors; and how many of these a thread does at most.
    fn tile(&self, arithmetic: Arithmetic) -> (usize, usize) {
        let tensor_cores = arithmetic == Arithmetic::Fp64 && self.sources > 2;
        if tensor_cores { (8, usize::MAX) } else { (1, 16) }
    }

    /// The factors of one digit in the kernel's order: `factor(target, source)`, source `self.sources` for the quotient.
    fn arrange(
        &self,
        tile: usize,
        targets: usize,
        factor: impl Fn(usize, usize) -> i64,
    ) -> Vec<i64> {
        if tile == 1 {
            let row = |j| (0..=self.sources).map(move |k| (j, k));
            return (0..targets).flat_map(row).map(|(j, k)| factor(j, k)).collect();
        }
        let lanes = 4 * tile;
        // Sources come in fours; where the last are not whole, nothing.
        let source = |k: usize| if k < self.sources { k } else { usize::MAX };
        let pairs = (0..targets.div_ceil(tile)).flat_map(|t| {
            let products = (0..self.sources.div_ceil(4)).flat_map(move |s| {
                (0..lanes).map(move |lane| (tile * t + lane / 4, source(4 * s + lane % 4)))
            });
            products.chain((0..tile).map(move |j| (tile * t + j, self.sources)))
        });
        pairs.map(|(j, k)| if j < targets { factor(j, k) } else { 0 }).collect()
    }
}

impl Conversion {
    fn new(gpu: &Arc<Gpu>, basis: &RnsBasis, sources: &[Source<'_>]) -> Result<Self> {
        let longest = sources.iter().map(|s| s.len).max().unwrap_or(0);
        let extender = Converter::extender(gpu, basis.n(), longest);
        let chunks = (0..longest).step_by(SOURCES).map(|start| {
            let here: Vec<&Source<'_>> = sources.iter().filter(|s| s.len > start).collect();
            let width = (longest - start).min(SOURCES);
            let converter = extender.unwrap_or_else(|| Converter::new(width));
            let (tile, group) =
                if extender.is_some() { (8, usize::MAX) } else { converter.tile(gpu.arithmetic()) };
            let (mut digits, mut targets, mut factors) = (Vec::new(), Vec::new(), Vec::new());
            for source in &here {
                let end = source.len.min(start + SOURCES);
                let (prime, split, rest) = source.primes;
                let quotient = source.targets.iter().any(|t| t.quotient.is_some());
                let flags = [
                    (source.centred || quotient, CENTRED),
                    (quotient && start == 0, QUOTIENT),
                    (start > 0, ACCUMULATE),
                ];
                digits.push(abi::Digit {
                    source: (source.row + start) as u32,
                    sources: (end - start) as u32,
                    all: (source.len - start) as u32,
                    prime: (prime + start) as u32,
                    split: split.saturating_sub(start) as u32,
                    rest: (rest + start.saturating_sub(split)) as u32,
                    target: targets.len() as u32,
                    targets: source.targets.len() as u32,
                    factor: factors.len() as u32,
                    flags: flags.iter().filter(|f| f.0).map(|f| f.1).sum(),
                });
                targets.extend(source.targets.iter().map(|&Row { to, prime, init, .. }| Target {
                    row: to as u32,
                    prime: prime as u32,
                    init: if start == 0 { init } else { 0 },
                }));
                factors.extend(converter.arrange(tile, source.targets.len(), |j, k| {
                    let row = &source.targets[j];
                    let factor = match row.factors[start..end].get(k) {
                        Some(&factor) => factor,
                        None if k == converter.sources => row.quotient.unwrap_or(0),
                        None => 0,
                    };
                    centred(factor, &basis.moduli()[row.prime])
                }));
            }
            Ok(Chunk {
                kernel: converter.kernel,
                count: digits.len(),
                digits: gpu.upload(&digits)?,
                targets: gpu.upload(&targets)?,
                factors: gpu.upload(&gpu.arithmetic().operands(&factors))?,
                units: here.iter().map(|s| s.targets.len().div_ceil(tile)).max().unwrap_or(0),
                group,
            })
        });
        let chunks = chunks.collect::<Result<_>>()?;
        Ok(Self { chunks, extends: extender.map(|c| c.sources as u32) })
    }
}

/// From rows in NTT order under some primes to rows under others.
#[derive(Debug)]
pub(super) struct Extension {
    /// From the source rows to as many rows of scratch.
    pub(super) inverse: Jobs,
    pub(super) conversion: Conversion,
    /// The target rows.
    pub(super) forward: Jobs,
}

/// Division by the primes of the rows from `kept` on.
#[derive(Debug)]
pub(super) struct Division {
    /// From the rows that go to those that stay, whose jobs have D^-1.
    pub(super) extension: Extension,
    pub(super) inverses: Vec<Lazy>,
}

impl Division {
    pub(super) fn new(gpu: &Arc<Gpu>, basis: &RnsBasis, limbs: Limbs, kept: usize) -> Result<Self> {
        let divider = Divider::new(basis, limbs, kept)?;
        let arithmetic = gpu.arithmetic();
        let removed = divider.divisors.len();
        let inverse = divider.divisors.iter().enumerate().map(|(i, d)| {
            let factor = centred(d.prepare.value, &basis.moduli()[d.prime]);
            Jobs::job(arithmetic, (kept + i, i), d.prime, factor, d.half_prepared)
        });
        let inverse = Jobs::new(gpu, &inverse.collect::<Vec<_>>())?;
        let targets = divider.kept.iter().enumerate().map(|(row, k)| {
            // A single prime needs no quotient.
            let quotient = k.factors.last().copied().filter(|_| removed > 1);
            let factors = &k.factors[..removed];
            Row { to: row, prime: row, init: k.minus_half, factors, quotient }
        });
        let source = Source {
            row: 0,
            len: removed,
            primes: (kept, limbs.q - kept, basis.q().len()),
            targets: targets.collect(),
            centred: false,
        };
        let conversion = Conversion::new(gpu, basis, &[source])?;
        let inverses: Vec<i64> =
            divider.kept.iter().zip(basis.q()).map(|(k, m)| centred(k.inv.value, m)).collect();
        let forward = inverses.iter().enumerate();
        let forward = forward.map(|(row, &f)| Jobs::job(arithmetic, (row, row), row, f, 0));
        let forward = Jobs::new(gpu, &forward.collect::<Vec<_>>())?;
        let inverses = inverses.iter().map(|&f| arithmetic.lazy(f)).collect();
        Ok(Self { extension: Extension { inverse, conversion, forward }, inverses })
    }
}

/// Digits of a polynomial over {q, 0}, extended to {q, all special}, one after the other.
#[derive(Debug)]
pub(super) struct Decomposition {
    /// To every row that is not a digit's own.
    pub(super) extension: Extension,
    pub(super) own: Vec<Range<usize>>,
}

impl Decomposition {
    pub(super) fn new(gpu: &Arc<Gpu>, basis: &RnsBasis, q: usize) -> Result<Self> {
        let limbs = Limbs { q, p: basis.p().len() };
        let own: Vec<Range<usize>> = basis.digits_at(q).collect();
        let converters = own
            .iter()
            .map(|range| Numbers::new(basis, range.clone()))
            .collect::<Result<Vec<_>>>()?;
        let prepare = converters.iter().flat_map(|c| &c.prepare).zip(basis.q()).enumerate();
        let arithmetic = gpu.arithmetic();
        let inverse = prepare
            .map(|(row, (f, m))| Jobs::job(arithmetic, (row, row), row, centred(f.value, m), 0));
        let inverse = Jobs::new(gpu, &inverse.collect::<Vec<_>>())?;
        let mut forward = Vec::new();
        let mut sources = Vec::with_capacity(own.len());
        for (d, (range, converter)) in own.iter().zip(&converters).enumerate() {
            let foreign = (0..limbs.rows()).filter(|row| !range.contains(row));
            let targets = foreign.map(|row| {
                let (to, prime) = (d * limbs.rows() + row, basis.prime_index(limbs, row));
                forward.push(Jobs::job(arithmetic, (to, to), prime, 0, 0));
                Row { to, prime, init: 0, factors: &converter.factors[prime], quotient: None }
            });
            sources.push(Source {
                row: range.start,
                len: range.len(),
                primes: (range.start, range.len(), 0),
                targets: targets.collect(),
                centred: true,
            });
        }
        let conversion = Conversion::new(gpu, basis, &sources)?;
        let extension = Extension { inverse, conversion, forward: Jobs::new(gpu, &forward)? };
        Ok(Self { extension, own })
    }
}

impl Extension {
    /// From q_0 to {q, 0}, rows 1 and on.
    pub(super) fn raise(gpu: &Arc<Gpu>, basis: &RnsBasis, q: usize) -> Result<Self> {
        let inverse = Jobs::all(gpu, basis, Limbs::q(1))?;
        let target = |row| Row { to: row, prime: row, init: 0, factors: &[1], quotient: None };
        let targets = (1..q).map(target);
        let source =
            Source { row: 0, len: 1, primes: (0, 1, 0), targets: targets.collect(), centred: true };
        let conversion = Conversion::new(gpu, basis, &[source])?;
        let forward: Vec<Job> =
            (1..q).map(|row| Jobs::job(gpu.arithmetic(), (row, row), row, 0, 0)).collect();
        Ok(Self { inverse, conversion, forward: Jobs::new(gpu, &forward)? })
    }
}
