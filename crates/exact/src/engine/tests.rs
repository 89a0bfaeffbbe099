use super::*;
use crate::noise::scale_for;
use crate::params::least_noise;
use cipherform_ckks::{
    Context, Device, Encoder, Encryptor, KeyGenerator, KeySpec, Parameters, presets,
};
use cipherform_profile::record;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use tfhe::core_crypto::commons::noise_formulas as formulas;
use tfhe::core_crypto::prelude::{
    DecompositionBaseLog, DecompositionLevelCount, GlweDimension, LweDimension, LweSecretKey,
    PolynomialSize, decrypt_lwe_ciphertext,
};

/// Largest difference of logits in these tests.
const RANGE: f64 = 24.0;

struct Chain {
    context: Context,
    secret: cipherform_ckks::SecretKey,
    label: LabelSecret,
    ring_keys: EvaluationKeys,
    keys: LabelKeys,
    rng: ChaCha20Rng,
}

impl Chain {
    /// Keys of one client, through their bytes.
    fn new(set: &str, seed: u8) -> Self {
        let context = Context::new(presets::get(set).unwrap(), &Device::cpu()).unwrap();
        let mut rng = ChaCha20Rng::from_seed([seed; 32]);
        let generator = KeyGenerator::new(&context);
        let secret = generator.secret_key(&mut rng).unwrap();
        let mut ring_keys = EvaluationKeys::new(&context);
        let key = generator.evaluation_key(&secret, KeySpec::hand_over(), &mut rng).unwrap();
        ring_keys.insert(key.expand(&context).unwrap()).unwrap();
        let label = LabelSecret::new(&secret).unwrap();
        let step = LabelParameters::new(context.params(), 4).unwrap();
        let seeded = label.keys(&step, &mut rng).unwrap();
        let bytes = seeded.to_bytes();
        assert_eq!(bytes.len(), step.seeded_key_bytes());
        let keys = SeededLabelKeys::from_bytes(&step, &bytes).unwrap().expand().unwrap();
        Self { context, secret, label, ring_keys, keys, rng }
    }

    fn step(&self, classes: usize) -> LabelParameters {
        LabelParameters::new(self.context.params(), classes).unwrap()
    }

    /// Each logit as the mean of slots that differ, as a head without rotations leaves it.
    fn encrypt(&mut self, step: &LabelParameters, logits: &[f64]) -> Vec<Ciphertext> {
        let scale = scale_for(step, RANGE).unwrap();
        let encoder = Encoder::new(&self.context);
        let encryptor = Encryptor::with_secret_key(&self.context, &self.secret).unwrap();
        let encrypt = |&z: &f64| {
            let plain = encoder.encode(&[z + 3.0, z - 3.0], 0, scale).unwrap();
            encryptor.encrypt(&plain, &mut self.rng).unwrap()
        };
        logits.iter().map(encrypt).collect()
    }

    fn run(&mut self, logits: &[f64]) -> usize {
        let step = self.step(logits.len());
        let ciphertexts = self.encrypt(&step, logits);
        let evaluator = Evaluator::new(&self.context);
        let mut go_on = |_| ControlFlow::Continue(());
        let run =
            || evaluate(&step, &evaluator, &self.ring_keys, &self.keys, &ciphertexts, &mut go_on);
        let (label, recording) = record(run);
        let predicted = step.stages().iter().map(|s| s.cost).sum::<cipherform_profile::Cost>();
        predicted.check(&recording.total()).unwrap();
        let bytes = label.unwrap().to_bytes();
        assert_eq!(bytes.len(), step.label_bytes());
        EncryptedLabel::from_bytes(&step, &bytes).unwrap().decrypt(&step, &self.label).unwrap()
    }
}

fn uniform(rng: &mut ChaCha20Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Box-Muller.
fn normal(rng: &mut ChaCha20Rng) -> f64 {
    let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(rng)).cos()
}

fn largest(logits: &[f64]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a))).unwrap()
}

/// Every number of classes once, with the winner in every place, at the ends of the range, and with equal logits.
#[test]
fn the_largest_logit_wins_through_the_whole_chain() {
    let mut chain = Chain::new("toy11_lev", 1);
    for classes in [2, 3, 5, 8, 16] {
        let mut logits: Vec<f64> = (0..classes).map(|i| ((i * 7) % 5) as f64 - 11.0).collect();
        let winner = classes * 3 % 7 % classes;
        logits[winner] = 11.0;
        assert_eq!(chain.run(&logits), winner, "{logits:?}");
    }
    assert_eq!(chain.run(&[11.9, -11.9]), 0);
    assert_eq!(chain.run(&[-11.9, 11.9]), 1);
    for _ in 0..4 {
        // Equal logits: some class wins, and it is one of the equal ones.
        assert!(chain.run(&[2.0, 2.0, -9.0]) < 2);
    }
}

/// More than sixteen classes, digit by digit, the winner in every part of the range and with a reply of two digits.
#[test]
fn many_classes_are_compared_digit_by_digit() {
    let mut chain = Chain::new("toy11_lev", 10);
    let mut logits: Vec<f64> = (0..17).map(|i| f64::from(i * 5 % 7) - 4.0).collect();
    // The range bounds logits less their mean.
    let mean = logits.iter().sum::<f64>() / 17.0;
    for z in &mut logits {
        *z -= mean;
    }
    for winner in [0, 16] {
        let mut logits = logits.clone();
        logits[winner] = 9.0;
        assert_eq!(chain.run(&logits), winner, "{logits:?}");
    }
}

/// As [`many_classes_are_compared_digit_by_digit`], of as many classes as there may be.
#[test]
#[ignore = "a minute"]
fn a_hundred_and_twenty_eight_classes() {
    let mut chain = Chain::new("toy11_lev", 11);
    for classes in [33, 100, 128] {
        let mut logits: Vec<f64> =
            (0..classes).map(|i| f64::from(i * 37 % 101) * 0.1 - 5.0).collect();
        let winner = classes as usize * 3 / 4;
        logits[winner] = 9.0;
        assert_eq!(chain.run(&logits), winner);
    }
}

/// Samples without noise: the label is that of the first largest of the leading bits, whatever is equal.
#[test]
fn of_equal_values_the_smallest_class_stays() {
    let mut chain = Chain::new("toy11_lev", 12);
    let step = chain.step(20);
    for case in 0..2 {
        // Few different values, so that several are the largest; in steps of the grid around a quarter of a turn.
        let values: Vec<i64> = (0..20)
            .map(|_| if case == 0 { 8 * i64::from(chain.rng.next_u32() % 3) } else { -1024 })
            .collect();
        let trivial = |&v: &i64| {
            let zero = LweCiphertext::new(0, LweSize(SMALL_DIMENSION + 1), NATIVE);
            shifted(zero, (v << DROPPED) as u64)
        };
        let samples: Vec<Sample> = values.iter().map(trivial).collect();
        let bits = eliminate::bits(&chain.keys, &samples);
        let digits = eliminate::label(&step, &chain.keys, &bits);
        let words = digits.into_iter().flat_map(Sample::into_container).collect();
        let label = EncryptedLabel::new(&step, chain.keys.secret_id(), words);
        let want = (0..20).rev().max_by_key(|&i| values[i]).unwrap();
        assert_eq!(label.decrypt(&step, &chain.label).unwrap(), want, "{values:?}");
    }
}

/// A real set: dimension 4096 under a key that the security table allows.
#[test]
fn a_secure_set_gives_the_label() {
    let mut chain = Chain::new("lev14", 2);
    for winner in 0..3 {
        let mut logits = [-1.0, 0.5, -4.0];
        logits[winner] = 3.0;
        assert_eq!(chain.run(&logits), winner);
    }
}

/// Noise of the bridge, measured: 96 logits; the variance of 96 samples is within 5 sqrt(2/96) of the true one.
#[test]
fn the_noise_before_the_comparison_is_as_predicted() {
    let mut chain = Chain::new("lev14", 3);
    let step = chain.step(16);
    let key = LweSecretKey::from_container(chain.label.small().to_vec());
    let mut squares = 0.0;
    for round in 0..6 {
        let logits: Vec<f64> =
            (0..16).map(|i| f64::from(i) * 0.71 - 6.0 + 0.03 * f64::from(round)).collect();
        let scale = scale_for(&step, RANGE).unwrap();
        let base = chain.context.params().q()[0] as f64;
        let ciphertexts = chain.encrypt(&step, &logits);
        let evaluator = Evaluator::new(&chain.context);
        let samples: Vec<_> = ciphertexts
            .iter()
            .map(|ct| evaluator.hand_over(ct, &chain.ring_keys).unwrap())
            .collect();
        for (sample, z) in bridge(&chain.keys, &samples).iter().zip(&logits) {
            let phase = decrypt_lwe_ciphertext(&key, sample).0;
            // Rounded: an exact multiple of the grid.
            assert_eq!(phase % (1 << DROPPED), 0);
            let off = phase as i64 as f64 / 64f64.exp2() - z * scale / base;
            squares += off * off;
        }
    }
    let (got, want) = (squares / 96.0, step.noise().logit.powi(2));
    assert!((got / want - 1.0).abs() < 5.0 * (2.0f64 / 96.0).sqrt(), "{got} for {want}");
}

/// 100,000 vectors with the predicted noise and rounding: always exactly one winner, and the right one beyond 6 sigma.
/// The order of integers is what the comparison computes: `the_largest_logit_wins_through_the_whole_chain`.
#[test]
fn exactly_one_class_wins() {
    let mut rng = ChaCha20Rng::from_seed([5; 32]);
    let step = LabelParameters::new(&presets::get("lev15").unwrap(), 10).unwrap();
    let (noise, grid) = (step.noise(), f64::from(GRID_BITS).exp2());
    let turns = scale_for(&step, RANGE).unwrap() / step.params().q()[0] as f64;
    let limit = 6.0 * noise.difference_sigma(RANGE);
    let mut differs = 0;
    for _ in 0..100_000 {
        let logits: Vec<f64> = (0..10).map(|_| RANGE * (uniform(&mut rng) - 0.5)).collect();
        let rounded: Vec<i64> = logits
            .iter()
            .map(|z| ((z * turns + noise.logit * normal(&mut rng)) * grid).round() as i64)
            .collect();
        // As on the torus: a difference that wraps would change its sign.
        let sign = |i: usize, j: usize| (rounded[i] - rounded[j] + 2048).rem_euclid(4096) >= 2048;
        let beats = |i: usize, j: usize| if i < j { sign(i, j) } else { !sign(j, i) };
        let winners: Vec<usize> =
            (0..10).filter(|&i| (0..10).all(|j| i == j || beats(i, j))).collect();
        assert_eq!(winners.len(), 1, "{logits:?}");
        let want = largest(&logits);
        if winners[0] != want {
            differs += 1;
            let margin = logits[want] - logits[winners[0]];
            assert!(margin < limit, "{margin} of {limit}: {logits:?}");
        }
    }
    // Noise does decide some near-ties: the simulation has noise.
    assert!(differs > 100, "{differs}");
}

/// What the range promises is a contract: a difference beyond it wraps, and the loser wins.
#[test]
fn a_difference_beyond_the_range_wraps() {
    let mut chain = Chain::new("toy11_lev", 6);
    assert_eq!(chain.run(&[RANGE * 0.5, -RANGE * 0.5]), 0);
    assert_eq!(chain.run(&[RANGE * 0.6, -RANGE * 0.6]), 1);
}

/// The library's own formulas for its keys are the second source of ours.
#[test]
fn noise_and_security_agree_with_the_library() {
    use crate::params::{BOOTSTRAP_BASE, BOOTSTRAP_DIGITS, SWITCH_BASE, SWITCH_DIGITS};
    let native = 64f64.exp2();
    for dimension in [700, 800, SMALL_DIMENSION, 1024, LARGE_DIMENSION] {
        let theirs = formulas::secure_noise::minimal_lwe_bound_for_132_bits_security_tuniform(
            LweDimension(dimension),
            native,
        );
        assert_eq!(least_noise(dimension), theirs);
    }
    let params: Parameters = presets::get("lev15").unwrap();
    let noise = LabelParameters::new(&params, 16).unwrap().noise();
    let theirs =
        formulas::lwe_programmable_bootstrap::pbs_variance_132_bits_security_tuniform_fft_mul(
            LweDimension(SMALL_DIMENSION),
            GlweDimension(1),
            PolynomialSize(LARGE_DIMENSION),
            DecompositionBaseLog(BOOTSTRAP_BASE),
            DecompositionLevelCount(BOOTSTRAP_DIGITS),
            53.0,
            native,
        );
    let ratio = noise.bootstrap.powi(2) / theirs.0;
    assert!((0.95..1.05).contains(&ratio), "{ratio}");
    let theirs = formulas::lwe_keyswitch::keyswitch_additive_variance_132_bits_security_tuniform(
        LweDimension(LARGE_DIMENSION),
        LweDimension(SMALL_DIMENSION),
        DecompositionBaseLog(SWITCH_BASE),
        DecompositionLevelCount(SWITCH_DIGITS),
        native,
        native,
    );
    let ours = noise.wins.powi(2) - 15.0 * noise.bootstrap.powi(2) - noise.rounding.powi(2);
    assert!((0.95..1.05).contains(&(ours / theirs.0)), "{}", ours / theirs.0);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut chain = Chain::new("toy11_lev", 7);
    let other = Chain::new("toy11_lev", 8);
    let evaluator = Evaluator::new(&chain.context);
    let step = chain.step(3);
    let logits = chain.encrypt(&step, &[1.0, 2.0, 3.0]);
    let mut go_on = |_| ControlFlow::Continue(());
    let mut run = |step: &LabelParameters, keys: &LabelKeys, logits: &[Ciphertext]| {
        evaluate(step, &evaluator, &chain.ring_keys, keys, logits, &mut go_on)
    };
    assert!(matches!(run(&step, &chain.keys, &logits[..2]), Err(Error::Logits { .. })));
    assert!(matches!(run(&step, &other.keys, &logits), Err(Error::KeyMismatch { .. })));
    let lev14 = LabelParameters::new(&presets::get("lev14").unwrap(), 3).unwrap();
    assert!(matches!(run(&lev14, &chain.keys, &logits), Err(Error::ParameterMismatch { .. })));
    let label = run(&step, &chain.keys, &logits).unwrap();
    assert!(matches!(label.decrypt(&step, &other.label), Err(Error::KeyMismatch { .. })));
    // Cancelled between two stages.
    let mut stop = |stage| {
        if stage == Stage::Compare { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let cancelled = evaluate(&step, &evaluator, &chain.ring_keys, &chain.keys, &logits, &mut stop);
    assert!(matches!(cancelled, Err(Error::Cancelled { stage: "label.compare" })));
    // A reply that is noise, and one under a false name: three quarters of all phases are no label of three.
    let mut implausible = 0;
    for i in 0..64u64 {
        let mut words = label.words_for_test().to_vec();
        words[2048] = i << 58;
        let forged = EncryptedLabel::new(&step, label.id_for_test(), words);
        implausible += u32::from(matches!(
            forged.decrypt(&step, &chain.label),
            Err(Error::Implausible { .. })
        ));
    }
    assert!(implausible > 30, "{implausible}");
    // Bytes: truncated, too long, another kind, version or set.
    let good = label.to_bytes();
    let keys = chain.label.keys(&step, &mut chain.rng).unwrap().to_bytes();
    for bytes in [&good, &keys] {
        let read = |bytes: &[u8]| {
            let label = EncryptedLabel::from_bytes(&step, bytes).map(drop);
            if bytes.len() > 1 << 20 {
                SeededLabelKeys::from_bytes(&step, bytes).map(drop)
            } else {
                label
            }
        };
        read(bytes).unwrap();
        for length in [0, 1, 69, 70, 118, bytes.len() - 1] {
            assert!(matches!(read(&bytes[..length]), Err(Error::Malformed { .. })), "{length}");
        }
        let long = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(read(&long), Err(Error::Malformed { .. })));
        for at in 0..6 {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(matches!(read(&bytes), Err(Error::Malformed { .. })), "{at}");
        }
        let mut bytes = bytes.clone();
        bytes[7] ^= 1;
        assert!(matches!(read(&bytes), Err(Error::ParameterMismatch { .. })));
    }
    assert_eq!(format!("{:?}", chain.label), "LabelSecret(..)");
}

/// As many vectors as `LABEL_TRIALS` says through the real chain, 10 classes: exactly one winner each; times beside the
/// library's own bootstrap. For results: `LABEL_TRIALS=200 cargo test --release ... -- --ignored --nocapture`.
#[test]
#[ignore = "minutes; for results"]
fn many_vectors_through_the_real_chain() {
    use std::time::Instant;
    let trials: usize = std::env::var("LABEL_TRIALS").map_or(200, |n| n.parse().unwrap());
    let set = std::env::var("LABEL_SET").unwrap_or_else(|_| "lev14".into());
    let begin = Instant::now();
    let mut chain = Chain::new(&set, 9);
    println!("{set}: all keys made and expanded in {:.2?}", begin.elapsed());
    let evaluator = Evaluator::new(&chain.context);
    let large = LweSecretKey::from_container(chain.label.large().to_vec());
    let step = chain.step(17);
    let logits: Vec<f64> = (0..17).map(|i| f64::from(i) * 0.5 - 4.0).collect();
    let ciphertexts = chain.encrypt(&step, &logits);
    let begin = Instant::now();
    let mut go_on = |_| ControlFlow::Continue(());
    let (ring_keys, keys) = (&chain.ring_keys, &chain.keys);
    let label = evaluate(&step, &evaluator, ring_keys, keys, &ciphertexts, &mut go_on).unwrap();
    let seconds = begin.elapsed().as_secs_f64();
    let bootstraps = step.stages().iter().map(|s| s.cost).sum::<cipherform_profile::Cost>();
    let bootstraps = bootstraps.get(cipherform_profile::Counter::ProgrammableBootstraps);
    let label = label.decrypt(&step, &chain.label).unwrap();
    println!("17 classes: {bootstraps} bootstraps in {seconds:.2} s, label {label} of 16");
    for classes in [10, 2] {
        let step = chain.step(classes);
        let (mut agree, mut one, mut best) = (0, 0, [f64::MAX; 4]);
        let limit = 6.0 * step.noise().difference_sigma(RANGE);
        for _ in 0..trials {
            let logits: Vec<f64> =
                (0..classes).map(|_| RANGE * (uniform(&mut chain.rng) - 0.5)).collect();
            let ciphertexts = chain.encrypt(&step, &logits);
            let mut laps = vec![Instant::now()];
            let samples: Vec<_> = ciphertexts
                .iter()
                .map(|ct| evaluator.hand_over(ct, &chain.ring_keys).unwrap())
                .collect();
            laps.push(Instant::now());
            let rounded = bridge(&chain.keys, &samples);
            laps.push(Instant::now());
            let signs = compare(&step, &chain.keys, &rounded);
            laps.push(Instant::now());
            let winners = if classes == 2 {
                let zero = shifted(negated(signs[0].clone()), 1 << 62);
                vec![shifted(negated(zero.clone()), 1 << 63), zero]
            } else {
                select(&step, &chain.keys, &signs)
            };
            laps.push(Instant::now());
            for (best, lap) in best.iter_mut().zip(laps.windows(2)) {
                *best = best.min((lap[1] - lap[0]).as_secs_f64() * 1e3);
            }
            let unit = 64 - step.messages().trailing_zeros();
            let bits: Vec<u64> = winners
                .iter()
                .map(|w| decrypt_lwe_ciphertext(&large, w).0.wrapping_add(1 << (unit - 1)) >> unit)
                .collect();
            assert!(bits.iter().all(|&b| b < 2), "{bits:?}");
            one += usize::from(bits.iter().sum::<u64>() == 1);
            let got = bits.iter().position(|&b| b == 1).unwrap_or(usize::MAX);
            let want = largest(&logits);
            agree += usize::from(got == want);
            if got != want {
                let margin = logits[want] - logits.get(got).copied().unwrap_or(f64::NAN);
                println!("  {classes} classes: another label at margin {margin:.3} of {limit:.3}");
                assert!(margin < limit);
            }
        }
        println!(
            "{classes} classes: exactly one winner {one}/{trials}, label as in the clear {agree}/{trials}; least ms: hand over {:.1}, bridge {:.1}, compare {:.1}, select {:.1}, sum {:.1}",
            best[0],
            best[1],
            best[2],
            best[3],
            best.iter().sum::<f64>()
        );
        assert_eq!(one, trials);
    }
    // The library's own bootstrap: switch to the small dimension, then the programmable bootstrap.
    let table = accumulator(|k| (k as u64 / 128) << 59);
    let input = LweCiphertext::new(1 << 60, LweSize(LARGE_DIMENSION + 1), NATIVE);
    let mut least = [f64::MAX; 2];
    for _ in 0..20 {
        let start = Instant::now();
        let mut small = LweCiphertext::new(0, LweSize(SMALL_DIMENSION + 1), NATIVE);
        keyswitch_lwe_ciphertext(chain.keys.switch(), &input, &mut small);
        let middle = Instant::now();
        std::hint::black_box(bootstrap(&chain.keys, &small, &table));
        least[0] = least[0].min((middle - start).as_secs_f64() * 1e3);
        least[1] = least[1].min(middle.elapsed().as_secs_f64() * 1e3);
    }
    println!("the library's own: switch {:.2} ms, bootstrap {:.2} ms", least[0], least[1]);
}
