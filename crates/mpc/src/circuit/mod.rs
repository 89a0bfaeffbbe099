//! The plan of a two-party computation: a list of instructions over shares, scheduled into rounds.
//!
//! A [`Circuit`] is public: shapes, scales, ring widths, bounds, tables, and the order of messages. The dealer, both
//! parties, the clear oracle and the cost model interpret the same list, so that what is generated ahead is what is
//! consumed, and what is predicted is what goes over the wire. It is written with a [`Builder`], which checks ranges.
//!
//! **Rounds.** An instruction that opens a value happens one round after everything it depends on; everything that
//! happens in one round travels in one frame a party. The number of rounds is the longest chain of dependent messages.

mod builder;
mod cost;
mod gates;
mod tables;
mod view;

pub use builder::{Builder, Masked, Share, Weight};
pub use cost::{Cost, Offline};
pub use tables::{Knots, Table};
pub use view::View;

use crate::fixed;
use crate::role::Role;

pub(crate) type Id = usize;

/// What an instruction does. Operands are indices of values.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Input {
        owner: Role,
        index: usize,
    },
    View {
        of: Id,
        view: View,
    },
    Concat {
        parts: Vec<Id>,
        axis: usize,
    },
    Add(Id, Id),
    Sub(Id, Id),
    Times(Id, i64),
    Relabel(Id),
    SumLast(Id),
    AddPublic(Id, u64),
    AddServer(Id, usize),
    Open(Id),
    Shrink(Id, u32),
    Lift(Id, u32),
    MatMul(Id, Id),
    Mul(Id, Id),
    SumSquares(Id),
    Linear(Id, usize),
    /// `x g` for a vector of the server, on the message of an earlier `Linear` of the same value.
    Diagonal {
        linear: Id,
        parameter: usize,
    },
    Relu {
        of: Id,
        drop: u32,
        bits: u32,
    },
    Sign {
        of: Id,
        drop: u32,
        bits: u32,
    },
    Table {
        of: Id,
        drop: u32,
        table: usize,
    },
    Knots {
        of: Id,
        drop: u32,
        bits: u32,
        knots: usize,
    },
    Power {
        of: Id,
        drop: u32,
        bits: u32,
        power: u32,
    },
    Reveal {
        of: Id,
        to: Role,
    },
    /// Each party keeps its share as an output.
    Keep(Id),
}

impl Op {
    /// The values it reads.
    pub(crate) fn operands(&self) -> Vec<Id> {
        match self {
            Op::Input { .. } => Vec::new(),
            Op::Concat { parts, .. } => parts.clone(),
            Op::Add(a, b) | Op::Sub(a, b) | Op::MatMul(a, b) | Op::Mul(a, b) => vec![*a, *b],
            Op::Diagonal { linear, .. } => vec![*linear],
            Op::View { of, .. }
            | Op::Relu { of, .. }
            | Op::Sign { of, .. }
            | Op::Table { of, .. }
            | Op::Knots { of, .. }
            | Op::Power { of, .. }
            | Op::Reveal { of, .. } => vec![*of],
            Op::Times(a, _)
            | Op::Relabel(a)
            | Op::SumLast(a)
            | Op::AddPublic(a, _)
            | Op::AddServer(a, _)
            | Op::Open(a)
            | Op::Shrink(a, _)
            | Op::Lift(a, _)
            | Op::SumSquares(a)
            | Op::Keep(a)
            | Op::Linear(a, _) => vec![*a],
        }
    }

    /// Whether it sends something.
    pub(crate) fn talks(&self) -> bool {
        matches!(self, Op::Open(_) | Op::Linear(..) | Op::Reveal { .. })
    }
}

/// Whether a value is additively shared or masked and public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Share,
    Masked,
}

/// What is known about a value.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) kind: Kind,
    pub(crate) shape: Vec<usize>,
    pub(crate) scale: u32,
    pub(crate) ring: u32,
    /// log2 of a bound on the absolute real value.
    pub(crate) bound: f64,
}

impl Value {
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of the last axis.
    pub(crate) fn last(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes an opened element takes.
    pub(crate) fn width(&self) -> usize {
        self.ring.div_ceil(8) as usize
    }
}

/// One instruction; its result is the value of the same index.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub(crate) op: Op,
    /// Round after which the result exists; a message instruction is sent in that round.
    pub(crate) stage: u32,
    /// Index into [`Circuit::operators`].
    pub(crate) tag: usize,
}

/// How the server's numbers become integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Every number at this scale.
    Plain(u32),
    /// A matrix at this scale and one more column, the mean of every row, with 4 more bits.
    WithMean(u32),
}

/// A tensor that the server holds.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) encoding: Encoding,
    /// Whether the client holds it masked (matrices), or not at all (biases).
    pub(crate) masked: bool,
}

impl Parameter {
    /// Columns as stored.
    pub(crate) fn stored_columns(&self) -> usize {
        self.columns + usize::from(matches!(self.encoding, Encoding::WithMean(_)))
    }

    pub(crate) fn encode(&self, values: &[f64]) -> Vec<u64> {
        match self.encoding {
            Encoding::Plain(scale) => fixed::encode_all(values, scale),
            Encoding::WithMean(scale) => values
                .chunks(self.columns.max(1))
                .flat_map(|row| {
                    let mean = row.iter().sum::<f64>() / row.len() as f64;
                    let mean = fixed::encode(mean, scale + 4);
                    row.iter().map(move |&w| fixed::encode(w, scale)).chain([mean])
                })
                .collect(),
        }
    }
}

/// Who wrote a run of instructions: the rows of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operator {
    /// Operator, e.g. `attention.softmax`.
    pub name: String,
    /// Layer, e.g. `layer.0`; empty outside layers.
    pub layer: String,
}

/// A scheduled two-party computation.
#[derive(Clone, Debug)]
pub struct Circuit {
    pub(crate) instructions: Vec<Instruction>,
    pub(crate) values: Vec<Value>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) tables: Vec<Table>,
    pub(crate) knots: Vec<Knots>,
    pub(crate) inputs: Vec<(Role, Id)>,
    pub(crate) outputs: Vec<(Role, Id)>,
    pub(crate) operators: Vec<Operator>,
    /// Instructions by stage, in program order.
    pub(crate) stages: Vec<Vec<Id>>,
    /// Byte offsets of each instruction's correlations, server and client.
    pub(crate) offsets: Vec<[usize; 2]>,
    /// The last instruction that reads a value.
    pub(crate) last_use: Vec<Id>,
    /// Products whose message a diagonal uses again.
    pub(crate) again: Vec<bool>,
    hash: [u8; 32],
}

impl Circuit {
    /// A hash of everything the parties must agree on; both compare it before any share leaves.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Number of rounds.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.stages.len().saturating_sub(1) as u32
    }

    /// The operators, in order of first use.
    #[must_use]
    pub fn operators(&self) -> &[Operator] {
        &self.operators
    }

    /// Shape and scale of input `index` of the party that owns it, counted over all inputs.
    #[must_use]
    pub fn input(&self, index: usize) -> Option<(Role, &[usize], u32)> {
        let (owner, id) = self.inputs.get(index)?;
        let value = self.values.get(*id)?;
        Some((*owner, &value.shape, value.scale))
    }

    /// Names and shapes of the server's tensors; a name may occur with several encodings.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, [usize; 2])> {
        self.parameters.iter().map(|p| (p.name.as_str(), [p.rows, p.columns]))
    }

    fn seal(mut self) -> Self {
        let rounds = self.instructions.iter().map(|i| i.stage).max().unwrap_or(0);
        self.stages = vec![Vec::new(); rounds as usize + 1];
        self.last_use = (0..self.instructions.len()).collect();
        for (id, instruction) in self.instructions.iter().enumerate() {
            self.stages[instruction.stage as usize].push(id);
        }
        // The parties run stage by stage, not in program order, so "last" is by (stage, position).
        let mut order = vec![0usize; self.instructions.len()];
        for (position, id) in self.stages.iter().flatten().enumerate() {
            order[*id] = position;
        }
        for (id, instruction) in self.instructions.iter().enumerate() {
            for operand in instruction.op.operands() {
                if order[id] > order[self.last_use[operand]] {
                    self.last_use[operand] = id;
                }
            }
        }
        self.again = vec![false; self.instructions.len()];
        for instruction in &self.instructions {
            if let Op::Diagonal { linear, .. } = instruction.op {
                self.again[linear] = true;
            }
        }
        let mut at = [0usize; 2];
        self.offsets = (0..self.instructions.len())
            .map(|id| {
                let here = at;
                let offline = self.offline_of(id);
                at[0] += offline.server as usize;
                at[1] += offline.client as usize;
                here
            })
            .collect();
        self.hash = self.fingerprint();
        self
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("cipherform mpc 1 circuit");
        let mut text = |line: String| {
            hasher.update(&(line.len() as u64).to_le_bytes());
            hasher.update(line.as_bytes());
        };
        for (instruction, value) in self.instructions.iter().zip(&self.values) {
            let meta = (&value.shape, value.scale, value.ring, instruction.stage);
            text(format!("{:?} {meta:?}", instruction.op));
        }
        for p in &self.parameters {
            text(format!("{p:?}"));
        }
        text(format!("{:?} {:?}", self.inputs, self.outputs));
        for table in &self.tables {
            text(format!("{table:?}"));
            table.coefficients.iter().flatten().for_each(|w| text(format!("{w:x}")));
        }
        for knots in &self.knots {
            text(format!("{knots:?}"));
        }
        *hasher.finalize().as_bytes()
    }
}
