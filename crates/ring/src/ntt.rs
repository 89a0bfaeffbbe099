//! The order contract of the number-theoretic transform.
//!
//! A row of `n` words modulo `p` in [`crate::Ntt`] form holds at index `i` the evaluation
//! `a(ψ^(2·brv(i)+1))`, a canonical residue, where `brv` reverses log2(n) bits and ψ is a primitive 2n-th root of
//! unity modulo `p`. ψ comes from -1 by log2(n) square roots after Tonelli and Shanks, with the smallest non-residue:
//! the root that `tfhe_ntt::prime64::Plan` uses, what its forward transform of `X` leaves at index 0. Every device builds its tables from that ψ, see [`crate::Ring::psi`].
//!
//! Consequences used elsewhere: an automorphism X -> X^g permutes the words; `X^(n/2)` is `±ψ^(n/2)`, plus in the
//! lower half of the row; and a polynomial in `Y = X^(n/m)` has each of its `m` distinct words in a contiguous run
//! of `n/m`, in the order of the m-point transform with root `ψ^(n/m)`: with i = i1·(n/m) + i0 the exponent
//! (2·brv_n(i)+1)·(n/m) is (2·brv_m(i1)+1)·(n/m) modulo 2n, because brv_n(i) = brv_m(i1) + m·brv(i0).

use crate::error::{Error, Result};
use crate::modulus::Modulus;

/// The root ψ of degree `n`, a power of two, for one prime.
///
/// # Errors
/// `InvalidModulus` unless the prime is 1 modulo 2n.
pub(crate) fn root(n: usize, m: &Modulus) -> Result<u64> {
    let p = m.value();
    let twos = (p - 1).trailing_zeros();
    let invalid = |reason| Error::InvalidModulus { value: p, reason };
    if !n.is_power_of_two() || n.trailing_zeros() >= twos {
        return Err(invalid("no transform of this degree exists for it"));
    }
    let non_residue = (2..p).find(|&z| m.pow(z, (p - 1) / 2) == p - 1);
    let non_residue = non_residue.ok_or(invalid("it must be an odd prime"))?;
    let generator = m.pow(non_residue, (p - 1) >> twos);
    Ok((0..n.trailing_zeros()).fold(p - 1, |root, _| square_root(root, generator, twos, m)))
}

/// A square root of a square, after Tonelli and Shanks: `generator` has the order 2^`twos`, all that p - 1 has of two.
fn square_root(a: u64, generator: u64, twos: u32, m: &Modulus) -> u64 {
    let odd = (m.value() - 1) >> twos;
    let (mut root, mut rest) = (m.pow(a, odd.div_ceil(2)), m.pow(a, odd));
    let (mut step, mut order) = (generator, twos);
    // root² = a · rest, and the order of rest is a smaller power of two every time.
    while rest != 1 {
        let squares = std::iter::successors(Some(rest), |&x| Some(m.mul(x, x)));
        let smaller = squares.take(order as usize).take_while(|&x| x != 1).count() as u32;
        let factor = m.pow(step, 1 << (order - smaller - 1));
        step = m.mul(factor, factor);
        order = smaller;
        root = m.mul(root, factor);
        rest = m.mul(rest, step);
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primes::is_ntt_friendly;
    use tfhe_ntt::prime64::Plan;

    #[test]
    fn root_is_that_of_the_promise() {
        for (log_n, bits) in [(4, 7), (4, 20), (10, 15), (12, 28), (13, 40), (16, 50), (17, 49)] {
            let n = 1usize << log_n;
            let step = 2 * n as u64;
            let candidates = ((1u64 << (bits - 1)) / step..).map(|k| k * step + 1);
            for p in candidates.filter(|&p| is_ntt_friendly(p, n)).take(4) {
                let mut x = vec![0; n];
                x[1] = 1;
                Plan::try_new(n, p).unwrap().fwd(&mut x);
                assert_eq!(root(n, &Modulus::new(p).unwrap()).unwrap(), x[0], "p = {p}, n = {n}");
            }
        }
    }

    #[test]
    fn primes_without_a_root_are_refused() {
        let m = Modulus::new(97).unwrap();
        assert!(root(16, &m).is_ok());
        for n in [0, 24, 32, 1 << 20] {
            assert!(matches!(root(n, &m), Err(Error::InvalidModulus { .. })), "{n}");
        }
    }
}
