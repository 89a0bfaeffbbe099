//! Launches: grids and parameters from shapes, one function a family of kernels.

use super::Cuda;
use super::abi::{In, Lazy, MAX_PRIMES, Out, POLYS, Polys, Scalars, Shape, Switch};
use super::buffer::Buf;
use super::driver::{
    Arg, DIVIDE_SHARED, EXTEND_COLUMNS, Kernel, Launch, SWITCH_SHARED, extend_shared,
};
use super::tables::{Conversion, Extension, Jobs, SMALL};
use crate::backend::View;
use crate::basis::Limbs;
use crate::error::Result;

/// Threads of a block where nothing else decides.
const THREADS: u32 = 256;
/// Multiprocessors of a card, to choose grids by.
const MULTIPROCESSORS: u32 = 132;
/// Blocks of a conversion that fill a card: two on each multiprocessor, twice.
const FULL: u32 = 4 * MULTIPROCESSORS;
/// Threads of a block of extend.cu, blocks a polynomial and digit, and how many are at work on a card.
const EXTEND_THREADS: u32 = 128 * EXTEND_COLUMNS;
const EXTEND_BLOCKS: u32 = 256 / EXTEND_COLUMNS;
const EXTEND_SLOTS: u32 = MULTIPROCESSORS * 4 / EXTEND_COLUMNS;

/// Bytes of a word.
const WORD: u64 = size_of::<u64>() as u64;

/// Where the polynomials of a batch are read and written: `count` of them, steps in words modulo 2^64.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub(super) from: u64,
    pub(super) from_step: u64,
    pub(super) to: u64,
    pub(super) to_step: u64,
    pub(super) count: u32,
}

impl Batch {
    /// A batch of one.
    pub(super) fn one(from: u64, to: u64) -> Self {
        Self { from, from_step: 0, to, to_step: 0, count: 1 }
    }

    /// From where this batch is written to the same place.
    pub(super) fn in_place(self) -> Self {
        Self { from: self.to, from_step: self.to_step, ..self }
    }
}

/// Calls `f` once for polynomials at equal distances, else for each. Results are `to_step` words apart.
pub(super) fn each_batch(
    from: &[u64],
    to: u64,
    to_step: usize,
    f: impl Fn(Batch) -> Result<()>,
) -> Result<()> {
    let (to_step, count) = (to_step as u64, from.len() as u32);
    if let (Some(from_step), Some(&from)) = (step(from), from.first()) {
        return f(Batch { from, from_step, to, to_step, count });
    }
    let step = to_step * size_of::<u64>() as u64;
    from.iter().enumerate().try_for_each(|(i, &from)| f(Batch::one(from, to + i as u64 * step)))
}

/// Calls `f` with up to 16 polynomials, where they are written and their number. Results are `to_step` words apart.
fn each_polys(
    from: &[u64],
    to: u64,
    to_step: u64,
    f: impl Fn(Polys, u64, u32) -> Result<()>,
) -> Result<()> {
    from.chunks(POLYS).enumerate().try_for_each(|(i, chunk)| {
        f(Polys::new(chunk), to + (i * POLYS) as u64 * to_step * WORD, chunk.len() as u32)
    })
}

/// The step in words between addresses that follow each other in equal steps.
fn step(addresses: &[u64]) -> Option<u64> {
    let steps = addresses.windows(2).map(|pair| match pair {
        [a, b] => b.wrapping_sub(*a),
        _ => 0,
    });
    let mut distinct = steps.collect::<Vec<_>>();
    distinct.dedup();
    match distinct.as_slice() {
        [] => Some(0),
        // Words are 8 bytes: an exact division also of a negative step.
        [one] => Some(((*one).cast_signed() / WORD.cast_signed()).cast_unsigned()),
        _ => None,
    }
}

impl Cuda {
    fn shape(&self, limbs: Limbs) -> Result<Shape> {
        let total = self.basis.q().len() as u32;
        let primes = self.tables.primes.at(0, 1)?;
        Ok(Shape { primes, n: self.n as u32, q: limbs.q as u32, total, unused: 0 })
    }

    /// An operand of a call over `limbs`, each word standing for `run` words.
    pub(super) fn operand(&self, a: &View<'_, Buf>, run: usize) -> Result<In> {
        let words = a.buf.at(0, a.limbs.rows() * self.n / run)?;
        Ok(In { words, step: 0, q: a.limbs.q as u32, shift: run.trailing_zeros() })
    }

    pub(super) fn output(&self, a: &Buf, limbs: Limbs) -> Result<Out> {
        Ok(Out { words: a.at(0, limbs.rows() * self.n)?, step: 0 })
    }

    /// A kernel of elementwise.cu or key_switch.cu over all rows of `limbs`; `items` threads a row.
    pub(super) fn each(
        &self,
        kernel: Kernel,
        limbs: Limbs,
        items: usize,
        args: &[&dyn Arg],
    ) -> Result<()> {
        let shape = self.shape(limbs)?;
        let mut all = args.to_vec();
        all.push(&shape);
        self.every(kernel, limbs.rows(), items, &all)
    }

    /// A kernel with `items` threads in each of `rows` rows.
    pub(super) fn every(
        &self,
        kernel: Kernel,
        rows: usize,
        items: usize,
        args: &[&dyn Arg],
    ) -> Result<()> {
        let grid = ((items as u32).div_ceil(THREADS), rows as u32, 1);
        self.gpu.launch(kernel, Launch { grid, block: THREADS, shared: 0 }, args)
    }

    /// Numbers in [0, p) of every row as they are, or centred.
    pub(super) fn scalars(&self, limbs: Limbs, scalars: &[u64], centre: bool) -> Scalars {
        let arithmetic = self.gpu.arithmetic();
        let mut of = [Lazy::default(); MAX_PRIMES];
        let rows = of.iter_mut().zip(scalars).zip(self.basis.row_moduli(limbs));
        for ((to, &value), m) in rows {
            *to = if centre {
                arithmetic.centred(value, m)
            } else {
                arithmetic.lazy(value.cast_signed())
            };
        }
        Scalars { of }
    }

    /// A transform of rows of `n` words, by one kernel or the first or second of two.
    fn transform(
        &self,
        kernel: Kernel,
        shape: Launch,
        batch: Batch,
        jobs: &Jobs,
        n: usize,
        extra: &[&dyn Arg],
    ) -> Result<()> {
        let Batch { from, from_step, to, to_step, count } = batch;
        let from: &[&dyn Arg] = &[&from, &from_step];
        self.transform_from(kernel, shape, (from, to, to_step, count), jobs, n, extra)
    }

    /// As [`Cuda::transform`], with what says where polynomials are read.
    fn transform_from(
        &self,
        kernel: Kernel,
        shape: Launch,
        (from, to, to_step, count): (&[&dyn Arg], u64, u64, u32),
        jobs: &Jobs,
        n: usize,
        extra: &[&dyn Arg],
    ) -> Result<()> {
        let table = jobs.table.at(0, 0)?;
        let (primes, twiddles) = (self.tables.primes.at(0, 1)?, self.tables.twiddles.at(0, 1)?);
        let (stride, n) = (self.tables.stride as u32, n as u32);
        let rest: &[&dyn Arg] = &[&to, &to_step, &table, &primes, &twiddles, &stride, &n];
        let (x, y, _) = shape.grid;
        let shape = Launch { grid: (x, y, count), ..shape };
        self.gpu.launch(kernel, shape, &[from, rest, extra].concat())
    }

    fn small(jobs: &Jobs, n: usize) -> Launch {
        let block = (n as u32 / 2).clamp(32, 512);
        let shared = (n * size_of::<Lazy>()) as u32;
        Launch { grid: (1, jobs.count as u32, 1), block, shared }
    }

    fn rows(&self, jobs: &Jobs) -> Launch {
        let grid = ((self.n / SMALL) as u32, jobs.count as u32, 1);
        Launch { grid, block: THREADS, shared: 0 }
    }

    /// The column kernels of degree n = R · 256, and their launch: see ntt.cu.
    fn columns(&self, jobs: &Jobs) -> (Kernel, Kernel, Launch) {
        let (forward, inverse, columns, block) = match self.n.trailing_zeros() - 8 {
            5 => (Kernel::NttColumns41, Kernel::InttColumns41, 128, 256),
            6 => (Kernel::NttColumns42, Kernel::InttColumns42, 64, 256),
            7 => (Kernel::NttColumns43, Kernel::InttColumns43, 32, 256),
            8 => (Kernel::NttColumns44, Kernel::InttColumns44, 16, 256),
            _ => (Kernel::NttColumns54, Kernel::InttColumns54, 8, 128),
        };
        let grid = (256 / columns, jobs.count as u32, 1);
        (forward, inverse, Launch { grid, block, shared: 0 })
    }

    /// Coefficients to NTT order.
    pub(super) fn forward(&self, batch: Batch, jobs: &Jobs) -> Result<()> {
        if self.n <= SMALL {
            return self.forward_small(batch, jobs, self.n);
        }
        self.forward_columns(batch, jobs)?;
        self.forward_rows(batch.in_place(), jobs)
    }

    /// The second half of [`Cuda::forward`] for n > 4096, in place; n <= 4096: all of it.
    pub(super) fn forward_rows(&self, batch: Batch, jobs: &Jobs) -> Result<()> {
        if self.n <= SMALL {
            return self.forward_small(batch, jobs, self.n);
        }
        self.transform(Kernel::NttRows, self.rows(jobs), batch, jobs, self.n, &[])
    }

    /// As [`Cuda::forward`] for rows of n <= 4096 words.
    pub(super) fn forward_small(&self, batch: Batch, jobs: &Jobs, n: usize) -> Result<()> {
        self.transform(Kernel::NttSmall, Self::small(jobs, n), batch, jobs, n, &[])
    }

    /// The first half of [`Cuda::forward`] for n > 4096: lazy values.
    pub(super) fn forward_columns(&self, batch: Batch, jobs: &Jobs) -> Result<()> {
        let (kernel, _, shape) = self.columns(jobs);
        self.transform(kernel, shape, batch, jobs, self.n, &[])
    }

    /// [`Cuda::forward_rows`] in place, then `(x - result) · factor` there, x row by row of the jobs.
    pub(super) fn divide_rows(
        &self,
        rest: Batch,
        x: &[u64],
        jobs: &Jobs,
        inverses: &[Lazy],
    ) -> Result<()> {
        if self.n > SMALL {
            let shape = Launch { shared: DIVIDE_SHARED, ..self.rows(jobs) };
            return each_polys(x, rest.to, rest.to_step, |polys, to, count| {
                let batch = Batch { from: to, from_step: rest.to_step, to, count, ..rest };
                self.transform(Kernel::NttRowsDivide, shape, batch, jobs, self.n, &[&polys])
            });
        }
        self.forward_rows(rest, jobs)?;
        let limbs = Limbs::q(inverses.len());
        let mut of = [Lazy::default(); MAX_PRIMES];
        of.iter_mut().zip(inverses).for_each(|(to, &from)| *to = from);
        let scalars = Scalars { of };
        let input = |words, step| In { words, step, q: limbs.q as u32, shift: 0 };
        for (member, &x) in x.iter().enumerate() {
            let to = rest.to + member as u64 * rest.to_step * WORD;
            let (out, x, rest) = (Out { words: to, step: 0 }, input(x, 0), input(to, 0));
            self.each(Kernel::SubScale, limbs, self.n / 2, &[&out, &x, &rest, &scalars])?;
        }
        Ok(())
    }

    /// NTT order to coefficients times each job's factor plus its summand. Results are `to_step` words apart.
    pub(super) fn inverse(&self, from: &[u64], to: u64, to_step: usize, jobs: &Jobs) -> Result<()> {
        if self.n <= SMALL {
            let shape = Self::small(jobs, self.n);
            return each_batch(from, to, to_step, |batch| {
                self.transform(Kernel::InttSmall, shape, batch, jobs, self.n, &[])
            });
        }
        self.inverse_rows(from, to, to_step, jobs)?;
        let (_, kernel, shape) = self.columns(jobs);
        let (step, count) = (to_step as u64, from.len() as u32);
        let batch = Batch { from: to, from_step: step, to, to_step: step, count };
        self.transform(kernel, shape, batch, jobs, self.n, &[])
    }

    /// The first half of [`Cuda::inverse`] for n > 4096: lazy doubles.
    fn inverse_rows(&self, from: &[u64], to: u64, to_step: usize, jobs: &Jobs) -> Result<()> {
        let (shape, to_step) = (self.rows(jobs), to_step as u64);
        each_polys(from, to, to_step, |polys, to, count| {
            let place = (&[&polys as &dyn Arg] as &[_], to, to_step, count);
            self.transform_from(Kernel::InttRows, shape, place, jobs, self.n, &[])
        })
    }

    /// The source rows of polynomials, by way of as many rows of scratch each, to target rows that
    /// [`Cuda::forward_rows`] or [`Cuda::divide_rows`] can finish. Results are `to_step` words apart.
    pub(super) fn extend(
        &self,
        from: &[u64],
        scratch: u64,
        to: u64,
        to_step: usize,
        extension: &Extension,
    ) -> Result<Batch> {
        let Extension { inverse, conversion, forward } = extension;
        let (step, count) = (inverse.count * self.n, from.len() as u32);
        let to_step = to_step as u64;
        let batch = Batch { from: scratch, from_step: step as u64, to, to_step, count };
        if let Some(sources) = conversion.extends {
            self.inverse_rows(from, scratch, step, inverse)?;
            self.extend_columns(batch, sources, extension)?;
        } else {
            self.inverse(from, scratch, step, inverse)?;
            self.convert(batch, conversion)?;
            if self.n > SMALL {
                self.forward_columns(batch.in_place(), forward)?;
            }
        }
        Ok(batch.in_place())
    }

    /// Second half of the inverse, conversion and first half of the forward transforms, by a kernel of extend.cu.
    fn extend_columns(&self, batch: Batch, sources: u32, extension: &Extension) -> Result<()> {
        let Batch { from, from_step, to, to_step, count: members } = batch;
        let jobs = extension.inverse.table.at(0, 0)?;
        let (primes, twiddles) = (self.tables.primes.at(0, 1)?, self.tables.twiddles.at(0, 1)?);
        let stride = self.tables.stride as u32;
        for chunk in &extension.conversion.chunks {
            let (digits, targets) = (chunk.digits.at(0, 0)?, chunk.targets.at(0, 0)?);
            let (factors, count) = (chunk.factors.at(0, 0)?, chunk.count as u32);
            let (blocks, tiles) = (EXTEND_BLOCKS * count * members, chunk.units as u32);
            // A block works on two tiles at a time, which takes twice to three times as long as its sources, and each
            // group of tiles repeats the sources. Of the least time, the fewest groups.
            let time = |groups: u32| {
                let rounds = tiles.div_ceil(groups).div_ceil(2);
                (blocks * groups).div_ceil(EXTEND_SLOTS) * (2 * sources.div_ceil(8) + 5 * rounds)
            };
            let groups = (1..=tiles.div_ceil(2)).min_by_key(|&groups| time(groups)).unwrap_or(1);
            let group = tiles.div_ceil(groups);
            let grid = (EXTEND_BLOCKS, groups, count * members);
            let shape = Launch { grid, block: EXTEND_THREADS, shared: extend_shared(sources) };
            let args: &[&dyn Arg] = &[
                &from, &from_step, &to, &to_step, &jobs, &digits, &count, &targets, &factors,
                &primes, &twiddles, &stride, &group,
            ];
            self.gpu.launch(chunk.kernel, shape, args)?;
        }
        Ok(())
    }

    /// Rows of coefficients converted to other primes.
    pub(super) fn convert(&self, batch: Batch, conversion: &Conversion) -> Result<()> {
        let Batch { from, from_step, to, to_step, count: members } = batch;
        for chunk in &conversion.chunks {
            let (digits, targets) = (chunk.digits.at(0, 0)?, chunk.targets.at(0, 0)?);
            let (factors, primes) = (chunk.factors.at(0, 0)?, self.tables.primes.at(0, 1)?);
            let (count, n) = (chunk.count as u32, self.n as u32);
            // As few groups as there must be to fill the card, of equal size.
            let columns = n.div_ceil(THREADS);
            let wanted = FULL.div_ceil(columns * count * members) as usize;
            let groups = chunk.units.div_ceil(chunk.group).max(wanted.min(chunk.units)).max(1);
            let group = chunk.units.div_ceil(groups) as u32;
            let grid = (columns, groups as u32, count * members);
            let shape = Launch { grid, block: THREADS, shared: 0 };
            let args: &[&dyn Arg] = &[
                &from, &from_step, &to, &to_step, &digits, &count, &targets, &factors, &primes, &n,
                &group,
            ];
            self.gpu.launch(chunk.kernel, shape, args)?;
        }
        Ok(())
    }

    /// The last half of the digits' transforms and their products with a key; the digits' lazy values are at `digits`.
    pub(super) fn rows_switch(&self, limbs: Limbs, digits: u64, operands: &Switch) -> Result<()> {
        let (shape, twiddles) = (self.shape(limbs)?, self.tables.twiddles.at(0, 1)?);
        let stride = self.tables.stride as u32;
        let grid = ((self.n / SMALL) as u32 * operands.member_count, limbs.rows() as u32, 1);
        let launch = Launch { grid, block: THREADS, shared: SWITCH_SHARED };
        let args: &[&dyn Arg] = &[&digits, operands, &twiddles, &stride, &shape];
        self.gpu.launch(Kernel::NttRowsSwitch, launch, args)
    }
}
