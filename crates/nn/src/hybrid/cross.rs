//! One crossing: a ciphertext to shares, a circuit on them, a ciphertext again.

use crate::error::{Error, Result};
use crate::program::{Crossing, Function};
use cipherform_ckks::{
    Ciphertext, Context, Encryptor, Evaluator, Parameters, Plaintext, PublicKey, Seam, SecretKey,
};
use cipherform_mpc::{Builder, Circuit, Joint, Knots, NoDealerCost, NoDealerPlan, ops};
use cipherform_profile::primitive;
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, Rng as _, SeedableRng as _};
use zeroize::Zeroizing;

/// Bits of probability with which shares of all elements of a crossing become the ciphertext's integers without a wrap.
const WRAP_BITS: f64 = 30.0;

/// Fraction bits of elements that pass as they are, and of results of functions, where there is room.
const PASSED: u32 = 26;
const COMPUTED: u32 = 18;

/// Lines an octave: a relative error of 2.5e-4 for reciprocals, 1e-4 for inverse roots.
const PER_OCTAVE: usize = 16;

/// Fraction bits of a function's input beyond those that its lowest value has.
const INPUT_BITS: f64 = 12.0;

/// Fraction bits of what the lines give.
const LINES: u32 = 34;

/// Bytes of the seed that makes shares uniform.
const SEED: usize = 32;

/// A crossing at its place in a plan, as both parties know it: shapes, levels, scales and bounds, no values.
#[derive(Clone, Debug)]
pub struct Passage {
    /// What is read, computed and written.
    pub crossing: Crossing,
    /// What computes it: a circuit with one shared input and one kept output; `None` passes elements as they are.
    pub circuit: Option<Circuit>,
    /// Level and scale of the ciphertext that enters.
    pub entry: (usize, f64),
    /// Level and scale of the ciphertext that leaves.
    pub exit: (usize, f64),
    /// Fraction bits of the elements, in and out.
    pub fractions: (u32, u32),
}

impl Passage {
    /// Finds fraction bits and the circuit.
    ///
    /// # Errors
    /// `Mpc` for a range that the gates do not have.
    pub fn new(crossing: Crossing, entry: (usize, f64), exit: (usize, f64)) -> Result<Self> {
        let count = crossing.parts.read.len();
        let (circuit, fractions) = match crossing.function {
            Function::Identity => {
                let f = Self::fraction(count, crossing.log2_bound, PASSED);
                (None, (f, f))
            }
            Function::InverseRoot { low } => {
                let out = Self::fraction(count, -low.log2() / 2.0, COMPUTED);
                let (circuit, f) = function_circuit(&crossing, low, out)?;
                (Some(circuit), (f, out))
            }
            Function::Reciprocal { low } => {
                let out = Self::fraction(count, -low.log2(), COMPUTED);
                let (circuit, f) = function_circuit(&crossing, low, out)?;
                (Some(circuit), (f, out))
            }
        };
        Ok(Self { crossing, circuit, entry, exit, fractions })
    }

    /// The row of a report.
    #[must_use]
    pub fn name(&self) -> &'static str {
        name(self.crossing.function)
    }

    /// Fraction bits that leave values below `2^log2_bound` of `count` elements 30 bits of probability not to wrap modulo 2^64, at most `wanted`.
    #[must_use]
    pub fn fraction(count: usize, log2_bound: f64, wanted: u32) -> u32 {
        let room = 64.0 - WRAP_BITS - (count.max(1) as f64).log2() - log2_bound;
        wanted.min(room.floor().max(0.0) as u32)
    }

    /// Level at which the masked ciphertext travels.
    fn level(&self, params: &Parameters) -> Result<usize> {
        Ok(Seam::level(params, self.entry.1, self.crossing.log2_bound, self.entry.0)?)
    }

    /// What the circuit sends; nothing for none.
    ///
    /// # Errors
    /// As [`NoDealerPlan::new`].
    pub fn circuit_cost(&self) -> Result<NoDealerCost> {
        Ok(match &self.circuit {
            Some(circuit) => NoDealerPlan::new(circuit)?.cost(),
            None => NoDealerCost::default(),
        })
    }

    /// Bytes of the two messages of the seam, without the circuit's: from the server, from the client.
    ///
    /// # Errors
    /// `LevelExhausted` of the scheme when the ciphertext enters too low.
    pub fn seam_bytes(&self, params: &Parameters) -> Result<[u64; 2]> {
        let down = Ciphertext::serialized_len(params, self.level(params)?, 1, false);
        let up = SEED + Ciphertext::serialized_len(params, self.exit.0, 1, true);
        Ok([down as u64, up as u64])
    }

    /// The shares of the elements among shares of slots.
    fn gather(&self, words: &[[u64; 2]]) -> Zeroizing<Vec<u64>> {
        let part = |&at: &u32| words.get(at as usize / 2).map_or(0, |w| w[at as usize % 2]);
        Zeroizing::new(self.crossing.parts.read.iter().map(part).collect())
    }

    /// The shares of slots: `sign` times the common pseudorandom words, added to the elements, in every part that receives one.
    fn scatter(
        &self,
        elements: &[u64],
        seed: &[u8; SEED],
        sign: u64,
        slots: usize,
    ) -> Zeroizing<Vec<[u64; 2]>> {
        let mut stream = ChaCha20Rng::from_seed(*seed);
        let uniform: Vec<u64> =
            elements.iter().map(|x| x.wrapping_add(sign.wrapping_mul(stream.next_u64()))).collect();
        let mut words = Zeroizing::new(vec![[0; 2]; slots]);
        for &(part, element) in &self.crossing.parts.write {
            if let (Some(slot), Some(x)) =
                (words.get_mut(part as usize / 2), uniform.get(element as usize))
            {
                slot[part as usize % 2] = *x;
            }
        }
        words
    }

    fn through(
        &self,
        joint: &mut Joint<'_>,
        elements: Zeroizing<Vec<u64>>,
    ) -> Result<Zeroizing<Vec<u64>>> {
        let Some(circuit) = &self.circuit else { return Ok(elements) };
        let plan = NoDealerPlan::new(circuit)?;
        let kept = joint.run(&plan, &[elements.to_vec()])?.pop();
        let kept = kept.filter(|kept| !kept.is_empty()).ok_or_else(|| Error::Planner {
            op: "crossing",
            detail: "its circuit keeps no shares".into(),
        })?;
        Ok(Zeroizing::new(kept))
    }
}

/// The row of a report.
fn name(function: Function) -> &'static str {
    match function {
        Function::Identity => "cross.refresh",
        Function::InverseRoot { .. } => "cross.inverse_root",
        Function::Reciprocal { .. } => "cross.reciprocal",
    }
}

/// A function on [low, 1] between knots: open, lines, lift. With the input's fraction bits.
fn function_circuit(crossing: &Crossing, low: f64, output: u32) -> Result<(Circuit, u32)> {
    let (function, count) = (crossing.function, crossing.parts.read.len());
    let f = |u: f64| function.evaluate(u);
    let input = (INPUT_BITS - low.log2()).ceil().max(f64::from(COMPUTED)) as u32;
    // Whole octaves, so that the last knot is 1; the last line goes on to 2.
    let bottom = low.log2().floor().exp2();
    let knots = Knots::fit(f, (bottom, 1.0), PER_OCTAVE, (input + 2, input), LINES)?;
    let mut b = Builder::new();
    b.operator(name(function), "");
    let x = b.shared(&[count], input, 1.0)?;
    let opened = b.open(x)?;
    let lines = b.knots(opened, &knots)?;
    let y = ops::lift_to(&mut b, lines, output)?;
    b.keep(y);
    Ok((b.build(), input))
}

/// What either side of a crossing needs beside the plan.
#[derive(Debug)]
pub(super) struct Side<'a> {
    context: &'a Context,
    seam: Seam,
}

impl<'a> Side<'a> {
    /// Precomputes the seam's transform.
    #[must_use]
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, seam: Seam::new(context) }
    }

    /// The server's part:
    ///
    /// 1. mask the ciphertext and send it (server to client);
    /// 2. run the circuit on the own half of the elements;
    /// 3. receive the client's encrypted share with the seed of the common words, take them from the own share and add it.
    ///
    /// # Errors
    /// `WrongInputs` for a ciphertext at another level or scale than the plan's, from either side; errors of the scheme and of the link.
    pub(super) fn server<R: CryptoRng + ?Sized>(
        &self,
        passage: &Passage,
        ciphertext: &Ciphertext,
        public: &PublicKey,
        joint: &mut Joint<'_>,
        rng: &mut R,
    ) -> Result<Ciphertext> {
        let context = self.context;
        check("enters", ciphertext, passage.entry)?;
        // Values times a factor are the same integers at another scale.
        let mut entering = ciphertext.clone();
        entering.reinterpret_scale(passage.entry.1)?;
        let (masked, half) = self.seam.mask(&entering, public, passage.crossing.log2_bound, rng)?;
        joint.send(&masked.to_bytes()?)?;
        let words = self.seam.words(&half, passage.crossing.factor_in, passage.fractions.0)?;
        let elements = passage.through(joint, passage.gather(&words))?;
        let (level, _) = passage.exit;
        let expected = SEED + Ciphertext::serialized_len(context.params(), level, 1, true);
        let message = joint.receive(expected)?;
        let Some((seed, bytes)) = message.split_first_chunk::<SEED>() else {
            return Err(Error::WrongInputs { detail: "a crossing without a seed".into() });
        };
        let mut fresh = Ciphertext::from_bytes(context, bytes)?;
        check("returns", &fresh, passage.exit)?;
        let _span = primitive("own share");
        let own = self.share(passage, &elements, seed, u64::MAX)?;
        Evaluator::new(context).add_plain_assign(&mut fresh, &own)?;
        Ok(fresh)
    }

    /// A party's share as a plaintext that the ciphertext is made of, the common seed's words added `sign` times.
    fn share(
        &self,
        passage: &Passage,
        elements: &[u64],
        seed: &[u8; SEED],
        sign: u64,
    ) -> Result<Plaintext> {
        let (level, scale) = passage.exit;
        let own = passage.scatter(elements, seed, sign, self.context.params().slots());
        let (fraction, factor) = (passage.fractions.1, passage.crossing.factor_out);
        Ok(self.seam.plaintext(&own, fraction, factor, level, scale)?)
    }

    /// The client's part, the mirror image: decrypts what it receives to its half, runs the circuit, encrypts its share.
    ///
    /// # Errors
    /// As [`Side::server`].
    pub(super) fn client<R: CryptoRng + ?Sized>(
        &self,
        passage: &Passage,
        secret: &SecretKey,
        joint: &mut Joint<'_>,
        rng: &mut R,
    ) -> Result<()> {
        let context = self.context;
        let params = context.params();
        let at = passage.level(params)?;
        let message = joint.receive(Ciphertext::serialized_len(params, at, 1, false))?;
        let masked = Ciphertext::from_bytes(context, &message)?;
        check("arrives", &masked, (at, passage.entry.1))?;
        let half = self.seam.open(&masked, secret)?;
        let words = self.seam.words(&half, passage.crossing.factor_in, passage.fractions.0)?;
        let elements = passage.through(joint, passage.gather(&words))?;
        let mut seed = [0; SEED];
        rng.fill_bytes(&mut seed);
        let own = self.share(passage, &elements, &seed, 1)?;
        let fresh = Encryptor::with_secret_key(context, secret)?.encrypt(&own, rng)?;
        let mut message = seed.to_vec();
        message.extend(fresh.to_bytes()?);
        Ok(joint.send(&message)?)
    }
}

/// Refuses a ciphertext at another level or scale than the plan's.
fn check(what: &str, c: &Ciphertext, (level, scale): (usize, f64)) -> Result<()> {
    // Rounding of the tracked scale, as where the evaluator compares scales.
    if c.level() == level && (c.scale() / scale - 1.0).abs() < 2f64.powi(-40) && c.degree() == 1 {
        return Ok(());
    }
    Err(Error::WrongInputs {
        detail: format!(
            "what {what} a crossing is at level {level} with scale 2^{:.3} and degree 1, got level {}, 2^{:.3}, {}",
            scale.log2(),
            c.level(),
            c.scale().log2(),
            c.degree()
        ),
    })
}
