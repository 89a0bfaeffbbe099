#!/usr/bin/env python3
"""Prints the thresholds of the Gaussian sampler: round(2^63 * P(|X| <= k)) for the discrete Gaussian with
standard deviation 3.2, up to the first k whose tail is below 2^-64. Exact to 100 digits; no dependencies."""
from decimal import Decimal, getcontext

getcontext().prec = 100
SIGMA = Decimal("3.2")
weights = [(-(Decimal(k) ** 2) / (2 * SIGMA * SIGMA)).exp() for k in range(200)]
total = weights[0] + 2 * sum(weights[1:])
cumulative, k = weights[0], 0
while (total - cumulative) / total > Decimal(2) ** -64:
    print(int((cumulative / total * 2**63).to_integral_value()), end=",\n")
    k += 1
    cumulative += 2 * weights[k]
