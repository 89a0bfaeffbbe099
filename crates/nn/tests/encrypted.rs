//! The encrypted executor against the clear one and against the plan's promises, on toy parameters (not secure).
//!
//! | test | what it shows |
//! | --- | --- |
//! | `logits_and_costs` | encrypted logits within the predicted precision; every operator's counters as predicted |
//! | `two_layers_with_bootstraps` | the same where levels run out and ciphertexts are refreshed |
//! | `inputs_of_any_length` | the same for inputs of other lengths, one program for all of them |
//! | `layout_pair` | the same for models too large for layout P-tile: norms before and after, causal, every kind of head |
//! | `one_layer_of_mpcvit` | the same at full size and 128 bits of security: asked for by name |
//! | `unhoisting_is_noticed` | a rotation taken out of its hoisted group makes the comparison fail |
//! | `golden_counts` | key switches of three operators, counted by hand |
//! | `bad_inputs` | wrong count, level, missing key, cancellation: typed errors |
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "figures of long tests")]

use cipherform_ckks::{
    Ciphertext, Context, Decryptor, Device, Encoder, Encryptor, EvaluationKeys, KeyGenerator,
    KeyKind, SecretKey, presets,
};
use cipherform_nn::config::{NormOrder, Pooling, Structure};
use cipherform_nn::estimate::precision_bits;
use cipherform_nn::exec::{ClearExecutor, Encoded, Encrypted, Machine, Progress, execute};
use cipherform_nn::program::{Instruction, Opcode};
use cipherform_nn::{Error, Functions, HeModel, Matrix, Plan, RandomModel, Result, random_input};
use cipherform_profile::{Cost, Counter, Recording, SpanKind, record};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Instant;

struct Bench {
    model: cipherform_nn::Model,
    he: HeModel,
    keys: EvaluationKeys,
    secret: SecretKey,
    rng: ChaCha20Rng,
}

fn small() -> RandomModel {
    RandomModel {
        tokens: 8,
        width: 16,
        heads: 2,
        ffn: 32,
        classes: 4,
        scaled_heads: vec![1],
        seed: 5,
        ..RandomModel::default()
    }
}

/// A fixed seed, for tests only.
fn insecure_test_rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed([7; 32])
}

impl Bench {
    fn new(device: Device, random: &RandomModel) -> Self {
        Self::with_set("toy11_deep", device, random)
    }

    fn with_set(set: &str, device: Device, random: &RandomModel) -> Self {
        let model = random.generate().unwrap();
        let context = Context::new(presets::get(set).unwrap(), &device).unwrap();
        let he = HeModel::new(&model, &context).unwrap();
        let mut rng = insecure_test_rng();
        let generator = KeyGenerator::new(&context);
        let secret = generator.secret_key(&mut rng).unwrap();
        let mut keys = EvaluationKeys::new(&context);
        for &spec in he.description().plan().keys() {
            let key = generator.evaluation_key(&secret, spec, &mut rng).unwrap();
            keys.insert(key.expand(&context).unwrap()).unwrap();
        }
        // What was planned of the device's memory is what is there.
        let planned = he.device_bytes();
        assert_eq!((planned.keys, planned.constants), (keys.bytes(), he.plaintext_bytes()));
        Self { model, he, keys, secret, rng }
    }

    fn encrypt(&mut self, input: &Matrix) -> Vec<Ciphertext> {
        let context = self.he.context();
        let encryptor = Encryptor::with_secret_key(context, &self.secret).unwrap();
        let specs = self.he.description().plan().inputs();
        let slots = self.he.description().encode(input).unwrap();
        slots
            .iter()
            .zip(specs)
            .map(|(slots, spec)| {
                let scale = context.params().scale_at(spec.level);
                let plain = Encoder::new(context).encode(slots, spec.level, scale).unwrap();
                encryptor.encrypt(&plain, &mut self.rng).unwrap()
            })
            .collect()
    }

    fn decode(&self, result: &Ciphertext) -> Vec<f64> {
        let context = self.he.context();
        let plain = Decryptor::new(context, &self.secret).unwrap().decrypt(result).unwrap();
        let slots = Encoder::new(context).decode(&plain).unwrap();
        self.he.description().decode(&slots).unwrap()
    }
}

fn go_on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Inclusive cost of each operator span, in order.
fn operators(recording: &Recording) -> Vec<(String, Cost)> {
    let spans = recording.spans();
    (0..spans.len())
        .filter(|&i| spans[i].kind == SpanKind::Operator)
        .map(|i| (spans[i].operator.name.clone(), recording.inclusive(i)))
        .collect()
}

fn logits_and_costs_on(mut bench: Bench, inputs: u64) {
    let model = bench.model.clone();
    let clear = ClearExecutor::new(&model, Functions::Polynomial).unwrap();
    let plan = bench.he.description().plan().clone();
    let params = bench.he.params().clone();
    let predicted = precision_bits(&bench.model, &params, &plan, bench.he.program()).unwrap();
    for index in 0..inputs {
        let input = random_input(&bench.model.config, 9, index).unwrap();
        let want = clear.run(&input).unwrap();
        let encrypted = bench.encrypt(&input);
        let length = bench.he.length(input.rows()).unwrap();
        let begin = Instant::now();
        let (result, recording) =
            record(|| bench.he.run(&bench.keys, encrypted, &length, &mut go_on));
        println!("run {:?}, precision predicted 2^-{predicted:.1}", begin.elapsed());
        let got = bench.decode(&result.unwrap()[0]);
        let error = want.iter().zip(&got).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("largest error of a logit 2^{:.1}", error.log2());
        // The simulation draws other errors than the scheme, and both maxima are over four logits. Over 24 runs with
        // other keys the scheme was between 0.8 bits better and 3.2 bits worse, 1.4 on average: four bits.
        assert!(
            -error.log2() > predicted - 4.0,
            "error 2^{:.1}, predicted 2^-{predicted:.1}: {want:?} {got:?}",
            error.log2()
        );
        let observed = operators(&recording);
        assert_eq!(observed.len(), plan.steps().len());
        for (step, (name, cost)) in plan.steps().iter().zip(&observed) {
            assert_eq!(&step.operator, name);
            step.cost.check(cost).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        plan.cost().check(&recording.total()).unwrap();
    }
}

#[test]
fn logits_and_costs_cpu() {
    logits_and_costs_on(Bench::new(Device::cpu(), &small()), 3);
}

#[test]
fn logits_and_costs_reference() {
    logits_and_costs_on(Bench::new(Device::reference(), &small()), 1);
}

#[test]
fn two_layers_with_bootstraps() {
    let model = RandomModel { layers: 2, scaled_heads: vec![], ..small() };
    let bench = Bench::with_set("toy11_boot", Device::cpu(), &model);
    let cost = bench.he.description().plan().cost();
    assert!(cost.get(Counter::Bootstraps) >= 3, "{cost:?}");
    logits_and_costs_on(bench, 2);
}

#[test]
fn layout_pair() {
    let base =
        RandomModel { tokens: 16, width: 32, ffn: 64, layers: 2, scaled_heads: vec![], ..small() };
    let structure = |norm, parallel, causal, pooling| Structure {
        embedding_norm: norm == NormOrder::Post,
        norm,
        parallel,
        causal,
        pooling,
    };
    let bert = structure(NormOrder::Post, false, false, Pooling::Mean);
    let pythia = structure(NormOrder::Pre, true, true, Pooling::Tokens);
    for model in [
        base.clone(),
        RandomModel { structure: bert, undivided: true, shifted: true, ..base.clone() },
        RandomModel { structure: pythia, ..base },
    ] {
        let bench = Bench::with_set("toy11_boot", Device::cpu(), &model);
        let plan = bench.he.description().plan();
        assert_eq!(plan.layout().name(), "P-pair");
        assert!(plan.cost().get(Counter::Bootstraps) >= 2, "{:?}", plan.cost());
        logits_and_costs_on(bench, 1);
    }
}

#[test]
#[ignore = "minutes and many gigabytes"]
fn one_layer_of_mpcvit() {
    let set = std::env::var("CIPHERFORM_SET").unwrap_or_else(|_| "boot16".to_owned());
    let model = RandomModel { layers: 1, ..RandomModel::literature("mpcvit").unwrap() };
    let begin = Instant::now();
    let bench = Bench::with_set(&set, Device::cpu(), &model);
    let plan = bench.he.description().plan();
    println!("RANDOM WEIGHTS, {set}: keys and constants in {:?}", begin.elapsed());
    println!("{:?}, {:?}", plan.cost(), bench.he.device_bytes());
    println!("predicted {:.1} s", plan.predicted_ms() / 1e3);
    logits_and_costs_on(bench, 1);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("with the predicted precision and equal counts; {peak}");
}

#[test]
fn inputs_of_any_length() {
    for (undivided, shifted) in [(true, true), (false, false)] {
        let model = RandomModel { variable: true, undivided, shifted, ..small() };
        let bench = Bench::new(Device::cpu(), &model);
        let constants = bench.he.program().constants();
        let varying = constants.iter().filter(|c| c.varies).map(|c| c.bytes(bench.he.params()));
        assert!(bench.he.device_bytes().lengths >= varying.sum());
        for tokens in [0, 9, usize::MAX] {
            let refused = bench.he.length(tokens).unwrap_err();
            assert!(matches!(refused, Error::InputLength { limit: 8, .. }), "{refused}");
        }
        logits_and_costs_on(bench, 6);
    }
    let fixed = Bench::new(Device::cpu(), &small());
    assert_eq!(fixed.he.device_bytes().lengths, 0);
    assert!(matches!(fixed.he.length(7), Err(Error::FixedLength { length: 8, .. })));
}

/// Runs like the real machine but rotates one hoisted amount on its own.
struct Unhoisted<'a> {
    inner: Encrypted<'a>,
    evaluator: cipherform_ckks::Evaluator,
    keys: &'a EvaluationKeys,
    done: bool,
}

impl Machine for Unhoisted<'_> {
    type Value = Ciphertext;

    fn run(
        &mut self,
        instruction: &Instruction,
        args: Vec<Rc<Ciphertext>>,
    ) -> Result<Vec<Ciphertext>> {
        if let Opcode::HoistedRotations(amounts) = &instruction.op
            && !self.done
        {
            self.done = true;
            let source = &args[0];
            let (first, rest) = amounts.split_first().unwrap();
            let mut out = vec![self.evaluator.rotate(source, *first, self.keys)?];
            out.extend(self.evaluator.hoisted_rotations(source, rest, self.keys)?);
            return Ok(out);
        }
        self.inner.run(instruction, args)
    }
}

#[test]
fn unhoisting_is_noticed() {
    let mut bench = Bench::new(Device::cpu(), &small());
    let input = random_input(&bench.model.config, 9, 0).unwrap();
    let inputs = bench.encrypt(&input);
    let program = bench.he.program();
    let encoded = Encoded::new(program, bench.he.context()).unwrap();
    let mut machine = Unhoisted {
        inner: Encrypted::new(&encoded, &bench.keys, inputs),
        evaluator: cipherform_ckks::Evaluator::new(bench.he.context()),
        keys: &bench.keys,
        done: false,
    };
    let (result, recording) = record(|| execute(program, &mut machine, &[], &mut go_on));
    result.unwrap();
    let plan = bench.he.description().plan();
    let mismatch = plan.cost().check(&recording.total()).unwrap_err();
    let counters: Vec<Counter> = mismatch.0.iter().map(|row| row.0).collect();
    assert_eq!(counters, [Counter::Hoisted, Counter::LimbNtts], "{mismatch}");
}

#[test]
fn golden_counts() {
    // Fashion-MNIST's shape: 49 tokens in 32 pairs, blocks of 64 in rows of 1024, 4 heads of 16, 16 key blocks, 4 tiles.
    let model = RandomModel {
        tokens: 49,
        width: 64,
        heads: 4,
        ffn: 128,
        scaled_heads: vec![3],
        ..RandomModel::default()
    };
    let model = model.generate().unwrap();
    let params = presets::get("lev16_36").unwrap();
    let (plan, _) = Plan::build(&model, &params).unwrap();
    let count = |operator: &str| {
        let step = plan.steps().iter().find(|s| s.operator == operator).unwrap();
        [Counter::Rotations, Counter::Hoisted, Counter::Relinearizations, Counter::CtCt]
            .map(|c| step.cost.get(c))
            .into_iter()
            .chain([step.cost.get(Counter::CtPt), step.cost.get(Counter::Rescales)])
            .collect::<Vec<_>>()
    };
    // Babies 1..7 hoisted; three matrices of 8 giant steps, 7 rotations each; one copy of the query to the other half
    // of the key blocks; 64 diagonals a matrix; one rescale a matrix.
    assert_eq!(count("attention.qkv"), [7 + 3 * 7 + 1, 7, 0, 0, 3 * 64, 3]);
    // For each of 4 tiles: a product, 4 rotations to sum 16 features, a mask; then a tree of 3 moves.
    assert_eq!(count("attention.scores"), [4 * 4 + 3, 0, 4, 4, 4, 8]);
    // Doubling over 16 key blocks is 4 rotations; one more for the second shift; a conjugation for each of the two.
    assert_eq!(count("attention.key_tiles"), [4 + 1 + 2, 0, 0, 0, 0, 0]);
}

#[test]
fn bad_inputs() {
    let mut bench = Bench::new(Device::cpu(), &small());
    let input = random_input(&bench.model.config, 9, 0).unwrap();
    let inputs = bench.encrypt(&input);

    let length = bench.he.length(input.rows()).unwrap();
    let few = vec![inputs[0].clone()];
    let refused = bench.he.run(&bench.keys, few, &length, &mut go_on);
    assert!(matches!(refused, Err(Error::WrongInputs { .. })));
    let swapped = vec![inputs[1].clone(), inputs[0].clone()];
    let error = bench.he.run(&bench.keys, swapped, &length, &mut go_on).unwrap_err();
    assert!(error.to_string().contains("enters at level"), "{error}");

    let context = bench.he.context();
    let mut partial = EvaluationKeys::new(context);
    let generator = KeyGenerator::new(context);
    for &spec in bench.he.description().plan().keys() {
        if spec.kind != KeyKind::Conjugation {
            let key = generator.evaluation_key(&bench.secret, spec, &mut bench.rng).unwrap();
            partial.insert(key.expand(context).unwrap()).unwrap();
        }
    }
    let error = bench.he.run(&partial, inputs.clone(), &length, &mut go_on).unwrap_err();
    assert!(matches!(error, Error::Ckks(cipherform_ckks::Error::MissingKey { .. })), "{error}");

    let mut stop = |p: &Progress| {
        if p.step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let error = bench.he.run(&bench.keys, inputs, &length, &mut stop).unwrap_err();
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");

    let mut wild = input.clone();
    wild.data_mut().fill(1e6);
    assert!(matches!(bench.he.description().encode(&wild), Err(Error::OutOfRange { .. })));
    wild.data_mut().fill(f64::NAN);
    assert!(matches!(bench.he.description().encode(&wild), Err(Error::NotFinite { .. })));
}
