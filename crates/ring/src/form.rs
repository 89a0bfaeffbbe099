//! The two representations of a polynomial, as types.

mod sealed {
    pub trait Sealed {}
}

/// How the words of a polynomial are to be read. Sealed: [`Ntt`] and [`Coeff`] only.
pub trait Form: sealed::Sealed + Copy + Send + Sync + 'static {
    /// Name for `Debug`.
    #[doc(hidden)]
    const NAME: &'static str;
}

/// Evaluations at the odd powers of psi, in the order of [`crate::ntt`]. How polynomials rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ntt;

/// Coefficients, index = exponent of X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coeff;

impl sealed::Sealed for Ntt {}
impl sealed::Sealed for Coeff {}
impl Form for Ntt {
    const NAME: &'static str = "Ntt";
}
impl Form for Coeff {
    const NAME: &'static str = "Coeff";
}
