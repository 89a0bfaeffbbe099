//! Keys under a limit: put aside, brought back, the same results. On a card too, where there is one.
//!
//! | test | what it proves |
//! |---|---|
//! | `a_limit_changes_no_result` | operations and bootstraps with a fraction of the keys on the device: the same bytes, the limit held |
//! | `a_key_comes_back_for_a_level` | it takes the bytes of the level of use, serves lower ones, and grows for higher ones |
//! | `the_key_used_longest_ago_goes_first` | order of eviction; keys that an operation holds stay |
//! | `too_many_keys_at_once_are_an_error` | one key, and the keys of one linear map, above the limit: typed, and over with the limit |

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use cipherform_ckks::{
    BootstrapOptions, Bootstrapper, Ciphertext, Error, EvaluationKeys, KeySpec, LinearTransform,
    SwitchingKey,
};
use cipherform_ring::Device;
use common::Fixture;
use std::collections::BTreeMap;

/// The CPU and the first card. With `CIPHERFORM_NEED_CUDA` set there must be one.
fn devices() -> Vec<Device> {
    let card = Device::cuda(0);
    if let Err(error) = &card {
        assert!(std::env::var_os("CIPHERFORM_NEED_CUDA").is_none(), "{error}");
        eprintln!("skipped: {error}");
    }
    std::iter::once(Device::cpu()).chain(card.ok()).collect()
}

fn bytes(f: &Fixture, spec: KeySpec) -> u64 {
    SwitchingKey::expanded_bytes(f.ctx.params(), spec)
}

fn map(f: &mut Fixture, level: usize) -> LinearTransform {
    let diagonals: BTreeMap<i64, Vec<f64>> = (0..6).map(|d| (d, f.random_reals(8))).collect();
    let scale = f.ctx.params().modulus_at(level) as f64;
    LinearTransform::new(&f.encoder, level, scale, &diagonals, 3).unwrap()
}

#[test]
fn a_limit_changes_no_result() {
    for device in devices() {
        let mut f = Fixture::new("toy10_boot", device);
        let b = Bootstrapper::new(&f.ctx, BootstrapOptions::default()).unwrap();
        let top = f.top();
        let map = map(&mut f, top);
        let mut specs = b.keys();
        specs.extend(map.keys());
        let keys = f.many_keys(&specs);
        let slots = f.random_slots(f.ctx.params().slots());
        let (low, high) = (f.encrypt(&slots, b.input_level()), f.encrypt(&slots, top));
        let run = |keys: &EvaluationKeys| -> Vec<Vec<u8>> {
            let rotated = f.evaluator.hoisted_rotations(&high, &[1, 2], keys).unwrap();
            let mapped = f.evaluator.linear_transform(&high, &map, keys).unwrap();
            let square = f.evaluator.square(&f.evaluator.drop_level(&high, 3).unwrap()).unwrap();
            let square = f.evaluator.relinearize(&square, keys).unwrap();
            let fresh = b.bootstrap(&low, keys).unwrap();
            let all = rotated.into_iter().chain([mapped, square, fresh]);
            all.map(|ct: Ciphertext| ct.to_bytes().unwrap()).collect()
        };
        let expected = run(&keys);
        assert_eq!(f.ctx.resident_key_bytes(), keys.bytes(), "without a limit all are there");
        // Half: all the keys of one map must be there at once.
        let budget = keys.bytes() / 2;
        f.ctx.limit_keys(Some(budget)).unwrap();
        for _ in 0..2 {
            assert!(run(&keys) == expected, "{device}");
            assert!((1..=budget).contains(&f.ctx.resident_key_bytes()));
        }
        // Keys that are expanded under the limit do not break it.
        let more = f.many_keys(&specs);
        assert!(f.ctx.resident_key_bytes() <= budget);
        assert_eq!(more.bytes(), keys.bytes());
        drop((keys, more));
        assert_eq!(f.ctx.resident_key_bytes(), 0);
    }
}

#[test]
fn a_key_comes_back_for_a_level() {
    let mut f = Fixture::new("toy11_lev", Device::cpu());
    let top = f.top();
    let spec = f.rotation(1, top);
    let keys = f.many_keys(&[spec]);
    let ct = f.encrypt(&[0.5], top);
    f.ctx.limit_keys(Some(0)).unwrap();
    assert_eq!(f.ctx.resident_key_bytes(), 0);
    f.ctx.limit_keys(None).unwrap();
    // Up, and down again with what is there.
    for (level, resident) in [(1, 1), (2, 2), (top, top), (1, top)] {
        let low = f.evaluator.drop_level(&ct, level).unwrap();
        f.evaluator.rotate(&low, 1, &keys).unwrap();
        assert_eq!(f.ctx.resident_key_bytes(), bytes(&f, KeySpec { level: resident, ..spec }));
    }
    assert!(bytes(&f, KeySpec { level: 1, ..spec }) < bytes(&f, spec) / 2);
}

#[test]
fn the_key_used_longest_ago_goes_first() {
    let mut f = Fixture::new("toy11_lev", Device::cpu());
    let level = f.top();
    let specs = [1, 2, 3].map(|k| f.rotation(k, level));
    let keys = f.many_keys(&specs);
    let ct = f.encrypt(&[0.5], level);
    let one = bytes(&f, specs[0]);
    let use_key = |k| drop(f.evaluator.rotate(&ct, k, &keys).unwrap());
    // A key that is not there takes memory when it is used.
    let is_there = |k: &i64| {
        let before = f.ctx.resident_key_bytes();
        use_key(*k);
        f.ctx.resident_key_bytes() == before
    };
    let there = || -> Vec<i64> { [1, 2, 3].into_iter().filter(is_there).collect() };
    [2, 3, 1].into_iter().for_each(use_key);
    f.ctx.limit_keys(Some(2 * one)).unwrap();
    f.ctx.limit_keys(None).unwrap();
    assert_eq!(f.ctx.resident_key_bytes(), 2 * one);
    assert_eq!(there(), [1, 3]);
    [1, 2, 3, 1].into_iter().for_each(use_key);
    f.ctx.limit_keys(Some(one)).unwrap();
    f.ctx.limit_keys(None).unwrap();
    assert_eq!(there(), [1]);
}

#[test]
fn too_many_keys_at_once_are_an_error() {
    let mut f = Fixture::new("toy11_lev", Device::cpu());
    let level = f.top();
    let map = map(&mut f, level);
    let keys = f.many_keys(&map.keys());
    let ct = f.encrypt(&[0.5], level);
    let one = bytes(&f, map.keys()[0]);
    let refusal = |limit| {
        f.ctx.limit_keys(Some(limit)).unwrap();
        match f.evaluator.linear_transform(&ct, &map, &keys).unwrap_err() {
            Error::KeyMemory { needed, held, budget, .. } => (needed, held, budget),
            other => panic!("{other}"),
        }
    };
    assert_eq!(refusal(one - 1), (one, 0, one - 1));
    // Two baby steps at once.
    assert_eq!(refusal(one), (one, one, one));
    f.ctx.limit_keys(Some(2 * one)).unwrap();
    f.evaluator.linear_transform(&ct, &map, &keys).unwrap();
    assert!(f.ctx.resident_key_bytes() <= 2 * one);
}
