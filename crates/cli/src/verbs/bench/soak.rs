//! Bootstraps random inputs of all shapes, thousands of times, and compares every slot with the bound of the model.
//!
//! A wrong result of a bootstrap is found by nobody who does not know the input, so it is looked for here: with
//! fresh secrets every few hundred runs, all kinds of bootstraps, and inputs at the ends of their range.

use crate::output::{bar, write_json};
use crate::verbs::bench::keys::generate;
use anyhow::{Result, bail};
use cipherform_ckks::noise::NoiseModel;
use cipherform_ckks::{
    BootstrapKind, BootstrapOptions, Bootstrapper, Ciphertext, Context, Decryptor, Device, Encoder,
    Encryptor, EvaluationKeys, KeyGenerator, SecretKey, presets,
};
use cipherform_client::entropy;
use num_complex::Complex64;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Secrets and keys of the toy set are made anew after so many bootstraps.
const RUNS_PER_SECRET: u64 = 250;

/// log2 of the probability that the model gives a correct bootstrap for exceeding the bound in any slot.
const LOG2_FALSE_ALARM: f64 = -40.0;

/// How the inputs look. Parts of slots are multiples of the bound.
const SHAPES: [&str; 9] =
    ["uniform", "constant", "zero", "one", "minus_one", "signs", "sparse", "periodic", "tiny"];

/// What a run is asked for.
pub(crate) struct Plan<'a> {
    pub(crate) toy: u64,
    pub(crate) full: u64,
    pub(crate) full_set: &'a str,
    /// Whether the full ones are precise.
    pub(crate) precise: bool,
    pub(crate) device: Device,
    pub(crate) json: Option<&'a Path>,
}

/// Set on Ctrl-C; whoever loops looks at it between two bootstraps.
fn interrupt_flag() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let (seen, runtime) =
        (flag.clone(), tokio::runtime::Builder::new_current_thread().enable_io().build()?);
    std::thread::spawn(move || {
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                eprintln!("\ninterrupted: finishing this bootstrap, then the log");
                seen.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(flag)
}

/// A part of a slot, in units of the bound.
fn unit(rng: &mut ChaCha20Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

fn sign(rng: &mut ChaCha20Rng) -> f64 {
    if rng.next_u32() & 1 == 0 { 1.0 } else { -1.0 }
}

/// `slots` values of a shape, real or complex, repeating with `period`.
fn values(
    shape: &str,
    (slots, period): (usize, usize),
    complex: bool,
    bound: f64,
    rng: &mut ChaCha20Rng,
) -> Vec<Complex64> {
    let once: Vec<Complex64> = {
        let mut both = |f: &mut dyn FnMut(&mut ChaCha20Rng) -> f64| {
            Complex64::new(f(rng), if complex { f(rng) } else { 0.0 })
        };
        match shape {
            "constant" => vec![both(&mut unit); period],
            "zero" => vec![Complex64::ZERO; period],
            "one" => vec![both(&mut |_| 1.0); period],
            "minus_one" => vec![both(&mut |_| -1.0); period],
            "signs" => (0..period).map(|_| both(&mut sign)).collect(),
            "sparse" => {
                let mut out = vec![Complex64::ZERO; period];
                let at = (both(&mut unit).re.abs() * (period - 1) as f64) as usize;
                if let Some(slot) = out.get_mut(at) {
                    *slot = both(&mut sign);
                }
                out
            }
            "periodic" => {
                let few: Vec<_> = (0..4).map(|_| both(&mut unit)).collect();
                few.into_iter().cycle().take(period).collect()
            }
            "tiny" => (0..period).map(|_| both(&mut unit) * 2f64.powi(-20)).collect(),
            _ => (0..period).map(|_| both(&mut unit)).collect(),
        }
    };
    once.into_iter().map(|v| v * bound).cycle().take(slots).collect()
}

/// What came out of all runs of one set and one choice of options.
struct Tally {
    set: String,
    options: BootstrapOptions,
    runs: u64,
    wrong: u64,
    seconds: f64,
    /// Largest error of a part, and the largest that is right.
    worst: f64,
    bound: f64,
    failure_log2: f64,
    worst_by_shape: BTreeMap<&'static str, f64>,
}

impl Tally {
    fn json(&self) -> Value {
        let bits: BTreeMap<_, _> =
            self.worst_by_shape.iter().map(|(&shape, error)| (shape, -error.log2())).collect();
        json!({
            "set": self.set, "precise": self.options.precise, "log2_bound": self.options.log2_bound,
            "log2_slots": self.options.log2_slots, "bootstraps": self.runs, "wrong": self.wrong,
            "worst_error": self.worst, "worst_bits": -self.worst.log2(),
            "bound": self.bound, "bound_bits": -self.bound.log2(),
            "failure_log2": self.failure_log2, "seconds": self.seconds, "worst_bits_by_shape": bits,
        })
    }

    fn print(&self) {
        println!(
            "{:<12} precise {:<5} bound 2^{} slots {:<6} {:>6} bootstraps, {} wrong, worst 2^{:.2}, bound 2^{:.2}, {:.0} s",
            self.set,
            self.options.precise,
            self.options.log2_bound,
            self.options.log2_slots.map_or("all".to_owned(), |l| format!("2^{l}")),
            self.runs,
            self.wrong,
            self.worst.log2(),
            self.bound.log2(),
            self.seconds,
        );
    }
}

/// One bootstrapper with keys under one secret.
struct Bench {
    context: Context,
    encoder: Encoder,
    bootstrapper: Bootstrapper,
    secret: SecretKey,
    keys: EvaluationKeys,
    rng: ChaCha20Rng,
}

impl Bench {
    fn new(set: &str, options: BootstrapOptions, device: Device) -> Result<Self> {
        let context = Context::new(presets::get(set)?, &device)?;
        let bootstrapper = Bootstrapper::new(&context, options)?;
        let mut rng = entropy()?;
        let secret = KeyGenerator::new(&context).secret_key(&mut rng)?;
        let keys = generate(&context, &secret, &bootstrapper.keys(), &mut rng)?;
        Ok(Self { encoder: Encoder::new(&context), context, bootstrapper, secret, keys, rng })
    }

    fn renew(&mut self) -> Result<()> {
        self.secret = KeyGenerator::new(&self.context).secret_key(&mut self.rng)?;
        let specs = self.bootstrapper.keys();
        self.keys = generate(&self.context, &self.secret, &specs, &mut self.rng)?;
        Ok(())
    }

    /// The largest error of a part that a correct bootstrap has: that of the sine, and the noise's deviation as often as a
    /// Laplace variable exceeds it in no slot with probability 1 - 2^-40.
    fn bound(&self) -> f64 {
        let params = self.context.params();
        let precision = self.bootstrapper.precision();
        let log2_parts = f64::from(params.log_n());
        let deviations = NoiseModel::new(params).quantile(LOG2_FALSE_ALARM - log2_parts);
        (-precision.sine).exp2() + deviations * (-precision.noise_std).exp2()
    }

    /// Bootstraps once and gives the largest error of a part; infinite for a result at another level or scale.
    fn run(&mut self, kind: BootstrapKind, shape: &str) -> Result<f64> {
        let params = self.context.params();
        let options = self.bootstrapper.options();
        let slots = params.slots();
        let period = options.log2_slots.map_or(slots, |log2| 1 << log2);
        let bound = f64::from(options.log2_bound).exp2();
        let complex = kind == BootstrapKind::Complex;
        let (level, scale) =
            (self.bootstrapper.input_level(), params.scale_at(self.bootstrapper.input_level()));
        let count = if kind == BootstrapKind::RealPair { 2 } else { 1 };
        let want: Vec<_> = (0..count)
            .map(|_| values(shape, (slots, period), complex, bound, &mut self.rng))
            .collect();
        let encryptor = Encryptor::with_secret_key(&self.context, &self.secret)?;
        let mut encrypted = Vec::with_capacity(count);
        for slots in &want {
            let plaintext = self.encoder.encode(slots, level, scale)?;
            encrypted.push(encryptor.encrypt(&plaintext, &mut self.rng)?);
        }
        let got: Vec<Ciphertext> = match encrypted.as_slice() {
            [a, b] => self.bootstrapper.bootstrap_pair(a, b, &self.keys)?.into(),
            [a] if complex => vec![self.bootstrapper.bootstrap(a, &self.keys)?],
            [a] => vec![self.bootstrapper.bootstrap_real(a, &self.keys)?],
            _ => bail!("nothing to bootstrap"),
        };
        let decryptor = Decryptor::new(&self.context, &self.secret)?;
        let mut worst = 0f64;
        for (want, got) in want.iter().zip(&got) {
            let nominal = self.bootstrapper.output_level();
            if got.level() != nominal || (got.scale() - params.scale_at(nominal)).abs() > 0.0 {
                return Ok(f64::INFINITY);
            }
            let found = self.encoder.decode(&decryptor.decrypt(got)?)?;
            let stats = cipherform_ckks::PrecisionStats::compare(want, &found);
            worst = worst.max(stats.max_error);
        }
        Ok(worst)
    }
}

/// Runs `count` bootstraps; `renew` fresh secrets in between.
fn soak(
    (set, options): (&str, BootstrapOptions),
    count: u64,
    renew: bool,
    device: Device,
    interrupted: &AtomicBool,
) -> Result<Tally> {
    let mut bench = Bench::new(set, options, device)?;
    let mut tally = Tally {
        set: set.to_owned(),
        options,
        runs: 0,
        wrong: 0,
        seconds: 0.0,
        worst: 0.0,
        bound: bench.bound(),
        failure_log2: bench.bootstrapper.failure_log2(),
        worst_by_shape: BTreeMap::new(),
    };
    let kinds = [BootstrapKind::Complex, BootstrapKind::RealPair, BootstrapKind::Real];
    let progress = bar(count, set);
    let begin = Instant::now();
    for i in 0..count {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        if renew && i > 0 && i % RUNS_PER_SECRET == 0 {
            bench.renew()?;
        }
        // 3 and 9 share a factor: the shape moves on after each round of kinds.
        let kind = kinds.get(i as usize % kinds.len()).copied().unwrap_or(BootstrapKind::Complex);
        let shape =
            SHAPES.get(i as usize / kinds.len() % SHAPES.len()).copied().unwrap_or("uniform");
        // A bootstrap that refuses is wrong too, and the others still run.
        let error = bench.run(kind, shape).unwrap_or_else(|error| {
            eprintln!("{error:#}");
            f64::INFINITY
        });
        tally.runs += 1;
        // Also true for an error that is not a number.
        if error.partial_cmp(&tally.bound) != Some(std::cmp::Ordering::Less) {
            tally.wrong += 1;
            eprintln!("WRONG: {set} {options:?} {kind:?} {shape}: error {error:e}");
        }
        tally.worst = tally.worst.max(error);
        let worst = tally.worst_by_shape.entry(shape).or_insert(0.0);
        *worst = worst.max(error);
        progress.set_message(format!("{} wrong", tally.wrong));
        progress.inc(1);
    }
    progress.finish_and_clear();
    tally.seconds = begin.elapsed().as_secs_f64();
    tally.print();
    Ok(tally)
}

/// The commit of the source tree, with a mark if it was changed since; `None` outside a repository.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let out = std::process::Command::new("git")
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "HEAD"])?;
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if clean { head } else { format!("{head}, modified") })
}

/// Everything, and the log. Fails if anything was wrong.
pub(crate) fn run(plan: &Plan<'_>, machine: &str, flags: &[&str]) -> Result<()> {
    let interrupted = interrupt_flag()?;
    let all = BootstrapOptions::default();
    let variants = [
        all,
        BootstrapOptions { precise: true, ..all },
        BootstrapOptions { log2_bound: 3, ..all },
        BootstrapOptions { log2_slots: Some(5), ..all },
    ];
    let mut tallies = Vec::new();
    for (i, &options) in variants.iter().enumerate() {
        let share = plan.toy / variants.len() as u64
            + u64::from((i as u64) < plan.toy % variants.len() as u64);
        if share > 0 && !interrupted.load(Ordering::Relaxed) {
            tallies.push(soak(("toy10_boot", options), share, true, plan.device, &interrupted)?);
        }
    }
    if plan.full > 0 && !interrupted.load(Ordering::Relaxed) {
        let options = BootstrapOptions { precise: plan.precise, ..all };
        tallies.push(soak((plan.full_set, options), plan.full, false, plan.device, &interrupted)?);
    }
    let wrong: u64 = tallies.iter().map(|tally| tally.wrong).sum();
    let stopped = interrupted.load(Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
    write_json(
        plan.json,
        &json!({
            "schema": "cipherform.soak/1", "commit": commit(), "unix_time": now, "machine": machine,
            "cpu_flags": flags, "device": plan.device.to_string(), "interrupted": stopped,
            "bootstraps": tallies.iter().map(|tally| tally.runs).sum::<u64>(), "wrong": wrong,
            "log2_false_alarm": LOG2_FALSE_ALARM,
            "runs": tallies.iter().map(Tally::json).collect::<Vec<_>>(),
        }),
    )?;
    if wrong > 0 {
        bail!("{wrong} bootstraps were wrong");
    }
    if stopped {
        bail!("interrupted; nothing was wrong until then");
    }
    Ok(())
}
