//! Memory and precision of a plan, before anything runs.

use crate::embedding::{ClientWeights, client_embedding};
use crate::error::Result;
use crate::exec::{Progress, Slots, execute};
use crate::matrix::Matrix;
use crate::plan::Plan;
use crate::program::Program;
use crate::random::random_input;
use crate::weights::Model;
use cipherform_ckks::{Parameters, SeededKey};
use std::ops::ControlFlow;

/// Words of transform tables a prime: twiddles and their quotients, forward and inverse.
const TABLE_ROWS: usize = 4;

/// The program itself, the allocator's slack and the threads' stacks: measured on the demo, not derived.
const BASE_BYTES: u64 = 512 << 20;

/// Freed rows that a context keeps for its next operation, at most.
const RECYCLED_BYTES: u64 = 256 << 20;

/// Serialised keys under way at once: one being made, one travelling, one being checked.
const KEYS_UNDER_WAY: u64 = 3;

/// Peak memory of one process that holds both sides, as `demo` does: expanded keys, constants, live ciphertexts, the
/// digits of one key switch at the highest level, keys under way, and for each side its tables and recycled rows.
#[must_use]
pub fn memory_bytes(params: &Parameters, plan: &Plan, program: &Program) -> u64 {
    let row = params.n() as u64 * 8;
    let primes = (params.q().len() + params.special().len()) as u64;
    let tables = primes * TABLE_ROWS as u64 * row;
    let constants: u64 = program
        .constants()
        .iter()
        .map(|c| {
            // Periodic constants hold two words a slot of their period and limb.
            let words = (2 * c.values.len()).min(params.n()) as u64;
            words * 8 * params.limbs_at(c.level) as u64 + c.values.len() as u64 * 16
        })
        .sum();
    let top = plan.top_level();
    let extended = (params.limbs_at(top) + params.special().len()) as u64;
    // The digits, the two sums of the inner product, and one mod-down under way.
    let switching = (params.digits_at(top).len() as u64 + 3) * extended * row;
    let keys = plan.sizes(params).key_bytes;
    let travelling = plan.keys().iter().map(|&k| SeededKey::serialized_len(params, k) as u64);
    let travelling = KEYS_UNDER_WAY * travelling.max().unwrap_or(0);
    let server = keys + constants + plan.peak_register_bytes() + switching;
    BASE_BYTES + 2 * (tables + RECYCLED_BYTES) + server + travelling
}

/// Bits of absolute precision that the plan leaves in the logits: -log2 of the largest logit error, from a run on
/// exact slots with the noise model's errors added wherever the scheme rounds.
///
/// # Errors
/// Errors of the model.
pub fn precision_bits(
    model: &Model,
    params: &Parameters,
    plan: &Plan,
    program: &Program,
) -> Result<f64> {
    let client = ClientWeights::from_model(model)?;
    let input = representative_input(model)?;
    let embedded = client_embedding(&model.config, &client, &input)?;
    let packed = || plan.inputs().iter().map(|i| i.pack(plan.packing(), &embedded)).collect();
    let mut go_on = |_: &Progress| ControlFlow::Continue(());
    let exact = execute(program, &mut Slots::new(program, packed()), &[], &mut go_on)?;
    let mut noisy = Slots::new(program, packed()).with_noise(params);
    let noisy = execute(program, &mut noisy, &[], &mut go_on)?;
    let columns = plan.packing().columns;
    let worst = exact
        .iter()
        .zip(&noisy)
        .flat_map(|(a, b)| a.iter().zip(b).step_by(columns))
        .map(|(a, b)| (a - b).re.abs())
        .fold(f64::MIN_POSITIVE, f64::max);
    Ok(-worst.log2())
}

/// Standard normal tokens: what a norm makes of any input.
fn representative_input(model: &Model) -> Result<Matrix> {
    random_input(&model.config, 0, 0)
}
