//! Every loop on every instruction set of this machine against the scalar form.
//!
//! On a machine without vector instructions there is nothing to compare; the scalar form is compared with the
//! reference device by the suite over devices.

use super::*;
use crate::device::InstructionSet;
use proptest::prelude::*;

const LEN: usize = 48;

/// Primes at both ends of the range, and one in the middle.
const PRIMES: [u64; 5] =
    [1_125_899_906_842_597, 1_125_899_904_679_937, 1_099_510_054_913, 134_250_497, 97];

fn isas() -> impl Iterator<Item = Isa> {
    [InstructionSet::Avx512Ifma, InstructionSet::Avx2].into_iter().flat_map(Isa::new)
}

fn constants(which: usize, isa: Isa) -> Constants {
    Constants::new(&Modulus::new(PRIMES[which]).unwrap(), isa)
}

/// Words below `bound`, extremes among them.
fn words(bound: u64) -> impl Strategy<Value = Vec<u64>> {
    let word = prop_oneof![
        Just(0),
        Just(1),
        Just(bound / 2),
        Just(bound.div_ceil(2)),
        Just(bound - 1),
        0..bound
    ];
    prop::collection::vec(word, LEN)
}

/// Runs `f` on copies of `a` with every instruction set; all must agree with the scalar one.
fn agree(a: &[u64], f: impl Fn(&mut [u64], Isa)) -> Result<(), TestCaseError> {
    let mut expected = a.to_vec();
    f(&mut expected, Isa::Scalar);
    for isa in isas() {
        let mut got = a.to_vec();
        f(&mut got, isa);
        prop_assert_eq!(&got, &expected, "{:?}", isa);
    }
    Ok(())
}

proptest! {
    #[test]
    fn elementwise_loops_agree(
        (which, a, b, d, f, constant) in (0..PRIMES.len()).prop_flat_map(|which| {
            let p = PRIMES[which];
            let f = prop_oneof![Just(p - 1), Just(p / 2), 0..p];
            (Just(which), words(p), words(p), words(p), f, 0..p)
        }),
        foreign in words(1 << 50),
    ) {
        let c = |isa| constants(which, isa);
        let factor = Factor::new(f, &c(Isa::Scalar).modulus);
        agree(&a, |a, i| add(&c(i), a, &b))?;
        agree(&a, |a, i| sub(&c(i), a, &b))?;
        agree(&a, |a, i| neg(&c(i), a))?;
        agree(&a, |a, i| add_scalar(&c(i), a, constant))?;
        agree(&a, |a, i| mul(&c(i), a, &b))?;
        agree(&a, |a, i| mul_add(&c(i), a, &b, &d))?;
        agree(&[&a[..], &a, &a].concat(), |out, i| {
            let (out0, rest) = out.split_at_mut(LEN);
            let (out1, out2) = rest.split_at_mut(LEN);
            tensor(&c(i), [out0, out1, out2], [&a, &b], [&d, &a]);
        })?;
        agree(&a, |a, i| scale(&c(i), a, factor))?;
        agree(&a, |a, i| scale_add(&c(i), a, factor, constant))?;
        agree(&a, |a, i| sub_scale(&c(i), a, &b, factor))?;
        agree(&a, |a, i| reduce_add(&c(i), a, &foreign, constant))?;
        // Runs of 24, 2 and 1 words: whole vectors and less.
        for runs in [2, 24, 48] {
            let factors = &d[..runs];
            agree(&a, |a, i| mul_runs(&c(i), a, factors))?;
            agree(&a, |a, i| mul_add_runs(&c(i), a, &b, factors))?;
        }
    }

    #[test]
    fn sums_agree(
        which in 0..PRIMES.len(),
        count in 1usize..40,
        seed in words(1 << 50),
        all_large: bool,
    ) {
        let p = PRIMES[which];
        // Up to 40 rows: more than one group of the vector forms.
        let row = |i: usize, bound: u64| -> Vec<u64> {
            let word = |&w: &u64| if all_large { bound - 1 } else { w.rotate_left(i as u32) % bound };
            seed.iter().map(word).collect()
        };
        let sources: Vec<Vec<u64>> = (0..count).map(|i| row(i, 1 << 50)).collect();
        let sources: Vec<&[u64]> = sources.iter().map(Vec::as_slice).collect();
        let factors: Vec<u64> = row(5, p)[..count].to_vec();
        let init = if all_large { p - 1 } else { seed[0] % p };
        let zeros = vec![0; LEN];
        agree(&zeros, |out, i| convert(&constants(which, i), out, &sources, &factors, init))?;

        let keys: Vec<[Vec<u64>; 2]> = (0..count).map(|i| [row(i + 7, p), row(i + 9, p)]).collect();
        let keys: Vec<[&[u64]; 2]> = keys.iter().map(|[k0, k1]| [&k0[..], &k1[..]]).collect();
        let digits: Vec<Vec<u64>> = (0..count).map(|i| row(i + 3, p)).collect();
        let digits: Vec<&[u64]> = digits.iter().map(Vec::as_slice).collect();
        let plus = Some((digits[0], init));
        agree(&vec![0; 2 * LEN], |out, i| {
            let (out0, out1) = out.split_at_mut(LEN);
            inner_product(&constants(which, i), [out0, out1], &digits, &keys, &[None, plus]);
        })?;
        // The keys as pairs, the digits as weights: dense, a word for 16 columns, or nothing.
        let weights: Vec<Weights<'_>> = (digits.iter().enumerate())
            .map(|(i, words)| match i % 3 {
                0 => Weights::Dense(words),
                1 => Weights::Runs { words: &words[..LEN / 16], log_run: 4 },
                _ => Weights::None,
            })
            .collect();
        let reversed: Vec<Weights<'_>> = weights.iter().rev().copied().collect();
        let weights = [weights.clone(), reversed, weights];
        agree(&vec![0; 6 * LEN], |out, i| {
            let outs = out.chunks_exact_mut(2 * LEN).map(|pair| pair.split_at_mut(LEN).into());
            let c = constants(which, i);
            weighted_sums(&c, &mut outs.collect::<Vec<_>>(), &keys, &weights);
            assert_eq!(out[..2 * LEN], out[4 * LEN..]);
        })?;

        let primes: Vec<Constants> = (0..count).map(|i| constants(i % PRIMES.len(), Isa::Scalar)).collect();
        let below: Vec<Vec<u64>> = primes.iter().enumerate().map(|(i, c)| row(i, c.p)).collect();
        let below: Vec<&[u64]> = below.iter().map(Vec::as_slice).collect();
        agree(&zeros, |out, i| quotients(i, out, &below, &primes))?;
    }
}

#[test]
fn permutations_agree() {
    use crate::automorphism::{GaloisElement, Permutation};
    for n in [16, 32, 256] {
        let from: Vec<u64> = (0..n as u64).collect();
        for g in [1, 5, 25, 2 * n as u64 - 1, 7] {
            let permutation = Permutation::new(GaloisElement::new(g, n).unwrap(), n);
            let mut whole = from.clone();
            permute(Isa::Scalar, &mut whole, &from, &permutation.piece(0..n));
            for width in [8, 16, 64, n].into_iter().filter(|&width| width <= n) {
                agree(&from, |out, isa| {
                    for (i, out) in out.chunks_exact_mut(width).enumerate() {
                        let piece = permutation.piece(i * width..(i + 1) * width);
                        permute(isa, out, &from[piece.from.clone()], &piece);
                    }
                    assert_eq!(out, whole);
                })
                .unwrap();
            }
        }
    }
}
