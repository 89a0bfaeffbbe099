//! What a device must be able to do, and the one place that picks a device.

pub(crate) mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod key_switch;
pub(crate) mod reference;

use crate::automorphism::GaloisElement;
use crate::basis::Limbs;
use crate::device::Device;
use crate::error::{Error, Result};
use cipherform_profile::Timeline;
use std::fmt::Debug;
use std::time::Instant;

pub(crate) use key_switch::{BabyStep, HoistedSums, KeySwitch, Member, Source, SwitchSum, Weight};

/// A buffer and the limbs whose rows it holds, possibly more than an operation needs.
#[derive(Debug)]
pub(crate) struct View<'a, B> {
    pub(crate) buf: &'a B,
    pub(crate) limbs: Limbs,
}

/// A polynomial times a number a limb.
pub(crate) type Multiple<'a, B> = (View<'a, B>, Vec<u64>);

/// A device bound to a basis: tables and all arithmetic. Private: a backend is a module of this crate.
///
/// Contract. A buffer is rows of `n` words (or `m` for compressed polynomials), limb-major: the q-rows of its
/// [`Limbs`], then the special rows. Words are canonical residues, transforms are ordered as in [`crate::ntt`], and
/// results are bit-identical on every backend; each method's formula is its definition. Calls appear synchronous.
/// Callers check shapes: buffers hold the rows of the stated limbs, a [`View`] contains the limbs of the call.
/// `{q, p}` below are the `limbs` of a call, `[x]_q` is the residue in [0, q).
pub(crate) trait Backend: Debug + Send + Sync + Sized + 'static {
    /// Memory of the device.
    type Buf: Clone + Debug + Send + Sync;

    /// The device that this backend is.
    fn device(&self) -> Device;
    /// ψ of the prime with this index, see [`crate::ntt`].
    fn psi(&self, prime: usize) -> u64;
    /// The buffer inside, if it is this backend's.
    fn of(storage: &Storage) -> Option<&Self::Buf>;
    /// The buffer inside, if it is this backend's.
    fn of_mut(storage: &mut Storage) -> Option<&mut Self::Buf>;
    /// The buffer inside, if it is this backend's.
    fn into_buf(storage: Storage) -> Option<Self::Buf>;
    /// The other direction of [`Backend::into_buf`].
    fn store(buf: Self::Buf) -> Storage;

    /// Waits until everything that was asked for is done, and reports what failed since.
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    /// Seconds that the work asked for by `f` takes, by the device's own clock where it has one.
    fn time(&self, f: impl FnOnce() -> Result<()>) -> Result<f64> {
        let begin = Instant::now();
        f()?;
        Ok(begin.elapsed().as_secs_f64())
    }
    /// Bytes of the device's memory in use and the most that ever was, where the device counts.
    fn memory(&self) -> (usize, usize) {
        (0, 0)
    }
    /// Kernels asked for so far, by anybody; 0 on devices without launches.
    fn launches(&self) -> u64 {
        0
    }
    /// The device's own clock, if it is not done when calls return.
    fn timeline(&self) -> Option<Box<dyn Timeline>> {
        None
    }
    /// `to = from` for buffers of equal length, as fast as the device can: what other operations are measured against.
    fn copy(&self, to: &mut Self::Buf, from: &Self::Buf) -> Result<()> {
        to.clone_from(from);
        Ok(())
    }
    /// `words` zeros.
    fn zeros(&self, words: usize) -> Result<Self::Buf>;
    /// Copies host words to the device.
    fn upload(&self, host: Vec<u64>) -> Result<Self::Buf>;
    /// Makes rows of `width` words on the host, in any order: `fill(row, words)` writes every word.
    fn build(
        &self,
        rows: usize,
        width: usize,
        fill: impl Fn(usize, &mut [u64]) + Sync,
    ) -> Result<Self::Buf>;
    /// Copies device words to the host.
    fn download(&self, buf: &Self::Buf) -> Result<Vec<u64>>;
    /// Overwrites with zeros, not to be optimised away. Words that another buffer shares stay, and so may those that
    /// [`Backend::truncate`] cut off: a secret has a buffer of its own and is wiped before it is made shorter.
    fn wipe(&self, buf: &mut Self::Buf);
    /// The rows of `to` out of `a`.
    fn select(&self, a: &View<'_, Self::Buf>, to: Limbs) -> Result<Self::Buf>;
    /// Keeps the first `rows` rows.
    fn truncate(&self, a: &mut Self::Buf, rows: usize) -> Result<()>;

    /// Coefficients to NTT order, every row.
    fn ntt(&self, a: &mut Self::Buf, limbs: Limbs) -> Result<()>;
    /// NTT order to coefficients, every row, normalised.
    fn intt(&self, a: &mut Self::Buf, limbs: Limbs) -> Result<()>;
    /// `a += b`.
    fn add(&self, a: &mut Self::Buf, limbs: Limbs, b: &View<'_, Self::Buf>) -> Result<()>;
    /// `a -= b`.
    fn sub(&self, a: &mut Self::Buf, limbs: Limbs, b: &View<'_, Self::Buf>) -> Result<()>;
    /// `a = -a`.
    fn neg(&self, a: &mut Self::Buf, limbs: Limbs) -> Result<()>;
    /// `a *= b`, word by word.
    fn mul(&self, a: &mut Self::Buf, limbs: Limbs, b: &View<'_, Self::Buf>) -> Result<()>;
    /// `a · b`, word by word, over `limbs`. The body is the definition.
    fn product(
        &self,
        a: &View<'_, Self::Buf>,
        limbs: Limbs,
        b: &View<'_, Self::Buf>,
    ) -> Result<Self::Buf> {
        let mut out = self.select(a, limbs)?;
        self.mul(&mut out, limbs, b)?;
        Ok(out)
    }
    /// `acc += a · b`, word by word.
    fn mul_add(
        &self,
        acc: &mut Self::Buf,
        limbs: Limbs,
        a: &View<'_, Self::Buf>,
        b: &View<'_, Self::Buf>,
    ) -> Result<()>;
    /// `[a0·b0, a0·b1 + a1·b0, a1·b1]`, word by word, over `limbs`. The body is the definition.
    fn tensor(
        &self,
        a: [View<'_, Self::Buf>; 2],
        limbs: Limbs,
        b: [View<'_, Self::Buf>; 2],
    ) -> Result<[Self::Buf; 3]> {
        let ([a0, a1], [b0, b1]) = (a, b);
        let mut middle = self.product(&a0, limbs, &b1)?;
        self.mul_add(&mut middle, limbs, &a1, &b0)?;
        Ok([self.product(&a0, limbs, &b0)?, middle, self.product(&a1, limbs, &b1)?])
    }
    /// Row r times `scalars[r]`.
    fn mul_scalars(&self, a: &mut Self::Buf, limbs: Limbs, scalars: &[u64]) -> Result<()>;
    /// `acc += scalars[r] · a` for the q-rows r of `acc` over `{q, p}`; `a` has these q-rows at least. Special rows stay.
    fn mul_scalars_add(
        &self,
        acc: &mut Self::Buf,
        limbs: Limbs,
        a: &View<'_, Self::Buf>,
        scalars: &[u64],
    ) -> Result<()>;
    /// `start + Σ_i scalars_i[r] · a_i` over `{q, 0}`, row by row; no terms and no start are 0. The body is the definition.
    fn combine(
        &self,
        start: Option<Self::Buf>,
        limbs: Limbs,
        terms: &[Multiple<'_, Self::Buf>],
    ) -> Result<Self::Buf> {
        let (mut sum, rest) = match (start, terms.split_first()) {
            (Some(start), _) => (start, terms),
            (None, Some(((a, scalars), rest))) => {
                let mut first = self.select(a, limbs)?;
                self.mul_scalars(&mut first, limbs, scalars)?;
                (first, rest)
            }
            (None, None) => (self.zeros(0)?, terms),
        };
        for (a, scalars) in rest {
            self.mul_scalars_add(&mut sum, limbs, a, scalars)?;
        }
        Ok(sum)
    }
    /// `scalars[r]` added to every word of row r.
    fn add_scalars(&self, a: &mut Self::Buf, limbs: Limbs, scalars: &[u64]) -> Result<()>;
    /// Times `X^exponent`, `exponent < 2n`, in NTT order.
    fn mul_monomial(&self, a: &mut Self::Buf, limbs: Limbs, exponent: usize) -> Result<()>;
    /// `X -> X^g` in NTT order.
    fn automorphism(
        &self,
        a: &View<'_, Self::Buf>,
        limbs: Limbs,
        g: GaloisElement,
    ) -> Result<Self::Buf>;

    /// Division of `a` over `{q, p}` by the product D of the primes d_i of all rows that go away, q-rows `kept..q` and the
    /// special rows (one at least, kept >= 1), over `{kept, 0}`. NTT order in and out. With h = floor(D / 2),
    /// z = [x + h]_D, y_i = [z · (D/d_i)^-1]_{d_i}, b_i the bits of d_i, c_i = floor(2^(b_i + 50) / d_i) and
    /// u = floor(Σ_i floor(y_i · c_i / 2^b_i) / 2^50), row j is
    /// `(x + h - (Σ_i y_i · (D/d_i) - u · D)) · D^-1 mod q_j`. A single d gives u = 0 and `floor((x + h) / d)`.
    fn divide(&self, a: Self::Buf, limbs: Limbs, kept: usize) -> Result<Self::Buf>;
    /// [`Backend::divide`] of every member of a batch.
    fn divide_many(
        &self,
        polys: Vec<Self::Buf>,
        limbs: Limbs,
        kept: usize,
    ) -> Result<Vec<Self::Buf>> {
        polys.into_iter().map(|a| self.divide(a, limbs, kept)).collect()
    }
    /// `a` over `{1, 0}` extended to `{q, 0}`: row j is x mod q_j, x centred in [-(q_0-1)/2, (q_0-1)/2]. NTT order in
    /// and out; row 0 is copied.
    fn mod_raise(&self, a: &Self::Buf, q: usize) -> Result<Self::Buf>;
    /// The digits of `a` over `{q, 0}` extended to `{q, all special}`. NTT order in and out. For a digit
    /// D = Π q_i, i in [a, b): own rows are copied; any other row with prime r holds `Σ_i y_i · [D/q_i]_r mod r` with
    /// `y_i = [x_i · (D/q_i)^-1]_{q_i}` *centred*, in [-(q_i-1)/2, (q_i-1)/2].
    fn decompose(&self, a: &View<'_, Self::Buf>, q: usize) -> Result<Vec<Self::Buf>>;
    /// `Σ_d digits[d] · keys[d][h]` for both halves h, over `limbs`; keys beyond the digits are ignored.
    fn inner_product(
        &self,
        digits: &[&Self::Buf],
        limbs: Limbs,
        keys: &[[View<'_, Self::Buf>; 2]],
    ) -> Result<[Self::Buf; 2]>;
    /// [`Backend::inner_product`] of every member of a batch.
    fn inner_products(
        &self,
        batch: &[Vec<&Self::Buf>],
        limbs: Limbs,
        keys: &[[View<'_, Self::Buf>; 2]],
    ) -> Result<Vec<[Self::Buf; 2]>> {
        batch.iter().map(|digits| self.inner_product(digits, limbs, keys)).collect()
    }
    /// `φ(P·plus[h] + Σ_d digits[d]·keys[d][h])` for both halves h, see [`KeySwitch`]. The body is the definition.
    fn key_switch(
        &self,
        member: &Member<'_, Self::Buf>,
        switch: &KeySwitch<'_, Self::Buf>,
    ) -> Result<[Self::Buf; 2]> {
        switch.compose(self, member)
    }
    /// [`Backend::key_switch`] of every member of a batch.
    fn key_switch_many(
        &self,
        members: &[Member<'_, Self::Buf>],
        switch: &KeySwitch<'_, Self::Buf>,
    ) -> Result<Vec<[Self::Buf; 2]>> {
        members.iter().map(|member| self.key_switch(member, switch)).collect()
    }
    /// `next[h] + φ(lifted_h + P·plus[h] + Σ_d digits[d]·keys[d][h])` for both halves h, lifted_1 = 0, see [`SwitchSum`].
    /// The body is the definition.
    fn key_switch_sum(
        &self,
        member: &Member<'_, Self::Buf>,
        switch: &KeySwitch<'_, Self::Buf>,
        sum: &SwitchSum<'_, Self::Buf>,
    ) -> Result<[Self::Buf; 2]> {
        switch.compose_sum(self, member, sum)
    }
    /// `Σ_b weights[g][b] · φ_b(pair_b)` for every g and both halves, see [`HoistedSums`]. The body is the definition.
    fn hoisted_sums(&self, sums: &HoistedSums<'_, Self::Buf>) -> Result<Vec<[Self::Buf; 2]>> {
        sums.compose(self)
    }

    /// The m-point transform with root ψ^(n/m) of every row of m words.
    fn subring_ntt(&self, a: &mut Self::Buf, limbs: Limbs, m: usize) -> Result<()>;
    /// `a *= b` where each word of b stands for a run of n/m.
    fn mul_subring(
        &self,
        a: &mut Self::Buf,
        limbs: Limbs,
        b: &View<'_, Self::Buf>,
        m: usize,
    ) -> Result<()>;
    /// `acc += a · b` where each word of b stands for a run of n/m.
    fn mul_subring_add(
        &self,
        acc: &mut Self::Buf,
        limbs: Limbs,
        a: &View<'_, Self::Buf>,
        b: &View<'_, Self::Buf>,
        m: usize,
    ) -> Result<()>;

    /// The buffer inside a storage, or the error that names the two devices.
    fn buf<'a>(&self, op: &'static str, storage: &'a Storage) -> Result<&'a Self::Buf> {
        let rhs = storage.device();
        Self::of(storage).ok_or(Error::DeviceMismatch { op, lhs: self.device(), rhs })
    }
    /// As [`Backend::buf`], mutable.
    fn buf_mut<'a>(&self, op: &'static str, storage: &'a mut Storage) -> Result<&'a mut Self::Buf> {
        let rhs = storage.device();
        Self::of_mut(storage).ok_or(Error::DeviceMismatch { op, lhs: self.device(), rhs })
    }
    /// As [`Backend::buf`], by value.
    fn take(&self, op: &'static str, storage: Storage) -> Result<Self::Buf> {
        let rhs = storage.device();
        Self::into_buf(storage).ok_or(Error::DeviceMismatch { op, lhs: self.device(), rhs })
    }
}

/// A bound backend of any device.
#[derive(Debug)]
pub(crate) enum AnyBackend {
    Cpu(Box<cpu::Cpu>),
    #[cfg(feature = "cuda")]
    Cuda(Box<cuda::Cuda>),
    Reference(reference::Reference),
}

/// A buffer of any device.
#[derive(Clone, Debug)]
pub(crate) enum Storage {
    Cpu(<cpu::Cpu as Backend>::Buf),
    #[cfg(feature = "cuda")]
    Cuda(<cuda::Cuda as Backend>::Buf),
    Reference(<reference::Reference as Backend>::Buf),
}

impl Storage {
    pub(crate) fn device(&self) -> Device {
        match self {
            Storage::Cpu(words) => words.device(),
            #[cfg(feature = "cuda")]
            Storage::Cuda(buf) => buf.device(),
            Storage::Reference(_) => Device::reference(),
        }
    }
}

/// Evaluates an expression with `$b` bound to the ring's concrete backend.
macro_rules! dispatch {
    ($ring:expr, |$b:ident| $body:expr) => {
        match &$ring.backend {
            $crate::backend::AnyBackend::Cpu($b) => {
                let $b = &**$b;
                $body
            }
            #[cfg(feature = "cuda")]
            $crate::backend::AnyBackend::Cuda($b) => {
                let $b = &**$b;
                $body
            }
            $crate::backend::AnyBackend::Reference($b) => $body,
        }
    };
}
pub(crate) use dispatch;

/// The parts of [`Backend`] that only move a buffer in and out of its [`Storage`] variant.
macro_rules! storage_variant {
    ($variant:ident) => {
        fn of(storage: &Storage) -> Option<&Self::Buf> {
            if let Storage::$variant(buf) = storage { Some(buf) } else { None }
        }
        fn of_mut(storage: &mut Storage) -> Option<&mut Self::Buf> {
            if let Storage::$variant(buf) = storage { Some(buf) } else { None }
        }
        fn into_buf(storage: Storage) -> Option<Self::Buf> {
            if let Storage::$variant(buf) = storage { Some(buf) } else { None }
        }
        fn store(buf: Self::Buf) -> Storage {
            Storage::$variant(buf)
        }
    };
}
pub(crate) use storage_variant;
