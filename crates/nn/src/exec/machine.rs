//! The only loop over the instructions of a program.

use crate::error::{Error, Result};
use crate::program::{Instruction, Program, Register};
use cipherform_profile::{Operator, operator};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What interprets instructions: slot vectors in the clear, or ciphertexts.
pub trait Machine {
    /// The content of a register.
    type Value;

    /// Runs one instruction and returns the values of its result registers in order. An argument that nobody reads
    /// again arrives as the only reference, so that the machine may reuse it.
    ///
    /// # Errors
    /// The machine's own; a machine never repairs a level or a scale.
    fn run(
        &mut self,
        instruction: &Instruction,
        args: Vec<Rc<Self::Value>>,
    ) -> Result<Vec<Self::Value>>;
}

/// How far a run has come: reported before each operator.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Index of the operator about to run.
    pub step: usize,
    /// Number of operators.
    pub steps: usize,
    /// Its name.
    pub operator: String,
    /// Its layer; empty outside layers.
    pub layer: String,
    /// Level it starts from.
    pub level: usize,
    /// Time since the run began.
    pub elapsed: Duration,
    /// Estimated time to the end.
    pub eta: Duration,
}

/// Sees the run from outside, between operators.
pub trait Monitor<V> {
    /// Called before each operator; `Break` cancels the run.
    fn before(&mut self, _progress: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    /// Called after each operator with the registers it has just written that are still alive.
    fn after(&mut self, _step: usize, _written: &[(Register, &V)]) {}
}

impl<V, F: FnMut(&Progress) -> ControlFlow<()>> Monitor<V> for F {
    fn before(&mut self, progress: &Progress) -> ControlFlow<()> {
        self(progress)
    }
}

/// Runs `program` on `machine`, opening one operator span a step. `weights[i]` is the share of step `i` in the
/// expected time (any unit); it only feeds the ETA. Weights beyond the program's steps are of what comes after it.
///
/// # Errors
/// The machine's errors; `Cancelled` when the monitor breaks.
pub fn execute<M: Machine>(
    program: &Program,
    machine: &mut M,
    weights: &[f64],
    monitor: &mut dyn Monitor<M::Value>,
) -> Result<Vec<M::Value>> {
    let dead = program.last_uses();
    let mut registers: Vec<Option<Rc<M::Value>>> = Vec::new();
    registers.resize_with(program.metas.len(), || None);
    let begin = Instant::now();
    let total: f64 = weights.iter().sum();
    let mut done = 0.0;
    for (index, step) in program.steps().iter().enumerate() {
        let elapsed = begin.elapsed();
        let eta = if done > 0.0 {
            elapsed.mul_f64((total - done).max(0.0) / done)
        } else {
            Duration::ZERO
        };
        let progress = Progress {
            step: index,
            steps: program.steps().len().max(weights.len()),
            operator: step.operator.clone(),
            layer: step.layer.clone(),
            level: step.level_in,
            elapsed,
            eta,
        };
        if monitor.before(&progress).is_break() {
            return Err(Error::Cancelled { operator: step.operator.clone() });
        }
        let span = operator(Operator {
            name: step.operator.clone(),
            layer: step.layer.clone(),
            shape: String::new(),
            level_in: Some(step.level_in),
            level_out: Some(step.level_out),
            log2_scale: Some(step.scale_out.log2()),
        });
        for i in step.instructions.clone() {
            let instruction = &program.instructions[i];
            let args: Option<Vec<Rc<M::Value>>> =
                instruction.args.iter().map(|r| registers[r.0 as usize].clone()).collect();
            let args = args.ok_or_else(|| Error::Planner {
                op: "execute",
                detail: format!("instruction {i} reads a register that is not alive"),
            })?;
            for r in &dead[i] {
                registers[r.0 as usize] = None;
            }
            for (k, value) in machine.run(instruction, args)?.into_iter().enumerate() {
                let register = instruction.out.0 as usize + k;
                if !dead[i].contains(&Register(register as u32)) {
                    registers[register] = Some(Rc::new(value));
                }
            }
        }
        drop(span);
        let written: Vec<_> = step
            .instructions
            .clone()
            .flat_map(|i| {
                let instruction = &program.instructions[i];
                (0..instruction.outputs()).map(move |k| instruction.out.0 + k)
            })
            .filter_map(|r| registers[r as usize].as_deref().map(|v| (Register(r), v)))
            .collect();
        monitor.after(index, &written);
        done += weights.get(index).copied().unwrap_or(0.0);
    }
    program
        .outputs
        .iter()
        .map(|r| {
            registers[r.0 as usize].take().and_then(Rc::into_inner).ok_or_else(|| Error::Planner {
                op: "execute",
                detail: "the program does not write its output".into(),
            })
        })
        .collect()
}
