//! Memory and precision of a plan, before anything runs.

use crate::cost::bootstrap_estimate;
use crate::embedding::{ClientWeights, client_embedding};
use crate::error::{Error, Result};
use crate::exec::{Progress, Slots, execute};
use crate::lengths::kept;
use crate::matrix::Matrix;
use crate::plan::Plan;
use crate::program::{Opcode, Program};
use crate::random::random_input;
use crate::weights::Model;
use cipherform_ckks::{Device, Parameters, SeededKey, SwitchingKey};
use num_complex::Complex64;
use std::ops::ControlFlow;

/// Words of transform tables a prime: twiddles and their quotients, forward and inverse.
const TABLE_ROWS: usize = 4;

/// The program itself, the allocator's slack and the threads' stacks: measured on the demo, not derived.
const BASE_BYTES: u64 = 512 << 20;

/// Freed rows that a context keeps for its next operation, at most.
const RECYCLED_BYTES: u64 = 256 << 20;

/// Serialised keys under way at once: one being made, one travelling, one being checked.
const KEYS_UNDER_WAY: u64 = 3;

/// Memory of the server's device that inferences for one client take at their peak. What all polynomials have in common,
/// the transforms' tables, and what is lost between pieces of different sizes are not counted: a few percent on a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceBytes {
    /// Expanded keys.
    pub keys: u64,
    /// Of these, what one instruction holds at once, at most: one key, or the baby steps of a map of a bootstrap.
    pub held_keys: u64,
    /// Encoded weights, masks and constants, and the diagonals of bootstraps.
    pub constants: u64,
    /// Constants of inputs shorter than the longest, as many as are kept.
    pub lengths: u64,
    /// Live ciphertexts, at their most.
    pub ciphertexts: u64,
    /// What one instruction holds beside them, at most: digits, sums, powers of a polynomial's argument.
    pub operation: u64,
}

impl DeviceBytes {
    /// Folds a program. Exact for keys and constants.
    ///
    /// # Errors
    /// When the set cannot bootstrap as the program asks.
    pub fn new(params: &Parameters, plan: &Plan, program: &Program) -> Result<Self> {
        let bootstrap = bootstrap_estimate(params, program)?;
        let (diagonals, bootstrapping, refreshing) =
            bootstrap.map_or((0, 0, 0), |b| (b.diagonal_bytes, b.working_bytes, b.held_key_bytes));
        let row = params.n() as u64 * 8;
        let keys = plan.keys().iter().map(|&spec| SwitchingKey::expanded_bytes(params, spec));
        let constants = program.constants().iter().map(|c| c.bytes(params));
        let (lengths, one) = kept(params, program);
        let operations = program.instructions().iter().map(|instruction| {
            let level = instruction.args.first().map_or(0, |&r| program.meta(r).level);
            let limbs = params.limbs_at(level);
            let powers = match &instruction.op {
                Opcode::Polynomial(id) => {
                    let terms = program.polynomials()[id.0 as usize].len();
                    // Baby and giant powers, as many of each.
                    2 * 2 * limbs * (terms as f64).sqrt().ceil() as usize
                }
                _ => 0,
            };
            // Digits; the prepared polynomial, both sums, and both again while they are divided.
            let switching = (params.digits_at(level).len() + 5) * (limbs + params.special().len());
            (powers + switching) as u64 * row
        });
        // Of the exact step, whose keys are the host's, only the first belongs to the device.
        Ok(Self {
            keys: keys.clone().sum(),
            held_keys: keys.max().unwrap_or(0).max(refreshing),
            constants: constants.sum::<u64>() + diagonals,
            lengths: lengths as u64 * one,
            ciphertexts: plan.peak_register_bytes(),
            operation: operations.max().unwrap_or(0).max(bootstrapping),
        })
    }

    /// With all keys of one client.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.keys + self.without_keys()
    }

    /// What is taken whoever asks.
    #[must_use]
    pub fn without_keys(&self) -> u64 {
        self.constants + self.lengths + self.ciphertexts + self.operation
    }

    /// Refuses a device without room for a run: everything but keys that can be put aside.
    ///
    /// # Errors
    /// `InsufficientMemory`, with all figures.
    pub fn check(&self, device: &Device) -> Result<()> {
        let needed = self.without_keys() + self.held_keys;
        match device.available_memory() {
            Some(available) if needed > available => Err(Error::InsufficientMemory {
                device: device.to_string(),
                needed,
                available,
                bytes: *self,
            }),
            _ => Ok(()),
        }
    }
}

/// Peak memory of one process that holds both sides on the CPU, as `demo` does: what [`DeviceBytes`] counts, the values
/// behind the constants, keys under way, and for each side its tables and recycled rows.
///
/// # Errors
/// As [`DeviceBytes::new`].
pub fn memory_bytes(params: &Parameters, plan: &Plan, program: &Program) -> Result<u64> {
    let row = params.n() as u64 * 8;
    let primes = (params.q().len() + params.special().len()) as u64;
    let tables = primes * TABLE_ROWS as u64 * row;
    let values: u64 = program.constants().iter().map(|c| c.values.len() as u64 * 16).sum();
    let travelling = plan.keys().iter().map(|&k| SeededKey::serialized_len(params, k) as u64);
    let label = plan.label_step(params);
    let seeded = label.as_ref().map_or(0, |step| step.seeded_key_bytes() as u64);
    let travelling = KEYS_UNDER_WAY * travelling.max().unwrap_or(0).max(seeded);
    let exact = label.map_or(0, |step| step.key_bytes());
    let server = DeviceBytes::new(params, plan, program)?.total() + values + exact;
    Ok(BASE_BYTES + 2 * (tables + RECYCLED_BYTES) + server + travelling)
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
    precision_bits_of(model, params, plan, program, &representative_input(model)?)
}

/// As [`precision_bits`] for one input, with the program of its length: a mean over few tokens averages less noise away.
///
/// # Errors
/// Errors of the model.
pub fn precision_bits_of(
    model: &Model,
    params: &Parameters,
    plan: &Plan,
    program: &Program,
    input: &Matrix,
) -> Result<f64> {
    let client = ClientWeights::from_model(model)?;
    let embedded = client_embedding(&model.config, &client, input)?;
    let layout = plan.layout();
    let packed = || plan.inputs().iter().map(|i| layout.pack(i, &embedded)).collect();
    let mut go_on = |_: &Progress| ControlFlow::Continue(());
    let exact = execute(program, &mut Slots::new(program, packed()), &[], &mut go_on)?;
    let mut noisy = Slots::new(program, packed()).with_noise(params)?;
    let noisy = execute(program, &mut noisy, &[], &mut go_on)?;
    let logits = |out: &[Vec<Complex64>]| plan.logits_of_slots(&model.config, params, out);
    let worst = logits(&exact)
        .iter()
        .zip(logits(&noisy))
        .map(|(a, b)| (a - b).abs())
        .fold(f64::MIN_POSITIVE, f64::max);
    Ok(-worst.log2())
}

/// Standard normal tokens, what a norm makes of any input, or word pieces drawn evenly: as many as the plan has.
fn representative_input(model: &Model) -> Result<Matrix> {
    let (tokens, columns) = (model.config.tokens, model.config.input_size());
    let mut values = Vec::new();
    for index in 0.. {
        values.extend_from_slice(random_input(&model.config, 0, index)?.data());
        if values.len() >= tokens * columns {
            break;
        }
    }
    values.truncate(tokens * columns);
    Matrix::from_vec(tokens, columns, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_room_is_refused_with_figures() {
        let device = Device::cpu();
        let bytes = DeviceBytes {
            keys: 1 << 62,
            held_keys: 3,
            constants: 5,
            lengths: 13,
            ciphertexts: 7,
            operation: 11,
        };
        // Keys that nothing holds can be put aside.
        bytes.check(&device).unwrap();
        // More than any machine has; where a machine does not say what it has, nothing is refused.
        let bytes = DeviceBytes { constants: 1 << 61, ..bytes };
        let (Err(error), Some(_)) = (bytes.check(&device), device.available_memory()) else {
            assert!(device.available_memory().is_none());
            return;
        };
        let message = error.to_string();
        let needed = (1u64 << 61) + 3 + 7 + 11 + 13;
        for figure in [needed, 1 << 61, 3, 7, 11] {
            assert!(message.contains(&figure.to_string()), "{message}");
        }
        assert!(message.contains(&device.to_string()), "{message}");
    }
}
