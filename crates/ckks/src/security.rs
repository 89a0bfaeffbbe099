//! The security table: how large a modulus may be for a ring degree and a secret distribution.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the coefficients of a secret are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SecretDistribution {
    /// Every coefficient uniform in {-1, 0, 1}.
    #[default]
    UniformTernary,
    /// Exactly this many coefficients are nonzero. Only the ephemeral secret of a bootstrap is drawn like this.
    FixedWeight(u32),
}

impl fmt::Display for SecretDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UniformTernary => write!(f, "uniform ternary"),
            Self::FixedWeight(h) => write!(f, "weight-{h} ternary"),
        }
    }
}

/// Largest log2 of a modulus for 128-bit classical security with errors of standard deviation 3.2.
///
/// Only the cells of the sources exist; nothing is interpolated. Uniform ternary: Security Guidelines for
/// Implementing Homomorphic Encryption (ePrint 2024/463). Fixed weights: sparse-key estimates of ePrint 2026/279,
/// for weight 32 the smaller of that and the published presets of the poulpy library.
#[derive(Clone, Copy, Debug)]
pub struct SecurityTable;

impl SecurityTable {
    /// Security level of every cell, in bits.
    pub const BITS: u32 = 128;

    /// The largest admissible log2 of the modulus under which something is encrypted.
    ///
    /// # Errors
    /// [`Error::UnknownSecurity`] for a pair outside the table.
    pub fn max_log_qp(n: usize, secret: SecretDistribution) -> Result<f64> {
        let column: &[(u32, f64)] = match secret {
            SecretDistribution::UniformTernary => &[
                (10, 26.0),
                (11, 53.0),
                (12, 106.0),
                (13, 214.0),
                (14, 430.0),
                (15, 868.0),
                (16, 1747.0),
                (17, 3523.0),
            ],
            SecretDistribution::FixedWeight(1024) => {
                &[(13, 214.0), (14, 426.0), (15, 854.0), (16, 1714.0)]
            }
            SecretDistribution::FixedWeight(192) => {
                &[(13, 187.0), (14, 370.0), (15, 739.0), (16, 1481.0)]
            }
            SecretDistribution::FixedWeight(32) => {
                &[(13, 37.0), (14, 77.0), (15, 162.0), (16, 345.0)]
            }
            SecretDistribution::FixedWeight(_) => &[],
        };
        column
            .iter()
            .find(|(log_n, _)| n == 1usize << log_n)
            .map(|&(_, max)| max)
            .ok_or(Error::UnknownSecurity { n, secret })
    }

    /// Refuses a modulus that is too large for 128-bit security.
    ///
    /// # Errors
    /// [`Error::Insecure`] above the limit, [`Error::UnknownSecurity`] outside the table.
    pub fn check(
        what: &'static str,
        n: usize,
        secret: SecretDistribution,
        log2_modulus: f64,
    ) -> Result<()> {
        let max_log2 = Self::max_log_qp(n, secret)?;
        if log2_modulus <= max_log2 {
            Ok(())
        } else {
            Err(Error::Insecure { what, n, secret, log2_modulus, max_log2 })
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "exact by construction")]

    use super::*;

    #[test]
    fn cells_are_exact_and_nothing_is_interpolated() {
        let dense = SecretDistribution::UniformTernary;
        assert_eq!(SecurityTable::max_log_qp(1 << 16, dense).unwrap(), 1747.0);
        assert_eq!(
            SecurityTable::max_log_qp(1 << 15, SecretDistribution::FixedWeight(32)).unwrap(),
            162.0
        );
        for (n, secret) in [
            (1 << 9, dense),
            (1 << 18, dense),
            (3 << 14, dense),
            (1 << 16, SecretDistribution::FixedWeight(64)),
            (1 << 12, SecretDistribution::FixedWeight(192)),
        ] {
            assert!(matches!(
                SecurityTable::max_log_qp(n, secret),
                Err(Error::UnknownSecurity { .. })
            ));
        }
    }

    #[test]
    fn the_limit_itself_is_allowed_and_nothing_above() {
        let dense = SecretDistribution::UniformTernary;
        assert!(SecurityTable::check("key", 1 << 14, dense, 430.0).is_ok());
        assert!(matches!(
            SecurityTable::check("key", 1 << 14, dense, 430.0001),
            Err(Error::Insecure { n: 16384, .. })
        ));
    }
}
