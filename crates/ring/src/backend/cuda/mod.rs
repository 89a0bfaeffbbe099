//! CUDA devices: FP64 kernels over polynomials in device memory, in the order of the calls on one stream a card.
//!
//! Words are those of the CPU: every kernel is exact modular arithmetic and returns canonical residues, and every choice
//! (lifts, quotients, rounding) is the integer definition of [`Backend`]. Nothing waits for the card but `download`.

mod abi;
mod buffer;
mod driver;
mod hoisted;
mod launch;
mod tables;

use super::{Backend, HoistedSums, Storage, View, storage_variant};
use crate::automorphism::GaloisElement;
use crate::basis::{Limbs, RnsBasis};
use crate::device::{Device, Kind};
use crate::error::Result;
use abi::{DigitRows, HOISTED_DIGITS, KEY_DIGITS, Keys};
use buffer::Buf;
pub(crate) use driver::Gpu;
use driver::Kernel;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use tables::{Decomposition, Division, Jobs, Raise, SMALL, Tables};

/// Plans made so far.
type Plans<K, V> = Mutex<HashMap<K, Arc<V>>>;

/// A CUDA device bound to a basis.
#[derive(Debug)]
pub(crate) struct Cuda {
    gpu: Arc<Gpu>,
    n: usize,
    basis: RnsBasis,
    tables: Tables,
    transforms: Plans<Limbs, Jobs>,
    divisions: Plans<(Limbs, usize), Division>,
    decompositions: Plans<usize, Decomposition>,
    raises: Plans<usize, Raise>,
}

/// The plan for `key`, made when it is first wanted.
fn plan<K: Copy + Eq + Hash, V>(
    plans: &Plans<K, V>,
    key: K,
    make: impl FnOnce() -> Result<V>,
) -> Result<Arc<V>> {
    let mut known = plans.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(plan) = known.get(&key) {
        return Ok(plan.clone());
    }
    let plan = Arc::new(make()?);
    known.insert(key, plan.clone());
    Ok(plan)
}

impl Cuda {
    /// The card with this ordinal bound to a basis.
    pub(crate) fn new(ordinal: u16, basis: &RnsBasis) -> Result<Self> {
        let gpu = Gpu::get(ordinal)?;
        let tables = Tables::new(&gpu, basis)?;
        Ok(Self {
            gpu,
            n: basis.n(),
            basis: basis.clone(),
            tables,
            transforms: Mutex::default(),
            divisions: Mutex::default(),
            decompositions: Mutex::default(),
            raises: Mutex::default(),
        })
    }

    fn jobs(&self, limbs: Limbs) -> Result<Arc<Jobs>> {
        plan(&self.transforms, limbs, || Jobs::all(&self.gpu, &self.basis, limbs))
    }

    fn words(&self, rows: usize) -> Result<Buf> {
        Buf::new(&self.gpu, rows * self.n)
    }

    /// `a = kernel(a, b)`, words of b standing for `run` words each.
    fn binary(
        &self,
        kernel: Kernel,
        a: &mut Buf,
        limbs: Limbs,
        b: &View<'_, Buf>,
        run: usize,
    ) -> Result<()> {
        let out = a.output()?;
        let (to, x) = (self.output(&out, limbs)?, self.operand(&View { buf: a, limbs }, 1)?);
        let y = self.operand(b, run)?;
        self.each(kernel, limbs, self.n / 2, &[&to, &x, &y])?;
        *a = out;
        Ok(())
    }

    fn multiply_add(
        &self,
        acc: &mut Buf,
        limbs: Limbs,
        a: &View<'_, Buf>,
        b: &View<'_, Buf>,
        run: usize,
    ) -> Result<()> {
        let out = acc.output()?;
        let (to, z) = (self.output(&out, limbs)?, self.operand(&View { buf: acc, limbs }, 1)?);
        let (x, y) = (self.operand(a, 1)?, self.operand(b, run)?);
        self.each(Kernel::MulAdd, limbs, self.n / 2, &[&to, &z, &x, &y])?;
        *acc = out;
        Ok(())
    }

    /// A transform of all rows, in place or into new memory.
    fn whole(
        &self,
        a: &mut Buf,
        limbs: Limbs,
        transform: impl FnOnce(u64, u64, &Jobs) -> Result<()>,
    ) -> Result<()> {
        let words = limbs.rows() * self.n;
        let out = a.output()?;
        transform(a.at(0, words)?, out.at(0, words)?, &*self.jobs(limbs)?)?;
        *a = out;
        Ok(())
    }
}

impl Backend for Cuda {
    type Buf = Buf;
    storage_variant!(Cuda);

    fn device(&self) -> Device {
        Device { kind: Kind::Cuda(self.gpu.ordinal()) }
    }

    fn psi(&self, prime: usize) -> u64 {
        self.tables.psi[prime]
    }

    fn synchronize(&self) -> Result<()> {
        self.gpu.synchronize()
    }

    fn time(&self, f: impl FnOnce() -> Result<()>) -> Result<f64> {
        self.gpu.time(f)
    }

    fn memory(&self) -> (usize, usize) {
        self.gpu.memory()
    }

    fn copy(&self, to: &mut Buf, from: &Buf) -> Result<()> {
        to.detach()?;
        to.copy(0, from, 0, from.len())
    }

    fn zeros(&self, words: usize) -> Result<Buf> {
        let out = Buf::new(&self.gpu, words)?;
        out.clear()?;
        Ok(out)
    }

    fn upload(&self, host: Vec<u64>) -> Result<Buf> {
        Buf::upload(&self.gpu, &host)
    }

    fn build(
        &self,
        rows: usize,
        width: usize,
        fill: impl Fn(usize, &mut [u64]) + Sync,
    ) -> Result<Buf> {
        use rayon::prelude::*;
        let mut words = vec![0; rows * width];
        words.par_chunks_exact_mut(width).enumerate().for_each(|(row, words)| fill(row, words));
        Buf::upload(&self.gpu, &words)
    }

    fn download(&self, buf: &Buf) -> Result<Vec<u64>> {
        buf.download()
    }

    fn wipe(&self, buf: &mut Buf) {
        // A shared buffer is overwritten when its last owner asks; this one only lets go of it. A card that no longer
        // answers cannot be made to forget.
        let cleared = if buf.is_unique() {
            buf.clear()
        } else {
            self.zeros(buf.len()).map(|zeros| *buf = zeros)
        };
        drop(cleared);
    }

    fn select(&self, a: &View<'_, Buf>, to: Limbs) -> Result<Buf> {
        let out = self.words(to.rows())?;
        let (target, source) = (self.output(&out, to)?, self.operand(a, 1)?);
        self.each(Kernel::SelectRows, to, self.n / 2, &[&target, &source])?;
        Ok(out)
    }

    fn truncate(&self, a: &mut Buf, rows: usize) -> Result<()> {
        a.truncate(rows * self.n)
    }

    fn ntt(&self, a: &mut Buf, limbs: Limbs) -> Result<()> {
        self.whole(a, limbs, |from, to, jobs| self.forward(from, to, jobs))
    }

    fn intt(&self, a: &mut Buf, limbs: Limbs) -> Result<()> {
        self.whole(a, limbs, |from, to, jobs| self.inverse(from, to, jobs))
    }

    fn add(&self, a: &mut Buf, limbs: Limbs, b: &View<'_, Buf>) -> Result<()> {
        self.binary(Kernel::Add, a, limbs, b, 1)
    }

    fn sub(&self, a: &mut Buf, limbs: Limbs, b: &View<'_, Buf>) -> Result<()> {
        self.binary(Kernel::Sub, a, limbs, b, 1)
    }

    fn neg(&self, a: &mut Buf, limbs: Limbs) -> Result<()> {
        let out = a.output()?;
        let (to, x) = (self.output(&out, limbs)?, self.operand(&View { buf: a, limbs }, 1)?);
        self.each(Kernel::Neg, limbs, self.n / 2, &[&to, &x])?;
        *a = out;
        Ok(())
    }

    fn mul(&self, a: &mut Buf, limbs: Limbs, b: &View<'_, Buf>) -> Result<()> {
        self.binary(Kernel::Mul, a, limbs, b, 1)
    }

    fn mul_add(
        &self,
        acc: &mut Buf,
        limbs: Limbs,
        a: &View<'_, Buf>,
        b: &View<'_, Buf>,
    ) -> Result<()> {
        self.multiply_add(acc, limbs, a, b, 1)
    }

    fn mul_scalars(&self, a: &mut Buf, limbs: Limbs, scalars: &[u64]) -> Result<()> {
        let out = a.output()?;
        let (to, x) = (self.output(&out, limbs)?, self.operand(&View { buf: a, limbs }, 1)?);
        let (none, scalars) = (abi::In { q: 0, ..x }, self.scalars(limbs, scalars, true));
        self.each(Kernel::MulScalars, limbs, self.n / 2, &[&to, &none, &x, &scalars])?;
        *a = out;
        Ok(())
    }

    fn mul_scalars_add(
        &self,
        acc: &mut Buf,
        limbs: Limbs,
        a: &View<'_, Buf>,
        scalars: &[u64],
    ) -> Result<()> {
        acc.detach()?;
        let lower = Limbs::q(limbs.q);
        let (to, z) =
            (self.output(acc, lower)?, self.operand(&View { buf: acc, limbs: lower }, 1)?);
        let (x, scalars) = (self.operand(a, 1)?, self.scalars(lower, scalars, true));
        self.each(Kernel::MulScalars, lower, self.n / 2, &[&to, &z, &x, &scalars])
    }

    fn add_scalars(&self, a: &mut Buf, limbs: Limbs, scalars: &[u64]) -> Result<()> {
        let out = a.output()?;
        let (to, x) = (self.output(&out, limbs)?, self.operand(&View { buf: a, limbs }, 1)?);
        let scalars = self.scalars(limbs, scalars, false);
        self.each(Kernel::AddScalars, limbs, self.n / 2, &[&to, &x, &scalars])?;
        *a = out;
        Ok(())
    }

    fn mul_monomial(&self, a: &mut Buf, limbs: Limbs, exponent: usize) -> Result<()> {
        let out = a.output()?;
        let (to, x) = (self.output(&out, limbs)?, self.operand(&View { buf: a, limbs }, 1)?);
        let powers = self.tables.powers.at(0, 1)?;
        let (stride, exponent) = (self.tables.power_stride as u32, exponent as u32);
        let log_n = self.n.trailing_zeros();
        let args: &[&dyn driver::Arg] = &[&to, &x, &powers, &stride, &log_n, &exponent];
        self.each(Kernel::MulMonomial, limbs, self.n / 2, args)?;
        *a = out;
        Ok(())
    }

    fn automorphism(&self, a: &View<'_, Buf>, limbs: Limbs, g: GaloisElement) -> Result<Buf> {
        let out = self.words(limbs.rows())?;
        let (to, x) = (self.output(&out, limbs)?, self.operand(a, 1)?);
        let (g, log_n) = (g.get() as u32, self.n.trailing_zeros());
        self.each(Kernel::Automorphism, limbs, self.n, &[&to, &x, &g, &log_n])?;
        Ok(out)
    }

    fn divide(&self, a: Buf, limbs: Limbs, kept: usize) -> Result<Buf> {
        let n = self.n;
        let division = plan(&self.divisions, (limbs, kept), || {
            Division::new(&self.gpu, &self.basis, limbs, kept)
        })?;
        let x = a.at(0, limbs.rows() * n)?;
        let top = self.words(division.removed)?;
        let coefficients = top.at(0, division.removed * n)?;
        self.inverse(x, coefficients, &division.inverse)?;
        let out = self.words(kept)?;
        let rest = out.at(0, kept * n)?;
        self.convert(coefficients, rest, &division.conversion)?;
        self.forward_divide(rest, x, &division.forward, &division.inverses)?;
        Ok(out)
    }

    fn mod_raise(&self, a: &Buf, q: usize) -> Result<Buf> {
        let n = self.n;
        let raise = plan(&self.raises, q, || Raise::new(&self.gpu, &self.basis, q))?;
        let (lifted, out) = (self.words(1)?, self.words(q)?);
        let (coefficients, rows) = (lifted.at(0, n)?, out.at(0, q * n)?);
        self.inverse(a.at(0, n)?, coefficients, &raise.inverse)?;
        out.copy(0, a, 0, n)?;
        self.convert(coefficients, rows, &raise.conversion)?;
        self.forward(rows, rows, &raise.forward)?;
        Ok(out)
    }

    fn decompose(&self, a: &View<'_, Buf>, q: usize) -> Result<Vec<Buf>> {
        let n = self.n;
        let plan = plan(&self.decompositions, q, || Decomposition::new(&self.gpu, &self.basis, q))?;
        let rows = q + self.basis.p().len();
        let prepared = self.words(q)?;
        let coefficients = prepared.at(0, q * n)?;
        self.inverse(a.buf.at(0, q * n)?, coefficients, &plan.inverse)?;
        let digits = Buf::parts(&self.gpu, plan.own.len(), rows * n)?;
        for (digit, own) in digits.iter().zip(&plan.own) {
            digit.copy(own.start * n, a.buf, own.start * n, own.len() * n)?;
        }
        if let Some(first) = digits.first() {
            let start = first.at(0, digits.len() * rows * n)?;
            self.convert(coefficients, start, &plan.conversion)?;
            self.forward(start, start, &plan.forward)?;
        }
        Ok(digits)
    }

    fn inner_product(
        &self,
        digits: &[&Buf],
        limbs: Limbs,
        keys: &[[View<'_, Buf>; 2]],
    ) -> Result<[Buf; 2]> {
        let words = limbs.rows() * self.n;
        let halves = [self.words(limbs.rows())?, self.words(limbs.rows())?];
        let [out0, out1] = [halves[0].at(0, words)?, halves[1].at(0, words)?];
        let chunks = digits.chunks(KEY_DIGITS).zip(keys.chunks(KEY_DIGITS));
        for (index, (digits, keys)) in chunks.enumerate() {
            let mut rows = DigitRows { words: [0; KEY_DIGITS] };
            let mut table = Keys { halves: [[0; 2]; KEY_DIGITS], q: [[0; 2]; KEY_DIGITS] };
            for (d, (digit, key)) in digits.iter().zip(keys).enumerate() {
                rows.words[d] = digit.at(0, words)?;
                for (h, half) in key.iter().enumerate() {
                    table.halves[d][h] = half.buf.at(0, half.limbs.rows() * self.n)?;
                    table.q[d][h] = half.limbs.q as u32;
                }
            }
            let (count, accumulate) = (digits.len() as u32, u32::from(index > 0));
            let args: &[&dyn driver::Arg] = &[&out0, &out1, &rows, &count, &table, &accumulate];
            self.each(Kernel::InnerProduct, limbs, self.n / 2, args)?;
        }
        Ok(halves)
    }

    fn hoisted_sums(&self, sums: &HoistedSums<'_, Buf>) -> Result<Vec<[Buf; 2]>> {
        if sums.digits.len() > HOISTED_DIGITS { sums.compose(self) } else { self.fused_sums(sums) }
    }

    fn subring_ntt(&self, a: &mut Buf, limbs: Limbs, m: usize) -> Result<()> {
        let n = self.n;
        if m == n {
            return self.ntt(a, limbs);
        }
        let jobs = self.jobs(limbs)?;
        let words = limbs.rows() * m;
        // The m-point transform uses the first m twiddles; a compact table has n / 16 of them.
        if m <= SMALL && (n <= SMALL || m <= n / 16) {
            let out = a.output()?;
            self.forward_small(a.at(0, words)?, out.at(0, words)?, &jobs, m)?;
            *a = out;
            return Ok(());
        }
        // Rare: through all n coefficients, of which every run of n/m words holds one value.
        let (whole, out) = (self.words(limbs.rows())?, a.output()?);
        let (spread, shift) = (whole.at(0, limbs.rows() * n)?, (n / m).trailing_zeros());
        let (from, to, width) = (a.at(0, words)?, out.at(0, words)?, n as u32);
        self.every(Kernel::Spread, limbs.rows(), n, &[&spread, &from, &width, &shift])?;
        self.forward(spread, spread, &jobs)?;
        self.every(Kernel::GatherRuns, limbs.rows(), m, &[&to, &spread, &width, &shift])?;
        *a = out;
        Ok(())
    }

    fn mul_subring(&self, a: &mut Buf, limbs: Limbs, b: &View<'_, Buf>, m: usize) -> Result<()> {
        self.binary(Kernel::Mul, a, limbs, b, self.n / m)
    }

    fn mul_subring_add(
        &self,
        acc: &mut Buf,
        limbs: Limbs,
        a: &View<'_, Buf>,
        b: &View<'_, Buf>,
        m: usize,
    ) -> Result<()> {
        self.multiply_add(acc, limbs, a, b, self.n / m)
    }
}
