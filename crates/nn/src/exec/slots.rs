//! Runs a program on slot vectors in f64: no keys, and no noise unless asked for. It proves the packing and the algebra
//! of a plan, its registers are what an encrypted run is compared with operator by operator, and with the noise model
//! switched on it predicts the precision.

use crate::cost::bootstrap_estimate;
use crate::error::{Error, Result};
use crate::exec::Machine;
use crate::program::{Instruction, Meta, Opcode, Program};
use cipherform_ckks::noise::NoiseModel;
use cipherform_ckks::{BootstrapKind, Parameters};
use num_complex::Complex64;
use std::rc::Rc;

/// The machine whose registers are slot vectors.
#[derive(Debug)]
pub struct Slots<'a> {
    program: &'a Program,
    inputs: Vec<Vec<Complex64>>,
    noise: Option<Noise>,
}

/// Rounding of the scheme, as independent errors in every slot.
#[derive(Debug)]
struct Noise {
    model: NoiseModel,
    /// Standard deviation of what a bootstrap adds.
    refresh: f64,
    /// State of a SplitMix64 generator: a simulation, nothing secret.
    state: u64,
}

impl Noise {
    /// Uniform with the given standard deviation.
    fn sample(&mut self, std: f64) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let unit = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
        (unit - 0.5) * std * 12f64.sqrt()
    }

    /// Adds the error that `instruction` leaves in its result, of standard deviation `std` in each part of a slot.
    fn add(
        &mut self,
        instruction: &Instruction,
        source: Option<Meta>,
        out: Meta,
        values: &mut [Complex64],
    ) {
        let level = source.map_or(out.level, |m| m.level);
        let coefficient = match &instruction.op {
            Opcode::Input(_) | Opcode::Cross(_) => self.model.fresh_secret_key(),
            // One rounding; what the key switches of a sum add before it is far below.
            Opcode::SumRotated(amounts) if amounts.iter().all(|&by| by == 0) => return,
            Opcode::Rotate(_)
            | Opcode::SumRotated(_)
            | Opcode::HoistedRotations(_)
            | Opcode::Conjugate
            | Opcode::Relinearize => self.model.key_switch(level),
            Opcode::Rescale | Opcode::SetLevel { .. } => self.model.rounding(),
            // Its own products round once a level and double what they square.
            Opcode::Polynomial(_) => self.model.rounding() * (1 << (level - out.level)) as f64,
            Opcode::Refresh(_) => 0.0,
            _ => return,
        };
        let std = match &instruction.op {
            Opcode::Refresh(_) => self.refresh,
            _ => self.model.slot(coefficient) / out.scale,
        };
        for v in values {
            *v += Complex64::new(self.sample(std), self.sample(std));
        }
    }
}

impl<'a> Slots<'a> {
    /// Takes the slot vectors that the client would encrypt.
    #[must_use]
    pub fn new(program: &'a Program, inputs: Vec<Vec<Complex64>>) -> Self {
        Self { program, inputs, noise: None }
    }

    /// Adds the errors of the scheme's noise model: fresh encryption under the secret key, and rounding at every rescale
    /// and key switch; bootstraps add their noise and the sine's error, as if that were random.
    ///
    /// # Errors
    /// When the set cannot bootstrap as the program asks.
    pub fn with_noise(mut self, params: &Parameters) -> Result<Self> {
        let refresh = bootstrap_estimate(params, self.program)?.map_or(0.0, |b| {
            let bits = b.precision;
            // Of slots spread over the bound, the sine's error is nearly a cosine of a random phase.
            (-bits.noise_std).exp2().hypot((-bits.sine).exp2() / 2f64.sqrt())
        });
        self.noise = Some(Noise { model: NoiseModel::new(params), refresh, state: 0 });
        Ok(self)
    }

    /// What a crossing does to slots: its function, if they are within its bound.
    fn crossed(&self, a: &[Complex64], id: usize) -> Result<Vec<Complex64>> {
        let crossing = &self.program.crossings[id];
        let (value, bound) =
            (a.iter().map(|z| z.norm()).fold(0.0, f64::max), crossing.log2_bound.exp2());
        if value > bound {
            return Err(Error::RefreshBound { value, bound });
        }
        Ok(crossing.evaluate(a))
    }

    /// What a bootstrap does to slots: nothing, if they are within its bound.
    fn refreshed(&self, a: &[Complex64], kind: BootstrapKind) -> Result<Vec<Complex64>> {
        let options = self.program.refresh().unwrap_or_default();
        let bound = f64::from(options.log2_bound).exp2();
        let real = kind != BootstrapKind::Complex;
        let value = a
            .iter()
            .map(|z| if real { z.re.abs() } else { z.re.abs().max(z.im.abs()) })
            .fold(0.0, f64::max);
        if value > bound {
            return Err(Error::RefreshBound { value, bound });
        }
        Ok(a.iter().map(|&z| if real { z.re.into() } else { z }).collect())
    }
}

fn rotated(a: &[Complex64], by: i64) -> Vec<Complex64> {
    let mut out = a.to_vec();
    out.rotate_left(by.rem_euclid(a.len() as i64) as usize);
    out
}

fn zip(
    a: &[Complex64],
    b: &[Complex64],
    f: impl Fn(Complex64, Complex64) -> Complex64,
) -> Vec<Complex64> {
    // `b` may be one period.
    a.iter().zip(b.iter().cycle()).map(|(&x, &y)| f(x, y)).collect()
}

fn chebyshev(coefficients: &[f64], x: Complex64) -> Complex64 {
    // Clenshaw's recurrence.
    let (mut b1, mut b2) = (Complex64::default(), Complex64::default());
    for &c in coefficients.iter().skip(1).rev() {
        (b1, b2) = (x * b1 * 2.0 - b2 + c, b1);
    }
    x * b1 - b2 + coefficients.first().copied().unwrap_or_default()
}

impl Machine for Slots<'_> {
    type Value = Vec<Complex64>;

    fn run(
        &mut self,
        instruction: &Instruction,
        args: Vec<Rc<Self::Value>>,
    ) -> Result<Vec<Self::Value>> {
        let constant =
            |id: &crate::program::ConstantId| &self.program.constants[id.0 as usize].values;
        let a = args.first().map_or(&[][..], |v| v.as_slice());
        let b = args.get(1).map_or(&[][..], |v| v.as_slice());
        let single = match &instruction.op {
            Opcode::Input(index) => self.inputs[*index].clone(),
            Opcode::Rotate(by) => rotated(a, *by),
            Opcode::HoistedRotations(_) => Vec::new(),
            Opcode::SumRotated(amounts) => {
                let mut sum = vec![Complex64::default(); a.len()];
                for (arg, &by) in args.iter().zip(amounts) {
                    for (s, v) in sum.iter_mut().zip(rotated(arg, by)) {
                        *s += v;
                    }
                }
                sum
            }
            Opcode::Conjugate => a.iter().map(Complex64::conj).collect(),
            Opcode::MulImaginary(k) => {
                let unit = Complex64::i().powu(u32::from(*k));
                a.iter().map(|x| x * unit).collect()
            }
            Opcode::Add => zip(a, b, |x, y| x + y),
            Opcode::Sub => zip(a, b, |x, y| x - y),
            Opcode::AddPlain(id) => zip(a, constant(id), |x, y| x + y),
            Opcode::AddNumber(x) => a.iter().map(|v| v + x).collect(),
            Opcode::DotPlain(ids) => {
                let mut sum = vec![Complex64::default(); a.len()];
                for (arg, id) in args.iter().zip(ids) {
                    for ((s, x), y) in
                        sum.iter_mut().zip(arg.iter()).zip(constant(id).iter().cycle())
                    {
                        *s += x * y;
                    }
                }
                sum
            }
            Opcode::MulInteger(k) => a.iter().map(|v| v * (*k as f64)).collect(),
            Opcode::Tensor => zip(a, b, |x, y| x * y),
            Opcode::Relinearize | Opcode::Rescale => a.to_vec(),
            Opcode::SetLevel { factor, .. } => a.iter().map(|v| v * factor).collect(),
            Opcode::Polynomial(id) => {
                let coefficients = &self.program.polynomials[id.0 as usize];
                a.iter().map(|&x| chebyshev(coefficients, x)).collect()
            }
            Opcode::Refresh(kind) => self.refreshed(a, *kind)?,
            Opcode::Cross(id) => self.crossed(a, id.0 as usize)?,
        };
        let mut out = match &instruction.op {
            Opcode::HoistedRotations(by) => by.iter().map(|&by| rotated(a, by)).collect(),
            Opcode::Refresh(kind @ BootstrapKind::RealPair) => {
                vec![single, self.refreshed(b, *kind)?]
            }
            _ => vec![single],
        };
        if let Some(noise) = &mut self.noise {
            let source = instruction.args.first().map(|&r| self.program.meta(r));
            let meta = self.program.meta(instruction.out);
            for values in &mut out {
                noise.add(instruction, source, meta, values);
            }
        }
        Ok(out)
    }
}
