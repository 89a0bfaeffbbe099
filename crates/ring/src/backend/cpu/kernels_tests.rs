//! Every loop on whole vectors against the same loop on pieces of three words, which are always scalar.
//!
//! On a machine without the vector instructions both are scalar and the tests say nothing.

use super::*;
use proptest::prelude::*;

const LEN: usize = 48;
const PIECE: usize = 3;

/// Primes at both ends of the range, and one in the middle.
const PRIMES: [u64; 4] =
    [1_125_899_906_842_597, 1_125_899_904_679_937, 1_099_510_054_913, 134_250_497];

fn constants(which: usize) -> Constants {
    Constants::new(&Modulus::new(PRIMES[which]).unwrap())
}

/// Words below `bound`, extremes among them.
fn words(bound: u64) -> impl Strategy<Value = Vec<u64>> {
    let word = prop_oneof![Just(0), Just(1), Just(bound / 2), Just(bound - 1), 0..bound];
    prop::collection::vec(word, LEN)
}

/// All of `a`, or one piece of it.
fn part(a: &[u64], piece: Option<usize>) -> &[u64] {
    piece.map_or(a, |i| &a[i * PIECE..(i + 1) * PIECE])
}

/// Runs `f` on the whole of `a` and on pieces, told which piece it is; both must agree.
fn agree(a: &[u64], f: impl Fn(&mut [u64], Option<usize>)) -> Result<(), TestCaseError> {
    let (mut whole, mut pieces) = (a.to_vec(), a.to_vec());
    f(&mut whole, None);
    for (i, piece) in pieces.chunks_mut(PIECE).enumerate() {
        f(piece, Some(i));
    }
    prop_assert_eq!(whole, pieces);
    Ok(())
}

proptest! {
    #[test]
    fn elementwise_loops_agree(
        (which, a, b, d, f, constant) in (0usize..4).prop_flat_map(|which| {
            let p = PRIMES[which];
            (Just(which), words(p), words(p), words(p), 0..p, 0..p)
        }),
        foreign in words(1 << 50),
    ) {
        let c = constants(which);
        let factor = Factor::new(f, &c.modulus);
        agree(&a, |a, i| add(&c, a, part(&b, i)))?;
        agree(&a, |a, i| sub(&c, a, part(&b, i)))?;
        agree(&a, |a, i| mul(&c, a, part(&b, i)))?;
        agree(&a, |a, i| mul_add(&c, a, part(&b, i), part(&d, i)))?;
        agree(&a, |a, _| scale(&c, a, factor))?;
        agree(&a, |a, _| scale_add(&c, a, factor, constant))?;
        agree(&a, |a, i| add_scale(&c, a, part(&b, i), factor))?;
        agree(&a, |a, i| sub_scale(&c, a, part(&b, i), factor))?;
        agree(&a, |a, i| reduce_sub_from(&c, a, part(&foreign, i), constant))?;
        // Two runs of 24 words, eight pieces each.
        let factors = [f, constant];
        let of = |i: Option<usize>| i.map_or(&factors[..], |i| &factors[i / 8..=i / 8]);
        agree(&a, |a, i| mul_runs(&c, a, of(i)))?;
        agree(&a, |a, i| mul_add_runs(&c, a, part(&b, i), of(i)))?;
    }

    #[test]
    fn sums_agree(
        which in 0usize..4,
        count in 1usize..40,
        seed in words(1 << 50),
        all_large: bool,
    ) {
        let c = constants(which);
        let p = c.p;
        // Up to 40 rows: more than one group of the vector form.
        let row = |i: usize, bound: u64| -> Vec<u64> {
            let word = |&w: &u64| if all_large { bound - 1 } else { w.rotate_left(i as u32) % bound };
            seed.iter().map(word).collect()
        };
        let sources: Vec<Vec<u64>> = (0..count).map(|i| row(i, 1 << 50)).collect();
        let factors: Vec<u64> = row(5, p)[..count].to_vec();
        let init = seed[0] % p;
        let slices = |piece| sources.iter().map(|s| part(s, piece)).collect::<Vec<_>>();
        let zeros = vec![0; LEN];
        agree(&zeros, |out, i| convert(&c, out, &slices(i), &factors, init))?;

        let keys: Vec<[Vec<u64>; 2]> = (0..count).map(|i| [row(i + 7, p), row(i + 9, p)]).collect();
        let digits: Vec<Vec<u64>> = (0..count).map(|i| row(i + 3, p)).collect();
        for half in 0..2 {
            agree(&zeros, |out, i| {
                let digits: Vec<&[u64]> = digits.iter().map(|d| part(d, i)).collect();
                let keys: Vec<[&[u64]; 2]> =
                    keys.iter().map(|[k0, k1]| [part(k0, i), part(k1, i)]).collect();
                let mut other = vec![0; out.len()];
                let outs = if half == 0 { [out, &mut other] } else { [&mut other, out] };
                inner_product(&c, outs, &digits, &keys);
            })?;
        }

        let primes: Vec<Constants> = (0..count).map(|i| constants(i % 4)).collect();
        let below: Vec<Vec<u64>> = primes.iter().enumerate().map(|(i, c)| row(i, c.p)).collect();
        agree(&zeros, |out, i| {
            let below: Vec<&[u64]> = below.iter().map(|s| part(s, i)).collect();
            quotients(out, &below, &primes);
        })?;
    }
}

#[test]
fn permutations_agree() {
    use crate::automorphism::GaloisElement;
    for n in [16, 32, 256] {
        let from: Vec<u64> = (0..n as u64).collect();
        for g in [1, 5, 25, 2 * n as u64 - 1, 7] {
            let permutation = Permutation::new(GaloisElement::new(g, n).unwrap(), n);
            let (mut vector, mut scalar) = (vec![0; n], vec![0; n]);
            permute(&mut vector, &from, &permutation);
            permute_scalar(&mut scalar, &from, &permutation);
            assert_eq!(vector, scalar);
        }
    }
}
