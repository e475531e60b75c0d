"""Paired differences with Student's t, without a library: https://dlmf.nist.gov/8.17 for the incomplete beta function."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Difference", "paired", "t_quantile"]

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean of `pairs` differences, and the interval that covers its true value in 95 of 100 such experiments (None for fewer than two pairs)."""

    mean: float
    low: float | None
    high: float | None
    pairs: int

    @property
    def told(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired(differences: Sequence[float]) -> Difference:
    """By Student's t with n - 1 degrees of freedom. The differences must be at least one."""
    n = len(differences)
    mean = statistics.fmean(differences)
    if n < 2:
        return Difference(mean, None, None, n)
    half = t_quantile(0.5 + LEVEL / 2, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)


def t_quantile(p: float, df: int) -> float:
    """t with P(T <= t) = p for `df` degrees of freedom, 0.5 <= p < 1; to about 1e-10 of its size."""
    if not 0.5 <= p < 1 or df < 1:
        raise ValueError(f"t_quantile takes 0.5 <= p < 1 and df >= 1, got {p} and {df}")
    low, high = 0.0, 1.0
    while _t_cdf(high, df) < p:
        low, high = high, high * 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def _t_cdf(t: float, df: int) -> float:
    """For t >= 0."""
    return 1 - _beta_regularized(df / 2, 0.5, df / (df + t * t)) / 2


def _beta_regularized(a: float, b: float, x: float) -> float:
    """I_x(a, b) by the continued fraction of DLMF 8.17.22, which converges fast for x < (a + 1) / (a + b + 2); by symmetry elsewhere."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_regularized(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny, c, d, f = 1e-300, 1.0, 0.0, 1.0
    for i in range(500):  # Lentz's method
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + term * d or tiny)
        c = 1 + term / c or tiny
        f *= c * d
        if i > 0 and abs(1 - c * d) < 1e-15:
            break
    return front * (f - 1)
