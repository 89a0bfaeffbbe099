//! Primality and transform-friendliness of word-sized integers.

fn mul_mod(a: u64, b: u64, n: u64) -> u64 {
    (a as u128 * b as u128 % n as u128) as u64
}

fn pow_mod(base: u64, exponent: u64, n: u64) -> u64 {
    let (mut result, mut square, mut e) = (1 % n, base % n, exponent);
    while e > 0 {
        if e & 1 == 1 {
            result = mul_mod(result, square, n);
        }
        square = mul_mod(square, square, n);
        e >>= 1;
    }
    result
}

/// Whether `n` is prime. Deterministic for all 64-bit integers.
///
/// Miller-Rabin with the first twelve primes as bases, sufficient below 3.3e24
/// (Sorenson and Webster, "Strong pseudoprimes to twelve prime bases", 2015).
#[must_use]
pub fn is_prime(n: u64) -> bool {
    const BASES: [u64; 12] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];
    if n < 2 {
        return false;
    }
    for p in BASES {
        if n.is_multiple_of(p) {
            return n == p;
        }
    }
    let shift = (n - 1).trailing_zeros();
    let odd = (n - 1) >> shift;
    BASES.iter().all(|&base| {
        let mut x = pow_mod(base, odd, n);
        if x == 1 || x == n - 1 {
            return true;
        }
        for _ in 1..shift {
            x = mul_mod(x, x, n);
            if x == n - 1 {
                return true;
            }
        }
        false
    })
}

/// Whether `p` is a prime with a primitive 2n-th root of unity, i.e. `p ≡ 1 mod 2n`.
#[must_use]
pub fn is_ntt_friendly(p: u64, n: usize) -> bool {
    let order = 2 * n as u64;
    order > 0 && p % order == 1 && is_prime(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_trial_division_and_known_values() {
        let trial =
            |n: u64| n > 1 && (2..n).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        for n in 0..5000 {
            assert_eq!(is_prime(n), trial(n), "{n}");
        }
        // Strong pseudoprime to bases 2..17 (OEIS A014233), Carmichael numbers, and the largest 64-bit prime.
        for composite in [341_550_071_728_321, 561, 1_122_004_669_633, u64::MAX] {
            assert!(!is_prime(composite), "{composite}");
        }
        assert!(is_prime(18_446_744_073_709_551_557));
    }

    #[test]
    fn friendliness_depends_on_the_degree() {
        assert!(is_ntt_friendly(65537, 1 << 15));
        assert!(!is_ntt_friendly(65537, 1 << 16));
        assert!(!is_ntt_friendly(65, 16));
    }
}
