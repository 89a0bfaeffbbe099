//! One party's online run: stage by stage, one frame a round.

use crate::circuit::{Circuit, Id, Kind, Op};
use crate::dealer::{Correlations, WeightMask, scaled, sizes};
use crate::error::{Error, Result};
use crate::fixed::{low, signed};
use crate::gates::{Evaluation, MASK, compare, knots, power, product, table, truncate};
use crate::link::Link;
use crate::matmul::add_matmul;
use crate::prg::{Permutation, Stream};
use crate::role::Role;
use cipherform_profile::{Counter, Operator, count, operator, primitive};
use std::collections::{BTreeMap, HashMap};
use zeroize::{Zeroize, Zeroizing};

/// The server's tensors by name, row-major.
pub type Tensors = BTreeMap<String, Vec<f64>>;

/// A value as one party holds it. Wiped when dropped, never printed.
enum Cell {
    Share(Vec<u64>),
    Masked { c: Vec<u64>, r: Vec<u64> },
}

impl Drop for Cell {
    fn drop(&mut self) {
        match self {
            Cell::Share(x) => x.zeroize(),
            Cell::Masked { r, .. } => r.zeroize(),
        }
    }
}

/// What the server keeps of a model: its integers. Wiped when dropped.
pub struct ServerModel {
    pub(crate) parameters: Vec<Vec<u64>>,
    pub(crate) mask: WeightMask,
}

impl std::fmt::Debug for ServerModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerModel {{ {} tensors }}", self.parameters.len())
    }
}

impl Drop for ServerModel {
    fn drop(&mut self) {
        self.parameters.zeroize();
    }
}

impl ServerModel {
    /// Encodes the tensors that `circuit` names.
    ///
    /// # Errors
    /// [`Error::Input`] when one is missing or has another size.
    pub fn new(circuit: &Circuit, tensors: &Tensors, mask: WeightMask) -> Result<Self> {
        let parameters = circuit.parameters.iter().enumerate().map(|(index, p)| {
            let error = |detail| Error::Input { what: "weight", index, detail };
            let values =
                tensors.get(&p.name).ok_or_else(|| error(format!("{} is missing", p.name)))?;
            let expected = p.rows * p.columns;
            if values.len() != expected {
                return Err(error(format!(
                    "{} has {} values, expected {expected}",
                    p.name,
                    values.len()
                )));
            }
            Ok(p.encode(values))
        });
        Ok(Self { parameters: parameters.collect::<Result<_>>()?, mask })
    }

    /// The mask of this model's matrices; the dealer needs it for every run.
    #[must_use]
    pub fn mask(&self) -> &WeightMask {
        &self.mask
    }

    /// A hash of the integers: who guesses all weights can check the guess, so it stays with the server.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("cipherform mpc 1 masked weights");
        for tensor in &self.parameters {
            hasher.update(&(tensor.len() as u64).to_le_bytes());
            for word in tensor {
                hasher.update(&word.to_le_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }

    /// The matrices as the client holds them: weights minus their mask, sent once.
    #[must_use]
    pub fn masked(&self, circuit: &Circuit) -> ClientModel {
        let parameters = circuit.parameters.iter().zip(&self.parameters).enumerate();
        let parameters = parameters.map(|(index, (p, words))| {
            if !p.masked {
                return Vec::new();
            }
            let mask = self.mask.words(index, words.len());
            words.iter().zip(&mask).map(|(w, b)| w.wrapping_sub(*b)).collect()
        });
        ClientModel { parameters: parameters.collect(), mask: self.mask.id() }
    }
}

/// What the client keeps of a model: masked matrices.
#[derive(Clone)]
pub struct ClientModel {
    pub(crate) parameters: Vec<Vec<u64>>,
    pub(crate) mask: [u8; 16],
}

impl std::fmt::Debug for ClientModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientModel {{ {} tensors }}", self.parameters.len())
    }
}

/// One party's model.
#[derive(Debug)]
pub enum Model<'a> {
    /// The server's.
    Server(&'a ServerModel),
    /// The client's.
    Client(&'a ClientModel),
}

impl Model<'_> {
    pub(crate) fn role(&self) -> Role {
        match self {
            Model::Server(_) => Role::Server,
            Model::Client(_) => Role::Client,
        }
    }

    pub(crate) fn mask(&self) -> [u8; 16] {
        match self {
            Model::Server(model) => model.mask.id(),
            Model::Client(model) => model.mask,
        }
    }

    fn parameters(&self) -> &[Vec<u64>] {
        match self {
            Model::Server(model) => &model.parameters,
            Model::Client(model) => &model.parameters,
        }
    }
}

/// Correlations made ready for a run, before the input is known: the client multiplies its masks with the masked weights.
pub struct Prepared {
    correlations: Correlations,
    /// The client's result of every matrix product with a weight; empty at the server.
    products: HashMap<Id, Vec<u64>>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prepared {{ {:?} }}", self.correlations)
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.products.values_mut().for_each(Zeroize::zeroize);
    }
}

impl Prepared {
    /// Checks that `correlations` are for this plan, model and party, and does what needs no input.
    ///
    /// # Errors
    /// [`Error::Peer`] for another plan, role or weight mask; [`Error::Malformed`] for a wrong length.
    pub fn new(circuit: &Circuit, model: &Model<'_>, correlations: Correlations) -> Result<Self> {
        let differ = |what, ours: String, theirs: String| Err(Error::Peer { what, ours, theirs });
        let role = model.role();
        if correlations.role != role {
            return differ("role of correlations", role.to_string(), correlations.role.to_string());
        }
        if correlations.plan != circuit.hash() {
            return differ("plan of correlations", hex(&circuit.hash()), hex(&correlations.plan));
        }
        if correlations.mask != model.mask() {
            return differ(
                "weight mask of correlations",
                hex(&model.mask()),
                hex(&correlations.mask),
            );
        }
        let offline = circuit.cost().offline;
        let expected = if role == Role::Server { offline.server } else { offline.client };
        if correlations.bytes.len() as u64 != expected {
            let detail = format!("{} bytes, expected {expected}", correlations.bytes.len());
            return Err(Error::Malformed { what: "correlations", detail });
        }
        let mut products = HashMap::new();
        if role == Role::Client {
            let stream = correlations.seed.stream();
            let permutation = Permutation::new(&correlations.nonce);
            for (id, instruction) in circuit.instructions.iter().enumerate() {
                let (linear, parameter) = match instruction.op {
                    Op::Linear(_, parameter) => (id, parameter),
                    Op::Diagonal { linear, parameter } => (linear, parameter),
                    _ => continue,
                };
                let Some(&x) = circuit.instructions[linear].op.operands().first() else { continue };
                let (p, weights) = (&circuit.parameters[parameter], &model.parameters()[parameter]);
                let mut a = stream.words(linear, MASK, circuit.values[x].len());
                let bytes = slice(circuit, &correlations, id);
                let e = Evaluation { permutation: &permutation, role, id, stream: &stream, bytes };
                let mut out = e.shares(0, circuit.values[id].len());
                if linear == id {
                    add_matmul(&mut out, &a, weights, p.rows, p.stored_columns());
                } else {
                    add(&mut out, &scaled(&a, weights));
                }
                a.zeroize();
                products.insert(id, out);
            }
        }
        Ok(Self { correlations, products })
    }

    pub(crate) fn nonce(&self) -> [u8; 32] {
        self.correlations.nonce
    }
}

fn add(a: &mut [u64], b: &[u64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a = a.wrapping_add(*b));
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(8).fold(String::new(), |text, b| text + &format!("{b:02x}"))
}

fn slice<'a>(circuit: &Circuit, correlations: &'a Correlations, id: Id) -> &'a [u8] {
    let at = circuit.offsets[id][correlations.role.index()];
    let of = circuit.offline_of(id);
    let len = if correlations.role == Role::Server { of.server } else { of.client };
    &correlations.bytes[at..at + len as usize]
}

/// Runs one party. Consumes the correlations; returns what was revealed to this party, by output.
pub(crate) fn run(
    circuit: &Circuit,
    model: &Model<'_>,
    prepared: Prepared,
    inputs: &[Vec<u64>],
    link: &mut Link,
) -> Result<Vec<Vec<u64>>> {
    let role = model.role();
    let stream = prepared.correlations.seed.stream();
    let permutation = Permutation::new(&prepared.correlations.nonce);
    let mut party = Party {
        circuit,
        role,
        model,
        prepared,
        stream,
        permutation,
        cells: (0..circuit.instructions.len()).map(|_| None).collect(),
        incoming: HashMap::new(),
        opened: HashMap::new(),
        outputs: Vec::new(),
    };
    for stage in 0..circuit.stages.len() {
        if stage > 0 {
            party.exchange(stage, link)?;
        }
        party.stage(stage, inputs)?;
    }
    Ok(std::mem::take(&mut party.outputs))
}

struct Party<'a> {
    circuit: &'a Circuit,
    role: Role,
    model: &'a Model<'a>,
    prepared: Prepared,
    stream: Stream,
    permutation: Permutation,
    cells: Vec<Option<Cell>>,
    /// What the peer sent for each message instruction of this round.
    incoming: HashMap<Id, Vec<u64>>,
    /// The server's `x + (-A)` of products that a diagonal uses again.
    opened: HashMap<Id, Vec<u64>>,
    outputs: Vec<Vec<u64>>,
}

impl Party<'_> {
    fn span(&self, id: Id) -> Operator {
        let tag = &self.circuit.operators[self.circuit.instructions[id].tag];
        let shape = format!("{:?}", self.circuit.values[id].shape);
        let log2_scale = Some(self.circuit.values[id].scale as f64);
        Operator { layer: tag.layer.clone(), shape, log2_scale, ..Operator::new(&tag.name) }
    }

    /// Sends this party's messages of a round and receives the peer's.
    fn exchange(&mut self, round: usize, link: &mut Link) -> Result<()> {
        let circuit = self.circuit;
        let talking: Vec<Id> = circuit.stages[round]
            .iter()
            .copied()
            .filter(|&id| circuit.instructions[id].op.talks())
            .collect();
        let Some(&first) = talking.first() else { return Ok(()) };
        let mut frame = Zeroizing::new(Vec::with_capacity(circuit.frame_bytes(round, self.role)));
        for &id in &talking {
            let _span = operator(self.span(id));
            let before = frame.len();
            self.message(id, &mut frame)?;
            count(Counter::BytesSent, (frame.len() - before) as u64);
        }
        let expected = circuit.frame_bytes(round, self.role.peer());
        let received = {
            let _span = operator(self.span(first));
            count(Counter::Rounds, 1);
            let _wait = primitive("wait");
            link.exchange(round as u32, &frame, expected)?
        };
        let mut at = 0;
        for &id in &talking {
            let len = circuit.sent_by(id, self.role.peer());
            let bytes = received.get(at..at + len).unwrap_or_default();
            at += len;
            if len > 0 {
                let _span = operator(self.span(id));
                count(Counter::BytesReceived, len as u64);
                let of = circuit.instructions[id].op.operands()[0];
                let width = match circuit.instructions[id].op {
                    Op::Open(_) | Op::Reveal { .. } => circuit.values[of].width(),
                    _ => 8,
                };
                self.incoming.insert(id, unpack(bytes, width));
            }
        }
        Ok(())
    }

    /// Appends what this party says in instruction `id`.
    fn message(&mut self, id: Id, frame: &mut Vec<u8>) -> Result<()> {
        match self.circuit.instructions[id].op {
            Op::Open(of) => {
                let r = self.stream.words(id, MASK, self.circuit.values[of].len());
                let ring = low(self.circuit.values[of].ring);
                let masked = self.share(of)?.iter().zip(&r);
                let c: Vec<u64> = masked.map(|(x, r)| x.wrapping_add(*r) & ring).collect();
                pack(&c, self.circuit.values[of].width(), frame);
                self.cells[id] = Some(Cell::Masked { c, r });
            }
            Op::Linear(x, _) if self.role == Role::Client => {
                let mut a = self.stream.words(id, MASK, self.circuit.values[x].len());
                a.iter_mut().zip(self.share(x)?).for_each(|(a, x)| *a = x.wrapping_sub(*a));
                pack(&a, 8, frame);
            }
            Op::Reveal { of, to } if to != self.role => {
                let value = &self.circuit.values[of];
                // What stands above a narrow ring depends on masks and value.
                let valid: Vec<u64> = self.share(of)?.iter().map(|x| x & low(value.ring)).collect();
                pack(&valid, value.width(), frame);
            }
            _ => {}
        }
        Ok(())
    }

    fn stage(&mut self, stage: usize, inputs: &[Vec<u64>]) -> Result<()> {
        let circuit = self.circuit;
        for &id in &circuit.stages[stage] {
            let _span = operator(self.span(id));
            let correlations = slice(circuit, &self.prepared.correlations, id).len();
            count(Counter::OfflineBytes, correlations as u64);
            let cell = self.instruction(id, inputs)?;
            self.cells[id] = Some(cell);
            for operand in circuit.instructions[id].op.operands() {
                if circuit.last_use[operand] == id {
                    self.cells[operand] = None;
                }
            }
        }
        Ok(())
    }

    fn missing(id: Id) -> Error {
        Error::Malformed { what: "plan", detail: format!("value {id} is used before it exists") }
    }

    fn share(&self, id: Id) -> Result<&[u64]> {
        match self.cells.get(id) {
            Some(Some(Cell::Share(x))) => Ok(x),
            _ => Err(Self::missing(id)),
        }
    }

    fn masked(&self, id: Id) -> Result<(&[u64], &[u64])> {
        match self.cells.get(id) {
            Some(Some(Cell::Masked { c, r })) => Ok((c, r)),
            _ => Err(Self::missing(id)),
        }
    }

    fn evaluation(&self, id: Id) -> Evaluation<'_> {
        Evaluation {
            permutation: &self.permutation,
            role: self.role,
            id,
            stream: &self.stream,
            bytes: slice(self.circuit, &self.prepared.correlations, id),
        }
    }

    fn instruction(&mut self, id: Id, inputs: &[Vec<u64>]) -> Result<Cell> {
        let circuit = self.circuit;
        let value = &circuit.values[id];
        let op = &circuit.instructions[id].op;
        match op {
            _ if value.kind == Kind::Masked => return self.masked_instruction(id),
            Op::Linear(..) | Op::Diagonal { .. } => return self.linear(id).map(Cell::Share),
            Op::Reveal { of, to } => return self.revealed(id, *of, *to).map(Cell::Share),
            Op::Keep(of) => {
                let kept = self.share(*of)?.to_vec();
                self.outputs.push(kept);
                return Ok(Cell::Share(Vec::new()));
            }
            _ => {}
        }
        let e = self.evaluation(id);
        let map = |x: &[u64], f: &dyn Fn(u64) -> u64| x.iter().map(|&x| f(x)).collect::<Vec<_>>();
        let zip = |a: &[u64], b: &[u64], f: fn(u64, u64) -> u64| {
            a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect::<Vec<_>>()
        };
        let out = match op {
            Op::Input { owner, index } if *owner == self.role => {
                let error = |detail| Error::Input { what: "input", index: *index, detail };
                let x =
                    inputs.get(self.own_index(*index)).ok_or_else(|| error("is missing".into()))?;
                if x.len() != value.len() {
                    return Err(error(format!("{} values, expected {}", x.len(), value.len())));
                }
                x.clone()
            }
            Op::Input { .. } => vec![0; value.len()],
            Op::View { of, view } => view.gather(self.share(*of)?),
            Op::Concat { parts, axis } => self.concat(parts, *axis, value.len())?,
            Op::Add(a, b) => zip(self.share(*a)?, self.share(*b)?, u64::wrapping_add),
            Op::Sub(a, b) => zip(self.share(*a)?, self.share(*b)?, u64::wrapping_sub),
            Op::Times(a, k) => map(self.share(*a)?, &|x| x.wrapping_mul(*k as u64)),
            Op::Relabel(a) => self.share(*a)?.to_vec(),
            Op::SumLast(a) => {
                let row = circuit.values[*a].last().max(1);
                let rows = self.share(*a)?.chunks(row);
                rows.map(|r| r.iter().fold(0u64, |s, x| s.wrapping_add(*x))).collect()
            }
            Op::AddPublic(a, word) => map(self.share(*a)?, &|x| x.wrapping_add(e.public(*word))),
            Op::AddServer(a, p) => match self.role {
                Role::Client => self.share(*a)?.to_vec(),
                Role::Server => {
                    let vector = self.model.parameters()[*p].iter().cycle();
                    self.share(*a)?.iter().zip(vector).map(|(x, v)| x.wrapping_add(*v)).collect()
                }
            },
            Op::Lift(of, drop) => {
                truncate::lift(e, self.masked(*of)?.0, *drop, circuit.values[*of].ring)
            }
            Op::MatMul(x, y) => product::matmul(
                e,
                self.masked(*x)?,
                self.masked(*y)?,
                sizes(circuit, *x, *y),
                value.len(),
            ),
            Op::Mul(x, y) => product::mul(e, self.masked(*x)?, self.masked(*y)?),
            Op::SumSquares(x) => {
                product::sum_squares(e, self.masked(*x)?, circuit.values[*x].last())
            }
            Op::Relu { of, drop, bits } => compare::relu(e, self.masked(*of)?.0, *drop, *bits),
            Op::Sign { of, drop, bits } => compare::sign(e, self.masked(*of)?.0, *drop, *bits),
            Op::Table { of, drop, table } => {
                table::evaluate(e, self.masked(*of)?.0, *drop, &circuit.tables[*table])
            }
            Op::Knots { of, drop, knots, .. } => {
                knots::evaluate(e, self.masked(*of)?.0, *drop, &circuit.knots[*knots])
            }
            Op::Power { of, drop, bits, power } => {
                power::evaluate(e, self.masked(*of)?.0, *drop, *bits, *power)
            }
            Op::Open(_)
            | Op::Shrink(..)
            | Op::Linear(..)
            | Op::Diagonal { .. }
            | Op::Keep(_)
            | Op::Reveal { .. } => {
                return Err(Self::missing(id));
            }
        };
        Ok(Cell::Share(out))
    }

    fn masked_instruction(&mut self, id: Id) -> Result<Cell> {
        let circuit = self.circuit;
        let (c, r) = match &circuit.instructions[id].op {
            Op::Open(_) => {
                let theirs = self.incoming.remove(&id).ok_or_else(|| Self::missing(id))?;
                let ring = low(circuit.values[id].ring);
                let mut cell = self.cells[id].take().ok_or_else(|| Self::missing(id))?;
                if let Cell::Masked { c, .. } = &mut cell {
                    c.iter_mut().zip(&theirs).for_each(|(c, t)| *c = c.wrapping_add(*t) & ring);
                }
                return Ok(cell);
            }
            Op::View { of, view } => {
                let (c, r) = self.masked(*of)?;
                (view.gather(c), view.gather(r))
            }
            Op::Relabel(of) => {
                let (c, r) = self.masked(*of)?;
                (c.to_vec(), r.to_vec())
            }
            Op::Shrink(of, drop) => {
                truncate::shrink(self.evaluation(id), self.masked(*of)?.0, *drop)
            }
            _ => return Err(Self::missing(id)),
        };
        Ok(Cell::Masked { c, r })
    }

    /// Position of a circuit input among this party's own.
    fn own_index(&self, index: usize) -> usize {
        self.circuit.inputs.iter().take(index).filter(|(owner, _)| *owner == self.role).count()
    }

    fn revealed(&mut self, id: Id, of: Id, to: Role) -> Result<Vec<u64>> {
        if to == self.role {
            let mut out = self.incoming.remove(&id).ok_or_else(|| Self::missing(id))?;
            let ring = self.circuit.values[of].ring;
            for (out, own) in out.iter_mut().zip(self.share(of)?) {
                *out = signed(out.wrapping_add(*own), ring) as u64;
            }
            self.outputs.push(out);
        }
        Ok(Vec::new())
    }

    /// `(x_S + E) W + [AB]_S` at the server; the client's part was known before the query.
    fn linear(&mut self, id: Id) -> Result<Vec<u64>> {
        let missing = || Self::missing(id);
        if self.role == Role::Client {
            return self.prepared.products.remove(&id).ok_or_else(missing);
        }
        let circuit = self.circuit;
        let mut out = self.evaluation(id).shares(0, circuit.values[id].len());
        match circuit.instructions[id].op {
            Op::Linear(x, parameter) => {
                let mut e = self.incoming.remove(&id).ok_or_else(missing)?;
                add(&mut e, self.share(x)?);
                let (p, weights) =
                    (&circuit.parameters[parameter], &self.model.parameters()[parameter]);
                add_matmul(&mut out, &e, weights, p.rows, p.stored_columns());
                if circuit.again[id] {
                    self.opened.insert(id, e);
                }
            }
            Op::Diagonal { linear, parameter } => {
                let e = self.opened.get(&linear).ok_or_else(missing)?;
                add(&mut out, &scaled(e, &self.model.parameters()[parameter]));
            }
            _ => return Err(missing()),
        }
        Ok(out)
    }

    fn concat(&self, parts: &[Id], axis: usize, len: usize) -> Result<Vec<u64>> {
        let runs: Vec<(&[u64], usize)> = parts
            .iter()
            .map(|&p| {
                let run: usize = self.circuit.values[p].shape.iter().skip(axis).product();
                Ok((self.share(p)?, run))
            })
            .collect::<Result<_>>()?;
        let mut out = Vec::with_capacity(len);
        let total: usize = runs.iter().map(|(_, run)| run).sum();
        for outer in 0..len.checked_div(total).unwrap_or(0) {
            for (data, run) in &runs {
                out.extend_from_slice(&data[outer * run..(outer + 1) * run]);
            }
        }
        Ok(out)
    }
}

/// The low `width` bytes of every word.
fn pack(words: &[u64], width: usize, out: &mut Vec<u8>) {
    if width == 8 {
        out.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    } else {
        for word in words {
            out.extend_from_slice(&word.to_le_bytes()[..width]);
        }
    }
}

fn unpack(bytes: &[u8], width: usize) -> Vec<u64> {
    let word = |b: &[u8]| {
        let mut le = [0; 8];
        le[..b.len()].copy_from_slice(b);
        u64::from_le_bytes(le)
    };
    bytes.chunks_exact(width).map(word).collect()
}
