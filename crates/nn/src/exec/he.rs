//! Runs a program on ciphertexts.

use crate::error::{Error, Result};
use crate::exec::Machine;
use crate::program::{Constant, ConstantId, Instruction, Opcode, Program};
use cipherform_ckks::{
    Basis, BootstrapKind, BootstrapOptions, Bootstrapper, Ciphertext, Context, Encoder,
    EvaluationKeys, Evaluator, Plaintext, Polynomial,
};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A program bound to a context: constants encoded, polynomials planned. Made once, shared by all runs.
#[derive(Debug)]
pub struct Encoded {
    evaluator: Evaluator,
    plaintexts: Vec<Plaintext>,
    polynomials: Vec<Polynomial>,
    bootstrapper: Option<Bootstrapper>,
}

/// Encoded constants that stand in place of some of a program's, by index.
#[derive(Debug)]
pub(crate) struct Replaced(BTreeMap<u32, Plaintext>);

impl Encoded {
    /// Encodes every constant at its level and scale, and the diagonals of bootstraps. Memory is the caller's to check
    /// ([`crate::estimate::DeviceBytes`]).
    ///
    /// # Errors
    /// When a constant does not fit its modulus, or the set cannot bootstrap as the program asks.
    pub fn new(program: &Program, context: &Context) -> Result<Self> {
        let encoder = Encoder::new(context);
        let plaintexts = program
            .constants()
            .iter()
            .map(|c| encoder.encode(&c.values, c.level, c.scale))
            .collect::<Result<_, _>>()?;
        let polynomials = program
            .polynomials()
            .iter()
            .map(|c| Polynomial::new(Basis::Chebyshev, c.clone()))
            .collect::<Result<_, _>>()?;
        // Whoever asks has planned the memory of the whole program.
        let unlimited = |options| BootstrapOptions { memory_limit: Some(u64::MAX), ..options };
        let bootstrapper = program
            .refresh()
            .map(|options| Bootstrapper::new(context, unlimited(options)))
            .transpose()?;
        Ok(Self { evaluator: Evaluator::new(context), plaintexts, polynomials, bootstrapper })
    }

    /// What evaluates in its context.
    pub(crate) fn evaluator(&self) -> &Evaluator {
        &self.evaluator
    }

    /// The constants of `other` that differ from those of `program`, which has the same instructions.
    pub(crate) fn replaced(
        program: &Program,
        other: &Program,
        context: &Context,
    ) -> Result<Replaced> {
        let encoder = Encoder::new(context);
        let pairs = program.constants().iter().zip(other.constants());
        let differ = (0..).zip(pairs).filter(|(_, (a, b))| a.values != b.values);
        let encode = |(index, (_, c)): (u32, (_, &Constant))| {
            Ok((index, encoder.encode(&c.values, c.level, c.scale)?))
        };
        Ok(Replaced(differ.map(encode).collect::<Result<_>>()?))
    }

    /// Bytes that the encoded constants occupy.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let diagonals = self.bootstrapper.as_ref().map_or(0, |b| b.estimate().diagonal_bytes);
        self.plaintexts.iter().map(Plaintext::bytes).sum::<u64>() + diagonals
    }
}

/// The machine whose registers are ciphertexts.
pub struct Encrypted<'a> {
    encoded: &'a Encoded,
    replaced: Option<&'a Replaced>,
    keys: &'a EvaluationKeys,
    inputs: Vec<Option<Ciphertext>>,
    cross: Option<Cross<'a>>,
}

/// Leads a ciphertext through the crossing of this index, with the client.
pub(crate) type Cross<'a> = Box<dyn FnMut(usize, &Ciphertext) -> Result<Ciphertext> + 'a>;

impl std::fmt::Debug for Encrypted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encrypted").field("encoded", &self.encoded).finish_non_exhaustive()
    }
}

impl<'a> Encrypted<'a> {
    /// Takes the client's ciphertexts in the order of the plan's inputs.
    #[must_use]
    pub fn new(encoded: &'a Encoded, keys: &'a EvaluationKeys, inputs: Vec<Ciphertext>) -> Self {
        let inputs = inputs.into_iter().map(Some).collect();
        Self { encoded, replaced: None, keys, inputs, cross: None }
    }

    /// Of a program that crosses to shares.
    pub(crate) fn crossing(self, cross: Cross<'a>) -> Self {
        Self { cross: Some(cross), ..self }
    }

    /// With other constants in place of some.
    pub(crate) fn with(self, replaced: Option<&'a Replaced>) -> Self {
        Self { replaced, ..self }
    }
}

impl Machine for Encrypted<'_> {
    type Value = Ciphertext;

    fn run(
        &mut self,
        instruction: &Instruction,
        args: Vec<Rc<Ciphertext>>,
    ) -> Result<Vec<Ciphertext>> {
        let e = &self.encoded.evaluator;
        let keys = self.keys;
        let plaintext = |id: &ConstantId| {
            let replaced = self.replaced.and_then(|r| r.0.get(&id.0));
            replaced.unwrap_or(&self.encoded.plaintexts[id.0 as usize])
        };
        let mut args = args.into_iter();
        let mut next = || args.next().ok_or(Error::Planner { op: "run", detail: MISSING.into() });
        let out = match &instruction.op {
            Opcode::Input(index) => {
                let input = self.inputs.get_mut(*index).and_then(Option::take);
                input.ok_or(Error::Planner { op: "run", detail: MISSING.into() })?
            }
            Opcode::Rotate(by) => e.rotate(&*next()?, *by, keys)?,
            Opcode::HoistedRotations(amounts) => {
                return Ok(e.hoisted_rotations(&*next()?, amounts, keys)?);
            }
            Opcode::Conjugate => e.conjugate(&*next()?, keys)?,
            Opcode::SumRotated(amounts) => {
                let terms: Vec<Rc<Ciphertext>> = args.collect();
                let terms: Vec<(&Ciphertext, i64)> =
                    terms.iter().map(Rc::as_ref).zip(amounts.iter().copied()).collect();
                return Ok(vec![e.sum_rotated(&terms, keys)?]);
            }
            Opcode::MulImaginary(1) => e.mul_i(&*next()?)?,
            Opcode::MulImaginary(power) => {
                // i^3 = -i, i^2 = -1.
                let mut out = owned(next()?);
                for _ in 1..(*power % 4) {
                    out = e.mul_i(&out)?;
                }
                e.mul_i(&out)?
            }
            Opcode::Add => {
                let mut a = owned(next()?);
                e.add_assign(&mut a, &*next()?)?;
                a
            }
            Opcode::Sub => {
                let mut a = owned(next()?);
                e.sub_assign(&mut a, &*next()?)?;
                a
            }
            Opcode::AddPlain(id) => {
                let mut a = owned(next()?);
                e.add_plain_assign(&mut a, plaintext(id))?;
                a
            }
            Opcode::AddNumber(x) => e.add_constant(&*next()?, *x)?,
            Opcode::DotPlain(ids) => {
                let first = next()?;
                let mut ids = ids.iter().map(plaintext);
                let start =
                    ids.next().ok_or(Error::Planner { op: "run", detail: MISSING.into() })?;
                let mut sum = e.mul_plain(&first, start)?;
                for p in ids {
                    e.mul_plain_add_assign(&mut sum, &*next()?, p)?;
                }
                sum
            }
            Opcode::MulInteger(k) => e.mul_integer(&*next()?, *k)?,
            Opcode::Tensor => e.mul(&*next()?, &*next()?)?,
            Opcode::Relinearize => e.relinearize(&*next()?, keys)?,
            Opcode::Rescale => e.rescale(owned(next()?))?,
            Opcode::SetLevel { level, factor } => {
                // The factor is a change of what the words mean: value times factor at scale over factor.
                let mut a = owned(next()?);
                a.reinterpret_scale(a.scale() / factor)?;
                e.set_level(&a, *level)?
            }
            Opcode::Polynomial(id) => {
                e.polynomial(&*next()?, &self.encoded.polynomials[id.0 as usize], keys)?
            }
            Opcode::Cross(id) => {
                let cross = self.cross.as_mut();
                let cross = cross.ok_or(Error::Planner { op: "run", detail: NO_CLIENT.into() })?;
                cross(id.0 as usize, &*next()?)?
            }
            Opcode::Refresh(kind) => {
                let b = self.encoded.bootstrapper.as_ref();
                let b = b.ok_or(Error::Planner { op: "run", detail: "no bootstrapper".into() })?;
                match kind {
                    BootstrapKind::Complex => b.bootstrap(&*next()?, keys)?,
                    BootstrapKind::Real => b.bootstrap_real(&*next()?, keys)?,
                    BootstrapKind::RealPair => {
                        return Ok(b.bootstrap_pair(&*next()?, &*next()?, keys)?.into());
                    }
                }
            }
        };
        Ok(vec![out])
    }
}

const NO_CLIENT: &str = "the program crosses to shares; run it with a client";
const MISSING: &str = "an operand is missing";

fn owned(a: Rc<Ciphertext>) -> Ciphertext {
    Rc::unwrap_or_clone(a)
}
