//! Inputs shorter than the model's longest: the same instructions with some other constants.
//!
//! Biases stand at tokens that carry data and nowhere else, and means divide by their number, so a few constants of a
//! program depend on the length. They are encoded when a length is first asked for, and the last ones used are kept.

use crate::error::{Error, Result};
use crate::exec::{Encoded, Replaced};
use crate::layout::Layout;
use crate::lower::{Lowered, lower};
use crate::planner::Scheduled;
use crate::program::Program;
use crate::weights::Model;
use cipherform_ckks::{Context, Parameters};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of constants that are kept beside those of the longest input, if one length does not take more.
const KEPT_BYTES: u64 = 1 << 30;

/// How many lengths are kept: of constants that vary with the length, beside the program's own.
pub(crate) fn kept(params: &Parameters, program: &Program) -> (usize, u64) {
    let bytes = varying_bytes(params, program);
    let count = KEPT_BYTES.checked_div(bytes).map_or(0, |count| count.max(1));
    (count as usize, bytes)
}

fn varying_bytes(params: &Parameters, program: &Program) -> u64 {
    program.constants().iter().filter(|c| c.varies).map(|c| c.bytes(params)).sum()
}

/// The constants of an input's length, ready for a run: from [`crate::HeModel::length`].
#[derive(Clone, Debug)]
pub struct Length {
    tokens: usize,
    replaced: Option<Arc<Replaced>>,
}

impl Length {
    /// Tokens of the inputs that it is for.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// What stands in place of the program's constants; `None` for the longest input.
    pub(crate) fn replaced(&self) -> Option<&Replaced> {
        self.replaced.as_deref()
    }
}

/// Makes programs for other lengths, and keeps the constants of the last ones.
#[derive(Debug)]
pub(crate) struct Lengths {
    /// Absent where all inputs have the same length.
    source: Option<Source>,
    longest: usize,
    kept: usize,
    /// The last used is the last.
    ready: Mutex<VecDeque<Length>>,
}

/// All that a program is made from.
#[derive(Debug)]
struct Source {
    model: Model,
    layout: Layout,
    scheduled: Scheduled,
}

impl Lengths {
    pub(crate) fn new(model: &Model, layout: &Layout, scheduled: Scheduled, kept: usize) -> Self {
        let variable = model.config.input.is_variable();
        let source = variable.then(|| Source { model: model.clone(), layout: *layout, scheduled });
        Self { source, longest: layout.tokens(), kept, ready: Mutex::default() }
    }

    /// The program of a length, with values.
    pub(crate) fn program(&self, tokens: usize) -> Result<Option<Program>> {
        let source = match &self.source {
            Some(source) if (1..self.longest).contains(&tokens) => source,
            _ if tokens == self.longest => return Ok(None),
            Some(_) => return Err(Error::InputLength { tokens, limit: self.longest }),
            None => return Err(Error::FixedLength { tokens, length: self.longest }),
        };
        let layout = source.layout.with_tokens(tokens)?;
        let Scheduled { schedule, ladder, head, .. } = &source.scheduled;
        let lowered = lower(&source.model, &layout, ladder.clone(), schedule, *head)?;
        let Lowered { program, .. } = lowered;
        Ok(Some(program))
    }

    /// The constants of a length, in place of some of `whole`, the program of the longest input.
    pub(crate) fn get(&self, tokens: usize, whole: &Program, context: &Context) -> Result<Length> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = ready.iter().position(|length| length.tokens == tokens)
            && let Some(length) = ready.remove(at)
        {
            ready.push_back(length.clone());
            return Ok(length);
        }
        let Some(program) = self.program(tokens)? else {
            return Ok(Length { tokens, replaced: None });
        };
        whole.same_instructions(&program)?;
        while ready.len() >= self.kept.max(1) {
            ready.pop_front();
        }
        let replaced = Encoded::replaced(whole, &program, context)?;
        let length = Length { tokens, replaced: Some(Arc::new(replaced)) };
        ready.push_back(length.clone());
        Ok(length)
    }
}
