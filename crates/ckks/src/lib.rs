//! The RNS-CKKS scheme: parameters, keys, encoding, evaluator, linear transforms, polynomials.
