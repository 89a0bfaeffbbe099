//! The order contract of the number-theoretic transform.
//!
//! A row of `n` words modulo `p` in [`crate::Ntt`] form holds at index `i` the evaluation
//! `a(ψ^(2·brv(i)+1))`, a canonical residue, where `brv` reverses log2(n) bits and ψ is a primitive 2n-th root of
//! unity modulo `p`. ψ is the root that `tfhe_ntt::prime64::Plan` uses: what its forward transform of `X` leaves
//! at index 0. Every device builds its tables from that ψ, see [`crate::Ring::psi`].
//!
//! Consequences used elsewhere: an automorphism X -> X^g permutes the words; `X^(n/2)` is `±ψ^(n/2)`, plus in the
//! lower half of the row; and a polynomial in `Y = X^(n/m)` has each of its `m` distinct words in a contiguous run
//! of `n/m`, in the order of the m-point transform with root `ψ^(n/m)`: with i = i1·(n/m) + i0 the exponent
//! (2·brv_n(i)+1)·(n/m) is (2·brv_m(i1)+1)·(n/m) modulo 2n, because brv_n(i) = brv_m(i1) + m·brv(i0).

use crate::error::{Error, Result};
use crate::modulus::Modulus;
use tfhe_ntt::prime64::Plan;

/// The transform plan of degree `n` for one prime.
pub(crate) fn plan(n: usize, modulus: &Modulus) -> Result<Plan> {
    Plan::try_new(n, modulus.value()).ok_or(Error::InvalidModulus {
        value: modulus.value(),
        reason: "no transform of this degree exists for it",
    })
}

/// The root ψ of a plan, read back from the transform of X.
pub(crate) fn root(plan: &Plan) -> u64 {
    let mut x = vec![0; plan.ntt_size()];
    x[1] = 1;
    plan.fwd(&mut x);
    x[0]
}
