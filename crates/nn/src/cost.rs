//! What a program will cost, before any key exists: the same counters that the evaluator reports, from the scheme's own
//! formulas; and the keys and memory it needs.

use crate::error::Result;
use crate::program::{Instruction, Opcode, Program};
use cipherform_ckks::{Basis, BootstrapEstimate, KeyKind, KeySpec, Parameters, Polynomial, cost};
use cipherform_profile::{Cost, Counter};
use std::collections::BTreeMap;

/// What is known of the bootstraps of a program; `None` if it has none.
///
/// # Errors
/// When the set cannot bootstrap as the program asks.
pub fn bootstrap_estimate(
    params: &Parameters,
    program: &Program,
) -> Result<Option<BootstrapEstimate>> {
    Ok(program.refresh().map(|options| BootstrapEstimate::new(params, options)).transpose()?)
}

/// How many of these amounts rotate at all.
pub(crate) fn moved(slots: usize, amounts: &[i64]) -> u64 {
    amounts.iter().filter(|by| by.rem_euclid(slots as i64) != 0).count() as u64
}

/// The cost of one instruction of a program whose bootstraps are as estimated.
///
/// # Errors
/// When a polynomial of the program cannot be planned at its level.
pub fn instruction_cost(
    params: &Parameters,
    bootstrap: Option<&BootstrapEstimate>,
    program: &Program,
    instruction: &Instruction,
) -> Result<Cost> {
    let arg = instruction.args.first().map(|&r| program.meta(r));
    let level = arg.map_or(0, |m| m.level);
    let degree = arg.map_or(1, |m| m.degree);
    Ok(match &instruction.op {
        Opcode::Input(_)
        | Opcode::MulImaginary(_)
        | Opcode::Add
        | Opcode::Sub
        | Opcode::AddPlain(_)
        | Opcode::AddNumber(_)
        | Opcode::MulInteger(_)
        // What it sends is in the plan of the two parties.
        | Opcode::Cross(_) => Cost::default(),
        Opcode::Rotate(_) | Opcode::Conjugate => cost::rotate(params, level),
        Opcode::HoistedRotations(amounts) => {
            cost::hoisted_rotations(params, level, amounts.len() as u64)
        }
        Opcode::SumRotated(amounts) => {
            cost::sum_rotated(params, level, moved(params.slots(), amounts))
        }
        Opcode::DotPlain(ids) => Cost::of(Counter::CtPt, ids.len() as u64),
        Opcode::Tensor => Cost::of(Counter::CtCt, 1),
        Opcode::Relinearize => cost::relinearize(params, level),
        Opcode::Rescale => cost::rescale(params, level, degree),
        Opcode::SetLevel { level: to, .. } => cost::set_level(params, *to),
        Opcode::Polynomial(id) => {
            let coefficients = program.polynomials()[id.0 as usize].clone();
            Polynomial::new(Basis::Chebyshev, coefficients)?.cost_at(params, level)
        }
        Opcode::Refresh(kind) => bootstrap.map_or_else(Cost::default, |b| b.cost(*kind)),
    })
}

/// The keys a program needs, those of its bootstraps included, each at the highest level of its use.
#[must_use]
pub fn required_keys(
    program: &Program,
    bootstrap: Option<&BootstrapEstimate>,
    slots: usize,
) -> Vec<KeySpec> {
    let mut keys: BTreeMap<KeyKind, usize> = BTreeMap::new();
    let mut need = |kind: Option<KeyKind>, level: usize| {
        // A rotation by a multiple of the slot count is none.
        let Some(kind) = kind else { return };
        let highest = keys.entry(kind).or_insert(level);
        *highest = level.max(*highest);
    };
    for spec in bootstrap.into_iter().flat_map(|b| &b.keys) {
        need(Some(spec.kind), spec.level);
    }
    for instruction in program.instructions() {
        let level = instruction.args.first().map_or(0, |&r| program.meta(r).level);
        match &instruction.op {
            Opcode::Rotate(by) => need(KeyKind::rotation(*by, slots), level),
            Opcode::HoistedRotations(amounts) | Opcode::SumRotated(amounts) => {
                for &by in amounts {
                    need(KeyKind::rotation(by, slots), level);
                }
            }
            Opcode::Conjugate => need(Some(KeyKind::Conjugation), level),
            Opcode::Relinearize | Opcode::Polynomial(_) => {
                need(Some(KeyKind::Relinearization), level);
            }
            _ => {}
        }
    }
    keys.into_iter().map(|(kind, level)| KeySpec { kind, level }).collect()
}

/// Largest number of limb words that a program's registers hold at once, in limbs of N words.
#[must_use]
pub fn peak_register_limbs(params: &Parameters, program: &Program) -> usize {
    let size = |r: crate::program::Register| {
        let meta = program.meta(r);
        (meta.degree + 1) * params.limbs_at(meta.level)
    };
    let dead = program.last_uses();
    let (mut now, mut peak) = (0, 0);
    for (i, instruction) in program.instructions().iter().enumerate() {
        for k in 0..instruction.outputs() {
            now += size(crate::program::Register(instruction.out.0 + k));
        }
        peak = peak.max(now);
        now -= dead[i].iter().map(|&r| size(r)).sum::<usize>();
    }
    peak
}
