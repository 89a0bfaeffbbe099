//! CUDA devices: kernels over polynomials in device memory, in the order of the calls on one stream a card.
//!
//! Words are those of the CPU: every kernel is exact modular arithmetic and returns canonical residues, and every choice
//! (lifts, quotients, rounding) is the integer definition of [`Backend`]. Nothing waits for the card but `download`.

mod abi;
mod arithmetic;
mod buffer;
mod driver;
mod hoisted;
mod key_switch;
mod launch;
mod modules;
mod tables;
mod timeline;

use super::{
    Backend, HoistedSums, KeySwitch, Member, Multiple, Source, Storage, SwitchSum, View,
    storage_variant,
};
use crate::automorphism::GaloisElement;
use crate::basis::{Limbs, RnsBasis};
use crate::device::{Device, Kind};
use crate::error::Result;
use abi::{HOISTED_DIGITS, TERM_ROWS, TERMS, Terms};
use buffer::Buf;
use cipherform_profile::Timeline;
pub(crate) use driver::Gpu;
use driver::Kernel;
use launch::Batch;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use tables::{Decomposition, Division, Extension, Jobs, SMALL, Tables};
use zeroize::Zeroizing;

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
    raises: Plans<usize, Extension>,
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

    fn decomposition(&self, q: usize) -> Result<Arc<Decomposition>> {
        plan(&self.decompositions, q, || Decomposition::new(&self.gpu, &self.basis, q))
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
        transform: impl FnOnce(Batch, &Jobs) -> Result<()>,
    ) -> Result<()> {
        let words = limbs.rows() * self.n;
        let out = a.output()?;
        transform(Batch::one(a.at(0, words)?, out.at(0, words)?), &*self.jobs(limbs)?)?;
        *a = out;
        Ok(())
    }

    /// `X -> X^g` of the rows of `limbs`.
    fn image(&self, a: &View<'_, Buf>, limbs: Limbs, g: GaloisElement) -> Result<Buf> {
        let out = self.words(limbs.rows())?;
        let (to, x) = (self.output(&out, limbs)?, self.operand(a, 1)?);
        let (g, log_n) = (g.get() as u32, self.n.trailing_zeros());
        self.each(Kernel::Automorphism, limbs, self.n, &[&to, &x, &g, &log_n])?;
        Ok(out)
    }

    /// `Backend::decompose`.
    fn digits(&self, a: &View<'_, Buf>, q: usize) -> Result<Vec<Buf>> {
        let n = self.n;
        let rows = q + self.basis.p().len();
        let plan = self.decomposition(q)?;
        let prepared = self.words(q)?;
        let scratch = prepared.at(0, q * n)?;
        let digits = Buf::parts(&self.gpu, plan.own.len(), rows * n)?;
        for (digit, own) in digits.iter().zip(&plan.own) {
            digit.copy(own.start * n, a.buf, own.start * n, own.len() * n)?;
        }
        if let Some(first) = digits.first() {
            let start = first.at(0, digits.len() * rows * n)?;
            let from = a.buf.at(0, q * n)?;
            let halves = self.extend(&[from], scratch, start, 0, &plan.extension)?;
            self.forward_rows(halves, &plan.extension.forward)?;
        }
        Ok(digits)
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

    fn launches(&self) -> u64 {
        self.gpu.launches()
    }

    fn timeline(&self) -> Option<Box<dyn Timeline>> {
        timeline::Marks::begin(&self.gpu).map(|marks| Box::new(marks) as Box<dyn Timeline>)
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
        // Of a secret no copy stays on the host.
        Buf::upload(&self.gpu, &Zeroizing::new(host))
    }

    fn build(
        &self,
        rows: usize,
        width: usize,
        fill: impl Fn(usize, &mut [u64]) + Sync,
    ) -> Result<Buf> {
        use rayon::prelude::*;
        let mut words = Zeroizing::new(vec![0; rows * width]);
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
        self.whole(a, limbs, |batch, jobs| self.forward(batch, jobs))
    }

    fn intt(&self, a: &mut Buf, limbs: Limbs) -> Result<()> {
        self.whole(a, limbs, |batch, jobs| self.inverse(&[batch.from], batch.to, 0, jobs))
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

    fn tensor(
        &self,
        a: [View<'_, Buf>; 2],
        limbs: Limbs,
        b: [View<'_, Buf>; 2],
    ) -> Result<[Buf; 3]> {
        let rows = limbs.rows();
        let out = [self.words(rows)?, self.words(rows)?, self.words(rows)?];
        let [x, y, z] = out.each_ref().map(|out| self.output(out, limbs));
        let [a0, a1] = a.each_ref().map(|half| self.operand(half, 1));
        let [b0, b1] = b.each_ref().map(|half| self.operand(half, 1));
        let args: &[&dyn driver::Arg] = &[&x?, &y?, &z?, &a0?, &a1?, &b0?, &b1?];
        self.each(Kernel::Tensor, limbs, self.n / 2, args)?;
        Ok(out)
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

    fn combine(
        &self,
        start: Option<Buf>,
        limbs: Limbs,
        terms: &[Multiple<'_, Buf>],
    ) -> Result<Buf> {
        let (arithmetic, none) = (self.gpu.arithmetic(), abi::In::default());
        let (out, mut from) = match start {
            Some(mut start) => {
                let out = start.output()?;
                (out, Some(start))
            }
            None => (self.words(limbs.q)?, None),
        };
        let to = self.output(&out, limbs)?;
        // Once at least: sums of nothing are what they start with.
        let chunks = terms.len().div_ceil(TERMS).max(1);
        for chunk in 0..chunks {
            let terms = terms.iter().skip(chunk * TERMS).take(TERMS);
            let mut table = Terms {
                of: [none; TERMS],
                factors: [[abi::Lazy::default(); TERM_ROWS]; TERMS],
                count: terms.len() as u32,
                first: 0,
            };
            for (to, (a, _)) in table.of.iter_mut().zip(terms.clone()) {
                *to = self.operand(a, 1)?;
            }
            let start = match &from {
                Some(start) => self.operand(&View { buf: start, limbs }, 1)?,
                None => none,
            };
            let moduli = &self.basis.q()[..limbs.q];
            for (part, moduli) in moduli.chunks(TERM_ROWS).enumerate() {
                table.first = (part * TERM_ROWS) as u32;
                for (to, (_, scalars)) in table.factors.iter_mut().zip(terms.clone()) {
                    let scalars = scalars.iter().skip(part * TERM_ROWS).zip(moduli);
                    to.iter_mut()
                        .zip(scalars)
                        .for_each(|(to, (&s, m))| *to = arithmetic.centred(s, m));
                }
                let rows = Limbs::q(moduli.len());
                self.each(Kernel::Combination, rows, self.n / 2, &[&to, &start, &table])?;
            }
            from = Some(out.clone());
        }
        Ok(out)
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
        self.image(a, limbs, g)
    }

    fn divide(&self, a: Buf, limbs: Limbs, kept: usize) -> Result<Buf> {
        let mut quotients = self.divide_many(vec![a], limbs, kept)?;
        // One for each.
        quotients.pop().map_or_else(|| self.words(kept), Ok)
    }

    fn divide_many(&self, polys: Vec<Buf>, limbs: Limbs, kept: usize) -> Result<Vec<Buf>> {
        let (n, count) = (self.n, polys.len());
        let division = plan(&self.divisions, (limbs, kept), || {
            Division::new(&self.gpu, &self.basis, limbs, kept)
        })?;
        let removed = limbs.rows() - kept;
        let addresses: Vec<u64> =
            polys.iter().map(|a| a.at(0, limbs.rows() * n)).collect::<Result<_>>()?;
        let top = self.words(count * removed)?;
        let scratch = top.at(0, count * removed * n)?;
        let out = Buf::parts(&self.gpu, count, kept * n)?;
        let Some(first) = out.first() else { return Ok(out) };
        let rest = first.at(0, count * kept * n)?;
        let Division { extension, inverses } = &*division;
        let halves = self.extend(&addresses, scratch, rest, kept * n, extension)?;
        self.divide_rows(halves, &addresses, &extension.forward, inverses)?;
        Ok(out)
    }

    fn mod_raise(&self, a: &Buf, q: usize) -> Result<Buf> {
        let n = self.n;
        let raise = plan(&self.raises, q, || Extension::raise(&self.gpu, &self.basis, q))?;
        let (lifted, out) = (self.words(1)?, self.words(q)?);
        let (scratch, rows) = (lifted.at(0, n)?, out.at(0, q * n)?);
        out.copy(0, a, 0, n)?;
        let halves = self.extend(&[a.at(0, n)?], scratch, rows, 0, &raise)?;
        self.forward_rows(halves, &raise.forward)?;
        Ok(out)
    }

    fn decompose(&self, a: &View<'_, Buf>, q: usize) -> Result<Vec<Buf>> {
        self.digits(a, q)
    }

    fn inner_product(
        &self,
        digits: &[&Buf],
        limbs: Limbs,
        keys: &[[View<'_, Buf>; 2]],
    ) -> Result<[Buf; 2]> {
        let keys = keys
            .iter()
            .map(|key| key.each_ref().map(|half| View { buf: half.buf, limbs: half.limbs }))
            .collect();
        let switch = KeySwitch { limbs, special: Vec::new(), keys, galois: None };
        self.product(
            &Member { source: Source::Digits(digits.to_vec()), plus: [None, None] },
            &switch,
        )
    }

    fn key_switch(
        &self,
        member: &Member<'_, Buf>,
        switch: &KeySwitch<'_, Buf>,
    ) -> Result<[Buf; 2]> {
        let mut pairs = self.switches(std::slice::from_ref(member), switch)?;
        pairs.pop().map_or_else(|| Buf::pair(&self.gpu, switch.limbs.rows() * self.n), Ok)
    }

    fn key_switch_many(
        &self,
        members: &[Member<'_, Buf>],
        switch: &KeySwitch<'_, Buf>,
    ) -> Result<Vec<[Buf; 2]>> {
        self.switches(members, switch)
    }

    fn key_switch_sum(
        &self,
        member: &Member<'_, Buf>,
        switch: &KeySwitch<'_, Buf>,
        sum: &SwitchSum<'_, Buf>,
    ) -> Result<[Buf; 2]> {
        self.switch_sum(member, switch, sum)
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
            self.forward_small(Batch::one(a.at(0, words)?, out.at(0, words)?), &jobs, m)?;
            *a = out;
            return Ok(());
        }
        // Rare: through all n coefficients, of which every run of n/m words holds one value.
        let (whole, out) = (self.words(limbs.rows())?, a.output()?);
        let (spread, shift) = (whole.at(0, limbs.rows() * n)?, (n / m).trailing_zeros());
        let (from, to, width) = (a.at(0, words)?, out.at(0, words)?, n as u32);
        self.every(Kernel::Spread, limbs.rows(), n, &[&spread, &from, &width, &shift])?;
        self.forward(Batch::one(spread, spread), &jobs)?;
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
