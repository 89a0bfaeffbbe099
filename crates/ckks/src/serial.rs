//! The byte format of ciphertexts and keys, version 2. Integers are little-endian.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | magic `CFRM` |
//! | 2 | format version |
//! | 1 | kind: 1 ciphertext, 2 evaluation key, 3 public key |
//! | 1 | flags: bit 0 the last polynomial is a seed, bit 1 insecure parameters; others 0 |
//! | 32 | fingerprint of the parameter set |
//! | 32 | name of the secret key, see [`SecretId`] |
//! | ciphertext: 2, 1, 8 | level, degree (1 or 2), scale as f64 |
//! | evaluation key: 1, 8, 2 | kind, amount (0 but for rotations), level |
//! | | kinds: 0 relinearization, 1 rotation, 2 conjugation, 3 dense to sparse, 4 sparse to dense, 5 hand-over |
//! | 32 | seed, if the flag says so; keys are always seeded |
//! | rest | polynomials; each its limbs; each limb n residues packed at the bit length of its prime |
//!
//! Readers know the exact length from the parameter set and the fixed fields, and compare it with what they were
//! given *before* they allocate. Every residue is checked against its prime. There is no checksum: integrity is the
//! transport's, and a flipped bit inside a residue that stays below its prime is just another ciphertext.

use crate::bits::{pack, packed_len, unpack};
use crate::ciphertext::Ciphertext;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::params::Parameters;
use crate::rlwe::{CIPHERTEXT_DOMAIN, KeyKind, KeySpec, PublicKey, SecretId, SeededKey};
use cipherform_ring::{Limbs, Ring, RingPoly, sample};
use rayon::prelude::*;
use std::sync::Arc;

const MAGIC: [u8; 4] = *b"CFRM";
const VERSION: u16 = 2;
const HEADER_LEN: usize = 40 + SecretId::LEN;
const SEED_LEN: usize = 32;

const SEEDED: u8 = 1;
const TOY: u8 = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ciphertext = 1,
    EvaluationKey = 2,
    PublicKey = 3,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ciphertext => "ciphertext",
            Self::EvaluationKey => "evaluation key",
            Self::PublicKey => "public key",
        }
    }
}

/// Bit length of a prime.
fn bit_length(p: u64) -> u32 {
    u64::BITS - p.leading_zeros()
}

/// The primes of some limbs, in the order of the rows.
fn primes(params: &Parameters, limbs: Limbs) -> Vec<u64> {
    let special = params.special().iter().take(limbs.p);
    params.q().iter().take(limbs.q).chain(special).copied().collect()
}

/// Bytes of one packed polynomial.
fn poly_len(params: &Parameters, limbs: Limbs) -> usize {
    primes(params, limbs).into_iter().map(|p| packed_len(params.n(), bit_length(p))).sum()
}

fn write_header(
    params: &Parameters,
    secret: SecretId,
    kind: Kind,
    seeded: bool,
    capacity: usize,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    let toy = if params.is_toy() { TOY } else { 0 };
    out.extend([kind as u8, toy | if seeded { SEEDED } else { 0 }]);
    out.extend(params.fingerprint());
    out.extend(secret.0);
    out
}

fn write_poly(params: &Parameters, poly: &RingPoly, out: &mut Vec<u8>) -> Result<()> {
    let words = poly.to_residues()?;
    for (row, p) in words.chunks_exact(params.n()).zip(primes(params, poly.limbs())) {
        pack(row, bit_length(p), out);
    }
    Ok(())
}

/// Reads fields from the front of a byte string.
struct Reader<'a> {
    kind: Kind,
    params: &'a Parameters,
    total: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn malformed(&self, detail: impl Into<String>) -> Error {
        Error::Malformed { what: self.kind.name(), detail: detail.into() }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((field, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(
                self.malformed(format!("it ends inside its fields, at {} bytes", self.total))
            );
        };
        self.rest = rest;
        Ok(*field)
    }

    /// Opens a byte string and checks its header; returns the name of its secret and whether it is seeded.
    fn open(kind: Kind, params: &'a Parameters, bytes: &'a [u8]) -> Result<(Self, SecretId, bool)> {
        let mut reader = Self { kind, params, total: bytes.len(), rest: bytes };
        if reader.take::<4>()? != MAGIC {
            return Err(reader.malformed("it does not start with CFRM"));
        }
        let version = u16::from_le_bytes(reader.take()?);
        if version != VERSION {
            return Err(reader.malformed(format!("format version {version}; this is {VERSION}")));
        }
        let [found, flags] = reader.take()?;
        if found != kind as u8 {
            return Err(reader.malformed(format!("it is an object of kind {found}")));
        }
        if flags & !(SEEDED | TOY) != 0 {
            return Err(reader.malformed(format!("unknown flags {flags:#04x}")));
        }
        let fingerprint: [u8; 32] = reader.take()?;
        if fingerprint != params.fingerprint() {
            let [a, b, c, d, ..] = fingerprint;
            let got = format!("{a:02x}{b:02x}{c:02x}{d:02x}");
            return Err(Error::ParameterMismatch { op: "read", expected: params.label(), got });
        }
        if (flags & TOY != 0) != params.is_toy() {
            return Err(reader.malformed("its insecurity flag contradicts its parameter set"));
        }
        let secret = SecretId(reader.take()?);
        Ok((reader, secret, flags & SEEDED != 0))
    }

    fn level(&mut self) -> Result<usize> {
        let level = usize::from(u16::from_le_bytes(self.take()?));
        self.params.require_level("read", level)?;
        Ok(level)
    }

    /// The exact length is known by now.
    fn check_len(&self, expected: usize) -> Result<()> {
        if self.total == expected {
            return Ok(());
        }
        Err(self.malformed(format!("it has {} bytes instead of {expected}", self.total)))
    }

    /// One polynomial. The length was checked; a missing byte is an error all the same.
    fn poly(&mut self, ring: &Arc<Ring>, limbs: Limbs) -> Result<RingPoly> {
        let n = self.params.n();
        let mut rows = Vec::with_capacity(limbs.rows());
        for p in primes(self.params, limbs) {
            let bits = bit_length(p);
            let Some((row, rest)) = self.rest.split_at_checked(packed_len(n, bits)) else {
                return Err(self.malformed("it ends inside a polynomial"));
            };
            self.rest = rest;
            rows.push((row, bits));
        }
        let mut words = vec![0; limbs.rows() * n];
        words
            .par_chunks_exact_mut(n)
            .zip(&rows)
            .for_each(|(out, &(row, bits))| unpack(row, bits, out));
        RingPoly::from_residues(ring, limbs, words).map_err(|e| self.malformed(e.to_string()))
    }
}

impl Ciphertext {
    /// Exact number of bytes of a serialised ciphertext; `seeded` as [`Ciphertext::is_seeded`].
    #[must_use]
    pub fn serialized_len(params: &Parameters, level: usize, degree: usize, seeded: bool) -> usize {
        let poly = poly_len(params, Limbs::q(params.limbs_at(level)));
        let (polys, seed) = if seeded { (degree, SEED_LEN) } else { (degree + 1, 0) };
        HEADER_LEN + 11 + seed + polys * poly
    }

    /// Serialises; a seeded ciphertext without its second half.
    ///
    /// # Errors
    /// [`Error::Ring`] for an error of the device.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let (params, seeded) = (&self.params, self.seed.is_some());
        let len = Self::serialized_len(params, self.level, self.degree(), seeded);
        let mut out = write_header(params, self.secret, Kind::Ciphertext, seeded, len);
        out.extend((self.level as u16).to_le_bytes());
        out.push(self.degree() as u8);
        out.extend(self.scale.to_le_bytes());
        let last = match &self.seed {
            Some(seed) => {
                out.extend(seed);
                1
            }
            None => self.polys.len(),
        };
        for poly in self.polys.iter().take(last) {
            write_poly(params, poly, &mut out)?;
        }
        Ok(out)
    }

    /// Reads a ciphertext of the context's parameter set. Every byte is checked; nothing is allocated before the
    /// length is known to be right.
    ///
    /// # Errors
    /// [`Error::Malformed`]; [`Error::ParameterMismatch`]; [`Error::LevelTooHigh`].
    pub fn from_bytes(ctx: &Context, bytes: &[u8]) -> Result<Self> {
        let params = ctx.params();
        let (mut reader, secret, seeded) = Reader::open(Kind::Ciphertext, params, bytes)?;
        let level = reader.level()?;
        let [degree] = reader.take()?;
        let degree = usize::from(degree);
        if !(1..=2).contains(&degree) || (seeded && degree != 1) {
            return Err(reader.malformed(format!("degree {degree}")));
        }
        let scale = f64::from_le_bytes(reader.take()?);
        if !(scale.is_normal() && scale > 0.0 && scale.log2() < params.log2_q_at(level)) {
            return Err(reader.malformed(format!("scale {scale:e}")));
        }
        reader.check_len(Self::serialized_len(params, level, degree, seeded))?;
        let limbs = ctx.limbs(level);
        let seed = if seeded { Some(reader.take::<SEED_LEN>()?) } else { None };
        let stored = if seeded { degree } else { degree + 1 };
        let mut polys = Vec::with_capacity(degree + 1);
        for _ in 0..stored {
            polys.push(reader.poly(ctx.ring(), limbs)?);
        }
        if let Some(seed) = &seed {
            polys.push(sample::uniform(ctx.ring(), limbs, seed, CIPHERTEXT_DOMAIN)?);
        }
        Ok(Self { params: params.clone(), secret, level, scale, polys, seed })
    }
}

impl SeededKey {
    /// Exact number of bytes of a serialised key, 0 for a level above the set.
    #[must_use]
    pub fn serialized_len(params: &Parameters, spec: KeySpec) -> usize {
        if spec.level > params.max_level() {
            return 0;
        }
        let poly = poly_len(params, spec.limbs(params));
        HEADER_LEN + 11 + SEED_LEN + spec.digits(params).len() * poly
    }

    /// Serialises: the seed and one polynomial a digit.
    ///
    /// # Errors
    /// [`Error::Ring`] for an error of the device.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let params = &self.params;
        let len = Self::serialized_len(params, self.spec);
        let mut out = write_header(params, self.secret, Kind::EvaluationKey, true, len);
        let (kind, amount) = match self.spec.kind {
            KeyKind::Relinearization => (0, 0),
            KeyKind::Rotation(k) => (1, k),
            KeyKind::Conjugation => (2, 0),
            KeyKind::DenseToSparse => (3, 0),
            KeyKind::SparseToDense => (4, 0),
            KeyKind::HandOver => (5, 0),
        };
        out.push(kind);
        out.extend(amount.to_le_bytes());
        out.extend((self.spec.level as u16).to_le_bytes());
        out.extend(self.seed);
        for poly in &self.b {
            write_poly(params, poly, &mut out)?;
        }
        Ok(out)
    }

    /// Reads a key of the context's parameter set. Every byte is checked; nothing is allocated before the length is
    /// known to be right.
    ///
    /// # Errors
    /// [`Error::Malformed`]; [`Error::ParameterMismatch`]; [`Error::LevelTooHigh`]; [`Error::Insecure`].
    pub fn from_bytes(ctx: &Context, bytes: &[u8]) -> Result<Self> {
        let params = ctx.params();
        let (mut reader, secret, seeded) = Reader::open(Kind::EvaluationKey, params, bytes)?;
        if !seeded {
            return Err(reader.malformed("keys are always seeded"));
        }
        let [kind] = reader.take()?;
        let amount = i64::from_le_bytes(reader.take()?);
        let kind = match (kind, amount) {
            (0, 0) => KeyKind::Relinearization,
            (1, k) if k > 0 && k < params.slots() as i64 => KeyKind::Rotation(k),
            (2, 0) => KeyKind::Conjugation,
            (3, 0) if params.bootstrapping().is_some() => KeyKind::DenseToSparse,
            (4, 0) if params.bootstrapping().is_some() => KeyKind::SparseToDense,
            (5, 0) => KeyKind::HandOver,
            _ => return Err(reader.malformed(format!("kind {kind} with amount {amount}"))),
        };
        let level = reader.level()?;
        let spec = KeySpec { kind, level };
        spec.check_modulus(params)?;
        reader.check_len(Self::serialized_len(params, spec))?;
        let seed = reader.take()?;
        let (ring, limbs) = (ctx.key_ring(kind)?, spec.limbs(params));
        let digits = spec.digits(params);
        let b = digits.iter().map(|_| reader.poly(ring, limbs)).collect::<Result<_>>()?;
        Ok(Self { params: params.clone(), secret, spec, seed, b })
    }
}

impl PublicKey {
    /// Exact number of bytes of a serialised public key.
    #[must_use]
    pub fn serialized_len(params: &Parameters) -> usize {
        HEADER_LEN + SEED_LEN + poly_len(params, params.key_limbs_at(params.max_level()))
    }

    /// Serialises: the seed and one polynomial.
    ///
    /// # Errors
    /// [`Error::Ring`] for an error of the device.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let params = &self.params;
        let mut out =
            write_header(params, self.secret, Kind::PublicKey, true, Self::serialized_len(params));
        out.extend(self.seed);
        write_poly(params, &self.b, &mut out)?;
        Ok(out)
    }

    /// Reads a public key of the context's parameter set. Every byte is checked; nothing is allocated before the
    /// length is known to be right.
    ///
    /// # Errors
    /// [`Error::Malformed`]; [`Error::ParameterMismatch`]; [`Error::Insecure`].
    pub fn from_bytes(ctx: &Context, bytes: &[u8]) -> Result<Self> {
        let params = ctx.params();
        let (mut reader, secret, seeded) = Reader::open(Kind::PublicKey, params, bytes)?;
        if !seeded {
            return Err(reader.malformed("keys are always seeded"));
        }
        reader.check_len(Self::serialized_len(params))?;
        let seed = reader.take()?;
        let b = reader.poly(ctx.ring(), ctx.key_limbs(params.max_level()))?;
        Self::from_parts(ctx, secret, seed, b)
    }
}
