//! Which level each register must have at least, from the results backwards.

use super::{Opcode, Program, Register};

/// The level that each register needs so that every result has the level asked for and every argument of a `Refresh` or `Cross` has
/// `refresh_input`. Levels of the program itself are not looked at: an endless ladder will do.
///
/// Sources (inputs and refreshed registers) that stand at their need make a program in which every register is at or above
/// its own: whatever joins two registers drops the higher one.
pub(crate) fn needs(
    program: &Program,
    results: &[(Register, usize)],
    refresh_input: usize,
) -> Vec<usize> {
    let mut needs = vec![0; program.metas.len()];
    for &(register, level) in results {
        needs[register.0 as usize] = level;
    }
    for instruction in program.instructions.iter().rev() {
        let out = instruction.out.0 as usize;
        let need = needs[out..out + instruction.outputs() as usize].iter().copied().max();
        let need = need.unwrap_or(0);
        let need = match &instruction.op {
            Opcode::Rescale => need + 1,
            #[expect(clippy::float_cmp, reason = "a literal 1 stands where nothing is folded")]
            Opcode::SetLevel { factor, .. } => need + usize::from(*factor != 1.0),
            Opcode::Polynomial(id) => {
                let terms = program.polynomials[id.0 as usize].len();
                need + terms.next_power_of_two().trailing_zeros() as usize
            }
            Opcode::Refresh(_) | Opcode::Cross(_) => refresh_input,
            _ => need,
        };
        for arg in &instruction.args {
            let known = &mut needs[arg.0 as usize];
            *known = need.max(*known);
        }
    }
    needs
}
