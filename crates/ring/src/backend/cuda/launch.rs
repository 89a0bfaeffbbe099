//! Launches: grids and parameters from shapes, one function a family of kernels.

use super::Cuda;
use super::abi::{In, Out, Scalars, Shape};
use super::buffer::Buf;
use super::driver::{Arg, Kernel, Launch};
use super::tables::{Conversion, Jobs, SMALL, centred};
use crate::backend::View;
use crate::basis::Limbs;
use crate::error::Result;

/// Threads of a block where nothing else decides.
const THREADS: u32 = 256;
/// Targets that one thread of a conversion writes: so many reuse its sources.
const TARGETS: usize = 16;

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
        let mut of = [0.0; super::abi::MAX_PRIMES];
        let rows = of.iter_mut().zip(scalars).zip(self.basis.row_moduli(limbs));
        for ((to, &value), m) in rows {
            *to = if centre { centred(value, m) } else { value as f64 };
        }
        Scalars { of }
    }

    /// A transform of rows of `n` words, by one kernel or the first or second of two.
    fn transform(
        &self,
        kernel: Kernel,
        shape: Launch,
        [input, output]: [u64; 2],
        jobs: &Jobs,
        n: usize,
        extra: &[&dyn Arg],
    ) -> Result<()> {
        let table = jobs.table.at(0, 1)?;
        let (primes, twiddles) = (self.tables.primes.at(0, 1)?, self.tables.twiddles.at(0, 1)?);
        let (stride, n, step) = (self.tables.stride as u32, n as u32, 0u64);
        let mut args: Vec<&dyn Arg> =
            vec![&input, &step, &output, &step, &table, &primes, &twiddles, &stride, &n];
        args.extend_from_slice(extra);
        self.gpu.launch(kernel, shape, &args)
    }

    fn small(jobs: &Jobs, n: usize) -> Launch {
        let block = (n as u32 / 2).clamp(32, 512);
        let shared = (n * size_of::<f64>()) as u32;
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

    /// Coefficients at `input` to NTT order at `output`. Both may be the same.
    pub(super) fn forward(&self, input: u64, output: u64, jobs: &Jobs) -> Result<()> {
        if self.n <= SMALL {
            return self.forward_small(input, output, jobs, self.n);
        }
        let (kernel, _, shape) = self.columns(jobs);
        self.transform(kernel, shape, [input, output], jobs, self.n, &[])?;
        self.transform(Kernel::NttRows, self.rows(jobs), [output; 2], jobs, self.n, &[])
    }

    /// As [`Cuda::forward`] for rows of n <= 4096 words.
    pub(super) fn forward_small(
        &self,
        input: u64,
        output: u64,
        jobs: &Jobs,
        n: usize,
    ) -> Result<()> {
        self.transform(Kernel::NttSmall, Self::small(jobs, n), [input, output], jobs, n, &[])
    }

    /// Coefficients at `rest` to NTT order, then `(x - rest) · factor` there, row by row of the jobs.
    pub(super) fn forward_divide(
        &self,
        rest: u64,
        x: u64,
        jobs: &Jobs,
        inverses: &[f64],
    ) -> Result<()> {
        if self.n > SMALL {
            let (kernel, _, shape) = self.columns(jobs);
            self.transform(kernel, shape, [rest; 2], jobs, self.n, &[])?;
            let (kernel, step) = (Kernel::NttRowsDivide, 0u64);
            return self.transform(kernel, self.rows(jobs), [rest; 2], jobs, self.n, &[&x, &step]);
        }
        self.forward(rest, rest, jobs)?;
        let limbs = Limbs::q(inverses.len());
        let mut of = [0.0; super::abi::MAX_PRIMES];
        of.iter_mut().zip(inverses).for_each(|(to, &from)| *to = from);
        let input = |words| In { words, step: 0, q: limbs.q as u32, shift: 0 };
        let (out, x, rest, scalars) =
            (Out { words: rest, step: 0 }, input(x), input(rest), Scalars { of });
        self.each(Kernel::SubScale, limbs, self.n / 2, &[&out, &x, &rest, &scalars])
    }

    /// NTT order at `input` to coefficients times each job's factor plus its summand at `output`.
    pub(super) fn inverse(&self, input: u64, output: u64, jobs: &Jobs) -> Result<()> {
        if self.n <= SMALL {
            let shape = Self::small(jobs, self.n);
            return self.transform(Kernel::InttSmall, shape, [input, output], jobs, self.n, &[]);
        }
        self.transform(Kernel::InttRows, self.rows(jobs), [input, output], jobs, self.n, &[])?;
        let (_, kernel, shape) = self.columns(jobs);
        self.transform(kernel, shape, [output; 2], jobs, self.n, &[])
    }

    /// Converts rows of coefficients at `input` to rows at `output`.
    pub(super) fn convert(&self, input: u64, output: u64, conversion: &Conversion) -> Result<()> {
        for chunk in &conversion.chunks {
            let (digits, targets) = (chunk.digits.at(0, 1)?, chunk.targets.at(0, 0)?);
            let (factors, primes) = (chunk.factors.at(0, 0)?, self.tables.primes.at(0, 1)?);
            let (count, n, step) = (chunk.count as u32, self.n as u32, 0u64);
            // As few groups as there must be, of equal size.
            let groups = chunk.widest.div_ceil(TARGETS).max(1);
            let group = chunk.widest.div_ceil(groups) as u32;
            let grid = (n.div_ceil(THREADS), groups as u32, count);
            let shape = Launch { grid, block: THREADS, shared: 0 };
            let args: &[&dyn Arg] = &[
                &input, &step, &output, &step, &digits, &count, &targets, &factors, &primes, &n,
                &group,
            ];
            self.gpu.launch(chunk.kernel, shape, args)?;
        }
        Ok(())
    }
}
