//! The seam between encryption and shares, which ARCHITECTURE.md describes and nothing here builds yet: its arithmetic, on integers alone.

use super::gates::fixed_rng;
use rand_core::Rng;

/// Step 4 of `ciphertext -> shares`: who wraps, from one bit a party.
fn wraps(mask: u64, masked: u64, q: u64) -> bool {
    let (server, client) = (mask >= q / 2, masked < q / 2);
    server && client
}

#[test]
fn a_wrap_is_the_product_of_a_bit_of_each_party() {
    // Every biased value in [0, q / 2), every mask.
    for q in [2, 17, 64, 251] {
        for x in 0..q / 2 {
            for mask in 0..q {
                let masked = (x + mask) % q;
                assert_eq!(wraps(mask, masked, q), x + mask >= q, "{x} {mask} {q}");
            }
        }
    }
}

#[test]
fn shares_of_the_integer_come_out_whatever_the_mask() {
    let mut rng = fixed_rng(80);
    let q = (1u64 << 50) - 27; // odd, of the size of a ciphertext's last prime
    let bias = q / 4;
    for _ in 0..20_000 {
        let x = (rng.next_u64() % (q / 2)) as i64 - bias as i64;
        let mask = rng.next_u64() % q;
        let biased = (x + bias as i64) as u64;
        let masked = ((biased as u128 + mask as u128) % q as u128) as u64;
        // The bits, each under one of the dealer's; the product is affine in what the parties hold.
        let [s, t] = [mask >= q / 2, masked < q / 2].map(u64::from);
        let [a, b] = [rng.next_u64() & 1, rng.next_u64() & 1];
        let server_ab = rng.next_u64();
        let client_ab = (a * b).wrapping_sub(server_ab);
        let (sigma, tau) = (s ^ a, t ^ b);
        let sign = |bit: u64| 1u64.wrapping_sub(2 * bit);
        let both = sign(sigma).wrapping_mul(sign(tau));
        let server_w = (sigma * tau)
            .wrapping_add(tau.wrapping_mul(sign(sigma)).wrapping_mul(a))
            .wrapping_add(both.wrapping_mul(server_ab));
        let client_w = sigma
            .wrapping_mul(sign(tau))
            .wrapping_mul(b)
            .wrapping_add(both.wrapping_mul(client_ab));
        // x = masked - mask + q w - bias in Z_2^64.
        let server = q.wrapping_mul(server_w).wrapping_sub(mask).wrapping_sub(bias);
        let client = masked.wrapping_add(q.wrapping_mul(client_w));
        assert_eq!(server.wrapping_add(client) as i64, x);
    }
}

#[test]
fn what_a_mask_of_k_more_bits_leaks_is_two_to_the_minus_k() {
    // Two values at the ends of a range of 2^t under a uniform mask of t + k bits: distance of what the client sees.
    for (t, k) in [(3u32, 4u32), (5, 6)] {
        let (range, masks) = (1usize << t, 1usize << (t + k));
        let mut counts = vec![0i64; range + masks];
        for mask in 0..masks {
            counts[mask] += 1;
            counts[mask + range - 1] -= 1;
        }
        let distance =
            counts.iter().map(|c| c.unsigned_abs()).sum::<u64>() as f64 / (2 * masks) as f64;
        assert!(distance <= 2f64.powi(-(k as i32)) && distance > 0.8 * 2f64.powi(-(k as i32)));
    }
}
