//! `cipherform bench`: primitives of the ring and the scheme, or a whole model, timed here and now, beside a peer if asked.

mod boot;
mod ckks;
mod harness;
mod keys;
mod machine;
mod peer;
mod soak;

use crate::output::write_json;
use crate::verbs::session::Session;
use crate::verbs::{DEFAULT_MODEL, context, device, load_model};
use anyhow::{Result, bail};
use cipherform_ckks::{Context, Device, Parameters};
use cipherform_nn::Mode;
use cipherform_nn::exec::Progress;
use cipherform_profile::cpu_model;
use cipherform_ring::sample::uniform;
use cipherform_ring::{Baby, GaloisElement, Limbs, RingPoly, SubringPoly};
pub(crate) use harness::cpu_ms;
use harness::{Measured, Row, measure};
use machine::Machine;
use peer::Peer;
use serde_json::json;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// The peers' size: 24 limbs.
const COMPARISON_LEVEL: usize = 23;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to time.
    #[arg(value_enum)]
    what: What,
    /// Device: cpu, cpu:avx512ifma, cpu:avx2, cpu:scalar, cuda:0, ..
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Parameter set of `ring` and `ckks`; `peers16` has the shape that the peers' scripts use.
    #[arg(long, default_value = ckks::COMPARISON_SET)]
    set: String,
    /// Level of `ring` and `ckks`; 23, i.e. 24 limbs, or the highest of a smaller set, unless given.
    #[arg(long)]
    level: Option<usize>,
    /// Model of `nn`.
    #[arg(long, default_value = DEFAULT_MODEL)]
    model: String,
    /// Repetitions of every row.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Threads, or several numbers of them: 1,2. All cores unless given; 1 with --peers.
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Run Lattigo's row after each of ours, in another process with as many threads.
    #[arg(long)]
    peers: bool,
    /// Lattigo's shared library, from the wheel `orion-fhe`: see benches/peers/lattigo.py.
    #[arg(long)]
    peer_lib: Option<PathBuf>,
    /// With `ckks`: bootstrapping only, which takes minutes and up to 14 GiB.
    #[arg(long)]
    boot: bool,
    /// Parameter set of --boot, and of the full bootstraps of `soak`.
    #[arg(long, default_value = "boot16")]
    boot_set: String,
    /// With --boot, and for the full bootstraps of `soak`: the precise mode.
    #[arg(long)]
    precise: bool,
    /// Bootstraps of `soak` in the toy set.
    #[arg(long, default_value_t = 1000)]
    toy: u64,
    /// Bootstraps of `soak` in a full set.
    #[arg(long, default_value_t = 0)]
    full: u64,
    /// Write the rows, or the log of `soak`, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
enum What {
    /// Operations on polynomials.
    Ring,
    /// Operations on ciphertexts.
    Ckks,
    /// One inference.
    Nn,
    /// Thousands of bootstraps of random inputs, each compared with the bound of the noise model.
    Soak,
}

/// Threads of a run.
fn threads(args: &Args) -> Result<Vec<usize>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = match args.threads.as_slice() {
        [] if args.peers => vec![1],
        [] => vec![cores],
        given => given.to_vec(),
    };
    match threads.iter().find(|&&t| t == 0 || t > cores) {
        Some(t) => bail!("{t} threads were asked for, and there are {cores} cores"),
        None => Ok(threads),
    }
}

/// The peer's library, if it was asked for and is there. If it is not, says so loudly.
fn peer_library(args: &Args) -> Option<PathBuf> {
    if !args.peers {
        return None;
    }
    let library = Peer::library(args.peer_lib.as_deref());
    library.map_err(|missing| eprintln!("!!! SKIPPED the peer: {missing:#}")).ok()
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let chosen = device(&args.device)?;
    let threads = threads(args)?;
    let flags = Machine::cpu_flags();
    let cpu = cpu_model().unwrap_or_else(|| "unknown CPU".to_owned());
    let machine = format!("{cpu}, {}", flags.join(" "));
    if args.peers && threads.len() > 1 {
        bail!("--peers compares one number of threads at a time; got {threads:?}");
    }
    println!("{machine}\n{}", chosen.description());
    let rounds = args.runs.max(1);
    let mut report = json!({
        "schema": "cipherform.bench/1", "machine": machine, "cpu_flags": flags,
        "device": chosen.to_string(), "device_description": chosen.description(),
    });
    let (rows, limbs) = match args.what {
        What::Soak => {
            let plan = soak::Plan {
                toy: args.toy,
                full: args.full,
                full_set: &args.boot_set,
                precise: args.precise,
                device: chosen,
                json: args.json.as_deref(),
            };
            return soak::run(&plan, &machine, &flags);
        }
        What::Nn => (nn(args, &threads)?, None),
        What::Ckks if args.boot => {
            let library = peer_library(args);
            let plan = boot::Plan {
                set: &args.boot_set,
                precise: args.precise,
                device: chosen,
                threads: &threads,
                rounds,
                peer: library.as_deref(),
            };
            let (rows, facts) = boot::run(&plan)?;
            report["parameter_set"] = args.boot_set.as_str().into();
            report["bootstrap"] = facts;
            (rows, None)
        }
        What::Ring | What::Ckks => {
            let params = ckks::parameters(&args.set)?;
            let level = args.level.unwrap_or(params.max_level().min(COMPARISON_LEVEL));
            let limbs = params.limbs_at(level);
            println!(
                "{}: N = 2^{}, {limbs} limbs, {} special primes, {} digits",
                params.name(),
                params.log_n(),
                params.special().len(),
                params.digits_at(level).len()
            );
            report["parameter_set"] = params.name().into();
            report["level"] = level.into();
            let rows = if args.what == What::Ring {
                ring(rounds, &params, chosen, level, &threads)?
            } else {
                let mut peer = None;
                if let Some(library) = peer_library(args) {
                    eprintln!("starting {}, which makes its keys first", Peer::NAME);
                    let started =
                        Peer::start(&library, threads.iter().copied().max().unwrap_or(1), None)?;
                    report["peer"] = started.setup.clone();
                    peer = Some(started);
                }
                let plan = ckks::Plan { params, device: chosen, level, threads: &threads, rounds };
                ckks::run(&plan, peer.as_mut())?
            };
            (rows, Some(limbs))
        }
    };
    println!("{}", Measured::head());
    let target = |row: &Measured| {
        row.peer.as_ref()?;
        if row.op == "bootstrap" { boot::target(chosen) } else { ckks::target(row.op, chosen) }
    };
    for row in &rows {
        println!("{}", row.line(target(row)));
    }
    report["rows"] = rows.iter().map(|row| row.json(&args.device, limbs, target(row))).collect();
    write_json(args.json.as_deref(), &report)
}

/// What `change` makes of a polynomial.
fn changed(
    mut x: RingPoly,
    change: impl FnOnce(&mut RingPoly) -> Result<(), cipherform_ring::Error>,
) -> Result<RingPoly> {
    change(&mut x)?;
    Ok(x)
}

/// Primitives of the ring over all limbs of one polynomial; what consumes its operand is timed with a copy made outside.
fn ring(
    rounds: usize,
    params: &Parameters,
    device: Device,
    level: usize,
    threads: &[usize],
) -> Result<Vec<Measured>> {
    let context = Context::new(params.clone(), &device)?;
    let ring = context.ring();
    let q = Limbs::q(params.limbs_at(level));
    let all = Limbs { q: q.q, p: params.special().len() };
    let seed = [0; 32];
    let a = uniform(ring, q, &seed, 0)?;
    let b = uniform(ring, q, &[1; 32], 0)?;
    let extended = uniform(ring, all, &seed, 1)?;
    let digits = a.decompose()?;
    let half = |domain| uniform(ring, all, &seed, domain);
    let key = (0..digits.len() as u64).map(|d| Ok([half(2 * d + 2)?, half(2 * d + 3)?]));
    let key = key.collect::<Result<Vec<_>>>()?;
    let coefficients = a.clone().into_coeff()?;
    let g = GaloisElement::rotation(1, ring.n());
    // Dense weights, 8 baby and 8 giant steps: a stage of bootstrapping's transforms.
    let weight = SubringPoly::from_i64(ring, all, &vec![3; ring.n()])?;
    let weights = vec![vec![Some(&weight); 8]; 8];
    let periodic = SubringPoly::from_i64(ring, q, &[3, 1, -4, 1])?;
    let baby = |k| Baby::Switched { galois: GaloisElement::rotation(k, ring.n()), key: &key };
    let babies: Vec<Baby<'_>> = std::iter::once(Baby::Identity).chain((1..8).map(baby)).collect();
    let bytes = |limbs: Limbs| (limbs.rows() * ring.n() * 8) as u64;
    let (small, large, count) = (bytes(q), bytes(all), digits.len() as u64);
    let mut rows = vec![
        Row::new("product", 3 * small, || Ok(a.product(&b)?)),
        Row::with_setup("add", 3 * small, || Ok(a.clone()), |x| changed(x, |x| x.add_assign(&b))),
        Row::with_setup(
            "mul_add",
            4 * small,
            || Ok(a.clone()),
            |x| changed(x, |x| x.mul_add_assign(&a, &b)),
        ),
        Row::new("tensor", 7 * small, || Ok(RingPoly::tensor([&a, &b], [&b, &a])?)),
        Row::with_setup(
            "mul_integer",
            2 * small,
            || Ok(a.clone()),
            |x| changed(x, |x| x.mul_integer_assign(7)),
        ),
        Row::with_setup(
            "add_multiple",
            3 * small,
            || Ok(b.with_limbs(q)?),
            |x| changed(x, |x| x.add_multiple_assign(&a, 7)),
        ),
        Row::with_setup(
            "mul_periodic",
            2 * small,
            || Ok(a.clone()),
            |x| changed(x, |x| x.mul_subring_assign(&periodic)),
        ),
        Row::with_setup(
            "mul_monomial",
            2 * small,
            || Ok(a.clone()),
            |x| changed(x, |x| x.mul_monomial_assign(5)),
        ),
        Row::with_setup("ntt", 2 * small, || Ok(coefficients.clone()), |c| Ok(c.into_ntt()?)),
        Row::with_setup("intt", 2 * small, || Ok(a.clone()), |a| Ok(a.into_coeff()?)),
        Row::new("mod_up", small + count * large, || Ok(a.decompose()?)),
        Row::new("key_inner_product", (3 * count + 2) * large, || Ok(digits.inner_product(&key)?)),
        Row::with_setup("mod_down", small + large, || Ok(extended.clone()), |x| Ok(x.mod_down()?)),
        Row::with_setup("rescale", 2 * small, || Ok(a.clone()), |a| Ok(a.rescale()?)),
        Row::new("automorphism", 2 * small, || Ok(a.automorphism(g)?)),
        Row::new("key_switch", 3 * small + 2 * count * large, || {
            let pair = a.key_switch(&key, [None, None], None)?;
            Ok(RingPoly::mod_down_many(pair.into(), 0)?)
        }),
        Row::new("key_switch_8", 8 * 3 * small + 2 * count * large, || {
            let pairs = RingPoly::key_switch_many(&[(&a, [None, None]); 8], &key, None)?;
            Ok(RingPoly::mod_down_many(pairs.into_iter().flatten().collect(), 0)?)
        }),
        Row::new("hoisted_sums_8x8", 8 * 2 * count * large + 64 * large + 16 * large, || {
            Ok(digits.hoisted_sums([&a, &a], &babies, &weights)?)
        }),
    ];
    measure(ring, &mut rows, threads, rounds, None)
}

/// One inference, keys made before.
fn nn(args: &Args, threads: &[usize]) -> Result<Vec<Measured>> {
    let model = load_model(&args.model)?;
    let context = context(&model, None, &args.device, Mode::Logits)?;
    let mut session = Session::new(&model, &context, Mode::Logits)?;
    let input = super::profile::sample_input(&model)?;
    let mut rows = vec![Row::new("inference", 0, || {
        session.infer(&input, &mut |_: &Progress| ControlFlow::Continue(()))
    })];
    measure(context.ring(), &mut rows, threads, args.runs.clamp(1, 3), None)
}
