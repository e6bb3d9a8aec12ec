"""Confidence intervals of a mean, of a share, of a difference of two of these, and of the size at which a
share passes one half."""
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# scipy loads its parts, which take a second, only when they are first used.
import scipy

LEVEL = 0.95    # of every interval, unless another is asked for


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """Mean of R independent values, and half the width of its Student's t interval (NaN for R = 1)."""
    R, mean = len(values), float(np.mean(values))
    if R == 1:
        return mean, float('nan')
    return mean, float(scipy.stats.t.ppf((1 + level) / 2, R - 1) * np.std(values, ddof=1) / np.sqrt(R))


def wilson_interval(count: int, total: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share, `count` in `total`. -> low and high end, both from 0 to 1"""
    interval = scipy.stats.binomtest(int(count), int(total)).proportion_ci(level, 'wilson')
    return float(interval.low), float(interval.high)


def newcombe_interval(one: np.ndarray, other: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Interval of the share of True in `one` minus that in `other`, (R,) bool each. -> low and high end, from
    -1 to 1

    Method 10 of Newcombe 1998, Statistics in Medicine 17, 873-890.
    """
    p, q = one.mean(), other.mean()
    (a, b), (c, d) = (wilson_interval(group.sum(), len(group), level) for group in (one, other))
    return float(p - q - np.hypot(p - a, d - q)), float(p - q + np.hypot(b - p, q - c))


def welch_interval(one: np.ndarray, other: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Interval of the mean of `one` minus that of `other`, (R,) each, whose variances may differ. -> low
    and high end"""
    middle = float(one.mean() - other.mean())
    if np.ptp(one) == np.ptp(other) == 0:    # without any spread Welch's statistic is 0/0
        return middle, middle
    # scipy warns if one group has no spread, but the result is sound if the other group has some.
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RuntimeWarning)
        interval = scipy.stats.ttest_ind(one, other, equal_var=False).confidence_interval(level)
    return float(interval.low), float(interval.high)


def bootstrap(groups: Sequence[np.ndarray], statistic: Callable[[np.ndarray], Sequence[float]],
              resamples: int,
              seed: int = 0) -> np.ndarray:
    """A statistic of `resamples` samples with replacement, drawn within each group. groups: indices, one
    array each; statistic: indices -> K numbers. -> (resamples, K) float array"""
    random = np.random.default_rng(seed)
    return np.array([statistic(np.concatenate([random.choice(group, len(group)) for group in groups]))
                     for _ in range(resamples)])


def logistic_fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The logistic curve in x through shares y in [0, 1], (N,) each. -> x at one half, slope

    It is the most likely curve under a weak prior on its slope (Cauchy with scale 2.5 in units of the
    standard deviation of x: Gelman et al. 2008). The prior keeps the slope finite if the data are separated.
    """
    center, scale = x.mean(), x.std()
    z = (x - center) / scale

    def cost(parameters: np.ndarray) -> float:
        at, slope = parameters
        t = slope * (z - at)
        return np.sum(np.logaddexp(0, t) - y * t) + np.log1p((slope / 2.5) ** 2)

    start = (0.0, 1.0 if np.dot(z, y) > 0 else -1.0)
    at, slope = scipy.optimize.minimize(cost, start, method='BFGS').x.tolist()
    return center + scale * at, slope / scale


class Threshold(NamedTuple):
    """A number of parameters at which a share passes one half, its interval, and how sure the direction
    is."""
    at: float
    low: float
    high: float
    sure: float    # share of the resamples that change in the direction asked for

    def __str__(self) -> str:
        return f'{self.at:,.0f} parameters ({self.low:,.0f} to {self.high:,.0f})'


def threshold(sizes: np.ndarray, shares: np.ndarray, direction: int, resamples: int = 400,
              seed: int = 0) -> Threshold:
    """The size at which shares pass one half. sizes: numbers of parameters, shares: 0 to 1, (N,) each, one
    entry per seed. direction: 1 if the shares should rise with size, -1 if they should fall.

    A logistic fit in log-parameters, with an interval from a bootstrap over the seeds of each size. The
    interval includes the sizes between which the mean share passes one half, and ends within the sizes given.
    """
    levels, which = np.unique(sizes, return_inverse=True)
    x = np.log(sizes)
    at, _ = logistic_fit(x, shares)
    members = [np.flatnonzero(which == level) for level in range(len(levels))]
    places, slopes = bootstrap(members, lambda chosen: logistic_fit(x[chosen], shares[chosen]), resamples,
                               seed).T
    low, high = np.quantile(places, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    above = np.array([shares[group].mean() > 0.5 for group in members])
    change = np.flatnonzero(above[1:] != above[:-1])
    if len(change):
        low, high = min(low, np.log(levels[change[0]])), max(high, np.log(levels[change[-1] + 1]))
    ends = np.exp(np.clip([at, low, high], np.log(levels[0]), np.log(levels[-1])))
    return Threshold(*ends.tolist(), float(np.mean(slopes * direction > 0)))
