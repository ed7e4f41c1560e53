"""Statistics of few runs: interquartile mean, t-type intervals, ratios, corrected p-values, performance profiles.

An interval is an estimate +- t * its standard error, t of Student's distribution. The error is the bootstrap's, with
n / (n - 1) times its variance, since a resample of n runs varies as little as the n runs do about their own mean.
Percentile bootstrap intervals, which this field mostly prints, are far too narrow for 3 to 8 runs.

Source: Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice"; Efron & Tibshirani
1993, chapters 12 and 16, for intervals and tests from a bootstrap's standard error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from graft.errors import GraftError

FloatArray: TypeAlias = npt.NDArray[np.float64]
Stratum: TypeAlias = Sequence[float] | FloatArray
Runs: TypeAlias = Stratum | Mapping[str, Stratum]
"""Scores of one group of runs: one number per run of a single task, or task name -> one number per run."""

RESAMPLES = 2000
CONFIDENCE = 0.95

ROUNDING = 1e-9
"""In score units; an estimate this close to 0 is 0."""

LEAST_GAP = 0.1
"""In score units; runs that are less apart are never called bimodal."""


class Interval(NamedTuple):
    """A point estimate (``iqm``: of interquartile means) with its bounds, infinite where nothing is known."""

    iqm: float
    low: float
    high: float


def _special() -> Any:
    """scipy.special, imported when it is asked for: it takes a second, and those who train need none of it."""
    from scipy import special

    return special


class Estimate(NamedTuple):
    """A statistic of runs, the variance of its error, and the degrees of freedom behind that variance."""

    value: float
    variance: float
    freedom: float

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """Value +- t * standard error: the values that `p_value` would not reject."""
        half = float(_special().stdtrit(self.freedom, (1 + confidence) / 2)) * math.sqrt(self.variance)
        return Interval(self.value, self.value - half, self.value + half)

    def p_value(self) -> float:
        """Chance of a value as far from 0, either way, if the true one is 0."""
        if abs(self.value) <= ROUNDING:
            return 1.0
        if self.variance == 0:
            return 0.0
        return float(2 * _special().stdtr(self.freedom, -abs(self.value) / math.sqrt(self.variance)))

    def __sub__(self, other: Estimate) -> Estimate:
        """Difference of two that come from different runs."""
        parts = [(self.variance, self.freedom), (other.variance, other.freedom)]
        return Estimate(self.value - other.value, *_joint(parts))


def _joint(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Variance and degrees of freedom of a sum of independent errors (Satterthwaite 1946, Welch 1947)."""
    total = sum(variance for variance, _ in parts)
    if total == 0 or math.isinf(total):
        return total, sum(freedom for _, freedom in parts)
    return total, total**2 / sum(variance**2 / freedom for variance, freedom in parts)


@overload
def interquartile_mean(values: npt.ArrayLike, axis: None = None) -> float: ...


@overload
def interquartile_mean(values: npt.ArrayLike, axis: int) -> FloatArray: ...


def interquartile_mean(values: npt.ArrayLike, axis: int | None = None) -> float | FloatArray:
    """Mean of the middle half of the values: the 25 % trimmed mean.

    With n values, floor(n / 4) are cut from each end, as scipy's ``trim_mean(x, 0.25)`` and rliable do: 5 values keep
    3, 6 keep 4, 7 keep 5, and 3 or fewer keep all.

    Args:
        values: any shape; at least one value along ``axis``.
        axis: axis to reduce; None pools everything, which for (runs, tasks) is the IQM over runs x tasks.
    Returns:
        A float for ``axis=None``, otherwise an array without that axis.
    Raises:
        GraftError: nothing to average, or a NaN, which the cut would hide.
    Source: Agarwal et al. 2021, section 4.3.
    """
    array = np.asarray(values, dtype=np.float64)
    if axis is None:
        return float(interquartile_mean(array.reshape(-1), axis=0))
    count = array.shape[axis]
    if count == 0:
        raise GraftError("The interquartile mean of no values is undefined; give at least one run.")
    if np.isnan(array).any():
        raise GraftError("The interquartile mean got a NaN; drop or repeat that run.")
    ordered = np.moveaxis(np.sort(array, axis=axis), axis, 0)
    cut = count // 4
    return np.asarray(ordered[cut : count - cut].mean(axis=0))


def strata(runs: Runs) -> list[FloatArray]:
    """The runs of each task as sorted vectors, tasks by name: a seeded resampling does not depend on their order.

    Raises:
        GraftError: no task, a task without runs, a score that is not finite, or scores that are no vector.
    """
    named = runs if isinstance(runs, Mapping) else {"": runs}
    if not named:
        raise GraftError("No task was given; give the scores of at least one run.")
    return [_stratum(name, named[name]) for name in sorted(named)]


def _stratum(name: str, values: Stratum) -> FloatArray:
    of_task = f" of task '{name}'" if name else ""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise GraftError(
            f"The scores{of_task} have shape {array.shape}; give one number per run, "
            "or a mapping of task name -> one number per run."
        )
    if array.size == 0:
        raise GraftError(f"There are no scores{of_task}; give at least one run.")
    if not np.isfinite(array).all():
        raise GraftError(f"The scores{of_task} hold a value that is not finite; drop or repeat that run.")
    return np.sort(array)


@cache
def _draws(count: int, resamples: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(count, size=(resamples, count))


def bootstrap(statistic: Callable[..., FloatArray], *samples: npt.ArrayLike, resamples: int = RESAMPLES) -> Estimate:
    """A statistic of one or several samples of runs, with the error that comes from each of them.

    The runs of one sample at a time are drawn with replacement, the others stay as they are; the errors of samples
    add up, as they are independent. A sample of one run says nothing about its error: the variance is infinite.

    Args:
        statistic: takes an array (K or 1, n, ...) per sample and returns (K,), or (1,) where all have 1.
        samples: an array (n, ...) each, one row per run.
        resamples: number of resamples, K; always the same ones, so that equal runs give equal estimates.
    Raises:
        GraftError: the statistic returns another shape.
    Source: Efron & Tibshirani 1993, algorithm 6.1, with the variance times n / (n - 1); `_joint` for degrees of
    freedom.
    """
    arrays = [np.asarray(sample, np.float64) for sample in samples]
    alone = [array[None] for array in arrays]
    parts = []
    for i, array in enumerate(arrays):
        count = len(array)
        if count == 1:
            parts.append((math.inf, 1.0))
            continue
        drawn = array[_draws(count, resamples)]
        values = np.asarray(statistic(*alone[:i], drawn, *alone[i + 1 :]))
        if values.shape != (resamples,):
            raise GraftError(f"The statistic gave shape {values.shape} for {resamples} resamples; keep axis 0 alone.")
        parts.append((float(values.var()) * count / (count - 1), count - 1.0))
    return Estimate(float(statistic(*alone)[0]), *_joint(parts))


def _pooled_iqm(*samples: FloatArray) -> FloatArray:
    count = max(map(len, samples))
    return interquartile_mean(np.concatenate([np.repeat(s, count // len(s), axis=0) for s in samples], axis=1), axis=1)


def iqm_estimate(runs: Runs, resamples: int = RESAMPLES) -> Estimate:
    """Interquartile mean over runs x tasks; runs are resampled within each task.

    Over several tasks the middle half holds the worst runs of the best task and the best runs of the worst, of whose
    tails a few runs tell little. So the variance is doubled, with the degrees of freedom of the task with the fewest
    runs. By simulation of 2 to 4 tasks of 4 to 10 runs, intervals then cover .99 (normal) and .94 at least (lognormal),
    where they would cover .95 and .87 otherwise.

    Raises:
        GraftError: as of `strata`.
    Source: Agarwal et al. 2021, section 4.3.
    """
    samples = strata(runs)
    found = bootstrap(_pooled_iqm, *samples, resamples=resamples)
    if len(samples) == 1:
        return found
    return Estimate(found.value, 2 * found.variance, max(1.0, min(map(len, samples)) - 1.0))


def iqm_interval(runs: Runs, confidence: float = CONFIDENCE) -> Interval:
    """Interquartile mean over runs x tasks with its interval; infinitely wide where a task has a single run."""
    return iqm_estimate(runs).interval(confidence)


def ratio_interval(x: Estimate, y: Estimate, confidence: float = CONFIDENCE) -> Interval:
    """x / y with its interval, for y > 0 from other runs than x: the ratios r at which x - r * y may be 0.

    It holds 1 where the interval of x - y holds 0. Where y may be 0, the ratio has no upper end (no lower one for a
    negative x), and neither where x may be 0 as well.

    Raises:
        GraftError: y is not above 0.
    Source: Fieller 1954, with the degrees of freedom of x - y.
    """
    if y.value <= 0:
        raise GraftError(f"A ratio to {y.value:g} is undefined; give a denominator above 0.")
    if x.value < 0:
        iqm, low, high = ratio_interval(x._replace(value=-x.value), y, confidence)
        return Interval(-iqm, -high, -low)
    ratio, variance = x.value / y.value, x.variance + y.variance
    if math.isinf(variance):
        return Interval(ratio, -math.inf, math.inf)
    t = float(_special().stdtrit((x - y).freedom, (1 + confidence) / 2))
    # The bounds are the roots of a r^2 - 2 b r + c = 0.
    a, b, c = y.value**2 - t**2 * y.variance, x.value * y.value, x.value**2 - t**2 * x.variance
    if a <= 0 and c <= 0:
        return Interval(ratio, -math.inf, math.inf)
    root = math.sqrt(max(b**2 - a * c, 0.0))
    low = c / (b + root) if b + root > 0 else 0.0
    return Interval(ratio, low, (b + root) / a if a > 0 else math.inf)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the same order.

    Calling those below 5 % real is wrong about any of them in at most 5 % of tables.

    Source: Holm 1979.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def is_bimodal(runs: Stratum) -> bool:
    """Whether runs fall into two groups, such as those that learned and those that did not.

    They do where the widest gap between neighbours has two runs or more on either side, is wider than 1.5 / sqrt(n) of
    the range, and `LEAST_GAP` wide. Of groups of 4 to 10 runs from one normal distribution at most 4 % are called
    bimodal, from one lognormal distribution 7 %; of 5 runs that each learn or do not with the same chance, 54 %, of 8
    runs 89 % (a group of 5 has two on either side in 62 %).
    """
    ordered = np.sort(np.asarray(runs, np.float64))
    if len(ordered) < 4:
        return False
    gaps = np.diff(ordered)
    widest, span = int(gaps.argmax()), ordered[-1] - ordered[0]
    if not 1 <= widest <= len(ordered) - 3:
        return False
    return bool(gaps[widest] > max(LEAST_GAP, 1.5 / math.sqrt(len(ordered)) * span))


def performance_profile(runs: Runs, levels: npt.ArrayLike) -> FloatArray:
    """Share of runs x tasks with a score above each level, and its 95 % interval.

    The interval is the exact one of a share of independent runs, since with few runs a resample of all that
    succeeded never fails. It is wider than needed where tasks differ.

    Args:
        levels: (T,).
    Returns:
        (3, T): shares, lower and upper bounds.
    Source: Agarwal et al. 2021, section 4.2 (score distribution); Clopper & Pearson 1934 for the interval.
    """
    scores = np.concatenate(strata(runs))
    count = len(scores)
    above = (scores[:, None] > np.asarray(levels, np.float64)).sum(axis=0)
    tail = (1 - CONFIDENCE) / 2
    low = np.where(above == 0, 0.0, _special().betaincinv(np.maximum(above, 1), count - above + 1, tail))
    high = np.where(above == count, 1.0, _special().betaincinv(above + 1, np.maximum(count - above, 1), 1 - tail))
    return np.stack([above / count, low, high])


def _check_same_tasks(groups: Sequence[Runs]) -> None:
    tasks = [sorted(group) if isinstance(group, Mapping) else ["(unnamed)"] for group in groups]
    for other in tasks[1:]:
        if other != tasks[0]:
            raise GraftError(f"The groups are of different tasks, {tasks[0]} and {other}; give the same to each.")


def probability_of_improvement(x: Runs, y: Runs) -> float:
    """Chance that a run of x beats a run of y on a task drawn at random.

    Per task, the mean over all pairs of runs of 1[x_i > y_j] + 0.5 * 1[x_i = y_j] (the Mann-Whitney statistic
    divided by the number of pairs); then the mean over tasks, each with equal weight.

    Args:
        x, y: scores per run, or task name -> scores per run, of the same tasks; the number of runs may differ.
    Returns:
        In [0, 1]; 0.5 where neither is better.
    Raises:
        GraftError: the groups are of different tasks, or their scores are empty or not finite.
    Source: Agarwal et al. 2021, section 4.3.
    """
    _check_same_tasks((x, y))
    shares = [
        np.mean((x_t[:, None] > y_t) + 0.5 * (x_t[:, None] == y_t))
        for x_t, y_t in zip(strata(x), strata(y), strict=True)
    ]
    return float(np.mean(shares))
