"""Transfer metrics: of learning curves, and of score matrices of task sequences.

Scores are normalised per task: 0 = random policy, 1 = expert. p is the curve of a method, b that of scratch, both on
the target and over the same env steps. ``scores`` is R (N, N): R[k, j] is the score on task j after training on task
k, tasks in the order in which they were learned; it must be square, and finite where it is used.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from graft.errors import GraftError
from graft.transfer.statistics import (
    RESAMPLES,
    FloatArray,
    Interval,
    Runs,
    interquartile_mean,
    strata,
    stratified_bootstrap,
)

Verdict: TypeAlias = Literal["positive", "negative", "unclear"]

SMALLEST_DENOMINATOR = 0.01
"""In score units; a ratio with a smaller denominator is undefined."""

ROUNDING = 1e-9
"""In score units; an interval this close to 0 includes it."""


@dataclass(frozen=True)
class Curve:
    """Evaluations of one run: normalised scores at env steps.

    Args:
        steps: env steps of the evaluations, whole numbers, strictly increasing, the first one 0.
        scores: as many finite numbers. Both are stored as tuples.
    Raises:
        GraftError: anything else.
    """

    steps: Sequence[int]
    scores: Sequence[float]

    def __post_init__(self) -> None:
        if any(not math.isfinite(step) or step != int(step) for step in self.steps):
            raise GraftError(f"A curve has env steps {list(self.steps)}; give whole numbers.")
        steps = tuple(int(step) for step in self.steps)
        scores = tuple(float(score) for score in self.scores)
        if len(steps) != len(scores):
            raise GraftError(f"A curve has {len(steps)} env steps and {len(scores)} scores; give as many of each.")
        if not steps or steps[0] != 0:
            first = f"starts at env step {steps[0]}" if steps else "is empty"
            raise GraftError(f"A curve {first}; the first evaluation belongs at step 0, before any training.")
        for before, after in itertools.pairwise(steps):
            if after <= before:
                raise GraftError(f"A curve has env step {after} after {before}; give strictly increasing steps.")
        for step, score in zip(steps, scores, strict=True):
            if not math.isfinite(score):
                raise GraftError(f"A curve has score {score} at env step {step}; give finite scores.")
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "scores", scores)


def _check_same_grid(p: Curve, b: Curve) -> None:
    if p.steps == b.steps:
        return
    pairs = zip(p.steps, b.steps, strict=False)
    apart = next((f", first apart at {ours} and {theirs}" for ours, theirs in pairs if ours != theirs), "")
    raise GraftError(
        f"The method's curve has {len(p.steps)} evaluations up to env step {p.steps[-1]} and scratch's has "
        f"{len(b.steps)} up to {b.steps[-1]}{apart}; evaluate both at the same env steps."
    )


def area(curve: Curve) -> float:
    """Time mean of a curve, in score units: (1 / T) * integral of score d step by the trapezoid rule, T the last step.

    Source: Wolczyk et al. 2021 (Continual World): AUC divided by the budget. Taylor & Stone 2009 leave it undivided.
    """
    if len(curve.steps) == 1:
        return curve.scores[0]
    return float(np.trapezoid(curve.scores, curve.steps)) / curve.steps[-1]


def jumpstart(p: Curve, b: Curve) -> float:
    """p(0) - b(0), before any training on the target (Taylor & Stone 2009); the curves have the same steps."""
    _check_same_grid(p, b)
    return p.scores[0] - b.scores[0]


def final_score(curve: Curve) -> float:
    """Mean score of the evaluations in the last 10 % of the curve: those with step >= 0.9 * last step.

    Source: Taylor & Stone 2009 for asymptotic performance; the share of 10 % is a convention of this project.
    """
    # Whole numbers: 0.9 * last rounds, and could lose the evaluation that lies exactly there.
    tail = [s for step, s in zip(curve.steps, curve.scores, strict=True) if 10 * step >= 9 * curve.steps[-1]]
    # statistics.mean is exact: the mean of three times 0.1 is 0.1, where a sum of floats gives a little more.
    return statistics.mean(tail)


def _iqm_of_each(scores: FloatArray) -> FloatArray:
    return interquartile_mean(scores, axis=1)


def transfer_ratio(p_areas: Runs, b_areas: Runs, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval | None:
    """(AUC_p - AUC_b) / AUC_b, with AUC the interquartile mean of the areas of a group's seeds.

    The 95 % interval resamples both groups independently. A resampled denominator below 0.01 is clipped to 0.01:
    the ratio stays finite and keeps the sign of AUC_p - AUC_b, and a bound from clipped resamples understates it.

    Args:
        p_areas: `area` of each seed of the method (or task name -> areas).
        b_areas: the same of scratch; the number of seeds may differ.
    Returns:
        Ratio with its interval; None (undefined, not infinite) where AUC_b < 0.01.
    Raises:
        GraftError: as of `stratified_bootstrap`.
    Source: Taylor & Stone 2009; the interval as in Agarwal et al. 2021.
    """

    def ratio(p: FloatArray, b: FloatArray) -> FloatArray:
        auc_b = _iqm_of_each(b)
        return (_iqm_of_each(p) - auc_b) / np.maximum(auc_b, SMALLEST_DENOMINATOR)

    auc_b = interquartile_mean(np.concatenate(strata(b_areas)))
    interval = stratified_bootstrap(ratio, p_areas, b_areas, seed=seed, resamples=resamples)
    return None if auc_b < SMALLEST_DENOMINATOR else interval


def transfer_ratio_bound(p_areas: Runs, *, seed: int = 0, resamples: int = RESAMPLES) -> float | None:
    """A lower bound where `transfer_ratio` is undefined because scratch's AUC is below 0.01.

    (AUC_p - 0.01) / 0.01, with the lower end of the 95 % interval of AUC_p; None where that is not above 0.

    Source: a convention of this project, for ratios that are censored by a small denominator.
    """
    low = stratified_bootstrap(_iqm_of_each, p_areas, seed=seed, resamples=resamples).low
    bound = (low - SMALLEST_DENOMINATOR) / SMALLEST_DENOMINATOR
    return bound if bound > 0 else None


def steps_to_threshold(curve: Curve, threshold: float, hold: int = 3) -> int | None:
    """First env step from which the score stays >= threshold for ``hold`` consecutive evaluations, itself included.

    Returns:
        Env steps; None (right-censored at the last step) when never.
    Raises:
        GraftError: hold is below 1.
    Source: Taylor & Stone 2009 (time to threshold); holding it is a convention of this project.
    """
    if hold < 1:
        raise GraftError(f"A threshold must hold for at least 1 evaluation; got hold {hold}.")
    run = 0
    for index, score in enumerate(curve.scores):
        run = run + 1 if score >= threshold else 0
        if run == hold:
            return curve.steps[index - hold + 1]
    return None


def aggregate_steps_to_threshold(steps: Sequence[int | None]) -> float | None:
    """Median over seeds of the steps to a threshold, where None is a seed that never got there.

    Returns:
        Env steps; None where at least half of the seeds never got there.
    Raises:
        GraftError: no seeds.
    Source: the Kaplan-Meier median for a common censoring time (Kaplan & Meier 1958).
    """
    if not steps:
        raise GraftError("The median over no seeds is undefined; give at least one.")
    median = statistics.median(math.inf if step is None else step for step in steps)
    return None if math.isinf(median) else float(median)


def data_efficiency(p: Curve, b: Curve, hold: int = 1) -> float | None:
    """Steps scratch needs to reach its own final score / steps the method needs for the same score.

    With ``hold`` 1, scratch always reaches its own final score.

    Returns:
        Above 1 where the method is faster. None where a curve never gets there; ``math.inf`` where only the method is
        there at step 0; 1 where both are.
    Raises:
        GraftError: the curves differ in steps, or hold is below 1.
    Source: the ratio of times to threshold of Taylor & Stone 2009, at the threshold that scratch sets.
    """
    _check_same_grid(p, b)
    threshold = final_score(b)
    needed_b = steps_to_threshold(b, threshold, hold)
    needed_p = steps_to_threshold(p, threshold, hold)
    if needed_b is None or needed_p is None:
        return None
    if needed_p == 0:
        return 1.0 if needed_b == 0 else math.inf
    return needed_b / needed_p


def forward_transfer(p_area: float, b_area: float) -> float | None:
    """(AUC_p - AUC_b) / (1 - AUC_b): the share of what scratch leaves to gain.

    Args:
        p_area, b_area: of a curve (`area`), or the means of several, over the same steps.
    Returns:
        At most 1 for scores up to 1; None where 1 - AUC_b < 0.01: scratch leaves nothing to gain.
    Source: Wolczyk et al. 2021 (Continual World).
    """
    return None if 1 - b_area < SMALLEST_DENOMINATOR else (p_area - b_area) / (1 - b_area)


def verdict(p_areas: Runs, b_areas: Runs, *, seed: int = 0, resamples: int = RESAMPLES) -> Verdict:
    """Whether a transfer helped: the 95 % interval of IQM(p) - IQM(b) against 0.

    "positive" where the interval lies above 0, "negative" where it lies below, "unclear" otherwise, and always where
    a group (or one of its tasks) has fewer than 2 seeds. For equal normal groups it is not "unclear" in about 1 of 3
    comparisons of 2 seeds each, 1 of 5 with 3, 1 of 14 with 5 and 1 of 20 from 8 on.

    Args: as of `transfer_ratio`.
    Source: Agarwal et al. 2021 for the interval.
    """
    if min(_fewest(p_areas), _fewest(b_areas)) < 2:
        return "unclear"
    difference = stratified_bootstrap(
        lambda p, b: _iqm_of_each(p) - _iqm_of_each(b), p_areas, b_areas, seed=seed, resamples=resamples
    )
    if difference.low > ROUNDING:
        return "positive"
    return "negative" if difference.high < -ROUNDING else "unclear"


def _fewest(runs: Runs) -> int:
    """Number of runs of the task that has the fewest."""
    return min(map(len, runs.values()), default=0) if isinstance(runs, Mapping) else len(runs)


def _final_and_own(scores: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """R[N, j] and R[j, j] of every task j, each (N,); the other entries are unused and may be NaN."""
    matrix = np.asarray(scores, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise GraftError(f"The score matrix has shape {matrix.shape}; give (N, N), a row per task learned.")
    final, own = matrix[-1], np.diagonal(matrix)
    if not (np.isfinite(final).all() and np.isfinite(own).all()):
        raise GraftError("The score matrix has a value that is not finite in its last row or on its diagonal.")
    return final, own


def average_performance(scores: npt.ArrayLike) -> float:
    """Mean over the N tasks j of R[N, j]: the score on all tasks once the last is learned.

    Source: Wolczyk et al. 2021 (Continual World).
    """
    final, _ = _final_and_own(scores)
    return float(final.mean())


def forgetting(scores: npt.ArrayLike, include_last: bool = True) -> float:
    """Mean over tasks j of R[j, j] - R[N, j]: what was lost between a task's end and the end of all.

    Args:
        include_last: average over all N tasks, the last of which adds 0, as Continual World does; otherwise over the
            N - 1 before it, which is `backward_transfer` negated.
    Source: Wolczyk et al. 2021 (Continual World).
    """
    final, own = _final_and_own(scores)
    return float((own - final).mean()) if include_last else 0.0 - backward_transfer(scores)


def backward_transfer(scores: npt.ArrayLike) -> float:
    """Mean over the tasks j < N of R[N, j] - R[j, j]; negative where later tasks made earlier ones worse.

    Raises:
        GraftError: fewer than 2 tasks.
    Source: Lopez-Paz & Ranzato 2017, eq. 3.
    """
    final, own = _final_and_own(scores)
    if len(own) < 2:
        raise GraftError(f"Backward transfer is undefined for {len(own)} task; give at least 2.")
    return float((final - own)[:-1].mean())
