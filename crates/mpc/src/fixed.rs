//! Fixed-point numbers in Z_2^64.
//!
//! A real `x` at *scale* `s` (fraction bits) is the integer `round(x 2^s)`, negative ones as two's complement. A value
//! in a ring of `L` bits is valid in its low `L` bits only; what stands above them is noise.

/// The low `bits` bits set; all 64 for `bits >= 64`.
#[must_use]
pub fn low(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// `x << bits` in Z_2^64, zero from 64 bits on.
pub(crate) fn shl(x: u64, bits: u32) -> u64 {
    x.checked_shl(bits).unwrap_or(0)
}

/// The integer of `x` at `scale`, rounded to nearest. Exact for |x| 2^scale below 2^53.
#[must_use]
pub fn encode(x: f64, scale: u32) -> u64 {
    (x * (scale as f64).exp2()).round() as i64 as u64
}

/// The signed integer in the low `ring` bits of `x`.
#[must_use]
pub fn signed(x: u64, ring: u32) -> i64 {
    let shift = 64 - ring.min(64);
    ((x << shift) as i64) >> shift
}

/// The real number that the low `ring` bits of `x` stand for at `scale`.
#[must_use]
pub fn decode(x: u64, scale: u32, ring: u32) -> f64 {
    signed(x, ring) as f64 / (scale as f64).exp2()
}

/// [`encode`] of every element.
#[must_use]
pub fn encode_all(x: &[f64], scale: u32) -> Vec<u64> {
    x.iter().map(|&x| encode(x, scale)).collect()
}

/// [`decode`] of every element.
#[must_use]
pub fn decode_all(x: &[u64], scale: u32, ring: u32) -> Vec<f64> {
    x.iter().map(|&x| decode(x, scale, ring)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_survives_the_ring() {
        for (x, scale, ring) in [(-1.5, 16, 64), (3.25, 13, 35), (-0.0625, 11, 17), (0.0, 40, 64)] {
            assert!((decode(encode(x, scale) & low(ring), scale, ring) - x).abs() < f64::EPSILON);
            assert!((decode(encode(x, scale) | !low(ring), scale, ring) - x).abs() < f64::EPSILON);
        }
    }
}
