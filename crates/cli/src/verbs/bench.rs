//! `cipherform bench`: primitives of the ring and the scheme, or a whole model, timed here and now.
//!
//! Statistics over time (baselines, regressions) are criterion's job: `cargo bench -p cipherform-benches`.

use crate::output::write_json;
use crate::verbs::session::Session;
use crate::verbs::{DEFAULT_MODEL, context, device, load_model};
use anyhow::Result;
use cipherform_ckks::{
    Context, Decryptor, Encoder, Encryptor, EvaluationKeys, Evaluator, KeyGenerator, KeyKind,
    KeySpec, presets,
};
use cipherform_client::entropy;
use cipherform_nn::exec::Progress;
use cipherform_ring::sample::uniform;
use cipherform_ring::{GaloisElement, Limbs};
use serde_json::json;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to time.
    #[arg(value_enum)]
    what: What,
    /// Device.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Parameter set of `ring` and `ckks`.
    #[arg(long, default_value = "lev16_36")]
    set: String,
    /// Level of `ring` and `ckks`: 23 is 24 limbs, the peers' size.
    #[arg(long, default_value_t = 23)]
    level: usize,
    /// Model of `nn`.
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    /// Repetitions of every row.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Write the rows as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum What {
    Ring,
    Ckks,
    Nn,
}

/// Median wall time in milliseconds.
fn median_ms<T>(runs: usize, mut f: impl FnMut() -> Result<T>) -> Result<f64> {
    median_of(runs, || (), |()| f())
}

/// Median wall time of `f` on what `setup` makes, outside the clock; the first of the runs is not counted.
fn median_of<S, T>(
    runs: usize,
    mut setup: impl FnMut() -> S,
    mut f: impl FnMut(S) -> Result<T>,
) -> Result<f64> {
    drop(f(setup())?);
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs.max(1) {
        let operand = setup();
        let begin = Instant::now();
        let kept = f(operand)?;
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        drop(kept);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let rows = match args.what {
        What::Ring => ring(args)?,
        What::Ckks => ckks(args)?,
        What::Nn => nn(args)?,
    };
    let machine = device(&args.device)?.description();
    println!("{machine}");
    for (op, ms) in &rows {
        println!("{op:<28} {ms:>10.3} ms");
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let of_set = args.what != What::Nn;
    let set = of_set.then_some(&args.set);
    let rows: Vec<_> = rows
        .iter()
        .map(|(op, ms)| {
            json!({
                "op": op, "device": args.device, "threads": threads, "batch": 1,
                "limbs": of_set.then_some(args.level + 1),
                "median_ms": ms,
            })
        })
        .collect();
    write_json(
        args.json.as_deref(),
        &json!({
            "schema": "cipherform.bench/1",
            "machine": machine,
            "parameter_set": set,
            "rows": rows,
        }),
    )
}

/// Primitives of the ring over all limbs of one polynomial; what consumes its operand is timed with a copy made outside.
fn ring(args: &Args) -> Result<Vec<(&'static str, f64)>> {
    let context = Context::new(presets::get(&args.set)?, &device(&args.device)?)?;
    let (ring, runs) = (context.ring(), args.runs);
    let q = Limbs::q(context.params().limbs_at(args.level));
    let all = Limbs { q: q.q, p: context.params().special().len() };
    let seed = [0; 32];
    let a = uniform(ring, q, &seed, 0)?;
    let extended = uniform(ring, all, &seed, 1)?;
    let digits = a.decompose()?;
    let key = [uniform(ring, all, &seed, 2)?, uniform(ring, all, &seed, 3)?];
    let key = vec![key; digits.len()];
    let coefficients = a.clone().into_coeff()?;
    let g = GaloisElement::rotation(1, ring.n());
    Ok(vec![
        ("copy", median_ms(runs, || Ok(a.clone()))?),
        ("ntt", median_of(runs, || coefficients.clone(), |c| Ok(c.into_ntt()?))?),
        ("intt", median_of(runs, || a.clone(), |a| Ok(a.into_coeff()?))?),
        ("mod_up", median_ms(runs, || Ok(a.decompose()?))?),
        ("key_inner_product", median_ms(runs, || Ok(digits.inner_product(&key)?))?),
        ("mod_down", median_of(runs, || extended.clone(), |x| Ok(x.mod_down()?))?),
        ("rescale", median_of(runs, || a.clone(), |a| Ok(a.rescale()?))?),
        ("automorphism", median_ms(runs, || Ok(a.automorphism(g)?))?),
    ])
}

fn ckks(args: &Args) -> Result<Vec<(&'static str, f64)>> {
    let context = Context::new(presets::get(&args.set)?, &device(&args.device)?)?;
    let params = context.params();
    let (level, runs) = (args.level, args.runs);
    let mut rng = entropy()?;
    let generator = KeyGenerator::new(&context);
    let secret = generator.secret_key(&mut rng)?;
    let mut keys = EvaluationKeys::new(&context);
    let rotations: Vec<i64> = (1..=8).collect();
    let kinds = rotations.iter().filter_map(|&k| KeyKind::rotation(k, params.slots()));
    let spec = |kind| KeySpec { kind, level };
    for kind in kinds.chain([KeyKind::Conjugation, KeyKind::Relinearization]) {
        let key = generator.evaluation_key(&secret, spec(kind), &mut rng)?;
        keys.insert(key.expand(&context)?)?;
    }
    let (encoder, evaluator) = (Encoder::new(&context), Evaluator::new(&context));
    let values: Vec<f64> = (0..params.slots()).map(|i| (i as f64 * 0.37).sin()).collect();
    let plaintext = encoder.encode(&values, level, params.scale_at(level))?;
    let public = generator.public_key(&secret, &mut rng)?;
    let encryptor = Encryptor::with_public_key(&context, &public)?;
    let decryptor = Decryptor::new(&context, &secret)?;
    let a = encryptor.encrypt(&plaintext, &mut rng)?;
    let mut rows = Vec::new();
    let mut row = |name, ms| rows.push((name, ms));
    row("encode", median_ms(runs, || Ok(encoder.encode(&values, level, params.scale_at(level))?))?);
    row("encrypt_pk", median_ms(runs, || Ok(encryptor.encrypt(&plaintext, &mut rng)?))?);
    row("ct_pt_mul", median_ms(runs, || Ok(evaluator.mul_plain(&a, &plaintext)?))?);
    row("rescale", median_ms(runs, || Ok(evaluator.rescale(a.clone())?))?);
    let product = || -> Result<_> { Ok(evaluator.relinearize(&evaluator.mul(&a, &a)?, &keys)?) };
    row("ct_ct_mul_relin", median_ms(runs, product)?);
    row("ct_ct_mul_relin_rescale", median_ms(runs, || Ok(evaluator.rescale(product()?)?))?);
    row("rotate", median_ms(runs, || Ok(evaluator.rotate(&a, 1, &keys)?))?);
    row("hoisted_8", median_ms(runs, || Ok(evaluator.hoisted_rotations(&a, &rotations, &keys)?))?);
    row("conjugate", median_ms(runs, || Ok(evaluator.conjugate(&a, &keys)?))?);
    let galois = spec(KeyKind::Conjugation);
    let mut key_rng = entropy()?;
    row(
        "keygen_galois",
        median_ms(runs, || Ok(generator.evaluation_key(&secret, galois, &mut key_rng)?))?,
    );
    row("decrypt", median_ms(runs, || Ok(encoder.decode(&decryptor.decrypt(&a)?)?))?);
    Ok(rows)
}

fn nn(args: &Args) -> Result<Vec<(&'static str, f64)>> {
    let model = load_model(&args.model)?;
    let context = context(&model, None, &args.device)?;
    let mut session = Session::new(&model, &context)?;
    let input = super::profile::sample_input(&model)?;
    let mut go_on = |_: &Progress| ControlFlow::Continue(());
    let inference = median_ms(args.runs.min(3), || session.infer(&input, &mut go_on))?;
    Ok(vec![("inference", inference)])
}
