//! Writing a circuit: shapes, scales, ring widths and bounds are checked at every step.

use super::{
    Circuit, Encoding, Id, Instruction, Kind, Knots, Op, Operator, Parameter, Table, Value, View,
};
use crate::error::{Error, Result};
use crate::role::Role;

/// An additively shared tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub(crate) Id);

/// A masked tensor: `c = x + r` is public, `r` is shared. Gates consume these; one may feed several gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masked(pub(crate) Id);

/// A matrix that the server holds and the client knows masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(usize);

mod sealed {
    pub trait Handle: Copy {
        fn id(self) -> super::Id;
        fn wrap(id: super::Id) -> Self;
    }
    impl Handle for super::Share {
        fn id(self) -> super::Id {
            self.0
        }
        fn wrap(id: super::Id) -> Self {
            Self(id)
        }
    }
    impl Handle for super::Masked {
        fn id(self) -> super::Id {
            self.0
        }
        fn wrap(id: super::Id) -> Self {
            Self(id)
        }
    }
}
use sealed::Handle;

/// Builds a [`Circuit`]. Every method appends one instruction; instructions are scheduled as early as they can be.
///
/// *Scale* is the number of fraction bits, *ring* the number of valid low bits, *bound* the log2 of a bound on the real value.
/// Bounds propagate in the worst case; [`Builder::calibrate`] replaces one by a measured one.
#[derive(Debug, Default)]
pub struct Builder {
    instructions: Vec<Instruction>,
    values: Vec<Value>,
    parameters: Vec<Parameter>,
    pub(super) tables: Vec<Table>,
    pub(super) knots: Vec<Knots>,
    inputs: Vec<(Role, Id)>,
    outputs: Vec<(Role, Id)>,
    operators: Vec<Operator>,
    operator: Operator,
}

/// log2(2^a + 2^b)
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = (a.max(b), a.min(b));
    high + (low - high).exp2().ln_1p() / std::f64::consts::LN_2
}

fn log2(n: usize) -> f64 {
    (n.max(1) as f64).log2()
}

impl Builder {
    /// An empty circuit.
    #[must_use]
    pub fn new() -> Self {
        let mut builder = Self::default();
        builder.operator("circuit", "");
        builder
    }

    /// Names what follows in reports; a name that no instruction follows is not an operator.
    pub fn operator(&mut self, name: &str, layer: &str) {
        self.operator = Operator { name: name.into(), layer: layer.into() };
    }

    /// The operator's place; it exists from its first instruction on.
    fn tag(&mut self) -> usize {
        self.operators.iter().position(|o| *o == self.operator).unwrap_or_else(|| {
            self.operators.push(self.operator.clone());
            self.operators.len() - 1
        })
    }

    pub(super) fn value(&self, id: Id) -> &Value {
        &self.values[id]
    }

    fn push(&mut self, op: Op, value: Value) -> Id {
        let ready = op.operands().iter().map(|&o| self.instructions[o].stage).max().unwrap_or(0);
        let stage = ready + u32::from(op.talks());
        let tag = self.tag();
        self.instructions.push(Instruction { op, stage, tag });
        self.values.push(value);
        self.values.len() - 1
    }

    pub(super) fn derived(&mut self, op: Op, of: Id, change: impl FnOnce(&mut Value)) -> Id {
        let mut value = self.value(of).clone();
        change(&mut value);
        self.push(op, value)
    }

    /// Refuses a value whose integers may not fit `bits` bits, sign included.
    pub(super) fn fits(
        &self,
        op: &'static str,
        of: Id,
        drop: u32,
        bits: u32,
        ring: u32,
    ) -> Result<()> {
        let v = self.value(of);
        let needed = (v.bound + v.scale as f64 - drop as f64).ceil().max(0.0) as u32 + 1;
        if needed > bits {
            return Err(Error::Range { op, bound: v.bound, scale: v.scale, needed, ring });
        }
        Ok(())
    }

    /// Shape of a value.
    #[must_use]
    pub fn shape<H: Handle>(&self, x: H) -> &[usize] {
        &self.value(x.id()).shape
    }

    /// Fraction bits of a value.
    #[must_use]
    pub fn scale<H: Handle>(&self, x: H) -> u32 {
        self.value(x.id()).scale
    }

    /// An input that `owner` knows. It starts as the sharing (x, 0), which needs no message: whatever is computed from it is
    /// masked before it is opened.
    pub fn input(&mut self, owner: Role, shape: &[usize], scale: u32, bound: f64) -> Share {
        let index = self.inputs.len();
        let value = Value { kind: Kind::Share, shape: shape.to_vec(), scale, ring: 64, bound };
        let id = self.push(Op::Input { owner, index }, value);
        self.inputs.push((owner, id));
        Share(id)
    }

    fn parameter(&mut self, parameter: Parameter) -> usize {
        self.parameters
            .iter()
            .position(|p| p.name == parameter.name && p.encoding == parameter.encoding)
            .unwrap_or_else(|| {
                self.parameters.push(parameter);
                self.parameters.len() - 1
            })
    }

    /// A (rows x columns) matrix of the server, named `name`, at `scale`.
    pub fn weight(&mut self, name: &str, rows: usize, columns: usize, scale: u32) -> Weight {
        let encoding = Encoding::Plain(scale);
        Weight(self.parameter(Parameter {
            name: name.into(),
            rows,
            columns,
            encoding,
            masked: true,
        }))
    }

    /// A matrix with one more column: the mean of every row, at 4 more bits of scale. A product with it gives the mean
    /// of the result's rows without a sum.
    pub fn weight_with_mean(
        &mut self,
        name: &str,
        rows: usize,
        columns: usize,
        scale: u32,
    ) -> Weight {
        let encoding = Encoding::WithMean(scale);
        Weight(self.parameter(Parameter {
            name: name.into(),
            rows,
            columns,
            encoding,
            masked: true,
        }))
    }

    /// Replaces a bound by a calibrated one, when that is smaller. A value outside it makes the result wrong, silently.
    pub fn calibrate<H: Handle>(&mut self, x: H, bound: f64) -> H {
        let value = &mut self.values[x.id()];
        value.bound = value.bound.min(bound);
        x
    }

    /// Another view of the same elements; `view` starts from [`View::of`] the value's shape.
    ///
    /// # Errors
    /// [`Error::Shape`] when the view reaches outside.
    pub fn view<H: Handle>(&mut self, x: H, view: View) -> Result<H> {
        if !view.fits(self.value(x.id()).len()) {
            return Err(Error::Shape {
                op: "view",
                expected: format!("at least what {view:?} reaches"),
                got: format!("{:?}", self.shape(x)),
            });
        }
        let shape = view.shape.clone();
        Ok(H::wrap(self.derived(Op::View { of: x.id(), view }, x.id(), |v| v.shape = shape)))
    }

    /// Joins shares along `axis`; all else must be equal.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Scale`].
    pub fn concat(&mut self, parts: &[Share], axis: usize) -> Result<Share> {
        let Some(first) = parts.first() else {
            return Err(Error::Unsupported { op: "concat", detail: "nothing to join".into() });
        };
        let mut out = self.value(first.0).clone();
        if axis >= out.shape.len() {
            return Err(Error::Shape {
                op: "concat",
                expected: format!("more than {axis} axes"),
                got: format!("{:?}", out.shape),
            });
        }
        out.shape[axis] = 0;
        for part in parts {
            let v = self.value(part.0).clone();
            self.same_scale("concat", *first, *part)?;
            let mut rest = v.shape.clone();
            if let Some(len) = rest.get_mut(axis) {
                out.shape[axis] += *len;
                *len = out.shape[axis];
            }
            if rest != out.shape {
                return Err(Error::Shape {
                    op: "concat",
                    expected: format!("{:?} but for axis {axis}", out.shape),
                    got: format!("{:?}", v.shape),
                });
            }
            out.bound = out.bound.max(v.bound);
            out.ring = out.ring.min(v.ring);
        }
        let parts = parts.iter().map(|p| p.0).collect();
        Ok(Share(self.push(Op::Concat { parts, axis }, out)))
    }

    fn same_scale<H: Handle>(&self, op: &'static str, a: H, b: H) -> Result<()> {
        let (lhs, rhs) = (self.scale(a), self.scale(b));
        if lhs == rhs { Ok(()) } else { Err(Error::Scale { op, lhs, rhs }) }
    }

    fn same_shape<H: Handle>(&self, op: &'static str, a: H, b: H) -> Result<()> {
        if self.shape(a) == self.shape(b) {
            return Ok(());
        }
        let (expected, got) = (format!("{:?}", self.shape(a)), format!("{:?}", self.shape(b)));
        Err(Error::Shape { op, expected, got })
    }

    fn sum(
        &mut self,
        op: &'static str,
        a: Share,
        b: Share,
        make: fn(Id, Id) -> Op,
    ) -> Result<Share> {
        self.same_shape(op, a, b)?;
        self.same_scale(op, a, b)?;
        let (bound, ring) = (self.value(b.0).bound, self.value(b.0).ring);
        Ok(Share(self.derived(make(a.0, b.0), a.0, |v| {
            v.bound = log_add(v.bound, bound);
            v.ring = v.ring.min(ring);
        })))
    }

    /// `a + b`, local.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Scale`].
    pub fn add(&mut self, a: Share, b: Share) -> Result<Share> {
        self.sum("add", a, b, Op::Add)
    }

    /// `a - b`, local.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Scale`].
    pub fn sub(&mut self, a: Share, b: Share) -> Result<Share> {
        self.sum("sub", a, b, Op::Sub)
    }

    /// `k x` for a public integer, local.
    pub fn times(&mut self, x: Share, k: i64) -> Share {
        let bits = (k.unsigned_abs().max(1) as f64).log2();
        Share(self.derived(Op::Times(x.0, k), x.0, |v| v.bound += bits))
    }

    /// The same number with `bits` more fraction bits: multiplied by 2^bits.
    pub fn raise_scale(&mut self, x: Share, bits: u32) -> Share {
        if bits == 0 {
            return x;
        }
        Share(self.derived(Op::Times(x.0, 1i64 << bits.min(62)), x.0, |v| v.scale += bits))
    }

    /// Multiplication by 2^log2 without touching the integers: a smaller scale for a positive `log2`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the scale would become negative.
    pub fn relabel<H: Handle>(&mut self, x: H, log2: i32) -> Result<H> {
        let Some(scale) = self.scale(x).checked_add_signed(-log2) else {
            return Err(Error::Unsupported {
                op: "relabel",
                detail: format!("scale {} minus {log2}", self.scale(x)),
            });
        };
        Ok(H::wrap(self.derived(Op::Relabel(x.id()), x.id(), |v| {
            v.scale = scale;
            v.bound += log2 as f64;
        })))
    }

    /// Sum over the last axis, which becomes 1; local.
    pub fn sum_last(&mut self, x: Share) -> Share {
        Share(self.derived(Op::SumLast(x.0), x.0, |v| {
            v.bound += log2(v.last());
            if let Some(last) = v.shape.last_mut() {
                *last = 1;
            }
        }))
    }

    /// `x + value`, the same public number everywhere; local.
    pub fn add_public(&mut self, x: Share, value: f64) -> Share {
        let word = crate::fixed::encode(value, self.scale(x));
        let bound = value.abs().max(f64::MIN_POSITIVE).log2();
        Share(self.derived(Op::AddPublic(x.0, word), x.0, |v| v.bound = log_add(v.bound, bound)))
    }

    /// `x + name`, a vector of the server added to every row of the last axis; local at the server.
    pub fn add_server(&mut self, x: Share, name: &str, bound: f64) -> Share {
        let encoding = Encoding::Plain(self.scale(x));
        self.add_vector(x, name, self.value(x.0).last(), encoding, bound)
    }

    /// The same for a product with [`Builder::weight_with_mean`]: the last column gets the vector's mean.
    pub fn add_server_with_mean(&mut self, x: Share, name: &str, bound: f64) -> Share {
        let encoding = Encoding::WithMean(self.scale(x));
        self.add_vector(x, name, self.value(x.0).last().saturating_sub(1), encoding, bound)
    }

    fn add_vector(
        &mut self,
        x: Share,
        name: &str,
        columns: usize,
        encoding: Encoding,
        bound: f64,
    ) -> Share {
        let p = self.parameter(Parameter {
            name: name.into(),
            rows: 1,
            columns,
            encoding,
            masked: false,
        });
        Share(self.derived(Op::AddServer(x.0, p), x.0, |v| v.bound = log_add(v.bound, bound)))
    }

    /// Opens `x` under a fresh mask: one round, `ceil(ring / 8)` bytes an element each way.
    ///
    /// # Errors
    /// [`Error::Range`] when |x| 2^scale may reach 2^(ring - 1).
    pub fn open(&mut self, x: Share) -> Result<Masked> {
        let ring = self.value(x.0).ring;
        self.fits("open", x.0, 0, ring, ring)?;
        Ok(Masked(self.derived(Op::Open(x.0), x.0, |v| v.kind = Kind::Masked)))
    }

    /// Forgets all but the low `bits` bits, e.g. before an opening that needs no more.
    ///
    /// # Errors
    /// [`Error::Range`] when the value does not fit.
    pub fn narrow(&mut self, x: Share, bits: u32) -> Result<Share> {
        let ring = self.value(x.0).ring;
        self.fits("narrow", x.0, 0, bits, ring)?;
        Ok(Share(self.derived(Op::Relabel(x.0), x.0, |v| v.ring = v.ring.min(bits))))
    }

    /// Divides by 2^drop with stochastic rounding and stays masked, in a ring of `drop` bits less. Never fails; one correction
    /// (8 bytes) an element.
    ///
    /// # Errors
    /// [`Error::Range`] when nothing would be left.
    pub fn shrink(&mut self, x: Masked, drop: u32) -> Result<Masked> {
        let (ring, scale) = (self.value(x.0).ring, self.scale(x));
        if drop >= ring || drop > scale {
            return Err(Error::Range {
                op: "shrink",
                bound: self.value(x.0).bound,
                scale,
                needed: drop,
                ring,
            });
        }
        Ok(Masked(self.derived(Op::Shrink(x.0, drop), x.0, |v| {
            v.ring -= drop;
            v.scale -= drop;
        })))
    }

    /// Divides by 2^drop with stochastic rounding, back to shares in the full ring. Two corrections (16 bytes) an element.
    ///
    /// # Errors
    /// [`Error::Range`] unless |x| 2^scale < 2^(ring - 2).
    pub fn lift(&mut self, x: Masked, drop: u32) -> Result<Share> {
        let (ring, scale) = (self.value(x.0).ring, self.scale(x));
        self.fits("lift", x.0, 0, ring - 1, ring)?;
        if drop > scale || drop + 2 > ring {
            return Err(Error::Range {
                op: "lift",
                bound: self.value(x.0).bound,
                scale,
                needed: drop,
                ring,
            });
        }
        Ok(Share(self.derived(Op::Lift(x.0, drop), x.0, |v| {
            v.kind = Kind::Share;
            v.ring = 64;
            v.scale -= drop;
        })))
    }

    fn product(&mut self, op: Op, x: Masked, y: Masked, shape: Vec<usize>, terms: usize) -> Share {
        let y = self.value(y.0);
        let (scale, ring, bound) = (y.scale, y.ring, y.bound);
        Share(self.derived(op, x.0, |v| {
            v.kind = Kind::Share;
            v.shape = shape;
            v.scale += scale;
            v.ring = v.ring.min(ring);
            v.bound += bound + log2(terms);
        }))
    }

    /// Matrix product of masked `[.., m, k]` and `[.., k, n]` with equal leading axes. No round; one correction a result.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn matmul(&mut self, x: Masked, y: Masked) -> Result<Share> {
        let (a, b) = (self.shape(x), self.shape(y));
        let n = a.len();
        let fits = n >= 2 && b.len() == n && a[..n - 2] == b[..n - 2] && a[n - 1] == b[n - 2];
        if !fits {
            let (expected, got) =
                (format!("[.., m, k] and [.., k, n], first {a:?}"), format!("{b:?}"));
            return Err(Error::Shape { op: "matmul", expected, got });
        }
        let (terms, mut shape) = (a[n - 1], a.to_vec());
        shape[n - 1] = b[n - 1];
        Ok(self.product(Op::MatMul(x.0, y.0), x, y, shape, terms))
    }

    /// Element-wise product of masked values of one shape. No round; one correction a result.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn mul(&mut self, x: Masked, y: Masked) -> Result<Share> {
        self.same_shape("mul", x, y)?;
        let shape = self.shape(x).to_vec();
        Ok(self.product(Op::Mul(x.0, y.0), x, y, shape, 1))
    }

    /// Sum of squares over the last axis, which becomes 1. No round; one correction a row.
    pub fn sum_squares(&mut self, x: Masked) -> Share {
        let mut shape = self.shape(x).to_vec();
        let terms = self.value(x.0).last();
        if let Some(last) = shape.last_mut() {
            *last = 1;
        }
        self.product(Op::SumSquares(x.0), x, x, shape, terms)
    }

    /// `x W` for the server's matrix. One message of 8 bytes an element of x from the client; one correction a
    /// result; `bound` is the log2 of a calibrated bound on the result.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Unsupported`] for shares outside the full ring.
    pub fn linear(&mut self, x: Share, weight: Weight, bound: f64) -> Result<Share> {
        let p = &self.parameters[weight.0];
        let (rows, columns) = (p.rows, p.stored_columns());
        let scale = match p.encoding {
            Encoding::Plain(s) | Encoding::WithMean(s) => s,
        };
        let v = self.value(x.0);
        if v.last() != rows {
            let (expected, got) = (format!("[.., {rows}]"), format!("{:?}", v.shape));
            return Err(Error::Shape { op: "linear", expected, got });
        }
        if v.ring != 64 {
            let detail =
                format!("the input has {} valid bits; lift it to the full ring first", v.ring);
            return Err(Error::Unsupported { op: "linear", detail });
        }
        Ok(Share(self.derived(Op::Linear(x.0, weight.0), x.0, |v| {
            v.scale += scale;
            v.bound = bound;
            if let Some(last) = v.shape.last_mut() {
                *last = columns;
            }
        })))
    }

    /// `x g`, element by element, for the server's vector `name` at `scale`, where `product` is a [`Builder::linear`] of the same
    /// `x`: it uses that message, so it costs one correction a result and no byte online.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when `product` is not such a product.
    pub fn diagonal(
        &mut self,
        product: Share,
        name: &str,
        scale: u32,
        bound: f64,
    ) -> Result<Share> {
        let Op::Linear(x, _) = self.instructions[product.0].op else {
            let detail = "the first operand is not a product with a server's matrix".into();
            return Err(Error::Unsupported { op: "diagonal", detail });
        };
        let (columns, encoding) = (self.value(x).last(), Encoding::Plain(scale));
        let p = Parameter { name: name.into(), rows: 1, columns, encoding, masked: true };
        let parameter = self.parameter(p);
        let op = Op::Diagonal { linear: product.0, parameter };
        Ok(Share(self.derived(op, x, |v| {
            v.scale += scale;
            v.bound = bound;
        })))
    }

    /// Opens `x` to one party, unmasked: the only instruction that reveals a value. The other party sends 8 bytes an element.
    pub fn reveal(&mut self, x: Share, to: Role) {
        let id = self.derived(Op::Reveal { of: x.0, to }, x.0, |_| {});
        self.outputs.push((to, id));
    }

    /// A value of which each party brings a share modulo 2^64: an input of both.
    ///
    /// # Errors
    /// None: the shapes are equal.
    pub fn shared(&mut self, shape: &[usize], scale: u32, bound: f64) -> Result<Share> {
        let [a, b] = Role::BOTH.map(|owner| self.input(owner, shape, scale, bound));
        let sum = self.add(a, b)?;
        Ok(self.calibrate(sum, bound))
    }

    /// Gives each party its share of `x` modulo 2^64 as an output. No message.
    pub fn keep(&mut self, x: Share) {
        let id = self.derived(Op::Keep(x.0), x.0, |_| {});
        self.outputs.extend(Role::BOTH.map(|role| (role, id)));
    }

    /// Schedules the instructions.
    #[must_use]
    pub fn build(self) -> Circuit {
        Circuit {
            instructions: self.instructions,
            values: self.values,
            parameters: self.parameters,
            tables: self.tables,
            knots: self.knots,
            inputs: self.inputs,
            outputs: self.outputs,
            operators: self.operators,
            stages: Vec::new(),
            offsets: Vec::new(),
            last_use: Vec::new(),
            again: Vec::new(),
            hash: [0; 32],
        }
        .seal()
    }
}
