"""The polynomials that replace 1/x and 1/sqrt(x) under encryption, fitted on widened ranges. float64."""

from dataclasses import dataclass

import numpy as np
import torch

WIDEN_TOP, WIDEN_BOTTOM = 2.0, 1.5
HEADROOM = 2.0  # idle slots hold sums of two tokens: the reciprocal must not diverge up to twice its top
TOLERANCE = 1e-2  # largest relative error on the widened range
MAX_STEPS = 14


def widened(low: float, high: float) -> tuple[float, float]:
    """A calibrated range with the margin for values that the calibration did not meet."""
    return low / WIDEN_BOTTOM, high * WIDEN_TOP


@dataclass
class Reciprocal:
    """1/x by relaxed Goldschmidt steps (aSOR), one level a step. Per-head scales, one schedule for all heads of a layer.

    With b = x / (2 top) in [e, 1], a step multiplies the answer by k (2 - k b) and b likewise; k = 2/(1+e) brings both ends
    of the interval to the same new e and leaves its maximum at 1, so b, which ends as x times the answer, lies in [e, 1].
    """

    scale: torch.Tensor  # [heads, 1]: 1 / (2 top)
    factors: list[float]
    error: float
    bottom: torch.Tensor
    top: torch.Tensor

    @staticmethod
    def fit(ranges: list[tuple[float, float]], tolerance: float = TOLERANCE) -> "Reciprocal":
        """`ranges`: the calibrated (un-widened) range of each head that divides; (0, inf) entries are not allowed."""
        bottom, top = np.array([widened(*r) for r in ranges]).T
        worst = float((bottom / (HEADROOM * top)).min())
        factors = []
        while 1 - worst > tolerance and len(factors) < MAX_STEPS:
            k = 2 / (1 + worst)
            factors.append(k)
            worst = k * worst * (2 - k * worst)
        column = lambda a: torch.tensor(a, dtype=torch.float64)[:, None]
        return Reciprocal(column(1 / (HEADROOM * top)), factors, 1 - worst, column(bottom), column(top))

    @property
    def levels(self) -> int:
        return len(self.factors)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., heads, tokens]."""
        b = x * self.scale.to(x)
        a = self.scale.to(x).expand_as(b)
        for k in self.factors:
            step = k * (2 - k * b)
            a, b = a * step, b * step
        return a


@dataclass
class InverseSqrt:
    """x^(-1/2) as one Chebyshev polynomial of degree 2^levels - 1, minimax in relative error."""

    low: float
    high: float
    levels: int
    coefficients: np.ndarray
    error: float

    @staticmethod
    def fit(low: float, high: float, eps: float, tolerance: float = TOLERANCE) -> "InverseSqrt":
        """`low`, `high`: the calibrated range of the variance without `eps`, which the polynomial's argument includes."""
        low, high = (v + eps for v in widened(low, high))
        for levels in range(2, 9):
            coefficients, error = minimax_inverse_sqrt(low, high, 2**levels - 1)
            if error <= tolerance:
                break
        return InverseSqrt(low, high, levels, coefficients, error)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Clenshaw's recurrence."""
        u = (2 * x - (self.low + self.high)) / (self.high - self.low)
        b1, b2 = torch.zeros_like(u), torch.zeros_like(u)
        for c in reversed(self.coefficients[1:].tolist()):
            b1, b2 = c + 2 * u * b1 - b2, b1
        return self.coefficients[0].item() + u * b1 - b2


def minimax_inverse_sqrt(low: float, high: float, degree: int) -> tuple[np.ndarray, float]:
    """Chebyshev coefficients on [low, high] minimising max |sqrt(x) p(x) - 1|, by Remez's exchange on a fixed grid.

    sqrt(x) T_j(u) is a Chebyshev system, so the best answer equioscillates at degree + 2 points; each round solves for equal
    alternating errors at the reference points and moves them to the extrema of the error.
    """
    # Half a cosine grid (dense at both ends), half a geometric one (the function is steep at the low end).
    cosine = 0.5 * (low + high) - 0.5 * (high - low) * np.cos(np.linspace(0, np.pi, 4001))
    x = np.unique(np.concatenate([cosine, np.geomspace(low, high, 4001)]))
    u = np.clip((2 * x - low - high) / (high - low), -1, 1)
    system = np.sqrt(x)[:, None] * np.polynomial.chebyshev.chebvander(u, degree)
    reference = np.searchsorted(u, -np.cos(np.linspace(0, np.pi, degree + 2))).clip(0, len(x) - 1)
    reference[-1] = len(x) - 1
    best = (np.zeros(degree + 1), np.inf)
    for _ in range(60):
        signs = (-1.0) ** np.arange(degree + 2)
        solved = np.linalg.solve(np.column_stack([system[reference], signs]), np.ones(degree + 2))
        error = system @ solved[:-1] - 1
        worst = float(np.abs(error).max())
        if worst < best[1]:
            best = (solved[:-1], worst)
        if worst <= abs(solved[-1]) * (1 + 1e-6):
            break
        reference = alternating_extrema(error, degree + 2, reference)
    return best


def alternating_extrema(error: np.ndarray, count: int, fallback: np.ndarray) -> np.ndarray:
    """`count` grid points where the error is largest and alternates in sign; `fallback` if there are too few."""
    cuts = np.flatnonzero(np.diff(np.sign(error))) + 1
    runs = np.split(np.arange(len(error)), cuts)
    peaks = [int(run[np.argmax(np.abs(error[run]))]) for run in runs if len(run)]
    while len(peaks) > count:  # drop the smaller end; signs stay alternating
        peaks.pop(0 if abs(error[peaks[0]]) < abs(error[peaks[-1]]) else -1)
    return np.array(peaks) if len(peaks) == count else fallback
